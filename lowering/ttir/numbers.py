"""Float constants of TTIR: the numbers of the candidate that round to them.

The core's numbers are exact and TTIR's are machine numbers. An f32 that a number of the candidate rounds to is that
number: how far it is off is N1's business, as of the candidate itself. `idealised` lists what is no machine number.
"""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np

from ir import program as core
from ir.program import DType

CONSTANTS = {"log2e": 1.4426950408889634, "ln2": 0.6931471805599453}


class Numbers:
    """`known`: the numbers in a candidate's text."""

    def __init__(self, known: frozenset[Fraction]) -> None:
        self.known = known
        self.idealised: set[str] = set()

    def read(self, said: str, dtype: DType) -> core.Expr:
        """A scalar of a float dtype as TTIR prints it. Raises ValueError for NaN and +inf."""
        scalar = core.Type(dtype)
        x = _bits(int(said, 16), dtype) if said.startswith("0x") else float(np.float32(said))
        if np.isinf(x) and x < 0:
            return core.Unary("neg", core.Constant("inf", scalar), scalar)
        if not np.isfinite(x):
            raise ValueError(f"the constant {said}")
        if dtype is DType.F32:
            for name, value in CONSTANTS.items():
                if x == float(np.float32(value)):
                    self.idealised.add(f"{x!r} is {name}")
                    return core.Constant(name, scalar)
            for q in self.known:
                if x == float(np.float32(float(q))) and q != Fraction(x):
                    self.idealised.add(f"{x!r} is {q}")
                    return core.Literal(q, scalar)
        return core.Literal(Fraction(x), scalar)



def _bits(bits: int, dtype: DType) -> float:
    if dtype is DType.F32:
        return float(struct.unpack("<f", struct.pack("<I", bits))[0])
    if dtype is DType.BF16:
        return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])
    return float(np.frombuffer(struct.pack("<H", bits), np.float16)[0])
