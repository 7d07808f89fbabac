"""Integer expressions of a kernel as polynomials, and the ends of what a tile of them may be.

A lane is the value of `arange(W)` along one axis of a tile, so that rows and keys of a tile stay apart even where both
count to the same W. Sizes, metas, program ids and counters are taken to be at least 0 where a product is bounded;
a rewrite that this misleads yields a kernel that the gate stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ir.ast import Binary, Call, Expand, Expr, Name, Number, Unary
from synth.propose.formula import rebuild, total
from synth.propose.rewrites.straight import Scope
from synth.propose.rewrites.tiles import is_scalar
from synth.propose.tree import nodes

Monomial = tuple[Expr, ...]


class NotAffine(Exception):
    """The expression has no bounds that can be read off."""


@dataclass(frozen=True)
class Poly:
    """Sum of integer coefficients times products of atoms; () is the constant's product."""

    parts: tuple[tuple[Monomial, int], ...] = ()

    @staticmethod
    def of(expr: Expr) -> Poly:
        match expr:
            case Number(value, False) if value.denominator == 1:
                return Poly((((), int(value)),)) if value else Poly()
            case Unary("-", operand):
                return Poly.of(operand).times(-1)
            case Binary("+", left, right):
                return Poly.of(left).plus(Poly.of(right))
            case Binary("-", left, right):
                return Poly.of(left).plus(Poly.of(right), -1)
            case Binary("*", left, right):
                return Poly.of(left).product(Poly.of(right))
            case _:
                return Poly((((expr,), 1),))

    def plus(self, other: Poly, times: int = 1) -> Poly:
        found = dict(self.parts)
        for monomial, n in other.parts:
            found[monomial] = found.get(monomial, 0) + n * times
        return Poly(tuple((m, n) for m, n in found.items() if n))

    def times(self, factor: int) -> Poly:
        return Poly().plus(self, factor)

    def product(self, other: Poly) -> Poly:
        result = Poly()
        for a, n in self.parts:
            for b, k in other.parts:
                result = result.plus(Poly(((tuple(sorted((*a, *b), key=repr)), n * k),)))
        return result

    def along(self, atom: Expr) -> Poly:
        """What `atom` is multiplied by. Raises NotAffine when it occurs squared or inside another atom."""
        result = Poly()
        for monomial, n in self.parts:
            if atom in monomial:
                rest = list(monomial)
                rest.remove(atom)
                result = result.plus(Poly(((tuple(rest), n),)))
        if any(atom in nodes(part) for monomial, _ in result.parts for part in monomial) or any(
            atom in nodes(part) and part != atom for monomial, _ in self.parts for part in monomial
        ):
            raise NotAffine
        return result

    def without(self, atom: Expr) -> Poly:
        return Poly(tuple((m, n) for m, n in self.parts if atom not in m))

    def expr(self) -> Expr:
        terms: list[tuple[Expr, int]] = []
        for monomial, n in self.parts:
            parts = [*([Number(Fraction(abs(n)))] if abs(n) != 1 or not monomial else []), *_names_first(monomial)]
            product = parts[0]
            for part in parts[1:]:
                product = Binary("*", product, part)
            terms.append((product, 1 if n > 0 else -1))
        terms.sort(key=lambda t: isinstance(t[0], Number))
        return total(terms)


def _names_first(monomial: Monomial) -> list[Expr]:
    """Counters before extents, as a person writes `t * BM`."""
    return sorted(monomial, key=lambda e: (isinstance(e, Name) and e.id.isupper(), not isinstance(e, Binary)))


# ---- lanes --------------------------------------------------------------------------------------


def lane(extent: Expr, axis: int) -> Expr:
    return Call("lane", (extent, Number(Fraction(axis))))


def is_lane(expr: Expr) -> bool:
    return isinstance(expr, Call) and expr.function == "lane"


def located(expr: Expr, scope: Scope, axis: int = 0) -> Expr:
    """An integer expression with every `arange` the lane of the axis it lies along and no `[:, None]`. Names of scalars
    stay, unless the innermost loop's counter is in them. Raises TooLarge."""
    scope.fits(expr)
    match expr:
        case Name(id) if id in scope.values and (
            not is_scalar(expr, scope) or (scope.counter and scope.rests_on(expr, scope.counter))
        ):
            return located(scope.values[id], scope, axis)
        case Expand(operand, axes) if axes.count(False) == 1:
            return located(operand, scope, axes.index(False))
        case Call("arange", (extent,)):
            return lane(extent, axis)
        case _:
            return rebuild(expr, lambda child: located(child, scope, axis))


def ends(expr: Expr) -> tuple[Expr, Expr]:
    """The least and the greatest value of a located expression over its lanes. Raises NotAffine."""
    if not any(map(is_lane, nodes(expr))):
        return expr, expr
    match expr:
        case Call("lane", (extent, _)):
            return Number(Fraction(0)), Binary("-", extent, Number(Fraction(1)))
        case Binary("+", left, right):
            (a, b), (c, d) = ends(left), ends(right)
            return _sum(a, c, 1), _sum(b, d, 1)
        case Binary("-", left, right):
            (a, b), (c, d) = ends(left), ends(right)
            return _sum(a, d, -1), _sum(b, c, -1)
        case Unary("-", operand):
            low, high = ends(operand)
            return Unary("-", high), Unary("-", low)
        case Binary("*", left, right) if not any(map(is_lane, nodes(right))):
            low, high = ends(left)
            if isinstance(right, Number) and right.value < 0:
                low, high = high, low
            return Poly.of(Binary("*", low, right)).expr(), Poly.of(Binary("*", high, right)).expr()
        case Binary("*", left, right):
            return ends(Binary("*", right, left)) if not any(map(is_lane, nodes(left))) else _fail()
        case Binary("//", left, right) if not any(map(is_lane, nodes(right))):
            low, high = ends(left)
            return Binary("//", low, right), Binary("//", high, right)
        case Binary("%", _, right) if not any(map(is_lane, nodes(right))):
            return Number(Fraction(0)), Binary("-", right, Number(Fraction(1)))
        case Call("min" | "max" | "minimum" | "maximum", (left, right)):
            (a, b), (c, d) = ends(left), ends(right)
            scalar = {"minimum": "min", "maximum": "max"}.get(expr.function, expr.function)
            return Call(scalar, (a, c)), Call(scalar, (b, d))
        case _:
            return _fail()


def _sum(left: Expr, right: Expr, sign: int) -> Expr:
    return Poly.of(left).plus(Poly.of(right), sign).expr()


def _fail() -> tuple[Expr, Expr]:
    raise NotAffine


# ---- conditions ---------------------------------------------------------------------------------


def at_least_zero(condition: Expr) -> Poly | None:
    """The form e for which a located comparison says e >= 0; None for any other condition."""
    match condition:
        case Binary("<=", left, right) | Binary(">=", right, left):
            return Poly.of(right).plus(Poly.of(left), -1)
        case Binary("<", left, right) | Binary(">", right, left):
            return Poly.of(right).plus(Poly.of(left), -1).plus(Poly((((), 1),)), -1)
        case _:
            return None
