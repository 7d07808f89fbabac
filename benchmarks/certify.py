"""Certificates of the kernels that the GPU benchmark runs: proved, compiled and cross-checked here, measured elsewhere.

    python benchmarks/certify.py                                # all of them, into benchmarks/certificates
    python benchmarks/certify.py some --only attention-none-bf16-d128 --only decode
    python benchmarks/certify.py --list                         # what would be made, and what is there already
    python benchmarks/certify.py --table                        # what there is: resources and predictions, as Markdown

Every kernel goes through the gate like any other: proved with evidence, lowered to all its versions, compiled ahead of
time for the target, each version cross-checked against the reference interpreter; the first kernel of every spec also
shows the gate stopping broken forms of it. Nothing here needs a GPU. DIR/NAME.cert.json is what `python -m synth.bench`
takes; DIR/manifest.json says of each kernel what it is made of, what it takes and how long it should take: a
prediction of the cost model (synth/bench/cost.py), not a measurement.

What is there already and was made by this code of this text is kept, so an interrupted run goes on where it was.
Exit code 0 when every kernel is certified, 1 when some are not (the manifest says why), 64 for a wrong call.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from synth.propose.embedded import fast, named, written
from synth.propose.seeds import seeds
from synth.runfolder import write
from verifier.certificate import Certificate, CertificateError

ROOT = Path(__file__).resolve().parents[1]
CODE = ("ir", "verifier", "lowering")  # what decides what a certificate of a text says
TOKENS, HIDDEN = 16384, 2048  # FlashAttention's settings: this many tokens in a batch, heads times head dim
# Of what ships, what is worth timing; in fp16, which takes the same time as bf16, what is best in each row of the grid.
BACKWARD = ("specialised", "own_tiles", "head_dim", "three_kernels", "diagonal_and_body", "fused_atomic")
BACKWARD_FP16 = ("specialised", "own_tiles", "head_dim")
TOO_LARGE = {("256", "own_tiles_none")}  # fits no target (docs/resources.md); head_dim_256_none is for that head dim
DECODING = ("packed_chunks", "chunks")
LENGTHS = (512, 2048, 16384)  # predictions are for these
DECODED = ((1, 1024), (1, 65536), (16, 8192), (128, 8192))  # sequences, keys of each cache


@dataclass(frozen=True, slots=True)
class Entry:
    """One kernel to certify. `controls`: broken forms of it go through the gate as well."""

    name: str
    spec: str
    settings: tuple[tuple[str, str], ...]
    text: str
    controls: bool = False

    def bound(self) -> Bound:
        return bind(load_spec(self.spec), dict(self.settings))

    @property
    def key(self) -> str:
        """What its certificate depends on."""
        return hashlib.sha256(json.dumps([asdict(self), code()]).encode()).hexdigest()


@cache
def code() -> str:
    """A hash of the code that proves and lowers, and of the compiler's version."""
    import triton

    found = hashlib.sha256(triton.__version__.encode())
    for path in sorted(p for folder in CODE for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".lark")):
        found.update(path.read_bytes())
    return found.hexdigest()


# ---- what the benchmark runs -------------------------------------------------------------------------


def entries() -> Iterator[Entry]:
    """The set: fast forms of forward for each head dim, what ships of backward and of decoding."""
    first = set[str]()
    for spec, settings, name, text in _kernels():
        said = (f"d{v}" if k == "D" else v for k, v in settings if k != "o_dtype")
        label = "-".join([spec, *said, name])
        yield Entry(label, spec, settings, text, controls=spec not in first)
        first.add(spec)


def _kernels() -> Iterator[tuple[str, tuple[tuple[str, str], ...], str, str]]:
    for d in ("64", "128", "256"):
        for causal in ("none", "bottom_right"):
            for dtype in ("bf16", "fp16"):
                settings = (("causal", causal), ("dtype", dtype), ("D", d))
                bound = bind(load_spec("attention"), dict(settings))
                for choices in fast(bound)[: None if dtype == "bf16" else 2]:
                    yield "attention", settings, named(choices), written(bound, choices)
    dims, masks, saved = ("64", "128", "256"), ("none", "bottom_right"), (("o_dtype", "fp16"),)
    ships = (
        ("attention_bwd", dims, masks, "bf16", (), BACKWARD),
        ("attention_bwd", dims, masks, "fp16", saved, BACKWARD_FP16),
        ("decode", ("64", "128"), ("none",), "bf16", (), DECODING),
        ("decode", ("64", "128"), ("none",), "fp16", (), DECODING),
    )
    for spec, wanted, aligned, dtype, more, names in ships:
        for d, causal in product(wanted, aligned):
            settings = (("causal", causal), ("dtype", dtype), ("D", d), *more)
            for candidate in seeds(bind(load_spec(spec), dict(settings))):
                if candidate.name.startswith(names) and (d, candidate.name) not in TOO_LARGE:
                    yield spec, settings, candidate.name, candidate.text


def shapes(bound: Bound) -> dict[str, dict[str, int]]:
    """The sizes that predictions are made for: FlashAttention's for attention, one new token for decoding, for any
    other spec those it names itself."""
    d = bound.setting("D")
    match {dim.name for dim in bound.dims}:
        case names if names == {"B", "H", "G", "M", "N"} and isinstance(d, int):
            heads = HIDDEN // d
            return {str(n): {"B": TOKENS // n, "H": heads, "G": heads, "M": n, "N": n} for n in LENGTHS}
        case names if names == {"B", "H", "G", "M", "T"}:
            return {f"{b}x{t}": {"B": b, "H": 32, "G": 8, "M": 1, "T": t} for b, t in DECODED}
        case _:
            return {s.name: dict(s.sizes) for s in (*bound.spec.search_shapes, *bound.spec.heldout_shapes)}


# ---- one certificate ---------------------------------------------------------------------------------


def make(entry: Entry, folder: str, target: str) -> dict[str, Any]:
    """Certify one kernel and write it; its line of the manifest. A kernel that does not come through has a `problem`
    and no file."""
    from synth.certify import certify
    from synth.jobs import Check, controls
    from synth.ship import NotLowered, ship

    begun = time.perf_counter()
    bound, file = entry.bound(), f"{entry.name}.cert.json"
    line: dict[str, Any] = {"name": entry.name, "spec": entry.spec, "settings": dict(entry.settings), "key": entry.key}
    judged = certify(entry.text, bound, f"{entry.name}.tile")
    if judged.certificate is None:
        wrong = (r for r in judged.report.results if r.verdict.value != "proved")
        return {**line, "problem": "; ".join(f"{r.id} {r.verdict.value}: {r.residual}" for r in wrong)}
    try:
        certificate = ship(judged, bound, (target,))
    except NotLowered as error:
        return {**line, "problem": str(error)}
    if entry.controls:
        certificate = certificate.with_section("controls", controls(Check(entry.name, certificate), bound))
    path = Path(folder) / file
    certificate.save(path)
    return {
        **line,
        "file": file,
        "id": certificate.id,
        "bytes": path.stat().st_size,
        "versions": list(_versions(certificate, bound, target)),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def _versions(certificate: Certificate, bound: Bound, target: str) -> Iterator[dict[str, Any]]:
    """What each version for the target takes, and predicted times where its sizes are met."""
    from lowering.assumptions import evaluate
    from lowering.narrow import program_of
    from lowering.versions import versions_in
    from synth.bench.cost import predict

    lowered = certificate.body["lowered"]
    program = check(parse(certificate.candidate), bound)
    for version in versions_in(lowered):
        rows = version.resources.get(target)
        if not rows:
            continue
        its = program_of(version, lowered, program, bound)
        sized = [condition[1] for condition in version.when if condition[0] == "size"]
        predicted = {
            name: predict(its, bound, sizes, target, rows).seconds
            for name, sizes in shapes(bound).items()
            if all(evaluate(e, sizes) for e in sized)
        }
        wanted = ("kernel", "registers", "spills", "shared", "warps", "tensor_core", "exponentials", "occupancy",
                  "warp_specialized")  # fmt: skip
        taken = [{k: row[k] for k in wanted} for row in rows]
        yield {"name": version.name, "resources": taken, "predicted_seconds": predicted}


# ---- all of them -------------------------------------------------------------------------------------


def kept(folder: Path) -> dict[str, dict[str, Any]]:
    """Lines of an earlier manifest whose certificates are there and are what they say, by key."""
    try:
        lines = json.loads((folder / "manifest.json").read_text())["kernels"]
    except (OSError, ValueError, KeyError):
        return {}
    return {line["key"]: line for line in lines if "file" in line and _sound(folder / line["file"], line["id"])}


def _sound(path: Path, identity: str) -> bool:
    try:
        return Certificate.load(path).id == identity
    except CertificateError:
        return False


def manifest(lines: Mapping[str, dict[str, Any]], wanted: list[Entry], target: str) -> dict[str, Any]:
    ordered = [lines[e.key] for e in wanted if e.key in lines]
    return {"target": target, "predicted_by": "synth/bench/cost.py; not measured", "kernels": ordered}


def told(line: Mapping[str, Any], bound: Bound) -> str:
    """One line for people: what it takes, and the best prediction at each shape."""
    if "file" not in line:
        return f"{line['name']}: not certified: {line['problem'][:200]}"
    found = []
    for shape, sizes in shapes(bound).items():
        best = min(v["predicted_seconds"][shape] for v in line["versions"] if shape in v["predicted_seconds"])
        found.append(f"{shape}: {_prediction(line, sizes, best)}")
    rows = line["versions"][0]["resources"]
    taken = ", ".join(f"{r['registers']} regs {r['spills']} spills" for r in rows)
    return f"{line['name']}: {taken}; predicted {', '.join(found)}"


def _teraflops(line: Mapping[str, Any], sizes: Mapping[str, int], seconds: float) -> str:
    """By FlashAttention's count: 4 B H M N D, halved for causal, two and a half times that backward."""
    flops = 4.0 * sizes["B"] * sizes["H"] * sizes["M"] * sizes["N"] * int(line["settings"]["D"])
    flops *= 0.5 if line["settings"]["causal"] != "none" else 1.0
    return f"{flops * (2.5 if line['spec'].endswith('_bwd') else 1.0) / seconds / 1e12:.0f} TFLOP/s"


def table(lines: Mapping[str, dict[str, Any]], wanted: list[Entry]) -> Iterator[str]:
    """Every version of every kernel that is there: what it takes, and the prediction for each shape."""
    heads: tuple[str, ...] = ()
    for entry in (e for e in wanted if e.key in lines):
        line, sizes = lines[entry.key], shapes(entry.bound())
        if heads != tuple(sizes):
            heads = tuple(sizes)
            yield "\n| kernel | version | registers | spills | shared kB | occupancy | " + " | ".join(heads) + " |"
            yield "|---" * (6 + len(heads)) + "|"
        for version in line["versions"]:
            rows = version["resources"]
            taken = (
                "+".join(str(r["registers"]) for r in rows),
                str(sum(r["spills"] for r in rows)),
                "+".join(f"{r['shared'] / 1000:.0f}" for r in rows),
                "+".join(f"{r['occupancy']:.0%}" for r in rows),
            )
            times = version["predicted_seconds"]
            predicted = (_prediction(line, sizes[h], times[h]) if h in times else "" for h in heads)
            yield f"| {line['name']} | {version['name']} | {' | '.join((*taken, *predicted))} |"


def _prediction(line: Mapping[str, Any], sizes: Mapping[str, int], seconds: float) -> str:
    return _teraflops(line, sizes, seconds) if "N" in sizes else f"{seconds * 1e6:.0f} us"


def run(wanted: list[Entry], folder: Path, target: str, jobs: int) -> dict[str, Any]:
    """Make what is missing, telling of each on standard error; the manifest, which is written after every kernel."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {key: line for key, line in kept(folder).items() if key in {e.key for e in wanted}}
    missing = [e for e in wanted if e.key not in lines]
    print(f"{len(wanted)} kernels, {len(lines)} there already", file=sys.stderr)
    begun = time.perf_counter()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        asked = {pool.submit(make, entry, str(folder), target): entry for entry in missing}
        for number, future in enumerate(as_completed(asked), 1):
            entry = asked[future]
            lines[entry.key] = future.result()
            write(folder / "manifest.json", json.dumps(manifest(lines, wanted, target), indent=1) + "\n")
            spent = time.perf_counter() - begun
            said = told(lines[entry.key], entry.bound())
            print(f"[{number}/{len(missing)}, {spent:.0f} s] {said}", file=sys.stderr, flush=True)
    return manifest(lines, wanted, target)


def main(arguments: list[str]) -> int:
    what, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python benchmarks/certify.py", description=what, epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "benchmarks" / "certificates", metavar="DIR")
    parser.add_argument("--only", action="append", default=[], metavar="PREFIX", help="kernels whose name begins so")
    parser.add_argument("--target", default="sm_90", choices=("sm_80", "sm_90", "sm_100", "gfx942"))
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--json", action="store_true", help="the manifest on standard output")
    parser.add_argument("--list", action="store_true", help="names only, nothing is made")
    parser.add_argument("--table", action="store_true", help="what is there, as Markdown; nothing is made")
    asked = parser.parse_args(arguments)
    wanted = [e for e in entries() if not asked.only or e.name.startswith(tuple(asked.only))]
    if not wanted or asked.jobs < 1:
        print("no kernel's name begins so; --list shows all" if asked.jobs > 0 else "--jobs is at least 1",
              file=sys.stderr)  # fmt: skip
        return 64
    if asked.list:
        there = kept(asked.folder)
        print("\n".join(f"{e.name}{'  there' if e.key in there else ''}" for e in wanted))
        return 0
    if asked.table:
        print("\n".join(table(kept(asked.folder), wanted)))
        return 0
    done = run(wanted, asked.folder, asked.target, asked.jobs)
    made = [line for line in done["kernels"] if "file" in line]
    total = sum(line["bytes"] for line in made)
    print(f"{len(made)} of {len(wanted)} certified, {total / 1e6:.1f} MB in {asked.folder}", file=sys.stderr)
    if asked.json:
        print(json.dumps(done, indent=1))
    return 0 if len(made) == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
