"""What kind of tile an expression of a kernel is, and small pieces of kernel syntax to build and recognise."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from ir.ast import Binary, Call, DTypeOf, Expand, Expr, Name, Number, Shape, Unary
from synth.propose.formula import children, factors, product
from synth.propose.rewrites.straight import Scope

ONE = Number(Fraction(1))
MINUS_INF = Unary("-", Name("inf"))
Extents = tuple[Expr, ...]
EXPONENTIALS = ("exp", "exp2")


class NoShape(Exception):
    """The expression is not one whose extents can be read off."""


# ---- shapes -------------------------------------------------------------------------------------


def extents(expr: Expr, scope: Scope) -> Extents:
    """Extents of a tile as the kernel writes them, () for a scalar. Raises NoShape."""
    match expr:
        case Name(id) if id in scope.starts:
            if id not in scope.shapes:
                scope.shapes[id] = extents(scope.starts[id], scope)
            return scope.shapes[id]
        case Name():
            return ()
        case Number() | DTypeOf() | Shape():
            return ()
        case Unary(operand=operand):
            return extents(operand, scope)
        case Binary(left=left, right=right):
            return _common((left, right), scope)
        case Expand(operand, axes):
            inner = iter(extents(operand, scope))
            return tuple(ONE if new else next(inner, ONE) for new in axes)
        case Call():
            return _call(expr, scope)
        case _:
            return _common(children(expr), scope)


def _call(call: Call, scope: Scope) -> Extents:
    match call.function, call.args:
        case "arange", (count,):
            return (count,)
        case (("full" | "zeros"), (Shape(found), *_)):
            return found
        case "broadcast", (_, Shape(found)):
            return found
        case "dot", (left, right, *_):
            return extents(left, scope)[:1] + extents(right, scope)[1:]
        case "trans", (operand,):
            return extents(operand, scope)[::-1]
        case "cast", (operand, _):
            return extents(operand, scope)
        case (("sum" | "max" | "min"), (operand,)):
            found = extents(operand, scope)
            return tuple(e for k, e in enumerate(found) if k != axis_of(call) % len(found))
        case _:
            return _common([*call.args, *(v for _, v in call.keywords)], scope)


def _common(parts: Iterable[Expr], scope: Scope) -> Extents:
    found: Extents = ()
    for part in parts:
        one = extents(part, scope)
        if found and one and len(found) != len(one):
            raise NoShape
        found = tuple(b if a == ONE else a for a, b in zip(found, one, strict=True)) if found and one else found or one
    return found


def is_scalar(expr: Expr, scope: Scope) -> bool:
    try:
        return extents(expr, scope) == ()
    except NoShape:
        return False


def axis_of(call: Call) -> int:
    """The axis a reduction removes."""
    match dict(call.keywords).get("axis"):
        case Number(value):
            return int(value)
        case Unary("-", Number(value)):
            return -int(value)
        case _:
            return 0


def lined_up(row: Expr, own: Extents, wanted: Extents) -> Expr:
    """`row`, a tile of rank 1, with the axes a tile of extents `wanted` needs it to have. Raises NoShape."""
    if len(own) != 1 or own[0] not in wanted:
        raise NoShape
    at = wanted.index(own[0])
    return Expand(row, tuple(k != at for k in range(len(wanted)))) if len(wanted) > 1 else row


# ---- syntax -------------------------------------------------------------------------------------


def number(value: int | str, is_float: bool = True) -> Number:
    return Number(Fraction(value), is_float)


def unwrapped(expr: Expr) -> Expr:
    """Without the axes that `x[:, None]` puts in."""
    while isinstance(expr, Expand):
        expr = expr.operand
    return expr


def parts_of_maximum(expr: Expr, scope: Scope) -> list[Expr]:
    """`maximum(maximum(a, b), c)` as [a, b, c]; names are looked up only as far as they lead to a maximum."""
    scope.fits(expr)
    match scope.see(expr):
        case Call("maximum", (left, right)):
            return parts_of_maximum(left, scope) + parts_of_maximum(right, scope)
        case _:
            return [expr]


def guarded(expr: Expr) -> Expr | None:
    """x of `where(x == -inf, 0, x)`, or of its mirror image: what a guard against -inf guards."""
    match expr:
        case Call("where", (Binary("==", tested, low), Number(), kept)) if low == MINUS_INF and tested == kept:
            return kept
        case Call("where", (Binary(">" | "!=", tested, low), kept, Number())) if low == MINUS_INF and tested == kept:
            return kept
        case _:
            return None


def guard(expr: Expr) -> Expr:
    return Call("where", (Binary("==", expr, MINUS_INF), number(0), expr))


def origin(expr: Expr, scope: Scope) -> Expr:
    """The name whose value this is, but for guards and axes put in."""
    while True:
        expr = unwrapped(expr)
        inner = guarded(expr)
        if inner is None and isinstance(expr, Name) and expr.id in scope.values:
            behind = unwrapped(scope.values[expr.id])
            inner = behind if isinstance(behind, Name) or guarded(behind) is not None else None
        if inner is None:
            return expr
        expr = inner


def times(left: Expr, right: Expr) -> Expr:
    return product([*factors(left), *factors(right)])


def simpler(expr: Expr) -> Expr:
    """One node with factors of 1, sums with 0, logs of nothing and guards of constants taken out."""
    match expr:
        case Expand(Number() as inner, _):
            return inner
        case Binary("*", Number(value), other) if value == 1:
            return other
        case Binary("*" | "/", other, Number(value)) if value == 1:
            return other
        case Binary("+", Number(value), other) if value == 0:
            return other
        case Binary("+" | "-", other, Number(value)) if value == 0:
            return other
        case Binary("*", Number(value), _) | Binary("*", _, Number(value)) if value == 0:
            return number(0)
        case Call("where", (Binary("==", Number(), low), _, kept)) if low == MINUS_INF:
            return kept
        case _:
            return expr
