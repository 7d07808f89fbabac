"""What a machine operation may do to its exact result: the assumption that every rounding bound stands on.

computed = exact (1 + d) + t with |d| <= `unit` and |t| <= `tiny`, as Higham, Accuracy and Stability of Numerical
Algorithms, chapter 2, extended by underflow. Where hardware may or may not round (a product and a sum made one by
fused multiply-add) both are covered, as d may be 0. IEEE 754 fixes +, -, * and conversions of floats; a matrix
product on tensor cores is a sum of exact products in some order, each term aligned to the largest one and cut off
there, at most 2^-22 a term (Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor cores, 2021, find
half of that); exponentials, logarithms, quotients and roots are taken twice as wrong as the vendors say.
"""

from __future__ import annotations

import math

from ir.program import DType

UNIT = {DType.F32: 2.0**-24, DType.BF16: 2.0**-8, DType.F16: 2.0**-11}
# Below the smallest normal number f32 and bf16 may be flushed to 0; a conversion to f16 keeps subnormal numbers.
TINY = {DType.F32: 2.0**-126, DType.BF16: 2.0**-126, DType.F16: 2.0**-25}
DOT = 2.0**-22  # one term of a matrix product, accumulated in f32
EXP = 2.0**-21  # exp2, relative
SCALED = 2.0**-22  # exp(x) is computed as exp2 of the product of x and log2(e): relative to x
LOG = 2.0**-21  # relative to the logarithm, and once more absolute
DIVIDE = ROOT = 2.0**-21
TANH = 2.0**-20  # tanh and sigmoid, absolute: both are at most 1
CONSTANT = 2.0**-24  # log2(e), ln 2, a literal that is no machine number
VISIBLE = 104.0  # exp of anything below minus this is less than half the smallest subnormal f32


def grown(unit: float) -> float:
    """-log(1 - unit): what one rounding adds to the logarithm of a ratio, upwards or downwards."""
    return -math.log1p(-unit) * (1.0 + 1e-12)


def representable(value: float, dtype: DType) -> bool:
    """Whether a number has no more digits than the dtype keeps."""
    mantissa, _ = math.frexp(value)
    bits = {DType.F32: 24, DType.BF16: 8, DType.F16: 11}[dtype]
    return (mantissa * 2.0**bits).is_integer()


def stated() -> dict[str, object]:
    """The model as a certificate states it."""
    floats = {d.value: {"unit": UNIT[d], "tiny": TINY[d]} for d in UNIT}
    return {
        "rule": "computed = exact (1 + d) + t, |d| <= unit, |t| <= tiny; docs/rounding.md",
        "floats": floats,
        "a term of a matrix product, each time it is added to": DOT,
        "exp and exp2, relative": EXP,
        "the argument of exp, relative": SCALED,
        "log, relative to its value and once more absolute": LOG,
        "division and square root, relative": DIVIDE,
        "tanh and sigmoid, absolute": TANH,
        "log2e, ln2 and other constants, relative": CONSTANT,
    }
