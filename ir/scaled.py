"""Reals far outside float64's range: a mantissa times e to a shift.

A spec is evaluated as it is written, without the tricks kernels use, so `exp` of a logit of 1e9 must
be carried exactly enough to be summed and divided. `Scaled(m, s)` stands for m * exp(s): `exp` makes
shifts, a product adds them, a quotient subtracts them, a sum factors out the largest one among the
terms that are not zero, and `log` turns a shift back into an ordinary number. Relative accuracy is
that of float64 in the mantissa and in the shift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Below this exp needs no shift: products of a dozen such factors stay in range.
_PLAIN_EXP = 50.0


@dataclass(frozen=True, slots=True)
class Scaled:
    """mantissa * exp(shift), element by element; the two arrays broadcast; shift None is 0."""

    mantissa: Array
    shift: Array | None = None

    def plain(self) -> Array:
        """As float64: infinite where too large."""
        if self.shift is None:
            return self.mantissa
        direct = np.asarray(self.mantissa * np.exp(self.shift))
        by_log = np.sign(self.mantissa) * np.exp(np.log(np.abs(self.mantissa)) + self.shift)
        kept = np.isfinite(direct) & (direct != 0.0)
        return np.where(kept, direct, np.where(self.mantissa == 0.0, 0.0, by_log))

    def map(self, function: Callable[[Array], Array]) -> Scaled:
        """Apply a change of shape (indexing, broadcasting) to both parts."""
        if self.shift is None:
            return Scaled(function(self.mantissa))
        mantissa, shift = np.broadcast_arrays(self.mantissa, self.shift)
        return Scaled(function(mantissa), function(shift))


def real(value: Any) -> Scaled:
    """An ordinary number or array."""
    return Scaled(np.asarray(value, dtype=np.float64))


def _key(x: Scaled) -> Array:
    """The shift, or -inf where the value is zero and its shift says nothing."""
    shift = np.zeros(()) if x.shift is None else x.shift
    zero = x.mantissa == 0.0
    return np.where(zero, -np.inf, shift) if zero.any() else np.asarray(shift)


def _rescaled(mantissa: Array, key: Array, shift: Array) -> Array:
    """The mantissa of the same value at another shift, not smaller than key."""
    scaled = mantissa * np.exp(key - shift)
    infinite = np.isinf(mantissa)
    return np.where(infinite, mantissa, scaled) if infinite.any() else np.asarray(scaled)


def _aligned(a: Scaled, b: Scaled) -> tuple[Array, Array, Array | None]:
    """Both mantissas at one common shift."""
    if a.shift is None and b.shift is None:
        return a.mantissa, b.mantissa, None
    key_a, key_b = _key(a), _key(b)
    shift = np.maximum(key_a, key_b)
    shift = np.where(np.isfinite(shift), shift, 0.0)
    return _rescaled(a.mantissa, key_a, shift), _rescaled(b.mantissa, key_b, shift), shift


def add(a: Scaled, b: Scaled) -> Scaled:
    x, y, shift = _aligned(a, b)
    return Scaled(np.asarray(x + y), shift)


def negative(a: Scaled) -> Scaled:
    return Scaled(-a.mantissa, a.shift)


def multiply(a: Scaled, b: Scaled) -> Scaled:
    if a.shift is None or b.shift is None:
        shift = b.shift if a.shift is None else a.shift
    else:
        shift = a.shift + b.shift
    return Scaled(np.asarray(a.mantissa * b.mantissa), shift)


def divide(a: Scaled, b: Scaled, zero_denominator: bool) -> Scaled:
    """a / b; with `zero_denominator` a quotient by 0 is 0."""
    mantissa = np.asarray(a.mantissa / b.mantissa)
    if zero_denominator:
        mantissa = np.where(b.mantissa == 0.0, 0.0, mantissa)
    shift = a.shift if b.shift is None else (-b.shift if a.shift is None else a.shift - b.shift)
    return Scaled(mantissa, shift)


def exp(a: Scaled) -> Scaled:
    x = a.plain()
    finite = np.isfinite(x)
    if (np.abs(x[finite]) <= _PLAIN_EXP).all():
        return Scaled(np.exp(x))
    return Scaled(np.where(finite, 1.0, np.exp(x)), np.where(finite, x, 0.0))


def log(a: Scaled, log_of_zero: float) -> Scaled:
    """Natural logarithm; of 0 `log_of_zero`, of a negative number NaN."""
    shift = 0.0 if a.shift is None else a.shift
    return Scaled(np.where(a.mantissa == 0.0, log_of_zero, np.log(a.mantissa) + shift))


def square_root(a: Scaled) -> Scaled:
    return Scaled(np.sqrt(a.mantissa), None if a.shift is None else a.shift / 2.0)


def absolute(a: Scaled) -> Scaled:
    return Scaled(np.abs(a.mantissa), a.shift)


def compare(operator: Callable[[Any, Any], Any], a: Scaled, b: Scaled) -> Array:
    x, y, _ = _aligned(a, b)
    return np.asarray(operator(x, y))


def select(condition: Array, a: Scaled, b: Scaled) -> Scaled:
    mantissa = np.where(condition, a.mantissa, b.mantissa)
    if a.shift is None and b.shift is None:
        return Scaled(mantissa)
    zero = np.zeros(())
    return Scaled(
        mantissa,
        np.where(condition, zero if a.shift is None else a.shift, zero if b.shift is None else b.shift),
    )


def total(a: Scaled) -> Scaled:
    """Sum over the leading axis, which both parts must have."""
    if a.shift is None:
        return Scaled(np.sum(a.mantissa, axis=0))
    key = _key(a)
    top = np.max(key, axis=0, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    return Scaled(np.sum(_rescaled(a.mantissa, key, top), axis=0), top)


def largest(a: Scaled) -> Scaled:
    """Maximum over the leading axis, -inf over an empty one.

    Values are ranked by sign first and magnitude second, as aligning them could lose a small one.
    """
    if a.shift is None or a.mantissa.shape[0] == 0:
        return Scaled(np.max(a.mantissa, axis=0, initial=-np.inf))
    magnitude = np.log(np.abs(a.mantissa)) + a.shift
    sign = np.sign(a.mantissa)
    best_sign = np.max(sign, axis=0, keepdims=True)
    rank = np.where(sign == best_sign, np.where(best_sign < 0, -magnitude, magnitude), -np.inf)
    rank = np.where((sign == best_sign) & (sign == 0), 0.0, rank)
    at = np.argmax(rank, axis=0)[None]
    return Scaled(np.take_along_axis(a.mantissa, at, axis=0)[0], np.take_along_axis(a.shift, at, axis=0)[0])
