"""Direct evaluation of a bound spec at small sizes: what its formulas say, in float64.

Nothing is rearranged: a definition is evaluated as it is written, over all its indices at once, each
bound variable an axis. Reals are `Scaled`, so exp of a huge logit is right. This is one side of every
replay, hence it shares nothing with the interpreter.

Axes: the outermost variable has the last axis and each inner one an axis in front of it, so NumPy's
right-aligned broadcasting needs no help. A use of a definition reads a table of it, made once over
the range of its arguments; lanes a condition leaves out may read outside a tensor, which gives NaN
there and must be (and is) dropped.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ir import ast, scaled
from ir.random import random
from ir.scaled import Scaled, real
from ir.spec import Bound, TensorSpec

Array = NDArray[Any]
Value = Any  # a Python int, bool or str; an int64 or bool array; a Scaled

MAX_ELEMENTS = 2**27  # of any intermediate array: 1 GiB of float64

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_INTEGER: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}
_CONSTANTS = {"log2e": math.log2(math.e), "ln2": math.log(2.0), "inf": math.inf}
_PLAIN_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "tanh": np.tanh,
    "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
}


class EvaluationError(Exception):
    """A formula cannot be evaluated at these sizes: a name, type or index it should not have, or too large."""


def _is_integer(value: Value) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return bool(value.dtype.kind == "i")
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: Value) -> Scaled:
    if isinstance(value, Scaled):
        return value
    if _is_integer(value):
        return real(value)
    raise EvaluationError(f"a number is needed here, not {type(value).__name__}")


def _integer(value: Value) -> Value:
    if not _is_integer(value):
        raise EvaluationError("an integer is needed here")
    return value


def _truth(value: Value) -> Array:
    if isinstance(value, bool) or (isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "b"):
        return np.asarray(value)
    raise EvaluationError("a condition is needed here")


def _literal(value: Fraction) -> Scaled:
    try:
        return real(float(value))
    except OverflowError as error:
        raise EvaluationError("a literal is beyond float64") from error


def _map(value: Value, function: Callable[[Array], Array]) -> Value:
    return value.map(function) if isinstance(value, Scaled) else function(np.asarray(value))


def _shape(value: Value) -> tuple[int, ...]:
    if isinstance(value, Scaled):
        return np.broadcast_shapes(value.mantissa.shape, () if value.shift is None else value.shift.shape)
    return np.shape(value)


def _where(condition: Array, then: Value, otherwise: Value) -> Value:
    if isinstance(then, Scaled) or isinstance(otherwise, Scaled):
        return scaled.select(condition, _real(then), _real(otherwise))
    return np.where(condition, then, otherwise)


def _room(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MAX_ELEMENTS:
        raise EvaluationError(f"an array of {math.prod(shape)} elements is too large to evaluate directly")
    return shape


def _range(arg: Value) -> tuple[int, int]:
    if isinstance(arg, int):
        return arg, arg
    return (int(arg.min()), int(arg.max())) if arg.size else (0, -1)


Scope = dict[str, Value]  # bound variables; a variable at depth d has shape (n, 1, ..., 1) with d ones


class _Evaluator:
    """Evaluates expressions of one spec at one choice of sizes, parameters and inputs."""

    def __init__(
        self, bound: Bound, sizes: Mapping[str, int], parameters: Mapping[str, float], inputs: Mapping[str, Array]
    ) -> None:
        self.sizes = {name: int(value) for name, value in sizes.items()}
        self.settings = dict(bound.settings)
        self.parameters = parameters
        self.integers = {p.name for p in bound.spec.parameters if p.integer}
        self.inputs = inputs
        self.input_names = {tensor.name for tensor, _ in bound.inputs if not tensor.saved}
        self.parts = {tensor.facts.part: tensor.name for tensor, _ in bound.inputs if tensor.facts.part}
        self.definitions = {d.name: d for d in bound.spec.definitions}
        self.empty_is_zero = bound.spec.empty_row == "zero"
        self._tables: dict[tuple[str, tuple[tuple[int, int], ...]], Value] = {}
        self._open: set[str] = set()

    def table(self, name: str, ranges: tuple[tuple[int, int], ...]) -> Value:
        """A definition for every combination of its parameters in low..high; axes in reverse order."""
        key = (name, ranges)
        if key in self._tables:
            return self._tables[key]
        definition = self.definitions[name]
        if len(ranges) != len(definition.parameters):
            raise EvaluationError(f"{name} has {len(definition.parameters)} indices, {len(ranges)} given")
        if name in self._open:
            raise EvaluationError(f"{name} is defined by itself")
        counts = [high - low + 1 for low, high in ranges]
        _room(tuple(counts))
        scope: Scope = {
            parameter: np.arange(low, high + 1).reshape((-1,) + (1,) * depth)
            for depth, (parameter, (low, high)) in enumerate(zip(definition.parameters, ranges, strict=True))
        }
        self._open.add(name)
        value = self.evaluate(definition.value, scope, len(ranges))
        self._open.remove(name)
        if ranges:
            value = _map(value, lambda x: np.broadcast_to(x, tuple(reversed(counts))))
        self._tables[key] = value
        return value

    def evaluate(self, expr: ast.Expr, scope: Scope, depth: int) -> Value:
        match expr:
            case ast.Number(value=value, is_float=is_float):
                return _literal(value) if is_float or value.denominator != 1 else int(value)
            case ast.Text(value=text):
                return text
            case ast.Name(id=name):
                return self.name(name, scope)
            case ast.Unary(op="not"):
                return ~_truth(self.evaluate(expr.operand, scope, depth))
            case ast.Unary():
                operand = self.evaluate(expr.operand, scope, depth)
                return -operand if _is_integer(operand) else scaled.negative(_real(operand))
            case ast.Binary():
                return self.binary(
                    expr.op, self.evaluate(expr.left, scope, depth), self.evaluate(expr.right, scope, depth)
                )
            case ast.Call(keywords=()):
                return self.call(expr.function, [self.evaluate(arg, scope, depth) for arg in expr.args])
            case ast.Element():
                return self.element(expr.name, [_integer(self.evaluate(k, scope, depth)) for k in expr.index])
            case ast.If():
                condition = _truth(self.evaluate(expr.condition, scope, depth))
                if condition.ndim == 0:
                    return self.evaluate(expr.then if condition else expr.otherwise, scope, depth)
                then = self.evaluate(expr.then, scope, depth)
                return _where(condition, then, self.evaluate(expr.otherwise, scope, depth))
            case ast.Big():
                return self.big(expr, scope, depth)
            case _:
                raise EvaluationError(f"{type(expr).__name__} has no meaning in a formula")

    def name(self, name: str, scope: Scope) -> Value:
        if name in scope:
            return scope[name]
        if name in self.sizes:
            return self.sizes[name]
        if name in self.settings:
            return self.settings[name]
        if name in self.parameters:
            return int(self.parameters[name]) if name in self.integers else real(self.parameters[name])
        if name in self.definitions:
            return self.table(name, ())
        if name in ("true", "false"):
            return name == "true"
        if name in _CONSTANTS:
            return real(_CONSTANTS[name])
        raise EvaluationError(f"{name} has no value")

    def binary(self, op: str, left: Value, right: Value) -> Value:
        if op in ("and", "or"):
            return _truth(left) & _truth(right) if op == "and" else _truth(left) | _truth(right)
        if isinstance(left, str) or isinstance(right, str):
            if op not in ("==", "!=") or not (isinstance(left, str) and isinstance(right, str)):
                raise EvaluationError("a string is only compared with an option, by == or !=")
            return (left == right) == (op == "==")
        _room(np.broadcast_shapes(_shape(left), _shape(right)))
        integers = _is_integer(left) and _is_integer(right)
        if op in _COMPARE:
            return _COMPARE[op](left, right) if integers else scaled.compare(_COMPARE[op], _real(left), _real(right))
        if op in ("//", "%") and np.any(_integer(right) == 0):
            raise EvaluationError("integer division by zero")
        if integers and op in _INTEGER:
            return _INTEGER[op](left, right)
        a, b = _real(left), _real(right)
        match op:
            case "+":
                return scaled.add(a, b)
            case "-":
                return scaled.add(a, scaled.negative(b))
            case "*":
                return scaled.multiply(a, b)
            case "/":
                return scaled.divide(a, b, self.empty_is_zero)
            case _:
                raise EvaluationError(f"{op} is for integers")

    def call(self, function: str, args: list[Value]) -> Value:
        match function, args:
            case "exp", [x]:
                return scaled.exp(_real(x))
            case "log", [x]:
                return scaled.log(_real(x), -math.inf if self.empty_is_zero else math.nan)
            case "sqrt", [x]:
                return scaled.square_root(_real(x))
            case "abs", [x]:
                return abs(x) if _is_integer(x) else scaled.absolute(_real(x))
            case (("tanh" | "sigmoid"), [x]):
                return real(_PLAIN_FUNCTIONS[function](_real(x).plain()))
            case "max", [x, y]:
                return _where(np.asarray(self.binary(">=", x, y)), x, y)
            case "min", [x, y]:
                return _where(np.asarray(self.binary("<=", x, y)), x, y)
            case "random", [seed, counter]:
                return real(random(_integer(seed), _integer(counter)))
            case "cdiv", [x, y]:
                return -self.binary("//", -_integer(x), y)
            case _:
                raise EvaluationError(f"there is no function {function} of {len(args)} arguments")

    def element(self, name: str, index: list[Value]) -> Value:
        if name in self.parts:
            starts = self.inputs[self.parts[name]]  # where T is cut; the last cut at or before x starts its part
            found = np.searchsorted(starts, np.asarray(index[0]), side="right") - 1
            return np.clip(found, 0, max(len(starts) - 2, 0))
        if name in self.input_names:
            return self.cell(name, index)
        if name not in self.definitions:
            raise EvaluationError(f"{name} is neither an input nor defined")
        ranges = tuple(_range(k) for k in index)
        table = self.table(name, ranges)
        at = tuple(k - low for k, (low, _) in zip(reversed(index), reversed(ranges), strict=True))
        _room(np.broadcast_shapes(*(np.shape(k) for k in at)))
        return _map(table, lambda x: x[at])

    def cell(self, name: str, index: list[Value]) -> Value:
        """A tensor read; NaN (0 for integers) outside the tensor."""
        tensor = self.inputs[name]
        if len(index) != tensor.ndim:
            raise EvaluationError(f"{name} has {tensor.ndim} dimensions, {len(index)} indices given")
        inside = np.ones((), dtype=bool)
        for k, extent in zip(index, tensor.shape, strict=True):
            inside = inside & np.asarray((k >= 0) & (k < extent))
        shape = _room(np.broadcast_shapes(inside.shape, *(np.shape(k) for k in index)))
        integers = tensor.dtype.kind in "ib"
        if tensor.size == 0:
            return np.zeros(shape, dtype=np.int64) if integers else real(np.full(shape, np.nan))
        if inside.all():
            read = tensor[tuple(index)]
        else:
            read = tensor[tuple(np.clip(k, 0, n - 1) for k, n in zip(index, tensor.shape, strict=True))]
            read = np.where(inside, read, 0 if integers else np.nan)
        return np.asarray(read, dtype=np.int64) if tensor.dtype.kind == "i" else read if integers else real(read)

    def big(self, expr: ast.Big, scope: Scope, depth: int) -> Value:
        """sum or max over 0 <= variable < bound where the conditions hold."""
        bound = _integer(self.evaluate(expr.bound, scope, depth))
        count = max(0, _range(bound)[1])
        _room((count,))
        variable = np.arange(count).reshape((-1,) + (1,) * depth)
        inner = {**scope, expr.variable: variable}
        keep = variable < bound
        for condition in expr.conditions:
            keep = keep & _truth(self.evaluate(condition, inner, depth + 1))
        body = self.evaluate(expr.body, inner, depth + 1)
        shape = np.broadcast_shapes(_shape(body), variable.shape, () if keep.all() else keep.shape)
        _room(shape)
        if _is_integer(body) and (expr.op == "sum" or (count and keep.any(axis=0).all())):
            least = np.iinfo(np.int64).min  # the maximum of nothing is -inf, a real
            kept = np.where(keep, body, 0 if expr.op == "sum" else least)
            kept = np.broadcast_to(kept, np.broadcast_shapes(shape, keep.shape))
            return np.sum(kept, axis=0) if expr.op == "sum" else np.max(kept, axis=0)
        terms = _real(body)
        if not keep.all():
            terms = scaled.select(keep, terms, real(0.0 if expr.op == "sum" else -math.inf))
        mantissa = np.broadcast_to(terms.mantissa, shape)
        if terms.shift is not None:
            padded = (1,) * (len(shape) - terms.shift.ndim) + terms.shift.shape
            terms = Scaled(mantissa, np.broadcast_to(terms.shift, (count, *padded[1:])))
        else:
            terms = Scaled(mantissa)
        if expr.op == "sum":
            return scaled.total(terms)
        if expr.op == "max":
            return scaled.largest(terms.map(lambda x: x))
        raise EvaluationError(f"there is no {expr.op} over an index")


def tensor_shape(bound: Bound, tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The concrete extents of a tensor. Raises EvaluationError."""
    evaluator = _Evaluator(bound, sizes, {}, {})
    return tuple(int(_integer(evaluator.evaluate(extent, {}, 0))) for extent in tensor.shape)


def integer_value(bound: Bound, e: ast.Expr, sizes: Mapping[str, int]) -> int:
    """An integer expression over sizes. Raises EvaluationError."""
    return int(_integer(_Evaluator(bound, sizes, {}, {}).evaluate(e, {}, 0)))


def parameters_default(bound: Bound, sizes: Mapping[str, int]) -> dict[str, float]:
    """The default value of every parameter at these sizes, an int for an integer one. Raises EvaluationError."""
    evaluator = _Evaluator(bound, sizes, {}, {})
    values = {p: evaluator.evaluate(p.default, {}, 0) for p in bound.spec.parameters}
    return {p.name: int(_integer(v)) if p.integer else float(_real(v).plain()) for p, v in values.items()}


def check_requires(bound: Bound, sizes: Mapping[str, int]) -> bool:
    """Whether every size is there and within its limits, every `require` formula holds, and some integer
    inputs keep the facts."""
    if not all(d.name in sizes and d.minimum <= sizes[d.name] <= d.maximum for d in bound.dims):
        return False
    evaluator = _Evaluator(bound, sizes, {}, {})
    if not all(bool(_truth(evaluator.evaluate(formula, {}, 0))) for formula in bound.spec.requires):
        return False
    return all(_some_value(bound, tensor, sizes) for tensor, dtype in bound.inputs if dtype.is_int)


def _some_value(bound: Bound, tensor: TensorSpec, sizes: Mapping[str, int]) -> bool:
    """Whether an integer tensor can keep its facts at these sizes."""
    least, most = tensor.facts.least, tensor.facts.most
    if tensor.facts.splits is not None:
        longest = tensor.facts.longest
        total, parts = integer_value(bound, tensor.facts.splits, sizes), tensor_shape(bound, tensor, sizes)[0] - 1
        limit = total if longest is None else min(total, integer_value(bound, longest, sizes))
        return 0 <= total <= parts * limit
    if least is None or most is None or 0 in tensor_shape(bound, tensor, sizes):
        return True
    return integer_value(bound, least, sizes) <= integer_value(bound, most, sizes)


def evaluate(
    bound: Bound, sizes: Mapping[str, int], parameters: Mapping[str, float], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """The outputs a kernel must store: float64 arrays by name, in the order of the tensor's dimensions.

    `inputs` has an array for each input that is not saved. With empty_row = "zero" a quotient by zero is 0
    and log(0) is -inf; with "undefined" such cells are NaN or infinite. Raises EvaluationError.
    """
    return _tensors(bound, [tensor for tensor, _ in bound.outputs], sizes, parameters, inputs)


def saved(
    bound: Bound, sizes: Mapping[str, int], parameters: Mapping[str, float], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """The saved inputs, as their definitions give them from the other inputs; not rounded to their dtypes.
    Raises EvaluationError."""
    return _tensors(bound, [tensor for tensor, _ in bound.inputs if tensor.saved], sizes, parameters, inputs)


def _tensors(
    bound: Bound,
    wanted: list[TensorSpec],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    inputs: Mapping[str, Array],
) -> dict[str, Array]:
    missing = [tensor.name for tensor, _ in bound.inputs if not tensor.saved and tensor.name not in inputs]
    if missing:
        raise EvaluationError(f"no array given for {', '.join(missing)}")
    evaluator = _Evaluator(bound, sizes, parameters, inputs)
    outputs = {}
    with np.errstate(all="ignore"):
        for tensor in wanted:
            if tensor.name not in evaluator.definitions:
                raise EvaluationError(f"{tensor.name} is not defined")
            shape = tensor_shape(bound, tensor, sizes)
            try:
                table = evaluator.table(tensor.name, tuple((0, extent - 1) for extent in shape))
            except RecursionError as error:
                raise EvaluationError(f"{tensor.name} is defined through too many others") from error
            value = np.asarray(_real(table).plain(), dtype=np.float64)
            outputs[tensor.name] = np.ascontiguousarray(np.transpose(value)).reshape(shape)
    return outputs
