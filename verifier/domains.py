"""Guarded integer domains: can two counters be re-indexed as one, and how a symbol is given by another.

`fixed_quotient` finds a symbol whose quotient by something is fixed: x with (x + rest) div d = q, d > 0, is
d*q + r - rest for exactly one r in 0 <= r < d. It is how `h div (H/G) = g` becomes the heads of group g.
`merge_pair` finds the bijection behind tiling: x and y with an index a*x + b*y + rest, |b| = 1,
0 <= y < |a|, are exactly the quotient and remainder of one integer j = that index (up to sign).
"""

from __future__ import annotations

from collections.abc import Iterable

from verifier.booleans import Bool, conj, conjuncts, ge0, lt
from verifier.integers import Atom, Int, div, lift, mod, polynomial, symbol
from verifier.terms import as_int, atom_of, free, fresh


def merge_pair(x: Atom, y: Atom, index: Int, fresh: Int) -> dict[Atom, Int] | None:
    """x and y in terms of `fresh` = s*index (s = coefficient of y = +-1), if index = a*x + s*y + rest with
    0 <= y < |a| known from y's static bounds. The map (x, y) -> fresh is then a bijection of Z x [0, |a|)
    onto Z, and what is returned is its inverse; the caller keeps the ranges of x and y as guards."""
    a = coefficient(index, x)
    s = coefficient(index, y)
    if not a or s is None or abs(s) != 1 or y.low is None or y.low < 0 or y.high is None or y.high >= abs(a):
        return None
    rest = index - polynomial({(x,): a, (y,): s})
    t = s * (s * fresh - rest)  # = s*a*x + y, as s*index = fresh
    width = lift(abs(a))
    quotient = div(t, width)
    return {x: quotient if s * a > 0 else -quotient, y: mod(t, width)}


def fixed_quotient(variables: Iterable[Atom], guard: Bool) -> tuple[Atom, Atom, Int, Bool] | None:
    """(v, r, v as a term in r, what is left of the guard and r < d, still in terms of v) when a conjunct of the
    guard is (v + rest) div d = q, with v in none of rest, d and q. The map r -> v is a bijection of 0 <= r < d
    onto the v that meet the conjunct, for d > 0, and every divisor of the logic is positive."""
    for part in conjuncts(guard):
        if part.kind != "eq":
            continue
        for power, c in part.args[0].terms:
            if len(power) != 1 or power[0].kind != "div" or c not in (1, -1):
                continue
            inner, d = power[0].args
            q = (polynomial({power: c}) - part.args[0]) * c
            for v in variables:
                if coefficient(inner, v) == 1 and v not in free(d) and v not in free(q):
                    r = fresh("~", 0)
                    others = conj((*(p for p in conjuncts(guard) if p is not part), lt(as_int(r), d)))
                    return v, r, d * q + as_int(r) - (inner - as_int(v)), others
    return None


def coefficient(index: Int, v: Atom) -> int | None:
    """The literal coefficient of v if index is linear in it, else None (0 when absent)."""
    found = 0
    for power, c in index.terms:
        if v in power:
            if len(power) != 1:
                return None
            found = c
        elif any(v in free(a) for a in power):
            return None
    return found


def rename(variables: tuple[Atom, ...], level: int) -> tuple[tuple[Atom, ...], dict[Atom, Int], Bool]:
    """Canonical symbols for `variables` (equal terms then bind equal names), the substitution, and the
    range that the old static bounds gave, for the canonical symbols carry none."""
    new = tuple(symbol(f"%{level}" if k == 0 else f"%{level}.{k}") for k in range(len(variables)))
    ranges: list[Bool] = []
    for v, n in zip(variables, new, strict=True):
        ranges += [] if v.low is None else [ge0(n - v.low)]
        ranges += [] if v.high is None else [ge0(v.high - n)]
    return tuple(map(atom_of, new)), dict(zip(variables, new, strict=True)), conj(ranges)
