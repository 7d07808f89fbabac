"""Integer inputs: what a kernel may do with what it reads from them, and what the spec's facts allow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lowering_cases import certificate_for

from ir.diagnostics import SpecProblem
from ir.evaluate import check_requires, evaluate
from ir.facts import broken_fact
from ir.inputs import GENERATORS, generate
from ir.interpret import Mode, interpret
from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from lowering.assumptions import AssumptionViolated
from lowering.launch import Launcher, load
from lowering.lower import lower
from verifier.booleans import Bool, boolean, conj, ge0, le, lt
from verifier.cells import CellFacts, Table
from verifier.integers import cell, lift, reset, symbol
from verifier.prove import prove
from verifier.smt import Context, Ledger, Prover
from verifier.terms import as_int, fresh
from verifier.verdict import Report, Verdict

GATHER = """
name = "gather"
[dims]
R = {{ min = 1, max = 65536 }}
C = {{ min = 1, max = 65536 }}
[inputs]
X = {{ shape = ["R", "C"], dtype = "f32" }}
label = {{ shape = ["R"], dtype = "i64"{facts} }}
[outputs]
Y = {{ shape = ["R"], dtype = "f32" }}
[formula]
empty_row = "undefined"
define = "Y[i] = X[i, label[i]]"
[layout]
max_stride = 65536
"""
IN_RANGE = ', min = 0, max = "C - 1"'
KERNEL = """
meta BM = 16

kernel gather(t < cdiv(R, BM)):
    i = t * BM + arange(BM)
    c = load(label[i], mask=i < R, other=0)
    x = load(X[i, {column}], mask=i < R, other=0)
    store(Y[i], x, mask=i < R)
"""


def gather(facts: str = IN_RANGE) -> Bound:
    return bind(parse_spec(GATHER.format(facts=facts)), {})


def verdict(bound: Bound, column: str = "c") -> Report:
    text = KERNEL.format(column=column)
    return prove(check(parse(text), bound), bound, text)


def test_a_cell_is_an_index_where_the_spec_bounds_it() -> None:
    report = verdict(gather())
    assert report.verdict is Verdict.PROVED, report


@pytest.mark.parametrize("facts", ["", ", min = 0", ', max = "C - 1"', ', min = 0, max = "C"', ", min = -1"])
def test_without_the_fact_the_load_is_out_of_bounds(facts: str) -> None:
    report = verdict(gather(facts))
    assert report.result("B1").verdict is Verdict.REFUTED
    assert report.verdict is Verdict.REFUTED


@pytest.mark.parametrize("column", ["c % max(C, 1)", "maximum(minimum(c, C - 1), 0)"])
def test_a_kernel_may_rely_on_more_than_it_needs(column: str) -> None:
    """A clamp that does nothing under the facts."""
    assert verdict(gather(), column).result("B1").verdict is Verdict.PROVED


@pytest.mark.parametrize("column", ["c * 0", "C - 1 - c", "maximum(c - 1, 0)"])
def test_another_cell_is_another_value(column: str) -> None:
    report = verdict(gather(), column)
    assert report.result("E1").verdict is Verdict.REFUTED


def test_facts_that_no_input_keeps_are_no_premise() -> None:
    """At C = 1 there is no label in 1..C-1: those sizes are not admitted, and V1 must not rest on them."""
    bound = gather(', min = 1, max = "C - 1"')
    assert not check_requires(bound, {"R": 2, "C": 1})
    assert check_requires(bound, {"R": 2, "C": 2})


# ---- facts in the solver -----------------------------------------------------------------------


def context(*facts: Bool) -> Context:
    reset()
    n = symbol("N", 0)
    table = Table((n,), 32, lift(0), n - 1)
    return Context(Prover(Ledger(CellFacts({"T": table}))), facts)


def at(index: Any) -> Any:
    return cell("T", (index,))


def test_a_fact_holds_inside_the_tensor_only() -> None:
    x = context()
    n, i = symbol("N", 0), symbol("i")
    assert x.given(conj((ge0(i), lt(i, n)))).entails(lt(at(i), n))
    assert not x.given(ge0(i)).entails(lt(at(i), n))
    assert not x.given(lt(i, n)).entails(ge0(at(i)))


def test_no_cell_means_no_contradiction() -> None:
    """N = 0: T has no cell, and 0 <= T[i] <= -1 for none of them contradicts nothing."""
    x = context()
    n, i = symbol("N", 0), symbol("i")
    empty = x.given(le(n, 0))
    assert not empty.given(boolean("eq", at(i))).impossible


def test_equal_indices_equal_cells_and_nothing_else() -> None:
    x = context()
    i, k = symbol("i"), symbol("k")
    same = boolean("eq", i - k)
    assert x.given(same).entails(boolean("eq", at(i) - at(k)))
    assert not x.entails(boolean("eq", at(i) - at(k)))
    assert not x.given(boolean("eq", at(i) - at(k))).entails(same)


def test_facts_join_the_body_of_a_quantifier() -> None:
    """exists v in 0..N-1 with T[v] >= N: false, though no cell stands outside the quantifier."""
    x = context()
    n = symbol("N", 0)
    v = fresh("v")
    beyond = boolean("exists", (as_int(v),), conj((ge0(as_int(v)), lt(as_int(v), n), ge0(at(as_int(v)) - n))))
    outside = boolean("exists", (as_int(v),), conj((ge0(as_int(v)), ge0(at(as_int(v)) - n))))
    assert x.entails(~beyond)
    assert not x.entails(~outside)


def test_a_cell_of_a_bound_symbol_says_nothing_outside() -> None:
    x = context()
    n, v = symbol("N", 0), fresh("v")
    some = boolean("exists", (as_int(v),), conj((ge0(as_int(v)), boolean("eq", at(as_int(v)) - 5))))
    assert not x.given(some).entails(boolean("eq", at(lift(0)) - 5))
    assert not x.given(some).given(lt(lift(5), n)).impossible


# ---- inputs, launcher --------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_inputs_keep_the_facts(name: str) -> None:
    bound = gather()
    for sizes in ({"R": 40, "C": 7}, {"R": 3, "C": 1}):
        assert broken_fact(bound, sizes, generate(name, 0, bound, sizes, {})) is None


def test_a_broken_fact_is_found() -> None:
    bound, sizes = gather(), {"R": 3, "C": 4}
    inputs = generate("normal", 0, bound, sizes, {})
    inputs["label"] = np.array([0, 4, 1])
    assert broken_fact(bound, sizes, inputs) == "label holds 4, above 3"


def test_interpreter_and_evaluator_read_the_same_cell() -> None:
    bound, sizes = gather(), {"R": 21, "C": 5}
    inputs = generate("normal", 1, bound, sizes, {})
    outcome = interpret(check(parse(KERNEL.format(column="c")), bound), bound, sizes, {}, inputs, Mode.EXACT)
    wanted = inputs["X"][np.arange(21), inputs["label"]]
    assert outcome.faults == ()
    assert np.array_equal(outcome.tensors["Y"], wanted)
    assert np.array_equal(evaluate(bound, sizes, {}, inputs)["Y"], wanted)


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    bound, text = gather(), KERNEL.format(column="c")
    path = tmp_path_factory.mktemp("certificates") / "gather.cert.json"
    lower(certificate_for(text, bound), check(parse(text), bound), bound, targets=()).save(path)
    return load(path)


def call(*labels: int) -> dict[str, Any]:
    return {"X": torch.zeros(len(labels), 4), "label": torch.tensor(labels)}


def test_the_launcher_checks_the_facts(launcher: Launcher) -> None:
    launcher.check(call(0, 3, 1))
    with pytest.raises(AssumptionViolated, match=r"^\[facts-label\] label holds 4, the spec says max C - 1 = 3"):
        launcher.check(call(0, 4, 1))
    with pytest.raises(AssumptionViolated, match=r"^\[facts-label\] label holds -1, the spec says min 0 = 0"):
        launcher.check(call(0, -1))


def test_the_check_can_be_left_to_the_caller(launcher: Launcher) -> None:
    launcher.check(call(0, 4), check_facts=False)


def test_an_index_tensor_of_another_dtype_is_refused(launcher: Launcher) -> None:
    with pytest.raises(AssumptionViolated, match=r"^\[dtype\] label is int32, the proof is for int64"):
        launcher.check({"X": torch.zeros(2, 4), "label": torch.tensor([0, 1], dtype=torch.int32)})


# ---- the spec's text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "code", "says"),
    [
        ('dtype = "f32" }\nlabel', 'dtype = "f32", min = 0 }\nlabel', "S002", "`X` of f32 has no `min`"),
        (IN_RANGE, ", abs_max = 4", "S002", "`label` of i64 has no `abs_max`"),
        (IN_RANGE, ", saved = true", "S002", "`label` of i64 has no `saved`"),
        (IN_RANGE, ', max = "C - 1.0"', "S008", "an integer is needed"),
        (IN_RANGE, ', max = "K"', "S006", "`K` is not defined"),
        ('Y = { shape = ["R"], dtype = "f32"', 'Y = { shape = ["R"], dtype = "i32"', "S006", "not a dtype of outputs"),
        ("X[i, label[i]]", "X[i, X[i, 0]]", "S008", "an integer is needed"),
        ("X[i, label[i]]", "X[i, label]", "S007", "`label` is a tensor"),
    ],
)
def test_a_wrong_spec_is_an_error_with_its_code(old: str, new: str, code: str, says: str) -> None:
    text = GATHER.format(facts=IN_RANGE)
    assert old in text
    with pytest.raises(SpecProblem, match=says) as caught:
        parse_spec(text.replace(old, new))
    assert caught.value.code == code


# ---- widths -------------------------------------------------------------------------------------

SAME = """
name = "same"
[dims]
R = {{ min = 1, max = 65536 }}
[inputs]
X = {{ shape = ["R"], dtype = "f32" }}
id = {{ shape = ["R"], dtype = "{dtype}"{facts} }}
[outputs]
Y = {{ shape = ["R"], dtype = "f32" }}
[formula]
empty_row = "undefined"
define = "Y[i] = if {condition} then X[i] else 0"
[layout]
max_stride = 1024
"""
COMPARE = """
kernel compare(t < cdiv(R, 16)):
    i = t * 16 + arange(16)
    a = load(id[i], mask=i < R, other=0)
    b = load(id[0])
    store(Y[i], where({condition}, load(X[i], mask=i < R, other=0), 0.0), mask=i < R)
"""


def compared(dtype: str, facts: str, spec: str, kernel: str) -> Report:
    bound = bind(parse_spec(SAME.format(dtype=dtype, facts=facts, condition=spec)), {})
    text = COMPARE.format(condition=kernel)
    return prove(check(parse(text), bound), bound, text)


@pytest.mark.parametrize(
    ("dtype", "facts", "bits"), [("i64", "", 64), ("i64", ", min = -7, max = 4", 32), ("i32", "", 32)]
)
def test_integers_that_are_only_compared_have_a_width_too(dtype: str, facts: str, bits: int) -> None:
    """Two i64 numbers that agree in their low 32 bits differ: they must not be compared in 32."""
    report = compared(dtype, facts, "id[i] == id[0]", "a == b")
    assert report.verdict is Verdict.PROVED, report
    assert dict(report.index_widths) == {"compare": bits}


@pytest.mark.parametrize(("dtype", "bits"), [("i32", 64), ("i64", None)])
def test_the_negative_of_the_least_integer_needs_a_bit_more(dtype: str, bits: int | None) -> None:
    report = compared(dtype, "", "-id[i] >= id[0]", "-a >= b")
    assert (report.verdict is Verdict.PROVED) is (bits is not None)
    assert bits is None or dict(report.index_widths) == {"compare": bits}


def test_without_sizes_that_keep_the_facts_there_is_no_witness() -> None:
    """No label in C..C-1: V1 must not be shown from cells that happen not to occur."""
    report = verdict(gather(', min = "C", max = "C - 1"'))
    assert report.result("V1").verdict is not Verdict.PROVED
