"""Which comparisons of floats count for what they say of reals, and which may come out either way."""

import pytest

from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.typing import check
from verifier.prove import prove
from verifier.verdict import Verdict

SPEC = """
name = "positive"
doc = "The positive part."
[dims]
N = { min = 1, max = 4096 }
[inputs]
X = { shape = ["N"], dtype = "f32", abs_max = 1e3 }
[outputs]
Y = { shape = ["N"], dtype = "f32" }
[formula]
empty_row = "undefined"
define = "Y[i] = max(X[i], 0.0)"
[layout]
max_stride = 4096
"""
KERNEL = """
kernel positive(t < cdiv(N, 32)):
    i = t * 32 + arange(32)
    x = load(X[i], mask=i < N, other=0)
    s = x * 1.0
    c = s > 0.0
    store(Y[i], VALUE, mask=i < N)
"""


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("where(x > 0.0, x, 0.0)", True),  # numbers as they are
        ("where(s > 0.0, s, 0.0)", True),  # the larger of two, however rounded
        ("where(c, s, 0.0)", True),
        ("where(s <= 0.0, 0.0, s)", True),
        ("where(c, s, 0.0) + where(c, x, x) - x", False),  # c decides something else besides
        ("where(x + 1e30 > 1e30, s, 0.0)", False),  # 0 in floats
        ("where((x + 1e30) - 1e30 == x, maximum(s, 0.0), 12345.0)", False),
        ("where(exp(x * 5e-2) == 0.0, 12345.0, maximum(s, 0.0))", False),
        ("where(cast(i, f32) * 1e30 - cast(i, f32) * 1e30 == 0.0, maximum(s, 0.0), 12345.0)", False),
    ],
)
def test_a_rounded_comparison_decides_nothing_that_matters(value: str, right: bool) -> None:
    bound = bind(parse_spec(SPEC))
    text = KERNEL.replace("VALUE", value)
    report = prove(check(parse(text), bound, text), bound, text, search=False)
    assert (report.verdict is Verdict.PROVED) is right
