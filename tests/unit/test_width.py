"""B2: a size that only bounds a comparison still has to fit the width its argument is passed in."""

from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from verifier.prove import prove
from verifier.verdict import Report, Verdict

SPEC = """
name = "copy"
doc = "The first W columns of a matrix, 0 after them."

[dims]
M = { min = 1, max = 4096 }
N = { min = 1, max = 4096 }
W = { min = 1, max = LIMIT }

[inputs]
X = { shape = ["M", "N"], dtype = "f32", abs_max = 10.0 }

[outputs]
Y = { shape = ["M", "N"], dtype = "f32" }

[formula]
empty_row = "zero"
define = "Y[i, j] = if j < W then X[i, j] else 0.0"

[layout]
max_stride = 4096
"""
KERNEL = """
meta BN = 32

kernel copy(i < M, t < cdiv(N, BN)):
    schedule num_warps = 1
    j = t * BN + arange(BN)
    x = load(X[i, j], mask=(j < N) and (j < W), other=0)
    store(Y[i, j], x, mask=j < N)
"""


def proved(limit: int, kernel: str = KERNEL) -> Report:
    bound: Bound = bind(parse_spec(SPEC.replace("LIMIT", str(limit))))
    return prove(check(parse(kernel), bound, kernel), bound, kernel)


def test_small_limits_give_32_bit_indices_and_offsets() -> None:
    report = proved(4096)
    assert report.verdict is Verdict.PROVED
    assert dict(report.index_widths) == dict(report.widths) == {"copy": 32}


def test_a_large_size_that_is_only_compared_with_widens_the_indices() -> None:
    report = proved(2**40)
    assert report.verdict is Verdict.PROVED
    assert dict(report.index_widths) == dict(report.widths) == {"copy": 64}


def test_32_bit_offsets_that_do_not_fit_are_refuted() -> None:
    kernel = KERNEL.replace("num_warps = 1", "num_warps = 1, offset_bits = 32")
    assert proved(4096, kernel).verdict is Verdict.PROVED
    assert proved(2**40, kernel).result("B2").verdict is not Verdict.PROVED


def test_attention_needs_64_bit_offsets_and_32_bit_indices() -> None:
    bound = bind(load_spec("attention"))
    text = (
        "kernel zero(b < B, h < H, i < M):\n"
        "    e = arange(D)\n"
        "    store(O[b, h, i, e], full([D], 0.0, O.dtype))\n"
        "    store(LSE[b, h, i], 0.0)\n"
    )
    report = prove(check(parse(text), bound, text), bound, text)
    assert report.result("B2").verdict is Verdict.PROVED
    assert report.result("E1").verdict is Verdict.REFUTED


def test_a_quotient_and_a_product_of_sizes_are_bounded_by_what_they_are() -> None:
    """cdiv(N, BN) tiles end below N + BN, and G * (H / G) is H: else this counter would pass 2^63."""
    text = """
meta BN = 32

kernel scores(b < B, h < H, i < M):
    acc = 0.0
    for n in range(0, cdiv(N, BN)) carry acc:
        j = n * BN + arange(BN)
        u = random(7, ((b * H + h) * M + i) * N + j)
        acc = acc + sum(where(j < N, u, 0.0), axis=0)
    store(LSE[b, h, i], acc)
"""
    source = load_spec("attention").source.replace("B = { min = 1, max = 65536 }", "B = { min = 1, max = 4096 }")
    bound = bind(parse_spec(source), {})
    assert prove(check(parse(text), bound), bound).result("B2").verdict is Verdict.PROVED
    ids = "    i = program % M\n    h = program // M % H\n    b = program // (M * H)\n    acc = 0.0\n"
    linear = text.replace("b < B, h < H, i < M", "program < B * H * M").replace("    acc = 0.0\n", ids)
    assert prove(check(parse(linear), bound), bound).result("B2").verdict is Verdict.PROVED
    other = linear.replace("program // (M * H)", "program // (N + 1)")  # the grid is no multiple of N + 1
    assert prove(check(parse(other), bound), bound).result("B2").verdict is Verdict.UNPROVED
    unlimited = bind(load_spec("attention"), {})
    assert prove(check(parse(text), unlimited), unlimited).result("B2").verdict is Verdict.UNPROVED


STRIDES_OF_2_POW_20 = """
meta BN = 32

kernel copy(i < M):
    o = 0
    for n in range(cdiv(N, BN)) carry o:
        j = o // 1048576 + arange(BN)
        x = load(X[i, j], mask=(j < N) and (j < W), other=0)
        store(Y[i, j], x, mask=j < N)
        o = o + 33554432
"""


def test_a_carried_integer_counts_although_only_its_quotient_is_an_index() -> None:
    report = proved(4096, STRIDES_OF_2_POW_20)  # o passes 2^31 at column 2048
    assert report.verdict is Verdict.PROVED
    assert dict(report.index_widths) == {"copy": 64}
    small = STRIDES_OF_2_POW_20.replace("1048576", "32768").replace("33554432", "1048576")  # o is at most 2^27
    assert dict(proved(4096, small).index_widths) == {"copy": 32}


def test_an_integer_on_the_way_to_the_next_carried_one_counts() -> None:
    kernel = STRIDES_OF_2_POW_20.replace("// 1048576", "// 1")
    report = proved(4096, kernel.replace("o + 33554432", "(o * 1048576 + 33554432) // 1048576"))
    assert report.verdict is Verdict.PROVED
    assert dict(report.index_widths) == {"copy": 64}


def test_a_number_that_is_only_chosen_or_compared_with_counts() -> None:
    kernel = KERNEL.replace("(j < W)", "(j < W) and (where(j > 5, 3000000000, j) >= 0)")
    report = proved(4096, kernel)
    assert report.verdict is Verdict.PROVED
    assert dict(report.index_widths) == {"copy": 64}
