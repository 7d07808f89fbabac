"""Which value is known to be no larger than another, exactly, as floats have them.

A maximum of floats is one of them, so `x <= max(x, y)` holds of what is computed, whatever error it has. `gap` reads
that off the program for the argument of an exponential: for `s - m` with m a maximum that s is a member of, lane by
lane, the exact argument is above 0 by no more than the errors of s and m.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ir import error_formula as f
from ir import program as core
from ir.error_formula import Formula
from verifier.rounding.errors import Error

ANY = "any"  # a lane over which something is maximal
Lanes = tuple[object, ...]
Definitions = Mapping[str, core.Expr]


def gap(e: core.Expr, named: Definitions, error: Callable[[core.Expr], Error]) -> Formula | None:
    """A bound of the exact value of e from above, None where it is not a difference from a maximum."""
    lanes: Lanes = tuple(range(len(e.type.shape)))
    return _gap(e, lanes, named, error)


def _gap(e: core.Expr, lanes: Lanes, named: Definitions, error: Callable[[core.Expr], Error]) -> Formula | None:
    e, lanes = unfolded(e, lanes, named)
    match e:
        case core.Select(then=then, otherwise=otherwise):
            if is_minus_infinity(otherwise):
                return _gap(then, lanes, named, error)
        case core.Binary(op="sub", left=left, right=right):
            if _dominates(right, lanes, left, lanes, named):
                return f.add(error(left).total, error(right).total)
            x, y = factors(left, lanes, named), factors(right, lanes, named)
            for a, b in x:
                for c, d in y:
                    if same(b, d, named) and error(b[0]).positive and _dominates(*c, *a, named):
                        return f.mul(f.add(error(a[0]).total, error(c[0]).total), error(b[0]).magnitude)
        case core.Binary(op="mul"):
            for a, b in factors(e, lanes, named):
                inner = _gap(*a, named, error)
                if inner is not None and error(b[0]).positive:
                    return f.mul(inner, error(b[0]).magnitude)
    return None


Place = tuple[core.Expr, Lanes]


def factors(e: core.Expr, lanes: Lanes, named: Definitions) -> list[tuple[Place, Place]]:
    """The two factors of a product, in both orders."""
    e, lanes = unfolded(e, lanes, named)
    if not isinstance(e, core.Binary) or e.op != "mul":
        return []
    return [((e.left, lanes), (e.right, lanes)), ((e.right, lanes), (e.left, lanes))]


def unfolded(e: core.Expr, lanes: Lanes, named: Definitions) -> Place:
    """e behind names and changes of shape, and the lanes it is read at."""
    while True:
        match e:
            case core.Var() if e.name in named:
                e = named[e.name]
            case core.Broadcast():
                shape = e.operand.type.shape
                lanes = tuple(0 if n == 1 else k for n, k in zip(shape, lanes, strict=True)) if shape else ()
                e = e.operand
            case core.Expand():
                lanes = lanes[: e.axis] + lanes[e.axis + 1 :]
                e = e.operand
            case core.Transpose():
                lanes = (lanes[1], lanes[0])
                e = e.operand
            case _:
                return e, tuple(_lane(n, k) for n, k in zip(e.type.shape, lanes, strict=True))


def _lane(extent: int, lane: object) -> object:
    return 0 if extent == 1 else lane


def same(a: Place, b: Place, named: Definitions) -> bool:
    """Whether two places hold one value."""
    x, at = unfolded(*a, named)
    y, where = unfolded(*b, named)
    return x == y and all(i == j or ANY in (i, j) for i, j in zip(at, where, strict=True))


def _dominates(upper: core.Expr, at: Lanes, x: core.Expr, lanes: Lanes, named: Definitions) -> bool:
    """Whether the computed `upper` is at least the computed x wherever both are finite."""
    if same((upper, at), (x, lanes), named):
        return True
    e, at = unfolded(upper, at, named)
    match e:
        case core.Binary(op="max"):
            return any(_dominates(side, at, x, lanes, named) for side in (e.left, e.right))
        case core.Reduce(op="max"):
            return _dominates(e.operand, (*at[: e.axis], ANY, *at[e.axis :]), x, lanes, named)
        case core.Select(condition=condition, otherwise=otherwise):
            # where(m == -inf, 0, m): where it is -inf, so is everything it dominates
            return _is_infinite(condition, otherwise, named) and _dominates(otherwise, at, x, lanes, named)
        case _:
            return False


def _is_infinite(condition: core.Expr, value: core.Expr, named: Definitions) -> bool:
    """Whether the condition asks of this very value, lane by lane, whether it is -inf."""
    rank: Lanes = tuple(range(len(value.type.shape)))
    e, at = unfolded(condition, rank, named)
    if not isinstance(e, core.Binary) or e.op != "eq":
        return False
    sides = ((e.left, e.right), (e.right, e.left))
    return any(is_minus_infinity(y) and same((x, at), (value, rank), named) for x, y in sides)


def is_minus_infinity(e: core.Expr) -> bool:
    while isinstance(e, (core.Broadcast, core.Cast)):
        e = e.operand
    if not isinstance(e, core.Unary) or e.op != "neg":
        return False
    e = e.operand
    while isinstance(e, (core.Broadcast, core.Cast)):
        e = e.operand
    return isinstance(e, core.Constant) and e.name == "inf"
