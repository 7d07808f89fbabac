"""Surface expressions to typed expressions: names are resolved, every node gets a dtype and a shape.

A literal has no dtype of its own: `want` carries the dtype it meets (docs/language.md, Values).
What an operation accepts is decided here and in `tiles`; anything not listed is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from ir import ast, tiles
from ir import program as p
from ir.ast import Span
from ir.diagnostics import Source, TypeProblem, closest
from ir.dtypes import DTYPES, SPELLINGS, dtype_of
from ir.program import DType, Type

CONSTANTS = ("log2e", "ln2", "inf")
TRUTH = {"true": 1, "false": 0}
_OF_F32 = ("exp", "exp2", "log", "log2", "sqrt", "abs", "tanh", "sigmoid")


@dataclass(slots=True)
class Scope:
    """What names mean at one point of the text. `gone` tells where names of finished loops were."""

    source: Source
    names: dict[str, p.Expr]
    tensors: Mapping[str, p.Tensor]
    gone: dict[str, Span] = field(default_factory=dict)

    def problem(self, code: str, message: str, span: Span, hint: str = "") -> TypeProblem:
        return TypeProblem(code, message, span, self.source, hint)


def infer(scope: Scope, e: ast.Expr, want: DType | None = None) -> p.Expr:
    """The typed form of e; a literal takes the dtype `want`. Raises TypeProblem."""
    match e:
        case ast.Number():
            return _number(scope, e, want)
        case ast.Name():
            return _name(scope, e, want)
        case ast.Unary("not", operand, span):
            truth = _bool(scope, infer(scope, operand), span)
            return p.Unary("not", truth, truth.type, span)
        case ast.Unary(_, operand, span):
            return tiles.negate(infer(scope, operand, want), span, scope.source)
        case ast.Binary(op, left, right, span):
            name = tiles.OPERATORS[op]
            a, b = _pair(scope, left, right, want if op in "+-*/" else None, DType.F32 if op == "/" else None)
            return tiles.binary(name, a, b, span, scope.source)
        case ast.Expand():
            return _expand(scope, e)
        case ast.Call():
            return _call(scope, e, want)
        case ast.Element(name, _, span) if name in scope.tensors:
            raise scope.problem("K106", f"`{name}[...]` is read by `load`", span, f"write `load({name}[...])`")
        case ast.Element(name, _, span):
            known = closest(name, scope.tensors)
            raise scope.problem("K101", f"`{name}` is not a tensor", span, known or "tiles are not indexed: use masks")
        case ast.Shape():
            raise scope.problem("K204", "a shape is not a value", e.span, "write `full([...], x, dtype)`")
        case ast.DTypeOf():
            raise scope.problem("K204", "a dtype is not a value", e.span, f"write `cast(x, {e.tensor}.dtype)`")
        case _:
            raise scope.problem("K204", "this belongs in a spec formula, not in a kernel", e.span)


def is_literal(e: ast.Expr) -> bool:
    """Made of number literals only, so that it takes the dtype it meets."""
    match e:
        case ast.Number():
            return True
        case ast.Name(name):
            return name in CONSTANTS
        case ast.Unary("-", operand):
            return is_literal(operand)
        case ast.Binary("+" | "-" | "*" | "/", left, right):
            return is_literal(left) and is_literal(right)
        case _:
            return False


def _looks_float(e: ast.Expr) -> bool:
    match e:
        case ast.Number(_, is_float):
            return is_float
        case ast.Unary(_, operand):
            return _looks_float(operand)
        case ast.Binary(op, left, right):
            return op == "/" or _looks_float(left) or _looks_float(right)
        case _:
            return True


def _number(scope: Scope, e: ast.Number, want: DType | None) -> p.Expr:
    if want is not None and want.is_float:
        return p.Literal(e.value, Type(want), e.span)
    if not e.is_float:
        return p.Literal(e.value, Type(DType.INT), e.span)
    if want is not None and want.is_int:
        raise scope.problem("K203", "a float literal where an integer is needed", e.span, "drop the decimal point")
    return p.Literal(e.value, Type(DType.F32), e.span)


def _name(scope: Scope, e: ast.Name, want: DType | None) -> p.Expr:
    name = e.id
    if name in CONSTANTS:
        return p.Constant(name, Type(want if want is not None and want.is_float else DType.F32), e.span)
    if name in TRUTH:
        return p.Literal(Fraction(TRUTH[name]), Type(DType.BOOL), e.span)
    if name not in scope.names:
        raise _undefined(scope, name, e.span)
    return replace(scope.names[name], span=e.span)


def _undefined(scope: Scope, name: str, span: Span) -> TypeProblem:
    if name in scope.tensors:
        return scope.problem("K106", f"`{name}` is a tensor, not a value", span, f"write `load({name}[...])`")
    if name in DTYPES or name in SPELLINGS:
        return scope.problem("K204", f"`{name}` is a dtype, not a value", span, f"write `cast(x, {name})`")
    if name in scope.gone:
        line = scope.gone[name].line
        hint = f"it belongs to the loop at line {line} and is gone after it: give it a value before and `carry` it"
        return scope.problem("K101", f"`{name}` is not defined here", span, hint)
    hint = closest(name, [*scope.names, *scope.tensors, *CONSTANTS, *TRUTH])
    return scope.problem("K101", f"`{name}` is not defined", span, hint)


def _pair(
    scope: Scope, a: ast.Expr, b: ast.Expr, want: DType | None, default: DType | None = None
) -> tuple[p.Expr, p.Expr]:
    """Two operands; a literal takes the dtype of the other one."""
    if is_literal(a) and is_literal(b):
        floats = _looks_float(a) or _looks_float(b)
        want = want or (DType.F32 if floats else default)
        return infer(scope, a, want), infer(scope, b, want)
    if is_literal(a):
        right = infer(scope, b)
        return infer(scope, a, right.type.dtype), right
    left = infer(scope, a)
    return left, infer(scope, b, left.type.dtype)


def _bool(scope: Scope, e: p.Expr, span: Span) -> p.Expr:
    if e.type.dtype is not DType.BOOL:
        raise scope.problem("K201", f"a bool is needed, this is {e.type}", span, "write a comparison")
    return e


def _expand(scope: Scope, e: ast.Expand) -> p.Expr:
    result = infer(scope, e.operand)
    rank = len(result.type.shape)
    if rank == 0 or e.axes.count(False) != rank:
        message = f"{e.axes.count(False)} `:` for a value of rank {rank}"
        hint = "a scalar goes with any tile as it is" if rank == 0 else "one `:` for every axis, `None` for new ones"
        raise scope.problem("K202", message, e.span, hint)
    for axis, new in enumerate(e.axes):
        if new:
            shape = (*result.type.shape[:axis], 1, *result.type.shape[axis:])
            result = p.Expand(result, axis, Type(result.type.dtype, shape), e.span)
    return result


# ---- calls -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Operation:
    """Required and optional arguments by position, and those that are given by name only."""

    required: tuple[str, ...]
    rule: Callable[[Scope, ast.Call, dict[str, ast.Expr], DType | None], p.Expr]
    optional: tuple[str, ...] = ()
    named: tuple[str, ...] = ()

    def form(self, name: str) -> str:
        parts = [*self.required, *(f"[{o}]" for o in self.optional), *(f"{n}=.." for n in self.named)]
        return f"write `{name}({', '.join(parts)})`"


def _call(scope: Scope, call: ast.Call, want: DType | None) -> p.Expr:
    operation = OPERATIONS.get(call.function)
    if operation is None:
        hint = closest(call.function, OPERATIONS) or "the operations are listed in docs/language.md"
        raise scope.problem("K105", f"there is no operation `{call.function}`", call.span, hint)
    return operation.rule(scope, call, _bind(scope, call, operation), want)


def _bind(scope: Scope, call: ast.Call, operation: _Operation) -> dict[str, ast.Expr]:
    positions = operation.required + operation.optional
    form = operation.form(call.function)
    if len(call.args) > len(positions):
        if operation.named:
            form = f"name the argument: `{call.function}({', '.join(positions)}, {operation.named[0]}=...)`"
        message = f"`{call.function}` takes {len(positions)} argument(s) by position, not {len(call.args)}"
        raise scope.problem("K204", message, call.span, form)
    bound = dict(zip(positions, call.args, strict=False))
    for name, value in call.keywords:
        if name not in positions + operation.named:
            hint = closest(name, positions + operation.named) or form
            raise scope.problem("K204", f"`{call.function}` has no argument `{name}`", value.span, hint)
        if name in bound:
            raise scope.problem("K204", f"`{name}` is given twice", value.span, form)
        bound[name] = value
    if missing := [name for name in operation.required if name not in bound]:
        raise scope.problem("K204", f"`{call.function}` needs `{missing[0]}`", call.span, form)
    return bound


_Bound = dict[str, ast.Expr]


def _of_f32(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    x = infer(scope, given["x"], DType.F32)
    if x.type.dtype is not DType.F32:
        raise scope.problem("K201", f"`{call.function}` is of f32, this is {x.type}", call.span, "write `cast(x, f32)`")
    return p.Unary(call.function, x, x.type, call.span)


def _random(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    operands = [infer(scope, given[name], DType.INT) for name in ("seed", "counter")]
    if wrong := [x for x in operands if not x.type.dtype.is_int]:
        raise scope.problem("K201", f"`random` is of integers, this is {wrong[0].type}", wrong[0].span)
    seed, counter = (tiles.convert(x, DType.INT) for x in operands)
    if seed.type.shape:
        raise scope.problem("K202", f"the seed is one integer, this is {seed.type}", seed.span, "vary the counter")
    return p.Random(seed, counter, Type(DType.F32, counter.type.shape), call.span)


def _elementwise(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    a, b = _pair(scope, given["a"], given["b"], want)
    return tiles.binary("max" if call.function == "maximum" else "min", a, b, call.span, scope.source)


def _extremum(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    """max(x, axis=1) of a tile, or max(a, b) of integer scalars."""
    if "b" not in given:
        return _reduce(scope, call, given, want)
    a, b = _pair(scope, given["a"], given["b"], None)
    if "axis" in given:
        raise scope.problem("K204", f"`{call.function}` of two values has no axis", call.span)
    if a.type.shape and isinstance(given["b"], ast.Number):
        hint = f"write `{call.function}(x, axis={given['b'].value})`, or `{call.function}imum(a, b)`"
        raise scope.problem("K204", "the axis is named, not given by position", call.span, hint)
    if a.type.shape or b.type.shape or not (a.type.dtype.is_int and b.type.dtype.is_int):
        hint = f"element by element it is `{call.function}imum(a, b)`"
        raise scope.problem("K204", f"`{call.function}(a, b)` is for integer scalars", call.span, hint)
    return tiles.binary(call.function, a, b, call.span, scope.source)


def _cdiv(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    a, b = _pair(scope, given["a"], given["b"], None)
    return tiles.ceiling_division(a, b, call.span, scope.source)


def _reduce(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    x = infer(scope, given["x" if "x" in given else "a"])
    rank = len(x.type.shape)
    if rank == 0:
        raise scope.problem("K202", f"`{call.function}` reduces a tile, this is a scalar", call.span)
    if "axis" not in given:
        hint = f"write `{call.function}(x, axis={rank - 1})`"
        raise scope.problem("K204", "which axis to reduce must be said", call.span, hint)
    axis = tiles.constant(infer(scope, given["axis"]))
    if axis is None or not -rank <= axis < rank:
        message = f"the axis must be a number from 0 to {rank - 1}"
        raise scope.problem("K204", message, given["axis"].span)
    if x.type.dtype is DType.BOOL:
        hint = "write `where(c, 1, 0)` to count"
        raise scope.problem("K201", f"`{call.function}` is for numbers, this is bool", call.span, hint)
    axis %= rank
    x = tiles.convert(x, DType.INT) if x.type.dtype.is_int else x
    shape = (*x.type.shape[:axis], *x.type.shape[axis + 1 :])
    return p.Reduce(call.function, x, axis, Type(x.type.dtype, shape), call.span)


def _dot(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    a, b = infer(scope, given["a"]), infer(scope, given["b"])
    acc = infer(scope, given["acc"]) if "acc" in given else None
    types = f"{a.type} and {b.type}"
    if len(a.type.shape) != 2 or len(b.type.shape) != 2:
        hint = "add axes, as in `x[:, None]`"
        raise scope.problem("K202", f"`dot` is of 2-d tiles, these are {types}", call.span, hint)
    if a.type.dtype is not b.type.dtype or not a.type.dtype.is_float:
        hint = "cast the second: `dot(cast(p, V.dtype), v)`"
        raise scope.problem("K201", f"`dot` is of one float dtype, these are {types}", call.span, hint)
    if a.type.shape[1] != b.type.shape[0]:
        hint = "the second extent of a and the first of b must agree; `trans(x)` swaps"
        raise scope.problem("K202", f"`dot` of {types}: {a.type.shape[1]} is not {b.type.shape[0]}", call.span, hint)
    result = tiles.tile(DType.F32, (a.type.shape[0], b.type.shape[1]), call.span, scope.source)
    if acc is not None and acc.type != result:
        hint = f"start it as `zeros({list(result.shape)}, f32)`"
        raise scope.problem("K202", f"the accumulator is {acc.type}, it must be {result}", call.span, hint)
    return p.Dot(a, b, acc, result, call.span)


def _where(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    c = _bool(scope, infer(scope, given["c"]), given["c"].span)
    x, y = _pair(scope, given["x"], given["y"], want)
    dtype = tiles.common_dtype(x.type.dtype, y.type.dtype, call.span, scope.source)
    shape = tiles.common_shape([c.type.shape, x.type.shape, y.type.shape], call.span, scope.source)
    then, otherwise = (tiles.broadcast(tiles.convert(e, dtype), shape) for e in (x, y))
    return p.Select(tiles.broadcast(c, shape), then, otherwise, Type(dtype, shape), call.span)


def _arange(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    if "end" in given:
        hint = "it starts at 0: write `arange(n)`, and add the start"
        raise scope.problem("K204", "`arange` takes one number", call.span, hint)
    extent = tiles.power_of_two(infer(scope, given["n"]), scope.source)
    return p.Arange(tiles.tile(DType.INT, (extent,), call.span, scope.source), call.span)


def _shape(scope: Scope, e: ast.Expr) -> tuple[int, ...]:
    if not isinstance(e, ast.Shape):
        raise scope.problem("K204", "a shape is written in square brackets", e.span, "for example `[BM, D]`")
    return tuple(tiles.power_of_two(infer(scope, extent), scope.source) for extent in e.extents)


def _full(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    """full(shape, x, dtype), or zeros(shape, dtype)."""
    dtype = dtype_of(scope, given["dtype"])
    zero: ast.Expr = ast.Name("false", call.span) if dtype is DType.BOOL else ast.Number(Fraction(0), span=call.span)
    x = infer(scope, given.get("x", zero), dtype)
    if x.type.shape:
        raise scope.problem("K202", "the value of `full` is a scalar", x.span, "write `broadcast(x, [...])`")
    if x.type.dtype is not dtype and not (x.type.dtype.is_int and dtype.is_int):
        hint = f"write `cast(x, {dtype.value})`"
        raise scope.problem("K201", f"the value is {x.type}, the tile {dtype.value}", x.span, hint)
    shape = _shape(scope, given["shape"])
    return p.Broadcast(tiles.convert(x, dtype), tiles.tile(dtype, shape, call.span, scope.source), call.span)


def _trans(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    x = infer(scope, given["x"])
    if len(x.type.shape) != 2:
        raise scope.problem("K202", f"`trans` is of 2-d tiles, this is {x.type}", call.span)
    return p.Transpose(x, Type(x.type.dtype, (x.type.shape[1], x.type.shape[0])), call.span)


def _broadcast(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    x, shape = infer(scope, given["x"], want), _shape(scope, given["shape"])
    if tiles.common_shape([x.type.shape, shape], call.span, scope.source) != shape:
        raise scope.problem("K202", f"{x.type} does not broadcast to {list(shape)}", call.span)
    return tiles.broadcast(x, shape)


def _cast(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    to = dtype_of(scope, given["dtype"])
    x = infer(scope, given["x"], to)
    of = x.type.dtype
    if of.is_float and to.is_int:
        hint = "compute indices in integers"
        raise scope.problem("K201", f"{of.value} does not turn into {to.value}", call.span, hint)
    if to is DType.BOOL and of is not DType.BOOL:
        raise scope.problem("K201", f"{of.value} does not turn into bool", call.span, "write `x != 0`")
    return tiles.convert(x, to)


# ---- memory ----------------------------------------------------------------------------------


def cell(scope: Scope, e: ast.Element) -> tuple[p.Tensor, tuple[p.Expr, ...]]:
    """The tensor and the INT indices of `T[i, j]`."""
    tensor = scope.tensors.get(e.name)
    if tensor is None:
        raise scope.problem("K101", f"`{e.name}` is not a tensor", e.span, closest(e.name, scope.tensors))
    if len(e.index) != len(tensor.shape):
        message = f"`{e.name}` has {len(tensor.shape)} dimension(s), {len(e.index)} given"
        raise scope.problem("K207", message, e.span, "one index for each named dimension")
    index = []
    for part in e.index:
        typed = infer(scope, part, DType.INT)
        if not typed.type.dtype.is_int:
            raise scope.problem("K207", f"an index is an integer, this is {typed.type}", part.span)
        index.append(tiles.convert(typed, DType.INT))
    return tensor, tuple(index)


def mask_of(scope: Scope, e: ast.Expr | None) -> p.Expr | None:
    """The mask, not yet broadcast."""
    return None if e is None else _bool(scope, infer(scope, e), e.span)


def _load(scope: Scope, call: ast.Call, given: _Bound, want: DType | None) -> p.Expr:
    target = given["cell"]
    if not isinstance(target, ast.Element):
        hint = "write `load(T[i, j], mask=.., other=..)`"
        raise scope.problem("K204", "`load` reads tensor cells", target.span, hint)
    tensor, index = cell(scope, target)
    mask = mask_of(scope, given.get("mask"))
    other = infer(scope, given["other"], tensor.dtype) if "other" in given else None
    if (mask is None) != (other is None):
        missing = "other" if other is None else "mask"
        hint = "`other` is the value of the lanes where the mask is false"
        raise scope.problem("K204", f"`load` with one of mask and other, without `{missing}`", call.span, hint)
    shapes = [e.type.shape for e in index]
    if mask is not None and other is not None:
        if other.type.dtype.is_int and tensor.dtype.is_int:
            other = tiles.convert(other, tensor.dtype)
        if other.type.dtype is not tensor.dtype:
            message = f"`other` is {other.type.dtype.value}, `{tensor.name}` is {tensor.dtype.value}"
            raise scope.problem("K201", message, other.span, f"write `cast(x, {tensor.name}.dtype)`")
        shapes += [mask.type.shape, other.type.shape]
    shape = tiles.common_shape(shapes, call.span, scope.source)
    if mask is not None and other is not None:
        mask, other = tiles.broadcast(mask, shape), tiles.broadcast(other, shape)
    read = p.Load(tensor.name, index, mask, other, Type(tensor.dtype, shape), call.span)
    return tiles.convert(read, DType.INT) if tensor.dtype.is_int else read


OPERATIONS: dict[str, _Operation] = {
    **{name: _Operation(("x",), _of_f32) for name in _OF_F32},
    "maximum": _Operation(("a", "b"), _elementwise),
    "minimum": _Operation(("a", "b"), _elementwise),
    "max": _Operation(("a",), _extremum, ("b",), ("axis",)),
    "min": _Operation(("a",), _extremum, ("b",), ("axis",)),
    "cdiv": _Operation(("a", "b"), _cdiv),
    "sum": _Operation(("x",), _reduce, (), ("axis",)),
    "dot": _Operation(("a", "b"), _dot, ("acc",)),
    "random": _Operation(("seed", "counter"), _random),
    "where": _Operation(("c", "x", "y"), _where),
    "arange": _Operation(("n",), _arange, ("end",)),
    "full": _Operation(("shape", "x", "dtype"), _full),
    "zeros": _Operation(("shape", "dtype"), _full),
    "trans": _Operation(("x",), _trans),
    "broadcast": _Operation(("x", "shape"), _broadcast),
    "cast": _Operation(("x", "dtype"), _cast),
    "load": _Operation(("cell",), _load, (), ("mask", "other")),
}
