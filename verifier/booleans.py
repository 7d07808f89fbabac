"""Boolean terms of the logic, hash-consed and kept in a normal form.

A `Bool` is built from `x >= 0`, `x == 0`, comparisons of reals (opaque here), `Exists`, and the
connectives. The rewrites applied on construction are identities of Z, each with its side condition:
  x div d >= t  <=>  x >= t*d                     d > 0 (and the mirror image)
  min(a, b) >= 0  <=>  a >= 0 and b >= 0          (and the mirror images)
  g*t + c >= 0  <=>  t + floor(c/g) >= 0          g > 0, t with integer coefficients
Everything else is left to Z3.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd
from typing import Any, Final

from verifier.integers import Int, compound, interned, interval, lift, polynomial


class Bool:
    """kind: true, false, ge (x >= 0), eq (x == 0), not, and, or, real (an opaque comparison of
    reals), exists (bound symbols, body), state (finiteness of a carried value)."""

    __slots__ = ("kind", "args", "serial", "negation")

    def __init__(self, kind: str, args: tuple[Any, ...], serial: int) -> None:
        self.kind: Final = kind
        self.args: Final = args
        self.serial: Final = serial
        self.negation: Bool | None = None

    def __and__(self, other: Bool) -> Bool:
        return conj((self, other))

    def __or__(self, other: Bool) -> Bool:
        return disj((self, other))

    def __invert__(self) -> Bool:
        return negate(self)

    def __repr__(self) -> str:
        match self.kind:
            case "true" | "false":
                return self.kind
            case "ge":
                positive_part = polynomial({p: c for p, c in self.args[0].terms if c > 0})
                return f"{positive_part!r} >= {positive_part - self.args[0]!r}"
            case "eq":
                positive_part = polynomial({p: c for p, c in self.args[0].terms if c > 0})
                return f"{positive_part!r} == {positive_part - self.args[0]!r}"
            case "not":
                return f"not ({self.args[0]!r})"
            case "and" | "or":
                return "(" + f" {self.kind} ".join(map(repr, self.args)) + ")"
            case "real":
                return f"({self.args[1]!r} {self.args[0]} 0)"
            case "exists":
                return f"(exists {', '.join(map(repr, self.args[0]))}: {self.args[1]!r})"
            case _:
                return f"finite({', '.join(map(str, self.args))})"


TRUE: Final = Bool("true", (), 0)
FALSE: Final = Bool("false", (), -1)


def boolean(kind: str, *args: Any) -> Bool:
    return interned(("bool", kind, *args), lambda serial: Bool(kind, args, serial))


def ge0(x: Int) -> Bool:
    """x >= 0, with floor quotients by constants, min and max resolved, and divided by the gcd."""
    low, high = interval(x)
    if low is not None and low >= 0:
        return TRUE
    if high is not None and high < 0:
        return FALSE
    for power, c in x.terms:
        if len(power) != 1 or c not in (1, -1):
            continue
        atom = power[0]
        if atom.kind == "div" and atom.args[1].constant is not None:
            inner, d = atom.args
            rest = x - c * polynomial({(atom,): 1})
            return ge0(inner + rest * d) if c == 1 else ge0(rest * d + d - 1 - inner)
        if atom.kind in ("min", "max"):
            rest = x - c * polynomial({(atom,): 1})
            both = (ge0(c * atom.args[0] + rest), ge0(c * atom.args[1] + rest))
            return conj(both) if (atom.kind == "min") == (c == 1) else disj(both)
        if atom.kind == "ite":
            rest = x - c * polynomial({(atom,): 1})
            condition, a, b = atom.args
            return disj((conj((condition, ge0(c * a + rest))), conj((negate(condition), ge0(c * b + rest)))))
    g = 0
    for power, c in x.terms:
        if power:
            g = gcd(g, c)
    if g > 1:  # floor of the constant is exact: the rest is a multiple; what had a factor may now open up
        return ge0(polynomial({p: c // g for p, c in x.terms}))
    return boolean("ge", x)


def eq0(x: Int) -> Bool:
    low, high = interval(x)
    if low is not None and low == high == 0:
        return TRUE
    if (low is not None and low > 0) or (high is not None and high < 0):
        return FALSE
    for power, c in x.terms:
        if len(power) == 1 and power[0].kind == "ite":
            rest = x - c * polynomial({power: 1})
            condition, a, b = power[0].args
            return disj((conj((condition, eq0(c * a + rest))), conj((negate(condition), eq0(c * b + rest)))))
    if x.terms and x.terms[-1][1] < 0:
        x = -x
    return boolean("eq", x)


def le(a: Int | int, b: Int | int) -> Bool:
    return ge0(lift(b) - lift(a))


def lt(a: Int | int, b: Int | int) -> Bool:
    return ge0(lift(b) - lift(a) - 1)


def equal(a: Int | int, b: Int | int) -> Bool:
    return eq0(lift(a) - lift(b))


def negate(x: Bool) -> Bool:
    found = x.negation
    if found is None:
        found = _negate(x)
        x.negation = found
    return found


def _negate(x: Bool) -> Bool:
    match x.kind:
        case "true":
            return FALSE
        case "false":
            return TRUE
        case "not":
            return x.args[0]  # type: ignore[no-any-return]
        case "ge":
            return ge0(-x.args[0] - 1)
        case "and":
            return disj(map(negate, x.args))
        case "or":
            return conj(map(negate, x.args))
        case _:
            return boolean("not", x)


def conj(parts: Iterable[Bool]) -> Bool:
    return _junction("and", parts, TRUE, FALSE)


def disj(parts: Iterable[Bool]) -> Bool:
    return _junction("or", parts, FALSE, TRUE)


def _junction(kind: str, parts: Iterable[Bool], unit: Bool, zero: Bool) -> Bool:
    flat: dict[Bool, None] = {}
    for part in parts:
        for p in part.args if part.kind == kind else (part,):
            if p is zero or negate(p) in flat:
                return zero
            if p is not unit:
                flat[p] = None
    if not flat:
        return unit
    if len(flat) == 1:
        return next(iter(flat))
    return boolean(kind, *sorted(flat, key=lambda b: b.serial))


def conjuncts(x: Bool) -> tuple[Bool, ...]:
    return x.args if x.kind == "and" else () if x is TRUE else (x,)


def choose(condition: Bool, a: Int, b: Int) -> Int:
    if a is b or condition is TRUE:
        return a
    return b if condition is FALSE else compound("ite", condition, a, b)
