"""`skip_ones`: a multiplication by exactly one is left out, and no bit of a result changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from lowering_cases import attention, typed, widths

from ir.inputs import generate
from ir.program import Program
from lowering.compile import compile_kernels
from lowering.crosscheck import Emitted, Run, run_interpreted
from lowering.plan import launches_of, plan
from lowering.triton import emit_program

GOLDEN = Path(__file__).parents[1] / "golden" / "proved"
LAZY = (GOLDEN / "lazy_rescale.tile").read_text()
SKIPPING = LAZY.replace("):\n", "):\n    schedule skip_ones = true\n", 1)
BOUND = attention("none")


def emitted(text: str) -> tuple[str, Program]:
    program = typed(text, BOUND)
    return emit_program(program, BOUND, widths(program), "", widths(program, 32)), program


def test_only_tiles_that_a_loop_carries_are_scaled_so() -> None:
    plain, skipping = emitted(LAZY)[0], emitted(SKIPPING)[0]
    assert "_scaled" not in plain
    assert skipping.count("tl.dot(p.to(tl.bfloat16), v, _scaled(acc, alpha, 1))") == 1
    assert skipping.count("_scaled(") == 2  # that and the definition: neither the row sum nor the end's division
    assert typed(SKIPPING, BOUND).kernels[0].body == typed(LAZY, BOUND).kernels[0].body


def test_factors_of_columns_are_found_on_either_side() -> None:
    turned = SKIPPING.replace("acc * alpha[:, None]", "alpha[None, :] * acc").replace("BM = 32", "BM = 64")
    turned = turned.replace("dot(cast(p, V.dtype), v, alpha[None, :] * acc)", "alpha[None, :] * acc")
    assert emitted(turned)[0].count("acc = _scaled(acc, alpha, 0)") == 1


def test_not_a_bit_changes() -> None:
    """Scores as far apart as the threshold: in some blocks a pivot of the tile moves, in some none does."""
    sizes, parameters = {"B": 1, "H": 1, "G": 1, "M": 7, "N": 135}, {"scale": 2.0}
    (plain, program), (skipping, other) = emitted(LAZY), emitted(SKIPPING)
    never = skipping.replace(".item() != 0", ".item() > 1")
    assert never != skipping
    run = Run(sizes, parameters, generate("normal", 0, BOUND, sizes, parameters))
    modules = [Emitted(plain, launches_of(program), [run])]
    modules += [Emitted(text, launches_of(other), [run]) for text in (skipping, never)]
    [expected], [found], [other_way] = run_interpreted(plan(program, BOUND), modules)
    assert all(np.array_equal(expected[name], found[name], equal_nan=True) for name in expected)
    assert not np.array_equal(expected["O"], other_way["O"], equal_nan=True)


def test_the_branch_compiles_where_the_accumulator_is_in_tensor_memory() -> None:
    source, program = emitted(SKIPPING.replace("meta BM = 32", "meta BM = 64"))
    (row,) = compile_kernels(source, launches_of(program), "sm_100")
    assert row.tensor_memory > 0 and row.spills == 0
