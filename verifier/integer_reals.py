"""Integers inside real terms: `int` is a ring homomorphism, so equal integers must make equal reals however they
are put together.

  int-ring  int(a b + c) = int(a) int(b) + int(c), only where it has a positive power
  int-abs   |int(x)| = int(max(x, -x))
"""

from __future__ import annotations

from fractions import Fraction
from math import lcm, prod

from verifier.booleans import TRUE, Bool
from verifier.integers import Atom, Int, lift, maximum, polynomial
from verifier.reals import Factors, Monomial, Real, RealAtom, monomial, of, of_int, real_atom, total


def absolute(x: Real) -> Real:
    """|x|; known of integers, and of literals."""
    whole = as_integer(x)
    return of(real_atom("fn", "abs", x)) if whole is None else of_int(maximum(whole, -whole))


def as_integer(x: Real) -> Int | None:
    """The integer that x is, if it is a polynomial of integers with integer coefficients and no guard."""
    out = lift(0)
    for m, c in x.terms:
        if c.denominator != 1 or m.guard is not TRUE or m.exponent is not None:
            return None
        if any(a.kind != "int" or k < 0 for a, k in m.factors):
            return None
        out = out + prod((a.args[0] for a, k in m.factors for _ in range(k)), start=lift(int(c)))
    return out


def spread(x: Real) -> Real:
    """x with every integer in it written over its atoms (`int-ring`): 2*i - j as a real is 2 times i less j, and
    what is left of a quotient and its remainder is the number they came from. Exponents and members of maxima
    are kept so, and what is compared; divisors stay whole, for scans to see."""
    if not any(k > 0 and a.kind == "int" for m, _ in x.terms for a, k in m.factors):
        return x
    groups: dict[tuple[Bool, Factors, Real | None], dict[tuple[Atom, ...], Fraction]] = {}
    rest: list[tuple[Monomial, Fraction | int]] = []
    for m, c in x.terms:
        integers = [a.args[0] for a, k in m.factors if a.kind == "int" for _ in range(k)]
        if not integers:
            rest.append((m, c))
            continue
        others = tuple((a, k) for a, k in m.factors if a.kind != "int" or k < 0)
        group = groups.setdefault((m.guard, others, m.exponent), {})
        for atoms, n in prod(integers, start=lift(1)).terms:
            group[atoms] = group.get(atoms, Fraction(0)) + Fraction(c) * n
    out = total(rest)
    for (guard, others, exponent), group in groups.items():
        denominator = lcm(*(c.denominator for c in group.values()))
        whole = polynomial({atoms: int(c * denominator) for atoms, c in group.items()})
        part = total(_product(atoms, Fraction(n, denominator)) for atoms, n in whole.terms)
        out = out + part * monomial(guard, dict(others), exponent)
    return out


def _product(atoms: tuple[Atom, ...], c: Fraction) -> tuple[Monomial, Fraction | int]:
    """c times a product of integer atoms, as a monomial."""
    powers: dict[RealAtom, int] = {}
    for atom in atoms:
        whole = real_atom("int", polynomial({(atom,): 1}))
        powers[whole] = powers.get(whole, 0) + 1
    ((mono, _),) = monomial(TRUE, powers, None).terms
    return mono, int(c) if c.denominator == 1 else c
