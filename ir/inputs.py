"""Named, seeded input generators: a counterexample says "low:7", and anyone gets the same arrays.

Generators know nothing of a spec but its tensors' names, shapes, dtypes and limits. Every value is
within the tensor's `abs_max` and representable in its dtype. Some make products of the first two
inputs extreme on purpose ("low", "high", "mean"): that is where a finite stand-in for minus infinity,
a mask that pads with 0, or a missing maximum shows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ir.evaluate import saved, tensor_shape
from ir.facts import index_array
from ir.program import DType
from ir.rounding import FORMATS, round_to, round_towards_zero
from ir.spec import Bound

Array = NDArray[Any]
Shape = tuple[int, ...]

_DEFAULT_LIMIT = 1e4  # for inputs whose spec promises no abs_max


class UnknownGenerator(ValueError):
    """A description does not name a generator and a seed."""


def _sign(position: int) -> float:
    return -1.0 if position % 2 else 1.0


def _normal(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return rng.standard_normal(shape)


def _uniform(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return rng.uniform(-1.0, 1.0, shape)


def _large(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.9, 1.0, shape) * limit


def _low(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return _sign(position) * rng.uniform(0.5, 1.0, shape) * limit


def _high(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return rng.uniform(0.5, 1.0, shape) * limit


def _mean(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return _sign(position) * min(8.0, limit / 2) + rng.standard_normal(shape)


def _zeros(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return np.zeros(shape)


def _spread(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    huge = rng.random(shape) < 0.05
    return np.where(huge, rng.choice([-1.0, 1.0], shape) * limit / 4, 0.01 * rng.standard_normal(shape))


def _small(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return 1e-3 * rng.standard_normal(shape)


def _flat(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return np.full(shape, limit if position % 3 == 2 else 0.0)


def _ramp(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    length = shape[-2] if len(shape) > 1 else 1
    slope = np.linspace(0.0, 2.0, max(length, 1)).reshape((-1, 1) if len(shape) > 1 else (-1,))
    return np.broadcast_to(slope, shape).copy() if 0 not in shape else np.zeros(shape)


def _level(rng: Generator, shape: Shape, limit: float, position: int) -> Array:
    return rng.uniform(0.5, 1.0, (*shape[:-1], 1)) * limit * (1.0 + 1e-6 * rng.standard_normal(shape))


_GENERATORS: dict[str, Callable[[Generator, Shape, float, int], Array]] = {
    "normal": _normal,
    "uniform": _uniform,
    "large": _large,  # near the limit, random signs
    "low": _low,  # near the limit, signs alternate by input: a dot of the first two is hugely negative
    "high": _high,  # near the limit, all positive: a dot is hugely positive
    "mean": _mean,  # normal around 8 and -8 by turns: a dot is well below 0, yet exp does not vanish in float64
    "zeros": _zeros,
    "spread": _spread,  # one in twenty is huge, the rest is small
    "small": _small,
    "flat": _flat,  # zeros, but every third input at the limit: equal logits over large values
    "ramp": _ramp,  # grows from 0 to 2 along the last but one axis: a maximum that keeps moving a little
    "level": _level,  # each row nearly one large number: what should cancel does not quite
}
GENERATORS: tuple[str, ...] = tuple(_GENERATORS)


def describe(name: str, seed: int) -> str:
    """The text a counterexample carries, e.g. "low:7"."""
    return f"{name}:{seed}"


def parse_description(text: str) -> tuple[str, int]:
    """The generator name and seed of a description. Raises UnknownGenerator."""
    name, _, seed = text.partition(":")
    if name not in _GENERATORS or not seed.isdecimal():
        raise UnknownGenerator(f"{text!r} is not NAME:SEED with NAME one of {', '.join(GENERATORS)}")
    return name, int(seed)


def _floats(values: Array, limit: float, dtype: DType) -> Array:
    """Values within the limit and representable."""
    edge = round_towards_zero(limit, dtype)
    return np.clip(round_to(np.clip(values, -limit, limit), dtype), -edge, edge)


def generate(
    name: str, seed: int, bound: Bound, sizes: Mapping[str, int], parameters: Mapping[str, float]
) -> dict[str, Array]:
    """An array for every input of the spec: float64 holding values of the tensor's dtype, int64 that keep
    the spec's facts for integer tensors, bool for bool; a saved input holds what its definition gives, not
    rounded. The same arguments give the same arrays. Raises UnknownGenerator."""
    if name not in _GENERATORS:
        raise UnknownGenerator(f"{name!r} is not one of {', '.join(GENERATORS)}")
    arrays: dict[str, Array] = {}
    floats = 0  # signs alternate by float input: index tensors do not count
    for number, (tensor, dtype) in enumerate((t, d) for t, d in bound.inputs if not t.saved):
        rng = np.random.default_rng([seed, number, zlib.crc32(name.encode())])
        shape = tensor_shape(bound, tensor, sizes)
        limit = _DEFAULT_LIMIT if tensor.abs_max is None else tensor.abs_max
        if dtype is DType.BOOL:
            arrays[tensor.name] = rng.random(shape) < (0.0 if name == "zeros" else 0.5)
        elif dtype in FORMATS:
            limit = min(limit, FORMATS[dtype].largest)
            arrays[tensor.name] = _floats(_GENERATORS[name](rng, shape, limit, floats), limit, dtype)
            floats += 1
        else:
            arrays[tensor.name] = index_array(bound, tensor, sizes, shape, name, rng)
    return arrays | saved(bound, sizes, parameters, arrays)
