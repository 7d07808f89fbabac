"""What a divisor is at least: the parts of it that bound a quotient from above."""

from __future__ import annotations

import pytest

from verifier import booleans as logic
from verifier import integers as z
from verifier import reals
from verifier.magnitude import least_parts
from verifier.reals import Real, RealAtom, number, real_atom


@pytest.fixture(autouse=True)
def fresh_terms() -> None:
    z.reset()


def divisor(x: Real) -> RealAtom:
    return real_atom("poly", x)


def read(k: int) -> Real:
    return reals.read("X", (z.lift(k),))


def test_a_divisor_is_at_least_each_of_its_positive_terms() -> None:
    a, b = reals.exp(read(0)), reals.exp(read(1))
    assert {m for m in least_parts(divisor(a + b))} == {m for m, _ in (a + b).terms}
    assert least_parts(divisor(a + b * number(2)))


def test_one_term_that_may_be_negative_leaves_no_bound() -> None:
    a, b = reals.exp(read(0)), reals.exp(read(1))
    assert least_parts(divisor(a - b)) == []
    assert least_parts(divisor(a + read(2))) == []


def test_a_part_below_its_term_is_no_bound() -> None:
    a, b = reals.exp(read(0)), reals.exp(read(1))
    halves = least_parts(divisor(a + b * number(1) * reals.power(number(2), -1)))
    assert [m for m in halves] == [m for m, _ in a.terms]  # exp(b) / 2 is less than exp(b)
    here = reals.guarded(logic.ge0(z.symbol("n")), b)
    assert least_parts(divisor(a + here)) == [m for m, _ in a.terms]  # 0 where the guard fails
