"""How sums are accumulated and divided: in a product's third argument or beside it, divided at once or at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ir.ast import Assign, Binary, Call, Expand, Expr, For, Module, Name, Number, Statement
from synth.propose.formula import substitute
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import Place, Scope, in_straight_form, inside_out, mapped, places
from synth.propose.rewrites.tiles import NoShape, extents, lined_up, number, origin, unwrapped
from synth.propose.tree import Node, one_place, reads

ONE = number(1)


def accumulate_outside(subject: Subject) -> Iterator[Module]:
    """`dot(a, b, c)` becomes `c + dot(a, b)`: the product does not wait for what c is still computed from.

    Applies to every product with a third argument; one place at a time.
    """

    def one(node: Node) -> Iterator[Node]:
        match node:
            case Call("dot", (left, right, before)):
                yield Binary("+", before, Call("dot", (left, right)))

    yield from one_place(subject.module, one)


def accumulate_inside(subject: Subject) -> Iterator[Module]:
    """`c + dot(a, b)` becomes `dot(a, b, c)`: tensor cores add into their accumulator, with no addition of its own.

    Applies where c has the product's shape; one place at a time.
    """

    def one(node: Node) -> Iterator[Node]:
        match node:
            case Binary("+", before, Call("dot", (left, right))) | Binary("+", Call("dot", (left, right)), before):
                yield Call("dot", (left, right, before))

    yield from one_place(subject.module, one)


def reciprocal(subject: Subject) -> Iterator[Module]:
    """A tile divided by a row value is multiplied by its reciprocal, one division a row instead of one an element.

    Applies to `x / y[:, None]`; one place at a time.
    """

    def one(node: Node) -> Iterator[Node]:
        match node:
            case Binary("/", left, Expand(Name() | Call() as row, axes)):
                yield Binary("*", left, Expand(Binary("/", ONE, row), axes))

    yield from one_place(subject.module, one)


def divide(subject: Subject) -> Iterator[Module]:
    """A tile multiplied by a row's reciprocal is divided by the row value: one rounding instead of two.

    Applies to `x * (1.0 / y)[:, None]`; one place at a time.
    """

    def one(node: Node) -> Iterator[Node]:
        match node:
            case Binary("*", left, Expand(Binary("/", Number(value), row), axes)) if value == 1:
                yield Binary("/", left, Expand(row, axes))

    yield from one_place(subject.module, one)


# ---- when a running sum is divided --------------------------------------------------------------


def divide_once(subject: Subject) -> Iterator[Module]:
    """An output that is normalised after every block is summed without, and divided after the loop (FlashAttention-2).

    Applies to a carried tile whose next value is a quotient by the next value of another carried name, and in which
    the tile itself is multiplied by that name's old value. A division and a product for each element and block are
    saved.
    """
    for place in places(subject.module):
        for at, loop in enumerate(place.block):
            if isinstance(loop, For):
                scope = place.scope(loop)
                for name in loop.carried:
                    if (found := _normalised(loop, scope, name)) is not None:
                        yield from _divided_once(place, at, loop, name, *found)


def _normalised(loop: For, scope: Scope, name: str) -> tuple[str, Expr, str] | None:
    """The statement that divides, the dividend, and the carried sum it is divided by."""
    last = next((s.value for s in reversed(loop.body) if isinstance(s, Assign) and s.name == name), None)
    match last, None if last is None else scope.see(last):
        case Name(id), Binary("/", dividend, divisor):
            final = {s.value: s.name for s in loop.body if isinstance(s, Assign) and s.name in loop.carried}
            total = final.get(_unguarded(divisor, scope))
            return None if total is None else (id, dividend, total)
        case _:
            return None


def _unguarded(expr: Expr, scope: Scope) -> Expr:
    """The name behind axes put in and a guard against 0."""
    inner = origin(expr, scope)
    match scope.see(inner):
        case Call("where", (_, Number(), Name() as kept)):
            return kept
        case _:
            return inner


def _divided_once(
    place: Place, at: int, loop: For, name: str, set_by: str, dividend: Expr, total: str
) -> Iterator[Module]:
    scope, changed = place.scope(loop), 0

    def one(node: Expr) -> Expr:
        """acc * (l * alpha) as acc * alpha."""
        nonlocal changed
        match node:
            case Binary("*", Name(id), factor) if id == name:
                match scope.see(unwrapped(factor)):
                    case Binary("*", Name(old), alpha) | Binary("*", alpha, Name(old)) if old == total:
                        changed += 1
                        axes = factor.axes if isinstance(factor, Expand) else None
                        return Binary("*", Name(id), alpha if axes is None else Expand(alpha, axes))
                    case Name(old) if old == total:
                        changed += 1
                        return Name(id)
        return node

    body: list[Statement] = []
    for statement in loop.body:
        new = mapped(statement, lambda e: inside_out(e, one))
        if isinstance(new, Assign) and new.name == set_by:
            new = replace(new, value=inside_out(dividend, one))
        body.append(new)
    try:
        row, own = extents(Name(total), place.scope()), extents(Name(name), place.scope())
        safe = Call("where", (Binary("==", Name(total), number(0)), ONE, Name(total)))
        quotient = Binary("/", Name(name), lined_up(safe, row, own))
    except NoShape:
        return
    after = [mapped(s, lambda e: substitute(e, {name: quotient})) for s in place.block[at + 1 :]]
    if changed and not any(isinstance(s, For) and name in reads(s) for s in after):
        yield place.put((*place.block[:at], replace(loop, body=tuple(body)), *after))


REWRITES = (
    Rewrite("accumulate-outside", accumulate_outside),
    Rewrite("accumulate-inside", accumulate_inside),
    Rewrite("reciprocal", reciprocal),
    Rewrite("divide", divide),
    Rewrite("divide-once", in_straight_form(divide_once)),
)
