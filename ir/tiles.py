"""Rules of dtypes and shapes on typed expressions: who converts to what, who broadcasts to what.

The rules of docs/language.md, each in one function: integers of any width compute as INT, between
floats the wider wins, nothing passes between integers and floats, shapes of equal rank broadcast.
Integer literals are folded, so that tile extents and divisors reach the prover as numbers.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod

from ir import program as p
from ir.ast import Span
from ir.diagnostics import Source, TypeProblem
from ir.program import DType, Type

MAX_ELEMENTS = 2**20
_MAX_CONSTANT = 2**128  # folding stops here: constants stay small however often they are squared

FLOATS = "f32, f16 or bf16"
OPERATORS = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "/": "div",
    "//": "floordiv",
    "%": "mod",
    "<": "lt",
    "<=": "le",
    ">": "gt",
    ">=": "ge",
    "==": "eq",
    "!=": "ne",
    "and": "and",
    "or": "or",
}
COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}
LOGIC = {"and", "or"}


def integer(value: int, span: Span) -> p.Literal:
    return p.Literal(Fraction(value), Type(DType.INT), span)


def constant(e: p.Expr) -> int | None:
    """The value of an integer literal, None for anything else."""
    return int(e.value) if isinstance(e, p.Literal) and e.type.dtype is DType.INT else None


def convert(e: p.Expr, dtype: DType) -> p.Expr:
    """e as dtype; only for pairs the caller has allowed."""
    return e if e.type.dtype is dtype else p.Cast(e, Type(dtype, e.type.shape), e.span)


def common_dtype(a: DType, b: DType, span: Span, source: Source) -> DType:
    """The dtype two operands meet in. Raises TypeProblem where the candidate has to say it with a cast."""
    if a is b:
        return a
    if a.is_int and b.is_int:
        return DType.INT
    if a.is_float and b.is_float:
        if DType.F32 in (a, b):
            return DType.F32
        raise TypeProblem("K201", f"{a.value} meets {b.value}", span, source, "cast one of them, or both to f32")
    message = f"{a.value} meets {b.value}"
    if DType.BOOL in (a, b):
        raise TypeProblem("K201", message, span, source, "turn the bool into a number with `where(c, 1, 0)`")
    hint = "integers do not turn into floats by themselves: write `cast(x, f32)` on the integer"
    raise TypeProblem("K201", message, span, source, hint)


def tile(dtype: DType, shape: tuple[int, ...], span: Span, source: Source) -> Type:
    """A type whose size is within the limits."""
    if prod(shape) > MAX_ELEMENTS:
        message = f"a tile of {list(shape)} has {prod(shape)} elements; the limit is {MAX_ELEMENTS}"
        raise TypeProblem("K206", message, span, source, "use smaller tiles")
    return Type(dtype, shape)


def common_shape(shapes: list[tuple[int, ...]], span: Span, source: Source) -> tuple[int, ...]:
    """The shape that all broadcast to; scalars go with anything, otherwise ranks are equal."""
    result: tuple[int, ...] = ()
    for shape in shapes:
        if not shape or not result:
            result = result or shape
            continue
        message = f"shapes {list(result)} and {list(shape)} do not go together"
        if len(shape) != len(result):
            hint = "ranks differ: add axes, as in `x[:, None]` or `x[None, :]`"
            raise TypeProblem("K202", message, span, source, hint)
        if any(m != n and 1 not in (m, n) for m, n in zip(result, shape, strict=True)):
            raise TypeProblem("K202", message, span, source, "extents must be equal or 1")
        result = tuple(max(m, n) for m, n in zip(result, shape, strict=True))
    tile(DType.BOOL, result, span, source)
    return result


def broadcast(e: p.Expr, shape: tuple[int, ...]) -> p.Expr:
    """e with that shape, which `common_shape` has allowed."""
    return e if e.type.shape == shape else p.Broadcast(e, Type(e.type.dtype, shape), e.span)


def binary(op: str, left: p.Expr, right: p.Expr, span: Span, source: Source) -> p.Expr:
    """left op right (names of program.Binary), converted and broadcast to one type and folded."""
    shape = common_shape([left.type.shape, right.type.shape], span, source)
    dtype = common_dtype(left.type.dtype, right.type.dtype, span, source)
    if dtype.is_int:
        dtype = DType.INT  # widths are claims about values, not a kind of arithmetic
    _check_operands(op, dtype, span, source)
    left, right = convert(left, dtype), convert(right, dtype)
    if op in ("floordiv", "mod") and constant(right) == 0:
        raise TypeProblem("K203", "division by zero", span, source)
    a, b = constant(left), constant(right)
    if a is not None and b is not None and (value := _fold(op, a, b)) is not None:
        return integer(value, span)
    result = DType.BOOL if op in COMPARISONS else dtype
    return p.Binary(op, broadcast(left, shape), broadcast(right, shape), Type(result, shape), span)


def _check_operands(op: str, dtype: DType, span: Span, source: Source) -> None:
    if op in LOGIC:
        if dtype is not DType.BOOL:
            raise TypeProblem("K201", f"`{op}` is for bools, this is {dtype.value}", span, source, "compare first")
    elif dtype is DType.BOOL:
        raise TypeProblem("K201", f"`{op}` is for numbers, this is bool", span, source, "use `and`, `or`, `not`")
    elif op == "div" and not dtype.is_float:
        hint = "`//` rounds towards minus infinity; or cast to f32 first"
        raise TypeProblem("K201", "`/` is for floats, these are integers", span, source, hint)
    elif op in ("floordiv", "mod") and dtype.is_float:
        hint = "floats divide by `/`"
        raise TypeProblem("K201", f"`{op}` is for integers, this is {dtype.value}", span, source, hint)


def _fold(op: str, a: int, b: int) -> int | None:
    match op:
        case "add":
            value = a + b
        case "sub":
            value = a - b
        case "mul":
            value = a * b
        case "floordiv":
            value = a // b
        case "mod":
            value = a % b
        case "min":
            value = min(a, b)
        case "max":
            value = max(a, b)
        case _:
            return None
    return value if abs(value) < _MAX_CONSTANT else None


def negate(e: p.Expr, span: Span, source: Source) -> p.Expr:
    """-e; literals are folded."""
    if e.type.dtype is DType.BOOL:
        raise TypeProblem("K201", "`-` is for numbers, this is bool", span, source, "use `not`")
    dtype = DType.INT if e.type.dtype.is_int else e.type.dtype
    e = convert(e, dtype)
    if isinstance(e, p.Literal):
        return p.Literal(-e.value, e.type, span)
    return p.Unary("neg", e, e.type, span)


def ceiling_division(a: p.Expr, b: p.Expr, span: Span, source: Source) -> p.Expr:
    """cdiv(a, b): (a + b - 1) // b for a positive literal b, else -((-a) // b), right for every b != 0."""
    if (divisor := constant(b)) is not None and divisor > 0:
        return binary("floordiv", binary("add", a, integer(divisor - 1, span), span, source), b, span, source)
    return negate(binary("floordiv", negate(a, span, source), b, span, source), span, source)


def power_of_two(e: p.Expr, source: Source) -> int:
    """A static tile extent. Raises TypeProblem for anything but a literal power of two in the limits."""
    value = constant(e)
    if value is None:
        hint = "extents are numbers, metas and static dimensions such as the head dim"
        raise TypeProblem("K205", "a tile extent must be known at compile time", e.span, source, hint)
    if value < 1 or value & (value - 1):
        up = 1 << max(0, value - 1).bit_length()
        hint = f"use {up} and mask the rest"
        raise TypeProblem("K206", f"a tile extent must be a power of two, not {value}", e.span, source, hint)
    if value > MAX_ELEMENTS:
        message = f"a tile extent of {value}; the limit is {MAX_ELEMENTS} elements a tile"
        raise TypeProblem("K206", message, e.span, source, "use smaller tiles")
    return value
