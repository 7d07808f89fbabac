"""`grad(Y, X, dY)` in a spec: derived from the definition of Y when the spec is loaded.

At cell x of the tensor X it means the sum over all cells o of Y of dY[o] * dY-formula[o]/dX[x], over the
reals. `expand` turns each one into an ordinary formula, so whoever reads formulas need not know of it.
Going from Y to what it uses (`ir.reverse`), each definition on the way gets an *adjoint*, the derivative of
the whole with respect to one of its cells. It becomes a definition of its own (`dS` for `S`), so that what
the forward formula shares stays shared, and the reader of a certificate sees it.

Derivatives are those of the formula as written: a condition is kept and not differentiated, and where
x / 0 = 0 (empty_row = "zero") every derivative of a quotient by 0, and of log at 0, is 0 as well. What has
no derivative at some point of its range (max, min, abs) is refused. Outside the shape of X the gradient
means as little as reading X there does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ir import ast
from ir.ast import Span
from ir.binding import Supply, TooLarge, readable, rebuild, walk
from ir.builder import children
from ir.diagnostics import SpecProblem
from ir.formulas import Names, check_definitions, in_order
from ir.reverse import NotDifferentiable, Reverse, Use, total

MAX_NODES = 20_000  # of all derived formulas together
MAX_DEPTH = 128

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
    for definition in in_order(names):
        if calls[definition.name]:
            expansion.write_out(definition)
    out: list[ast.Definition] = []
    derived: list[str] = []
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
    size = 0
    for definition in derived:
        level: list[ast.Expr] = [definition.value]
        depth = 0
        while level:
            size, depth = size + len(level), depth + 1
            level = [inside for e in level for inside in children(e)]
        if size > MAX_NODES or depth > MAX_DEPTH:
            raise _too_large(names, definition.span)


def _too_large(names: Names, span: Span) -> SpecProblem:
    hint = "name parts of the formula, each used at plain indices over one range"
    return names.problem("S014", "the gradient is too large a formula", span, hint)


class _Expansion:
    """The gradients of one spec. `definitions` grows as formulas are written out; `needed`: the adjoint
    definitions that a definition is the first to need."""

    def __init__(
        self,
        names: Names,
        definitions: tuple[ast.Definition, ...],
        inputs: Tensors,
        stored: Tensors,
        calls: list[ast.Expr],
    ) -> None:
        self.names = names
        self.inputs, self.stored = inputs, stored
        self.definitions = {d.name: d for d in definitions}
        self.needed: dict[str, list[ast.Definition]] = {}
        self.wanted: dict[tuple[str, str], set[str]] = {}
        for call in calls:
            y, x, dy = _arguments(call)
            self.wanted.setdefault((y, dy), set()).add(x)
        self.uses: dict[tuple[str, str], Mapping[str, list[Use]]] = {}
        taken = {n.id for d in definitions for n in walk(d.value) if isinstance(n, ast.Name)}
        taken |= {n.variable for d in definitions for n in walk(d.value) if isinstance(n, ast.Big)}
        taken |= {p for d in definitions for p in d.parameters}
        taken |= {*self.definitions, *inputs, *stored, *names.sizes, *names.parameters, *names.options}
        self.supply = Supply(taken, MAX_NODES)

    def write_out(self, definition: ast.Definition) -> None:
        """Replace every `grad` of a definition whose own dependencies hold no `grad` any more."""
        inner = {p: self.supply.index(p) for p in definition.parameters}

        def change(e: ast.Expr) -> ast.Expr:
            return self.gradient(e, definition, tuple(inner.values())) if _is_grad(e) else rebuild(e, change)

        value = change(definition.value)
        names = {p: p for p in inner} | {i: p for p, i in inner.items()}
        value = readable(value, names, self.supply.taken, definition.value.span)
        self.definitions[definition.name] = replace(definition, value=value)

    def gradient(self, call: ast.Expr, left: ast.Definition, cell: tuple[str, ...]) -> ast.Expr:
        """One `grad` at the cell of X that the left side's parameters name."""
        y, x, dy = _arguments(call)
        shape = self.inputs[x]
        if len(cell) != len(shape):
            message = f"`{x}` has {len(shape)} dimension(s), `{left.name}` {len(cell)} index(es)"
            raise self.names.problem("S007", message, call.span, f"one index for each dimension of `{x}`, in order")
        if self.stored.get(left.name, shape) != shape:
            raise self.names.problem("S007", f"`{left.name}` does not have the shape of `{x}`", call.span)
        if (y, dy) not in self.uses:
            self.reverse(y, dy, left.name, call.span)
        uses = self.uses[y, dy][x]
        if not uses:
            raise self.names.problem("S014", f"`{y}` does not depend on `{x}`", call.span, "its gradient is 0")
        return total(uses, cell, shape)

    def reverse(self, y: str, dy: str, left: str, span: Span) -> None:
        """All gradients of Y with weights dY. The adjoints stand before `left`."""
        order = [d.name for d in in_order(replace(self.names, definitions=self.definitions))]
        name = "d{}" if len(self.wanted) == 1 else f"d{{}}_{y}"
        run = Reverse(self.definitions, order, self.supply, name, span)
        try:
            self.uses[y, dy] = run.run(y, dy, self.shape(y, dy, span), self.wanted[y, dy])
        except NotDifferentiable as error:
            message = f"{error.what} has no derivative everywhere, so `grad({y}, ...)` is not defined here"
            raise self.names.problem("S014", message, error.span, error.hint) from error
        except TooLarge as error:
            raise _too_large(self.names, span) from error
        self.needed[left] = self.needed.get(left, []) + run.adjoints

    def shape(self, y: str, dy: str, span: Span) -> tuple[ast.Expr, ...]:
        """The extents of Y: those of the tensor of its name, or else of dY."""
        mine = self.stored.get(y)
        given = self.inputs.get(dy, self.stored.get(dy))
        if not self.definitions[y].parameters:
            return ()
        if mine is not None and given is not None and mine != given:
            raise self.names.problem("S007", f"`{dy}` does not have the shape of `{y}`", span)
        found = given if mine is None else mine
        if found is None:
            hint = f"declare a tensor `{y}` or `{dy}`"
            raise self.names.problem("S014", f"the range of the indices of `{y}` is not known", span, hint)
        return found


def _arguments(call: ast.Expr) -> tuple[str, str, str]:
    match call:
        case ast.Call(_, (ast.Name(y), ast.Name(x), ast.Name(dy))):
            return y, x, dy
        case _:
            raise AssertionError("`grad` was not checked")
