"""Rewrites of where a loop starts and stops: blocks that need no mask, blocks that need no visit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from ir.ast import Assign, Binary, Call, Expr, For, Module, Name, Number, Statement
from synth.propose.rewrites.bounds import Bound, LoopConditions, call, number, settled
from synth.propose.rewrites.loops import loops
from synth.propose.rewrites.rewrite import Rewrite, Site, Subject
from synth.propose.tree import without_comments

ONE = Number(Fraction(1))


def split_loop(subject: Subject) -> Iterator[Module]:
    """A loop becomes two or three over parts of its range: where conditions hold for every lane of a tile, a body
    without them; the rest with them. Applies where a mask's comparison is affine in the loop's variable. Most blocks
    of a long loop need no mask, and comparing and selecting cost as much as the exponential they guard."""
    for site, k, loop in loops(subject):
        if any(_continues(site, first) for first in (k - 1, k)):
            continue
        found = tuple(LoopConditions(site, k).always())
        ends = dict.fromkeys((b.below, b.value) for b in found)
        choices = [found]
        if len(ends) > 1:
            choices += [tuple(b for b in found if b.below is below) for below in (True, False)]
            choices += [tuple(b for b in found if (b.below, b.value) == end) for end in ends]
        for chosen in dict.fromkeys(c for c in choices if c):
            yield _split(site, k, loop, chosen)


def _continues(site: Site, first: int) -> bool:
    """Whether the loop after statement `first` goes on where that one, a loop too, stopped: they are split already."""
    match site.statements[max(first, 0) : first + 2]:
        case (For(stop=stop, carried=one), For(start=start, carried=two)):
            return stop == start and one == two
        case _:
            return False


def _split(site: Site, k: int, loop: For, bounds: tuple[Bound, ...]) -> Module:
    subject = site.subject
    first, last = subject.fresh("whole"), subject.fresh("whole_stop")
    before, parts, start = list[Statement](), list[Statement](), loop.start
    if lows := _values(bounds, False):
        before.append(Assign(first, _within(start, loop.stop, _nested("max", lows), loop.step)))
        parts.append(replace(loop, stop=Name(first), body=without_comments(loop.body)))
        start = Name(first)
    clear = settled(loop.body, tuple(b.condition for b in bounds))
    if highs := _values(bounds, True):
        before.append(Assign(last, _within(start, loop.stop, _nested("min", highs), loop.step)))
        parts.append(replace(loop, start=start, stop=Name(last), body=clear))
        parts.append(replace(loop, start=Name(last), body=without_comments(loop.body)))
    else:
        parts.append(replace(loop, start=start, body=clear))
    return site.splice(k, k + 1, *before, *parts)


def _values(bounds: tuple[Bound, ...], below: bool) -> list[Expr]:
    return list(dict.fromkeys(b.value for b in bounds if b.below is below))


def skip_blocks(subject: Subject) -> Iterator[Module]:
    """Tighter bounds of a loop: blocks in which a condition of its masks holds for no lane are not visited. Applies
    where a comparison is affine in the loop's variable; saves half the work of a causal mask."""
    for site, k, loop in loops(subject):
        conditions = LoopConditions(site, k)
        for bound in conditions.possible():
            if conditions.known(bound):
                continue
            if bound.below:
                yield site.splice(k, k + 1, replace(loop, stop=_sooner(loop.stop, bound)))
            elif loop.step == ONE:
                yield site.splice(k, k + 1, replace(loop, start=_later(loop.start, bound)))


def _sooner(stop: Expr, bound: Bound) -> Expr:
    match stop:
        case Call("cdiv", (length, unit)) if unit == bound.unit.expr():
            return call("cdiv", call("min", length, bound.length.expr()), unit)
        case _:
            return call("min", stop, bound.rounded_up)


def _later(start: Expr, bound: Bound) -> Expr:
    unit, top = bound.unit.expr(), bound.top.expr()
    if start == number(0) and unit != ONE:
        return Binary("//", call("max", start, top), unit)
    return call("max", start, bound.value)


def _within(start: Expr, stop: Expr, value: Expr, step: Expr) -> Expr:
    """`value`, kept from `start` to `stop`, a whole number of steps after `start`."""
    end = call("min", stop, value)
    match value:
        case Binary("//", length, unit) if start == number(0) and stop == call("cdiv", length, unit) and step == ONE:
            return value  # whole blocks of a length, of all its blocks
    if step == ONE:
        return call("max", start, end)
    length = end if start == number(0) else Binary("-", end, start)
    steps = Binary("*", call("cdiv", call("max", number(0), length), step), step)
    return steps if start == number(0) else Binary("+", start, steps)


def _nested(function: str, values: list[Expr]) -> Expr:
    head, *tail = values
    return call(function, head, _nested(function, tail)) if tail else head


REWRITES = (Rewrite("split-loop", split_loop), Rewrite("skip-blocks", skip_blocks))
