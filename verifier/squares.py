"""Inequalities between sums and sums of squares.

cauchy-schwarz  (sum over D of f)^2 <= count(D) * sum over D of f^2, for a finite domain D whose count is known.
                So q = a (count(D) sum f^2 - (sum f)^2) >= 0 for a >= 0, and x >= 0 if x - q is not negative by signs.
                It makes a clamped variance, max(mean of squares - square of the mean, 0), the variance.
max-dominated   max(x, y) = x where x - y >= 0 by signs or cauchy-schwarz; both members free of bound symbols,
                and x a member wherever y is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from verifier import reals
from verifier.binders import make_sum, open_binder
from verifier.booleans import TRUE
from verifier.reals import Member, Real, RealAtom, number, of
from verifier.signs import positive_when
from verifier.smt import Context

if TYPE_CHECKING:
    from verifier.simplify import Simplifier


def nonnegative(x: Real, context: Context, simplifier: Simplifier) -> bool:
    """Whether x >= 0 by signs, or by them and one use of cauchy-schwarz."""
    if positive_when(x) is not None:
        return True
    return _used(any(positive_when(left) is not None for left in _less_spreads(x, context, simplifier)), simplifier)


def positive(x: Real, context: Context, simplifier: Simplifier) -> bool:
    """Whether x > 0 by signs, or what one use of cauchy-schwarz leaves of it is: eps and a variance, say."""
    if _surely(x, context):
        return True
    return _used(any(_surely(left, context) for left in _less_spreads(x, context, simplifier)), simplifier)


def _surely(x: Real, context: Context) -> bool:
    condition = positive_when(x)
    return condition is not None and context.entails(condition)


def _used(held: bool, simplifier: Simplifier) -> bool:
    if held:
        simplifier.trace["cauchy-schwarz"] = None
    return held


def _less_spreads(x: Real, context: Context, simplifier: Simplifier) -> Iterator[Real]:
    """x - q for every q >= 0 that cauchy-schwarz gives of a negative square of a sum in x."""
    for mono, c in x.terms:
        for a, k in mono.factors:
            if c < 0 and a.kind == "sum" and k == 2 and mono.guard is TRUE:
                rest = reals.monomial(TRUE, {b: p for b, p in mono.factors if b is not a}, mono.exponent) * number(-c)
                if positive_when(rest) is not None:
                    gap = _spread(a, context, simplifier)
                    yield simplifier.real(x - rest * gap, context)


def _spread(a: RealAtom, context: Context, simplifier: Simplifier) -> Real:
    """count(D) * sum f^2 - (sum f)^2 >= 0 for the sum a of f over D."""
    variables, opening = open_binder(a.args[0], a.args[1])
    guard, body = opening.bool(a.args[1]), opening.real(a.args[2])
    count = simplifier.real(make_sum(variables, guard, number(1)), context)
    return count * make_sum(variables, guard, body * body) - of(a, 2)


def undominated(members: tuple[Member, ...], context: Context, simplifier: Simplifier) -> tuple[Member, ...]:
    """The members of a maximum without those that another is never below."""
    kept = list(members)
    for m in members:
        if any(o is not m and _dominates(o, m, context, simplifier) for o in kept):
            kept.remove(m)
            simplifier.trace["max-dominated"] = None
    return tuple(kept)


def _dominates(o: Member, m: Member, context: Context, simplifier: Simplifier) -> bool:
    if o[0] or m[0]:
        return False
    here = context.given(m[1])
    return here.entails(o[1]) and nonnegative(simplifier.real(o[2] - m[2], here), here, simplifier)
