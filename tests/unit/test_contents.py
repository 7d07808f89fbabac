"""What several launches leave in one tensor: when the fold of `verifier.contents` may be used, and what runs.

`SUMS` adds up rows of V over key blocks into a scratch total. Every negative test breaks one side condition of
the total (docs/proof.md); the gate must then stay closed, whatever the algebra would make of the rest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.compile import compile_kernels
from lowering.cpu import execute
from lowering.crosscheck import crosscheck
from lowering.plan import launches_of
from lowering.triton import emit_program
from lowering.values import TORCH
from verifier.contents import held
from verifier.inverse import exact, total
from verifier.operations import Unsupported
from verifier.proof import Proof, analyse
from verifier.prove import prove
from verifier.verdict import Report, Verdict

GOLDEN = Path(__file__).parents[1] / "golden" / "proved"

COLUMN_SUMS = """
name = "column_sums"
doc = "The sum of a matrix over its rows, and each column's own share."
[dims]
N = { min = 0, max = 1048576 }
D = { choices = [16], default = 16 }
[options]
dtype = { choices = ["fp32", "bf16"], default = "fp32" }
[parameters]
[inputs]
X = { shape = ["N", "D"], dtype = "dtype", abs_max = 1e4 }
[outputs]
S = { shape = ["D"], dtype = "dtype" }
[formula]
empty_row = "undefined"
define = "S[e] = sum[j < N](X[j, e])"
[layout]
max_stride = 1048576
[bench]
target = "sm_90"
"""

SUMS = """
meta BN = 16
kernel zero(z < 1):
    e = arange(D)
    store(S[e], zeros([D], f32))

kernel add(n < cdiv(N, BN)):
    e = arange(D)
    j = n * BN + arange(BN)
    x = load(X[j[:, None], e[None, :]], mask=j[:, None] < N, other=0)
    atomic_add(S[e], sum(x, axis=0))
"""
ADD = "    atomic_add(S[e], sum(x, axis=0))\n"


def column_sums(dtype: str = "fp32") -> Bound:
    return bind(parse_spec(COLUMN_SUMS), {"dtype": dtype})


def typed(text: str, bound: Bound) -> Program:
    return check(parse(text), bound, text)


def proof_of(text: str) -> Proof:
    bound = column_sums()
    return analyse(typed(text, bound), bound)


def report(text: str, dtype: str = "fp32") -> Report:
    bound = column_sums(dtype)
    return prove(typed(text, bound), bound, text)


def changed(*changes: tuple[str, str]) -> str:
    text = SUMS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


# ---- where the rule applies ------------------------------------------------------------------


def test_a_total_over_programs_is_the_sum_of_the_spec() -> None:
    found = report(SUMS)
    assert found.verdict is Verdict.PROVED, found.results
    assert dict(found.facts)["run to run"] == "nondeterministic (bitwise): the order of atomic adds into S is not fixed"


def test_unknowns_the_cell_determines_are_inverted_and_the_others_summed() -> None:
    (_, layer) = proof_of(SUMS).layers["S"]
    (w,) = layer.writers
    assert [a.name for a in w.summed] == ["n"]
    assert layer.adds and not layer.mixed


@pytest.mark.parametrize(
    "change",
    [
        [("n < cdiv(N, BN)", "n < cdiv(N, BN), half < 2"), ("x = load", "e = half * 8 + arange(8)\n    x = load")],
        [(ADD, "    atomic_add(S[e], sum(x, axis=0) * 0.5)\n" * 2)],  # two halves of everything
        [("kernel add(n < cdiv(N, BN)):", "kernel add(z < 1):"),
         ("    j = n", "    for n in range(cdiv(N, BN)):\n      j = n"),
         ("    x = load", "      x = load"), (ADD, "  " + ADD)],
        [("sum(x, axis=0)", "x"), ("atomic_add(S[e]", "atomic_add(S[e[None, :]]")],  # lanes of one tile meet
        [("store(S[e], zeros([D], f32))", "j = arange(BN)\n    x = load(X[j[:, None], e[None, :]], "
          "mask=j[:, None] < N, other=0)\n    store(S[e], sum(x, axis=0))"),
         ("n < cdiv(N, BN)", "n < cdiv(N, BN) - 1"), ("j = n * BN", "j = (n + 1) * BN")],  # the base: a block
    ],
    ids=["two halves of the columns", "two adds", "added in a loop", "lanes", "base"],
)  # fmt: skip
def test_totals_in_other_shapes(change: list[tuple[str, str]]) -> None:
    found = report(changed(*change))
    assert found.verdict is Verdict.PROVED, found.results


def test_one_execution_a_cell_is_deterministic() -> None:
    text = SUMS.split("kernel add")[0] + """
kernel add(z < 1):
    e = arange(D)
    s = zeros([D], f32)
    for n in range(cdiv(N, BN)) carry s:
        j = n * BN + arange(BN)
        s = s + sum(load(X[j[:, None], e[None, :]], mask=j[:, None] < N, other=0), axis=0)
    atomic_add(S[e], s)
"""
    found = report(text)
    assert found.verdict is Verdict.PROVED, found.results
    assert dict(found.facts)["run to run"].startswith("deterministic (bitwise)")


# ---- each side condition, broken -------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "obligation"),
    [
        ([("store(S[e], zeros([D], f32))", "store(S[e], zeros([D], f32), mask=e < D - 1)")], "C1"),
        ([("e = arange(D)\n    store", "e = arange(8)\n    store"), ("zeros([D]", "zeros([8]")], "C1"),
        ([(ADD, ADD + ADD)], "E1"),
        ([("n < cdiv(N, BN)", "n < N // BN")], "E1"),
        ([("n < cdiv(N, BN)", "n < cdiv(N, BN), r < 2")], "E1"),
        ([("zeros([D], f32)", "full([D], 1.0, f32)")], "E1"),
        ([("j = n * BN", "j = 1 + n * BN")], "E1"),
        ([(ADD, "    atomic_add(S[e], sum(x, axis=0), mask=e > n)\n")], "E1"),
        ([("atomic_add(S[e]", "atomic_add(S[(e + n) % D]")], "E1"),
        ([("atomic_add(S[e]", "atomic_add(S[e // 2]")], "E1"),
        ([(ADD, "    store(S[e], zeros([D], f32), mask=e < n - N)\n" + ADD)], "C1"),
        ([("sum(x, axis=0)", "sum(x, axis=0) / (load(X[0 * e, e], mask=n >= 0, other=1) - 1.0)")], "D1"),
    ],
    ids=[
        "base has a hole", "base too short", "twice", "tail", "idle axis", "base one", "first row", "mask",
        "rotated by program", "two lanes one cell", "stored and added", "may divide by zero",
    ],
)  # fmt: skip
def test_a_broken_total_is_not_proved(change: list[tuple[str, str]], obligation: str) -> None:
    found = report(changed(*change))
    assert found.verdict is not Verdict.PROVED
    assert found.result(obligation).verdict is not Verdict.PROVED, found.results


def test_an_inverse_that_misses_executions_is_not_exact() -> None:
    """Two lanes meet in one cell: solving e // 2 = c for the lane can only guess one of them."""
    proof = proof_of(changed(("atomic_add(S[e]", "atomic_add(S[e // 2]")))
    (w,) = proof.layers["S"][1].writers
    assert any(a.name.startswith("lane") for a in w.summed) or not exact(w, proof.within(w.access))


def test_a_stored_value_has_no_total() -> None:
    proof = proof_of(SUMS)
    (w,) = proof.layers["S"][0].writers
    assert exact(w, proof.within(w.access))
    (lost,) = proof_of(changed(("kernel zero(z < 1)", "kernel zero(z < 2)"))).layers["S"][0].writers
    assert not exact(lost, proof_of(SUMS).within(lost.access))  # program 1 writes what program 0 does
    with pytest.raises(ValueError, match="total"):
        total(replace(w, inverse=None))


def test_adding_before_anything_is_set_has_no_value() -> None:
    proof = proof_of(SUMS)
    base, added = proof.layers["S"]
    cell = proof.layers["S"][0].writers[0].access.index
    with pytest.raises(Unsupported, match="before any kernel set it"):
        held((added,), cell, proof.within, added.writers[0].access.span)
    assert held((base, added), cell, proof.within, added.writers[0].access.span)


def test_minus_infinity_may_not_be_added() -> None:
    found = report(changed(("sum(x, axis=0)", "where(e < n - N, -inf, sum(x, axis=0))")))
    assert found.result("D1").verdict is Verdict.PROVED  # the branch is never taken
    found = report(changed(("sum(x, axis=0)", "where(e < n, -inf, sum(x, axis=0))")))
    assert found.result("D1").verdict is not Verdict.PROVED


def test_half_precision_totals_are_refused() -> None:
    text = changed(("zeros([D], f32)", "zeros([D], S.dtype)"), ("sum(x, axis=0)", "cast(sum(x, axis=0), S.dtype)"))
    found = report(text, "bf16")
    assert found.result("C1").verdict is Verdict.UNPROVED
    assert "add into f32 and convert" in found.result("C1").residual


def test_s1_bounds_partial_sums_not_their_total() -> None:
    """Over the reals the two adds cancel; on the way a cell holds up to 2^20 rows of 1e4 * 1e34."""
    huge = "    atomic_add(S[e], sum(x, axis=0) * 1e30)\n    atomic_add(S[e], sum(x, axis=0) * -1e30)\n"
    found = report(changed((ADD, huge + ADD)))
    assert found.result("E1").verdict is Verdict.PROVED
    assert found.result("S1").verdict is not Verdict.PROVED
    assert "total of atomic adds" in found.result("S1").residual


def test_a_tensor_read_between_two_stores_must_be_whole_by_then() -> None:
    text = """
scratch T[D]: f32
kernel low(z < 1):
    e = arange(8)
    store(T[e], zeros([8], f32))
kernel copy(z < 1):
    e = arange(D)
    store(S[e], load(T[e]))
kernel high(z < 1):
    e = 8 + arange(8)
    store(T[e], zeros([8], f32))
"""
    assert report(text).result("C1").verdict is not Verdict.PROVED


def test_the_last_store_counts() -> None:
    """Everything is stored twice, the right values first."""
    right = SUMS.replace("kernel zero", "kernel before")
    assert report(right + "\nkernel after(z < 1):\n    e = arange(D)\n    store(S[e], zeros([D], f32))\n").result(
        "E1"
    ).verdict is Verdict.REFUTED


# ---- what it computes ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 16, 37])
def test_interpreter_and_cpu_agree_on_the_total(n: int) -> None:
    bound = column_sums()
    program = typed(SUMS, bound)
    inputs = generate("normal", 1, bound, {"N": n}, {})
    run = interpret(program, bound, {"N": n}, {}, inputs, Mode.MACHINE)
    assert not run.faults
    given = {"X": torch.from_numpy(inputs["X"]).to(TORCH[program.tensor("X").dtype])}
    cpu = execute(program, bound, {"N": n}, {}, given)["S"]
    expected = torch.from_numpy(inputs["X"].sum(axis=0))
    assert torch.allclose(cpu.double(), expected, atol=1e-4)
    assert torch.allclose(torch.from_numpy(run.tensors["S"]), expected, atol=1e-4)


def test_emitted_triton_adds_atomically_and_means_the_same() -> None:
    bound = column_sums()
    program = typed(SUMS, bound)
    source = emit_program(program, bound, {k.name: 64 for k in program.kernels})
    assert "tl.atomic_add(" in source
    found = crosscheck(source, program, bound, ({"N": 0}, {"N": 1}, {"N": 37}))
    assert found.ok, found.cases


def test_a_golden_with_three_launches_runs_and_compiles() -> None:
    text = (GOLDEN / "atomic_key_outer_causal.tile").read_text()
    bound = bind(load_spec("attention"), {"causal": "bottom_right", "dtype": "fp16"})
    program = typed(text, bound)
    source = emit_program(program, bound, {k.name: 64 for k in program.kernels})
    assert [x["kernel"] for x in launches_of(program)] == ["statistics", "accumulate", "convert"]
    assert crosscheck(source, program, bound, ({"B": 1, "H": 2, "G": 1, "M": 37, "N": 70},)).ok
    assert len(compile_kernels(source, launches_of(program), "sm_90")) == 3
