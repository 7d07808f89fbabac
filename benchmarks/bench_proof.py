"""What proofs cost: `python benchmarks/bench_proof.py [NAME ...]` prints a line per kernel.

NAME is a kernel, or a spec whose kernels are all meant; without one, every kernel that ships with a spec and every
golden one. Times are proof time in seconds, in all and for each obligation; memory is the peak of a process that
proves this one kernel. The published limits, whatever the limits on sizes: 0.5 s and 500 MB to prove flash forward,
causal with grouped heads, 1 s to refute it with replay; 2 s and 1 GB for its backward in three kernels
(attention_bwd/three_kernels_bottom_right).
"""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.parser import parse
from ir.spec import Bound, Spec
from ir.typing import check
from verifier.prove import prove
from verifier.verdict import OBLIGATIONS

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "golden"
LIMITED = ("fa2_bottom_right", "accumulator_not_rescaled")  # also proved or refuted at other limits on N
LONGEST = (2**17, 2**40)


@dataclass(frozen=True, slots=True)
class Cost:
    verdict: str
    seconds: float
    obligations: dict[str, float]
    megabytes: float


def bound_of(path: Path, longest: int | None) -> Bound:
    """The spec and settings named on the first line of a golden file, with another limit on N if asked for."""
    _, name, *options = path.read_text().partition("\n")[0].removeprefix("#").split()
    local = GOLDEN / "specs" / f"{name}.toml"
    spec: Spec = load_spec(local if local.exists() else name)
    if longest is not None:
        spec = parse_spec(spec.source.replace("N = { min = 0, max = 1048576 }", f"N = {{ min = 0, max = {longest} }}"))
    return bind(spec, dict(option.split("=") for option in options))


def cost(path: Path, longest: int | None) -> Cost:
    text, bound = path.read_text(), bound_of(path, longest)
    program = check(parse(text), bound, text)
    report = prove(program, bound, text)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Cost(report.verdict.value, report.seconds, {r.id: r.seconds for r in report.results}, peak)


def main(names: list[str]) -> None:
    paths = sorted(packaged_specs().glob("*/*.tile"))
    paths += [p for folder in ("proved", "refuted") for p in sorted((GOLDEN / folder).glob("*.tile"))]
    wanted = [(p, None) for p in paths if not names or not {p.stem, p.parent.name}.isdisjoint(names)]
    cases: list[tuple[Path, int | None]] = [*wanted]
    cases += [(p, n) for p, _ in wanted if p.stem in LIMITED for n in LONGEST]
    print(f"{'kernel':48} {'verdict':9}{'total':>7}{'MB':>6}  " + "".join(f"{o:>7}" for o in OBLIGATIONS))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for path, longest in cases:
            shipped = "" if GOLDEN in path.parents else f"{path.parent.name}/"
            name = shipped + path.stem + (f", N <= 2^{longest.bit_length() - 1}" if longest else "")
            found = pool.submit(cost, path, longest).result()
            each = "".join(f"{found.obligations.get(o, 0.0):7.2f}" for o in OBLIGATIONS)
            print(f"{name:48} {found.verdict:9}{found.seconds:7.2f}{found.megabytes:6.0f}  {each}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
