"""How cells that do not count are kept out: masks of loads or clamped indices, -inf chosen or added, guards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from ir.ast import Assign, Binary, Call, Element, Expr, Module, Name, Number, Statement
from synth.propose.formula import substitute
from synth.propose.rewrites.pivots import Sweep, sweeps
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import in_straight_form, mapped, names_of, places
from synth.propose.rewrites.tiles import MINUS_INF, guard, guarded, number, unwrapped
from synth.propose.tree import Node, every_place, nodes, one_place, substituted


def clamp_loads(subject: Subject) -> Iterator[Module]:
    """Loads whose mask only keeps an index below a size read the last cell instead, without a mask.

    Applies to `mask = x < L` with x in the index; all such loads of a file at once. A load without a predicate can be
    an asynchronous copy or TMA; cells past the end hold numbers then, which score masks and stores must keep out.
    """

    def one(node: Node) -> Node:
        match node:
            case Call("load", (Element(tensor, index),), keywords) if (mask := dict(keywords).get("mask")) is not None:
                match mask:
                    case Binary("<", left, length) if isinstance(name := unwrapped(left), Name):
                        inside = Call("minimum", (name, Binary("-", length, number(1, False))))
                        cells = tuple(substituted(i, {name.id: inside}) for i in index)
                        if cells != index:
                            return Call("load", (Element(tensor, cells),))
        return node

    changed = every_place(subject.module, one)
    if changed != subject.module:
        yield changed


def mask_by_addition(subject: Subject) -> Iterator[Module]:
    """A score chosen to be -inf where it does not count has 0 or -inf added to it instead.

    Applies to `where(c, s, -inf)`; one place at a time. The mask's tile can then be computed before the product is
    there, and the addition fused with the scaling.
    """

    def one(node: Node) -> Iterator[Node]:
        match node:
            case Call("where", (condition, value, low)) if low == MINUS_INF and not isinstance(value, Number):
                yield Binary("+", value, Call("where", (condition, number(0), low)))

    yield from one_place(subject.module, one)


def mask_by_choice(subject: Subject) -> Iterator[Module]:
    """A mask that is added as 0 or -inf chooses instead: the inverse of `mask_by_addition`.

    Applies to `s + where(c, 0, -inf)`; one place at a time. What is hidden may then be anything, an infinity or NaN
    of a product included.
    """

    def one(node: Node) -> Iterator[Node]:
        match node:
            case Binary("+", value, Call("where", (condition, Number(zero), low))) if zero == 0 and low == MINUS_INF:
                yield Call("where", (condition, value, low))

    yield from one_place(subject.module, one)


# ---- guards -------------------------------------------------------------------------------------


def drop_guard(subject: Subject) -> Iterator[Module]:
    """A guard for rows that have seen nothing goes: `where(m == -inf, 0, m)` and `where(l == 0, 1, l)` as m and l.

    Applies to every guard, one at a time. Right where each row sees a cell by then; elsewhere the gate refutes it.
    """

    def one(node: Node) -> Iterator[Node]:
        match node:
            case Call() if (inner := guarded(node)) is not None:
                yield inner
            case Call("where", (Binary("==", tested, Number(zero)), Number(), kept)) if zero == 0 and tested == kept:
                yield kept

    yield from one_place(subject.module, one)


def guard_pivot(subject: Subject) -> Iterator[Module]:
    """A pivot that may still be -inf is taken as 0 where weights are computed, so that no -inf - -inf arises.

    Applies to loops that weigh by a pivot without such a guard. It makes other rewrites right that let a tile meet
    blocks it sees nothing of: reversal, splitting, visiting all.
    """
    names, module = names_of(subject), subject.module
    while (found := next(((p, s) for p in places(module) for s in sweeps(p) if _bare(s)), None)) is not None:
        place, sweep = found
        safe = names.fresh(f"{sweep.m}_safe")
        values: dict[str, Expr] = {sweep.moved: Name(safe)}
        body: list[Statement] = []
        for statement in sweep.loop.body:
            if isinstance(statement, Assign) and statement.name == sweep.moved:
                body += [statement, Assign(safe, guard(Name(sweep.moved)))]
            elif isinstance(statement, Assign) and statement.name == sweep.m:
                body.append(statement)
            else:
                body.append(mapped(statement, partial(substitute, values=values)))
        loop = replace(sweep.loop, body=tuple(body))
        module = place.put((*place.block[: sweep.at], loop, *place.block[sweep.at + 1 :]))
    if module != subject.module:
        yield module


def _bare(sweep: Sweep) -> bool:
    """Whether a sweep weighs by its pivot as it is."""
    return any(Name(sweep.moved) in nodes(e.pivot) for e in sweep.exponentials())


REWRITES = (
    Rewrite("clamp-loads", clamp_loads),
    Rewrite("mask-by-addition", mask_by_addition),
    Rewrite("mask-by-choice", mask_by_choice),
    Rewrite("drop-guard", drop_guard),
    Rewrite("guard-pivot", in_straight_form(guard_pivot)),
)
