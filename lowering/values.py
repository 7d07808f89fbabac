"""What a typed expression is worth in many programs at once, and the operations on such values.

Floats and truth values are tensors [P or 1, *shape], with extents of 1 wherever nothing varies; a float
constant is 0-d, and a truth value that every lane of every program agrees on is a Python bool, so that
masks that are always true cost nothing. Integers are `Lanes` where they can be (`lowering.lanes`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch

from ir.program import DType
from lowering.lanes import Integer, Lanes, dense

TORCH = {
    DType.F32: torch.float32, DType.F16: torch.float16, DType.BF16: torch.bfloat16,
    DType.I32: torch.int32, DType.I64: torch.int64, DType.INT: torch.int64, DType.BOOL: torch.bool,
}  # fmt: skip
CONSTANTS = {"log2e": 1 / math.log(2), "ln2": math.log(2), "inf": math.inf}
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
FLOAT: dict[str, Callable[..., torch.Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "min": torch.minimum,
    "max": torch.maximum, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq,
    "ne": torch.ne,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "neg": torch.neg, "exp": torch.exp, "exp2": torch.exp2, "log": torch.log, "log2": torch.log2, "abs": torch.abs,
    "sqrt": torch.sqrt, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
}  # fmt: skip

Value = Integer | bool | torch.Tensor


def as_tensor(value: Value) -> torch.Tensor:
    if isinstance(value, bool):
        return torch.tensor(value)
    return dense(value)


def covers(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether a result of x and y has x's shape: y is a constant, or nowhere larger."""
    return y.dim() == 0 or (x.dim() > 0 and all(n <= m for n, m in zip(y.shape, x.shape, strict=True)))


def zero(like: Integer) -> Integer:
    return Lanes(0, (0,) * len(like.shape), like.shape) if isinstance(like, Lanes) else torch.zeros_like(like)


def full(value: Value, shape: tuple[int, ...]) -> torch.Tensor:
    """With every lane there: [P or 1, *shape]."""
    x = as_tensor(value)
    programs = x.shape[0] if x.dim() else 1
    return x.expand(programs, *shape)


def logic(op: str, left: Value, right: Value) -> Value:
    if op in ("and", "or"):
        for known, other in ((left, right), (right, left)):
            if isinstance(known, bool):
                return other if known is (op == "and") else known
    x, y = as_tensor(left), as_tensor(right)
    return {"and": torch.logical_and, "or": torch.logical_or, "eq": torch.eq, "ne": torch.ne}[op](x, y)


@cache
def constant(value: float, dtype: DType) -> torch.Tensor:
    return torch.tensor(value, dtype=TORCH[dtype])
