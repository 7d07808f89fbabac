"""By how much one value can be larger than another, as floats have them.

A maximum of floats is one of them, so `x <= max(x, y)` holds of what is computed, whatever error it has. A lazy
maximum is above what it left behind, and below what it did not move to by no more than its slack, but for the error
of its comparison. `gap` reads that off the program for the argument of an exponential: for `s - m` with m a maximum
that s is a member of, lane by lane, the exact argument is above 0 by no more than the errors of s and m.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ir import error_formula as f
from ir import float_model as model
from ir import program as core
from ir.error_formula import ZERO, Formula
from verifier.places import ANY, Definitions, Lanes, Lazy, Place, factors, is_minus_infinity, lanes_of, same, unfolded
from verifier.rounding.errors import Error


@dataclass(frozen=True, slots=True)
class Order:
    """`named`: what names hold; `error`: of an expression; `lazy`: the lazy maxima, by `id`."""

    named: Definitions
    error: Callable[[core.Expr], Error]
    lazy: Mapping[int, Lazy]

    def gap(self, e: core.Expr) -> Formula | None:
        """A bound of the exact value of e from above, None where it is not a difference from a maximum."""
        return self._gap(e, lanes_of(e))

    def slack(self, x: Lazy) -> tuple[Formula, Formula] | None:
        """(c, g): as computed, x.value >= x.kept - g where it moved, and x.value <= x.kept + c + g where it did not.
        The comparison is off by the errors of its sides from what they say of the exact numbers, and those from the
        computed ones."""
        by = None if x.slack is None else self.error(x.slack)
        if by is not None and not by.positive:
            return None
        sides = (x.comparison.left, x.comparison.right, x.value, x.kept)
        return ZERO if by is None else by.magnitude, f.add(*(self.error(side).total for side in sides))

    def _gap(self, e: core.Expr, lanes: Lanes) -> Formula | None:
        e, lanes = unfolded(e, lanes, self.named)
        match e:
            case core.Select(then=then, otherwise=otherwise):
                if is_minus_infinity(otherwise):
                    return self._gap(then, lanes)
            case core.Binary(op="sub", left=left, right=right):
                above = self._excess((left, lanes), (right, lanes))
                if above is not None:
                    return f.add(self.error(left).total, self.error(right).total, above)
                for x, y, factor in self._common((left, lanes), (right, lanes)):
                    above = self._excess(x, y)
                    if above is not None:
                        errors = self.error(x[0]).total, self.error(y[0]).total
                        return f.mul(f.add(*errors, above), self.error(factor).magnitude)
            case core.Binary(op="mul"):
                for a, b in factors(e, lanes, self.named):
                    inner = self._gap(*a)
                    if inner is not None and self.error(b[0]).positive:
                        return f.mul(inner, self.error(b[0]).magnitude)
        return None

    def _common(self, left: Place, right: Place) -> list[tuple[Place, Place, core.Expr]]:
        """x, y and b of two products x b and y b with one positive factor b."""
        pairs = ((p, q) for p in factors(*left, self.named) for q in factors(*right, self.named))
        return [(x, y, b[0]) for (x, b), (y, d) in pairs if same(b, d, self.named) and self.error(b[0]).positive]

    def _excess(self, x: Place, upper: Place) -> Formula | None:
        """A bound of X - U, as computed, wherever both are finite; None where nothing is known."""
        if same(upper, x, self.named):
            return ZERO
        e, at = unfolded(*upper, self.named)
        match e:
            case core.Binary(op="max"):
                return _least(self._excess(x, (side, at)) for side in (e.left, e.right))
            case core.Reduce(op="max"):
                return self._excess(x, (e.operand, (*at[: e.axis], ANY, *at[e.axis :])))
            case core.Select() if id(e) in self.lazy:
                return self._behind(x, self.lazy[id(e)], at)
            case core.Select(condition=condition, otherwise=otherwise):
                # where(m == -inf, 0, m): where it is -inf, so is everything it is above
                return self._excess(x, (otherwise, at)) if self._is_infinite(condition, otherwise) else None
            case core.Binary(op="mul"):
                return _least(self._scaled(a, b, c, x, e) for a, b, c in self._common(x, (e, at)))
            case _:
                return None

    def _behind(self, x: Place, lazy: Lazy, at: Lanes) -> Formula | None:
        """X over a lazy maximum: over what it moved to, directly or over what that is above; and over what it kept."""
        found = self.slack(lazy)
        if found is None:
            return None
        c, wrong = found
        moved, kept = self._excess(x, (lazy.value, at)), self._excess(x, (lazy.kept, at))
        there = _least((moved, None if kept is None else f.add(kept, wrong)))
        here = _least((kept, None if moved is None else f.add(moved, c, wrong)))
        return None if there is None or here is None else f.maximum(there, here)

    def _scaled(self, a: Place, b: Place, factor: core.Expr, x: Place, upper: core.Expr) -> Formula | None:
        """fl(a c) - fl(b c) for one c >= 0: each product is rounded once."""
        inner = self._excess(a, b)
        if inner is None:
            return None
        dtype = upper.type.dtype
        sizes = f.add(self.error(x[0]).largest, self.error(upper).largest)
        rounding = f.mul(f.expm1(f.number(2.0 * model.grown(model.UNIT[dtype]))), sizes)
        return f.add(f.mul(inner, self.error(factor).largest), rounding, f.number(4.0 * model.TINY[dtype]))

    def _is_infinite(self, condition: core.Expr, value: core.Expr) -> bool:
        """Whether the condition asks of this very value, lane by lane, whether it is -inf."""
        rank = lanes_of(value)
        e, at = unfolded(condition, rank, self.named)
        if not isinstance(e, core.Binary) or e.op != "eq":
            return False
        sides = ((e.left, e.right), (e.right, e.left))
        return any(is_minus_infinity(y) and same((x, at), (value, rank), self.named) for x, y in sides)


def _least(bounds: Iterable[Formula | None]) -> Formula | None:
    known = [b for b in bounds if b is not None]
    return f.minimum(*known) if known else None
