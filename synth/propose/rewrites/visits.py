"""Which blocks of keys a tile visits, and in what order: skipping, visiting all, whole blocks apart, reversal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ir.ast import Assign, Binary, Call, Expr, For, Module, Name, Number, Statement
from synth.propose.formula import rebuild, substitute
from synth.propose.rewrites.affine import Poly
from synth.propose.rewrites.keys import (
    CONSTANT_ONE,
    Bounds,
    Keys,
    bounds,
    key_loops,
    minimands,
    nested,
    plus,
    score_masks,
    spread,
    zero,
)
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import Block, Place, Scope, in_straight_form, inside_out, mapped, names_of, places
from synth.propose.rewrites.tiles import MINUS_INF, guarded, number, unwrapped

# ---- which blocks -------------------------------------------------------------------------------


def skip_unseen(subject: Subject) -> Iterator[Module]:
    """A loop over key blocks ends after the last, and starts at the first, that some row of the tile may see.

    Applies where a score mask bounds the key linearly (causal masks, windows) and the loop goes further. A causal
    kernel does half the work.
    """
    for place in places(subject.module):
        for keys in key_loops(place):
            found = bounds(keys, score_masks(keys))
            if keys.whole_blocks and (loop := _tightened(keys, found)) is not None:
                yield _put(place, keys, loop)


def visit_all(subject: Subject) -> Iterator[Module]:
    """A loop over key blocks runs over all keys, and leaves it to the mask what a row sees: the inverse of skipping.

    More work, but bounds that no program id takes part in; a step towards other splits of the range.
    """
    for place in places(subject.module):
        for keys in key_loops(place):
            found = bounds(keys, score_masks(keys))
            if keys.whole_blocks and found.flat and found.complete and not keys.offset.parts:
                stop = _block_count(keys, nested("min", list(dict.fromkeys(plus(h, 1) for h in found.flat))))
                loop = replace(keys.loop, start=zero(), stop=stop)
                if keys.scope.whole(keys.loop.stop) != keys.scope.whole(stop) or loop.start != keys.loop.start:
                    yield _put(place, keys, loop)


def _put(place: Place, keys: Keys, *new: Statement) -> Module:
    return place.put((*place.block[: keys.at], *new, *place.block[keys.at + 1 :]))


def _block_count(keys: Keys, length: Expr) -> Expr:
    """The counter's end for keys below `length`."""
    inner = Poly.of(length).plus(keys.offset, -1).expr() if keys.offset.parts else length
    return inner if keys.stride == CONSTANT_ONE else Call("cdiv", (inner, keys.width))


def _first_block(keys: Keys, low: Expr) -> Expr:
    """The counter's start for keys from `low` on."""
    inner = nested("max", [zero(), Poly.of(low).plus(keys.offset, -1).expr()])
    block = Binary("//", inner, keys.width)
    return Binary("*", block, keys.width) if keys.stride == CONSTANT_ONE else block


def _tightened(keys: Keys, found: Bounds) -> For | None:
    loop = keys.loop
    match keys.scope.see(loop.stop):
        case Call("cdiv", (length, width)) if width == keys.width:
            have = minimands(length, keys.scope)
        case length:
            have = minimands(length, keys.scope) if keys.stride == CONSTANT_ONE else []
    known = {Poly.of(keys.scope.whole(h)) for h in have}
    highs = [plus(h, 1) for h in found.some_high]
    more = [h for h in dict.fromkeys(highs) if not _known(Poly.of(keys.scope.whole(h)), known)]
    stop = loop.stop
    if more and have:
        stop = _block_count(replace(keys, offset=Poly()), nested("min", [*have, *more]))
    elif more:
        stop = nested("min", [stop, *(_block_count(keys, h) for h in more)])
    start = loop.start
    if found.some_low and start == zero():
        start = _first_block(keys, nested("max", list(dict.fromkeys(found.some_low))))
    return None if (start, stop) == (loop.start, loop.stop) else replace(loop, start=start, stop=stop)


def _known(form: Poly, known: set[Poly]) -> bool:
    return any(not form.plus(other, -1).parts for other in known)


# ---- whole blocks apart -------------------------------------------------------------------------


def whole_blocks_apart(subject: Subject) -> Iterator[Module]:
    """Blocks that every row of the tile sees whole get a loop of their own, without masks and guards.

    Applies where all score masks bound the key. Most blocks then need no comparison and no select, and their loads no
    predicate; a masked loop remains for the diagonal, the edges of a window and the ragged end.
    """
    names = names_of(subject)
    for place in places(subject.module):
        for keys in key_loops(place):
            masks = [c for c in score_masks(keys) if keys.scope.rests_on(c, keys.name)]
            found = bounds(keys, masks)
            simple = keys.stride == Poly.of(keys.width) and not keys.offset.parts and keys.loop.step == _one()
            if not masks or not found.complete or not simple:
                continue
            clear = replace(keys.loop, body=_unmasked(keys, masks))
            if not found.some_low:
                full = names.fresh("full_blocks")
                high = nested("min", list(dict.fromkeys(plus(h, 1) for h in found.every_high)))
                high = high if set(found.every_high) <= set(found.flat) else nested("max", [zero(), high])
                count = Assign(full, Binary("//", high, keys.width))
                clear = replace(clear, stop=Name(full))
                yield _put(place, keys, count, clear, replace(keys.loop, start=Name(full)))
            else:
                yield _put(place, keys, *_three(keys, found, clear, names.fresh))
    return


def _three(keys: Keys, found: Bounds, clear: For, fresh) -> list[Statement]:  # type: ignore[no-untyped-def]
    """Left edge, whole blocks, right edge."""
    first, last, left, right = (fresh(n) for n in ("first", "last", "clear_first", "clear_last"))
    lowest = nested("max", [zero(), *dict.fromkeys(found.every_low)])
    highest = nested("max", [zero(), nested("min", list(dict.fromkeys(plus(h, 1) for h in found.every_high)))])
    starts = nested("min", [Name(last), Call("cdiv", (lowest, keys.width))])
    stops = nested("min", [Name(last), Binary("//", highest, keys.width)])
    return [
        Assign(first, keys.loop.start),
        Assign(last, keys.loop.stop),
        Assign(left, nested("max", [Name(first), starts])),
        Assign(right, nested("max", [Name(left), stops])),
        replace(keys.loop, start=Name(first), stop=Name(left)),
        replace(clear, start=Name(left), stop=Name(right)),
        replace(keys.loop, start=Name(right), stop=Name(last)),
    ]


def _unmasked(keys: Keys, masks: list[Expr]) -> Block:
    """The body for blocks in which every cell is visible."""

    def without(condition: Expr) -> Expr | None:
        left = [c for c in spread(condition, keys.scope) if c not in masks and not _same_rank(c, masks, keys)]
        result: Expr | None = None
        for part in left:
            result = part if result is None else Binary("and", result, part)
        return result

    def one(node: Expr) -> Expr:
        match node:
            case Call("where", (condition, value, low)) if low in (MINUS_INF, number(0)):
                left = without(condition)
                return value if left is None else Call("where", (left, value, low))
            case Call("load", args, keywords) if (mask := dict(keywords).get("mask")) is not None:
                left = without(mask)
                words = () if left is None else tuple((k, left if k == "mask" else v) for k, v in keywords)
                return Call("load", args, words)
            case _ if (inner := guarded(node)) is not None:
                return inner
            case _:
                return node

    names: dict[str, Expr] = {}
    body: list[Statement] = []
    for statement in keys.loop.body:
        new = mapped(statement, lambda e: substitute(inside_out(e, one), names))
        if isinstance(new, Assign) and isinstance(new.value, Name) and new.name not in keys.loop.carried:
            names[new.name] = new.value
        else:
            body.append(new)
    return tuple(body)


def _same_rank(condition: Expr, masks: list[Expr], keys: Keys) -> bool:
    """Whether a condition says of keys what a score mask says, along another axis: `j[:, None] < N`."""
    flat = [_flat(keys.scope.see(m)) for m in masks]
    return _flat(keys.scope.see(condition)) in flat


def _flat(expr: Expr) -> Expr:
    return inside_out(expr, unwrapped)


# ---- order --------------------------------------------------------------------------------------


def reverse_keys(subject: Subject) -> Iterator[Module]:
    """A loop runs from its last iteration to its first, or forward again where its body counts backwards.

    Applies to every loop that carries something. With a causal mask the block at the diagonal comes first, so that
    the running maximum is near its end at once; and neighbouring programs meet in what the cache still holds.
    """
    names = names_of(subject)
    for place in places(subject.module):
        for at, loop in enumerate(place.block):
            if not isinstance(loop, For) or not loop.carried or loop.step != _one():
                continue
            scope = place.scope(loop)
            last = Poly.of(loop.start).plus(Poly.of(loop.stop)).plus(CONSTANT_ONE, -1)
            if (forward := _counted_forward(loop, scope)) is not None:
                yield place.put((*place.block[:at], forward, *place.block[at + 1 :]))
                continue
            before: list[Statement] = []
            if not isinstance(loop.stop, Name) and not loop.start == zero() or isinstance(loop.stop, Call):
                blocks = names.fresh("blocks" if loop.start == zero() else "stop")
                before.append(Assign(blocks, loop.stop))
                loop = replace(loop, stop=Name(blocks))
                last = Poly.of(loop.start).plus(Poly.of(loop.stop)).plus(CONSTANT_ONE, -1)
            place_of: dict[str, Expr] = {loop.variable: Binary("-", last.expr(), Name(loop.variable))}
            body = tuple(mapped(s, lambda e, v=place_of: substitute(e, v)) for s in loop.body)  # type: ignore[misc]
            yield place.put((*place.block[:at], *before, replace(loop, body=body), *place.block[at + 1 :]))


def _one() -> Number:
    return Number(CONSTANT_ONE.parts[0][1])  # type: ignore[arg-type]


def _counted_forward(loop: For, scope: Scope) -> For | None:
    """The loop with `last - n` as n, when that is the only way its body uses n."""
    last = Poly.of(scope.whole(loop.start)).plus(Poly.of(scope.whole(loop.stop))).plus(CONSTANT_ONE, -1)
    counter, used, other = Name(loop.variable), False, False

    def one(node: Expr) -> Expr:
        nonlocal used, other
        match node:
            case Binary("-", left, right) if right == counter:
                if not Poly.of(scope.whole(left)).plus(last, -1).parts:
                    used = True
                    return counter
                other = True
                return node
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
            first, second = place.block[at : at + 2]
            if (
                isinstance(first, For)
                and isinstance(second, For)
                and first.stop == second.start
                and first.carried
                and set(first.carried) == set(second.carried)
            ):
                yield place.put((*place.block[:at], second, first, *place.block[at + 2 :]))


REWRITES = (
    Rewrite("skip-unseen", in_straight_form(skip_unseen)),
    Rewrite("visit-all", in_straight_form(visit_all)),
    Rewrite("whole-blocks-apart", in_straight_form(whole_blocks_apart)),
    Rewrite("reverse-keys", in_straight_form(reverse_keys)),
    Rewrite("diagonal-first", in_straight_form(diagonal_first)),
)
