"""Lower bounds of a spec's formulas over the reals, read off how they are written.

The normal form of sum((x - mean)^2) is a polynomial whose sign cannot be seen; the formula as written shows it. Exact
arithmetic is meant here, not floats (those are `verifier.floors`): a product of two equal factors is not negative,
sums, products, quotients and roots of what is not negative are not, and a sum is at least the sum of lower bounds.
With this the spec's own divisors and roots are seen to be defined where they are. NONE where nothing is known.
"""

from __future__ import annotations

import math

from ir import ast
from ir.spec import Bound

NONE = -math.inf


class Least:
    """`of(e)`: a number that no value of e is below, for all sizes, parameters and inputs the spec admits. Bound
    variables and integer cells have none."""

    def __init__(self, bound: Bound) -> None:
        self.names = {d.name: float(d.minimum) for d in bound.dims}
        self.names |= {p.name: p.lower for p in bound.spec.parameters}
        self.names |= {name: float(value) for name, value in bound.settings if isinstance(value, int)}
        self.names |= {"log2e": 1.44, "ln2": 0.69}
        self.definitions = {d.name: d for d in bound.spec.definitions}
        self.known: dict[str, float] = {}

    def of(self, e: ast.Expr) -> float:
        match e:
            case ast.Number(value):
                return float(value)
            case ast.Name(name) | ast.Element(name):
                return self._named(name)
            case ast.Binary("+", left, right):
                return self.of(left) + self.of(right)
            case ast.Binary("*", left, right) if left == right:
                return max(self.of(left), 0.0) ** 2
            case ast.Binary("*", left, right):
                a, b = self.of(left), self.of(right)
                return a * b if min(a, b) >= 0.0 else NONE
            case ast.Binary("/", left, right):
                return 0.0 if self.of(left) >= 0.0 and self.of(right) > 0.0 else NONE
            case ast.Call("sqrt", (argument,)):
                return math.sqrt(max(self.of(argument), 0.0))
            case ast.Call("exp" | "abs" | "sigmoid" | "random", _):
                return 0.0
            case ast.Call("max", (left, right)):
                return max(self.of(left), self.of(right))
            case ast.Call("min", (left, right)):
                return min(self.of(left), self.of(right))
            case ast.If(_, then, otherwise):
                return min(self.of(then), self.of(otherwise))
            case ast.Big("sum", _, _, _, body):
                return 0.0 if self.of(body) >= 0.0 else NONE
            case _:
                return NONE

    def _named(self, name: str) -> float:
        """A definition is bounded whatever its arguments; one that is being bounded already has no bound."""
        if name not in self.definitions:
            return self.names.get(name, NONE)
        if name not in self.known:
            self.known[name] = NONE
            self.known[name] = self.of(self.definitions[name].value)
        return self.known[name]
