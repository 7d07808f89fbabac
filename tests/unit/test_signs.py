"""Signs of terms: what is never negative, and what only looks so."""

from __future__ import annotations

import pytest

from verifier import reals
from verifier.booleans import TRUE, boolean, negate
from verifier.constants import limits
from verifier.integers import symbol
from verifier.reals import Real, guarded, maximum_of, number, of, of_int, real_atom
from verifier.signs import never_negative, positive_when, sign
from verifier.terms import as_int, fresh

X = reals.read("X", (symbol("i"),))
FADE, SLANT = reals.parameter("fade", 0.0, 0.5), reals.parameter("slant", -0.5, 0.5)
LANE, COUNT = of_int(as_int(fresh("lane", 0, 63))), of_int(symbol("n"))


def below_zero(x: Real) -> object:
    return boolean("real", "gt", -x)


def rounded(x: Real) -> Real:
    return of(real_atom("fn", f"{reals.ROUNDED}f32", x))


def at_least(x: Real, low: int) -> Real:
    return maximum_of((((), TRUE, x), ((), TRUE, number(low))))


@pytest.mark.parametrize(
    ("x", "known"),
    [
        (FADE * LANE, True),
        (SLANT * LANE, False),  # its limits reach below 0
        (FADE * COUNT, False),  # an integer of unknown sign
        (FADE * LANE - number(1), False),
        (at_least(X, 0), True),
        (at_least(X, -1), False),
        (guarded(negate(below_zero(X)), X), True),  # type: ignore[arg-type]
        (guarded(below_zero(X), X), False),  # type: ignore[arg-type]
        (guarded(negate(below_zero(X)), X * LANE * X * X), True),  # type: ignore[arg-type]
        (rounded(FADE * LANE), True),
        (rounded(X), False),
    ],
)
def test_what_is_never_negative(x: Real, known: bool) -> None:
    assert never_negative(x) is known


def test_a_maximum_is_positive_where_it_is_not_zero() -> None:
    ramp = at_least(X, 0)
    assert positive_when(ramp) is negate(boolean("real", "eq", ramp)) and positive_when(ramp - number(1)) is None


def test_the_sign_of_an_integer_is_a_condition_on_integers_and_a_comparison_of_floats_is_not() -> None:
    assert sign("ne", COUNT).args[0].kind == "eq" and sign("gt", X).kind == "real"
    assert sign("ne", COUNT * SLANT).args[0].kind == "real"


def test_rounding_keeps_the_sign_of_what_parameters_come_to() -> None:
    low, high = limits(rounded(-FADE)) or (0, 1)
    assert high == 0 and low < -0.5
    low, high = limits(rounded(SLANT)) or (0, 0)
    assert low < -0.5 and high > 0.5
