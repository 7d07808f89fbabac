"""The static cost model, held against what others have published and what was measured here.

    python benchmarks/bench_cost.py                      predicted against published speeds of Triton's kernels
    python benchmarks/bench_cost.py --write              the same, and the table of docs/cost.md
    python benchmarks/bench_cost.py kernel.json ...      predicted speeds of certificates on FlashAttention's grid
    python benchmarks/bench_cost.py --run last           rank correlation with a search's measured times

Rank correlation with a benchmark's measured times: `synth bench rank`. Only the last needs times of a GPU, and none
needs a GPU now. A prediction is called one wherever it is shown.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.compile import compile_kernels
from lowering.lower import versions_of
from synth.bench.cost import predict
from synth.bench.hardware import device_named, device_of
from synth.bench.predicted import Predicted, predicted
from synth.bench.rank import ranks, report
from synth.certify import certify, narrower
from synth.propose.choices import Choices
from synth.propose.embedded import written
from synth.state.store import DEFAULT, StateError, Store
from verifier.certificate import Certificate

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "cost.md"
MARK = "<!-- predicted against published -->"
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
TOKENS, HIDDEN = 16384, 2048
WORST = 5  # misses shown for each shape


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="certificates")
    parser.add_argument("--target", default="sm_90", help="for certificates: which one to predict for")
    parser.add_argument("--run", help="a search's name, or last")
    parser.add_argument("--database", default=DEFAULT)
    parser.add_argument("--write", action="store_true", help="put the table into docs/cost.md")
    asked = parser.parse_args()
    if asked.run:
        return of_run(asked.run, asked.database)
    if asked.files:
        for path in asked.files:
            print("\n".join(grid(path, asked.target)))
        return 0
    lines = list(published())
    print("\n".join(lines))
    if asked.write:
        before, _, after = PAGE.read_text().split(MARK)
        PAGE.write_text("\n".join([before + MARK, "", *lines, "", MARK + after]))
    return 0


# ---- against measured times ----------------------------------------------------------------------------------


def of_run(run: str, database: str) -> int:
    try:
        with Store.open(database, create=False) as store:
            found = ranks(store.load(run))
    except StateError as error:
        print(error, file=sys.stderr)
        return 64
    if not found:
        print("no times of a GPU the cost model knows in that run; measure some first")
        return 2
    print(report(found))
    return 0


# ---- predictions of certificates ------------------------------------------------------------------------------


def grid(path: Path, target: str) -> Iterator[str]:
    """Lines of a table: TFLOP/s of the formula on FlashAttention's grid, every version."""
    certificate = Certificate.load(path)
    spec, settings = certificate.body["subject"]["spec"], certificate.settings
    head_dim = settings.get("D")
    if not isinstance(head_dim, int):
        raise SystemExit(f"{path}: the grid is attention's, which has a head dim D; this one has {settings}")
    backward = "dO" in spec["text"]
    yield f"\n{path.name}: predicted TFLOP/s for {target} ({device_of(target).name}), not measured"
    yield f"{'version':16}" + "".join(f"{n:>8}" for n in LENGTHS) + "  bound by"
    rows: dict[str, list[Predicted]] = {}
    works = []
    for n in LENGTHS:
        heads = HIDDEN // head_dim
        sizes = {"B": TOKENS // n, "H": heads, "G": heads, "M": n, "N": n}
        works.append(work(sizes, head_dim, settings.get("causal", "none") != "none") * (2.5 if backward else 1.0))
        for p in predicted(certificate, sizes, target):
            rows.setdefault(p.version, []).append(p)
    for version, found in rows.items():
        speeds = [w / p.prediction.seconds / 1e12 for w, p in zip(works, found, strict=True)]
        yield f"{version:16}" + "".join(f"{s:8.0f}" for s in speeds) + f"  {found[-1].prediction.bound}"


def work(sizes: Mapping[str, int], head_dim: int, causal: bool) -> float:
    """Operations of forward attention as they are customarily counted."""
    return 4.0 * sizes["B"] * sizes["H"] * sizes["M"] * sizes["N"] * head_dim * (0.5 if causal else 1.0)


# ---- against published figures --------------------------------------------------------------------------------


def published() -> Iterator[str]:
    """A table of Markdown, predicted / published in each cell, and a line on how far it is off."""
    data = tomllib.loads((HERE / "published.toml").read_text())
    kernels: dict[tuple[int, str], list[Compiled]] = {}
    misses = []
    yield "| published by | D | causal | " + " | ".join(map(str, LENGTHS)) + " | ratio |"
    yield "|---|---|---|" + "---|" * len(LENGTHS) + "---|"
    for case in data["case"]:
        key = case["D"], case["causal"]
        if key not in kernels:
            kernels[key] = [compiled(*key, tiles) for tiles in data["tiles"]]
        cells, ratios = dict.fromkeys(LENGTHS, ""), []
        for length, speed in zip(case["lengths"], case["tflops"], strict=True):
            expected = fastest(kernels[key], case, length)
            ratios.append(expected / speed)
            cells[length] = f"{expected:.0f} / {speed}"
        misses += ratios
        own = f"{statistics.geometric_mean(ratios):.2f}"
        yield " | ".join([f"| {case['source']}", str(case["D"]), case["causal"], *cells.values(), f"{own} |"])
    off = statistics.mean(abs(m - 1.0) for m in misses)
    yield ""
    yield (
        f"{len(misses)} figures: predicted over published is {statistics.geometric_mean(misses):.2f} on (geometric) "
        f"average, from {min(misses):.2f} to {max(misses):.2f}; off by {100 * off:.0f} % on average."
    )


@dataclass(frozen=True, slots=True)
class Compiled:
    program: Program
    bound: Bound
    resources: list[dict[str, Any]]


def compiled(head_dim: int, causal: str, tiles: list[int]) -> Compiled:
    """A proved kernel of these tiles and this schedule, compiled for Hopper: pointers, and no masks that even sizes do
    not need, as in the published kernels."""
    rows, keys, warps, stages = tiles
    bound = bind(load_spec("attention"), {"D": head_dim, "causal": causal, "dtype": "fp16"})
    text = written(bound, Choices(rows, keys, split=True, base2=True, warps=warps, stages=stages))
    certificate = certify(text, bound).certificate
    if certificate is None:
        raise SystemExit(f"the composed kernel of tiles {tiles} is not proved; its proof is to be looked at first")
    certificate = (*narrower(certificate, bound), certificate)[0]
    program = check(parse(certificate.candidate), bound)
    version = versions_of(certificate, program, bound)[-1]
    rows_of = compile_kernels(version.source, version.launches, "sm_90")
    return Compiled(program, bound, [asdict(r) for r in rows_of])


def fastest(kernels: list[Compiled], case: Mapping[str, Any], length: int) -> float:
    """TFLOP/s of the kernel with the least predicted time."""
    batch = case.get("batch") or case["tokens"] // length
    sizes = {"B": batch, "H": case["heads"], "G": case["heads"], "M": length, "N": length}
    device = device_named(case["device"])
    least = min(predict(k.program, k.bound, sizes, "sm_90", k.resources, device).seconds for k in kernels)
    return work(sizes, case["D"], case["causal"] != "none") / least / 1e12


if __name__ == "__main__":
    sys.exit(main())
