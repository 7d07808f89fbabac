"""A machine that is as wrong as the model of `ir.float_model` allows.

It computes in float64 and then moves each result by the most its operation may be off, towards a side that a strategy
picks. What it returns need not be a machine number: the model asks for none.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ir import float_model as stated
from ir import program as core
from ir.arithmetic import ARITHMETIC, COMPARE, REDUCE, UNARY
from ir.interpret import Machine
from ir.program import DType

model = SimpleNamespace(**{name: getattr(stated, name) for name in dir(stated) if name.isupper()})  # as it was read
STRATEGIES = ("up", "down", "random", "by place", "by kind")


ADDED = core.Cast(core.Literal(0, core.Type(DType.F32)), core.Type(DType.F32))  # type: ignore[arg-type]


class Adversary(Machine):
    strategy = "random"
    random = np.random.default_rng(0)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.memory._rounded = lambda x, dtype: self.moved(x, ADDED, model.UNIT[dtype])  # type: ignore[attr-defined]

    def side(self, shape: tuple[int, ...], e: Any) -> Any:
        match self.strategy:
            case "up":
                return 1.0
            case "down":
                return -1.0
            case "random":
                return self.random.choice([-1.0, 1.0], shape)
            case "by place":
                return 1.0 if (e.span.line + e.span.column) % 2 else -1.0
            case _:
                return 1.0 if type(e).__name__ in ("Dot", "Cast") else -1.0

    def moved(self, z: Any, e: Any, unit: float, times: int = 1, size: Any = None) -> Any:
        """z off by `times` roundings of `unit`, relative to `size` (|z| if not given); flushed when tiny."""
        z = np.asarray(z, dtype=np.float64)
        finite = np.isfinite(z)
        reach = np.abs(z) if size is None else size
        factor = (1.0 + unit) ** times - 1.0
        with np.errstate(all="ignore"):
            out = np.where(finite, z + self.side(z.shape, e) * factor * np.where(finite, reach, 0.0), z)
        tiny = model.TINY[e.type.dtype]
        return np.where(np.abs(out) < tiny, 0.0, out)

    def evaluate(self, expr: core.Expr) -> Any:
        if isinstance(expr, core.Constant) and expr.name != "inf":
            return super().evaluate(expr) * (1.0 + model.CONSTANT * float(np.mean(self.side((1,), expr))))
        return super().evaluate(expr)

    def unary(self, expr: core.Unary) -> Any:
        if not expr.type.dtype.is_float or expr.op in ("neg", "abs"):
            return super().unary(expr)
        x = self.value(expr.operand)
        unit = model.UNIT[expr.type.dtype]
        with np.errstate(all="ignore"):
            match expr.op:
                case "exp":
                    x = np.where(np.isfinite(x), x + self.side(np.shape(x), expr) * model.SCALED * np.abs(x), x)
                    return self.moved(np.exp(x), expr, max(unit, model.EXP))
                case "exp2":
                    return self.moved(np.exp2(x), expr, max(unit, model.EXP))
                case "log" | "log2":
                    z = UNARY[expr.op](x)
                    return self.moved(z, expr, max(unit, model.LOG), size=np.abs(z) + 1.0)
                case "sqrt":
                    return self.moved(np.sqrt(x), expr, max(unit, model.ROOT))
                case _:
                    return self.moved(UNARY[expr.op](x), expr, max(unit, model.TANH), size=1.0)

    def binary(self, expr: core.Binary) -> Any:
        if not expr.type.dtype.is_float or expr.op in COMPARE or expr.op in ("max", "min"):
            return super().binary(expr)
        left, right = self.value(expr.left), self.value(expr.right)
        unit = model.UNIT[expr.type.dtype]
        with np.errstate(all="ignore"):
            z = ARITHMETIC[expr.op](left, right)
        return self.moved(z, expr, max(unit, model.DIVIDE) if expr.op == "div" else unit)

    def cast(self, value: Any, source: DType, target: core.Type, span: Any) -> Any:
        if not target.dtype.is_float or source is DType.BOOL:
            return super().cast(value, source, target, span)
        value = np.asarray(value, dtype=np.float64)
        finer = source.is_float and model.UNIT[source] >= model.UNIT[target.dtype]
        place = core.Cast(core.Literal(0, core.Type(DType.F32)), target, span)  # type: ignore[arg-type]
        return value if finer else self.moved(value, place, model.UNIT[target.dtype])

    def reduce(self, expr: core.Reduce) -> Any:
        if not expr.type.dtype.is_float or expr.op != "sum":
            return super().reduce(expr)
        x = self.value(expr.operand)
        terms = x.shape[expr.axis] - 1
        size = np.sum(np.abs(x), axis=expr.axis)
        return self.moved(REDUCE["sum"](x, axis=expr.axis), expr, model.UNIT[expr.type.dtype], terms, size)

    def dot(self, expr: core.Dot) -> Any:
        x, y = self.value(expr.left), self.value(expr.right)
        z, size = np.matmul(x, y), np.matmul(np.abs(x), np.abs(y))
        if expr.acc is not None:
            acc = self.value(expr.acc)
            z, size = z + acc, size + np.abs(acc)
        return self.moved(z, expr, model.DOT, x.shape[1], size)
