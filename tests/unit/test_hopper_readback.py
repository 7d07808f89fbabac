"""What is read back of a compiled kernel, and that a kernel which differs is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from hopper_cases import meeting, pipelined, plain
from hopper_kernels import emitted

from ir.program import Statement as CoreStatement
from lowering.compile import CompileError, compile_kernels
from lowering.hopper import schedule as scheduling
from lowering.hopper.async_program import Statement
from lowering.hopper.inorder import in_order
from lowering.hopper.readback import differences, expected, found

TTGIR = """
    ttng.init_barrier %0, 1 : !ttg.memdesc<1xi64>
    ttng.init_barrier %1, 1 : !ttg.memdesc<1xi64>
    ttg.warp_specialize(%a, %b)
    default {
      ttng.wait_barrier %0, %c0_i32, %true : !ttg.memdesc<1xi64>
      %5 = scf.for %n = %c0 to %c9 step %c1 iter_args(%x = %y) -> (i32) : i32 {
        %6 = ttng.warp_group_dot %q, %k, %z, %false {inputPrecision = 0 : i32, isAsync = true} : tensor<64x64xf32>
        %7 = ttng.warp_group_dot_wait %6 {pendings = 0 : i32} : tensor<64x64xf32>
        %8 = "tt.reduce"(%7) <{axis = 1 : i32}> ({
        }) : (tensor<64x64xf32>) -> tensor<64xf32>
        ttng.fence_async_shared {bCluster = false}
        ttng.arrive_barrier %1, 1, %true : !ttg.memdesc<1xi64>
        scf.yield %x : i32
      } loc(#loc1)
      %9 = scf.if %c -> (i32) {
        scf.yield %x : i32
      } else {
        scf.yield %y : i32
      }
      ttng.fence_async_shared {bCluster = false}
      ttg.warp_yield
    }
    partition0(%a: i32) num_warps(1) {
      scf.if %c {
        ttng.barrier_expect %0, 8192, %true : !ttg.memdesc<1xi64>
        ttng.async_tma_copy_global_to_local %a[%b] %t, %0, %true : !tt.tensordesc<tensor<64x64xbf16>>
      }
      ttg.warp_return
    }
"""
READ = {
    "barriers": {"1": 2},
    "producer": [["if", "expect 8192", "copy"]],
    "consumers": [["wait", ["for", "dot", "dots left 0", "fence", "arrive 1"]]],
}
PTX = """
	bar.sync 0, 256;
	@%p1 mbarrier.arrive.shared::cta.b64 _, [%r1];
	bar.sync 0, 256;
	mbarrier.try_wait.parity.shared::cta.b64 complete, [%r1], %r2;
"""


def test_order_and_nesting_are_read_and_loose_fences_left_out() -> None:
    assert found(TTGIR) == READ


def test_an_asynchronous_program_says_what_to_find() -> None:
    tile = 64 * 64 * 2
    assert expected(plain(2, 3)) == {
        "barriers": {"1": 1 + 2 * 2 + 2 * 3},  # Q is copied once: nobody waits for its slot to be empty
        "producer": [f"expect {tile}", "copy", ["for", *["wait", f"expect {tile}", "copy"] * 2]],
        "consumers": [["wait", ["for", *["wait", "dot", "dots left 0", "arrive 1"] * 2], "arrive 1"]],
    }
    shared = expected(replace(plain(2, 3), teams=2))  # a slot is empty when both teams have let it go
    assert (shared["barriers"], len(shared["consumers"])) == ({"1": 1 + 2 + 3, "2": 2 + 3}, 2)
    met = expected(meeting(stages=2, teams=2))  # both barriers of a written slot count teams
    assert met["barriers"] == {"1": 1 + 2, "2": 2 + 2 * 2}
    assert ["wait", "write", "fence", "arrive 1", "wait", "dot"] == met["consumers"][1][1][4:10]
    assert "write" not in str(met["producer"])
    loop = expected(pipelined())["consumers"][0][2]
    assert loop == ["for", "wait", "dot", "wait", "dot", "dots left 1", "arrive 1", "dots left 0", "arrive 1"]


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("barriers", {"1": 1, "2": 1}),
        ("producer", [["for", "expect 8192", "copy"]]),
        ("consumers", [["wait", ["for", "arrive 1"]]]),
        ("consumers", READ["consumers"] * 2),
    ],
)
def test_what_differs_is_named(part: str, wrong: object) -> None:
    assert differences(READ, TTGIR, PTX) == []
    assert [text.split()[0] for text in differences({**READ, part: wrong}, TTGIR, PTX)] == [part]


def test_an_arrival_that_speaks_for_one_warp_only_is_noticed() -> None:
    alone = PTX.replace("	bar.sync 0, 256;\n", "", 1)
    assert differences(READ, TTGIR, alone) == ["1 arrivals without a barrier of the warps before them"]
    for used in ("ld.shared.b32 %r3, [%r4]", "st.shared.b32 [%r4], %r3", "stmatrix.sync.aligned.x4 [%r4], {%r3}"):
        more = f"	{used};\n	mbarrier.arrive.shared::cta.b64 _, [%r5];"
        early = PTX.replace("_, [%r1];", "_, [%r1];\n" + more)
        assert differences(READ, TTGIR, early) == ["1 arrivals without a barrier of the warps before them"]


def test_a_kernel_that_differs_does_not_compile() -> None:
    kernels = emitted("tests/golden/proved/fa1_normalised.tile", {"BM": 64, "BN": 64})
    launches = copy.deepcopy(kernels.launches)
    launches[0]["protocol"]["consumers"][0][1].remove("arrive 1")
    with pytest.raises(CompileError, match="attention synchronises otherwise than was checked: consumers has"):
        compile_kernels(kernels.source, launches, "sm_90")


def test_dots_that_the_assembler_waits_for_one_by_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rotation that holds more than there are registers."""
    monkeypatch.setattr(scheduling, "REGISTERS", 1000)
    monkeypatch.setattr(scheduling.Sequencer, "straight", in_the_order_written)
    wide = emitted("specs/attention_bwd/specialised_none.tile", {})
    (launch,) = [launch for launch in wide.launches if launch["kernel"] == "dkdv"]
    with pytest.raises(CompileError, match="waits for every product"):
        compile_kernels(wide.source, [launch], "sm_90")


def in_the_order_written(
    sequence: scheduling.Sequencer, statements: tuple[CoreStatement, ...], depth: int
) -> tuple[Statement, ...]:
    return in_order(statements, depth, sequence, ahead=False)
