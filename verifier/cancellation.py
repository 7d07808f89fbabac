"""Whether a bound of a term bounds the float as well: nothing that cancels in the term may be large on the way.

`(x * 1e10 + b * 1e25 - b * 1e25) * 1e-10` is x, and in floats anything. So a value is bounded by its term (S1, what is
cast to f16) only if it is made by sums, products and choices of which no term is taken from another: no difference, no
negation, no factor that may be negative but inputs. A bound of a term is one of the absolute values of its terms, and
with their signs from inputs alone these are the floats' too, up to rounding.

One difference is allowed: a factor next to 1 / sqrt(A) where A sums the square of this very float (`verifier.recipes`),
as of x - mean in layer norm. Whatever rounding made of it, it is divided by at least its own size over the root of what
the sum was divided by, and that is what the bound of the term says.
"""

from __future__ import annotations

from ir import program as core
from ir.ast import Span
from verifier.recipes import Recipes
from verifier.stored import expressions, shape_aside

Part = tuple[core.Expr, bool]  # a factor, and whether it stands above the line


class Cancellation:
    def __init__(self, recipes: Recipes) -> None:
        self.recipes = recipes

    def none_at(self, kernel: str, span: Span) -> bool:
        """Whether nothing cancels in what is cast at this place."""
        body = self.recipes.kernels[kernel].body
        casts = [e for e in expressions(body) if isinstance(e, core.Cast) and e.span == span]
        return bool(casts) and all(self._none(kernel, e.operand) for e in casts)

    def _none(self, kernel: str, e: core.Expr) -> bool:
        e = self.recipes.meant(kernel, e)
        if not self._takes_away(kernel, e):
            return True
        match e:
            case core.Cast(operand=x) if x.type.dtype.is_float:
                return self._none(kernel, x)
            case core.Select(then=a, otherwise=b) | core.Binary(op="add", left=a, right=b):
                return self._none(kernel, a) and self._none(kernel, b)
            case core.Binary(op="mul" | "div"):
                return self._normed(kernel, self._factors(kernel, e, True))
            case _:
                return False

    def _takes_away(self, kernel: str, e: core.Expr) -> bool:
        """Whether anything is subtracted or negative in what e is made of, arguments of functions aside."""
        return any(self._away(at, x) for at, x in self.recipes.made_of([(kernel, e)]))

    def _away(self, kernel: str, e: core.Expr) -> bool:
        match e:
            case core.Binary(op="sub"):
                return not self.recipes.constant(kernel, e)
            case core.Unary(op="neg", operand=x):
                return not isinstance(shape_aside(x), core.Constant)
            case core.Literal(value=value):
                return value < 0
            case core.Param(name=name):
                return name not in self.recipes.limits or self.recipes.limits[name][0] < 0.0
            case core.Cast(operand=x) if x.type.dtype.is_int:
                return not isinstance(shape_aside(x), core.Size)  # others are of any sign
            case _:
                return False

    def _factors(self, kernel: str, e: core.Expr, above: bool) -> list[Part]:
        e = self.recipes.meant(kernel, e)
        match e:
            case core.Binary(op="mul", left=a, right=b):
                return self._factors(kernel, a, above) + self._factors(kernel, b, above)
            case core.Binary(op="div", left=a, right=b):
                return self._factors(kernel, a, above) + self._factors(kernel, b, not above)
            case _:
                return [(e, above)]

    def _normed(self, kernel: str, parts: list[Part]) -> bool:
        roots = [x for x, above in parts if not above and isinstance(x, core.Unary) and x.op == "sqrt"]
        away = [(x, above) for x, above in parts if self._takes_away(kernel, x)]
        if len(away) != 1 or not away[0][1]:
            return False
        difference = self._difference(kernel, away[0][0])
        return difference is not None and any(self._own(kernel, difference, root) for root in roots)

    def _difference(self, kernel: str, e: core.Expr) -> core.Expr | None:
        """A difference of values in which nothing cancels, or a choice between one and a literal."""
        e = self.recipes.meant(kernel, e)
        match e:
            case core.Binary(op="sub", left=a, right=b) if self._none(kernel, a) and self._none(kernel, b):
                return e
            case core.Select(then=a, otherwise=b):
                other = [x for x in (a, b) if not isinstance(shape_aside(x), core.Literal)]
                return self._difference(kernel, other[0]) if len(other) == 1 else None
            case _:
                return None

    def _own(self, kernel: str, difference: core.Expr, root: core.Unary) -> bool:
        """Whether the square of the difference, the same float, is among what the root is taken of."""
        return any(
            at == kernel and isinstance(x, core.Binary) and x.op == "mul" and x.left == x.right
            and self._same(kernel, difference, x.left)
            for at, x in self.recipes.made_of([(kernel, root.operand)])
        )  # fmt: skip

    def _same(self, kernel: str, difference: core.Expr, e: core.Expr) -> bool:
        """Whether both are one float where they are one term: of numbers of an input as they are, less what one name
        stands for."""
        other = self._difference(kernel, e)
        if not isinstance(difference, core.Binary) or not isinstance(other, core.Binary):
            return False
        taken = shape_aside(difference.right)
        named = isinstance(taken, core.Var) and len(self.recipes.values[kernel].get(taken.name, ())) == 1
        cells = self.recipes.cell(kernel, difference.left) and self.recipes.cell(kernel, other.left)
        return difference is other or cells and named and shape_aside(other.right) == taken
