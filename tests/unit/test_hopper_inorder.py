"""Blocks in order: dots issued early and awaited late, what that holds in registers, and vectors copied ahead."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hopper_cases import consumer, dropped
from hopper_kernels import ROOT, typed

from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.parser import parse
from ir.program import DType, Load
from ir.typing import check
from lowering.boxes import with_boxes
from lowering.hopper.async_program import AsyncKernel, IssueDot, Loop, Read, Release, WaitDots, WaitFull
from lowering.hopper.pressure import most_held
from lowering.hopper.protocol import Verified, verify
from lowering.hopper.schedule import Style, schedule, scheduled
from lowering.hopper.simulate import adversaries, simulate
from lowering.plan import walk

GRADIENT = "specs/attention_bwd/specialised_none.tile"
SMALL = {"KM": 64, "KN": 64, "QM": 64, "QN": 64, "BD": 64}


@pytest.fixture(scope="module")
def gradients() -> dict[str, AsyncKernel]:
    program, _ = typed(GRADIENT)
    boxed = with_boxes(program, {k.name: 32 for k in program.kernels}, copied=True)
    return {k.name: schedule(k) for k in boxed.kernels if k.name != "delta"}


def steps(kernel: AsyncKernel) -> list[str]:
    inner = [n for n in walk(kernel.consumer) if isinstance(n, Loop) and not any(isinstance(s, Loop) for s in n.body)]

    def written() -> Iterator[str]:
        for s in inner[0].body:
            match s:
                case WaitFull(ring=ring) | Release(ring=ring):
                    yield f"{'wait' if isinstance(s, WaitFull) else 'release'} {ring}"
                case IssueDot(name=name) | Read(name=name):
                    yield name
                case WaitDots(pending=pending):
                    yield f"wait {pending}"

    return list(written())


def test_products_run_beside_the_exponentials_and_the_differences(gradients: dict[str, AsyncKernel]) -> None:
    assert steps(gradients["dkdv"]) == [
        "wait Q", "product", "wait dO", "dp", "wait 1", "wait L2", "lse_read", "dv_3", "wait 1", "release L2",
        "wait Delta", "delta_read", "dk_3", "wait 1", "release dO", "release Delta", "wait 0", "release Q",
    ]  # fmt: skip
    assert isinstance(verify(gradients["dkdv"]), Verified)


@pytest.mark.parametrize(
    "wanted", [WaitDots(1), WaitFull("Delta"), Release("Delta"), Release("Q")], ids=lambda s: str(s)
)
def test_none_of_its_waits_can_be_left_out(gradients: dict[str, AsyncKernel], wanted: WaitDots | WaitFull) -> None:
    assert not isinstance(verify(consumer(gradients["dkdv"], dropped(wanted))), Verified)


def test_registers_decide_how_much_is_in_flight() -> None:
    """Head dim 128, 64 queries, a team of 64 keys: two accumulators of 64, two tiles of 32, weights twice 16."""
    program, _ = typed(GRADIENT)
    dkdv = with_boxes(program, {k.name: 32 for k in program.kernels}, copied=True).kernels[1]
    assert most_held(schedule(dkdv)) == 64 + 64 + 32 + 32 + 16 + 16
    wide, _ = typed(GRADIENT, {"KM": 128})
    dkdv = with_boxes(wide, {k.name: 32 for k in wide.kernels}, copied=True).kernels[1]
    assert schedule(dkdv) == scheduled(dkdv, Style.WRITTEN) != scheduled(dkdv, Style.AHEAD)


def test_a_loop_whose_dots_have_no_company_is_rotated() -> None:
    program, _ = typed("tests/golden/proved/exp2_folded_scale_causal.tile", {"BM": 128, "BN": 128}, D=128)
    (kernel,) = with_boxes(program, {k.name: 32 for k in program.kernels}, copied=True).kernels
    assert schedule(kernel) == scheduled(kernel, Style.ROTATED) != scheduled(kernel, Style.AHEAD)
    assert steps(schedule(kernel))[:4] == ["wait K", "product", "acc_2", "wait 1"]


def test_values_are_those_of_the_program() -> None:
    program, bound = typed(GRADIENT, SMALL, D=64)
    sizes = {"B": 1, "H": 2, "G": 1, "M": 72, "N": 135}
    inputs = generate("normal", 0, bound, sizes, {"scale": 0.125})
    wanted = interpret(program, bound, sizes, {"scale": 0.125}, inputs, Mode.MACHINE).tensors
    boxed = with_boxes(program, {k.name: 32 for k in program.kernels}, copied=True)
    kernels = {k.name: schedule(k) for k in boxed.kernels if k.name != "delta"}
    for adversary in adversaries(2):
        got = simulate(kernels, program, bound, sizes, {"scale": 0.125}, inputs, adversary)
        assert not got.faults
        for name in ("dQ", "dK", "dV"):
            assert np.array_equal(got.tensors[name], wanted[name])


# ---- vectors that are copied ahead -------------------------------------------------------------


def test_vectors_of_innermost_loops_are_copied_ahead(gradients: dict[str, AsyncKernel]) -> None:
    rings = {r.name: r for r in gradients["dkdv"].rings}
    assert rings["Delta"].shape == (64,) and rings["Delta"].box == (1, 1, 64) and rings["Delta"].dtype is DType.F32
    assert not any(isinstance(n, Load) and n.tensor in ("L2", "Delta") for n in walk(gradients["dkdv"].consumer))
    assert {r.name for r in gradients["dq"].rings} == {"Q", "dO", "K", "V"}  # there they are read once, before the loop


@pytest.mark.parametrize("mask", ["i < M - 1", "i <= M", "i < N", "i + 1 < M"])
def test_a_vector_with_another_mask_is_no_box(mask: str) -> None:
    program, bound = typed(GRADIENT)
    load = "lse = load(L2[b, h, i], mask="
    text = (ROOT / GRADIENT).read_text().replace(f"{load}i < M", load + mask)
    other = check(parse(text), bound)
    boxed = with_boxes(other, {k.name: 32 for k in other.kernels}, copied=True)
    assert "L2" not in {r.name for r in schedule(boxed.kernels[1]).rings}
