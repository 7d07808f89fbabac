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

from ir import ast
from ir.evaluate import integer_value, tensor_shape
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
    if tensor.facts.splits is not None:
        return _cuts(bound, tensor, sizes, shape[0] - 1, name, rng)
    low, high = _drawn(*limits(bound, tensor, sizes))
    if name in ("zeros", "low"):
        return np.full(shape, min(max(0, low), high) if name == "zeros" else low, dtype=np.int64)
    if name == "high":
        return np.full(shape, high, dtype=np.int64)
    return rng.integers(low, high, shape, dtype=np.int64, endpoint=True)


def _cuts(
    bound: Bound, tensor: TensorSpec, sizes: Mapping[str, int], parts: int, name: str, rng: Generator
) -> Array:
    """Where the parts start, and the end. About a third of the parts are as short as what is left allows, empty
    for the most part, and a third as long; "low" and "zeros" give the last parts most, "high" the first."""
    total, longest = splits_of(bound, tensor, sizes)
    left, starts = total, [0]
    for later in range(parts - 1, -1, -1):
        low, high = max(0, left - later * longest), min(longest, left)
        even = int(rng.integers(low, high, endpoint=True))
        choice = {"zeros": 0, "low": 0, "high": 1}.get(name, int(rng.integers(0, 3)))
        left -= (low, high, even)[choice]
        starts.append(total - left)
    return np.array(starts, dtype=np.int64)


def splits_of(bound: Bound, tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, int]:
    """What a tensor splits, and how long a part may be."""
    splits, longest = tensor.facts.splits, tensor.facts.longest
    total = 0 if splits is None else integer_value(bound, splits, sizes)
    return total, total if longest is None else integer_value(bound, longest, sizes)


def settled(bound: Bound, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes, with those that bound the length of a part raised as far as that may need."""
    out, maxima = dict(sizes), {d.name: d.maximum for d in bound.dims}
    for tensor, _ in bound.inputs:
        longest = tensor.facts.longest
        if isinstance(longest, ast.Name) and longest.id in out:
            out[longest.id] = min(maxima[longest.id], max(out[longest.id], splits_of(bound, tensor, sizes)[0]))
    return out


def _drawn(low: int | None, high: int | None) -> tuple[int, int]:
    if low is None:
        return (-1, _SPAN - 1) if high is None else (high - _SPAN, high)
    return low, low + _SPAN if high is None else max(low, high)


def broken_fact(bound: Bound, sizes: Mapping[str, int], inputs: Mapping[str, Array]) -> str | None:
    """What integer input breaks its facts or its dtype, in words; None when all keep them."""
    for tensor, dtype in bound.inputs:
        if dtype.is_int and inputs[tensor.name].size:
            array = inputs[tensor.name]
            if tensor.facts.splits is not None and (wrong := _broken_split(bound, tensor, sizes, array)):
                return wrong
            low, high = limits(bound, tensor, sizes)
            edge = 2 ** (dtype.bits - 1)
            if array.min() < max(-edge, -edge if low is None else low):
                return f"{tensor.name} holds {array.min()}, below {low}"
            if array.max() > min(edge - 1, edge - 1 if high is None else high):
                return f"{tensor.name} holds {array.max()}, above {high}"
    return None


def _broken_split(bound: Bound, tensor: TensorSpec, sizes: Mapping[str, int], array: Array) -> str | None:
    total, longest = splits_of(bound, tensor, sizes)
    lengths = np.diff(array)
    if array[0] != 0 or array[-1] != total:
        return f"{tensor.name} runs from {array[0]} to {array[-1]}, not from 0 to {total}"
    if (lengths < 0).any():
        return f"{tensor.name} decreases after cell {int(np.argmax(lengths < 0))}"
    return f"a part of {tensor.name} is longer than {longest}" if (lengths > longest).any() else None


def far_cell(bound: Bound, name: str, sizes: Mapping[str, int], index: tuple[Array, ...]) -> Array | int:
    """What cells of an integer input hold when it is too large to be an array: the greatest value allowed, or
    cuts into parts as equal as can be."""
    tensor = next((t for t, d in bound.inputs if t.name == name and d.is_int), None)
    if tensor is None:
        return 0
    if tensor.facts.splits is not None:
        parts = max(tensor_shape(bound, tensor, sizes)[0] - 1, 1)
        return index[0] * splits_of(bound, tensor, sizes)[0] // parts
    return _drawn(*limits(bound, tensor, sizes))[1] if tensor.facts.most is not None else 0

