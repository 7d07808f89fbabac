"""Walking and rebuilding syntax trees, for what rewrites them: slips made on purpose (`mutate`) and `rewrites`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

from ir.ast import Assign, Axis, DTypeOf, Element, Expr, For, Kernel, Meta, Name, Scratch, Span, Statement

Node = Any  # a syntax node, a tuple of nodes, or a plain value inside one
OneNode = Callable[[Node], Iterator[Node]]


def one_place(node: Node, change: OneNode) -> Iterator[Node]:
    """Copies of a tree that differ from it in exactly one node, for each form that `change` gives that node."""
    yield from change(node)
    if isinstance(node, tuple):
        for k, item in enumerate(node):
            for changed in one_place(item, change):
                yield (*node[:k], changed, *node[k + 1 :])
    elif is_dataclass(node) and not isinstance(node, (Span, type)):
        for field in fields(node):
            for changed in one_place(getattr(node, field.name), change):
                yield replace(node, **{field.name: changed})


def every_place(node: Node, change: Callable[[Node], Node]) -> Node:
    """A copy in which `change` has rewritten every node, innermost first."""
    if isinstance(node, tuple):
        return change(tuple(every_place(item, change) for item in node))
    if is_dataclass(node) and not isinstance(node, (Span, type)):
        parts = {f.name: getattr(node, f.name) for f in fields(node)}
        changed = {k: new for k, old in parts.items() if (new := every_place(old, change)) is not old and new != old}
        return change(replace(node, **changed) if changed else node)
    return change(node)


def nodes(node: Node) -> Iterator[Node]:
    """Every dataclass node of a tree, parents first."""
    kind: Any = type(node)
    if isinstance(node, tuple):
        for item in node:
            yield from nodes(item)
    elif (parts := _parts(kind)) is not None:
        yield node
        for name in parts:
            yield from nodes(getattr(node, name))


@cache
def _parts(kind: Any) -> tuple[str, ...] | None:
    """The fields of a kind of node that may hold nodes; None for what is no node."""
    return tuple(f.name for f in fields(kind) if f.name != "span") if is_dataclass(kind) and kind is not Span else None


def reads(node: Node) -> frozenset[str]:
    """Names of values that a tree reads anywhere; a loop reads the names it carries."""
    found = {n.id for n in nodes(node) if isinstance(n, Name)}
    return frozenset(found.union(*(n.carried for n in nodes(node) if isinstance(n, For))))


def assigns(node: Node) -> frozenset[str]:
    """Names that statements of a tree give a value, loop variables included."""
    names = {n.name for n in nodes(node) if isinstance(n, Assign)}
    return frozenset(names | {n.variable for n in nodes(node) if isinstance(n, For)})


def identifiers(node: Node) -> frozenset[str]:
    """Every name that stands in a tree, whatever it names."""
    found = set(reads(node) | assigns(node))
    found |= {n.name for n in nodes(node) if isinstance(n, (Axis, Element, Kernel, Meta, Scratch))}
    found |= {n.tensor for n in nodes(node) if isinstance(n, DTypeOf)}
    return frozenset(found)


def substituted(node: Node, values: Mapping[str, Expr]) -> Node:
    """The tree with names read as other expressions. Assigned and carried names stay: see `renamed`."""
    return every_place(node, lambda n: values.get(n.id, n) if isinstance(n, Name) else n)


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """The tree with values called otherwise, where they are read, assigned and carried."""

    def change(n: Node) -> Node:
        match n:
            case Name(id) if id in names:
                return replace(n, id=names[id])
            case Assign(name) if name in names:
                return replace(n, name=names[name])
            case For(variable, carried=carried):
                carried = tuple(names.get(c, c) for c in carried)
                return replace(n, variable=names.get(variable, variable), carried=carried)
            case _:
                return n

    return every_place(node, change)


def without_comments(statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The statements without the remarks at the ends of their lines, which need not be true of a copy."""
    return tuple(
        replace(s, comment="", body=without_comments(s.body)) if isinstance(s, For) else replace(s, comment="")
        for s in statements
    )
