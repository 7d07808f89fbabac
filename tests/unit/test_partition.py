"""Specialised warps: in which kernels, and with tiles that Triton's cut in two does not break."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lowering_cases import attention, certificate_for, documented, typed, widths
from triton.runtime import _allocation

from ir.program import Load, Program
from lowering.boxes import with_boxes
from lowering.crosscheck import crosscheck
from lowering.launch import prepared
from lowering.lower import lower, versions_of
from lowering.partition import can_specialise, whole_loads
from lowering.plan import launches_of
from lowering.triton import emit_program
from lowering.versions import left_out, versions_in

ASKED = documented().replace("num_warps = 8, num_stages = 3", "num_warps = 4, num_stages = 2, warp_specialize = true")
TAIL = """\
    for n in range(0, 2) carry acc:
        acc = dot(q, trans(zeros([D, D], Q.dtype)), acc)
"""


def emitted(program: Program, specialised: bool = True) -> tuple[str, Program]:
    other = with_boxes(program, widths(program, 32), specialised=specialised)
    return emit_program(other, attention(), widths(program, 64), index_widths=widths(program, 32)), other


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("warp_specialize = true", "warp_specialize = false"),
        ("num_warps = 4", "num_warps = 8"),  # Triton keeps eight warps all alike
        ("BM = 128", "BM = 64"),  # nothing to cut: both groups would do all the work
        ("BN = 64", "BN = 256"),  # columns may be cut instead
        ("    l_safe", TAIL + "    l_safe"),  # a second loop with products
        ("    store(LSE", "    atomic_add(T[b, h, i], l, mask=i < M)\n    store(LSE"),  # would be added twice
    ],
)
def test_kernels_that_are_not_specialised(old: str, new: str) -> None:
    bound = attention()
    text = ASKED.replace(old, new)
    text = text.replace("kernel ", "scratch T[B, H, M]: f32\nkernel ", 1) if "T[" in text else text
    program = typed(text, bound)
    assert can_specialise(typed(ASKED, bound).kernels[0]) and not can_specialise(program.kernels[0])
    source, other = emitted(program)
    assert "warp_specialize" not in source and other == with_boxes(program, widths(program, 32))


def test_right_operands_come_through_the_hosts_descriptor_and_rows_through_one_made_here() -> None:
    program = typed(ASKED, attention())
    assert {load.tensor for load in whole_loads(program.kernels[0])} == {"K", "V"}
    source, _ = emitted(program)
    assert "K_64x64.load([b, g, n * 64, 0]).reshape([64, 64])" in source
    made = "tl.make_tensor_descriptor(Q + b * Q_s0 + h * Q_s1, [M, 64], [Q_s2, 1], [128, 64]).load([t * 128, 0])"
    assert made in source and "O_rows.store([t * 128, 0], " in source
    assert "warp_specialize=True" in source


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("dot(q, trans(k))", "dot(q + cast(sum(k, axis=0)[None, :], Q.dtype), trans(k))", {"V"}),
        ("s = dot(q, trans(k)) * scale", "kt = trans(k)\n        s = dot(q, kt) * scale", {"K", "V"}),
        ("dot(q, trans(k))", "dot(q, trans(k + k))", {"V"}),
    ],
)
def test_a_tile_used_otherwise_may_be_cut(old: str, new: str, left: set[str]) -> None:
    kernel = typed(ASKED.replace(old, new), attention()).kernels[0]
    assert {load.tensor for load in whole_loads(kernel)} == left
    assert all(isinstance(load, Load) for load in whole_loads(kernel))


def test_a_mask_on_a_scalar_index_needs_the_whole_descriptor() -> None:
    """A descriptor of rows starts at the scalar indices, unchecked: a mask that excludes them must stay a mask."""
    text = ASKED.replace("mask=i[:, None] < M, other=0", "mask=(i[:, None] < M) and (h < H), other=0")
    program = typed(text, attention())
    assert "Q_128x64.load(" in emitted(program, specialised=False)[0]
    source, _ = emitted(program)
    assert "make_tensor_descriptor(Q" not in source and "Q_128x64" not in source


def test_the_specialised_module_agrees_on_ragged_sizes() -> None:
    program = typed(ASKED, attention())
    source, other = emitted(program)
    shapes = ({"B": 1, "G": 1, "H": 2, "M": 131, "N": 70}, {"B": 2, "G": 1, "H": 1, "M": 1, "N": 3})
    crosscheck(source, program, attention(), shapes, launches=launches_of(other)).require()


def test_the_compiled_kernel_has_more_warps_and_no_product_twice() -> None:
    bound = attention()
    certificate = certificate_for(ASKED, bound).with_section("index_widths", {"attention": 32})
    section = lower(certificate, typed(ASKED, bound), bound, ("sm_90",)).body["lowered"]
    *_, specialised, descriptors, pointers = versions_in(section)
    assert [v.name for v in (specialised, descriptors, pointers)] == ["specialised", "descriptors", "pointers"]
    assert specialised.when[-1][:2] == ["agrees", "pointers"]  # on the device, before it is used
    first, second = specialised.resources["sm_90"][0], descriptors.resources["sm_90"][0]
    assert first["warp_specialized"] and first["warps"] == 12 and not second["warp_specialized"]
    assert first["tensor_core"] == second["tensor_core"] and first["spills"] == 0
    assert pointers.resources["sm_90"][0]["tma"] == 0


def test_no_descriptor_is_made_inside_the_loop() -> None:
    again = "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=0)"
    text = ASKED.replace("s = where(sees", f"s = s + sum(cast({again}, f32), axis=1)[:, None]\n        s = where(sees")
    source, _ = emitted(typed(text, attention()))
    assert source.count("tl.make_tensor_descriptor(") == 2  # Q before the loop, O after it
    assert "Q + b * Q_s0" in source.split("for n in")[1]


@pytest.mark.thorough
def test_a_version_the_compiler_refuses_is_left_out() -> None:
    """A bias inside the specialised loop would have to be cut; Triton refuses to load it through pointers."""
    bound = attention()
    text = ASKED.replace("s = where(sees", "s = s + cast(load(Q[b, h, i[:, None], e[None, :]], "
                         "mask=i[:, None] < M, other=0), f32)\n        s = where(sees")  # fmt: skip
    certificate = certificate_for(text, bound).with_section("index_widths", {"attention": 32})
    program = typed(text, bound)
    assert "specialised" in [v.name for v in versions_of(certificate, program, bound)]
    section = lower(certificate, program, bound, ("sm_90",)).body["lowered"]
    assert "specialised" not in [v.name for v in versions_in(section)]
    assert "specialised" in [m.version for m in left_out(section)]
    assert [v.name for v in versions_in(section)][-2:] == ["descriptors", "pointers"]


def test_memory_for_descriptors_is_given_for_the_launch_alone() -> None:
    seen = []
    module = SimpleNamespace(kernel={(1,): lambda **options: seen.append(_allocation._allocator.get())})
    schedule = {"num_warps": 4, "num_stages": 2, "maxnreg": None}
    launch = {"kernel": "kernel", "grid": [1], "args": [], "workspace": True, "schedule": schedule}
    before = _allocation._allocator.get()
    prepared(module, [launch], {}, {}, {}, [1])()  # type: ignore[arg-type]
    assert len(seen) == 1 and seen[0] is not before and _allocation._allocator.get() is before
