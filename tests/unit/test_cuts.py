"""Inputs that cut rows into parts: order, parts, coverage and races of kernels by part, and the launcher's check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lowering_cases import certificate_for

from ir.evaluate import check_requires, evaluate
from ir.facts import broken_fact
from ir.inputs import GENERATORS, generate
from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from lowering.assumptions import AssumptionViolated
from lowering.launch import Launcher, load
from lowering.lower import lower
from lowering.values import TORCH
from synth.bench.peers import standard
from verifier.booleans import Bool, boolean, conj, ge0, le, lt
from verifier.cells import CellFacts, Table
from verifier.integers import cell, lift, reset, symbol
from verifier.prove import prove
from verifier.smt import Context, Ledger, Prover
from verifier.verdict import Report, Verdict

# ---- inputs that split -------------------------------------------------------------------------

SEGMENTS = """
name = "segments"
[dims]
B = {{ min = 1, max = 4096 }}
T = {{ min = 0, max = 65536 }}
L = {{ min = 0, max = 65536 }}
[inputs]
X = {{ shape = ["T"], dtype = "f32", abs_max = 1e4 }}
W = {{ shape = ["B"], dtype = "f32", abs_max = 1e4 }}
cu = {{ shape = ["B + 1"], dtype = "i32"{facts} }}
[outputs]
Y = {{ shape = ["T"], dtype = "f32" }}
[formula]
empty_row = "undefined"
define = "Y[x] = {formula}"
[layout]
max_stride = 65536
"""
SPLITS = ', splits = "T", longest = "L", part = "seg"'
BY_SEGMENT = """
meta BM = 16

kernel scale(s < B, t < cdiv(L, BM)):
    low = load(cu[s])
    x = low + t * BM + arange(BM)
    inside = x < load(cu[s + 1])
    w = load(W[s])
    store(Y[x], {value}, mask=inside)
"""
SCALED = "load(X[x], mask=inside, other=0) * w"


def segments(facts: str = SPLITS, formula: str = "X[x] * W[seg[x]]") -> Bound:
    return bind(parse_spec(SEGMENTS.format(facts=facts, formula=formula)), {})


def by_segment(bound: Bound, value: str = SCALED, old: str = "", new: str = "") -> Report:
    text = BY_SEGMENT.format(value=value)
    assert old in text
    text = text.replace(old, new) if old else text
    return prove(check(parse(text), bound), bound, text)


def test_rows_of_a_part_are_written_once_by_its_program() -> None:
    report = by_segment(segments())
    assert report.verdict is Verdict.PROVED, report


@pytest.mark.parametrize(
    ("facts", "open_obligations"),
    [
        ("", {"B1", "R1", "C1"}),
        (', min = 0, max = "T"', {"R1", "C1"}),
    ],
)
def test_without_the_fact_nothing_tells_parts_apart(facts: str, open_obligations: set[str]) -> None:
    report = by_segment(segments(facts, "X[x]"), "load(X[x], mask=inside, other=0) + w * 0.0")
    assert {r.id for r in report.results if r.verdict is not Verdict.PROVED} >= open_obligations


def test_without_a_bound_on_parts_the_grid_may_be_too_short() -> None:
    report = by_segment(segments(', splits = "T", part = "seg"'))
    assert {r.id for r in report.results if r.verdict is not Verdict.PROVED} == {"C1"}
    assert report.result("C1").verdict is Verdict.REFUTED


@pytest.mark.parametrize(
    ("old", "new", "fallen"),
    [
        ("load(W[s])", "load(W[B - 1 - s])", "E1"),
        ("x < load(cu[s + 1])", "x < T", "R1"),
        ("x < load(cu[s + 1])", "x < load(cu[s + 1]) - 1", "C1"),
        ("x < load(cu[s + 1])", "x <= load(cu[s + 1])", "B1"),
        ("load(cu[s])", "load(cu[s + 1])", "C1"),
        ("t < cdiv(L, BM)", "t < cdiv(L - 1, BM)", "C1"),
    ],
)
def test_a_slip_in_the_cuts_is_refuted(old: str, new: str, fallen: str) -> None:
    report = by_segment(segments(), old=old, new=new)
    assert report.result(fallen).verdict is Verdict.REFUTED, report


def cuts(*facts: Bool) -> Context:
    """C with N + 1 cells splits 0..E-1 into parts of at most L."""
    reset()
    n, e, longest = symbol("N", 0), symbol("E", 0), symbol("L", 0)
    part = Table((e,), 64, lift(0), n - 1, part_of="C")
    tables = {"C": Table((n + 1,), 32, splits=e, longest=longest), "part(C)": part}
    return Context(Prover(Ledger(CellFacts(tables))), facts)


def c(index: Any) -> Any:
    return cell("C", (index if not isinstance(index, int) else lift(index),))


def part(x: Any) -> Any:
    return cell("part(C)", (x,))


def test_cuts_are_in_order_inside_the_tensor_only() -> None:
    x = cuts()
    n, i, k = symbol("N", 0), symbol("i"), symbol("k")
    inside = conj((ge0(i), le(i, k), le(k, n)))
    assert x.given(inside).entails(le(c(i), c(k)))
    assert not x.given(conj((ge0(i), le(i, k)))).entails(le(c(i), c(k)))
    assert not x.given(conj((le(i, k), le(k, n)))).entails(le(c(i), c(k)))
    assert not x.given(inside).entails(lt(c(i), c(k)))  # parts may be empty


def test_the_ends_of_the_cuts() -> None:
    x = cuts()
    n, e = symbol("N", 0), symbol("E", 0)
    assert x.entails(boolean("eq", c(0)))
    assert x.entails(boolean("eq", c(n) - e))
    assert not x.entails(boolean("eq", c(n - 1) - e))


def test_the_longest_part_bounds_neighbours_only() -> None:
    x = cuts()
    n, longest, i = symbol("N", 0), symbol("L", 0), symbol("i")
    inside = x.given(conj((ge0(i), lt(i + 1, n))))
    assert inside.entails(le(c(i + 1) - c(i), longest))
    assert not inside.entails(le(c(i + 2) - c(i), longest))


def test_a_position_lies_in_exactly_one_part() -> None:
    x = cuts()
    n, e, i, p = symbol("N", 0), symbol("E", 0), symbol("i"), symbol("p")
    position = x.given(conj((ge0(i), lt(i, e))))
    assert position.entails(conj((ge0(part(i)), lt(part(i), n), le(c(part(i)), i), lt(i, c(part(i) + 1)))))
    holds = conj((ge0(p), lt(p, n), le(c(p), i), lt(i, c(p + 1))))
    assert position.given(holds).entails(boolean("eq", part(i) - p))
    assert not position.given(conj((ge0(p), lt(p, n), le(c(p), i)))).entails(boolean("eq", part(i) - p))


def test_beyond_the_end_there_is_no_part() -> None:
    x = cuts()
    n, e, i = symbol("N", 0), symbol("E", 0), symbol("i")
    assert not x.given(ge0(i)).entails(lt(part(i), n))
    assert not x.given(lt(i, e)).entails(ge0(part(i)))
    assert not x.given(conj((le(n, 0), boolean("eq", part(i))))).impossible


def test_generated_cuts_keep_the_facts_and_have_empty_parts() -> None:
    bound, empty = segments(), 0
    for seed in range(8):
        for name in GENERATORS:
            for sizes in ({"B": 5, "T": 33, "L": 20}, {"B": 1, "T": 7, "L": 7}, {"B": 3, "T": 0, "L": 0}):
                inputs = generate(name, seed, bound, sizes, {})
                assert broken_fact(bound, sizes, inputs) is None
                empty += int((np.diff(inputs["cu"]) == 0).sum())
    assert empty > 100


@pytest.mark.parametrize(("sizes", "fits"), [((2, 8, 4), True), ((2, 9, 4), False), ((1, 0, 0), True)])
def test_sizes_at_which_no_cuts_exist_are_not_admitted(sizes: tuple[int, int, int], fits: bool) -> None:
    assert check_requires(segments(), dict(zip("BTL", sizes, strict=True))) is fits


@pytest.fixture(scope="module")
def cutter(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    bound, text = segments(), BY_SEGMENT.format(value=SCALED)
    path = tmp_path_factory.mktemp("certificates") / "segments.cert.json"
    lower(certificate_for(text, bound), check(parse(text), bound), bound, targets=()).save(path)
    return load(path)


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ([0, 3, 3, 7], ""),
        ([0, 3, 2, 7], "cu decreases somewhere"),
        ([1, 3, 3, 7], "cu runs from 1 to 7, the spec says from 0 to T = 7"),
        ([0, 3, 3, 6], "cu runs from 0 to 6, the spec says from 0 to T = 7"),
        ([0, 0, 1, 7], "cu has a part of length 6, the spec says at most L = 5"),
        ([0, 2**31 - 1, -(2**31), 7], "cu decreases somewhere"),
    ],
)
def test_the_launcher_checks_the_cuts(cutter: Launcher, cut: list[int], says: str) -> None:
    call = {"X": torch.zeros(7), "W": torch.zeros(3), "cu": torch.tensor(cut, dtype=torch.int32), "L": 5}
    if not says:
        assert cutter.check(call)[1] == {"B": 3, "T": 7, "L": 5}
        return
    with pytest.raises(AssumptionViolated, match=rf"^\[facts-cu\] {says}"):
        cutter.check(call)


def test_a_size_is_read_off_an_extent_of_one_more(cutter: Launcher) -> None:
    call = {"X": torch.zeros(7), "W": torch.zeros(4), "cu": torch.tensor([0, 3, 3, 7], dtype=torch.int32), "L": 5}
    with pytest.raises(AssumptionViolated, match=r"^\[sizes\] B is 4 in dimension 0 of W and 3 in dimension 0 of cu"):
        cutter.check(call)


def test_without_sizes_that_keep_the_facts_there_is_no_witness() -> None:
    """T + 9 rows in parts of none."""
    report = by_segment(segments(', splits = "T + 9", longest = 0, part = "seg"', "X[x]"))
    assert report.result("V1").verdict is not Verdict.PROVED


# ---- the formula by whole-tensor operations, for timing -----------------------------------------


def test_the_unfused_formula_knows_parts() -> None:
    bound, sizes = segments(), {"B": 4, "T": 9, "L": 5}
    arrays = generate("normal", 2, bound, sizes, {})
    inputs = {t.name: torch.from_numpy(arrays[t.name]).to(TORCH[d]) for t, d in bound.inputs}
    wanted = evaluate(bound, sizes, {}, arrays)["Y"]
    assert np.allclose(standard(bound, sizes, inputs)["Y"].numpy(), wanted, atol=1e-5)


def test_a_bound_that_differs_from_row_to_row() -> None:
    bound = bind(load_spec("paged"), {"dtype": "fp32"})
    sizes = {"B": 2, "H": 2, "G": 1, "M": 1, "P": 3, "W": 2}
    arrays = generate("normal", 0, bound, sizes, {"scale": 1.0})
    inputs = {t.name: torch.from_numpy(arrays[t.name]).to(TORCH[d]) for t, d in bound.inputs}
    wanted = evaluate(bound, sizes, {"scale": 1.0 / 8}, arrays)
    found = standard(bound, sizes, inputs)
    for name, cells in wanted.items():
        np.testing.assert_allclose(found[name].numpy(), cells, rtol=1e-4, atol=1e-5)
