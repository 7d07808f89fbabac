"""How large a term can get under the spec's input, parameter and size limits: an upper bound on |x|, rounded up
by a hair so that rounding of the bound itself cannot hide an overflow. `verifier.accumulators` bounds the
values of the program.
"""

from __future__ import annotations

import math

from verifier import reals
from verifier.binders import substitute
from verifier.booleans import TRUE, conj, le, negate
from verifier.constants import by_constants, limits
from verifier.integers import Int, lift
from verifier.linear import exponents, values_of
from verifier.obligations.width import Intervals
from verifier.proof import Proof
from verifier.reals import Monomial, Real, RealAtom, monomial, number, total
from verifier.shares import by_floor, by_root, root_below, without_means
from verifier.signs import positive_when
from verifier.simplify import open_guard
from verifier.smt import Context

HAIR = 1.0 + 1e-9
TINY = 2.0**-24  # what rounding adds where a float has no more digits


def bound_of(proof: Proof, x: Real, context: Context, splits: int = 3) -> float:
    """An upper bound on |x| where the context holds; inf when none is found."""
    if context.impossible:
        return 0.0
    x = proof.simplifier.real(x, context)
    split = open_guard(x, context) if splits else None
    if split is not None:
        return max(bound_of(proof, x, context.given(case), splits - 1) for case in (split, negate(split)))
    total = 0.0
    for root in {root_below(mono): None for mono, _ in x.terms}:
        part = reals.total(t for t in x.terms if root_below(t[0]) is root)
        bounds = (abs(float(c)) * _monomial(proof, m, context.given(m.guard)) * HAIR for m, c in part.terms)
        total += min(sum(bounds), math.inf if root is None else by_root(proof, part, context, bound_of))
    return total


def _monomial(proof: Proof, mono: Monomial, context: Context) -> float:
    ((q, bare),) = by_constants(total(((mono, 1),)))
    if bare is not mono:
        ends = limits(q)
        largest = 0.0 if ends is None else float(max(map(abs, ends)))
        return largest * _monomial(proof, bare, context) * HAIR if largest else math.inf
    mean = _weighted_mean(proof, mono, context)
    if mean is not None:
        return mean
    whole = mono
    mono, averaged = without_means(proof, mono, context, bound_of)
    out = averaged
    mono = share(proof, mono, context) or mono
    if mono.exponent is not None:
        from verifier.obligations.range import exp_bound

        limit = exp_bound(proof, mono.exponent, context)
        out = times(out, math.inf if limit is None else math.exp(limit))
    for atom, k in mono.factors:
        limit_of = _atom(proof, atom, context) ** k if k > 0 else _inverse(atom, context) ** -k
        out = times(out, limit_of)
    return out if out < math.inf else by_floor(proof, whole, context, bound_of)


def _inverse(atom: RealAtom, context: Context) -> float:
    """A bound of 1/atom: of an integer that the context says is positive."""
    return 1.0 if atom.kind == "int" and context.entails(le(lift(1), atom.args[0])) else math.inf


def _weighted_mean(proof: Proof, mono: Monomial, context: Context) -> float | None:
    """sum(w v) / sum(w), w >= 0, v a read, the first domain within the second: at most max |v|. Whatever else
    the divisor adds to sum(w) is not negative, and makes the quotient smaller."""
    if mono.exponent is not None or len(mono.factors) != 2:
        return None
    (a, k), (b, p) = mono.factors
    if k == -1:
        (a, k), (b, p) = (b, p), (a, k)
    if a.kind != "sum" or (k, p) != (1, -1):
        return None
    found = (_mean_over(proof, a, part, context) for part in least_parts(b))
    return next((mean for mean in found if mean is not None), None)


def least_parts(divisor: RealAtom) -> list[Monomial]:
    """Terms of coefficient at least 1 of a divisor of which no term is negative: it is at least each."""
    terms = divisor.args[0].terms if divisor.kind == "poly" else reals.of(divisor).terms
    if any(positive_when(reals.total((term,))) is None for term in terms):
        return []
    return [mono for mono, c in terms if c >= 1 and mono.guard is TRUE]


def _mean_over(proof: Proof, a: RealAtom, part: Monomial, context: Context) -> float | None:
    if part.exponent is not None or len(part.factors) != 1 or part.factors[0][1] != 1:
        return None
    b = part.factors[0][0]
    if b.kind != "sum" or a.args[0] != b.args[0]:
        return None
    if a.args[1] is not b.args[1] and not context.given(a.args[1]).entails(b.args[1]):
        return None
    whole, weight = a.args[2].terms, b.args[2].terms
    if len(whole) != 1 or len(weight) != 1 or positive_when(b.args[2]) is None:
        return None
    (m, c), (n, d) = whole[0], weight[0]
    extra = [f for f in m.factors if f not in n.factors]
    if m.exponent is not n.exponent or m.guard is not n.guard or len(extra) != 1 or extra[0][1] != 1:
        return None
    weighted = monomial(TRUE, {**dict(n.factors), extra[0][0]: 1}, m.exponent)
    if weighted is not monomial(TRUE, dict(m.factors), m.exponent):
        return None
    if extra[0][0].kind != "read":
        return None
    return abs(float(c / d)) * _read_limit(proof, extra[0][0].args[0])


def share(proof: Proof, mono: Monomial, context: Context) -> Monomial | None:
    """exp(e) / sum(exp(..)) where e is the exponent of one member of the sum, or of a term next to it: at most
    1. What is left of the monomial without the two."""
    if mono.exponent is None:
        return None
    for atom, k in mono.factors:
        if k == -1 and any(_is_member(proof, mono.exponent, part, context) for part in least_parts(atom)):
            return monomial(TRUE, {a: p for a, p in mono.factors if a is not atom}, None).terms[0][0]
    return None


def _is_member(proof: Proof, e: Real, part: Monomial, context: Context) -> bool:
    """Whether exp(e) is the part of a divisor, or one term of the sum it is."""
    if not part.factors:
        return part.exponent is not None and proof.simplifier.real(part.exponent - e, context) is number(0)
    atom, k = part.factors[0]
    if len(part.factors) != 1 or atom.kind != "sum" or k != 1 or part.exponent is not None or len(atom.args[0]) != 1:
        return False
    v, guard, body = atom.args[0][0], atom.args[1], atom.args[2]
    if len(body.terms) != 1 or body.terms[0][0].factors or body.terms[0][0].exponent is None:
        return False
    for value in values_of(v, body, e):
        here = context.entails(substitute(guard, {v: value}))
        member = proof.simplifier.real(substitute(body.terms[0][0].exponent, {v: value}), context)
        if here and proof.simplifier.real(member - e, context) is number(0):
            return True
    return False


def _read_limit(proof: Proof, tensor: str) -> float:
    for spec, _ in proof.bound.inputs:
        if spec.name == tensor and spec.abs_max is not None:
            return spec.abs_max
    return math.inf


def _atom(proof: Proof, atom: RealAtom, context: Context) -> float:
    match atom.kind:
        case "param":
            return parameter_limit(proof, atom.args[0])
        case "random":
            return 1.0
        case "read":
            return _read_limit(proof, atom.args[0])
        case "int":
            return _integer_limit(proof, atom.args[0], context)
        case "log" if atom.args[0].constant is not None:
            return abs(math.log(float(atom.args[0].constant)))
        case "log":
            return _log_sum_exp(proof, atom, context)
        case "fn" if atom.args[0].rsplit(" ")[-1] in ("tanh", "sigmoid"):
            return 1.0 if " " not in atom.args[0] else 1.01
        case "fn" if atom.args[0].startswith(reals.ROUNDED):
            return 1.01 * bound_of(proof, atom.args[1], context) + TINY
        case "fn" if atom.args[0] == "abs":
            return bound_of(proof, atom.args[1], context)
        case "fn" if atom.args[0] == "sqrt":
            return math.sqrt(bound_of(proof, atom.args[1], context)) * HAIR
        case "sum":
            variables, guard, body = atom.args
            count = 1.0
            for v in variables:
                count *= _extent(proof, v, guard)
            return count * bound_of(proof, body, context.given(guard))
        case "max":
            return max(bound_of(proof, body, context.given(guard)) for _, guard, body in atom.args[0])
        case _:
            return math.inf


def _log_sum_exp(proof: Proof, atom: RealAtom, context: Context) -> float:
    """|log(sum of n exponentials)| <= max |exponent| + log n. Where a log is used its argument is positive, so
    some term is there; each coefficient must be at least 1 for the lower bound."""
    parts = exponents(reals.of(atom))
    if len(parts) != len(atom.args[0].terms):
        return math.inf
    count, largest = 0.0, 0.0
    for (variables, guard, body), (_, c) in zip(parts, atom.args[0].terms, strict=True):
        here = context.given(guard)
        count += float(c) * math.prod(_extent(proof, v, guard) for v in variables)
        largest = max(largest, bound_of(proof, body, here))
    return largest + math.log(max(count, 1.0)) if count < math.inf else math.inf


def _integer_limit(proof: Proof, x: Int, context: Context) -> float:
    """By intervals; or all sizes together, where Z3 shows |x| to be no more (a distance between positions)."""
    low, high = Intervals(proof, *proof.traces).of(x)
    if low is not None and high is not None:
        return float(max(abs(low), abs(high)))
    together = sum((proof.sizes.values[d.name] for d in proof.bound.dims), lift(0))
    if not context.entails(conj((le(x, together), le(-x, together)))):
        return math.inf
    return float(sum(d.maximum for d in proof.bound.dims))


def _extent(proof: Proof, v: object, guard: object) -> float:
    """How many values a bound symbol can take at most, from the bounds in its domain; a condition that is no
    bound could only leave fewer."""
    from verifier.booleans import Bool, conjuncts
    from verifier.elimination import bounds
    from verifier.integers import Atom

    if not isinstance(v, Atom) or not isinstance(guard, Bool):
        return math.inf
    found = [ends for part in conjuncts(guard) if (ends := bounds(v, part)) is not None]
    intervals = Intervals(proof, *proof.traces)
    gaps = [intervals.high(u - low) for lows, _ in found for low in lows for _, highs in found for u in highs]
    known = [g for g in gaps if g is not None]
    return float(max(0, min(known) + 1)) if known else math.inf


def parameter_limit(proof: Proof, name: str) -> float:
    p = next(p for p in proof.bound.spec.parameters if p.name == name)
    return max(abs(p.lower), abs(p.upper))


def times(a: float, b: float) -> float:
    return 0.0 if a == 0.0 or b == 0.0 else a * b * HAIR
