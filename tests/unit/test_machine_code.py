"""Reading machine code: loops by control flow, what an instruction occupies, where a warp waits, where spills are."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from lowering_cases import typed, widths

from ir.loader import bind, load_spec
from ir.program import Program
from lowering.compile import compile_kernels
from lowering.instructions import read_amd, read_sass
from lowering.outline import outline
from lowering.phases import code_summary
from lowering.plan import launches_of
from lowering.triton import emit_program
from synth.bench.cost import predict
from synth.bench.counts import count
from synth.bench.matching import match
from synth.propose.choices import Choices
from synth.propose.embedded import written


def listing(*rows: str, stalls: int = 1) -> str:
    """cuobjdump's text for instructions 16 bytes apart; no scoreboards (7 is none)."""
    control = (stalls | 7 << 5 | 7 << 8) << 41
    lines = [
        f"        /*{16 * k:04x}*/    {row} ;    /* 0x{0:016x} */\n            /* 0x{control:016x} */"
        for k, row in enumerate(rows)
    ]
    return "\tFunction : kernel\n" + "\n".join(lines)


LOOP = ("MOV R0, RZ", "FFMA R1, R2, R3, R1", "MUFU.EX2 R4, R1", "@P0 BRA 0x10", "EXIT", "BRA 0x50")


def test_a_backward_branch_closes_a_loop_and_the_rest_is_straight() -> None:
    found = outline(read_sass(listing(*LOOP), "sm_90"))
    assert [i.op for i in found.straight] == ["MOV", "EXIT"]  # the padding after the end is not reached
    assert [(loop.depth, [i.op for i in loop.body]) for loop in found.loops] == [(1, ["FFMA", "MUFU", "BRA"])]


def test_loops_nest() -> None:
    rows = ("MOV R0, RZ", "IADD3 R1, R1, R2, RZ", "FADD R3, R3, R4", "@P0 BRA 0x20", "@P1 BRA 0x10", "EXIT")
    found = outline(read_sass(listing(*rows), "sm_90"))
    assert [(loop.depth, [i.op for i in loop.body]) for loop in found.loops] == [
        (1, ["IADD3", "BRA"]), (2, ["FADD", "BRA"]),
    ]  # fmt: skip


def test_cold_code_that_jumps_back_is_no_loop_and_polling_is_a_wait() -> None:
    """Waiting for a signal in memory: the second try is out of the way and jumps back into the middle."""
    rows = (
        "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2", "@!P0 BRA 0x40", "FADD R1, R1, R2", "EXIT",
        "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2", "@!P0 BRA 0x40", "BRA 0x20",
    )  # fmt: skip
    found = outline(read_sass(listing(*rows), "sm_90"))
    assert found.loops == ()
    assert [i.waits_for for i in found.straight if i.waits_for] == ["signal"]


def test_a_call_that_the_assembler_uses_as_a_jump_keeps_the_loop() -> None:
    rows = ("MOV R0, RZ", "FADD R1, R1, R2", "@!P2 CALL.REL.NOINC 0x40", "BRA 0x10", "EXIT")
    (loop,) = outline(read_sass(listing(*rows), "sm_80")).loops
    assert [i.op for i in loop.body] == ["FADD", "CALL", "BRA"]


@pytest.mark.parametrize(
    ("text", "flops", "cycles"),
    [
        ("HGMMA.64x128x16.F32.BF16 R24, R120, gdesc[UR8].tnspB, R24", 64 * 128 * 16 // 2, 64),  # N / 2
        ("HGMMA.64x64x16.F32.BF16 R88, gdesc[UR8], R88, gsb0", 64 * 64 * 16 // 2, 32),
        ("HGMMA.64x32x16.F32.BF16 R40, gdesc[UR8], R40", 64 * 32 * 16 // 2, 24),  # both operands from shared memory
        ("HMMA.16816.F32.BF16 R4, R8, R10, R4", 2 * 16 * 8 * 16, 6.4),
        ("UTCHMMA gdesc[UR6], gdesc[UR8], tmem[UR22], tmem[UR48], idesc[UR49], !UPT", 0, 0),
        ("FROBNICATE.X R1, R2", 0, 0),  # never seen: a slot, nothing else
    ],
)
def test_matrix_instructions_by_shape(text: str, flops: int, cycles: float) -> None:
    (found,) = read_sass(listing(text), "sm_90")
    assert (found.flops, found.cycles) == (flops, cycles)


@pytest.mark.parametrize(
    ("text", "unit", "cycles"),
    [
        ("MUFU.EX2 R1, R2", "special", 8), ("FFMA R1, R2, R3, R4", "fma", 1), ("FMNMX R1, R2, R3, !PT", "alu", 2),
        ("LDS.128 R4, [R2]", "shared", 16), ("LDSM.16.M88.4 R4, [R2]", "shared", 16), ("STL [R1+0x8], R2", "shared", 4),
        ("SHFL.BFLY PT, R1, R2, 0x2, 0x1f", "shared", 4), ("@!PT LDS RZ, [RZ]", "", 0),
        ("LDG.E.U16 R4, desc[UR4][R2.64]", "shared", 2),
    ],
)  # fmt: skip
def test_what_an_instruction_occupies(text: str, unit: str, cycles: float) -> None:
    (found,) = read_sass(listing(text), "sm_90")
    assert (found.unit, found.cycles) == (unit, cycles)


def test_phases_end_where_the_warp_waits() -> None:
    rows = (
        "FADD R1, R1, R2", "HGMMA.64x64x16.F32.BF16 R88, gdesc[UR8], R88, gsb0", "WARPGROUP.DEPBAR.LE gsb0, 0x1",
        "MUFU.EX2 R4, R1", "BAR.SYNC.DEFER_BLOCKING 0x2, 0x80", "DEPBAR.LE SB0, 0x2", "@P0 BRA 0x0", "EXIT",
    )  # fmt: skip
    found = code_summary(listing(*rows), "sm_90")
    assert found is not None
    (loop,) = found["loops"]
    ends = [(p["until"], p["left"]) for p in loop["phases"]]
    assert ends == [("start", 0), ("dots", 1), ("barrier", 4), ("loads", 2), ("", 0)]
    assert loop["phases"][0]["dots"] == 32 and loop["phases"][2]["special"] == 8


def test_a_warp_alone_takes_the_compilers_stalls_and_the_units_time() -> None:
    slow, fast = (code_summary(listing(*LOOP, stalls=stalls), "sm_90") for stalls in (10, 1))
    assert slow is not None and fast is not None
    assert slow["loops"][0]["phases"][0]["alone"] == 30
    assert fast["loops"][0]["phases"][0]["alone"] == 8  # one exponential after the other


def test_amd_text_has_the_same_parts() -> None:
    text = """
	s_load_dwordx4 s[0:3], s[4:5], 0x0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	buffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen
	s_waitcnt vmcnt(0)
	v_mfma_f32_32x32x8_bf16 v[2:17], v[18:19], v[20:21], v[2:17]
	v_exp_f32_e32 v1, v1
	s_cbranch_scc1 .LBB0_1
; %bb.2:
	s_endpgm
"""
    (loop,) = outline(read_amd(text)).loops
    assert [i.op for i in loop.body][0] == "buffer_load_dwordx4" and len(loop.body) == 5
    assert sum(i.flops for i in loop.body) == 2 * 32 * 32 * 8
    found = code_summary(text, "gfx942")
    assert found is not None and [p["until"] for p in found["loops"][0]["phases"]] == ["loads", ""]


def test_text_that_is_no_listing_is_no_summary() -> None:
    assert code_summary("", "sm_90") is None and code_summary("hello", "gfx942") is None


# ---- real kernels -------------------------------------------------------------------------------------------

LONG = {"B": 1, "H": 32, "G": 32, "M": 8192, "N": 8192}
BOUND = bind(load_spec("attention"), {"causal": "bottom_right", "dtype": "bf16", "D": 128})
SMALL = (("meta BM = 128", "meta BM = 64"), ("num_warps = 8", "num_warps = 4"))


def kernel(*replaced: tuple[str, str]) -> tuple[Program, str]:
    text = written(BOUND, Choices(128, 64, base2=True, warps=8, stages=3))
    for old, new in replaced:
        assert old in text, text
        text = text.replace(old, new)
    program = typed(text, BOUND)
    return program, emit_program(program, BOUND, widths(program))


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, Any]]:
    """A causal forward kernel on Hopper: as composed, with few registers, with half the rows and warps."""
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    program, source = kernel()
    launch = launches_of(program)[0]
    few = {**launch, "schedule": {**launch["schedule"], "maxnreg": 128}}
    plain, spilling = compile_kernels(source, [launch, few], "sm_90")
    small, source = kernel(*SMALL)
    (halved,) = compile_kernels(source, launches_of(small), "sm_90")
    return {"plain": asdict(plain), "spilling": asdict(spilling), "small": asdict(halved)}


def seconds(resources: dict[str, Any], program: Program | None = None, sizes: dict[str, int] = LONG) -> float:
    (part,) = predict(program or kernel()[0], BOUND, sizes, "sm_90", [resources]).kernels
    assert part.source == "machine code"
    return part.seconds


def test_the_loop_of_a_compiled_kernel_is_the_programs(compiled: dict[str, Any]) -> None:
    """128 rows, 64 keys, 128 lanes: two products of 2 * 128 * 64 * 128 operations, by eight warps."""
    (loop,) = compiled["plain"]["code"]["loops"]
    assert loop["flops"] * 8 == 2 * 2 * 128 * 64 * 128
    assert loop["ops"]["HGMMA"] == compiled["plain"]["tensor_core"]
    exponentials = sum(p.get("special", 0) for p in loop["phases"]) / 8
    assert 128 * 64 / 256 <= exponentials < 1.2 * 128 * 64 / 256
    assert {"dots", "loads", "barrier"} <= {p["until"] for p in loop["phases"]}
    assert loop["spills"] == 0
    (only,) = count(kernel()[0].kernels[0], kernel()[0], BOUND, LONG, np.arange(4)).loops
    (found,) = match([only], [loop], 8, False) or ()
    assert found.unroll == 1 and only.dots == loop["flops"] * 8


def test_the_summary_is_small_plain_data(compiled: dict[str, Any]) -> None:
    assert len(json.dumps(compiled["plain"]["code"])) < 6000


def test_spills_cost_and_in_the_hot_loop_more_than_outside(compiled: dict[str, Any]) -> None:
    plain, spilling = compiled["plain"], compiled["spilling"]
    assert spilling["spills"] > 0 and spilling["code"]["loops"][0]["spills"] > 0
    # the same occupancy for all, so that only the spills differ
    spilling = {**spilling, "occupancy": plain["occupancy"]}
    outside = {**plain, "code": {**plain["code"], "straight": spilling["code"]["straight"]}}
    assert seconds(outside) == pytest.approx(seconds(plain), rel=0.05)
    assert seconds(spilling) > 1.2 * seconds(outside)


def test_large_tiles_take_less_of_the_cache_on_long_sequences(compiled: dict[str, Any]) -> None:
    """128 rows and eight warps read the keys half as often as 64 rows and four."""
    large, small = (
        predict(kernel(*replaced)[0], BOUND, LONG, "sm_90", [compiled[name]])
        for name, replaced in (("plain", ()), ("small", SMALL))
    )
    assert large.memory < 0.6 * small.memory


def test_skipping_masked_blocks_takes_about_half(compiled: dict[str, Any]) -> None:
    whole = (("cdiv(min(N, N + t * BM + BM - M), BN)", "cdiv(N, BN)"),)
    assert 0.5 < seconds(compiled["plain"]) / seconds(compiled["plain"], kernel(*whole)[0]) < 0.62


def test_one_key_more_than_a_block_costs_a_block(compiled: dict[str, Any]) -> None:
    one, more, two = (seconds(compiled["plain"], sizes={**LONG, "N": n}) for n in (8192, 8193, 8256))
    assert one < more == pytest.approx(two, rel=1e-3)
