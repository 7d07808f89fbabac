"""Rounding of float64 arrays to the machine floats f32, f16 and bf16.

Round to nearest, ties to even, straight from float64 (no double rounding through f32), with gradual
underflow and overflow to infinity, as IEEE 754 defines it. Exact, because every quantum is a power
of two: scaling by it loses nothing, and `rint` is the only operation that rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ir.program import DType

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Format:
    """A binary float: `precision` bits with the hidden one; exponents of normal numbers 2^emin..2^emax."""

    precision: int
    emin: int
    emax: int

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return float((2.0 - 2.0 ** (1 - self.precision)) * 2.0**self.emax)


FORMATS = {DType.F32: Format(24, -126, 127), DType.F16: Format(11, -14, 15), DType.BF16: Format(8, -126, 127)}


def _quantum_exponent(x: Array, form: Format) -> Array:
    """The exponent of the spacing of the format's numbers around x."""
    exponent = np.frexp(x)[1]  # x = m * 2^exponent with 0.5 <= |m| < 1
    return np.maximum(exponent, form.emin + 1) - form.precision


def _by_quantum(x: Array, form: Format, to_integer: np.ufunc) -> Array:
    quantum = _quantum_exponent(x, form)
    rounded = np.ldexp(to_integer(np.ldexp(x, -quantum)), quantum)
    return np.asarray(np.where(np.abs(rounded) > form.largest, np.copysign(np.inf, rounded), rounded))


def round_to(x: Array, dtype: DType) -> Array:
    """Round float64 `x` (any shape) to the nearest value of a float dtype, as float64.

    NaN and infinities stay; values that are not of a float dtype are returned as they are.
    """
    match dtype:
        case DType.F32:
            with np.errstate(all="ignore"):  # numpy's conversion rounds correctly and is the fastest
                return np.asarray(x, dtype=np.float64).astype(np.float32).astype(np.float64)
        case DType.F16 | DType.BF16:
            with np.errstate(all="ignore"):
                return _by_quantum(np.asarray(x, dtype=np.float64), FORMATS[dtype], np.rint)
        case _:
            return x


def round_towards_zero(x: float, dtype: DType) -> float:
    """The value of a float dtype nearest to finite `x` among those not larger in magnitude."""
    form = FORMATS[dtype]
    if abs(x) >= form.largest:
        return float(np.copysign(form.largest, x))
    return float(_by_quantum(np.asarray(x, dtype=np.float64), form, np.trunc))
