"""Guarded integer domains: is there a point, and can two counters be re-indexed as one.

`exists` eliminates bound symbols by Fourier-Motzkin, which is exact here: one integer symbol whose
bounds are `k*v + r >= 0` with literal k has a value between its rounded bounds iff every lower bound is
at most every upper bound. Floor quotients of the symbol by literals are first turned into bounds of
the symbol itself (x div d >= t iff x >= d*t). What does not fit stays a quantifier for Z3.

`fixed_quotient` finds a symbol whose quotient by something is fixed: x with (x + rest) div d = q, d > 0, is
d*q + r - rest for exactly one r in 0 <= r < d. It is how `h div (H/G) = g` becomes the heads of group g.
`merge_pair` finds the bijection behind tiling: x and y with an index a*x + b*y + rest, |b| = 1,
0 <= y < |a|, are exactly the quotient and remainder of one integer j = that index (up to sign).
"""

from __future__ import annotations

from collections.abc import Iterable

from verifier.booleans import FALSE, Bool, boolean, conj, conjuncts, disj, ge0, lt
from verifier.integers import Atom, Int, div, lift, mod, polynomial, symbol
from verifier.terms import as_int, atom_of, free, fresh, unbounded_range

MAX_CASES = 16


def exists(variables: Iterable[Atom], guard: Bool) -> Bool:
    """Whether some integer values of the variables satisfy the guard, as a formula without them."""
    out = guard
    for v in variables:
        out = _exists_one(v, conj((out, unbounded_range(v))))
    return out


def _exists_one(v: Atom, guard: Bool) -> Bool:
    if guard is FALSE or v not in free(guard):
        return guard
    cases = _cases(guard)
    if cases is None:
        return boolean("exists", (polynomial({(v,): 1}),), guard)
    return disj(_exists_conjunction(v, case) for case in cases)


def _cases(guard: Bool) -> list[tuple[Bool, ...]] | None:
    """Disjunctive normal form, or None when it has too many cases."""
    cases: list[tuple[Bool, ...]] = [()]
    for part in conjuncts(guard):
        options = [conjuncts(o) for o in part.args] if part.kind == "or" else [(part,)]
        cases = [c + o for c in cases for o in options]
        if len(cases) > MAX_CASES:
            return None
    return cases


def _exists_conjunction(v: Atom, parts: tuple[Bool, ...]) -> Bool:
    lowers: list[Int] = []
    uppers: list[Int] = []
    rest: list[Bool] = []
    for part in parts:
        if v not in free(part):
            rest.append(part)
            continue
        bounds = _bounds(v, part)
        if bounds is None:
            joined = _joined(v, parts)
            return boolean("exists", (polynomial({(v,): 1}),), conj(parts)) if joined is None else joined
        lowers += bounds[0]
        uppers += bounds[1]
    return conj((*rest, *(ge0(u - low) for low in lowers for u in uppers)))


def _joined(v: Atom, parts: tuple[Bool, ...]) -> Bool | None:
    """exists v: A and (exists w: B), w not in A, is exists v, w: A and B; and where an index makes v and w
    quotient and remainder of one integer (`merge_pair`), it is `exists` of that one. None where none does."""
    from verifier.binders import merged, substitute

    for part in parts:
        if part.kind != "exists" or v not in free(part):
            continue
        others = [p for p in parts if p is not part]
        (w,) = map(atom_of, part.args[0])
        both = conj((part.args[1], *others))
        found = None if any(w in free(p) for p in others) else merged((v, w), both)
        if found is not None:
            (one,), mapping = found
            ranges = conj(map(unbounded_range, (v, w)))
            return exists((one,), substitute(conj((both, ranges)), mapping))
    return None


def _bounds(v: Atom, part: Bool) -> tuple[list[Int], list[Int]] | None:
    """(lower bounds, upper bounds) on v equivalent to one literal, or None."""
    if part.kind == "eq":
        first, second = _bounds_ge(v, part.args[0]), _bounds_ge(v, -part.args[0])
        return None if first is None or second is None else (first[0] + second[0], first[1] + second[1])
    return _bounds_ge(v, part.args[0]) if part.kind == "ge" else None


def _bounds_ge(v: Atom, x: Int) -> tuple[list[Int], list[Int]] | None:
    """Bounds on v equivalent to x >= 0."""
    mentions = [(p, c) for p, c in x.terms if any(v in free(a) for a in p)]
    if len(mentions) != 1 or len(mentions[0][0]) != 1:
        return None
    (power, k) = mentions[0]
    atom, rest = power[0], x - polynomial({power: k})
    # k*atom + rest >= 0
    limit = _floor(rest, -k) if k < 0 else -_floor(rest, k)  # atom <= limit if k < 0 else atom >= limit
    if atom is v:
        return ([], [limit]) if k < 0 else ([limit], [])
    if atom.kind == "div" and atom.args[1].constant is not None and v not in free(limit):
        inner, d = atom.args
        return _bounds_ge(v, limit * d + d - 1 - inner) if k < 0 else _bounds_ge(v, inner - limit * d)
    return None


def _floor(x: Int, k: int) -> Int:
    return x if k == 1 else div(x, lift(k))


def bounds(v: Atom, guard: Bool) -> tuple[list[Int], list[Int]] | None:
    """Lower and upper bounds on v that a conjunction is equivalent to, or None."""
    lowers: list[Int] = []
    uppers: list[Int] = []
    for part in conjuncts(guard):
        if v not in free(part):
            continue
        found = _bounds(v, part)
        if found is None:
            return None
        lowers += found[0]
        uppers += found[1]
    return lowers, uppers


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
