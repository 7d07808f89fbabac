"""Signs of terms: what is never negative, and what only looks so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from verifier import reals
from verifier.booleans import TRUE, boolean, negate
from verifier.constants import limits
from verifier.integers import symbol
from verifier.reals import Real, guarded, maximum_of, number, of, of_int, real_atom
from verifier.signs import never_negative, positive_when, sign
from verifier.terms import as_int, fresh


@dataclass(frozen=True)
class Terms:
    """Made for each test: terms go with the proof that made them, and a proof may have ended in between."""

    x: Real
    fade: Real
    slant: Real
    lane: Real
    count: Real


@pytest.fixture
def t() -> Terms:
    fade, slant = reals.parameter("fade", 0.0, 0.5), reals.parameter("slant", -0.5, 0.5)
    lane, count = of_int(as_int(fresh("lane", 0, 63))), of_int(symbol("n"))
    return Terms(reals.read("X", (symbol("i"),)), fade, slant, lane, count)


def below_zero(x: Real) -> object:
    return boolean("real", "gt", -x)


def rounded(x: Real) -> Real:
    return of(real_atom("fn", f"{reals.ROUNDED}f32", x))


def at_least(x: Real, low: int) -> Real:
    return maximum_of((((), TRUE, x), ((), TRUE, number(low))))


@pytest.mark.parametrize(
    ("x", "known"),
    [
        (lambda t: t.fade * t.lane, True),
        (lambda t: t.slant * t.lane, False),  # its limits reach below 0
        (lambda t: t.fade * t.count, False),  # an integer of unknown sign
        (lambda t: t.fade * t.lane - number(1), False),
        (lambda t: at_least(t.x, 0), True),
        (lambda t: at_least(t.x, -1), False),
        (lambda t: guarded(negate(below_zero(t.x)), t.x), True),  # type: ignore[arg-type]
        (lambda t: guarded(below_zero(t.x), t.x), False),  # type: ignore[arg-type]
        (lambda t: guarded(negate(below_zero(t.x)), t.x * t.lane * t.x * t.x), True),  # type: ignore[arg-type]
        (lambda t: rounded(t.fade * t.lane), True),
        (lambda t: rounded(t.x), False),
    ],
)
def test_what_is_never_negative(t: Terms, x: Callable[[Terms], Real], known: bool) -> None:
    assert never_negative(x(t)) is known


def test_a_maximum_is_positive_where_it_is_not_zero(t: Terms) -> None:
    ramp = at_least(t.x, 0)
    assert positive_when(ramp) is negate(boolean("real", "eq", ramp)) and positive_when(ramp - number(1)) is None


def test_the_sign_of_an_integer_is_a_condition_on_integers_and_a_comparison_of_floats_is_not(t: Terms) -> None:
    assert sign("ne", t.count).args[0].kind == "eq" and sign("gt", t.x).kind == "real"
    assert sign("ne", t.count * t.slant).args[0].kind == "real"


def test_rounding_keeps_the_sign_of_what_parameters_come_to(t: Terms) -> None:
    low, high = limits(rounded(-t.fade)) or (0, 1)
    assert high == 0 and low < -0.5
    low, high = limits(rounded(t.slant)) or (0, 0)
    assert low < -0.5 and high > 0.5
