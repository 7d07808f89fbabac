"""Spec formulas as trees to compose from: definitions written out, options decided, products and sums taken apart.

Nothing here is trusted. A slip gives a kernel that the prover refutes, never one that is certified wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from ir import ast
from ir.ast import Big, Binary, Call, Element, Expr, If, Name, Number, Text, Unary
from ir.spec import Bound

TRUE, FALSE = Name("true"), Name("false")
ONE, ZERO = Number(Fraction(1)), Number(Fraction(0))
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def rebuild(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """`expr` with `change` applied to each direct child."""
    match expr:
        case Unary():
            return replace(expr, operand=change(expr.operand))
        case Binary():
            return replace(expr, left=change(expr.left), right=change(expr.right))
        case Call():
            words = tuple((k, change(v)) for k, v in expr.keywords)
            return replace(expr, args=tuple(map(change, expr.args)), keywords=words)
        case Element():
            return replace(expr, index=tuple(map(change, expr.index)))
        case ast.Expand():
            return replace(expr, operand=change(expr.operand))
        case If():
            return If(change(expr.condition), change(expr.then), change(expr.otherwise))
        case Big():
            conditions = tuple(map(change, expr.conditions))
            return replace(expr, bound=change(expr.bound), conditions=conditions, body=change(expr.body))
        case _:
            return expr


def children(expr: Expr) -> list[Expr]:
    found: list[Expr] = []

    def note(child: Expr) -> Expr:
        found.append(child)
        return child

    rebuild(expr, note)
    return found


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything below it, outermost first."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def free(expr: Expr) -> frozenset[str]:
    """Names of variables, sizes and parameters that `expr` mentions and does not bind."""
    match expr:
        case Name(id):
            return frozenset((id,))
        case Big():
            inner = free(expr.body).union(*map(free, expr.conditions)) - {expr.variable}
            return inner | free(expr.bound)
        case _:
            return frozenset().union(*map(free, children(expr)))


def substitute(expr: Expr, values: dict[str, Expr]) -> Expr:
    """`expr` with names replaced. Bound variables must already differ from every name in `values`."""
    match expr:
        case Name(id):
            return values.get(id, expr)
        case _:
            return rebuild(expr, lambda child: substitute(child, values))


# ---- writing a definition out ------------------------------------------------------------------


@dataclass
class _Inliner:
    """Replaces definitions by their formulas, options by their settings; every bound variable gets its own name."""

    bound: Bound
    count: int = 0

    def __call__(self, expr: Expr) -> Expr:
        match expr:
            case Element(name, index) if (definition := self._definition(name)) is not None:
                arguments = dict(zip(definition.parameters, map(self, index), strict=True))
                return substitute(self(definition.value), arguments)
            case Name(id) if (definition := self._definition(id)) is not None and not definition.parameters:
                return self(definition.value)
            case Name(id) if isinstance(setting := self.bound.setting(id), str):
                return Text(setting)
            case Big():
                self.count += 1
                fresh = f"{expr.variable}#{self.count}"
                renamed: dict[str, Expr] = {expr.variable: Name(fresh)}
                return Big(
                    expr.op,
                    fresh,
                    self(expr.bound),
                    tuple(substitute(self(c), renamed) for c in expr.conditions),
                    substitute(self(expr.body), renamed),
                )
            case _:
                return decide(rebuild(expr, self))

    def _definition(self, name: str) -> ast.Definition | None:
        return next((d for d in self.bound.spec.definitions if d.name == name), None)


def decide(expr: Expr) -> Expr:
    """Settle what needs no value: comparisons of option texts, logic with true and false, `if` on a known condition."""
    match expr:
        case Binary("==", Text(a), Text(b)):
            return TRUE if a == b else FALSE
        case Binary("!=", Text(a), Text(b)):
            return FALSE if a == b else TRUE
        case Unary("not", Name("true")):
            return FALSE
        case Unary("not", Name("false")):
            return TRUE
        case Binary("and", left, right):
            return FALSE if FALSE in (left, right) else right if left == TRUE else left if right == TRUE else expr
        case Binary("or", left, right):
            return TRUE if TRUE in (left, right) else right if left == FALSE else left if right == FALSE else expr
        case If(condition, then, otherwise) if condition in (TRUE, FALSE):
            return then if condition == TRUE else otherwise
        case _:
            return expr


def written_out(bound: Bound, name: str) -> tuple[tuple[str, ...], Expr]:
    """Parameters and formula of an output over inputs, sizes and parameters alone."""
    definition = bound.definition(name)
    return definition.parameters, _Inliner(bound)(definition.value)


# ---- taking products, sums and conditions apart -------------------------------------------------


def factors(expr: Expr) -> list[tuple[Expr, int]]:
    """`a * b / c` as [(a, 1), (b, 1), (c, -1)]; 1 is dropped."""
    match expr:
        case Binary("*", left, right):
            return factors(left) + factors(right)
        case Binary("/", left, right):
            return factors(left) + [(f, -n) for f, n in factors(right)]
        case Unary("-", operand):
            return [(Number(Fraction(-1)), 1), *factors(operand)]
        case Number(value) if value == 1:
            return []
        case _:
            return [(expr, 1)]


def product(parts: Iterable[tuple[Expr, int]]) -> Expr:
    """The opposite of `factors`."""
    parts = list(parts)
    result: Expr | None = None
    for part, sign in parts:
        if sign > 0:
            result = part if result is None else Binary("*", result, part)
    below = [part for part, sign in parts if sign < 0]
    value = ONE if result is None else result
    for part in below:
        value = Binary("/", value, part)
    return value


def terms(expr: Expr) -> list[tuple[Expr, int]]:
    """`a + b - c` as [(a, 1), (b, 1), (c, -1)]; 0 is dropped."""
    match expr:
        case Binary("+", left, right):
            return terms(left) + terms(right)
        case Binary("-", left, right):
            return terms(left) + [(t, -n) for t, n in terms(right)]
        case Unary("-", operand):
            return [(t, -n) for t, n in terms(operand)]
        case Number(value) if value == 0:
            return []
        case _:
            return [(expr, 1)]


def total(parts: Iterable[tuple[Expr, int]]) -> Expr:
    """The opposite of `terms`; equal terms of opposite sign cancel."""
    left: list[tuple[Expr, int]] = []
    for part, sign in parts:
        if (part, -sign) in left:
            left.remove((part, -sign))
        else:
            left.append((part, sign))
    left.sort(key=lambda item: -item[1])  # a positive term first reads better than a leading minus
    result: Expr | None = None
    for part, sign in left:
        if result is None:
            result = part if sign > 0 else Unary("-", part)
        else:
            result = Binary("+" if sign > 0 else "-", result, part)
    return ZERO if result is None else result


def conjuncts(expr: Expr) -> list[Expr]:
    match expr:
        case Binary("and", left, right):
            return conjuncts(left) + conjuncts(right)
        case Name("true"):
            return []
        case _:
            return [expr]


# ---- integer bounds -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Linear:
    """constant + sum of coefficient * atom; an atom is any integer expression that is not itself a sum."""

    atoms: tuple[tuple[Expr, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(expr: Expr) -> Linear:
        match expr:
            case Number(value, False) if value.denominator == 1:
                return Linear((), int(value))
            case Binary("+", left, right):
                return Linear.of(left).plus(Linear.of(right))
            case Binary("-", left, right):
                return Linear.of(left).plus(Linear.of(right), -1)
            case Unary("-", operand):
                return Linear().plus(Linear.of(operand), -1)
            case Binary("*", Number(value, False), other) | Binary("*", other, Number(value, False)):
                return Linear().plus(Linear.of(other), int(value))
            case _:
                return Linear(((expr, 1),), 0)

    def plus(self, other: Linear, times: int = 1) -> Linear:
        found = dict(self.atoms)
        for atom, n in other.atoms:
            found[atom] = found.get(atom, 0) + n * times
        return Linear(tuple((a, n) for a, n in found.items() if n), self.constant + other.constant * times)

    def coefficient(self, name: str) -> int | None:
        """The coefficient of a variable; None when it also occurs inside another atom."""
        if any(name in free(a) for a, _ in self.atoms if a != Name(name)):
            return None
        return dict(self.atoms).get(Name(name), 0)

    def without(self, name: str) -> Linear:
        return Linear(tuple((a, n) for a, n in self.atoms if a != Name(name)), self.constant)

    def expr(self) -> Expr:
        parts = [(a if abs(n) == 1 else Binary("*", Number(Fraction(abs(n))), a), 1 if n > 0 else -1)
                 for a, n in self.atoms]  # fmt: skip
        if self.constant:
            parts.append((Number(Fraction(abs(self.constant))), 1 if self.constant > 0 else -1))
        return total(parts)


def nonnegative(condition: Expr) -> Linear | None:
    """The linear form e with `condition` equivalent to e >= 0 over the integers; None for any other condition."""
    match condition:
        case Binary("<=", left, right):
            return Linear.of(right).plus(Linear.of(left), -1)
        case Binary(">=", left, right):
            return Linear.of(left).plus(Linear.of(right), -1)
        case Binary("<", left, right):
            return Linear.of(right).plus(Linear.of(left), -1).plus(Linear((), -1))
        case Binary(">", left, right):
            return Linear.of(left).plus(Linear.of(right), -1).plus(Linear((), -1))
        case _:
            return None
