"""The emitted Gluon: what it reads like, and what the compiler makes of it for sm_90."""

from __future__ import annotations

from typing import Any

import pytest
from hopper_kernels import emitted, typed

from lowering.boxes import with_boxes
from lowering.compile import Resources, compile_kernels
from lowering.hopper.flatten import NotForHopper
from lowering.hopper.gluon import Emitted, emit_program


@pytest.fixture(scope="module")
def forward() -> Emitted:
    return emitted("tests/golden/proved/exp2_folded_scale_causal.tile", {"BM": 128, "BN": 128}, D=128)


@pytest.fixture(scope="module")
def compiled(forward: Emitted) -> Resources:
    return compile_kernels(forward.source, forward.launches, "sm_90")[0]


LOOP = """\
        for n in range(1, gl_floordiv(gl.minimum(N, t * 128 + 128 + N - M) + 127, 128)):
            mbarrier.wait(k_full.index(k_fills & 1), k_fills >> 1 & 1)
            product = hopper.warpgroup_mma(
                q_tiles.index(0).reshape([128, 128]).slice(team * 64, 64, 0),
                k_tiles.index(k_fills & 1).reshape([128, 128]).permute([1, 0]),
                gl.full([64, 128], 0.0, gl.float32, MMA_4x128),
                use_acc=False,
                is_async=True,
            )
            left = gl.convert_layout(left_held, gl.DotOperandLayout(operand_index=0, parent=MMA_4x128, k_width=2))
            acc_2 = hopper.warpgroup_mma(
                left,
                v_tiles.index((k_fills - 1) & 1).reshape([128, 128]),
                acc_1_now * alpha_held[:, None],
                is_async=True,
            )
            product = hopper.warpgroup_mma_wait(1, deps=[product])
            mbarrier.arrive(k_empty.index(k_fills & 1), count=1)
"""


def test_the_rotated_loop_reads_as_the_asynchronous_program_does(forward: Emitted) -> None:
    assert LOOP in forward.source


def test_rings_filled_alike_share_a_count_and_others_do_not() -> None:
    """A query tile for each turn of the outer loop, keys and values for each of the inner one."""
    source = emitted("tests/golden/proved/loop_over_row_tiles.tile", {"BM": 64, "BN": 64}).source
    assert source.count("q_fills = 0") == source.count("k_fills = 0") == 2 and "v_fills" not in source
    assert "v_tiles.index(k_fills & 1)" in source and "v_tiles.index(q_fills" not in source


def test_a_read_tile_is_fenced_before_its_slot_is_given_back() -> None:
    source = emitted("specs/bias/online.tile", {"BM": 64, "BN": 64}).source
    reads = [line.strip() for line in source.splitlines() if ".load(" in line and "_tiles.index" in line]
    assert reads
    ring = reads[0].split(" = ")[1].split("_tiles")[0]
    lines = [line.strip() for line in source.splitlines()]
    gives = [at for at, line in enumerate(lines) if line.startswith(f"mbarrier.arrive({ring}_empty")]
    assert gives and all(lines[at - 1] == "hopper.fence_async_shared()" for at in gives)


def test_kernels_without_dots_stay_in_triton() -> None:
    both = emitted("tests/golden/proved/split_in_chunks.tile", {"BM": 64, "BN": 64})
    assert "@triton.jit" in both.source and "@gluon.jit" in both.source
    assert list(both.reasons) == ["combine"]
    kinds: list[set[Any]] = [{a[0] for a in launch["args"]} & {"tiles", "descriptor"} for launch in both.launches]
    assert kinds == [{"tiles"}, set()]


def test_indices_of_64_bits_are_no_corners_of_boxes() -> None:
    program, bound = typed("tests/golden/proved/fa2_none.tile", {"BM": 64, "BN": 64})
    widths = {k.name: 64 for k in program.kernels}
    with pytest.raises(NotForHopper, match="shared operand is loaded"):
        emit_program(program, with_boxes(program, widths, copied=True), bound, widths)


def test_the_machine_code_has_a_producer_and_spills_nothing(compiled: Resources) -> None:
    assert (compiled.spills, compiled.warps, compiled.warp_specialized) == (0, 12, True)
    assert compiled.tma == 10  # Q, then K and V twice, each tile two boxes of 64 columns
    assert compiled.tensor_core == 2 * 32  # of two teams, each with two loops' worth of 8 + 8
    assert compiled.shared < 227 * 1024


def test_exponentials_run_beside_the_second_dot(compiled: Resources) -> None:
    assert compiled.code is not None
    loop = next(b for b in compiled.code["loops"] if "HGMMA" in b["ops"] and "MUFU" in b["ops"])
    waits = [(p["until"], p["left"]) for p in loop["phases"]]
    first, second = waits.index(("dots", 1)), waits.index(("dots", 0))
    assert sum(p.get("started", 0) for p in loop["phases"][: first + 1]) == 16  # both dots are issued
    special = [p.get("special", 0) for p in loop["phases"]]
    assert sum(special[first + 1 : second + 1]) == sum(special) > 0


def test_five_products_of_a_gradient_are_in_flight_together() -> None:
    """Eight HGMMA each of K Q^T, V dO^T and K^T dS^T, four each of dV and dK; two teams. They add to dQ two cells at
    a time, and spill, if at all, around the loop over queries."""
    both = emitted("specs/attention_bwd/specialised_fused_none.tile", {})
    launch = next(k for k in both.launches if k["kernel"] == "gradients")
    assert launch["protocol"]["consumers"][0][-1] == ["for", ["for", *ONE_ITERATION]]
    (found,) = compile_kernels(both.source, [launch], "sm_90")
    assert found.tensor_core == 64 and found.registers == 168 and found.spills <= 48 and found.code
    loop = next(block for block in found.code["loops"] if "HGMMA" in block["ops"])
    assert loop["ops"]["HGMMA"] == 32 and loop["ops"]["REDG"] == 16 and not loop["spills"]


ONE_ITERATION = [
    "wait", "dot", "wait", "dot", "dots left 1", "wait", "dot", "dots left 1", "fence", "arrive 1", "wait", "dot",
    "wait", "write", "fence", "arrive 1", "wait", "dot",
    "dots left 2", "arrive 1", "fence", "arrive 1", "dots left 1", "arrive 1", "dots left 0", "arrive 1",
]  # fmt: skip
