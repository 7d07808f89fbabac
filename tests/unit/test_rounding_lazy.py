"""Rounding bounds of kernels whose pivot follows the maximum with a delay, by comparing rounded values."""

from __future__ import annotations

import numpy as np
import pytest
from rounding_cases import ROOT, analysed, bounded, worst

from ir import program as core
from ir.error_formula import evaluate as value_of
from ir.error_formula import number
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from synth.rounding import Inputs
from verifier.places import cuts, lanes_of, unfolded
from verifier.rounding import cells
from verifier.rounding.errors import Error, Unbounded, exactly
from verifier.rounding.shapes import Order
from verifier.stored import expressions, values_of_names

LAZY = "tests/golden/proved/lazy_rescale.tile"
CHOICE = "where(top > m + 8.0, top, m)"
ATTENTION = bind(load_spec("attention"), {"causal": "none", "dtype": "bf16"})
SIZES = {"B": 1, "H": 1, "G": 1, "M": 3, "N": 70}


def _text(choice: str) -> str:
    text = (ROOT / LAZY).read_text()
    assert text.count(CHOICE) == 1
    return text.replace(CHOICE, choice)


def test_no_machine_gets_past_the_bound_where_every_choice_is_close() -> None:
    """Scores are multiples of the slack, block by block one more: whether a block moves the pivot, rounding decides."""
    program, bound, found = bounded(LAZY)
    q, k = np.zeros((1, 1, 3, 64)), np.zeros((1, 1, 70, 64))
    q[..., 0], k[..., 0] = 8.0, 8.0 * (np.arange(70) // 32)  # times the scale of 1/8
    given = {"Q": q, "K": k}
    shares = {name: share for name, _, share in worst(program, bound, found, SIZES, "normal", given=given)}
    assert shares.keys() == {"O", "LSE"} and all(0.0 < share <= 1.0 for share in shares.values())


@pytest.mark.parametrize(
    ("choice", "moves_to"),
    [
        (CHOICE, "top"),
        ("where(top >= 8.0 + m, top, m)", "top"),
        ("where(m + 8.0 < top, top, m)", "top"),
        ("where(top <= m + 8.0, m, top)", "top"),
        ("where(top - m > 8.0, top, m)", "top"),
        ("where(top - 8.0 > m, top, m)", "top"),
        ("where(top > m, top, m)", "top"),
        ("where(top > m - 8.0, top, m)", "m"),  # m where it is no less than top + 8, else top
        ("where(top > m + 8.0, m, top)", ""),
        ("where(top < m + 8.0, top, m)", ""),
        ("where(top > l + 8.0, top, m)", ""),
        ("where(l > m + 8.0, top, m)", ""),
        ("where(m - top > 8.0, top, m)", ""),
        ("where(top == m + 8.0, top, m)", ""),
    ],
)
def test_a_lazy_maximum_is_told_by_what_it_compares(choice: str, moves_to: str) -> None:
    found = cuts(check(parse(_text(choice)), ATTENTION).kernels[0])
    values = [x.value.name.split("_")[0] for x in found.lazy.values() if isinstance(x.value, core.Var)]
    assert (values, len(found.undecided)) == (([moves_to], 1) if moves_to else ([], 0))


def test_a_weight_may_be_as_large_as_the_slack_lets_it() -> None:
    """With nothing wrong in scores, p is at most e^8, and what was summed is scaled by at most 1."""
    kernel = check(parse(_text(CHOICE)), ATTENTION).kernels[0]
    named = {name: values[0] for name, values in values_of_names(kernel.body).items() if len(values) == 1}

    def error(e: core.Expr) -> Error:
        e, _ = unfolded(e, lanes_of(e), named)
        literal = isinstance(e, core.Literal)
        return exactly(number(float(e.value) if literal else 1.0), e, positive=literal)

    order = Order(named, error, cuts(kernel).lazy)
    found = [order.gap(e.operand) for e in expressions(kernel.body) if isinstance(e, core.Unary) and e.op == "exp"]
    assert [None if g is None else value_of(g, {}) for g in found] == [pytest.approx(8.0), 0.0]


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("where(top > m + -8.0, top, m)", "slack"),  # what it kept may be far below the scores
        ("where(top > m + 8.0, top + 0.0 * cast(top > m + 8.0, f32), m)", "a choice by comparing rounded values"),
    ],
)
def test_no_bound_says_why(choice: str, reason: str) -> None:
    with pytest.raises(Unbounded, match=reason):
        cells.bounds(analysed(check(parse(_text(choice)), ATTENTION), ATTENTION))


def test_lazy_rescaling_costs_next_to_nothing() -> None:
    """Weights and their sum may be e^8 times as large; what the bound is relative to is their quotient."""
    sizes, ranges = SIZES | {"M": 4096, "N": 4096}, {"Q": 4.0, "K": 4.0, "V": 4.0}
    inputs = Inputs(sizes, {"scale": 0.125}, ranges, {})
    lazy, always = (
        {name: value_of(x, inputs.values()) for name, x in bounded(path)[2].items()}
        for path in (LAZY, "tests/golden/proved/fa2_none.tile")
    )
    assert all(lazy[name] <= 1.01 * always[name] for name in ("O", "LSE"))
