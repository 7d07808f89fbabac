"""Identities tried last, on what is left of a difference of two terms.

They would hide structure that scans look for, so they are no part of the normal form: E1 applies them, everywhere in a
difference, when the normal forms of the two sides differ, and asks again whether it is 0. Each holds for all reals:

  shift-free  the sum over v of f(v + t) where g(v) is the sum over w of f(w) where g(w - t), for a t free of every
              bound symbol: a bijection of Z. A block of a prefix sum then runs over cells, as a spec's does
  logistic    with s(u) = 1 / (1 + exp(-u)): s(-u) = 1 - s(u), tanh(u) = 2 s(2u) - 1,
              1 / (c exp(u) + d exp(v)) = exp(-u) / c * (1 - s(v - u + log(d / c))) for numbers c, d > 0, and
              exp(u) s(u) = exp(u) - s(u), exp(-u) s(u) = 1 - s(u)
  difference  the sum over D of f less the sum over a part E of D is the sum over D without E
  max-choice  max(x, y) of two members that are always there is x where x > y, else y
  zero-end    [x >= 0] x z = [x > 0] x z for a product x, all of whose factors the term has to positive powers
"""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from typing import Any

from verifier import reals
from verifier.binders import make_sum, open_binder, reads, substitute
from verifier.booleans import TRUE, Bool, conj, conjuncts, disj, equal
from verifier.domains import coefficient
from verifier.elimination import bounds
from verifier.integers import Atom, Int
from verifier.reals import Monomial, Real, RealAtom, number, of, real_atom
from verifier.signs import compare
from verifier.simplify import Simplifier
from verifier.smt import Context
from verifier.terms import as_int, free, fresh, unbounded_range


def vanishes(x: Real, context: Context, simplifier: Simplifier) -> bool:
    """Whether x is 0 wherever the context holds, by these identities."""
    rewritten = _rewritten(x)
    left = _less(simplifier.real(rewritten, context), context)
    if left is not number(0) and simplifier.real(left, context) is not number(0):
        return False
    simplifier.trace["residue"] = None
    return True


def _rewritten(x: Real) -> Real:
    out = number(0)
    for mono, c in x.terms:
        part, exponent = number(c), None if mono.exponent is None else _rewritten(mono.exponent)
        for a, k in mono.factors:
            if exponent is not None and a.kind == "sum" and k == 1:  # where an exp(u) that left it finds its s(u) again
                part, exponent = part * _sum(a, reals.exp(exponent)), None
            else:
                part = part * _power(a, k)
        if exponent is not None:
            part = part * reals.exp(exponent)
        out = out + reals.guarded(mono.guard, part)
    return _reduced(out)


def _power(a: RealAtom, k: int) -> Real:
    match a.kind:
        case "fn" if a.args[0] == "tanh":
            return reals.power(_logistic(_rewritten(a.args[1]) * number(2)) * number(2) - number(1), k)
        case "fn" if a.args[0] == "sigmoid":
            return reals.power(_logistic(_rewritten(a.args[1])), k)
        case "fn":
            return reals.power(reals.function(a.args[0], _rewritten(a.args[1])), k)
        case "log":
            return reals.power(reals.log(_rewritten(a.args[0])), k)
        case "poly" if k < 0:
            inner = _rewritten(a.args[0])
            inverse = _inverse(inner)
            return reals.power(inner, k) if inverse is None else reals.power(inverse, -k)
        case "sum":
            return reals.power(_sum(a, number(1)), k)
        case "max":
            return reals.power(_chosen(a), k)
        case _:
            return of(a, k)


def _chosen(a: RealAtom) -> Real:
    """A maximum of two as a choice."""
    bodies = [body for variables, guard, body in a.args[0] if not variables and guard is TRUE]
    if len(bodies) != 2 or len(a.args[0]) != 2:
        return of(a)
    x, y = map(_rewritten, bodies)
    return reals.select(compare("gt", x - y), x, y)


def _sum(a: RealAtom, factor: Real) -> Real:
    """A sum, times a factor free of its symbols."""
    new, opened = open_binder(a.args[0], a.args[1])
    guard, out = opened.bool(a.args[1]), number(0)
    for mono, c in _reduced(_rewritten(opened.real(a.args[2])) * factor).terms:
        whole = _open_ended(guard & mono.guard, mono)
        out = out + _placed(new, whole, reals.monomial(TRUE, dict(mono.factors), mono.exponent) * number(c))
    return out


# ---- sum-difference --------------------------------------------------------------------------


def _less(x: Real, context: Context) -> Real:
    """x with a sum over a part of another one's domain taken from that one."""
    terms = list(x.terms)
    for i, k in permutations(range(len(terms)), 2):
        found = _taken(terms[i], terms[k], context)
        if found is not None:
            return _less(reals.total(t for n, t in enumerate(terms) if n not in (i, k)) + found, context)
    return x


def _taken(first: tuple[Monomial, Any], second: tuple[Monomial, Any], context: Context) -> Real | None:
    (m, c), (n, d) = first, second
    only_m, only_n = (set(x.factors) - set(y.factors) for x, y in ((m, n), (n, m)))
    if c != -d or m.exponent is not n.exponent or m.guard is not n.guard or len(only_m) != 1 or len(only_n) != 1:
        return None
    ((a, p),), ((b, q),) = only_m, only_n
    if not (a.kind == b.kind == "sum" and p == q == 1 and a.args[0] == b.args[0] and a.args[2] is b.args[2]):
        return None
    variables, whole, body = a.args
    if not context.given(m.guard & b.args[1]).entails(whole):
        return None
    part = whole & disj(~p for p in conjuncts(b.args[1]) if p not in conjuncts(whole))
    for v in variables:  # what is left is often one point, between bounds that are one term
        lows, highs = bounds(v, part) or ((), ())
        part = conj((part, *(equal(as_int(v), t) for t in lows if t in highs)))
    rest = reals.monomial(m.guard, {f: k for f, k in m.factors if f is not a}, m.exponent)
    new, opened = open_binder(variables, part)
    return rest * make_sum(new, opened.bool(part), opened.real(body)) * number(c)


# ---- shift-free ------------------------------------------------------------------------------


def _placed(variables: tuple[Atom, ...], guard: Bool, body: Real) -> Real:
    """The sum with each symbol running over the first dimension it addresses, where one offset leads there."""
    for v in variables:
        offset = _offset(v, frozenset(variables), body)
        if offset is not None:
            k, rest = offset
            w = fresh("~")
            at = {v: (as_int(w) - rest) * k}
            guard, body = substitute(guard & unbounded_range(v), at), substitute(body, at)
            variables = tuple(w if u is v else u for u in variables)
    return make_sum(variables, guard, body)


def _offset(v: Atom, bound: frozenset[Atom], body: Real) -> tuple[int, Int] | None:
    """(k, t) when the first dimension that v addresses is read at k v + t alone, |k| = 1, t free of bound symbols."""
    places: dict[tuple[str, int], set[tuple[int, Int]]] = {}
    for read in reads(body):
        for position, index in enumerate(read.args[1]):
            k = coefficient(index, v)
            if k in (1, -1):
                places.setdefault((read.args[0], position), set()).add((k, index - as_int(v) * k))
    if not places or len(found := places[min(places)]) != 1:
        return None
    ((k, rest),) = found
    return (k, rest) if rest.terms and bound.isdisjoint(free(rest)) else None


# ---- logistic --------------------------------------------------------------------------------


def _logistic(u: Real) -> Real:
    """s(u), in terms of the one of u and -u whose first coefficient is positive."""
    if not u.terms:
        return number(Fraction(1, 2))
    if u.terms[0][1] < 0:
        return number(1) - of(real_atom("fn", "sigmoid", -u))
    return of(real_atom("fn", "sigmoid", u))


def _inverse(x: Real) -> Real | None:
    """1 / x for x = c exp(u) + d exp(v), c and d positive numbers."""
    if len(x.terms) != 2 or any(m.factors or m.guard is not TRUE or c <= 0 for m, c in x.terms):
        return None
    (m, c), (n, d) = x.terms
    u, v = (number(0) if mono.exponent is None else mono.exponent for mono in (m, n))
    ratio = v - u + reals.log(number(Fraction(d) / Fraction(c)))
    return reals.exp(-u) * number(1 / Fraction(c)) * (number(1) - _logistic(ratio))


def _reduced(x: Real) -> Real:
    """x without a product of s(u) and exp(n u): exp(n u) s(u)^j is exp(n u) s(u)^(j-1) - exp((n-1) u) s(u)^j for n > 0
    and exp((n+1) u) s(u)^(j-1) - exp((n+1) u) s(u)^j for n < 0, which ends as n or j comes nearer to 0 each time."""
    todo, out = list(x.terms), number(0)
    while todo:
        mono, c = todo.pop()
        found = _product(mono)
        if found is None:
            ended = reals.monomial(_open_ended(mono.guard, mono), dict(mono.factors), mono.exponent)
            out = out + ended * number(c)
            continue
        a, u, n = found
        less = _once_less(mono, a)
        if n > 0:
            rest = less - of(a) * less * reals.exp(-u)
        else:
            rest = less * reals.exp(u) * (number(1) - of(a))
        todo += (rest * number(c)).terms
    return out


def _once_less(mono: Monomial, a: RealAtom) -> Real:
    powers = dict(mono.factors)
    powers[a] -= 1
    return reals.monomial(mono.guard, powers, mono.exponent)


def _product(mono: Monomial) -> tuple[RealAtom, Real, int] | None:
    """(s(u), u, n) when the monomial has s(u) to a positive power and the exponent n u and perhaps more, n not 0."""
    if mono.exponent is None:
        return None
    has = dict(mono.exponent.terms)
    for a, k in mono.factors:
        if k > 0 and a.kind == "fn" and a.args[0] == "sigmoid" and all(m in has for m, _ in a.args[1].terms):
            ratios = {Fraction(has[m]) / Fraction(c) for m, c in a.args[1].terms}
            if len(ratios) == 1 and (n := ratios.pop()).denominator == 1:
                return a, a.args[1], int(n)
    return None


def _open_ended(guard: Bool, mono: Monomial) -> Bool:
    """The guard of a monomial with x > 0 for x >= 0 where the monomial is 0 at x = 0."""
    return conj(_opened(p, dict(mono.factors)) for p in conjuncts(guard))


def _opened(part: Bool, powers: dict[RealAtom, int]) -> Bool:
    """`x > 0` for `not (-x > 0)` where x is one term of which some atom is a factor: x = 0 then makes that atom 0, or
    another atom of x, so all atoms of x have to be factors."""
    inner = part.args[0] if part.kind == "not" else None
    if inner is None or inner.kind != "real" or inner.args[0] != "gt" or len(inner.args[1].terms) != 1:
        return part
    ((x, _),) = inner.args[1].terms
    held = x.guard is TRUE and x.factors and all(k > 0 and powers.get(a, 0) > 0 for a, k in x.factors)
    return compare("gt", -inner.args[1]) if held else part
