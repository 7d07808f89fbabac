"""N1: no machine within the model gets past a bound, and a bound that forgets a kind of error is passed by one."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounding_cases import analysed, bounded, case, of, worst
from small_spec import RIGHT, SPEC

from ir import error_formula as f
from ir import float_model as model
from ir import program as core
from ir.program import DType, Type
from ir.spec import Bound
from synth.cli import main
from synth.rounding import Inputs, NoBound, bounds
from verifier.certificate import issue
from verifier.prove import prove
from verifier.rounding import cells, choices, errors, recurrence, rules
from verifier.rounding.errors import Unbounded
from verifier.rounding.extents import Range, range_of
from verifier.rounding.shapes import Order
from verifier.rounding.walk import Scope

ONLINE = "tests/golden/proved/fa2_bottom_right.tile"
SIZES = {"B": 1, "H": 2, "G": 1, "M": 33, "N": 67}
CASES = [
    ("tests/golden/proved/select_after_division.tile", SIZES | {"N": 5}, "ramp", 1.0, {"O": 0.2}),
    (ONLINE, SIZES, "uniform", 2.0, {"O": 0.3, "LSE": 0.1}),  # at least this share of the bound is reached
    ("specs/softmax/stats_first.tile", {"R": 2, "C": 3}, "uniform", 2.0, {"Y": 0.3}),
    ("specs/sinks/two_pass.tile", SIZES, "normal", 1.0, {"O": 0.01}),
    ("specs/decode/interleaved_exp2.tile", SIZES | {"M": 1, "T": 70}, "ramp", 1.0, {"O": 0.2}),
    ("specs/attention_bwd/fused_atomic_none.tile", SIZES, "ramp", 1.0, {"dQ": 1e-4}),
    ("specs/rmsnorm/rows.tile", {"R": 3, "C": 300}, "normal", 1.0, {"Y": 0.9, "RSTD": 0.9}),
    ("specs/layernorm/shifted.tile", {"R": 3, "C": 300}, "normal", 1.0, {"MEAN": 1e-3}),  # reads an output again
]


@pytest.mark.parametrize(("path", "sizes", "generator", "scale", "reached"), CASES, ids=[c[0] for c in CASES])
def test_no_machine_gets_past_the_bound(
    path: str, sizes: dict[str, int], generator: str, scale: float, reached: dict[str, float]
) -> None:
    program, bound, found = bounded(path)
    shares: dict[str, float] = {}
    for output, strategy, share in worst(program, bound, found, sizes, generator, scale):
        assert share <= 1.0, f"{output}, {strategy}"
        shares[output] = max(shares.get(output, 0.0), share)
    assert shares.keys() == found.keys()
    for output, least in reached.items():
        assert shares[output] >= least, "the bound says much more than it needs to"


def test_what_cancels_is_off_by_more_than_a_share_of_itself() -> None:
    """The sum of as many 1 as -1 is 0, and no machine needs to find that."""
    spec, kernel = SPEC.replace("X[i, j] * X[i, j]", "X[i, j]"), RIGHT.replace("x * x", "x")
    program, bound = of(spec, kernel)
    found = dict(cells.bounds(analysed(program, bound)))
    x = np.where(np.arange(256) % 2, -1.0, 1.0).reshape(1, 256)
    shares = [share for *_, share in worst(program, bound, found, {"R": 1, "C": 256}, "normal", given={"X": x})]
    assert 0.0 < max(shares) <= 1.0


def _forgotten(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the prover overlook one kind of error; the adversary has read the model before."""
    match name:
        case "bf16":
            monkeypatch.setattr(model, "UNIT", {**model.UNIT, DType.BF16: 2.0**-24})
        case "exp":
            monkeypatch.setattr(model, "EXP", 0.0)
            monkeypatch.setattr(model, "SCALED", 0.0)
        case "dot":
            monkeypatch.setattr(model, "DOT", 0.0)
        case "sum":
            forgets = lambda e, n, companion, unit, dtype: errors.total(e, n, companion, 0.0, dtype)  # noqa: E731
            monkeypatch.setattr(rules, "total", forgets)
        case "loop":
            monkeypatch.setattr(recurrence, "_count", lambda name, trips: f.ZERO)
        case _:
            monkeypatch.setattr(rules, "difference", _without_error(errors.difference))


def _without_error(rule: Any) -> Any:
    return lambda *args: dataclasses.replace(rule(*args), relative=f.ZERO, absolute=f.ZERO)


EXP = SPEC.replace("sum[j < C](X[i, j] * X[i, j])", "exp(X[i, 0])").replace("100.0", "1.0")
POINT = "kernel point(i < R):\n    store(Y[i + arange(1)], exp(load(X[i, arange(1)])))\n"
FORGOTTEN = [
    ("bf16", case(ONLINE), SIZES, "uniform", 2.0),
    ("exp", of(EXP, POINT), {"R": 3, "C": 2}, "uniform", 1.0),
    ("dot", case(ONLINE), SIZES, "large", 1e-3),
    ("sum", case("specs/layernorm/whole_row.tile"), {"R": 2, "C": 4096}, "uniform", 1.0),
    ("loop", of(SPEC, RIGHT), {"R": 2, "C": 25600}, "uniform", 1.0),
    ("scores", case(ONLINE), SIZES, "large", 1e-3),
]


@pytest.mark.parametrize(("name", "what", "sizes", "generator", "scale"), FORGOTTEN, ids=[c[0] for c in FORGOTTEN])
def test_a_bound_that_forgets_something_is_passed(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    what: tuple[core.Program, Bound],
    sizes: dict[str, int],
    generator: str,
    scale: float,
) -> None:
    program, bound = what
    proof = analysed(program, bound)
    with monkeypatch.context() as patch:
        _forgotten(patch, name)
        found = dict(cells.bounds(proof))
    assert max(share for _, _, share in worst(program, bound, found, sizes, generator, scale)) > 1.0


# Each with an argument that is nearly exact, then one as far off as bf16 makes it; the last adds 40 numbers up.
FUNCTION = "kernel point(i < R):\n    x = cast(load(X[i, arange(1)]), f32)\n    store(Y[i + arange(1)], {})\n"
COARSE = "cast(cast({}, bf16), f32)"
ADDS = """\
kernel zero(i < R):
    store(Y[i + arange(1)], zeros([1], f32))

kernel add(i < R, j < C):
    x = cast(load(X[i, j + arange(1)]), f32)
    atomic_add(Y[i + arange(1)], x * x)
"""
RULES = [
    ("tanh(X[i, 0])", FUNCTION.format("tanh(x)"), 1, 1.0, 0.99),
    ("tanh(X[i, 0] * X[i, 0])", FUNCTION.format(f"tanh({COARSE.format('x * x')})"), 1, 0.3, 0.9),
    ("sigmoid(X[i, 0])", FUNCTION.format("sigmoid(x)"), 1, 1.0, 0.99),
    ("sigmoid(X[i, 0] * X[i, 0])", FUNCTION.format(f"sigmoid({COARSE.format('x * x')})"), 1, 0.3, 0.9),
    ("sqrt(1.0 + X[i, 0] * X[i, 0])", FUNCTION.format("sqrt(1.0 + x * x)"), 1, 1e-3, 0.85),
    ("sqrt(1.0 + X[i, 0] * X[i, 0])", FUNCTION.format(f"sqrt({COARSE.format('1.0 + x * x')})"), 1, 1e-3, 0.9),
    ("sum[j < C](X[i, j] * X[i, j])", ADDS, 40, 1.0, 0.5),
]


@pytest.mark.parametrize(("formula", "text", "columns", "scale", "least"), RULES, ids=range(len(RULES)))
def test_each_rule_allows_what_can_happen_and_little_more(
    formula: str, text: str, columns: int, scale: float, least: float
) -> None:
    spec = SPEC.replace("sum[j < C](X[i, j] * X[i, j])", formula).replace('"f32", abs_max', '"bf16", abs_max')
    program, bound = of(spec, text)
    found = dict(cells.bounds(analysed(program, bound)))
    shares = [share for _, _, share in worst(program, bound, found, {"R": 3, "C": columns}, "uniform", scale)]
    assert least <= max(shares) <= 1.0


# Each would have a bound if one side condition were left out: what floats choose would be taken for what reals choose.
CHOICES = [
    ("acc = acc + where(x > 0.5, x * x, x * x)", "a choice by comparing rounded values"),
    ("acc = acc + where(acc > x, x * x, x * x)", "a choice by comparing rounded values"),
    ("acc = acc + cast(where(acc > x, 1, 1), f32) * x * x", "a choice by comparing rounded values"),
    ("acc = acc + where(acc == 0.0, x * x, x * x)", "of something else than that value"),
]


@pytest.mark.parametrize(("line", "reason"), CHOICES[1:], ids=[c[0] for c in CHOICES[1:]])
def test_a_choice_by_rounded_values_has_no_bound(line: str, reason: str) -> None:
    program, bound = of(SPEC, RIGHT.replace("acc = acc + x * x", line))
    with pytest.raises(Unbounded, match=reason):
        cells.bounds(analysed(program, bound))


def test_a_choice_by_exact_values_has_one() -> None:
    program, bound = of(SPEC, RIGHT.replace("acc = acc + x * x", CHOICES[0][0]))
    assert cells.bounds(analysed(program, bound))


F32 = DType.F32
TILE = Type(F32, (16, 16))
S = core.Var("s", TILE)


def _row_maximum(axis: int, at: int) -> core.Expr:
    """max(s, axis) as a column (at = 1) or a row (at = 0) of a square tile."""
    reduced = core.Reduce("max", S, axis, Type(F32, (16,)))
    shape = (16, 1) if at == 1 else (1, 16)
    return core.Broadcast(core.Expand(reduced, at, Type(F32, shape)), TILE)


@pytest.mark.parametrize(("axis", "at", "known"), [(1, 1, True), (0, 0, True), (1, 0, False), (0, 1, False)])
def test_only_its_own_maximum_is_above_a_score(axis: int, at: int, known: bool) -> None:
    e = core.Binary("sub", S, _row_maximum(axis, at), TILE)
    found = Order({}, lambda x: errors.exactly(f.ONE, x), {}).gap(e)
    assert (found is not None) == known


@pytest.mark.parametrize("turned", [False, True])
def test_a_maximum_replaced_where_another_lane_is_infinite_is_above_nothing(turned: bool) -> None:
    infinite = core.Broadcast(core.Unary("neg", core.Constant("inf", Type(F32)), Type(F32)), TILE)
    at = Type(DType.BOOL, TILE.shape)
    condition: core.Expr = core.Binary("eq", S, infinite, at)
    condition = core.Transpose(condition, at) if turned else condition
    zero = core.Broadcast(core.Literal(0, Type(F32)), TILE)  # type: ignore[arg-type]
    e = core.Binary("sub", S, core.Select(condition, zero, S, TILE), TILE)
    assert (Order({}, lambda x: errors.exactly(f.ONE, x), {}).gap(e) is None) == turned


@pytest.mark.parametrize(("op", "kept"), [("add", True), ("mul", True), ("max", False), ("min", False)])
def test_a_maximum_forgets_that_a_divisor_keeps_away_from_zero(op: str, kept: bool) -> None:
    lanes = (0, 1)
    branch = core.Binary(op, S, core.Binary("div", S, core.Var("l", TILE), TILE), TILE)
    assert choices._kept((core.Var("l", TILE), lanes), (branch, lanes), Scope()) == kept


def test_what_has_no_bound_has_none_at_a_range_of_zero() -> None:
    bound = f.mul(f.expm1(f.leaf("range", "Q")), f.leaf("range", "V"))
    assert f.evaluate(bound, {("range", "Q"): 1e4, ("range", "V"): 0.0}) == math.inf


def test_what_may_be_zero_divides_nothing() -> None:
    x = errors.Error(f.number(0.1), f.number(1e-3), f.ONE, S, own=True, positive=True)
    assert f.constant(errors.away_from_zero(x, f.number(1e-3), "x")) is None  # to be evaluated
    assert f.evaluate(errors.away_from_zero(x, f.number(1e-3), "x"), {}) == math.inf
    assert f.evaluate(errors.away_from_zero(x, f.number(1.0), "x"), {}) == pytest.approx(0.1 + 1.106e-3, rel=1e-3)
    with pytest.raises(Unbounded):
        errors.away_from_zero(dataclasses.replace(x, positive=False), f.ZERO, "x")


@settings(max_examples=200, deadline=None)
@given(
    start=st.floats(0, 2), add=st.floats(0, 1), factor=st.floats(0, 1.5), level=st.floats(0, 3), n=st.integers(0, 12),
    shape=st.sampled_from(["sum", "affine", "max"]),
)  # fmt: skip
def test_recurrences_hold_before_every_iteration(
    start: float, add: float, factor: float, level: float, n: int, shape: str
) -> None:
    u = recurrence.unknown("x", "u")
    after = {
        "sum": f.maximum(f.add(u, f.number(add)), f.number(level)),
        "affine": f.add(f.mul(f.number(factor), u), f.number(add)),
        "max": f.maximum(u, f.number(level)),
    }[shape]
    update = recurrence.Update("u", f.number(start), after, adds=shape == "sum")
    found = f.evaluate(recurrence.solved({u: update}, f.number(n))[u], {})
    x = start
    for _ in range(n + 1):
        assert x <= found
        x = f.evaluate(f.substituted(after, {u: f.number(x)}), {}) / f.SLACK


INT = Type(DType.INT)
LEAVES = st.one_of(
    st.integers(-3, 9).map(lambda k: core.Literal(k, INT)),  # type: ignore[arg-type]
    st.sampled_from([core.Size("N", INT), core.Size("M", INT), core.Var("t", INT)]),
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda op, a, b: core.Binary(op, a, b, INT), st.sampled_from(["add", "sub", "mul", "min", "max"]), inner, inner
    )
    | st.builds(lambda op, a, k: core.Binary(op, a, core.Literal(k, INT), INT), st.sampled_from(["floordiv", "mod"]),
                inner, st.integers(1, 7)),  # type: ignore[arg-type]
    max_leaves=6,
)  # fmt: skip
OPERATIONS = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "min": min, "max": max,
    "floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b,
}  # fmt: skip


def _value(e: core.Expr, at: dict[str, int]) -> int:
    match e:
        case core.Literal():
            return int(e.value)
        case core.Binary():
            return int(OPERATIONS[e.op](_value(e.left, at), _value(e.right, at)))
        case core.Size() | core.Var():
            return at[e.name]
    raise TypeError(e)


@settings(max_examples=300, deadline=None)
@given(e=EXPRESSIONS, n=st.integers(0, 20), m=st.integers(1, 20), t=st.integers(0, 5))
def test_integers_stay_within_their_bounds(e: core.Expr, n: int, m: int, t: int) -> None:
    found = range_of(e, {"t": Range(f.ZERO, f.number(5))})
    values = {("size", "N"): float(n), ("size", "M"): float(m)}
    x = _value(e, {"N": n, "M": m, "t": t})
    assert found.low is None or f.evaluate(found.low, values) / f.SLACK <= x + 1e-6
    assert found.high is None or x <= f.evaluate(found.high, values) / f.SLACK + 1e-6


def test_a_certificate_carries_the_bound_and_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, bound = of(SPEC, RIGHT)
    certificate = issue(prove(program, bound, RIGHT, rounding=True), RIGHT, bound)
    section = certificate.body["rounding"]
    assert section["model"]["a term of a matrix product, each time it is added to"] == model.DOT
    at = Inputs({"R": 4, "C": 640}, {}, {"X": 2.0}, {})
    direct = dict(cells.bounds(analysed(program, bound)))["Y"]
    found = bounds(json.loads(json.dumps(section)), at)["Y"]
    assert found == f.evaluate(direct, at.values() | {("result", "Y"): math.inf}) > 640 * 4 * 2.0**-24
    path = tmp_path / "c.json"
    certificate.save(path)
    assert main(["rounding", str(path), "--size", "C=640", "--range", "X=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bounds"]["Y"] == found
    assert main(["rounding", str(path), "--size", "C=640", "--range", "X=2", "--range", "Y=1", "--json"]) == 0
    smaller = json.loads(capsys.readouterr().out)  # the error is a share of the value: small values are off by less
    assert 0.0 < smaller["bounds"]["Y"] < found / 1000 and smaller["at"]["result"] == {"Y": 1.0}
    for words, said in (
        (["--range", "Z=1"], "it takes X"),
        (["--range", "X=-1"], "not negative"),
        (["--range", "X=nan"], "a finite number"),
        (["--size", "C=0"], "C from 1 to 65536, not 0"),
    ):
        assert main(["rounding", str(path), *words]) == 64
        assert said in capsys.readouterr().err
    ledger = {a["id"]: a for a in certificate.body["assumptions"]}
    assert ledger["rounding"]["discharged_by"] == "hardware and compiler"


def test_a_certificate_without_a_bound_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, bound = of(SPEC, RIGHT)
    certificate = issue(prove(program, bound, RIGHT), RIGHT, bound)
    certificate.save(tmp_path / "c.json")
    assert main(["rounding", str(tmp_path / "c.json")]) == 2
    assert "no rounding bound: not asked for" in capsys.readouterr().out
    with pytest.raises(NoBound):
        bounds(certificate.body["rounding"], Inputs({}, {}, {}, {}))


@pytest.mark.parametrize("damage", [[["exp", 3]], [["number", 1.0], ["shell", 0]], []])
def test_a_damaged_formula_is_no_formula(damage: Any) -> None:
    with pytest.raises(ValueError, match="rounding bound"):
        f.from_json(damage)
