"""What the limits of parameters say of a term made of parameters alone: 1 - p > 0 where p <= 0.9.

Rule `param-range`: such a term lies in the interval that interval arithmetic over the rationals gives from
the limits, which the launcher checks at every call. Intervals forget that two terms speak of one parameter
(p - p*p reaches from -upper^2 to upper), so they are too wide, never too narrow. Signs (`verifier.signs`),
magnitudes and underflow (`verifier.magnitude`, `verifier.underflow`) are read off them.
"""

from __future__ import annotations

from fractions import Fraction

from verifier.booleans import TRUE
from verifier.reals import ROUNDED, Monomial, Real, RealAtom, monomial, number, total

TINY = Fraction(1, 2**24)  # no float rounds a smaller number further away, and no larger one by more than its 256th


def limits(x: Real) -> tuple[Fraction, Fraction] | None:
    """What x, made of parameters alone, stays within by their limits; None for any other term,
    and where a divisor may be 0."""
    low = high = Fraction(0)
    for mono, c in x.terms:
        ends = (Fraction(c), Fraction(c))
        for a, k in mono.factors:
            own = constant_limits(a)
            if own is None or (k < 0 and own[0] <= 0 <= own[1]):
                return None
            for _ in range(abs(k)):
                corners = [e * f if k > 0 else e / f for e in ends for f in own]
                ends = min(corners), max(corners)
        if mono.guard is not TRUE or mono.exponent is not None:
            return None
        low, high = low + ends[0], high + ends[1]
    return low, high


def constant_limits(a: RealAtom) -> tuple[Fraction, Fraction] | None:
    """`limits` of an atom: a parameter, the 1 - p of 1/(1 - p), or either rounded to a float, which keeps its sign."""
    if a.kind == "param":
        return Fraction(a.args[1]), Fraction(a.args[2])
    if a.kind == "fn" and a.args[0].startswith(ROUNDED):
        ends = limits(a.args[1])
        if ends is None:
            return None
        low, high = ends[0] - abs(ends[0]) / 128 - TINY, ends[1] + abs(ends[1]) / 128 + TINY
        return low if ends[0] < 0 else max(low, Fraction(0)), high if ends[1] > 0 else min(high, Fraction(0))
    return limits(a.args[0]) if a.kind == "poly" else None


def by_constants(x: Real) -> list[tuple[Real, Monomial]]:
    """x as a sum of q * m, each q made of parameters alone and no two m alike: S - p * S is (1 - p) * S."""
    one = number(1).terms[0][0]
    groups: dict[Monomial, list[tuple[Monomial, Fraction | int]]] = {}
    for mono, c in x.terms:
        constants = {a: k for a, k in mono.factors if constant_limits(a) is not None}
        rest, part = mono, one
        if constants:
            others = {a: k for a, k in mono.factors if a not in constants}
            rest = monomial(mono.guard, others, mono.exponent).terms[0][0]
            part = monomial(TRUE, constants, None).terms[0][0]
        groups.setdefault(rest, []).append((part, c))
    return [(total(parts), rest) for rest, parts in groups.items()]
