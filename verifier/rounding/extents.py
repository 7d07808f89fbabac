"""Integers of a program bounded by formulas of sizes: how often a loop runs, how many programs there are.

Bounds are for every program and iteration at once: a program id lies in 0..extent-1, a counter between the least
start and the greatest stop. What is loaded has no bound here, and a loop whose trip count hangs on it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ir import ast
from ir import error_formula as f
from ir import program as core
from ir.error_formula import Formula
from ir.spec import Bound


@dataclass(frozen=True, slots=True)
class Range:
    """low <= x <= high; None where nothing is known."""

    low: Formula | None
    high: Formula | None


UNKNOWN = Range(None, None)
Ranges = Mapping[str, Range]


def fixed(x: float) -> Range:
    return Range(f.number(x), f.number(x))


def index_range(extent: Range) -> Range:
    """0 <= x < extent."""
    return Range(f.ZERO, None if extent.high is None else f.integer("isub", extent.high, f.ONE))


def counter_range(start: Range, stop: Range) -> Range:
    return Range(start.low, None if stop.high is None else f.integer("isub", stop.high, f.ONE))


def trips(start: Range, stop: Range) -> Formula | None:
    """An upper bound of max(0, stop - start)."""
    if start.low is None or stop.high is None:
        return None
    return f.integer("imax", f.integer("isub", stop.high, start.low), f.ZERO)


def facts_of(bound: Bound) -> dict[str, Range]:
    """What the spec promises of every cell of an integer input."""
    statics = {name: fixed(value) for name, value in bound.settings if isinstance(value, int)}
    out = {}
    for t, _ in bound.inputs:
        least, most = t.facts.least, t.facts.most
        if t.facts.splits is not None:
            out[t.name] = Range(f.ZERO, _of_facts(t.facts.splits, statics).high)
        elif least is not None or most is not None:
            low, high = (UNKNOWN if e is None else _of_facts(e, statics) for e in (least, most))
            out[t.name] = Range(low.low, high.high)
    return out


def _of_facts(e: ast.Expr, statics: Ranges) -> Range:
    """A formula over sizes."""
    match e:
        case ast.Number():
            return fixed(float(e.value))
        case ast.Name():
            size = f.leaf("size", e.id)
            return statics.get(e.id, Range(size, size))
        case ast.Unary(op="-"):
            inner = _of_facts(e.operand, statics)
            return Range(_negative(inner.high), _negative(inner.low))
        case ast.Binary(op=op) if op in WORDS:
            return _binary(WORDS[op], _of_facts(e.left, statics), _of_facts(e.right, statics))
        case _:
            return UNKNOWN


WORDS = {"+": "add", "-": "sub", "*": "mul", "//": "floordiv"}


def range_of(e: core.Expr, ranges: Ranges) -> Range:
    """Bounds of an integer expression, over all lanes of a tile. `ranges` has those of names, and of the cells of
    integer inputs under the input's name and a dot."""
    match e:
        case core.Load():
            held = ranges.get(f".{e.tensor}", UNKNOWN)
            return held if e.other is None else _either(held, range_of(e.other, ranges))
        case core.Literal():
            return fixed(float(e.value))
        case core.Size():
            size = f.leaf("size", e.name)
            return Range(size, size)
        case core.Param() if e.type.dtype.is_int:
            value = f.leaf("parameter", e.name)
            return Range(value, value)
        case core.Var():
            return ranges.get(e.name, UNKNOWN)
        case core.Arange():
            return Range(f.ZERO, f.number(e.type.shape[0] - 1))
        case core.Cast() | core.Broadcast() | core.Expand() | core.Transpose():
            return range_of(e.operand, ranges) if not e.operand.type.dtype.is_float else UNKNOWN
        case core.Select():
            return _either(range_of(e.then, ranges), range_of(e.otherwise, ranges))
        case core.Unary(op="neg"):
            inner = range_of(e.operand, ranges)
            return Range(_negative(inner.high), _negative(inner.low))
        case core.Binary() if e.type.dtype.is_int:
            return _binary(e.op, range_of(e.left, ranges), range_of(e.right, ranges))
        case _:
            return UNKNOWN


def magnitude(r: Range) -> Formula:
    """A bound of |x|."""
    if r.low is None or r.high is None:
        return f.INFINITE
    return f.integer("imax", r.high, f.integer("isub", f.ZERO, r.low))


def _negative(x: Formula | None) -> Formula | None:
    return None if x is None else f.integer("isub", f.ZERO, x)


def _either(a: Range, b: Range) -> Range:
    low = None if a.low is None or b.low is None else f.integer("imin", a.low, b.low)
    high = None if a.high is None or b.high is None else f.integer("imax", a.high, b.high)
    return Range(low, high)


def _both(op: str, a: Formula | None, b: Formula | None) -> Formula | None:
    return None if a is None or b is None else f.integer(op, a, b)


def _binary(op: str, a: Range, b: Range) -> Range:
    match op:
        case "add":
            return Range(_both("iadd", a.low, b.low), _both("iadd", a.high, b.high))
        case "sub":
            return Range(_both("isub", a.low, b.high), _both("isub", a.high, b.low))
        case "min":  # at most either, so one bound is enough above
            high = a.high if b.high is None else b.high if a.high is None else f.integer("imin", a.high, b.high)
            return Range(_both("imin", a.low, b.low), high)
        case "max":
            low = a.low if b.low is None else b.low if a.low is None else f.integer("imax", a.low, b.low)
            return Range(low, _both("imax", a.high, b.high))
        case "mul" | "floordiv":
            return _corners("imul" if op == "mul" else "idiv", a, b)
        case "mod":
            return Range(f.ZERO, None if b.high is None else f.integer("isub", b.high, f.ONE))
        case _:
            return UNKNOWN


def _corners(op: str, a: Range, b: Range) -> Range:
    """A product or quotient is monotone in each argument on either side of 0, so its extremes are at corners. A
    divisor is positive (`execute`); its lower bound is taken as 1 at least."""
    if op == "idiv":
        low = f.ONE if b.low is None else f.integer("imax", b.low, f.ONE)
        b = Range(low, None if b.high is None else f.integer("imax", b.high, low))
    if a.low is f.ZERO and b.low is not None and (op == "idiv" or not_negative(b.low)):
        high = _both(op, a.high, b.low if op == "idiv" else b.high)  # both are not negative
        return Range(f.ZERO, high)
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return UNKNOWN
    ends = [f.integer(op, x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Range(f.integer("imin", *ends), f.integer("imax", *ends))


def not_negative(x: Formula) -> bool:
    """Whether a bound is visibly >= 0: a number, a size, or made of such."""
    value = f.constant(x)
    if value is not None:
        return value >= 0.0
    if x.op == "leaf":
        return bool(x.args[0] == "size")
    return x.op in ("iadd", "imul", "idiv", "imin", "imax") and all(map(not_negative, x.args))
