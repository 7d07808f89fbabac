"""`prove` closes the gate: whatever is missing, fails, crashes or stays unknown, the verdict is not `proved`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.parser import parse
from ir.typing import check
from verifier import prove as module
from verifier import refute, smt
from verifier.obligations import width
from verifier.operations import Unsupported
from verifier.proof import Finding, Proof
from verifier.prove import CHECKS, prove
from verifier.verdict import OBLIGATIONS, Report, Verdict

GOLDEN = Path(__file__).parents[1] / "golden"
KERNEL = (GOLDEN / "proved" / "fa2_none.tile").read_text()


@pytest.fixture(autouse=True)
def no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refutation is not what these tests are about, and takes a second each time."""
    monkeypatch.setattr(refute, "search", lambda *_: {})


def proved(text: str = KERNEL, evidence: bool = False) -> Report:
    bound = bind(load_spec("attention"), {"causal": "none"})
    return prove(check(parse(text), bound, text), bound, text, evidence=evidence)


def small(evidence: bool = False) -> Report:
    """Of the kernel that is proved fastest."""
    text = (packaged_specs() / "rmsnorm" / "row.tile").read_text()
    bound = bind(load_spec("rmsnorm"), {})
    return prove(check(parse(text), bound, text), bound, text, evidence=evidence)


def test_a_right_kernel_is_proved_with_every_obligation_and_its_evidence() -> None:
    report = proved(evidence=True)
    assert report.verdict is Verdict.PROVED
    assert tuple(r.id for r in report.results) == OBLIGATIONS
    assert all(r.verdict is Verdict.PROVED and r.statement and r.evidence for r in report.results)


def test_a_report_without_an_obligation_is_not_proved() -> None:
    whole = proved()
    for k in range(len(whole.results)):
        part = Report(whole.results[:k] + whole.results[k + 1 :], whole.seconds)
        assert part.verdict is not Verdict.PROVED
    assert Report((), 0.0).verdict is not Verdict.PROVED


def breaks(kind: str) -> Callable[[Proof], Finding]:
    def failing(proof: Proof) -> Finding:
        match kind:
            case "says no":
                return Finding(False, "a statement", "left")
            case "is unsupported":
                raise Unsupported("no rule for this")
            case "runs out of memory":
                raise MemoryError
            case "recurses too deep":
                raise RecursionError
            case _:
                raise ZeroDivisionError("a bug of ours")

    return failing


@pytest.mark.parametrize("kind", ["says no", "is unsupported", "runs out of memory", "recurses too deep", "crashes"])
@pytest.mark.parametrize("obligation", OBLIGATIONS)
def test_one_check_that_fails_closes_the_gate(obligation: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fine: Callable[[Proof], Finding] = lambda proof: Finding(True, "a statement")  # noqa: E731
    monkeypatch.setattr(module, "CHECKS", {**dict.fromkeys(CHECKS, fine), obligation: breaks(kind)})
    monkeypatch.setattr(width, "check", breaks(kind) if obligation == "B2" else fine)
    report = small()
    fallen = [r.id for r in report.results if r.verdict is not Verdict.PROVED]
    assert report.verdict is Verdict.UNPROVED and fallen == [obligation]


@pytest.mark.parametrize("kind", ["runs out of memory", "recurses too deep", "crashes"])
@pytest.mark.parametrize("place", ["narrowed", "analyse", "scan_identities_hold", "_evidence", "run_to_run"])
def test_a_crash_anywhere_closes_the_gate(place: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, place, lambda *_: breaks(kind)(None))  # type: ignore[arg-type]
    report = small(evidence=True)
    assert report.verdict is Verdict.UNPROVED and tuple(r.id for r in report.results) == OBLIGATIONS
    assert "the prover failed" in report.results[0].residual


def test_a_crash_in_the_search_for_a_counterexample_leaves_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refute, "search", lambda *_: breaks("crashes")(None))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "CHECKS", {**CHECKS, "R1": breaks("says no")})
    report = small()
    (left,) = (r for r in report.results if r.verdict is not Verdict.PROVED)
    assert left.id == "R1" and left.verdict is Verdict.UNPROVED and left.residual.startswith("left\n")
    assert "no counterexample was found: the prover failed: ZeroDivisionError: a bug of ours" in left.residual


def test_a_check_that_is_not_there_closes_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHECKS:
        monkeypatch.setattr(module, "CHECKS", {k: v for k, v in CHECKS.items() if k != name})
        assert small().verdict is Verdict.UNPROVED, name


def test_a_solver_that_gives_up_closes_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smt, "RESOURCE_LIMIT", 1)
    report = proved()
    assert report.verdict is Verdict.UNPROVED
    assert all(r.verdict is Verdict.UNPROVED for r in report.results if r.id in ("B1", "C1", "V1"))


def test_too_many_queries_close_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smt, "MAX_QUERIES", 20)
    assert proved().verdict is Verdict.UNPROVED


def test_a_crash_of_the_analysis_closes_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> Proof:
        raise AttributeError("a bug of ours")

    monkeypatch.setattr(module, "analyse", crash)
    report = proved()
    assert report.verdict is Verdict.UNPROVED
    assert all("AttributeError" in r.residual for r in report.results)


SMALL = """
name = "small"
[dims]
M = {{ min = 1, max = {most} }}
N = {{ min = {least}, max = 1048576 }}
[inputs]
X = {{ shape = ["M", "N"], dtype = "f32", abs_max = 1e4 }}
[outputs]
O = {{ shape = ["M"], dtype = "f32" }}
[formula]
require = [{require}]
empty_row = "zero"
define = "O[i] = {formula}"
[layout]
max_stride = 1099511627776
"""
SUM = """
kernel rows(i < M):
    l = 0.0 * load(X[i, 0])
    for n in range(N) carry l:
        l = l + load(X[i, n])
    store(O[i], l)
"""


def verdict(
    text: str, formula: str = "sum[j < N](X[i, j])", require: str = "", least: int = 1, most: int = 1048576
) -> Verdict:
    bound = bind(parse_spec(SMALL.format(formula=formula, require=require, least=least, most=most)))
    return prove(check(parse(text), bound, text), bound, text, evidence=False).verdict


def test_a_small_spec_is_proved() -> None:
    assert verdict(SUM) is Verdict.PROVED
    assert verdict(SUM, require='"M <= N"') is Verdict.PROVED
    assert verdict(SUM, least=0) is Verdict.UNPROVED  # X[i, 0] is not there


NEVER = ('"M < N", "N < M"', '"N % 2 == 0", "N % 2 == 1"', '"M * M == 2 * N * N"', '"N > 2097152"')


@pytest.mark.parametrize("require", NEVER)
def test_contradictory_requirements_prove_nothing(require: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smt, "LONGEST", 2_000)  # one of these is beyond any solver
    assert verdict(SUM, require=require) is Verdict.UNPROVED
    assert verdict(SUM.replace("l + load", "l - load"), require=require) is Verdict.UNPROVED


def test_a_formula_that_is_never_defined_proves_nothing() -> None:
    assert verdict(SUM, formula="log(0.0 - exp(X[i, 0]))") is Verdict.UNPROVED
    assert verdict(SUM, formula="sum[j < N](X[i, j]) + log(0.0 - 1.0)") is Verdict.UNPROVED


NAN = "where(X0 > 0.0, X0, -inf) - where(X0 > 0.0, X0, -inf)"


@pytest.mark.parametrize(
    "line",
    [
        "y = load(X[i, where(nan > 0.0, 0, where(nan <= 0.0, 0, 0 - 1))])",
        "y = load(X[i, 0], mask=(nan > 0.0) or (nan <= 0.0), other=1)",
        "y = load(X[i + M, 0], mask=nan != nan, other=0)",
        "for r in range(where(nan > 0.0, 0, where(nan <= 0.0, 0, 1))) carry l:\n        l = l + 1.0",
    ],
)
def test_a_comparison_with_nan_decides_nothing(line: str) -> None:
    """Of reals one of x > 0 and x <= 0 holds, and x != x never; of a NaN it is the other way round."""
    head, tail = SUM.split("    for n", 1)
    made = f"    X0 = load(X[i, 0])\n    nan = {NAN}\n    {line}\n    for n"
    assert verdict(head + made + tail) is Verdict.UNPROVED


def test_names_of_a_candidate_do_not_meet_ours() -> None:
    """A grid axis named as our lanes are: it is not one of them."""
    for name in ("lane", "cell", "earlier", "iteration", "moved", "k"):
        for number in range(0, 40, 13):
            axis = f"{name}{number}"
            text = f"""
kernel rows({axis} < cdiv(M, 32)):
    i = {axis} * 32 + arange(32)
    store(O[i], full([32], 1.0, f32), mask=i < M)
"""
            assert verdict(text, formula="1.0") is Verdict.PROVED
            assert verdict(text.replace("* 32 + a", "+ a"), formula="1.0") is Verdict.UNPROVED


@pytest.mark.parametrize("formula", ["X[i] * (i // 0)", "sum[j < 1000000000000](X[0])"])
def test_where_the_spec_has_no_value_nothing_is_refuted(formula: str) -> None:
    spec = f"""
name = "none"
doc = "A formula that cannot be evaluated."
[dims]
N = {{ min = 1, max = 4096 }}
[inputs]
X = {{ shape = ["N"], dtype = "f32", abs_max = 10.0 }}
[outputs]
Y = {{ shape = ["N"], dtype = "f32" }}
[formula]
empty_row = "zero"
define = "Y[i] = {formula}"
[layout]
max_stride = 4096
"""
    kernel = """
kernel copy(t < cdiv(N, 64)):
    j = t * 64 + arange(64)
    store(Y[j], load(X[j], mask=j < N, other=0), mask=j < N)
"""
    bound = bind(parse_spec(spec))
    assert prove(check(parse(kernel), bound, kernel), bound, kernel).verdict is Verdict.UNPROVED
