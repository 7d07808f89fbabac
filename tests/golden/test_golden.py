"""Every kernel file in proved/ and refuted/ gets the verdict its header states.

Header, in comments: `spec: NAME key=value ...` (a packaged spec or specs/NAME.toml here), then
`verdict: proved`, or `verdict: refuted E1 D1` naming the obligations one of which must fall. A refutation
counts only when its counterexample, run again here from nothing but its own fields, shows the fault.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ir.compare import mismatch
from ir.evaluate import check_requires, evaluate, parameters_default
from ir.facts import settled
from ir.inputs import generate, parse_description
from ir.interpret import Mode, interpret, interpret_program_instance
from ir.loader import bind, load_spec, packaged_specs
from ir.memory import Fault
from ir.nearby import nearby
from ir.parser import parse
from ir.program import Program
from ir.requirements import narrowed
from ir.spec import Bound, Spec
from ir.typing import check
from verifier.formula import sizes_of
from verifier.prove import prove
from verifier.verdict import OBLIGATIONS, Counterexample, Report, Verdict

HERE = Path(__file__).parent
PROVED = sorted((HERE / "proved").glob("*.tile")) + sorted(packaged_specs().glob("*/*.tile"))
REFUTED = sorted((HERE / "refuted").glob("*.tile"))
UNPROVED = sorted((HERE / "unproved").glob("*.tile"))
FAULT_KINDS = {
    "B1": {"bounds"},
    "B2": {"width"},
    "R1": {"write-write"},
    "R2": {"read-write"},
    "C1": {"unwritten", "uninitialised"},
    "D1": {"undefined", "overflow", "uninitialised"},
    "S1": {"overflow", "undefined"},
}
LARGEST_COUNT = 65536  # a dimension that may be larger is a length
UNIT_ROUNDOFF = {"bf16": 2**-8, "fp16": 2**-11, "fp32": 2**-24}


@dataclass(frozen=True)
class Golden:
    text: str
    spec: Spec
    settings: dict[str, str]
    verdict: str
    obligations: frozenset[str]

    def bound(self, **changed: str) -> Bound:
        """With what the kernel requires of sizes."""
        bound = bind(self.spec, {**self.settings, **changed})
        return narrowed(bound, self.program(bound))

    def program(self, bound: Bound) -> Program:
        return check(parse(self.text), bound, self.text)


@cache
def spec_of(name: str) -> Spec:
    local = HERE / "specs" / f"{name}.toml"
    return load_spec(local if local.exists() else name)


def read(path: Path) -> Golden:
    text = path.read_text()
    header = [line.removeprefix("#").strip() for line in itertools.takewhile(lambda x: x[:1] == "#", text.split("\n"))]
    assert header[0].startswith("spec: ") and header[1].startswith("verdict: ") and len(header) > 2, path
    name, *options = header[0].split()[1:]
    verdict, *obligations = header[1].split()[1:]
    return Golden(text, spec_of(name), dict(o.split("=") for o in options), verdict, frozenset(obligations))


def report_of(path: Path) -> Report:
    golden = read(path)
    bound = golden.bound()
    return prove(golden.program(bound), bound, golden.text)


def explained(report: Report) -> str:
    return "\n".join(f"{r.id} {r.verdict.value} {r.residual}".rstrip() for r in report.results)


def label(path: Path) -> str:
    return path.stem if HERE in path.parents else f"{path.parent.name}-{path.stem}"


files = pytest.mark.parametrize("path", PROVED + REFUTED, ids=label)
proved_files = pytest.mark.parametrize("path", PROVED, ids=label)
refuted_files = pytest.mark.parametrize("path", REFUTED, ids=label)


# ---- the set itself --------------------------------------------------------------------------


@files
def test_header_is_well_formed(path: Path) -> None:
    golden = read(path)
    assert golden.verdict == (path.parent.name if HERE in path.parents else "proved")
    assert HERE in path.parents or path.parent.name == golden.spec.name  # a kernel ships in its spec's folder
    assert golden.obligations <= set(OBLIGATIONS)
    assert bool(golden.obligations) == (golden.verdict == "refuted")


def test_the_set_is_large_and_every_obligation_falls_somewhere() -> None:
    assert len(PROVED) >= 24 and len(REFUTED) >= 45
    assert {p.stem for p in PROVED}.isdisjoint(p.stem for p in REFUTED)
    sole = {next(iter(g.obligations)) for g in map(read, REFUTED) if len(g.obligations) == 1}
    assert sole == set(OBLIGATIONS) - {"V1"}


# ---- proved ----------------------------------------------------------------------------------


@proved_files
def test_proved(path: Path) -> None:
    report = report_of(path)
    assert report.verdict is Verdict.PROVED, explained(report)


@st.composite
def small_sizes(draw: st.DrawFn, bound: Bound) -> dict[str, int]:
    """Ragged lengths on both sides of a tile or two, none, one; counts of one or two, multiples as required."""
    length = st.one_of(st.integers(1, 80), st.sampled_from([0, 1, 31, 32, 33, 64, 65]))
    count = st.integers(1, 2)
    drawn = {d.name: draw(length if d.maximum > LARGEST_COUNT else count) for d in bound.dims}
    sizes = {d.name: max(d.minimum, min(d.maximum, drawn[d.name])) for d in bound.dims}
    for whole, part in sizes_of(bound).quotients.values():
        sizes[whole] = sizes[part] * draw(st.integers(1, 3))
    found = nearby(bound, settled(bound, sizes))
    assume(found is not None)
    return found or {}


def disagreement(golden: Golden, bound: Bound, sizes: dict[str, int], name: str, seed: int, mode: Mode) -> str | None:
    """What separates a run from the spec, if anything: a fault or the worst cell."""
    assert check_requires(bound, sizes)
    parameters = parameters_default(bound, sizes)
    inputs = generate(name, seed, bound, sizes, parameters)
    outcome = interpret(golden.program(bound), bound, sizes, parameters, inputs, mode)
    if outcome.faults:
        return outcome.faults[0].message
    unit = UNIT_ROUNDOFF[str(bound.setting("dtype"))]
    # A saved input is rounded when it is stored, and a gradient takes differences of what is made of it.
    saved = any(t.saved for t, _ in bound.inputs)
    tolerance = 1e-9 if mode is Mode.EXACT else max((32 if saved else 8) * unit, 1e-4)
    worst = mismatch(outcome.tensors, evaluate(bound, sizes, parameters, inputs), tolerance, inputs=inputs)
    return None if worst is None else str(worst)


@proved_files
@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_proved_kernels_agree_with_the_spec(path: Path, data: st.DataObject) -> None:
    golden = read(path)
    bound = golden.bound()
    sizes = data.draw(small_sizes(bound))
    name, seed = data.draw(st.sampled_from(["normal", "uniform", "small"])), data.draw(st.integers(0, 99))
    for mode in Mode:
        assert disagreement(golden, bound, sizes, name, seed, mode) is None


# ---- unproved: right kernels that the gate does not let through yet ----------------------------


@pytest.mark.parametrize("path", UNPROVED, ids=lambda p: p.stem)
def test_a_right_kernel_not_yet_proved_is_never_refuted(path: Path) -> None:
    report = report_of(path)
    assert report.verdict is not Verdict.REFUTED, explained(report)
    assert report.verdict is Verdict.PROVED or any(r.residual for r in report.results)
    golden = read(path)
    usual = {"B": 1, "H": 2, "G": 1, "M": 37, "N": 70}
    sizes = {d.name: usual.get(d.name, max(d.minimum, 1)) for d in golden.bound().dims}
    at = nearby(golden.bound(), sizes)  # None where what the kernel requires is met by no size
    assert at is None or disagreement(golden, golden.bound(), at, "normal", 0, Mode.EXACT) is None


# ---- refuted ---------------------------------------------------------------------------------


def faults_and_worst(golden: Golden, bound: Bound, c: Counterexample, mode: Mode) -> tuple[tuple[Fault, ...], str]:
    """Run again from the counterexample's fields; "" where no cell differs."""
    sizes, parameters = dict(c.sizes), dict(c.parameters)
    inputs = generate(*parse_description(c.inputs), bound, sizes, parameters)
    outcome = interpret(golden.program(bound), bound, sizes, parameters, inputs, mode)
    expected = evaluate(bound, sizes, parameters, inputs)
    tolerance = 1e-6 if c.inputs.startswith(("normal", "mean", "uniform", "small", "zeros")) else 1e-5
    worst = mismatch(outcome.tensors, expected, tolerance if mode is Mode.EXACT else 0.1, inputs=inputs)
    return outcome.faults, "" if worst is None else str(worst)


def replays(golden: Golden, obligation: str, c: Counterexample) -> bool:
    """Whether the counterexample shows what it claims: a fault at its cell, or its cell's wrong value."""
    bound = golden.bound()
    sizes, parameters = dict(c.sizes), dict(c.parameters)
    assert check_requires(bound, sizes), "sizes outside the spec's limits"
    assert all(p.lower <= parameters[p.name] <= p.upper for p in bound.spec.parameters)
    if obligation == "B2":
        program = golden.program(bound)
        found = interpret_program_instance(program, bound, sizes, parameters, c.kernel, dict(c.program))
        return any(f.kind == "width" and f.span == c.span for f in found)
    for mode in Mode:
        faults, worst = faults_and_worst(golden, bound, c, mode)
        if obligation in ("E1", "S1") and worst:
            return True
        kinds = FAULT_KINDS.get(obligation, set())
        if any(f.kind in kinds and (f.tensor, f.cell) == (c.tensor, c.cell) for f in faults):
            return True
    return False


@refuted_files
def test_refuted(path: Path) -> None:
    golden, report = read(path), report_of(path)
    assert report.verdict is Verdict.REFUTED, explained(report)
    fallen = {r.id for r in report.results if r.verdict is Verdict.REFUTED}
    assert fallen & golden.obligations, f"{sorted(fallen)} fell; the header names {sorted(golden.obligations)}"
    for result in report.results:
        assert (result.verdict is Verdict.REFUTED) == (result.counterexample is not None)
        if result.counterexample is not None:
            assert replays(golden, result.id, result.counterexample), result.counterexample


def one_of_each() -> list[object]:
    """By default the first kernel of every spec; all with `make test-thorough`."""
    found: list[object] = []
    seen = set()
    for path in REFUTED:
        name = path.read_text().split(maxsplit=3)[2]  # of a well-formed header; every worker does this for every file
        found.append(pytest.param(path, marks=pytest.mark.thorough if name in seen else ()))
        seen.add(name)
    return found


@pytest.mark.parametrize("path", one_of_each(), ids=label)
def test_a_refuted_kernel_is_not_proved_in_another_dtype(path: Path) -> None:
    golden = read(path)
    own = golden.settings["dtype"]
    if own == "fp16" and golden.obligations == {"S1"}:
        return  # it overflows in fp16 alone
    bound = golden.bound(dtype="bf16" if own == "fp32" else "fp32")
    report = prove(golden.program(bound), bound, golden.text, evidence=False, search=False)
    assert report.verdict is not Verdict.PROVED, explained(report)
