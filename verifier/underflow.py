"""Divisors and arguments of log that machine floats cannot lose to underflow.

Over the reals a sum of exponentials of anything is positive. In f32 it is 0 when every argument is below
-104, and 0/0 or log 0 is what a kernel then computes from rows that do see keys: exactly what subtracting
a true maximum prevents, and a fixed or finite stand-in for it does not. `at_least` shows x >= 2^-24 by:

  literal                itself; an integer by the context; a term in parameters alone by their limits, also as
                         the factor of any of the following
  sum of positives       one term suffices, the others only add
  attained maximum       sum over D of exp(E) times exp(-m), m the maximum of E over D: one term is exp(0);
                         exp(A - m) next to it adds the member A to what m may be the maximum of
  part of a sum          the same, m the maximum of log-sum-exps over parts of D: the whole is no less than a part
  bounded pivot          the same for a pivot shown never to exceed the maximum of what was visible
  bounded exponent       sum over a non-empty D of exp(E) with |E| small under the input range

Definedness (D1) has already shown that D is not empty where x is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from verifier.binders import Substitution, open_binder, substitute
from verifier.booleans import TRUE, le, negate
from verifier.constants import by_constants, limits
from verifier.integer_reals import spread
from verifier.integers import lift
from verifier.linear import values_of
from verifier.machine import monotone
from verifier.magnitude import bound_of
from verifier.proof import Proof
from verifier.reals import Member, Monomial, Real, RealAtom, is_positive_constant, monomial, number, scaled_max, total
from verifier.signs import positive_when
from verifier.simplify import open_guard
from verifier.smt import Context
from verifier.terms import atom_of, pivots

LEAST = 2.0**-24
MAX_RAISED = 6  # forms of one exponent that are tried
SMALL_EXPONENT = 16.0  # exp(-16) > 2^-24


def at_least(proof: Proof, x: Real, context: Context, splits: int = 4, least: float = LEAST) -> bool:
    """Whether x >= `least`, at most 1, wherever the context holds."""
    if context.impossible:
        return True
    x = proof.simplifier.real(x, context)
    split = open_guard(x, context) if splits else None
    if split is not None:
        return all(at_least(proof, x, context.given(case), splits - 1, least) for case in (split, negate(split)))
    value = x.constant
    if value is not None:
        return float(value) >= least
    ends = limits(x)
    if ends is not None:
        return float(ends[0]) >= least
    groups = [(limits(q), mono) for q, mono in by_constants(x)]
    scaled = [(float(ends[0]), mono) for ends, mono in groups if ends is not None and ends[0] > 0]
    if len(scaled) < len(groups) or not all(_positive(mono, context) for _, mono in scaled):
        return False
    if any(_term(proof, mono, q, context, least) for q, mono in scaled):
        return True
    return len(x.terms) > 1 and _softmax_sums(proof, x, context)


def _positive(mono: Monomial, context: Context) -> bool:
    """Whether a monomial is never negative: by signs, and integers as the context says."""
    factors = {a: k for a, k in mono.factors if not (a.kind == "int" and context.entails(le(lift(1), a.args[0])))}
    return positive_when(monomial(mono.guard, factors, mono.exponent)) is not None


def _term(proof: Proof, mono: Monomial, c: float, context: Context, least: float) -> bool:
    if mono.guard is not TRUE:
        return False
    size = c
    sums: list[RealAtom] = []
    for a, k in mono.factors:
        if a.kind == "sum" and k == 1:
            sums.append(a)
            continue
        factor = _factor(proof, a, context)
        if factor is None or k < 0:
            return False
        size *= factor**k
    if not sums:
        return mono.exponent is None and size >= least
    return len(sums) == 1 and size * _softmax_sum(proof, sums[0], mono.exponent, context) >= least


def _softmax_sums(proof: Proof, x: Real, context: Context) -> bool:
    """Sums of exponentials, and lone exponentials (a sink), scaled by one exp(-m): m may be attained in any."""
    sums: list[RealAtom] = []
    lone: list[Real] = []
    scales: set[Real | None] = set()
    for mono, c in x.terms:
        if mono.guard is not TRUE or c < 1:
            return False
        if not mono.factors and mono.exponent is not None:
            lone.append(mono.exponent)
        elif len(mono.factors) == 1 and mono.factors[0][0].kind == "sum" and mono.factors[0][1] == 1:
            sums.append(mono.factors[0][0])
            scales.add(mono.exponent)
        else:
            return False
    exponent = scales.pop() if len(scales) == 1 else None
    if exponent is None or not all(map(_exponential, sums)):
        return False
    terms = [e - exponent for e in lone]
    return any(_attained(proof, sums, upper, context, terms) for upper in _uppers(proof, -exponent))


def _exponential(a: RealAtom) -> bool:
    """A sum over one symbol of exp of something, and nothing else."""
    variables, _, body = a.args
    if len(variables) != 1 or len(body.terms) != 1:
        return False
    mono, c = body.terms[0]
    return bool(c >= 1 and not mono.factors and mono.guard is TRUE and mono.exponent is not None)


def _factor(proof: Proof, a: RealAtom, context: Context) -> float | None:
    """A lower bound of a positive atom."""
    if a.kind == "int" and context.entails(le(lift(1), a.args[0])):
        return 1.0
    if a.kind == "log" and a.args[0].constant == 2:
        return 0.69
    return None


def _softmax_sum(proof: Proof, a: RealAtom, exponent: Real | None, context: Context) -> float:
    """A lower bound of a * exp(exponent); 0 when none is found."""
    _, guard, body = a.args
    if body.constant is not None:
        return 1.0 if exponent is None and body.constant >= 1 else 0.0  # a count of a non-empty domain
    if not _exponential(a):
        return 0.0
    if exponent is None:
        bound = bound_of(proof, body.terms[0][0].exponent, context.given(guard))
        return math.exp(-bound) if bound <= SMALL_EXPONENT else 0.0
    return 1.0 if any(_attained(proof, [a], upper, context) for upper in _uppers(proof, -exponent)) else 0.0


def _uppers(proof: Proof, m: Real) -> list[Real]:
    """m itself, and m with pivots raised, one after the other, to what each is known never to exceed: the bound of a
    pivot that goes on from an earlier loop is a maximum that has the earlier loop's pivot as a member."""
    out = [m]
    for x in out:
        for a in pivots(x):
            upper = _pivot_bound(proof, a) if len(out) < MAX_RAISED else None
            if upper is not None and _grows_with(x, a):
                raised = Substitution({}, lambda b, a=a, u=upper: u if b is a else None, everywhere=True)  # type: ignore[misc]
                out.append(raised.real(x))
    return out


def _pivot_bound(proof: Proof, a: RealAtom) -> Real | None:
    """What this value of a pivot never exceeds (`closed_forms`), where one is known."""
    bound = proof.pivot_bounds.get(a.args[0])
    if bound is None:
        return None
    x, counter, scope, upper = bound
    n, lanes, rest = a.args[1][0], a.args[1][1 : 1 + len(x.lanes)], a.args[1][1 + len(x.lanes) :]
    at = {**x.at(lanes).symbols, atom_of(counter): n}
    at |= {atom_of(s): r for s, r in zip(scope, rest, strict=True)}
    return Substitution(at).real(upper)


def _grows_with(x: Real, a: RealAtom) -> bool:
    """Whether raising `a` cannot lower x: it stands with positive constant factors only, by itself or in the body of a
    maximum's member, and decides no guard."""
    for mono, c in x.terms:
        if a not in pivots(mono):
            continue
        here = [(b, k) for b, k in mono.factors if not is_positive_constant(b)]
        if c <= 0 or mono.exponent is not None or mono.guard is not TRUE or len(here) != 1 or here[0][1] != 1:
            return False
        b = here[0][0]
        inside = b.args[0] if b.kind == "max" else ()
        if b is not a and not (inside and all(a not in pivots(g) and _grows_with(y, a) for _, g, y in inside)):
            return False
    return True


def _attained(proof: Proof, sums: list[RealAtom], m: Real, context: Context, lone: Sequence[Real] = ()) -> bool:
    """Whether m is a maximum of exponents of these sums, each at a place of its domain, and of the lone
    exponents: it is then one term."""
    m = monotone(proof.simplifier.real(m, context))
    rest, found = number(0), None
    for part in (total((term,)) for term in m.terms):  # a maximum plus something all its members share
        here = scaled_max(part)
        rest, found = (rest, here) if found is None and here is not None else (rest + part, found)
    if found is None:
        return False
    maximum, scaled = found[0], (found[1], rest)
    return all(
        _is_lone(proof, lone, member, scaled, context)
        or any(held(proof, a, member, scaled, context) for a in sums for held in (_is_term, _is_part))
        for member in maximum.args[0]
    )


def _is_part(proof: Proof, a: RealAtom, member: Member, scaled: tuple[Real, Real], context: Context) -> bool:
    """Whether exp of a member, times scaled[0] plus scaled[1], is what the sum comes to over part of its domain: the
    share of one split. As all terms are positive, the sum is no less."""
    _, opening = open_binder(member[0], member[1])
    here = context.given(opening.bool(member[1]))
    found = proof.simplifier.real(opening.real(member[2]) * scaled[0] + scaled[1], here).atom
    part = found.args[0].atom if found is not None and found.kind == "log" else None
    if part is None or part.kind != "sum" or part.args[0] != a.args[0] or part.args[2] is not a.args[2]:
        return False
    _, inside = open_binder(a.args[0], TRUE)
    return here.given(inside.bool(part.args[1])).entails(inside.bool(a.args[1]))


def _is_lone(proof: Proof, lone: Sequence[Real], member: Member, scaled: tuple[Real, Real], context: Context) -> bool:
    """Whether a member, times scaled[0] plus scaled[1], is one of the lone exponents."""
    if member[0]:
        return False
    here = context.given(member[1])
    body = member[2] * scaled[0] + scaled[1]
    return any(spread(proof.simplifier.real(e - body, here)) is number(0) for e in lone)


def _is_term(proof: Proof, a: RealAtom, member: Member, scaled: tuple[Real, Real], context: Context) -> bool:
    """Whether a member, times scaled[0] plus scaled[1], is the exponent of the sum at some value of its symbol."""
    (v,), guard, inner = a.args[0], a.args[1], a.args[2].terms[0][0].exponent
    new, opening = open_binder(member[0], member[1])
    here = context.given(opening.bool(member[1]))
    body = proof.simplifier.real(opening.real(member[2]) * scaled[0] + scaled[1], here)
    for value in values_of(v, inner, body):
        at = {v: value}
        same = spread(proof.simplifier.real(substitute(inner, at) - body, here))
        if same is number(0) and here.entails(substitute(guard, at)):
            return True
    return False
