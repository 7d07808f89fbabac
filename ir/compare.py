"""Whether two sets of tensors agree, and if not, where they differ most.

The tolerance is relative to the cell and to the scale of the expected tensor (its largest finite
magnitude), never to a fixed number: a kernel that stores zeros does not pass because outputs are
tiny. -inf agrees with -inf and with nothing else; NaN agrees with nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Where a whole tensor is expected to be zero there is no scale to measure against.
_ZERO_TENSOR_SCALE = 1e-12
_ROUNDING = 1e-13  # what cancelling terms leave of float64, relative to the terms
_DEGREE = 3  # the terms of a gradient of attention are products of up to that many inputs
# Near the end of float64's range exponentials lose digits and then all of them: differences there say nothing.
_SMALLEST_SCALE = 1e-280


class ShapeMismatch(ValueError):
    """A tensor to compare is missing or has another shape than the expected one."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A cell where two tensors disagree; `error` is |actual - expected| over what was tolerated."""

    tensor: str
    cell: tuple[int, ...]
    actual: float
    expected: float
    error: float


def _largest(x: Array) -> float:
    return float(np.abs(x[np.isfinite(x)]).max(initial=0.0))


def _excess(actual: Array, expected: Array, tolerance: float, terms: float) -> Array:
    """|actual - expected| in units of what is tolerated; 0 where equal, inf where never equal."""
    largest = _largest(expected)
    cancelled = 0.0 < terms and largest <= _ROUNDING * terms
    scale = terms if cancelled else max(largest or _ZERO_TENSOR_SCALE, _SMALLEST_SCALE)
    with np.errstate(all="ignore"):
        excess = np.abs(actual - expected) / (tolerance * (np.abs(expected) + scale))
    excess = np.where(np.isfinite(actual) & np.isfinite(expected), excess, np.inf)
    return np.where(actual == expected, 0.0, excess)


def mismatch(
    actual: Mapping[str, Array],
    expected: Mapping[str, Array],
    tolerance: float,
    skip_undefined: bool = False,
    inputs: Mapping[str, Array] | None = None,
) -> Mismatch | None:
    """The worst disagreement over every tensor of `expected`, or None when all agree.

    A cell agrees when |actual - expected| <= tolerance * (|expected| + largest finite |expected|).
    `skip_undefined` leaves out cells whose expected value is NaN: those a spec with
    empty_row = "undefined" leaves to the kernel. With `inputs`, a tensor expected to be zero but for rounding,
    as the gradient of a softmax over one key or the cross-entropy of one class is, is measured against the terms
    that cancel in it.
    Raises ShapeMismatch.
    """
    worst: Mismatch | None = None
    largest = max((_largest(np.asarray(x)) for x in (inputs or {}).values()), default=0.0)
    terms = max(largest, largest**_DEGREE)
    for name, want in expected.items():
        got = actual.get(name)
        if got is None or got.shape != want.shape:
            raise ShapeMismatch(f"{name}: expected shape {want.shape}, got {None if got is None else got.shape}")
        if want.size == 0:
            continue
        excess = _excess(got, want, tolerance, terms)
        if skip_undefined:
            excess = np.where(np.isnan(want), 0.0, excess)
        cell = tuple(int(k) for k in np.unravel_index(int(np.argmax(excess)), want.shape))
        error = float(excess[cell])
        if error > 1.0 and (worst is None or error > worst.error):
            worst = Mismatch(name, cell, float(got[cell]), float(want[cell]), error)
    return worst
