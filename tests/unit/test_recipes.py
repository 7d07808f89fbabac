"""Which divisors and comparisons rounding leaves as they are of reals, and which products are not contracted."""

import pytest

from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.plan import launches_of
from verifier.prove import prove
from verifier.recipes import Recipes
from verifier.stored import expressions
from verifier.verdict import Verdict

SOFTMAX = """
meta BM = 16
meta BN = 32
scratch TOP[R]: f32

kernel statistics(t < cdiv(R, BM)):
    i = t * BM + arange(BM)
    m = full([BM], -inf, f32)
    for n in range(cdiv(C, BN)) carry m:
        j = n * BN + arange(BN)
        x = cast(load(X[i[:, None], j[None, :]], mask=(i[:, None] < R) and (j[None, :] < C), other=0), f32)
        m = maximum(m, max(where(j[None, :] < C, x * 2.0, -inf), axis=1))
    store(TOP[i], m, mask=i < R)

kernel softmax(t < cdiv(R, BM)):
    i = t * BM + arange(BM)
    m = load(TOP[i], mask=i < R, other=0)
    l = zeros([BM], f32)
    for n in range(cdiv(C, BN)) carry l:
        j = n * BN + arange(BN)
        x = cast(load(X[i[:, None], j[None, :]], mask=(i[:, None] < R) and (j[None, :] < C), other=0), f32)
        l = l + sum(where(j[None, :] < C, exp(SCORE - m[:, None]), 0.0), axis=1)
    for k in range(cdiv(C, BN)):
        c = k * BN + arange(BN)
        y = cast(load(X[i[:, None], c[None, :]], mask=(i[:, None] < R) and (c[None, :] < C), other=0), f32)
        p = exp(y * 2.0 - m[:, None]) / (DIVISOR)[:, None]
        store(Y[i[:, None], c[None, :]], cast(p, Y.dtype), mask=(i[:, None] < R) and (c[None, :] < C))
"""


def softmax(score: str = "x * 2.0", divisor: str = "l") -> tuple[Program, Bound]:
    bound = bind(load_spec("softmax"), {"dtype": "bf16"})
    text = SOFTMAX.replace("SCORE", score).replace("DIVISOR", divisor)
    return check(parse(text), bound, text), bound


@pytest.mark.parametrize(
    "divisor, steady",
    [
        ("l", True),
        ("l * 4.0 * 0.25", True),
        ("where(l == 0.0, 1.0, l)", True),
        ("l * 1e-25 * 1e-25 * 1e25 * 1e25", False),
        ("(l + 1e30) - 1e30", False),
    ],
)
def test_a_divisor_is_as_large_as_of_reals_if_nothing_cancels_or_underflows(divisor: str, steady: bool) -> None:
    program, bound = softmax(divisor=divisor)
    kernel = program.kernels[1]
    exact = {(kernel.name, e.span) for e in expressions(kernel.body) if getattr(e, "op", "") == "exp"}
    (span,) = {e.span for e in expressions(kernel.body) if getattr(e, "op", "") == "div"}
    assert Recipes(program, bound).steady(kernel.name, span, exact) is steady
    assert not Recipes(program, bound).steady(kernel.name, span, set())


def test_a_product_that_is_subtracted_from_is_not_contracted_with_it() -> None:
    """fma(x, 2, -m) is the rounding of m where m is the rounded maximum of x * 2, and exp of that is not near 1."""
    program, _ = softmax()
    assert [launch["schedule"].get("fp_fusion", True) for launch in launches_of(program)] == [True, False]
    masked, _ = softmax(score="where(j[None, :] < C, x * 2.0, -inf)")
    assert Recipes(masked).fusible("softmax")  # the last exp
    bound = bind(load_spec("attention_bwd"), {"dtype": "bf16"})
    text = (packaged_specs() / "attention_bwd" / "three_kernels_none.tile").read_text()
    backward = check(parse(text), bound, text)
    assert not any(Recipes(backward).fusible(k.name) for k in backward.kernels)  # S1 left room for rounding


def test_a_product_in_a_score_that_is_computed_twice_is_not_contracted() -> None:
    """fma(x, 2, x) at one place and x * 2 + x at the other are two floats."""
    once = "cast(load(X[0, 0]), f32)"
    program, _ = softmax(score=f"(x * 2.0 + {once})")
    assert Recipes(program).fusible("softmax")


STEP = """
name = "above"
doc = "The values above a limit, 0 for the others."
[dims]
N = { min = 1, max = 4096 }
[parameters]
limit = { min = 0, max = 1, default = "0.5" }
[inputs]
X = { shape = ["N"], dtype = "bf16", abs_max = 10.0 }
A = { shape = ["N"], dtype = "f32", abs_max = 10.0 }
[outputs]
Y = { shape = ["N"], dtype = "f32" }
[formula]
empty_row = "zero"
define = "Y[i] = if A[i] > limit then A[i] else 0.0"
[layout]
max_stride = 4096
"""
COMPARE = """
kernel above(t < cdiv(N, 32)):
    i = t * 32 + arange(32)
    a = load(A[i], mask=i < N, other=0)
    store(Y[i], where(CONDITION, a, 0.0), mask=i < N)
"""


@pytest.mark.parametrize(
    "condition, right",
    [
        ("a > limit", True),
        ("maximum(a, -inf) > limit", True),
        ("cast(cast(a, bf16), f32) > limit", False),
        ("a * 3.0 > limit * 3.0", False),
        ("a + 1e6 > limit + 1e6", False),
    ],
)
def test_what_the_spec_compares_is_compared_as_it_is(condition: str, right: bool) -> None:
    bound = bind(parse_spec(STEP))
    text = COMPARE.replace("CONDITION", condition)
    report = prove(check(parse(text), bound, text), bound, text, search=False)
    assert (report.verdict is Verdict.PROVED) is right
    assert right or "rounded before they are compared" in report.result("E1").residual
