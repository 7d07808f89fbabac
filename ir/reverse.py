"""Reverse-mode differentiation of spec formulas: from the adjoint of Y to the adjoints of what it uses.

The adjoint of a place in a formula is the derivative of the whole with respect to its value. That of a
definition's cell is the sum over all places that use the cell. A place that uses cell e[v] under index
variables v (the parameters of the definition it is in and the indices of the sums around it) adds to the
adjoint of cell p the sum, over all v with e[v] = p, of the adjoint there. An e that is a variable, or that
plus or minus what is fixed, is solved (the one-point rule: v is p, if p is in v's range); every other
equation stays a condition of the sum. Nothing has to be known about conditions: they are only added. A
definition whose uses do not agree on the range of its indices has no table of adjoints; its formula is
differentiated at each use instead.

Rules: Griewank & Walther, Evaluating Derivatives, 2008, chapter 3. The derivatives of functions are checked
against SymPy by tests/unit/test_gradient.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, reduce

from ir import ast
from ir.ast import NOWHERE, Span
from ir.binding import Supply, readable, rebuild, substitute, variables
from ir.parser import parse_formula

DERIVATIVES = {
    "exp": "y",
    "log": "1 / x",
    "sqrt": "1 / (2 * y)",
    "tanh": "1 - y * y",
    "sigmoid": "y * (1 - y)",
}  # of y = f(x)

_ZERO, _TWO = ast.Number(Fraction(0)), ast.Number(Fraction(2))

@dataclass(frozen=True, slots=True)
class Index:
    """An index variable and its range, 0 <= variable < bound; the bound may speak of indices before it."""

    variable: str
    bound: ast.Expr


@dataclass(frozen=True, slots=True)
class Scope:
    """Where an expression stands: the indices that run there, and the conditions that hold."""

    indices: tuple[Index, ...]
    conditions: tuple[ast.Expr, ...] = ()

    def where(self, *conditions: ast.Expr) -> Scope:
        return replace(self, conditions=(*self.conditions, *conditions))


@dataclass(frozen=True, slots=True)
class Use:
    """A use of cell `index`, and the adjoint of the place it stands in."""

    index: tuple[ast.Expr, ...]
    adjoint: ast.Expr
    scope: Scope


class NotDifferentiable(Exception):
    """An operation on the way has no derivative: `what`, at `span`."""

    def __init__(self, what: str, span: Span, hint: str) -> None:
        super().__init__(what)
        self.what, self.span, self.hint = what, span, hint


class Reverse:
    """One pass from Y, whose adjoint is dY, to everything it uses. `adjoints`: definitions made on the way."""

    def __init__(
        self, definitions: dict[str, ast.Definition], order: list[str], supply: Supply, name: str, span: Span
    ) -> None:
        """order: all definitions, each after those it uses; name: pattern of an adjoint's name."""
        self.definitions, self.order, self.supply = definitions, order, supply
        self.name, self.span = name, span
        self.adjoints: list[ast.Definition] = []
        self.active: set[str] = set()
        self.uses: dict[str, list[Use]] = {}

    def run(self, y: str, dy: str, shape: tuple[ast.Expr, ...], wanted: set[str]) -> Mapping[str, list[Use]]:
        """All uses of each wanted tensor. Raises NotDifferentiable, TooLarge."""
        self.active = set(wanted)
        for name in self.order:
            if self.depends(self.definitions[name].value):
                self.active.add(name)
        self.uses = {name: [] for name in self.active}
        if y in self.active:
            cell = tuple(map(self.supply.index, self.definitions[y].parameters))
            self.through(self.definitions[y], dy, cell, shape)
        for name in reversed(self.order):
            if name in self.active and self.uses[name]:
                self.definition(name)
        return self.uses

    def depends(self, e: ast.Expr) -> bool:
        """Whether a derivative may flow through e: an active tensor or definition is read for its value."""
        match e:
            case ast.Element(name) | ast.Name(name):
                return name in self.active
            case ast.If():
                return self.depends(e.then) or self.depends(e.otherwise)
            case ast.Big():
                return self.depends(e.body)
            case ast.Binary("+" | "-" | "*" | "/"):
                return self.depends(e.left) or self.depends(e.right)
            case ast.Unary("-"):
                return self.depends(e.operand)
            case ast.Call():
                return any(map(self.depends, e.args))
            case _:
                return False  # numbers, conditions, integer division

    def definition(self, name: str) -> None:
        """Every use of this definition is known: make its adjoint and go on, or go on from each use."""
        uses, d = self.uses[name], self.definitions[name]
        cell = tuple(map(self.supply.index, d.parameters))
        shape = _common_range(uses, cell)
        if shape is None:
            for use in uses:
                value = substitute(d.value, dict(zip(d.parameters, use.index, strict=True)))
                self.back(value, value, use.adjoint, use.scope)
            return
        adjoint = self.supply.definition(self.name.format(name))
        plain = dict(zip(cell, d.parameters, strict=True))
        value = readable(total(uses, cell, shape), plain, self.supply.taken, self.span)
        self.adjoints.append(ast.Definition(adjoint, d.parameters, value, self.span))
        self.definitions[adjoint] = self.adjoints[-1]
        self.through(d, adjoint, cell, shape)

    def through(self, d: ast.Definition, adjoint: str, cell: tuple[str, ...], shape: tuple[ast.Expr, ...]) -> None:
        """Go on through the formula of a definition whose adjoint has a name; its indices run over `shape`."""
        value = substitute(d.value, dict(zip(d.parameters, map(ast.Name, cell), strict=True)))
        scope = Scope(_outer_first(tuple(map(Index, cell, shape))))
        self.back(value, _read(d.name, cell), _read(adjoint, cell), scope)

    def back(self, e: ast.Expr, result: ast.Expr, adjoint: ast.Expr, scope: Scope) -> None:
        """Give the adjoint of e on to what e is made of. `result` is a shorter way to write e, or e."""
        if not self.depends(e):
            return
        self.supply.step()
        match e:
            case ast.Element(name, index):
                for conditions, cell in self.cells(index):
                    self.uses[name].append(Use(cell, adjoint, scope.where(*conditions)))
            case ast.Name(name):
                self.uses[name].append(Use((), adjoint, scope))
            case ast.Unary("-", operand):
                self.back(operand, operand, _negative(adjoint), scope)
            case ast.Binary("+" | "-", left, right):
                self.back(left, left, adjoint, scope)
                self.back(right, right, adjoint if e.op == "+" else _negative(adjoint), scope)
            case ast.Binary("*", left, right) if left == right:
                self.back(left, left, _times(_times(adjoint, _TWO), left), scope)
            case ast.Binary("*", left, right):
                self.back(left, left, _times(adjoint, right), scope)
                self.back(right, right, _times(adjoint, left), scope)
            case ast.Binary("/", left, right):
                self.back(left, left, _over(adjoint, right), scope)
                self.back(right, right, _negative(_over(_times(adjoint, result), right)), scope)
            case ast.If(condition, then, otherwise):
                self.back(then, then, adjoint, scope.where(condition))
                self.back(otherwise, otherwise, adjoint, scope.where(_opposite(condition)))
            case ast.Big("sum", variable, bound, conditions, body):
                inner = self.supply.index(variable)
                conditions = tuple(substitute(c, {variable: ast.Name(inner)}) for c in conditions)
                body = substitute(body, {variable: ast.Name(inner)})
                scope = replace(scope, indices=(*scope.indices, Index(inner, bound))).where(*conditions)
                self.back(body, body, adjoint, scope)
            case ast.Call(function, (x,)) if function in DERIVATIVES:
                local = substitute(_derivative(function), {"x": x, "y": result})
                self.back(x, x, _times(adjoint, local), scope)
            case _:
                raise _refused(e)


    def cells(self, index: tuple[ast.Expr, ...]) -> list[tuple[tuple[ast.Expr, ...], tuple[ast.Expr, ...]]]:
        """The cells an index with an `if` may mean, each with the conditions under which it does."""
        found: list[tuple[tuple[ast.Expr, ...], tuple[ast.Expr, ...]]] = [((), ())]
        for e in index:
            found = [((*c, *also), (*cell, case)) for c, cell in found for also, case in self.cases(e)]
        return found

    def cases(self, e: ast.Expr) -> list[tuple[tuple[ast.Expr, ...], ast.Expr]]:
        """An index by cases: one that is a definition, such as `at[i] = if rows == "each" then i else 0`, is
        written out if that gives cases or an index that can be solved."""
        inside = e
        while isinstance(inside, (ast.Element, ast.Name)) and (d := self.definitions.get(_name(inside))) is not None:
            arguments = inside.index if isinstance(inside, ast.Element) else ()
            inside = substitute(d.value, dict(zip(d.parameters, arguments, strict=True)))
        if isinstance(inside, ast.If):
            then, otherwise = inside.condition, _opposite(inside.condition)
            return [((then, *c), x) for c, x in self.cases(inside.then)] + [
                ((otherwise, *c), x) for c, x in self.cases(inside.otherwise)
            ]
        solvable = _solve(inside, inside, variables(inside)) is not None or not variables(inside)
        return [((), inside if solvable else e)]


def _name(e: ast.Element | ast.Name) -> str:
    return e.name if isinstance(e, ast.Element) else e.id


def _refused(e: ast.Expr) -> NotDifferentiable:
    if isinstance(e, ast.Big):
        hint = "write the formula without it: softmax is the same without subtracting the maximum"
        return NotDifferentiable(f"`{e.op}`", e.span, hint)
    hint = "write the cases, `if a < b then b else a`, to have each differentiated where it holds"
    return NotDifferentiable(f"`{e.function}`" if isinstance(e, ast.Call) else "this", e.span, hint)


# ---- sums over uses --------------------------------------------------------------------------


def _common_range(uses: list[Use], cell: tuple[str, ...]) -> tuple[ast.Expr, ...] | None:
    """The range of each index, if all uses are at distinct index variables and agree on it; else None. A range
    may speak of other indices, by their names in `cell`."""
    found: set[tuple[ast.Expr, ...]] = set()
    for use in uses:
        ranges = {i.variable: i.bound for i in use.scope.indices}
        read = [i.id for i in use.index if isinstance(i, ast.Name) and i.id in ranges]
        if len(set(read)) != len(use.index):
            return None
        names = dict(zip(read, map(ast.Name, cell), strict=True))
        found.add(tuple(substitute(ranges[v], names) for v in read))
    shape = found.pop()
    return None if found or any(variables(e) - set(cell) for e in shape) else shape


def total(uses: list[Use], cell: tuple[str, ...], shape: tuple[ast.Expr, ...]) -> ast.Expr:
    """The adjoint of a cell, 0 <= cell[k] < shape[k]: all uses of it, those under equal conditions together."""
    groups: dict[tuple[ast.Expr, ...], list[ast.Expr]] = {}
    for use in uses:
        conditions, value = _at(use, cell, shape)
        groups.setdefault(conditions, []).append(value)
    parts = []
    for conditions, values in groups.items():
        value = reduce(_plus, values)
        parts.append(ast.If(reduce(_and, conditions), value, _ZERO) if conditions else value)
    return reduce(_plus, parts)


def _at(use: Use, cell: tuple[str, ...], shape: tuple[ast.Expr, ...]) -> tuple[tuple[ast.Expr, ...], ast.Expr]:
    """What one use adds to the adjoint of a cell: conditions on the cell, and a sum."""
    ranges = {i.variable: i.bound for i in use.scope.indices}
    solved: dict[str, ast.Expr] = {}
    known: dict[str, ast.Expr] = {}  # the extent that a variable solved as a cell's index is below anyway
    conditions: list[ast.Expr] = []
    for e, p, extent in zip(use.index, cell, shape, strict=True):
        solution = _solve(e, ast.Name(p), ranges.keys() - solved.keys())
        if solution is None:
            conditions.append(ast.Binary("==", e, ast.Name(p)) if variables(e) else ast.Binary("==", ast.Name(p), e))
            continue
        v, value = solution
        solved[v] = value
        if value == ast.Name(p):
            known[v] = extent
        else:
            conditions.append(ast.Binary("<=", _ZERO, value))
    limits = [ast.Binary("<", e, ranges[v]) for v, e in solved.items() if substitute(ranges[v], solved) != known.get(v)]
    conditions = [substitute(c, solved) for c in (*limits, *conditions, *use.scope.conditions)]
    rest = [Index(i.variable, substitute(i.bound, solved)) for i in use.scope.indices if i.variable not in solved]
    return _sums(rest, list(dict.fromkeys(conditions)), substitute(use.adjoint, solved))


def _solve(e: ast.Expr, value: ast.Expr, unknown: Set[str]) -> tuple[str, ast.Expr] | None:
    """The unknown that is the only index variable in e, and its value where e = value: the one-point rule.
    None where e is not that unknown plus or minus something."""
    match e:
        case ast.Name(name) if name in unknown:
            return name, value
        case ast.Unary("-", x):
            return _solve(x, ast.Unary("-", value), unknown)
        case ast.Binary("+", x, rest) if not variables(rest):
            return _solve(x, ast.Binary("-", value, rest), unknown)
        case ast.Binary("+", rest, x) if not variables(rest):
            return _solve(x, ast.Binary("-", value, rest), unknown)
        case ast.Binary("-", x, rest) if not variables(rest):
            return _solve(x, ast.Binary("+", value, rest), unknown)
        case ast.Binary("-", rest, x) if not variables(rest):
            return _solve(x, ast.Binary("-", rest, value), unknown)
        case _:
            return None


def _sums(
    indices: list[Index], conditions: list[ast.Expr], value: ast.Expr
) -> tuple[tuple[ast.Expr, ...], ast.Expr]:
    """value summed over the indices, each condition at the outermost place that knows its indices; what speaks of no
    index comes back."""
    negative = isinstance(value, ast.Unary) and value.op == "-"
    value = _negative(value) if negative else value
    for index in reversed(indices):
        own = tuple(c for c in conditions if index.variable in variables(c))
        conditions = [c for c in conditions if c not in own]
        value = ast.Big("sum", index.variable, index.bound, own, value)
    return tuple(conditions), _negative(value) if negative else value


def _outer_first(indices: tuple[Index, ...]) -> tuple[Index, ...]:
    """Indices such that each bound speaks of earlier ones only."""
    waiting, out = list(indices), list[Index]()
    while waiting:
        names = {i.variable for i in waiting}
        ready = [i for i in waiting if not variables(i.bound) & names]
        out += ready
        waiting = [i for i in waiting if i not in ready]
        assert ready, "the ranges come from nested sums"
    return tuple(out)


# ---- building formulas -----------------------------------------------------------------------


def _read(name: str, cell: tuple[str, ...]) -> ast.Expr:
    return ast.Element(name, tuple(map(ast.Name, cell))) if cell else ast.Name(name)


def _negative(e: ast.Expr) -> ast.Expr:
    return e.operand if isinstance(e, ast.Unary) and e.op == "-" else ast.Unary("-", e)


def _plus(a: ast.Expr, b: ast.Expr) -> ast.Expr:
    if isinstance(b, ast.Unary) and b.op == "-":
        return ast.Binary("-", a, b.operand)
    return ast.Binary("+", a, b)


def _and(a: ast.Expr, b: ast.Expr) -> ast.Expr:
    return ast.Binary("and", a, b)


def _times(a: ast.Expr, b: ast.Expr) -> ast.Expr:
    """a * b, written a * x * y for b = x * y and a / x for b = 1 / x, signs in front."""
    match a, b:
        case ast.Unary("-", x), _:
            return _negative(_times(x, b))
        case _, ast.Unary("-", y):
            return _negative(_times(a, y))
        case ast.Number(value), _ if value == 1:
            return b
        case _, ast.Number(value) if value == 1:
            return a
        case _, ast.Binary("*", x, y):
            return _times(_times(a, x), y)
        case _, ast.Binary("/", ast.Number(value), y) if value == 1:
            return _over(a, y)
        case _:
            return ast.Binary("*", a, b)


def _over(a: ast.Expr, b: ast.Expr) -> ast.Expr:
    if isinstance(a, ast.Unary) and a.op == "-":
        return _negative(_over(a.operand, b))
    return ast.Binary("/", a, b)


@cache
def _derivative(function: str) -> ast.Expr:
    def without_place(e: ast.Expr) -> ast.Expr:
        return replace(rebuild(e, without_place), span=NOWHERE)

    return without_place(parse_formula(DERIVATIVES[function]))


def _opposite(condition: ast.Expr) -> ast.Expr:
    match condition:
        case ast.Binary("==" | "!="):
            return replace(condition, op="!=" if condition.op == "==" else "==")
        case _:
            return ast.Unary("not", condition)
