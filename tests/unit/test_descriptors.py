"""Loads and stores as boxes: which are, which must not be, and that both spellings compute the same."""

from __future__ import annotations

import pytest
import torch
from lowering_cases import EVERY_OPERATION, attention, certificate_for, documented, typed, widths

from ir.program import Program
from ir.spec import Bound
from lowering.accesses import BoxLoad, BoxStore, descriptor_name
from lowering.boxes import boxed_tensors, with_boxes
from lowering.choose import choose
from lowering.compile import compile_kernels
from lowering.crosscheck import crosscheck, shapes_for
from lowering.lower import lower, versions_of
from lowering.plan import launches_of, plan, walk
from lowering.tensormap import descriptor, strides, unfit
from lowering.triton import emit_program
from lowering.versions import versions_in

COPY = """
kernel copy(b < B, h < H, t < cdiv(M, 32)):
    i = t * 32 + arange(32)
    e = arange(D)
    x = load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=0)
    store(O[b, h, i[:, None], e[None, :]], x, mask=i[:, None] < M)
    store(LSE[b, h, i], sum(cast(x, f32), axis=1), mask=i < M)
"""
LOAD, STORE = "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=0)", "x, mask=i[:, None] < M)"


def rows(count: int) -> str:
    return COPY.replace("t * 32 + arange(32)", f"t * {count} + arange({count})").replace("M, 32", f"M, {count}")


def boxed(text: str, dtype: str = "bf16", bits: int = 32) -> Program:
    program = typed(text, attention("none", dtype))
    return with_boxes(program, widths(program, bits))


def boxes(text: str, dtype: str = "bf16") -> list[str]:
    nodes = [n for kernel in boxed(text, dtype).kernels for n in walk(kernel.body)]
    return [descriptor_name(n.tensor, n.box) for n in nodes if isinstance(n, BoxLoad | BoxStore)]


def agrees(text: str, bound: Bound, shape: dict[str, int]) -> None:
    """The module with descriptors against the reference interpreter's meaning of the program as written."""
    program = typed(text, bound)
    other = with_boxes(program, widths(program, 32))
    source = emit_program(other, bound, widths(program, 64), index_widths=widths(program, 32))
    crosscheck(source, program, bound, shapes=(shape,), launches=launches_of(other)).require()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("mask=i[:, None] < M, other=0", "mask=(i < M)[:, None], other=0.0"),
        ("mask=i[:, None] < M, other=0", "mask=i[:, None] <= M - 1, other=0"),
        ("mask=i[:, None] < M, other=0", "mask=M > i[:, None], other=0"),
        ("mask=i[:, None] < M, other=0", "mask=(i[:, None] < M) and (e[None, :] < D) and 0 <= i[:, None], other=0"),
        ("mask=i[:, None] < M, other=0", "mask=t * 32 + arange(32)[:, None] < M, other=0"),
        ("i = t * 32 + arange(32)", "first = 32 * t\n    i = arange(32) + first"),
        ("i = t * 32 + arange(32)", "i = (t + 1) * 32 + (arange(32) - 32)"),
        ("e = arange(D)", "e = arange(32) + 32"),
    ],
)
def test_what_means_a_box_becomes_one(old: str, new: str) -> None:
    width = 32 if "arange(32) + 32" in new else 64
    text = COPY.replace(old, new) if old else COPY
    assert boxes(text.replace("e[None, :] < D", f"e[None, :] < {64}")) == [f"Q_32x{width}", f"O_32x{width}"]


@pytest.mark.parametrize(
    "load",
    [
        "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] <= M, other=0)",  # one row too many
        "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M - 1, other=0)",  # one too few
        "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < N, other=0)",  # another tensor's length
        "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < B, other=0)",  # another dimension's extent
        "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] + 1 < M, other=0)",
        "load(Q[b, h, i[:, None], e[None, :]], mask=2 * i[:, None] < 2 * M, other=0)",  # equal, but not the same form
        "load(Q[b, h, i[:, None], e[None, :]], mask=(i[:, None] < M) or (e[None, :] < 64), other=0)",
        "load(Q[b, h, i[:, None], e[None, :]], mask=not (i[:, None] >= M), other=0)",
        "load(Q[b, h, i[:, None], e[None, :]], mask=(i[:, None] < M) and t > 0, other=0)",  # a condition on no cell
        "load(Q[b, h, i[:, None], e[None, :]], mask=(i[:, None] < M) and (e[None, :] < 63), other=0)",
        "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] != M, other=0)",
        "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=-inf)",
        "load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=1)",
        "load(Q[b, h, 2 * i[:, None], e[None, :]], mask=2 * i[:, None] < M, other=0)",  # every other row
        "load(Q[b, h, M - 1 - i[:, None], e[None, :]], mask=i[:, None] < M, other=0)",  # from the last row on
        "load(Q[b, h, i[:, None] // 2, e[None, :]], mask=i[:, None] < M, other=0)",
        "load(Q[b, h, minimum(i[:, None], M - 1), e[None, :]], mask=i[:, None] < M, other=0)",
        "load(Q[b, h, i[:, None] + e[None, :], e[None, :]], mask=i[:, None] + e[None, :] < M, other=0)",
        "load(Q[b, h, i[:, None], e[None, :] + 1], mask=(i[:, None] < M) and (e[None, :] + 1 < 64), other=0)",
        "load(Q[b, h, t, broadcast(e[None, :], [32, 64])])",  # one row for all
        "trans(load(Q[b, h, i[None, :], e[:, None]], mask=i[None, :] < M, other=0))",  # axes in another order
        "load(Q[b, h + arange(32)[:, None], i[:, None], e[None, :]], mask=i[:, None] < M, other=0)",  # a diagonal
    ],
)  # fmt: skip
def test_what_does_not_mean_a_box_stays(load: str) -> None:
    assert boxes(COPY.replace(LOAD, load)) == ["O_32x64"]


@pytest.mark.parametrize("mask", ["i[:, None] < M - 1", "(i[:, None] < M) and t > 0", "i[:, None] <= M"])
def test_a_store_that_leaves_out_more_or_less_stays(mask: str) -> None:
    assert boxes(COPY.replace(STORE, f"x, mask={mask})")) == ["Q_32x64"]


def test_integers_vectors_atomics_and_wide_kernels_stay() -> None:
    assert boxes(COPY)[1:] == ["O_32x64"]  # LSE[b, h, i] is a vector
    assert boxed_tensors(boxed(COPY, bits=64)) == ()  # corners are 32 bits wide
    assert boxed_tensors(boxed(COPY.replace("i = t * 32", "i = cast(t, i64) * 32"))) == ()
    added = COPY.replace("kernel copy", "scratch T[B, H, M, D]: f32\nkernel copy").replace(
        STORE, STORE + "\n    atomic_add(T[b, h, i[:, None], e[None, :]], cast(x, f32), mask=i[:, None] < M)"
    )
    assert boxed_tensors(boxed(added)) == ("Q", "O")


def test_boxes_keep_to_the_hardwares_limits() -> None:
    assert boxes(rows(256)) == ["Q_256x64", "O_256x64"]
    assert boxes(rows(512)) == []
    assert boxes(COPY.replace("arange(D)", "arange(4)")) == []  # 8 bytes of bf16
    assert boxes(COPY.replace("arange(D)", "arange(4)"), "fp32") == ["Q_32x4", "O_32x4"]
    assert boxes(COPY.replace("arange(D)", "arange(16) + 4")) == []  # starts at byte 8
    assert boxes(COPY.replace("arange(D)", "arange(16) + 4"), "fp32") == ["Q_32x16", "O_32x16"]


def test_a_name_given_a_value_by_a_loop_is_no_corner() -> None:
    looped = COPY.replace(
        "    x = " + LOAD,
        "    x = zeros([32, D], Q.dtype)\n    for n in range(0, 2) carry i, x:\n        x = " + LOAD
        + "\n        i = i + 0",
    )  # fmt: skip
    assert boxes(looped) == []


def test_corners_are_spelled_as_the_candidate_wrote_them() -> None:
    program = boxed(documented())
    source = emit_program(program, attention(), widths(program, 64), index_widths=widths(program, 32))
    assert "def attention(\n    Q_128x64, K_64x64, V_64x64, O_128x64,\n    LSE,\n    LSE_s0, LSE_s1, LSE_s2," in source
    assert "k = K_64x64.load([b, g, n * 64, 0]).reshape([64, 64])" in source
    assert "O_128x64.store([b, h, t * 128, 0], " in source
    assert "e = tl.arange" not in source  # nothing reads it any more


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_both_spellings_agree_on_ragged_sizes(dtype: str) -> None:
    agrees(documented(), attention(dtype=dtype), {"B": 1, "G": 2, "H": 2, "M": 41, "N": 70})
    agrees(EVERY_OPERATION, attention("none", dtype), {"B": 2, "G": 1, "H": 1, "M": 37, "N": 3})


@pytest.mark.thorough
def test_a_wrong_corner_shows() -> None:
    bound = attention()
    program = typed(documented(), bound)
    other = with_boxes(program, widths(program, 32))
    source = emit_program(other, bound, widths(program, 64), index_widths=widths(program, 32))
    wrong = source.replace("K_64x64.load([b, g, n * 64, 0])", "K_64x64.load([b, g, n * 64 + 1, 0])")
    assert wrong != source
    shapes = ({"B": 1, "G": 1, "H": 2, "M": 9, "N": 70},)
    assert not crosscheck(wrong, program, bound, shapes, launches=launches_of(other)).ok


# ---- at launch -------------------------------------------------------------------------------


def test_a_tensor_fit_for_a_descriptor_and_what_is_not() -> None:
    x = torch.empty(2, 4, 100, 64, dtype=torch.bfloat16)
    assert unfit(x) == "" and unfit(x.transpose(1, 2)) == ""
    assert "base" in unfit(torch.empty(2 * 100 * 64 + 1, dtype=torch.bfloat16)[1:].view(2, 100, 64))
    assert "contiguous" in unfit(x.transpose(2, 3))
    assert "stride" in unfit(torch.empty(2, 100, 68, dtype=torch.bfloat16)[:, :, :64])  # rows of 136 bytes
    assert unfit(torch.empty(2, 100, 72, dtype=torch.bfloat16)[:, :, :64]) == ""
    assert "stride" in unfit(x[:, :1].expand(2, 4, 100, 64))  # one head for four: stride 0
    assert "extent" in unfit(x[:, :, :0])
    assert "dimensions" in unfit(x.view(1, 1, 1, 2, 4, 6400))
    assert "stride" in unfit(torch.empty(0, dtype=torch.bfloat16, device="meta").as_strided((2, 64), (2**39, 1)))


def test_strides_of_extents_of_one_are_chosen() -> None:
    x = torch.empty(1, 5, 100, 64).as_strided((1, 5, 100, 64), (3, 6400, 64, 1))
    assert unfit(x) == "" and strides(x) == [32000, 6400, 64, 1]
    assert strides(torch.empty(1, 1, 1, 1)) == [4, 4, 4, 1]
    made = descriptor(x, [1, 1, 16, 64])  # Triton's own checks pass
    assert (made.shape, made.strides) == ([1, 5, 100, 64], [32000, 6400, 64, 1])


@pytest.fixture(scope="module")
def lowered() -> dict[str, object]:
    bound = attention()
    certificate = certificate_for(documented(), bound).with_section("index_widths", {"attention": 32})
    section: dict[str, object] = lower(certificate, typed(documented(), bound), bound, ("sm_90",)).body["lowered"]
    return section


def test_the_version_of_descriptors_comes_first_where_the_target_has_them(lowered: dict[str, object]) -> None:
    first, last = versions_in(lowered)
    assert (first.name, last.name) == ("descriptors", "pointers")
    assert first.when == [["target", "sm_90"], *(["descriptor", name] for name in "QKVO")]
    assert first.targets(("sm_80", "sm_90", "sm_100", "gfx942")) == ("sm_90",)
    assert first.launches[0]["schedule"] == last.launches[0]["schedule"]
    boxes, pointers = first.resources["sm_90"][0], last.resources["sm_90"][0]
    assert boxes["tma"] >= 4 and pointers["tma"] == 0
    assert boxes["tensor_core"] == 8 and boxes["spills"] == 0


@pytest.mark.thorough
def test_blackwell_compiles_them_too() -> None:
    bound = attention()
    program = boxed(documented())
    source = emit_program(program, bound, widths(program, 64), index_widths=widths(program, 32))
    (found,) = compile_kernels(source, launches_of(program), "sm_100")
    assert found.tma >= 4


def test_a_call_takes_descriptors_where_its_tensors_allow(lowered: dict[str, object]) -> None:
    versions = versions_in(lowered)
    sizes = {"B": 2, "G": 2, "H": 4, "M": 100, "N": 70}
    shapes = {"Q": (2, 4, 100, 64), "K": (2, 2, 70, 64), "V": (2, 2, 70, 64), "O": (2, 4, 100, 64)}
    tensors = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    assert choose(versions, "sm_90", tensors, sizes).name == "descriptors"
    assert choose(versions, "sm_80", tensors, sizes).name == "pointers"
    assert choose(versions, "gfx942", tensors, sizes).name == "pointers"
    odd = tensors | {"K": torch.empty(2, 70, 2, 65, dtype=torch.bfloat16)[..., :64].transpose(1, 2)}
    assert choose(versions, "sm_90", odd, sizes).name == "pointers"


def test_every_version_is_cross_checked_at_shapes_it_may_run_at(lowered: dict[str, object]) -> None:
    bound = attention()
    program = typed(documented(), bound)
    first, last = versions_in(lowered)
    assumed = plan(program, bound)
    for version, empty in ((first, False), (last, True)):
        assert any(shape["N"] == 0 for shape in shapes_for(version, assumed, program, bound)) is empty


@pytest.mark.parametrize("text", [COPY, rows(512)])
def test_a_program_whose_loops_load_no_box_has_no_version_of_boxes(text: str) -> None:
    bound = attention("none")
    certificate = certificate_for(text, bound, bits=32)
    assert "descriptors" not in [v.name for v in versions_of(certificate, typed(text, bound), bound)]
