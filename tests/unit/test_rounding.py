"""Machine floats: NumPy is the judge for f16 and f32, integer bit tricks for bf16."""

from __future__ import annotations

import numpy as np
import pytest

from ir.program import DType
from ir.rounding import FORMATS, round_to, round_towards_zero

BF16, F16, F32 = DType.BF16, DType.F16, DType.F32
RNG = np.random.default_rng(0)

# All magnitudes, the edges of every format, ties, and the special values.
SAMPLES = np.concatenate(
    [
        RNG.standard_normal(20_000) * 2.0 ** RNG.integers(-160, 140, 20_000),
        RNG.integers(-(2**26), 2**26, 20_000) * 2.0 ** RNG.integers(-170, 110, 20_000),
        [0.0, -0.0, np.inf, -np.inf, 65504.0, 65519.99, 65520.0, -65520.0, 2.0**-24, 2.0**-25, 2.0**-149, 2.0**-150],
        [form.largest for form in FORMATS.values()],
        [form.largest * (1 + 2.0 ** -(form.precision + 1)) for form in FORMATS.values()],
    ]
)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b) and np.array_equal(np.signbit(a), np.signbit(b)))


def bf16_by_bits(x: np.ndarray) -> np.ndarray:
    """Round f32 values to bf16: keep the upper 16 bits, nearest, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [(F16, np.float16), (F32, np.float32)])
def test_agrees_with_numpy(dtype: DType, numpy_dtype: type) -> None:
    with np.errstate(over="ignore", under="ignore"):
        expected = SAMPLES.astype(numpy_dtype).astype(np.float64)
    assert same(round_to(SAMPLES, dtype), expected)


def test_bf16_agrees_with_bits() -> None:
    with np.errstate(over="ignore", under="ignore"):
        f32 = SAMPLES.astype(np.float32).astype(np.float64)
    assert same(round_to(f32, BF16), bf16_by_bits(f32))


def test_bf16_is_rounded_once() -> None:
    just_above_a_tie = 1.0 + 2.0**-8 + 2.0**-40  # rounding to f32 first would make it a tie, and round it down
    assert round_to(np.array(just_above_a_tie), BF16) == 1.0 + 2.0**-7


@pytest.mark.parametrize(
    ("dtype", "x", "rounded"),
    [
        (BF16, 256.5, 256.0),  # the spacing here is 2
        (BF16, 257.0, 256.0),  # a tie goes to the even neighbour
        (BF16, 259.0, 260.0),
        (BF16, 3.395e38, FORMATS[BF16].largest),
        (BF16, 3.397e38, np.inf),
        (BF16, 2.0**-133, 2.0**-133),  # the smallest subnormal
        (BF16, 2.0**-134, 0.0),
        (F16, 65519.0, 65504.0),
        (F16, -65520.0, -np.inf),
    ],
)
def test_examples(dtype: DType, x: float, rounded: float) -> None:
    assert round_to(np.array([x]), dtype)[0] == rounded


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
def test_nan_stays_and_rounding_again_changes_nothing(dtype: DType) -> None:
    assert np.isnan(round_to(np.array([np.nan]), dtype)[0])
    once = round_to(SAMPLES, dtype)
    assert same(round_to(once, dtype), once)


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
def test_towards_zero_is_representable_and_next_to_x(dtype: DType) -> None:
    for x in (1e4, -1e4, 0.1, 1e30, -1e39, 9999.9):
        y = round_towards_zero(x, dtype)
        assert abs(y) <= abs(x)
        assert round_to(np.array(y), dtype) == y
        assert abs(y) == FORMATS[dtype].largest or abs(x - y) < abs(x) * 2.0 ** (1 - FORMATS[dtype].precision)


def test_integers_are_left_alone() -> None:
    x = np.arange(3)
    assert round_to(x, DType.INT) is x
