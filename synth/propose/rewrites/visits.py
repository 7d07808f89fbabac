"""Which blocks of keys a tile visits, and in what order: all of them, backwards, the diagonal first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from ir.ast import Assign, Binary, Call, Element, Expr, For, Module, Name, Statement
from synth.propose.formula import children, rebuild, substitute
from synth.propose.rewrites.bounds import Form, LoopConditions, call, definitions, number
from synth.propose.rewrites.loops import loops
from synth.propose.rewrites.rewrite import Rewrite, Site, Subject
from synth.propose.rewrites.straight import Scope, in_straight_form, mapped, names_of, places

ONE = Form.constant(1)

# ---- which blocks -------------------------------------------------------------------------------


def visit_all(subject: Subject) -> Iterator[Module]:
    """A loop runs over every iteration in which a condition that no program id takes part in can hold, and leaves the
    rest to the masks: the inverse of skipping blocks. More work, but bounds that are the same in every program; a
    step towards another split of the range. Applies where such a condition bounds the loop's variable from above, and
    what its range leaves out is what masks hide."""
    for site, k, loop in loops(subject):
        conditions = LoopConditions(site, k)
        found = list(conditions.possible())
        counters = _counters(site)
        flat = [b.rounded_up for b in found if b.below and not _varies(b.rounded_up, definitions(site, k), counters)]
        hidden = loop.start == number(0) or any(not b.below and conditions.known(b) for b in found)
        if flat and hidden:
            stop = flat[0]
            for other in dict.fromkeys(flat[1:]):
                stop = stop if other == stop else call("min", stop, other)
            if (loop.start, loop.stop) != (number(0), stop):
                yield site.splice(k, k + 1, replace(loop, start=number(0), stop=stop))


def _counters(site: Site) -> frozenset[str]:
    """Program ids, and counters of the loops around a site."""
    found = {axis.name for axis in site.kernel.grid}
    body = site.kernel.body
    for position in site.path:
        loop = body[position]
        assert isinstance(loop, For)
        found.add(loop.variable)
        body = loop.body
    return frozenset(found)


def _varies(expr: Expr, values: Mapping[str, Expr], counters: frozenset[str]) -> bool:
    """Whether a bound rests on a program id or a counter, but for what is loaded there (a sequence's length)."""
    match expr:
        case Name(id) if id in values:
            return _varies(values[id], values, counters)
        case Name(id):
            return id in counters
        case Element():
            return False
        case _:
            return any(_varies(child, values, counters) for child in children(expr))


# ---- order --------------------------------------------------------------------------------------


def reverse_keys(subject: Subject) -> Iterator[Module]:
    """A loop runs from its last iteration to its first, or forward again where its body counts backwards.

    Applies to every loop that carries something. With a causal mask the block at the diagonal comes first, so that
    the running maximum is near its end at once; and neighbouring programs meet in what the cache still holds.
    """
    names = names_of(subject)
    for place in places(subject.module):
        for at, loop in enumerate(place.block):
            if not isinstance(loop, For) or not loop.carried or loop.step != number(1):
                continue
            if (forward := _counted_forward(loop, place.scope(loop))) is not None:
                yield place.put((*place.block[:at], forward, *place.block[at + 1 :]))
                continue
            before: list[Statement] = []
            if isinstance(loop.stop, Call):
                blocks = names.fresh("blocks" if loop.start == number(0) else "stop")
                before.append(Assign(blocks, loop.stop))
                loop = replace(loop, stop=Name(blocks))
            last = Form.read(loop.start).plus(Form.read(loop.stop)).plus(ONE, -1).expr()
            place_of: dict[str, Expr] = {loop.variable: Binary("-", last, Name(loop.variable))}
            body = tuple(mapped(s, partial(substitute, values=place_of)) for s in loop.body)
            yield place.put((*place.block[:at], *before, replace(loop, body=body), *place.block[at + 1 :]))


def _counted_forward(loop: For, scope: Scope) -> For | None:
    """The loop with `last - n` as n, when that is the only way its body uses n."""
    last = Form.read(scope.whole(loop.start)).plus(Form.read(scope.whole(loop.stop))).plus(ONE, -1)
    counter, used, other = Name(loop.variable), False, False

    def one(node: Expr) -> Expr:
        nonlocal used, other
        match node:
            case Binary("-", left, right) if right == counter and Form.read(scope.whole(left)) == last:
                used = True
                return counter
            case Name() if node == counter:
                other = True
                return node
            case _:
                return rebuild(node, one)

    body = tuple(mapped(s, one) for s in loop.body)
    return replace(loop, body=body) if used and not other else None


def diagonal_first(subject: Subject) -> Iterator[Module]:
    """Two consecutive loops over adjoining ranges that carry the same state change places.

    Applies to loops with nothing between them, the first of which ends where the second starts: the masked blocks at
    the diagonal then come before the whole ones, and a running maximum settles early.
    """
    for place in places(subject.module):
        for at in range(len(place.block) - 1):
            match place.block[at : at + 2]:
                case (For() as first, For() as second) if (
                    first.stop == second.start and first.carried and set(first.carried) == set(second.carried)
                ):
                    yield place.put((*place.block[:at], second, first, *place.block[at + 2 :]))


REWRITES = (
    Rewrite("visit-all", visit_all),
    Rewrite("reverse-keys", in_straight_form(reverse_keys)),
    Rewrite("diagonal-first", in_straight_form(diagonal_first)),
)
