"""`grad(Y, X, dY)` in a spec: derived from the definition of Y by reverse-mode differentiation.

At cell x of the tensor X it means the sum over all cells o of Y of dY[o] * dY-formula[o]/dX[x], over the
reals. `expand` turns each one into an ordinary formula when a spec is loaded, so whoever reads formulas need
not know of it. Going from Y to what it uses, each definition on the way gets an *adjoint*: the sum, over all
places that use its cell, of the adjoint there times the local derivative. It becomes a definition of its own
(`dS` for `S`), so that what the forward formula shares stays shared.

A place that uses cell e[v] under index variables v (the user's own indices and those of the sums around the
place) adds, to the adjoint of cell p, the sum over all v with e[v] = p. An e that is just a variable is solved
(the one-point rule: v is p, if p is in v's range); every other equation stays a condition of the sum. Adding
is all that is done with conditions, so nothing has to be known about them. A definition whose uses do not
agree on the range of its indices has no table of adjoints; its formula is differentiated at each use instead.

Derivatives are those of the formula as written: a condition is kept and not differentiated, `x / 0 = 0` (with
empty_row = "zero") makes every derivative of a quotient by 0, and of log at 0, 0 as well. What has no
derivative at some point of its range (max, min, abs) is refused. Rules: Griewank & Walther, Evaluating
Derivatives, 2008, chapter 3; DERIVATIVES are checked against SymPy by tests/unit/test_gradient.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, reduce
from itertools import count

from ir import ast
from ir.ast import NOWHERE, Span
from ir.binding import readable, rebuild, substitute, variables, walk
from ir.builder import children
from ir.diagnostics import SpecProblem
from ir.formulas import Names, check_definitions, in_order
from ir.parser import parse_formula

DERIVATIVES = {
    "exp": "y",
    "log": "1 / x",
    "sqrt": "1 / (2 * y)",
    "tanh": "1 - y * y",
    "sigmoid": "y * (1 - y)",
}  # of y = f(x)
MAX_NODES = 20_000  # of all derived formulas together
MAX_DEPTH = 128

_ZERO, _ONE, _TWO = (ast.Number(Fraction(n)) for n in range(3))

Tensors = Mapping[str, tuple[ast.Expr, ...]]


def expand(
    names: Names, definitions: tuple[ast.Definition, ...], inputs: Tensors, stored: Tensors
) -> tuple[tuple[ast.Definition, ...], tuple[str, ...]]:
    """The definitions with every `grad` written out, and the names of those derived: adjoints, each before
    the definition that needs it first, and the definitions that said `grad`.

    `inputs`, `stored`: the shape of each input that has no definition, and of each tensor that has one. The
    definitions were checked (`names` knows their sorts); what comes out is checked again. Raises SpecProblem.
    """
    calls = {d.name: [e for e in walk(d.value) if _is_grad(e)] for d in definitions}
    if not any(calls.values()):
        return definitions, ()
    expansion = _Expansion(names, definitions, inputs, stored, [c for found in calls.values() for c in found])
    ordered = in_order(names)
    for definition in ordered:
        if calls[definition.name]:
            expansion.write_out(definition)
    derived: list[str] = []
    out: list[ast.Definition] = []
    for definition in definitions:
        added = expansion.needed.get(definition.name, ())
        out += [*added, expansion.definitions[definition.name]]
        derived += [*(d.name for d in added), *([definition.name] if calls[definition.name] else [])]
    names.definitions = {d.name: d for d in out}
    _limit(names, [names.definitions[name] for name in derived])
    check_definitions(names)
    return tuple(out), tuple(derived)


def _is_grad(e: ast.Expr) -> bool:
    return isinstance(e, ast.Call) and e.function == "grad"


def _limit(names: Names, derived: list[ast.Definition]) -> None:
    total = 0
    for definition in derived:
        level: list[ast.Expr] = [definition.value]
        depth = 0
        while level:
            total, depth = total + len(level), depth + 1
            level = [inside for e in level for inside in children(e)]
        if total > MAX_NODES or depth > MAX_DEPTH:
            raise _too_large(names, definition.span)


def _too_large(names: Names, span: Span) -> SpecProblem:
    hint = "name parts of the formula, each used at plain indices over one range"
    return names.problem("S014", "the gradient is too large a formula", span, hint)


@dataclass(frozen=True, slots=True)
class _Index:
    """An index variable and its range, 0 <= variable < bound; the bound may speak of indices before it."""

    variable: str
    bound: ast.Expr


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where an expression stands: the indices that run there, and the conditions that hold."""

    indices: tuple[_Index, ...]
    conditions: tuple[ast.Expr, ...] = ()

    def where(self, *conditions: ast.Expr) -> _Scope:
        return replace(self, conditions=(*self.conditions, *conditions))


@dataclass(frozen=True, slots=True)
class _Use:
    """A use of cell `index`, and the adjoint of the place it stands in."""

    index: tuple[ast.Expr, ...]
    adjoint: ast.Expr
    scope: _Scope
    span: Span


class _Expansion:
    """The gradients of one spec. `definitions` grows as formulas are written out; `needed`: the adjoint
    definitions that a definition is the first to need."""

    def __init__(
        self, names: Names, definitions: tuple[ast.Definition, ...], inputs: Tensors, stored: Tensors, calls: list[ast.Expr]
    ) -> None:
        self.names = names
        self.inputs, self.stored = inputs, stored
        self.definitions = {d.name: d for d in definitions}
        self.needed: dict[str, list[ast.Definition]] = {}
        self.number = count(1)
        self.wanted: dict[tuple[str, str], set[str]] = {}
        for call in calls:
            y, x, dy = _arguments(call)
            self.wanted.setdefault((y, dy), set()).add(x)
        self.uses: dict[tuple[str, str], Mapping[str, list[_Use]]] = {}
        self.avoid = {n.id for d in definitions for n in walk(d.value) if isinstance(n, ast.Name)}
        self.avoid |= {n.variable for d in definitions for n in walk(d.value) if isinstance(n, ast.Big)}
        self.avoid |= {p for d in definitions for p in d.parameters} | self.definitions.keys()
        self.avoid |= {*inputs, *stored, *names.sizes, *names.parameters, *names.options}

    def fresh(self, name: str) -> str:
        return f"{name.split('#')[0]}#{next(self.number)}"

    def step(self, span: Span) -> None:
        """Count work: formulas that are differentiated at each use can multiply."""
        if next(self.number) > MAX_NODES:
            raise _too_large(self.names, span)

    def write_out(self, definition: ast.Definition) -> None:
        """Replace every `grad` of a definition whose own dependencies hold no `grad` any more."""
        inner = {p: self.fresh(p) for p in definition.parameters}

        def change(e: ast.Expr) -> ast.Expr:
            return self.gradient(e, definition, tuple(inner.values())) if _is_grad(e) else rebuild(e, change)

        value = change(definition.value)
        names = {p: p for p in inner} | {i: p for p, i in inner.items()}
        self.definitions[definition.name] = replace(
            definition, value=readable(value, names, self.avoid, definition.value.span)
        )

    def gradient(self, call: ast.Expr, left: ast.Definition, cell: tuple[str, ...]) -> ast.Expr:
        """One `grad` at the cell of X that the left side's parameters name."""
        y, x, dy = _arguments(call)
        shape = self.inputs[x]
        if len(cell) != len(shape):
            message = f"`{x}` has {len(shape)} dimension(s), `{left.name}` {len(cell)} index(es)"
            raise self.names.problem("S007", message, call.span, f"one index for each dimension of `{x}`, in order")
        if self.stored.get(left.name, shape) != shape:
            raise self.names.problem("S007", f"`{left.name}` does not have the shape of `{x}`", call.span)
        key = y, dy
        if key not in self.uses:
            reverse = _Reverse(self, y, dy, call.span)
            self.uses[key] = reverse.run(self.wanted[key])
            self.needed[left.name] = self.needed.get(left.name, []) + reverse.adjoints
        uses = self.uses[key][x]
        if not uses:
            raise self.names.problem("S014", f"`{y}` does not depend on `{x}`", call.span, "its gradient is 0")
        return _total(uses, cell, shape)

    def shape(self, y: str, dy: str, span: Span) -> tuple[ast.Expr, ...]:
        """The extents of Y: those of the tensor of its name, or else of dY."""
        mine = self.stored.get(y)
        given = self.inputs.get(dy, self.stored.get(dy))
        rank = len(self.definitions[y].parameters)
        if rank == 0:
            return ()
        if mine is not None and given is not None and mine != given:
            raise self.names.problem("S007", f"`{dy}` does not have the shape of `{y}`", span)
        found = given if mine is None else mine
        if found is None:
            hint = f"declare a tensor `{y}` or `{dy}`"
            raise self.names.problem("S014", f"the range of the indices of `{y}` is not known", span, hint)
        return found

    def adjoint_name(self, name: str, y: str) -> str:
        """`dS`, or with several gradients in one spec `dS_O`; never a name the spec uses."""
        first = f"d{name}" if len(self.wanted) == 1 else f"d{name}_{y}"
        found = next(n for n in (first, *(f"{first}_{k}" for k in count(2))) if n not in self.avoid)
        self.avoid.add(found)
        return found


def _arguments(call: ast.Expr) -> tuple[str, str, str]:
    match call:
        case ast.Call(_, (ast.Name(y), ast.Name(x), ast.Name(dy))):
            return y, x, dy
        case _:
            raise AssertionError("`grad` was not checked")


class _Reverse:
    """One pass from Y, whose adjoint is dY, to everything it uses. `adjoints`: definitions made on the way."""

    def __init__(self, expansion: _Expansion, y: str, dy: str, span: Span) -> None:
        self.expansion = expansion
        self.names = expansion.names
        self.y, self.dy, self.span = y, dy, span
        self.adjoints: list[ast.Definition] = []
        self.active: set[str] = set()
        self.uses: dict[str, list[_Use]] = {}

    def run(self, wanted: set[str]) -> Mapping[str, list[_Use]]:
        """All uses of each wanted tensor."""
        order = [d.name for d in in_order(replace(self.names, definitions=self.expansion.definitions))]
        self.active = set(wanted)
        for name in order:
            if self.depends(self.expansion.definitions[name].value):
                self.active.add(name)
        self.uses = {name: [] for name in self.active}
        shape = self.expansion.shape(self.y, self.dy, self.span)
        if self.y in self.active:
            y = self.expansion.definitions[self.y]
            self.through(y, self.dy, tuple(self.expansion.fresh(p) for p in y.parameters), shape)
        for name in reversed(order):
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
        uses, d = self.uses[name], self.expansion.definitions[name]
        cell = tuple(self.expansion.fresh(p) for p in d.parameters)
        shape = _common_range(uses, cell)
        if shape is None:
            for use in uses:
                value = substitute(d.value, dict(zip(d.parameters, use.index, strict=True)))
                self.back(value, value, use.adjoint, use.scope)
            return
        adjoint = self.expansion.adjoint_name(name, self.y)
        plain = dict(zip(cell, d.parameters, strict=True))
        value = readable(_total(uses, cell, shape), plain, self.expansion.avoid, self.span)
        self.adjoints.append(ast.Definition(adjoint, d.parameters, value, self.span))
        self.expansion.definitions[adjoint] = self.adjoints[-1]
        self.through(d, adjoint, cell, shape)

    def through(self, d: ast.Definition, adjoint: str, cell: tuple[str, ...], shape: tuple[ast.Expr, ...]) -> None:
        """Go on through the formula of a definition whose adjoint has a name; its indices run over `shape`."""
        value = substitute(d.value, dict(zip(d.parameters, map(ast.Name, cell), strict=True)))
        scope = _Scope(_outer_first(tuple(map(_Index, cell, shape))))
        self.back(value, _read(d.name, cell), _read(adjoint, cell), scope)

    def back(self, e: ast.Expr, result: ast.Expr, adjoint: ast.Expr, scope: _Scope) -> None:
        """Give the adjoint of e on to what e is made of. `result` is a shorter way to write e, or e."""
        if not self.depends(e):
            return
        self.expansion.step(self.span)
        match e:
            case ast.Element(name, index):
                self.uses[name].append(_Use(index, adjoint, scope, e.span))
            case ast.Name(name):
                self.uses[name].append(_Use((), adjoint, scope, e.span))
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
                inner = self.expansion.fresh(variable)
                conditions = tuple(substitute(c, {variable: ast.Name(inner)}) for c in conditions)
                body = substitute(body, {variable: ast.Name(inner)})
                scope = replace(scope, indices=(*scope.indices, _Index(inner, bound))).where(*conditions)
                self.back(body, body, adjoint, scope)
            case ast.Call(function, (x,)) if function in DERIVATIVES:
                local = substitute(_derivative(function), {"x": x, "y": result})
                self.back(x, x, _times(adjoint, local), scope)
            case _:
                raise self.refused(e)

    def refused(self, e: ast.Expr) -> SpecProblem:
        what = f"`{e.function}`" if isinstance(e, ast.Call) else f"`{e.op}`" if isinstance(e, ast.Big) else "this"
        message = f"{what} has no derivative everywhere, so `grad({self.y}, ...)` is not defined here"
        hint = "write the cases, `if a < b then b else a`, to have each differentiated where it holds"
        if isinstance(e, ast.Big):
            hint = "write the formula without it: softmax is the same without subtracting the maximum"
        return self.names.problem("S014", message, e.span, hint)


# ---- sums over uses --------------------------------------------------------------------------


def _common_range(uses: list[_Use], cell: tuple[str, ...]) -> tuple[ast.Expr, ...] | None:
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


def _total(uses: list[_Use], cell: tuple[str, ...], shape: tuple[ast.Expr, ...]) -> ast.Expr:
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


def _at(use: _Use, cell: tuple[str, ...], shape: tuple[ast.Expr, ...]) -> tuple[tuple[ast.Expr, ...], ast.Expr]:
    """What one use adds to the adjoint of a cell: conditions on the cell, and a sum."""
    ranges = {i.variable: i.bound for i in use.scope.indices}
    solved: dict[str, ast.Expr] = {}
    equations: list[ast.Expr] = []
    limits: list[tuple[str, ast.Expr]] = []
    for e, p, extent in zip(use.index, cell, shape, strict=True):
        if isinstance(e, ast.Name) and e.id in ranges and e.id not in solved:
            solved[e.id] = ast.Name(p)  # the one-point rule
            limits.append((p, extent))
        else:
            equations.append(ast.Binary("==", e, ast.Name(p)))
    in_range = [
        ast.Binary("<", ast.Name(p), ranges[v])
        for v, (p, extent) in zip(solved, limits, strict=True)
        if substitute(ranges[v], solved) != extent
    ]
    conditions = [substitute(c, solved) for c in (*in_range, *equations, *use.scope.conditions)]
    rest = [_Index(i.variable, substitute(i.bound, solved)) for i in use.scope.indices if i.variable not in solved]
    return _sums(rest, list(dict.fromkeys(conditions)), substitute(use.adjoint, solved))


def _sums(
    indices: list[_Index], conditions: list[ast.Expr], value: ast.Expr
) -> tuple[tuple[ast.Expr, ...], ast.Expr]:
    """value summed over the indices, each condition at the outermost sum that can hold it; what speaks of no
    index comes back."""
    for position in reversed(range(len(indices))):
        known = {i.variable for i in indices[:position]}
        index = indices[position]
        own = [c for c in conditions if index.variable in variables(c)]
        conditions = [c for c in conditions if index.variable not in variables(c)]
        assert not variables(index.bound) & {i.variable for i in indices} - known
        value = ast.Big("sum", index.variable, index.bound, tuple(own), value)
    return tuple(conditions), value


def _outer_first(indices: tuple[_Index, ...]) -> tuple[_Index, ...]:
    """Indices such that each bound speaks of earlier ones only."""
    waiting, out = list(indices), list[_Index]()
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
        case ast.Binary("==" | "!=", left, right):
            return replace(condition, op="!=" if condition.op == "==" else "==")
        case _:
            return ast.Unary("not", condition)
