"""Integer inputs that keep the facts their spec states: made for replay, and checked.

The facts (`ir.spec.Facts`) speak of every cell of an integer tensor. `index_array` makes arrays that keep
them, on purpose with ties and extremes; `broken_fact` finds a cell that does not; `far_cell` is what a
tensor too large to hold is taken to contain. The prover assumes the facts, the launcher checks them
(`lowering.launch`), and a counterexample's inputs keep them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ir.evaluate import integer_value
from ir.spec import Bound, TensorSpec

Array = NDArray[Any]

_SPAN = 3  # how far cells with no limit on one side go from the other: few values, so that many are equal


def limits(bound: Bound, tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int | None, int | None]:
    """The least and the greatest value the facts allow in a cell; None where they say nothing."""
    facts = tensor.facts
    low, high = (None if e is None else integer_value(bound, e, sizes) for e in (facts.least, facts.most))
    return low, high


def index_array(
    bound: Bound, tensor: TensorSpec, sizes: Mapping[str, int], shape: tuple[int, ...], name: str, rng: Generator
) -> Array:
    """An int64 array that keeps the tensor's facts. `name` is the generator's: "zeros" and "low" take the least
    value everywhere (0 if it may be), "high" the greatest, others draw evenly."""
    low, high = _drawn(*limits(bound, tensor, sizes))
    if name in ("zeros", "low"):
        return np.full(shape, min(max(0, low), high) if name == "zeros" else low, dtype=np.int64)
    if name == "high":
        return np.full(shape, high, dtype=np.int64)
    return rng.integers(low, high, shape, dtype=np.int64, endpoint=True)


def _drawn(low: int | None, high: int | None) -> tuple[int, int]:
    if low is None:
        return (-1, _SPAN - 1) if high is None else (high - _SPAN, high)
    return low, low + _SPAN if high is None else max(low, high)


def broken_fact(bound: Bound, sizes: Mapping[str, int], inputs: Mapping[str, Array]) -> str | None:
    """What integer input breaks its facts or its dtype, in words; None when all keep them."""
    for tensor, dtype in bound.inputs:
        if dtype.is_int and inputs[tensor.name].size:
            array = inputs[tensor.name]
            low, high = limits(bound, tensor, sizes)
            edge = 2 ** (dtype.bits - 1)
            if array.min() < max(-edge, -edge if low is None else low):
                return f"{tensor.name} holds {array.min()}, below {low}"
            if array.max() > min(edge - 1, edge - 1 if high is None else high):
                return f"{tensor.name} holds {array.max()}, above {high}"
    return None


def far_cell(bound: Bound, name: str, sizes: Mapping[str, int], index: tuple[Array, ...]) -> Array | int:
    """What cells of an integer input hold when it is too large to be an array: the greatest value allowed."""
    tensor = next((t for t, d in bound.inputs if t.name == name and d.is_int), None)
    if tensor is None:
        return 0
    return _drawn(*limits(bound, tensor, sizes))[1] if tensor.facts.most is not None else 0

