"""Lower bounds of formulas as they are written: each rule, and a case next to it where it must not apply."""

from __future__ import annotations

import math

import pytest

from ir.loader import bind, parse_spec
from ir.parser import parse_formula
from verifier.least import Least

SPEC = """
name = "rows"
[dims]
M = { min = 1, max = 64 }
C = { min = 2, max = 64 }
[parameters]
eps = { min = 0.5, max = 1, default = "0.5" }
shift = { min = -3, max = 3, default = "0" }
[inputs]
X = { shape = ["M", "C"], dtype = "f32", abs_max = 10 }
[outputs]
Y = { shape = ["M"], dtype = "f32" }
[formula]
empty_row = "undefined"
define = '''
MEAN[i] = sum[k < C](X[i, k]) / C
VAR[i]  = sum[k < C]((X[i, k] - MEAN[i]) * (X[i, k] - MEAN[i])) / C
Y[i]    = 1 / sqrt(VAR[i] + eps)
'''
[layout]
max_stride = 1024
"""


@pytest.mark.parametrize(
    ("formula", "least"),
    [
        ("VAR[0] + eps", 0.5),
        ("MEAN[0] + eps", -math.inf),
        ("sqrt(VAR[0] + eps * C)", 1.0),
        ("X[0, 0] * X[0, 0]", 0.0),
        ("X[0, 0] * X[0, 1]", -math.inf),
        ("VAR[0] - VAR[0]", -math.inf),
        ("eps / shift", -math.inf),
        ("eps / (VAR[0] + eps)", 0.0),
        ("eps / VAR[0]", -math.inf),
        ("shift * shift + C", 2.0),
        ("sum[k < C](exp(X[0, k]))", 0.0),
        ("sum[k < C](exp(X[0, k]) - 1)", -math.inf),
        ("max(X[0, 0], eps)", 0.5),
        ("min(X[0, 0], eps)", -math.inf),
        ("if C > 3 then eps else 2", 0.5),
        ("log(eps)", -math.inf),
        ("-eps", -math.inf),
    ],
)
def test_rules(formula: str, least: float) -> None:
    assert Least(bind(parse_spec(SPEC))).of(parse_formula(formula)) == least
