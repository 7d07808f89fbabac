"""Which integer values a candidate can compute: a small interval analysis over the typed core.

Decides only which spelling of `//` and `%` Triton may be given: its integer division truncates, ours
rounds towards minus infinity, and the two agree where the operands are not negative. Sound because
every rule returns an interval that contains each value the expression can take under the spec's
limits, and `None` (unbounded) where no rule applies; an unknown sign costs a few instructions, never a
wrong result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ir.program import (
    Arange,
    Binary,
    Broadcast,
    Cast,
    Expand,
    Expr,
    Literal,
    Param,
    Reduce,
    Select,
    Size,
    Transpose,
    Unary,
    Var,
)

Interval = tuple[int | None, int | None]
UNKNOWN: Interval = (None, None)


def _lift(f: Callable[[int, int], int], a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else f(a, b)


def _product(a: Interval, b: Interval) -> Interval:
    low_a, high_a, low_b, high_b = *a, *b
    if low_a is None or low_b is None:
        return UNKNOWN
    if high_a is None or high_b is None:
        return (low_a * low_b, None) if low_a >= 0 and low_b >= 0 else UNKNOWN
    corners = [x * y for x in (low_a, high_a) for y in (low_b, high_b)]
    return min(corners), max(corners)


def _extreme(op: str, a: Interval, b: Interval) -> Interval:
    pick = max if op == "max" else min
    known_low = [x for x in (a[0], b[0]) if x is not None]
    known_high = [x for x in (a[1], b[1]) if x is not None]
    low, high = _lift(pick, a[0], b[0]), _lift(pick, a[1], b[1])
    if op == "max" and known_low:
        low = max(known_low)  # one known lower bound is enough for a maximum
    if op == "min" and known_high:
        high = min(known_high)
    return low, high


def _binary(op: str, a: Interval, b: Interval) -> Interval:
    match op:
        case "add":
            return _lift(lambda x, y: x + y, a[0], b[0]), _lift(lambda x, y: x + y, a[1], b[1])
        case "sub":
            return _lift(lambda x, y: x - y, a[0], b[1]), _lift(lambda x, y: x - y, a[1], b[0])
        case "mul":
            return _product(a, b)
        case "min" | "max":
            return _extreme(op, a, b)
        case "floordiv" if b[0] is not None and b[0] >= 0:  # a divisor is proved non-zero, so >= 1
            least = max(b[0], 1)
            low = None if a[0] is None else min(a[0], 0)
            high = None if a[1] is None else a[1] // least if a[1] >= 0 else -1
            return low, high
        case "mod" if b[0] is not None and b[0] >= 0:
            return 0, None if b[1] is None else b[1] - 1
        case _:
            return UNKNOWN


def interval(expr: Expr, sizes: Mapping[str, Interval], names: Mapping[str, Interval]) -> Interval:
    """Bounds on every lane of an integer expression; `names` bounds the variables in scope."""

    def of(e: Expr) -> Interval:
        match e:
            case Literal(value=value) if e.type.dtype.is_int:
                return int(value), int(value)
            case Size(name=name) | Param(name=name):
                return sizes.get(name, UNKNOWN)
            case Var(name=name):
                return names.get(name, UNKNOWN)
            case Arange():
                return 0, e.type.shape[0] - 1
            case Unary(op="neg", operand=x):
                return _binary("sub", (0, 0), of(x))
            case Binary(op=op, left=left, right=right) if e.type.dtype.is_int:
                return _binary(op, of(left), of(right))
            case Select(then=x, otherwise=y):
                (a, b), (c, d) = of(x), of(y)
                return _lift(min, a, c), _lift(max, b, d)
            case Broadcast(operand=x) | Expand(operand=x) | Transpose(operand=x):
                return of(x)
            case Cast(operand=x) if e.type.dtype.is_int and x.type.dtype.is_int:
                return of(x)
            case Reduce(op="max" | "min", operand=x):
                return of(x)
            case _:
                return UNKNOWN

    return of(expr) if expr.type.dtype.is_int else UNKNOWN
