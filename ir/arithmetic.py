"""The arithmetic of the kernel language on NumPy values: floats as float64, integers without limit.

An INT scalar is a Python int. An INT tile is int64, and becomes an array of Python ints just where a
result could leave int64, decided from the operands' actual ranges before the operation; so no
integer ever wraps around. `//` and `%` round towards minus infinity, as NumPy and Python do.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ir.program import DType

Array = NDArray[Any]
Value = Any  # an INT scalar is a Python int (unbounded); everything else is an array or NumPy scalar

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1
CONSTANTS = {"log2e": math.log2(math.e), "ln2": math.log(2.0), "inf": math.inf}


def _sigmoid(x: Any) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


UNARY: dict[str, Callable[[Any], Any]] = {
    "neg": np.negative,
    "not": np.logical_not,
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log2": np.log2,
    "abs": np.abs,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
}
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
    "and": np.logical_and,
    "or": np.logical_or,
}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": np.divide,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "min": np.minimum,
    "max": np.maximum,
}
REDUCE: dict[str, Callable[..., Any]] = {"sum": np.sum, "max": np.max, "min": np.min}
EXACT_IN_FLOATS = frozenset({"neg", "abs", "min", "max"})  # results that never need rounding


def integer_array(value: Value) -> Array:
    """An int64 array, or one of Python ints where int64 is too narrow."""
    if isinstance(value, int):
        return np.asarray(value, dtype=np.int64 if abs(value) <= INT64_MAX else object)
    return np.asarray(value)


def integer_range(x: Value) -> tuple[int, int]:
    """The least and the greatest value of an integer scalar or tile."""
    return (x, x) if isinstance(x, int) else (int(x.min()), int(x.max()))


def magnitude(x: Value) -> int:
    """The greatest absolute value of an integer scalar or tile."""
    low, high = integer_range(x)
    return max(abs(low), abs(high))


def integer_binary(op: str, left: Value, right: Value) -> Value:
    """left op right; lanes that divide by 0 give 0 (the caller reports them, see `divides_by_zero`)."""
    if op in ("floordiv", "mod"):
        zero = np.asarray(right == 0)
        if zero.any():
            right = 1 if isinstance(right, int) else np.where(zero, 1, right)
            left = 0 if isinstance(left, int) else np.where(zero, 0, left)
    if isinstance(left, int) and isinstance(right, int):
        return {"min": min, "max": max}.get(op, ARITHMETIC[op])(left, right)
    if op in ("add", "sub", "mul"):
        a, b = magnitude(left), magnitude(right)
        if (a * b if op == "mul" else a + b) > INT64_MAX:
            left, right = np.asarray(left, dtype=object), np.asarray(right, dtype=object)
    return ARITHMETIC[op](left, right)


def divides_by_zero(op: str, right: Value) -> bool:
    """Whether some lane of an integer division has divisor 0."""
    return op in ("floordiv", "mod") and bool(np.any(right == 0))


def integer_reduce(op: str, x: Array, axis: int) -> Value:
    """Reduce one axis of an integer tile, without wrap-around."""
    if op == "sum" and magnitude(x) * x.shape[axis] > INT64_MAX:
        x = x.astype(object)
    return REDUCE[op](x, axis=axis)


def misfit(value: Value, dtype: DType) -> int | None:
    """A value in the tile that i32 or i64 cannot hold, or None; INT holds everything."""
    if dtype not in (DType.I32, DType.I64):
        return None
    low, high = integer_range(value)
    limit = 2 ** (dtype.bits - 1)
    return low if low < -limit else (high if high >= limit else None)
