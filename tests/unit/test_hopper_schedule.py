"""Typed kernels become asynchronous programs whose protocol holds and whose values are those of the program."""

from __future__ import annotations

import numpy as np
import pytest
from hopper_kernels import asynchronous, typed

from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.program import Var
from lowering.boxes import with_boxes
from lowering.hopper.async_program import (
    AsyncKernel,
    Copy,
    If,
    IssueDot,
    Loop,
    Release,
    Tile,
    WaitDots,
    WaitEmpty,
    WaitFull,
    Write,
)
from lowering.hopper.flatten import NotForHopper
from lowering.hopper.protocol import Verified, verify
from lowering.hopper.schedule import SHARED, schedule
from lowering.hopper.simulate import adversaries, simulate
from lowering.plan import walk

TILES = {"BM": 64, "BN": 64}


@pytest.fixture(scope="module")
def causal() -> AsyncKernel:
    program, _ = typed("tests/golden/proved/exp2_folded_scale_causal.tile", {"BM": 128, "BN": 128}, D=128)
    return asynchronous(program)["attention"]


def test_the_last_dot_of_an_iteration_runs_beside_the_next_ones_vector_work(causal: AsyncKernel) -> None:
    branch = next(s for s in causal.consumer if isinstance(s, If))
    loop = next(s for s in branch.body if isinstance(s, Loop))
    steps = [s for s in loop.body if isinstance(s, IssueDot | WaitDots | WaitFull | Release)]
    scores, values = (s for s in steps if isinstance(s, IssueDot))
    assert scores.right.ring == "K" and scores.right.transposed and values.right.ring == "V"
    assert steps == [
        WaitFull("K"), scores, values, WaitDots(1), Release("K"), WaitFull("V"), WaitDots(0), Release("V")
    ]  # fmt: skip
    where = loop.body.index(WaitDots(1)), loop.body.index(WaitDots(0))
    names = [getattr(s, "name", "") for s in loop.body[slice(*where)]]
    assert {"m_new", "p", "alpha"} <= set(names)


def test_rings_fit_and_what_is_read_once_has_one_slot(causal: AsyncKernel) -> None:
    assert {r.name: r.stages for r in causal.rings} == {"Q": 1, "K": 2, "V": 2}
    assert causal.schedule.num_warps == 8
    assert causal.shared_bytes < SHARED


def test_the_producer_keeps_only_what_copies_need(causal: AsyncKernel) -> None:
    copies = [n.ring for n in walk(causal.producer) if isinstance(n, Copy)]
    assert copies == ["Q", "K", "V", "K", "V"]
    assert not any(isinstance(n, IssueDot | WaitFull) for n in walk(causal.producer))


def test_more_stages_than_fit_are_taken_back() -> None:
    program, _ = typed("tests/golden/proved/fa2_none.tile", {"BM": 64, "BN": 128}, D=256)
    kernel = asynchronous(program)["attention"]
    assert {r.name: r.stages for r in kernel.rings} == {"Q": 1, "K": 1, "V": 2}  # V is held while the next arrives


KERNELS = [
    "tests/golden/proved/exp2_folded_scale.tile",
    "tests/golden/proved/fa1_normalised.tile",  # not of the rotated form
    "tests/golden/proved/loop_over_row_tiles.tile",  # a loop over query tiles around it
    "tests/golden/proved/carried_offset.tile",  # the producer carries an index
    "specs/window/exp2_lazy.tile",
    "tests/golden/proved/transposed_scores.tile",  # weights are a dot's right operand: written to shared memory
]


@pytest.mark.parametrize("path", KERNELS)
def test_protocols_are_verified(path: str) -> None:
    program, _ = typed(path, TILES)
    for kernel in asynchronous(program).values():
        found = verify(kernel)
        assert isinstance(found, Verified), found


@pytest.mark.parametrize("path", ["tests/golden/proved/body_and_diagonal.tile", KERNELS[1], KERNELS[-1]])
def test_values_are_those_of_the_program(path: str) -> None:
    program, bound = typed(path, TILES)
    sizes = {"B": 1, "H": 2, "G": 1, "M": 70, "N": 135}
    parameters = {"scale": 0.125}
    inputs = generate("normal", 0, bound, sizes, parameters)
    wanted = interpret(program, bound, sizes, parameters, inputs, Mode.MACHINE).tensors
    for adversary in adversaries(2):
        got = simulate(asynchronous(program), program, bound, sizes, parameters, inputs, adversary)
        assert not got.faults
        for name in ("O", "LSE"):
            assert np.array_equal(got.tensors[name], wanted[name])


def test_an_operand_both_teams_read_is_written_after_the_dot_that_has_it_in_registers() -> None:
    """Five products of a gradient: dQ adds K^T dS^T, of whose right operand each team computes half."""
    program, _ = typed("specs/attention_bwd/specialised_fused_none.tile")
    boxed = with_boxes(program, {k.name: 32 for k in program.kernels}, copied=True)
    kernel = schedule(boxed.kernels[1])
    ring = kernel.ring("ds_written")
    assert ring.written and ring.shape == (128, 64) and ring.stages == 2
    assert not any(isinstance(n, Copy) and n.ring == ring.name for n in walk(kernel.producer))
    loop = next(n for n in walk(kernel.consumer) if isinstance(n, Loop) and n.counter == "n")
    steps = [s for s in loop.body if isinstance(s, IssueDot | WaitDots) or getattr(s, "ring", "") == ring.name]
    first, second, dv, dk, dq = (s for s in steps if isinstance(s, IssueDot))
    assert dq.left == Tile("K", transposed=True) and not isinstance(dk.left, Tile)
    assert steps == [
        first, second, WaitDots(1), dv, WaitDots(1), dk,
        WaitEmpty(ring.name), Write(ring.name, Var("ds", dk.left.type)), WaitFull(ring.name), dq,
        WaitDots(2), WaitDots(1), WaitDots(0), Release(ring.name),
    ]  # fmt: skip
    assert isinstance(verify(kernel), Verified)


def test_a_left_operand_that_is_a_transpose_is_written_and_read_transposed() -> None:
    """The same gradient with queries as rows: what is cast and transposed for dV and dK goes through shared memory."""
    program, bound = typed("specs/attention_bwd/fused_atomic_none.tile", TILES, dtype="bf16", D=64)
    boxed = with_boxes(program, {k.name: 32 for k in program.kernels}, copied=True)
    kernel = schedule(boxed.kernels[1])
    lefts = [n.left for n in walk(kernel.consumer) if isinstance(n, IssueDot)]
    assert [t.transposed for t in lefts if isinstance(t, Tile) and kernel.ring(t.ring).written] == [True, True]
    assert isinstance(verify(kernel), Verified)
    sizes, parameters = {"B": 1, "H": 2, "G": 1, "M": 130, "N": 70}, {"scale": 0.125}
    inputs = generate("normal", 0, bound, sizes, parameters)
    wanted = interpret(program, bound, sizes, parameters, inputs, Mode.MACHINE).tensors
    for adversary in adversaries(2):
        got = simulate({kernel.name: kernel}, program, bound, sizes, parameters, inputs, adversary)
        assert not got.faults
        assert all(np.array_equal(got.tensors[name], wanted[name]) for name in ("dQ", "dK", "dV"))


@pytest.mark.parametrize(
    ("path", "metas", "reason"),
    [
        ("tests/golden/proved/fa2_fp32_d128.tile", {}, "f32 operands"),
        ("specs/paged/gathered.tile", TILES, "shared operand is loaded, but not as a box"),
        ("specs/softmax/online.tile", {}, "no dot"),
        ("tests/golden/proved/fa2_none.tile", {"BM": 32, "BN": 64}, "wgmma takes rows of 64"),
    ],
)
def test_what_has_no_asynchronous_program_is_named(path: str, metas: dict[str, int], reason: str) -> None:
    program, _ = typed(path, metas)
    with pytest.raises(NotForHopper, match=reason):
        asynchronous(program)
