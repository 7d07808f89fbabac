"""When two specs mean the same by a name: forward and backward certificates are paired by it."""

from __future__ import annotations

import pytest

from ir.loader import bind, load_spec, parse_spec
from lowering.contracts import contracts, gradients

SPEC = """
name = "rows"
doc = "A normalised row."

[dims]
M = { min = 1, max = 100 }
N = { min = 1, max = 100 }

[options]
mask = { choices = ["none", "causal"], default = "none" }
bias = { choices = ["each", "one"], default = "each" }

[parameters]
scale = { min = 0.1, max = 1, default = "1" }

[inputs]
X = { shape = ["M", "N"], dtype = "f32", abs_max = 10 }
W = { shape = ["N", "N"], dtype = "f32", abs_max = 10 }

[outputs]
Y = { shape = ["M", "N"], dtype = "f32" }

[formula]
empty_row = "zero"
define = \"\"\"
{define}
\"\"\"

[layout]
max_stride = 1099511627776
"""
PLAIN = """
sees[i, j] = if mask == "causal" then j <= i else true
Y[i, j] = exp(scale * X[i, j]) / sum[k < N, sees[i, k]](exp(scale * X[i, k]) * sum[l < N](W[k, l]))
"""
CUT_UP = """
E[row, column] = exp(scale * X[row, column])
V[j] = sum[i < N](W[j, i])
seen[a, b] = if mask == "causal" then b <= a else true
Z[j] = sum[i < N, seen[j, i]](E[j, i] * V[i])
Y[m, n] = E[m, n] / Z[m]
"""


def meaning(define: str, **settings: str) -> str:
    return contracts(bind(parse_spec(SPEC.replace("{define}", define)), settings))["Y"]


@pytest.mark.parametrize("mask", ["none", "causal"])
def test_names_and_steps_do_not_matter(mask: str) -> None:
    assert meaning(PLAIN, mask=mask) == meaning(CUT_UP, mask=mask)


def test_an_option_nobody_mentions_does_not_matter() -> None:
    assert meaning(PLAIN, bias="each") == meaning(PLAIN, bias="one")


def test_the_setting_of_an_option_matters() -> None:
    assert meaning(PLAIN, mask="none") != meaning(PLAIN, mask="causal")


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("b <= a", "b < a"),
        ("b <= a", "a <= b"),
        ("sum[i < N](W[j, i])", "sum[i < N](W[i, j])"),
        ("sum[i < N](W[j, i])", "sum[i < M](W[j, i])"),
        ("sum[i < N, seen[j, i]](E[j, i] * V[i])", "sum[i < N, seen[j, i]](E[j, i] * V[j])"),
        ("sum[i < N, seen[j, i]](E[j, i] * V[i])", "sum[i < N, seen[j, i]](E[j, i]) * V[j]"),
        ("E[m, n] / Z[m]", "E[m, n] / Z[n]"),
        ("exp(scale * X", "exp(X"),
    ],
)
def test_everything_else_does(here: str, there: str) -> None:
    assert here in CUT_UP
    assert meaning(CUT_UP, mask="causal") != meaning(CUT_UP.replace(here, there), mask="causal")


def test_the_convention_for_empty_rows_matters() -> None:
    undefined = parse_spec(SPEC.replace("{define}", PLAIN).replace('"zero"', '"undefined"'))
    assert contracts(bind(undefined))["Y"] != meaning(PLAIN)


def test_nothing_is_captured() -> None:
    """The inner sum's variable has the name of the outer one, and the argument mentions it."""
    inner = "F[i, j] = sum[k < N](W[k, i] * X[j, k])\nY[i, j] = sum[k < N](F[k, i])"
    clear = "Y[i, j] = sum[p < N](sum[q < N](W[q, p] * X[i, q]))"
    wrong = "Y[i, j] = sum[p < N](sum[q < N](W[q, q] * X[i, q]))"
    assert meaning(inner) == meaning(clear) != meaning(wrong)


def test_the_input_that_cuts_rows_into_parts_matters() -> None:
    spec = load_spec("varlen").source
    swapped = spec.replace('longest = "L", part = "seq"', 'longest = "L"').replace(
        'splits = "U" }', 'splits = "U", part = "seq" }'
    )
    assert swapped != spec
    assert contracts(bind(parse_spec(spec)))["O"] != contracts(bind(parse_spec(swapped)))["O"]


def test_what_the_spec_says_is_a_gradient() -> None:
    found = gradients(bind(load_spec("attention_bwd")))
    assert found == {"dQ": [["O", "Q", "dO"]], "dK": [["O", "K", "dO"]], "dV": [["O", "V", "dO"]]}
    assert gradients(bind(load_spec("attention"))) == {}


@pytest.mark.parametrize("name", ["attention", "bias", "softcap", "alibi", "dropout"])
def test_shipped_backward_specs_mean_what_forward_stores(name: str) -> None:
    for causal in ("none", "top_left", "bottom_right"):
        forward, backward = (contracts(bind(load_spec(x), {"causal": causal})) for x in (name, f"{name}_bwd"))
        assert forward["O"] == backward["O"] and forward["LSE"] == backward["LSE"]
