"""What each scalar operation means over the extended reals, and what its user owes.

One function per operation. `finite` is exact: a scalar is -inf precisely when it is false. Every use of
-inf other than the ones rule 9 of docs/proof.md allows (exp(-inf) = 0, max, -inf + finite) is a
"defined" duty.
"""

from __future__ import annotations

from fractions import Fraction

from ir.ast import NOWHERE, Span
from verifier import reals
from verifier.binders import make_max, make_sum
from verifier.booleans import FALSE, TRUE, Bool, choose, conj, disj, equal, le, lt, negate
from verifier.elimination import exists
from verifier.integers import Atom, Int
from verifier.reals import maximum_of, number, select
from verifier.roots import sqrt
from verifier.signs import compare, sign
from verifier.terms import unbounded_range
from verifier.tiles import NO_DUTIES, Duties, Duty, Scalar, under


class Unsupported(Exception):
    """A construct the prover does not reason about; the verdict is `unproved`."""

    def __init__(self, message: str, span: Span = NOWHERE) -> None:
        super().__init__(message)
        self.message = message
        self.span = span


def defined(claim: Bool, what: str, span: Span, sign: str = "") -> Duties:
    return NO_DUTIES if claim is TRUE else Duties((Duty("defined", TRUE, claim, None, what, span, sign),))


MINUS_INFINITY = Scalar(number(0), FALSE)


def add(a: Scalar, b: Scalar) -> Scalar:
    return Scalar(a.real + b.real, conj((a.finite, b.finite)), a.owes | b.owes)


def subtract(a: Scalar, b: Scalar, span: Span) -> Scalar:
    owes = defined(b.finite, "the value subtracted is finite (-inf - -inf is NaN)", span)
    return Scalar(a.real - b.real, a.finite, a.owes | b.owes | owes)


def negative(a: Scalar, span: Span) -> Scalar:
    return Scalar(-a.real, TRUE, a.owes | defined(a.finite, "the negated value is finite", span))


def multiply(a: Scalar, b: Scalar, span: Span) -> Scalar:
    """-inf times a positive finite number is -inf; anything else with -inf is a duty."""
    owes: Duties = a.owes | b.owes
    for x, y in ((a, b), (b, a)):
        if x.finite is not TRUE:
            claim = disj((x.finite, conj((y.finite, compare("gt", y.real)))))
            owes |= defined(claim, "-inf is multiplied by a positive number only (0 * inf is NaN)", span)
    return Scalar(a.real * b.real, conj((a.finite, b.finite)), owes)


def divide(a: Scalar, b: Scalar, span: Span) -> Scalar:
    nonzero = sign("ne", b.real)
    owes = defined(conj((b.finite, nonzero)), "the divisor is finite and not zero", span, "positive")
    if a.finite is not TRUE:
        owes |= defined(disj((a.finite, compare("gt", b.real))), "-inf is divided by a positive number only", span)
    value = a.real * reals.power(b.real, -1)
    quotient = Duty("quotient", a.finite, TRUE, value, "the quotient", span)
    large = Duty("least", TRUE, TRUE, b.real, "the divisor is not lost to underflow", span)
    return Scalar(value, a.finite, a.owes | b.owes | owes | Duties((quotient, large)))


def exponential(a: Scalar, span: Span, base_two: bool = False) -> Scalar:
    argument = a.real * reals.ln2() if base_two else a.real
    duty = Duty("exp", a.finite, TRUE, argument, "the argument of exp stays in range", span)
    return Scalar(reals.guarded(a.finite, reals.exp(argument)), TRUE, a.owes | Duties((duty,)))


def logarithm(a: Scalar, span: Span, base_two: bool = False) -> Scalar:
    """log 0 is -inf; the argument must not be negative."""
    owes = defined(conj((a.finite, sign("ge", a.real))), "the argument of log is not negative", span, "nonnegative")
    value = reals.log(a.real)
    if base_two:
        value = value * reals.power(reals.ln2(), -1)
    positive = sign("gt", a.real)
    large = Duty("least", positive, TRUE, a.real, "the argument of log is not lost to underflow", span)
    return Scalar(value, positive, a.owes | owes | Duties((large,)))


def function(name: str, a: Scalar, span: Span) -> Scalar:
    """tanh, sigmoid, abs, sqrt of a finite value."""
    owes = defined(a.finite, f"the argument of {name} is finite", span)
    if name == "sqrt":
        owes |= defined(sign("ge", a.real), "the argument of sqrt is not negative", span, "nonnegative")
        root = Duty("root", TRUE, TRUE, None, "rounding does not make the argument of sqrt negative", span)
        owes |= Duties((root,))
        return Scalar(sqrt(a.real), TRUE, a.owes | owes)
    return Scalar(reals.function(name, a.real), TRUE, a.owes | owes)


def maximum(a: Scalar, b: Scalar) -> Scalar:
    """max(-inf, x) = x; the members keep their own finiteness."""
    from verifier.binders import members

    parts = (*members((), a.finite, a.real), *members((), b.finite, b.real))
    return Scalar(maximum_of(parts), disj((a.finite, b.finite)), a.owes | b.owes)


def minimum(a: Scalar, b: Scalar, span: Span) -> Scalar:
    """min(x, y) = -max(-x, -y), for finite values."""
    owes = defined(conj((a.finite, b.finite)), "both sides of minimum are finite", span)
    low = maximum(Scalar(-a.real), Scalar(-b.real))
    return Scalar(-low.real, TRUE, a.owes | b.owes | owes)


def where(condition: Scalar, a: Scalar, b: Scalar) -> Scalar:
    c = condition.bool
    owes = condition.owes | under(c, a.owes) | under(negate(c), b.owes)
    finite = disj((conj((c, a.finite)), conj((negate(c), b.finite))))
    match a.value, b.value:
        case Int(), Int():
            return Scalar(choose(c, a.int, b.int), TRUE, owes)
        case Bool(), Bool():
            return Scalar(disj((conj((c, a.bool)), conj((negate(c), b.bool)))), TRUE, owes)
        case _:
            # The value is arbitrary where it is -inf, so a branch that is -inf everywhere adds no case.
            if b.finite is FALSE:
                return Scalar(a.real, finite, owes)
            if a.finite is FALSE:
                return Scalar(b.real, finite, owes)
            return Scalar(select(c, a.real, b.real), finite, owes)


def compare_reals(op: str, a: Scalar, b: Scalar) -> Scalar:
    """Comparison in the extended reals; -inf is below everything else and equal to itself."""
    both = conj((a.finite, b.finite))
    value: Bool
    match op:
        case "gt" | "le":
            value = conj((a.finite, disj((negate(b.finite), compare("gt", a.real - b.real)))))
            value = value if op == "gt" else negate(value)
        case "lt" | "ge":
            flipped = compare_reals("gt" if op == "lt" else "le", b, a)
            return Scalar(flipped.value, TRUE, flipped.owes)
        case _:
            same = conj((both, compare("eq", a.real - b.real)))
            value = disj((same, conj((negate(a.finite), negate(b.finite)))))
            value = value if op == "eq" else negate(value)
    return Scalar(value, TRUE, a.owes | b.owes)


def compare_ints(op: str, a: Int, b: Int) -> Bool:
    match op:
        case "lt":
            return lt(a, b)
        case "le":
            return le(a, b)
        case "gt":
            return lt(b, a)
        case "ge":
            return le(b, a)
        case "eq":
            return equal(a, b)
        case _:
            return negate(equal(a, b))


def reduce_sum(lane: Atom, a: Scalar, span: Span) -> Scalar:
    owes = a.owes | defined(a.finite, "every value summed is finite", span)
    return Scalar(make_sum((lane,), TRUE, a.real), TRUE, owes)


def reduce_max(lane: Atom, a: Scalar) -> Scalar:
    finite = exists((lane,), conj((a.finite, unbounded_range(lane))))
    return Scalar(make_max((lane,), a.finite, a.real), finite, a.owes)


def literal(value: Fraction) -> Scalar:
    return Scalar(number(value))


def constant(name: str, span: Span) -> Scalar:
    match name:
        case "ln2":
            return Scalar(reals.ln2())
        case "log2e":
            return Scalar(reals.power(reals.ln2(), -1))
        case _:
            raise Unsupported("+inf has no meaning in a proof; only -inf is supported", span)


