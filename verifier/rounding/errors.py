"""How an error passes through each operation.

x is the exact value, X the computed one. An `Error` says, where x is finite (X is -inf exactly where x is):

    |X - x| <= (exp(relative) - 1) C + absolute,    |x| <= C <= magnitude,

where C is the value of `companion`, an expression of exact arithmetic: x with each term replaced by its absolute
value, or by a bound. With `own`, C = |x| and the first part is two-sided: X lies between x exp(-relative) and
x exp(relative), up to `absolute`. With `positive` also x >= 0, C = x, and X = 0 where x = 0.

Logarithms of ratios add up, which is why they are kept: a product of two has the sum, a rounding of `unit` adds
-log(1 - unit), a sum of terms has the largest (Higham, chapter 3, with gamma_n <= exp(n u') - 1). `shift` bounds how
far x itself, which may hang on arbitrary pivots in place of maxima, is from its value with true maxima; `before` is
the error before the last rounding, and that rounding: exp rounds no argument it can see by more than a fixed amount.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ir import error_formula as f
from ir import float_model as model
from ir import program as core
from ir.error_formula import INFINITE, ZERO, Formula
from ir.program import DType

ABSORBED = 2.0**-8


class Unbounded(Exception):
    """No bound follows for this value; the message says why."""


@dataclass(frozen=True, slots=True)
class Error:
    relative: Formula
    absolute: Formula
    magnitude: Formula
    companion: core.Expr
    own: bool = False
    positive: bool = False
    shift: Formula = ZERO
    before: tuple[Formula, float] | None = None
    sizeable: bool = False  # `absolute` is more than what underflow leaves
    proviso: str = ""  # holds only if the operand of the operation that uses it keeps away from 0

    @property
    def exact(self) -> bool:
        return self.relative is ZERO and self.absolute is ZERO

    @property
    def total(self) -> Formula:
        """A bound of |X - x| alone."""
        return f.add(f.mul(f.expm1(self.relative), self.magnitude), self.absolute)

    @property
    def largest(self) -> Formula:
        """A bound of |X|."""
        return f.add(f.mul(f.exp(self.relative), self.magnitude), self.absolute)


def exactly(magnitude: Formula, companion: core.Expr, positive: bool = False, shift: Formula = ZERO) -> Error:
    return Error(ZERO, ZERO, magnitude, companion, own=True, positive=positive, shift=shift)


def within(absolute: Formula, magnitude: Formula, companion: core.Expr, shift: Formula = INFINITE) -> Error:
    """|X - x| <= absolute, and no more is said."""
    return Error(ZERO, absolute, magnitude, companion, shift=shift, sizeable=True)


def rounded(e: Error, unit: float, dtype: DType, times: int = 1) -> Error:
    """`times` roundings of relative size `unit`, one after the other; each may flush to zero."""
    if unit == 0.0:
        return e
    relative = f.add(e.relative, f.number(times * model.grown(unit)))
    tiny = f.number(times * model.TINY[dtype])
    grown = f.exp(f.number(times * model.grown(unit)))
    absolute = f.mul(grown, f.add(e.absolute, tiny))
    return replace(e, relative=relative, absolute=absolute, before=(e.total, times * model.grown(unit)))


def sum_of(a: Error, b: Error, companion: core.Expr) -> Error:
    positive = a.positive and b.positive
    return Error(
        f.maximum(a.relative, b.relative), f.add(a.absolute, b.absolute), f.add(a.magnitude, b.magnitude), companion,
        positive, positive, f.add(a.shift, b.shift), sizeable=a.sizeable or b.sizeable,
    )  # fmt: skip


def difference(a: Error, b: Error, companion: core.Expr) -> Error:
    """Of two exact numbers the difference is wrong by its own rounding only: C is |x| and no sum of two."""
    if a.exact and b.exact:
        return exactly(f.add(a.magnitude, b.magnitude), companion, shift=f.add(a.shift, b.shift))
    return replace(sum_of(a, b, companion), own=False, positive=False)


def product(a: Error, b: Error, companion: core.Expr, square: bool = False) -> Error:
    """With X = x~ + r, |x~ - x| <= (exp(relative) - 1) C and |r| <= absolute, XY - x~y~ is at most |r| |Y| + |x~| |s|:
    what is left of X and Y."""
    own = a.own and b.own
    positive = a.positive and b.positive or square and a.exact
    first = f.mul(a.absolute, b.largest)
    second = f.mul(f.exp(a.relative), a.magnitude, b.absolute)
    return Error(
        f.add(a.relative, b.relative), f.add(first, second), f.mul(a.magnitude, b.magnitude), companion,
        own or positive, positive, _scaled_shift(a, b), sizeable=a.sizeable or b.sizeable,
    )  # fmt: skip


def _scaled_shift(a: Error, b: Error) -> Formula:
    """A product is shifted by what is shifted, times the other."""
    if a.shift is ZERO:
        return f.mul(b.shift, a.magnitude) if b.shift is not INFINITE else INFINITE
    return f.mul(a.shift, b.magnitude) if b.shift is ZERO and a.shift is not INFINITE else INFINITE


def absorbed(e: Error, bound: core.Expr) -> Error:
    """`absolute` made a part of the companion: with r = 2^-8 it is (exp(log(1 + r)) - 1) absolute / r. Of what a
    weight will multiply that says more: weights add up to 1, and their number times `absolute` is left out. `bound`
    is an expression of absolute / r, of the companion's type."""
    relative = f.maximum(e.relative, f.number(math.log1p(ABSORBED)))
    companion = core.Binary("add", e.companion, bound, e.companion.type)
    size = f.add(e.magnitude, f.mul(f.number(1.0 / ABSORBED), e.absolute))
    return Error(relative, ZERO, size, companion, shift=e.shift)


def total(e: Error, terms: Formula, companion: core.Expr, unit: float, dtype: DType) -> Error:
    """A sum of `terms` terms in any order: none takes part in more than terms - 1 additions."""
    growth = f.mul(terms, f.number(model.grown(unit)))
    tiny = f.add(e.absolute, f.number(model.TINY[dtype]))
    return Error(
        f.add(e.relative, growth), f.mul(terms, tiny, f.exp(growth)), f.mul(terms, e.magnitude), companion,
        e.positive, e.positive, INFINITE if e.shift is not ZERO else ZERO, sizeable=e.sizeable,
    )  # fmt: skip


def either(a: Error, b: Error, companion: core.Expr) -> Error:
    """One of the two, by a choice that floats and reals make alike."""
    return Error(
        f.maximum(a.relative, b.relative), f.maximum(a.absolute, b.absolute), f.maximum(a.magnitude, b.magnitude),
        companion, a.own and b.own, a.positive and b.positive, f.maximum(a.shift, b.shift),
        sizeable=a.sizeable or b.sizeable,
    )  # fmt: skip


def away_from_zero(e: Error, floor: Formula, what: str) -> Formula:
    """The error of log x for a positive x >= floor: its logarithm-ratio, with the absolute part made relative."""
    if e.positive:
        slipped = f.mul(f.exp(e.relative), e.absolute)
        return f.add(e.relative, f.lost(slipped, floor))
    if floor is ZERO:
        raise Unbounded(f"{what} is not known to keep away from 0")
    return f.lost(e.total, floor)


def quotient(a: Error, below: Formula, floor: Formula, companion: core.Expr, shift: Formula) -> Error:
    """a over a divisor of logarithm-ratio `below` that is >= floor."""
    over = Error(below, ZERO, f.ONE, companion, own=True, positive=True)
    absolute = f.mul(a.absolute, f.exp(over.relative), f.divide(f.ONE, floor)) if a.absolute is not ZERO else ZERO
    magnitude = f.mul(a.magnitude, f.divide(f.ONE, floor))
    relative = f.add(a.relative, below)
    return Error(relative, absolute, magnitude, companion, a.own, a.positive, shift, sizeable=a.sizeable)
