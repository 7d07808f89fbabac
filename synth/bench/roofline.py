"""Work and traffic of a spec at given sizes, and the best a device could do with them (the roofline model).

Work counts what the formula multiplies and sums: 2 operations for each term of a contraction inside a score and for
each lane of an accumulator, at every visible (row, key) pair. For attention that is the customary 4*M*N*D per head,
less what the mask hides. Exponentials, maxima and plain sums are not counted. Traffic is every input and output once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ir.ast import Big, Binary, Expr, Name, Number, Unary
from ir.evaluate import tensor_shape
from ir.program import DType
from ir.spec import Bound
from synth.bench.hardware import device_named
from synth.propose.formula import free, walk
from synth.propose.structure import Group, Nest, everything, is_static, nests


@dataclass(frozen=True, slots=True)
class Peak:
    """Operations and bytes per second a device can do at most; `source` says how that is known."""

    flops: float
    bandwidth: float
    source: str


def device_peak(device: str, dtype: DType) -> Peak | None:
    """The published peak of a device by its name, None for one not listed."""
    known = device_named(device)
    if known is None:
        return None
    flops = known.single if dtype is DType.F32 else known.half
    return Peak(flops, known.memory, f"{known.name} {known.source}")


def share(flops: float, traffic: float, seconds: float, peak: Peak) -> float:
    """Achieved rate over the attainable one, which is limited by arithmetic or by memory."""
    shortest = max(flops / peak.flops, traffic / peak.bandwidth)
    return shortest / seconds


def traffic_bytes(bound: Bound, sizes: Mapping[str, int]) -> float:
    tensors = (*bound.inputs, *bound.outputs)
    return float(sum(math.prod(tensor_shape(bound, t, sizes)) * d.bits // 8 for t, d in tensors))


def work_flops(bound: Bound, sizes: Mapping[str, int]) -> float:
    """Raises NothingToPropose for a formula whose structure is not known."""
    values: dict[str, int] = {**sizes, **{k: v for k, v in bound.settings if isinstance(v, int)}}
    return sum(_nest(nest, bound, values) for nest in nests(bound))


def _nest(nest: Nest, bound: Bound, values: Mapping[str, int]) -> float:
    programs = math.prod(int(integer(e, values)) for _, e in nest.programs)
    return programs * sum(_group(g, nest, bound, values) for g in nest.groups)


def _group(group: Group, nest: Nest, bound: Bound, values: Mapping[str, int]) -> float:
    short = {e for e in everything(group) if isinstance(e, Big) and is_static(e.bound, bound) and group.key in free(e)}
    per_pair = sum(2 * int(integer(e.bound, values)) for e in short)
    lanes = dict(nest.lanes)
    for fold in group.folds:
        across = [lanes[name] for name in free(fold.rest) if name in lanes]
        if across:
            per_pair += 2 * math.prod(int(integer(e, values)) for e in across)
    return float(per_pair) * visible_pairs(group, nest.row, values)


def visible_pairs(group: Group, row: tuple[str, Expr], values: Mapping[str, int]) -> float:
    """Pairs (row, key) that satisfy every condition; conditions on anything else are taken as satisfied."""
    rows, keys = (np.arange(int(integer(extent, values))) for extent in (row[1], group.extent))
    known = {*values, row[0], group.key}
    conditions = [c for c in group.sees if free(c) <= known and is_plain(c)]
    pairs = 0.0
    step = max(1, 2**22 // max(1, keys.size))
    for start in range(0, rows.size, step):
        some = rows[start : start + step, None]
        at: dict[str, Any] = {**values, row[0]: some, group.key: keys[None, :]}
        visible = np.ones((some.shape[0], keys.size), dtype=np.bool_)
        for condition in conditions:
            visible = visible & integer(condition, at)
        pairs += float(visible.sum())
    return pairs


def is_plain(expr: Expr) -> bool:
    """Whether `integer` can work an expression out."""
    for e in walk(expr):
        match e:
            case Number(value):
                known = value.denominator == 1
            case Binary(op):
                known = op in OPERATIONS
            case _:
                known = isinstance(e, Name | Unary)
        if not known:
            return False
    return True


def integer(expr: Expr, values: Mapping[str, Any]) -> Any:
    """An integer formula at given sizes, or over arrays of rows and keys."""
    match expr:
        case Number(value):
            return int(value)
        case Name(id):
            return values[id]
        case Unary("-", operand):
            return -integer(operand, values)
        case Unary("not", operand):
            return np.logical_not(integer(operand, values))
        case Binary(op, left, right):
            a, b = integer(left, values), integer(right, values)
            return OPERATIONS[op](a, b)
        case _:
            raise ValueError(f"not an integer formula over sizes: {type(expr).__name__}")


OPERATIONS = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "//": np.floor_divide, "%": np.mod, "<": np.less,
    "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal, "!=": np.not_equal,
    "and": np.logical_and, "or": np.logical_or,
}  # fmt: skip
