"""random(seed, counter): a uniform number in [0, 1) that anyone can compute again, cell by cell.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) of
the counter block (low word of `counter`, high word of `counter`, 0, 0) under the key (low word, high
word of `seed`). The first of the four result words, read as a signed number w, gives

    x = w if w >= 0 else -w - 1            31 bits, 0 <= x < 2^31
    random = f32(x) * (2^-31 - 2^-55)      one f32 conversion and one f32 product, to nearest even

which is at most 1 - 2^-24. Seed and counter are any integers, taken modulo 2^64. This is bit for bit what
`tl.rand(seed, counter)` of Triton 3.6 and 3.7 computes for a 64-bit counter. It is the definition that the
spec evaluator, the interpreter and the CPU executor share; the emitted Triton is compared with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
SCALE = np.float32(2.0**-31 - 2.0**-55)
_WORD = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Philox4x32-10: the four result words of a counter block under a key; words are kept in uint64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c2 = (second >> _HALF) ^ c1 ^ k0, (first >> _HALF) ^ c3 ^ k1
        c1, c3 = second & _WORD, first & _WORD
        k0, k1 = (k0 + np.uint64(KEY_STEPS[0])) & _WORD, (k1 + np.uint64(KEY_STEPS[1])) & _WORD
    return c0, c1, c2, c3


def random(seed: Any, counter: Any) -> Array:
    """Uniform float32 numbers; seed and counter are integers or arrays of integers that broadcast."""
    key, block = _modulo(seed), _modulo(counter)
    zero = np.zeros_like(block)
    word = philox((block & _WORD, block >> _HALF, zero, zero), (key & _WORD, key >> _HALF))[0]
    x = np.where(word < np.uint64(2**31), word, _WORD - word)
    return np.asarray(x.astype(np.float32) * SCALE)


def _modulo(counter: Any) -> Array:
    """Integers of any kind modulo 2^64, as uint64."""
    if isinstance(counter, int):
        return np.asarray(counter % 2**64, dtype=np.uint64)
    if counter.dtype == object:
        return np.asarray(counter % 2**64).astype(np.uint64)
    return np.asarray(counter, dtype=np.int64).view(np.uint64)
