"""Which arguments of exp stay in range as floats are computed, and which only over the reals."""

import pytest

from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.typing import check
from verifier import integers
from verifier.obligations import range as s1
from verifier.proof import analyse

SPEC = """
name = "sums"
doc = "Sums of exponentials of scores."
[dims]
M = { min = 1, max = 65536 }
N = { min = 1, max = 65536 }
[parameters]
scale = { min = 1e-3, max = 1e3, default = "1.0" }
[inputs]
Q = { shape = ["M", "64"], dtype = "bf16", abs_max = 1e6 }
K = { shape = ["N", "64"], dtype = "bf16", abs_max = 1e6 }
X = { shape = ["N"], dtype = "f32", abs_max = 1e30 }
[outputs]
LSE = { shape = ["M"], dtype = "f32" }
[formula]
empty_row = "undefined"
define = "LSE[i] = log(sum[j < N](exp(scale * sum[e < 64](Q[i, e] * K[j, e]))))"
[layout]
max_stride = 1073741824
"""
TWO_PASSES = """
meta W = 32
kernel sums(t < cdiv(M, 32)):
    i = t * 32 + arange(32)
    m = full([32], -inf, f32)
    for n in range(cdiv(N, 32)) carry m:
        j = n * 32 + arange(32)
        FIRST
        m = maximum(m, max(where(j[None, :] < N, s, -inf), axis=1))
    l = zeros([32], f32)
    for y in range(cdiv(N, W)) carry l:
        j = y * W + arange(W)
        SECOND
        l = l + sum(exp(where(j[None, :] < N, s, -inf) - m[:, None]), axis=1)
    store(LSE[i], m + log(l), mask=i < M)
"""
Q = "load(Q[i[:, None], e[None, :]], mask=i[:, None] < M, other=0)"
K = "load(K[j[:, None], e[None, :]], mask=j[:, None] < N, other=0)"
PLAIN = f"""e = arange(64)
        s = dot({Q}, trans({K})) * scale"""
CHUNKS = f"""s = zeros([32, 32], f32)
        for COUNTER in range(4) carry s:
            e = (PLACE) * 16 + arange(16)
            s = dot({Q}, trans({K}), s)"""
SPLIT = f"""s = zeros([32, 32], f32)
        for c3 in range(2) carry s:
            e = c3 * 16 + arange(16)
            s = dot({Q}, trans({K}), s)
        for c4 in range(2, 4) carry s:
            e = c4 * 16 + arange(16)
            s = dot({Q}, trans({K}), s)"""
PARTS = "\n        ".join(
    [f"e = {c} * 16 + arange(16)\n        s{c} = dot({Q}, trans({K}))" for c in range(3)] + ["s = SUM"]
)


def chunks(place: str) -> str:
    return CHUNKS.replace("COUNTER", place.strip("3 -")).replace("PLACE", place)


def in_range(text: str) -> bool:
    bound = bind(parse_spec(SPEC))
    program = check(parse(text), bound, text)
    integers.reset()
    return s1.check(analyse(program, bound)).ok


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (PLAIN, PLAIN, True),
        (chunks("c1"), chunks("c2"), True),
        (chunks("c1"), chunks("3 - c2"), False),  # the last chunk first
        (chunks("c1"), SPLIT, False),
        (chunks("c1"), PLAIN.replace("* scale", ""), False),  # one dot
        (PLAIN, PLAIN.replace("e = arange(64)", "e = 63 - arange(64)"), False),  # from the last feature on
        (PLAIN, f"e = arange(64)\n        s = trans(dot({K}, trans({Q}))) * scale", False),
        (PLAIN, PLAIN.replace("* scale", "* scale * 4.0 * 0.25"), False),
        (PARTS.replace("SUM", "(s0 + s1) + s2"), PARTS.replace("SUM", "(s2 + s1) + s0"), False),
        (PLAIN + " + load(X[0]) - load(X[0])", PLAIN + " + load(X[0]) - load(X[0])", True),
        (PLAIN + " + load(X[0]) - load(X[0])", PLAIN + " + load(X[N - 1]) - load(X[N - 1])", False),
    ],
)  # fmt: skip
def test_a_score_is_below_its_maximum_where_both_are_one_float(first: str, second: str, same: bool) -> None:
    assert in_range(TWO_PASSES.replace("FIRST", first).replace("SECOND", second)) is same


def test_a_tile_of_another_width_may_be_multiplied_by_another_instruction() -> None:
    text = TWO_PASSES.replace("FIRST", PLAIN).replace("SECOND", PLAIN)
    assert not in_range(text.replace("meta W = 32", "meta W = 64"))


def test_a_maximum_above_every_score_loses_the_sum() -> None:
    """Each score is below m, but m is of scores that the sum does not have, and may be far above all it has."""
    both = f"""{chunks("c1")}
        r = zeros([32, 32], f32)
        for c5 in range(4) carry r:
            e = (3 - c5) * 16 + arange(16)
            r = dot({Q}, trans({K}), r)
        s = maximum(s, r)"""
    assert not in_range(TWO_PASSES.replace("FIRST", both).replace("SECOND", chunks("c2")))


LAZY = f"""
kernel sums(t < cdiv(M, 32)):
    i = t * 32 + arange(32)
    m = full([32], -inf, f32)
    l = zeros([32], f32)
    for n in range(cdiv(N, 32)) carry m, l:
        j = n * 32 + arange(32)
        {PLAIN}
        s = where(j[None, :] < N, s, -inf)
        top = max(s, axis=1)
        new = where(MOVES, top, m)
        l = l * exp(m - new) + sum(exp(s - new[:, None]), axis=1)
        m = new
    store(LSE[i], m + log(l), mask=i < M)
"""


@pytest.mark.parametrize(
    ("moves", "shown"),
    [
        ("top > m + 8.0", True),  # m + 8 is rounded by at most 8
        ("top - 8.0 > m", True),
        ("top > m + 40.0", False),  # scores of 2^31 may then exceed m by 80
        ("top + 1e30 > m + 1e30 + 8.0", False),
        ("top * 1e-30 > m * 1e-30 + 8e-30", False),
    ],
)
def test_a_lazy_pivot_moves_as_rounded_numbers_compare(moves: str, shown: bool) -> None:
    assert in_range(LAZY.replace("MOVES", moves)) is shown
