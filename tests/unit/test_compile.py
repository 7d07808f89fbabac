"""Ahead-of-time compilation without a GPU, and what is read back from the machine code."""

from __future__ import annotations

import re

import pytest
from lowering_cases import EVERY_OPERATION, attention, certificate_for, documented, typed, widths

from ir.loader import bind, load_spec
from lowering.compile import TARGETS, CompileError, Resources, compile_kernels, compile_modules, reason
from lowering.lower import lower, versions_of
from lowering.occupancy import occupancy, warps_of
from lowering.plan import launches_of
from lowering.triton import emit_program
from lowering.versions import left_out, versions_in
from synth.propose.choices import Choices
from synth.propose.embedded import written

pytest.importorskip("triton", reason="Triton is not installed on this platform")


def compiled(text: str, target: str, dtype: str = "bf16", bits: int = 64) -> tuple[Resources, ...]:
    bound = attention("bottom_right", dtype)
    program = typed(text, bound)
    source = emit_program(program, bound, widths(program, bits))
    return compile_kernels(source, launches_of(program), target)


@pytest.mark.parametrize("target", list(TARGETS))
def test_attention_compiles_for_every_target_with_tensor_cores(target: str) -> None:
    (found,) = compiled(documented(), target)
    assert found.kernel == "attention" and found.target == target
    assert found.tensor_core > 0 and found.exponentials > 0
    assert 0 < found.registers <= 512
    assert 0 < found.occupancy <= 1
    assert found.shared >= 64 * 64 * 2  # at least one tile of keys
    assert len(found.binary_sha256) == 64 and found.seconds > 0


def test_hopper_uses_its_own_matrix_instructions_without_spilling() -> None:
    (found,) = compiled(documented(), "sm_90")
    assert found.tensor_core == 8 and found.spills == 0


def test_narrow_addresses_take_no_more_registers() -> None:
    (wide,), (narrow,) = compiled(documented(), "sm_90"), compiled(documented(), "sm_90", bits=32)
    assert narrow.registers <= wide.registers


def test_every_operation_compiles_in_every_kernel_of_a_file() -> None:
    rows = compiled(EVERY_OPERATION, "sm_90", dtype="fp32")
    assert [r.kernel for r in rows] == ["fill", "shift"]


def test_warp_specialisation_shows_in_the_compiled_kernel() -> None:
    text = documented().replace("num_warps = 8, num_stages = 3", "num_warps = 4, num_stages = 2")
    asked = text.replace("num_stages = 2", "num_stages = 2, warp_specialize = true")
    (without,), (with_it,) = compiled(text, "sm_100"), compiled(asked, "sm_100")
    assert not without.warp_specialized and without.warps == 4
    assert with_it.warp_specialized and with_it.warps > 4  # the compiler added warps for loads and products


ROW_MAXIMUM = """
kernel row_maximum(b < B, h < H, t < cdiv(M, 32)):
    i = t * 32 + arange(32)
    m = full([32], -inf, f32)
    l = zeros([32], f32)
    for n in range(0, D // 32) carry m, l:
        e = n * 32 + arange(32)
        q = load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=0)
        m = maximum(m, max(q, axis=1))
        l = l + sum(q, axis=1)
        store(O[b, h, i[:, None], e[None, :]], q, mask=i[:, None] < M)
    store(LSE[b, h, i], where(m == -inf, 0.0, m) + m * l + l, mask=i < M)
"""


@pytest.mark.parametrize("target", list(TARGETS))
def test_reductions_folded_by_a_loop_compile_however_often_they_are_used(target: str) -> None:
    (found,) = compiled(ROW_MAXIMUM, target, dtype="fp32")
    assert found.registers > 0


def test_the_reason_of_a_failure_is_the_compilers_line() -> None:
    said = ["k.py:3:0: error: Pipeline failed while executing [`SomePass`]", "RuntimeError: no"]
    assert reason(1, f"Traceback\n  File x\n{said[0]}\n  more\n{said[1]}").splitlines() == said
    assert reason(-11, "") == "the compiler was ended by signal 11"


def test_a_tile_too_small_for_a_dot_is_the_compilers_error() -> None:
    text = documented().replace("BN = 64", "BN = 8")
    with pytest.raises(CompileError, match="sm_90"):
        compiled(text, "sm_90")


def test_a_compiler_that_takes_too_long_is_an_error() -> None:
    bound = attention()
    program = typed(documented(), bound)
    source = emit_program(program, bound, widths(program))
    with pytest.raises(CompileError, match="took longer"):
        compile_kernels(source, launches_of(program), "sm_90", timeout=0.01)


def test_what_goes_wrong_with_one_module_costs_that_one() -> None:
    """A crash, a refusal: the process is lost, and those after it go to another."""
    bound = attention()
    program = typed(documented(), bound)
    whole = emit_program(program, bound, widths(program)), launches_of(program)
    crash, refusal = "import os\nos.abort()\n", "raise RuntimeError('no such layout')\n"
    warning = "import sys\nprint('error: of another module', file=sys.stderr)\n"
    modules = [whole, (crash, []), (warning, []), (refusal, []), whole]
    one, two, warned, three, four = compile_modules(modules, "sm_90")
    assert isinstance(one, tuple) and isinstance(four, tuple)
    assert [r.binary_sha256 for r in one] == [r.binary_sha256 for r in four]
    assert warned == ()
    assert str(two) == "compiling for sm_90 failed: the compiler was ended by signal 6"
    assert str(three) == "compiling for sm_90 failed: RuntimeError: no such layout"


def test_a_kernel_the_target_cannot_hold_is_an_error() -> None:
    with pytest.raises(CompileError, match="attention does not fit on gfx942.*shared memory"):
        compiled(documented().replace("BN = 64", "BN = 128").replace("num_stages = 3", "num_stages = 8"), "gfx942")


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(CompileError, match="gfx942"):
        compiled(documented(), "sm_75")


def test_lower_writes_source_plan_and_resources_into_the_certificate() -> None:
    bound = attention()
    program = typed(documented(), bound)
    certificate = certificate_for(documented(), bound)
    lowered = lower(certificate, program, bound, targets=("sm_90",))
    assert lowered.id != certificate.id
    section = lowered.body["lowered"]
    last = versions_in(section)[-1]
    assert last.source.startswith('"""attention (causal = bottom_right')
    assert last.launches[0]["grid"] == ["B", "H", ["floordiv", ["add", "M", 127], 128]]
    assert last.resources["sm_90"][0]["registers"] > 0


def test_a_version_that_spills_more_than_the_one_that_runs_everywhere_is_left_out() -> None:
    bound = bind(load_spec("attention"), {"dtype": "fp32"})
    text = written(bound, Choices(rows=64, keys=32, split=True, base2=True, warps=8, stages=2))
    program, certificate = typed(text, bound), certificate_for(text, bound)
    certificate = certificate.with_section("index_widths", {k.name: 32 for k in program.kernels})
    assert [v.name for v in versions_of(certificate, program, bound)] == ["descriptors", "pointers"]
    lowered = lower(certificate, program, bound, targets=("sm_90",)).body["lowered"]
    (kept,), (missing,) = versions_in(lowered), left_out(lowered)
    assert kept.name == "pointers" and kept.resources["sm_90"][0]["spills"] == 0
    assert re.fullmatch(r"no version descriptors on sm_90: \d+ spills, more than the 0 of .*", str(missing))


def test_a_version_for_some_targets_is_kept_for_those_it_was_compiled_for() -> None:
    bound = attention()
    program, certificate = typed(documented(), bound), certificate_for(documented(), bound)
    certificate = certificate.with_section("index_widths", {k.name: 32 for k in program.kernels})
    assert [v.name for v in versions_of(certificate, program, bound)] == ["descriptors", "pointers"]
    lowered = lower(certificate, program, bound, targets=()).body["lowered"]
    (unseen,) = versions_in(lowered)
    assert unseen.name == "pointers" and unseen.resources == {}
    assert [(m.version, m.target) for m in left_out(lowered)] == [("descriptors", "sm_90"), ("descriptors", "sm_100")]


def test_occupancy_counts_whole_programs() -> None:
    assert occupancy("sm_90", registers=128, shared=0, warps=4) == 0.25  # 16 warps by registers
    assert occupancy("sm_90", registers=32, shared=100 * 1024, warps=8) == 0.25  # two programs by shared memory
    assert occupancy("sm_90", registers=255, shared=0, warps=16) == 0.0  # one program does not fit
    assert occupancy("gfx942", registers=128, shared=32 * 1024, warps=4) == 0.25
    assert occupancy("gfx942", registers=512, shared=0, warps=4) == 0.125  # one wave on each of 4 SIMDs
    assert occupancy("sm_100", registers=64, shared=0, warps=4, tensor_memory=256) == 0.125  # two have half each


def test_a_schedule_means_the_same_threads_on_every_target() -> None:
    assert [warps_of(warps, 64) for warps in (1, 2, 4, 8)] == [1, 1, 2, 4] and warps_of(8, 32) == 8
    (nvidia,), (amd,) = compiled(ROW_MAXIMUM, "sm_90", dtype="fp32"), compiled(ROW_MAXIMUM, "gfx942", dtype="fp32")
    assert nvidia.warps == 2 * amd.warps
