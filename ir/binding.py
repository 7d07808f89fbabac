"""Names bound in formulas: rebuilding an expression, substitution, and readable names at the end.

Whoever rewrites formulas gives every bound variable an internal name first: the name the user chose, a `#`
and a number. No text has a `#` in a name, so substituting internal names, or expressions over them, can
capture nothing. `readable` turns them back, each into the user's name where that is free.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import chain, count

from ir import ast
from ir.ast import NOWHERE, Span
from ir.builder import children


def rebuild(e: ast.Expr, change: Callable[[ast.Expr], ast.Expr]) -> ast.Expr:
    """A formula with `change` applied to each expression directly inside it."""
    match e:
        case ast.Unary():
            return replace(e, operand=change(e.operand))
        case ast.Binary():
            return replace(e, left=change(e.left), right=change(e.right))
        case ast.Call():
            return replace(e, args=tuple(map(change, e.args)))
        case ast.Element():
            return replace(e, index=tuple(map(change, e.index)))
        case ast.If():
            return replace(
                e, condition=change(e.condition), then=change(e.then), otherwise=change(e.otherwise)
            )
        case ast.Big():
            conditions = tuple(map(change, e.conditions))
            return replace(e, bound=change(e.bound), conditions=conditions, body=change(e.body))
        case _:
            return e


def substitute(e: ast.Expr, values: Mapping[str, ast.Expr]) -> ast.Expr:
    """e with each variable replaced by its value. The caller sees to it that no bound variable of e is in
    `values`, and that free variables of the values are internal names."""
    if isinstance(e, ast.Name):
        return values.get(e.id, e)
    return rebuild(e, lambda x: substitute(x, values))


def walk(e: ast.Expr) -> Iterator[ast.Expr]:
    """e and every expression inside it, without recursion."""
    stack: list[ast.Expr] = [e]
    while stack:
        node = stack.pop()
        yield node
        stack += children(node)


def variables(e: ast.Expr) -> frozenset[str]:
    """The internal names e mentions."""
    return frozenset(n.id for n in walk(e) if isinstance(n, ast.Name) and "#" in n.id)


class TooLarge(Exception):
    """More steps than allowed."""


class Supply:
    """New names: of indices (internal), and of definitions (never one that is `taken`). It also counts steps
    of whoever rewrites, for formulas that are copied to each use can multiply."""

    def __init__(self, taken: set[str], steps: int) -> None:
        self.taken = taken
        self._steps = steps
        self._number = count(1)

    def index(self, name: str) -> str:
        return f"{name.split('#')[0]}#{next(self._number)}"

    def definition(self, name: str) -> str:
        found = next(n for n in chain((name,), (f"{name}_{k}" for k in count(2))) if n not in self.taken)
        self.taken.add(found)
        return found

    def step(self) -> None:
        """Raises TooLarge."""
        self._steps -= 1
        if self._steps < 0:
            raise TooLarge


def readable(e: ast.Expr, names: Mapping[str, str], avoid: Collection[str], span: Span = NOWHERE) -> ast.Expr:
    """e with every internal name replaced: free ones as `names` says, bound ones by the name before the `#`,
    numbered when an enclosing index has it already. `avoid`: names that mean something else in the spec.
    Expressions made on the way get `span`."""
    e = replace(e, span=span) if e.span == NOWHERE else e
    match e:
        case ast.Name(name):
            return replace(e, id=names.get(name, name))
        case ast.Big(_, variable):
            inner = {**names, variable: _free(variable.split("#")[0], names.values(), avoid)}
            return replace(
                e,
                variable=inner[variable],
                bound=readable(e.bound, names, avoid, span),
                conditions=tuple(readable(c, inner, avoid, span) for c in e.conditions),
                body=readable(e.body, inner, avoid, span),
            )
        case _:
            return rebuild(e, lambda x: readable(x, names, avoid, span))


def _free(name: str, scope: Collection[str], avoid: Collection[str]) -> str:
    if name not in scope:
        return name
    return next(n for n in (f"{name}{k}" for k in count(1)) if n not in scope and n not in avoid)
