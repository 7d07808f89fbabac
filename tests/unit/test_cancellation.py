"""What may be bounded by its term: values in which nothing cancels, and a difference over its own root mean square."""

from __future__ import annotations

import pytest

from ir import program as core
from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.typing import check
from verifier.cancellation import Cancellation
from verifier.recipes import Recipes
from verifier.stored import expressions

SPEC = """\
name = "rows"
doc = "Any function of a row."
[dims]
R = { min = 1, max = 64 }
C = { min = 1, max = 64 }
[parameters]
eps = { min = 1e-6, max = 1.0, default = "0.1" }
shift = { min = -1.0, max = 1.0, default = "0.5" }
[inputs]
X = { shape = ["R", "C"], dtype = "f16", abs_max = 100.0 }
[outputs]
Y = { shape = ["R", "C"], dtype = "f16" }
[formula]
empty_row = "undefined"
define = "Y[i, j] = X[i, j]"
[layout]
max_stride = 4096
"""
KERNEL = """\
kernel rows(i < R):
    j = arange(64)
    x = cast(load(X[i, j], mask=j < C, other=0), f32)
    mean = sum(x, axis=0) / cast(C, f32)
    d = where(j < C, x - mean, 0.0)
    rstd = 1.0 / sqrt(sum(d * d, axis=0) / cast(C, f32) + eps)
    other = 1.0 / sqrt(sum(x * x, axis=0) / cast(C, f32) + eps)
    p = exp(x - max(x, axis=0))
    store(Y[i, j], cast(VALUE, f16), mask=j < C)
"""


@pytest.mark.parametrize(
    ("value", "none"),
    [
        ("x * 2.0 + x", True),
        ("p / sum(p, axis=0) * x", True),  # what is subtracted in an argument of exp is exp's business
        ("d * rstd", True),
        ("(x - mean) * rstd * x + x", True),
        ("d / sqrt(sum(d * d, axis=0) + eps)", True),
        ("x - mean", False),
        ("(x + x * 1e25 - x * 1e25) * rstd", False),  # divided by another's root
        ("d * other", False),
        ("d * rstd + d * 1e10", False),  # once more, and not divided
        ("d * d * rstd", False),
        ("x + x * -1e25 + x * 1e25", False),
        ("x + -x", False),
        ("x * shift + x", False),
        ("rstd * rstd * d * 1e10 + where(x > 0.5, d, 0.0)", False),
        ("d * sqrt(sum(d * d, axis=0))", False),  # multiplied by its root
    ],
)
def test_where_nothing_cancels(value: str, none: bool) -> None:
    bound = bind(parse_spec(SPEC))
    program = check(parse(KERNEL.replace("VALUE", value)), bound)
    casts = [
        e.span
        for e in expressions(program.kernels[0].body)
        if isinstance(e, core.Cast) and e.type.dtype is core.DType.F16
    ]
    assert Cancellation(Recipes(program, bound)).none_at("rows", casts[-1]) == none
