"""How far rounding can move the argument of an exponential that is not subtracted from what it was computed as.

A forward error analysis to first order (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3), over the
typed program with the magnitudes of a walk that knows nothing of exponentials: the error of a sum is that of its
terms and one rounding, of a product each factor's times the other's magnitude. Where a value is lost to cancellation,
as in (s + 1e30) - 1e30, its term has forgotten that and the program has not.
"""

from __future__ import annotations

import math

from ir import program as core
from ir.dtypes import SIGNIFICAND
from verifier.accumulators import Magnitudes
from verifier.magnitude import times
from verifier.recipes import Recipes

SECOND_ORDER = 1.01
FUNCTION = 16.0  # roundings that a function is worth
Names = tuple[tuple[str, str], ...]


class ArgumentErrors:
    """`of(kernel, e)`: a bound of |computed - exact| for a float of that kernel; inf where there is none."""

    def __init__(self, recipes: Recipes, walk: Magnitudes) -> None:
        self.recipes = recipes
        self.walk = walk
        self.known: dict[tuple[str, int, Names, int], float] = {}

    def of(self, kernel: str, e: core.Expr, names: Names = (), barred: int = 0) -> float:
        """`names`: the carried ones being looked up; the first `barred` of them were met below a sum or product."""
        key = kernel, id(e), names, barred
        if key not in self.known:
            self.known[key] = SECOND_ORDER * self._bound(kernel, e, names, barred)
        return self.known[key]

    def size(self, e: core.Expr) -> float:
        """The largest |x| this float can be."""
        return self.walk.largest.get(id(e), math.inf)

    def _bound(self, kernel: str, e: core.Expr, names: Names, barred: int) -> float:
        def inner(x: core.Expr) -> float:
            return self.of(kernel, x, names, barred)

        match e:
            case core.Var(name=name):
                return self._named(kernel, name, names, barred)
            case core.Load(tensor=tensor):
                written = self.recipes.stored.get(tensor, [])
                return max((math.inf if s.atomic else self.of(k, s.value) for k, s in written), default=0.0)
            case core.Select(then=a, otherwise=b) | core.Binary(op="max" | "min", left=a, right=b):
                return max(inner(a), inner(b))
            case core.Broadcast(operand=x) | core.Expand(operand=x) | core.Transpose(operand=x):
                return inner(x)
            case core.Reduce(op="max" | "min", operand=x) | core.Unary(op="neg" | "abs", operand=x):
                return inner(x)
            case core.Cast(operand=x) if x.type.dtype.is_float:
                rounds = SIGNIFICAND[x.type.dtype] > SIGNIFICAND[e.type.dtype]
                return inner(x) + (self._rounded(e) if rounds else 0.0)
            case core.Param() | core.Random():
                return 0.0  # f32 numbers as they are
            case core.Cast() if self.size(e) <= 2.0 ** SIGNIFICAND[e.type.dtype]:
                return 0.0  # an integer that the float holds
            case core.Literal() | core.Constant() | core.Cast():
                return self._rounded(e)
            case core.Unary(op="log" | "log2"):
                return FUNCTION * self._rounded(e)
            case _:
                return self._computed(kernel, e, names)

    def _named(self, kernel: str, name: str, names: Names, barred: int) -> float:
        values = self.recipes.values[kernel].get(name, [])
        if (kernel, name) in names:  # carried: no new error by choices alone, no bound if computed from itself
            return math.inf if names.index((kernel, name)) < barred else 0.0
        inside = (*names, (kernel, name)) if len(values) > 1 else names
        return max((self.of(kernel, v, inside, barred) for v in values), default=math.inf)

    def _rounded(self, e: core.Expr) -> float:
        return 2.0 ** -SIGNIFICAND[e.type.dtype] * self.size(e)

    def _computed(self, kernel: str, e: core.Expr, names: Names) -> float:
        def inner(x: core.Expr) -> float:
            return self.of(kernel, x, names, len(names))

        match e:
            case core.Binary(op="add" | "sub", left=a, right=b):
                return inner(a) + inner(b) + self._rounded(e)
            case core.Binary(op="mul", left=a, right=b) if (x := self._capped(kernel, a, b)) is not None:
                return inner(x) + FUNCTION * self._rounded(e)
            case core.Binary(op="mul", left=a, right=b):
                return times(inner(a), self.size(b)) + times(inner(b), self.size(a)) + self._rounded(e)
            case core.Binary(op="div", left=a, right=b) if inner(b) <= self._rounded(b):
                low = self.walk.proof.floors.operand(kernel, e.span)
                return (inner(a) / low if low > 0.0 else math.inf) + FUNCTION * self._rounded(e)
            case core.Reduce(op="sum", operand=x):
                n = x.type.shape[e.axis]
                return n * (inner(x) + n * 2.0 ** -SIGNIFICAND[e.type.dtype] * self.size(x))
            case core.Dot(left=a, right=b, acc=None):
                n = a.type.shape[1]
                moved = times(inner(a), self.size(b)) + times(inner(b), self.size(a))
                return n * (moved + n * 2.0 ** -SIGNIFICAND[e.type.dtype] * times(self.size(a), self.size(b)))
            case core.Unary(op="tanh" | "sigmoid", operand=x):
                return inner(x) + FUNCTION * self._rounded(e)
            case _:
                return math.inf

    def _capped(self, kernel: str, a: core.Expr, b: core.Expr) -> core.Expr | None:
        """The x of c tanh(x / c), which moves by no more than x does."""
        meant = self.recipes.meant
        for c, other in ((meant(kernel, a), meant(kernel, b)), (meant(kernel, b), meant(kernel, a))):
            if isinstance(other, core.Unary) and other.op == "tanh" and isinstance(c, core.Param | core.Literal):
                share = meant(kernel, other.operand)
                if isinstance(share, core.Binary) and share.op == "div" and meant(kernel, share.right) == c:
                    return share.left
        return None
