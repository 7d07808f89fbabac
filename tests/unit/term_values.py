"""What a term of the logic is worth at given integers, by enumeration and floating point. No rule is used.

A tensor cell holds a number between -1 and 1 that its name and index determine; parameters are 1.75.
Bound symbols range over SPAN, which must contain every domain a test builds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from itertools import product

from verifier.booleans import Bool
from verifier.integers import Atom, Int
from verifier.reals import Monomial, Real, RealAtom
from verifier.terms import atom_of

Values = Mapping[str, int]
SPAN = range(-40, 41)
PARAMETER = 1.75
FUNCTIONS = {"tanh": math.tanh, "abs": abs, "sqrt": math.sqrt, "sigmoid": lambda x: 1 / (1 + math.exp(-x))}


def number(x: Int, at: Values) -> int:
    """The value of a normal form."""
    total = 0
    for power, c in x.terms:
        for a in power:
            c *= _atom(a, at)
        total += c
    return total


def _atom(a: Atom, at: Values) -> int:
    if a.kind == "sym":
        return at[a.name]
    if a.kind == "ite":
        return number(a.args[1] if truth(a.args[0], at) else a.args[2], at)
    left, right = number(a.args[0], at), number(a.args[1], at)
    return {"div": lambda: left // right, "mod": lambda: left % right, "min": lambda: min(left, right)}.get(
        a.kind, lambda: max(left, right)
    )()


def truth(b: Bool, at: Values) -> bool:
    """The value of a condition; bound symbols range over SPAN."""
    match b.kind:
        case "true" | "false":
            return b.kind == "true"
        case "ge":
            return number(b.args[0], at) >= 0
        case "eq":
            return number(b.args[0], at) == 0
        case "not":
            return not truth(b.args[0], at)
        case "and":
            return all(truth(p, at) for p in b.args)
        case "or":
            return any(truth(p, at) for p in b.args)
        case "exists":
            names = [atom_of(v).name for v in b.args[0]]
            spans = product(SPAN, repeat=len(names))
            return any(truth(b.args[1], {**at, **dict(zip(names, k, strict=True))}) for k in spans)
        case "real":
            value = real(b.args[1], at)
            return value > 1e-9 if b.args[0] == "gt" else abs(value) < 1e-9
        case _:
            raise AssertionError(b.kind)


def cell(tensor: str, index: tuple[int, ...]) -> float:
    """The number in a cell of a tensor, within -1..1 and never 0."""
    return zlib.crc32(f"{tensor}{index}".encode()) / 2**31 - 1 or 0.5


def real(x: Real, at: Values) -> float:
    """The value of a real term. A maximum over nothing is -inf."""
    return math.fsum(float(c) * _monomial(m, at) for m, c in x.terms)


def _monomial(m: Monomial, at: Values) -> float:
    if not truth(m.guard, at):
        return 0.0
    out = 1.0 if m.exponent is None else math.exp(real(m.exponent, at))
    for a, k in m.factors:
        out *= _real_atom(a, at) ** k
    return out


def _real_atom(a: RealAtom, at: Values) -> float:
    match a.kind:
        case "param":
            return PARAMETER
        case "read":
            return cell(a.args[0], tuple(number(i, at) for i in a.args[1]))
        case "int":
            return float(number(a.args[0], at))
        case "fn":
            return FUNCTIONS[a.args[0]](real(a.args[1], at))
        case "log":
            return math.log(real(a.args[0], at))
        case "poly":
            return real(a.args[0], at)
        case "sum":
            return math.fsum(real(a.args[2], here) for here in _domain(a.args[0], a.args[1], at))
        case "max":
            found = [real(m[2], here) for m in a.args[0] for here in _domain(m[0], m[1], at)]
            return max(found, default=-math.inf)
        case _:
            raise AssertionError(a.kind)


def _domain(variables: tuple[Atom, ...], guard: Bool, at: Values) -> Iterator[Values]:
    for point in product(SPAN, repeat=len(variables)):
        here = {**at, **{v.name: k for v, k in zip(variables, point, strict=True)}}
        if truth(guard, here):
            yield here
