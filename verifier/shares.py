"""Quotients that are bounded although neither side is: what S1 knows of means and of values over their norm.

mean            |(sum over D of f) / n| <= max |f| where n is the number of values in D
root-share      |f(k)| / sqrt(A) <= c^(-1/2) if k is in D, c > 0, and A - c sum over D of f^2 is not negative by
                signs. This bounds x / rms(x) by the root of the row's length. It is a bound over the reals: it is
                used only where every argument of sqrt is computed without cancellation (`Floors` without clamps).
root-floor      |f| / sqrt(A) <= sqrt(f^2 / t) where t > 0 and A - t is not negative: 1 / sqrt(var + eps) is at most
                1 / sqrt(eps).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from verifier import reals
from verifier.binders import Substitution, make_sum, open_binder, reads, substitute
from verifier.booleans import TRUE
from verifier.floors import Floors
from verifier.linear import values_of
from verifier.reals import Monomial, Real, RealAtom, number, of, power
from verifier.signs import positive_when
from verifier.smt import Context
from verifier.squares import nonnegative

if TYPE_CHECKING:
    from verifier.proof import Proof

BoundOf = Callable[["Proof", Real, Context], float]


def without_means(proof: Proof, mono: Monomial, context: Context, bound_of: BoundOf) -> tuple[Monomial, float]:
    """The monomial without factors that are means, and the product of the bounds of these."""
    powers, out = dict(mono.factors), 1.0
    for a in [a for a, k in mono.factors if a.kind == "sum" and k > 0]:
        variables, opening = open_binder(a.args[0], a.args[1])
        guard, body = opening.bool(a.args[1]), opening.real(a.args[2])
        count = proof.simplifier.real(make_sum(variables, guard, number(1)), context).atom
        while count is not None and powers.get(count, 0) < 0 and powers[a] > 0:
            powers[a], powers[count] = powers[a] - 1, powers[count] + 1
            out *= bound_of(proof, body, context.given(guard))
    return reals.monomial(TRUE, powers, mono.exponent).terms[0][0], out


def by_root(proof: Proof, x: Real, context: Context, bound_of: BoundOf) -> float:
    """A bound of |x|, for an x whose every term has the factor 1 / sqrt(A) for one A; inf if there is none."""
    found = _root_share(proof, x, context)
    if found is None:
        return math.inf
    return bound_of(proof, found[0], context) * math.sqrt(bound_of(proof, found[1], context)) * (1.0 + 1e-9)


def _root_share(proof: Proof, x: Real, context: Context) -> tuple[Real, Real] | None:
    """(h, r) with |x| <= |h| * sqrt(r)."""
    roots = {root_below(mono) for mono, _ in x.terms}
    root = roots.pop() if len(roots) == 1 else None
    if root is None or not Floors(proof.program, proof.bound, clamps=False).roots_are_safe():
        return None
    for a in dict.fromkeys(a for mono, _ in root.args[1].terms for a, k in mono.factors if a.kind == "sum" and k == 1):
        if len(a.args[0]) == 1:
            common = _common(x, {r.args[0] for r in reads(a.args[2])})
            f = proof.simplifier.real(x * of(root) * power(common, -1), context)
            factor = _squares(proof, root.args[1], a, f, context)
            if factor is not None:
                return common, power(factor, -1)
    return None


def by_floor(proof: Proof, mono: Monomial, context: Context, bound_of: BoundOf) -> float:
    """A bound of a monomial that is divided by a root, from one term under the root; inf if there is none."""
    root = root_below(mono)
    if root is None:
        return math.inf
    inside = proof.simplifier.real(root.args[1], context)
    f = reals.monomial(TRUE, dict(mono.factors), mono.exponent) * of(root)
    best = math.inf
    for term in inside.terms:
        t = reals.total((term,))
        if positive_when(t) is TRUE and nonnegative(inside - t, context, proof.simplifier):
            best = min(best, bound_of(proof, f * f * power(t, -1), context))
    return math.sqrt(best) * (1.0 + 1e-9)


def root_below(mono: Monomial) -> RealAtom | None:
    """The one square root a monomial is divided by."""
    roots = [a for a, k in mono.factors if a.kind == "fn" and a.args[0] == "sqrt" and k == -1]
    return roots[0] if len(roots) == 1 else None


def _common(x: Real, inside: set[str]) -> Real:
    """The parameters, and the reads of tensors not under the root, that every term of x has as a factor."""
    factors = [{a for a, k in m.factors if k == 1 and a.kind in ("read", "param")} for m, _ in x.terms]
    shared = {a for a in set.intersection(*factors) if a.args[0] not in inside}
    return reals.monomial(TRUE, dict.fromkeys(shared, 1), None)


def _squares(proof: Proof, inside: Real, a: RealAtom, f: Real, context: Context) -> Real | None:
    """A c > 0 such that inside - c * sum over D of g^2 is not negative, for D the domain of the sum a and g a
    function of its symbol that is f at a value in D: the one that leaves no multiple of a."""
    (v,), opening = open_binder(a.args[0], a.args[1])
    guard, body = opening.bool(a.args[1]), opening.real(a.args[2])
    simplifier = proof.simplifier
    for value in values_of(v, body, f):
        at = {v: value}
        here = {substitute(of(r), at): of(r) for r in reads(body)}
        g = Substitution({}, lambda r, here=here: here.get(of(r)), everywhere=True).real(f)  # type: ignore[misc]
        same = simplifier.real(substitute(g, at) - f, context) is number(0)
        if not same or not context.entails(substitute(guard, at)):
            continue
        squares = simplifier.real(make_sum((v,), guard, g * g), context)
        above, below = _coefficient(inside, a), _coefficient(squares, a)
        c = above * power(below, -1) if below.terms else number(0)
        if positive_when(c) is TRUE and positive_when(simplifier.real(inside - c * squares, context)) is not None:
            return c
    return None


def _coefficient(x: Real, a: RealAtom) -> Real:
    """What a is multiplied by in the terms of x where it occurs to the first power."""
    terms = ((m, c) for m, c in x.terms if dict(m.factors).get(a) == 1)
    return reals.total(terms) * of(a, -1)
