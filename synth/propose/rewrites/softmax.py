"""How the pivot of a softmax moves: running maximum, lazily moved, found in a pass of its own, or none at all.

Every weight is exp(score - pivot) and the pivot cancels in the quotient, so any of these computes the same numbers in
exact arithmetic. They differ in what a block costs (rescales, a second look at the keys) and in whether a weight can
overflow, which obligation S1 decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ir.ast import Assign, Binary, Call, Expr, For, Module, Name, Number, Statement, Store
from synth.propose.emit import Names
from synth.propose.formula import substitute
from synth.propose.rewrites.pivots import Exponential, Sweep, exponentials, sweeps
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import (
    Block,
    Place,
    Scope,
    expressions,
    hoisted,
    in_straight_form,
    inside_out,
    mapped,
    merged,
    names_of,
    places,
)
from synth.propose.rewrites.tiles import MINUS_INF, NoShape, extents, guard, guarded, lined_up, number, origin, simpler
from synth.propose.tree import assigns, nodes, reads, renamed

THRESHOLD = 8  # weights stay below exp(8): far from overflow, also in fp16, and rescales are rare


# ---- when the pivot moves -----------------------------------------------------------------------


def lazy_pivot(subject: Subject) -> Iterator[Module]:
    """The pivot moves only when a block's maximum exceeds it by more than 8 (FlashAttention-4).

    Applies to every running maximum that weights are taken against. Rescaling the accumulator by exactly 1 is then
    the common case, which a compiler can skip and which rounds nothing.
    """

    def change(sweep: Sweep, names: Names) -> list[Statement]:
        top, m = names.fresh("top"), Name(sweep.m)
        moves = Binary(">", Name(top), Binary("+", m, number(THRESHOLD)))
        return [Assign(top, _maximum(sweep.tops)), Assign(sweep.moved, Call("where", (moves, Name(top), m)))]

    yield from _moved_otherwise(subject, lambda s: s.threshold is None and bool(s.exponentials()), change)


def running_pivot(subject: Subject) -> Iterator[Module]:
    """A lazily moved pivot becomes the running maximum: no comparison, and weights never exceed 1."""

    def change(sweep: Sweep, _: Names) -> list[Statement]:
        return [Assign(sweep.moved, _maximum((Name(sweep.m), *sweep.tops)))]

    yield from _moved_otherwise(subject, lambda s: s.threshold is not None, change)


def _moved_otherwise(
    subject: Subject, wanted: Callable[[Sweep], bool], change: Callable[[Sweep, Names], list[Statement]]
) -> Iterator[Module]:
    """Every wanted sweep with the statement that moves its pivot replaced."""
    names, module = names_of(subject), subject.module
    while (found := next(((p, s) for p in places(module) for s in sweeps(p) if wanted(s)), None)) is not None:
        place, sweep = found
        body: list[Statement] = []
        for statement in sweep.loop.body:
            moves = isinstance(statement, Assign) and statement.name == sweep.moved
            body += change(sweep, names) if moves else [statement]
        module = place.put(_with(place.block, sweep.at, replace(sweep.loop, body=tuple(body))))
    if module != subject.module:
        yield module


def _maximum(parts: tuple[Expr, ...]) -> Expr:
    first, *rest = parts
    for part in rest:
        first = Call("maximum", (first, part))
    return first


def _with(block: Block, at: int, *new: Statement) -> Block:
    return (*block[:at], *new, *block[at + 1 :])


# ---- no pivot that moves ------------------------------------------------------------------------


def two_passes(subject: Subject) -> Iterator[Module]:
    """The maximum is found in a pass of its own; the pass that weighs then has a pivot that stays.

    Applies to consecutive loops that sweep with one pivot. Scores are computed twice, but no accumulator is ever
    rescaled, which pays where the product with V is what a block costs.
    """
    for place in places(subject.module):
        for m, group in _groups(place):
            loops = [_still(sweep, Name(m)) for sweep in group]
            first = group[0].at
            block = [s for k, s in enumerate(place.block) if k not in {s.at for s in group}]
            passes = [_maximum_pass(sweep) for sweep in group]
            yield place.put(hoisted((*block[:first], *passes, *loops, *block[first:])))


def fixed_pivot(subject: Subject) -> Iterator[Module]:
    """No pivot: weights are exp(score) itself, and nothing is ever rescaled or compared.

    Right where scores are bounded well enough for exp not to overflow (capped logits with a small cap); S1 refutes it
    elsewhere. Applies where the pivot starts at -inf, so that it stands for the scores alone.
    """
    for place in places(subject.module):
        for m, group in _groups(place):
            starts = place.scope().starts.get(m)
            if not (isinstance(starts, Call) and starts.function == "full" and starts.args[1] == MINUS_INF):
                continue
            loops = {s.at: _still(s, number(0)) for s in group}
            block = [loops.get(k, s) for k, s in enumerate(place.block)]
            first = group[0].at
            yield place.put((*block[:first], *_where_zero(tuple(block[first:]), m)))


def _where_zero(block: Block, name: str) -> Iterator[Statement]:
    """A block in which a name is 0."""
    zero: dict[str, Expr] = {name: number(0)}
    return (mapped(s, lambda e: _simplified(substitute(e, zero))) for s in block)


def _groups(place: Place) -> Iterator[tuple[str, list[Sweep]]]:
    """Consecutive loops of a block that weigh by one pivot and store nothing."""
    found: dict[str, list[Sweep]] = {}
    for sweep in sweeps(place):
        if sweep.exponentials() and not any(isinstance(s, (Store, For)) for s in sweep.loop.body):
            found.setdefault(sweep.m, []).append(sweep)
    for m, group in found.items():
        carrying = [k for k, s in enumerate(place.block) if isinstance(s, For) and m in s.carried]
        if carrying == [s.at for s in group] and carrying == list(range(carrying[0], carrying[0] + len(group))):
            yield m, group


def _maximum_pass(sweep: Sweep) -> For:
    """What of a sweep moves its pivot; the rest is dead code."""
    body: list[Statement] = []
    for statement in sweep.loop.body:
        match statement:
            case Assign(name) if name == sweep.moved:
                body.append(replace(statement, value=_maximum((Name(sweep.m), *sweep.tops)), comment=""))
            case Assign(name) if name in sweep.loop.carried and name != sweep.m:
                pass
            case _:
                body.append(statement)
    return replace(sweep.loop, carried=(sweep.m,), body=tuple(body))


def _still(sweep: Sweep, pivot: Expr) -> For:
    """A sweep whose pivot has one value: what rescaled is 1 and goes."""
    values: dict[str, Expr] = {sweep.moved: pivot}
    rescales = {e.call for e in sweep.exponentials() if sweep.is_rescale(e)}
    m = sweep.m

    def change(expr: Expr) -> Expr:
        one = inside_out(expr, lambda e: number(1) if e in rescales else e)
        return _simplified(substitute(one, values), m)

    body: list[Statement] = []
    for statement in sweep.loop.body:
        if isinstance(statement, Assign) and statement.name in (sweep.moved, m):
            continue
        new = mapped(statement, change)
        if isinstance(new, Assign) and isinstance(new.value, Number):
            values[new.name] = new.value
        else:
            body.append(new)
    return replace(sweep.loop, carried=tuple(c for c in sweep.loop.carried if c != m), body=tuple(body))


def _simplified(expr: Expr, m: str = "") -> Expr:
    def one(node: Expr) -> Expr:
        match node:
            case Call("where", (Binary("==", Name(tested), low), Number(), Number(value) as kept)):
                return kept if tested == m and low == MINUS_INF and value == 1 else node
            case _:
                return simpler(node)

    return inside_out(expr, one)


# ---- two passes in one --------------------------------------------------------------------------


def one_pass(subject: Subject) -> Iterator[Module]:
    """Two passes over the keys, maximum then weights, become one with a running maximum (online softmax).

    Applies to a loop that finds a row maximum and a later one over the same range that weighs against it. Keys are
    loaded once instead of twice; accumulators are rescaled when the maximum grows (Milakov and Gimelshein, 2018).
    """
    names = names_of(subject)
    for place in places(subject.module):
        for first in sweeps(place):
            for at in range(first.at + 1, len(place.block)):
                second = place.block[at]
                if isinstance(second, For) and (new := _online(place, first, at, second, names)) is not None:
                    yield place.put(new)
                    break


def _online(place: Place, first: Sweep, at: int, second: For, names: Names) -> Block | None:
    scope, m = place.scope(second), first.m
    weights = [e for e in exponentials(second, scope) if origin(e.pivot, scope) == Name(m)]
    inner = (*first.loop.body, *second.body, *place.block[first.at + 1 : at])
    if not weights or m in second.carried or any(isinstance(s, (For, Store)) for s in inner):
        return None
    if tuple(map(scope.whole, _range(first.loop))) != tuple(map(scope.whole, _range(second))):
        return None
    guards = {n for n, v in scope.values.items() if guarded(v) is not None and origin(Name(n), scope) == Name(m)}
    late = _resting_on(place.block[first.at + 1 : at], m)
    if any(reads(s) & (late - guards) for s in second.body):
        return None
    moved, alpha = names.fresh(f"{m}_new"), names.fresh("alpha")
    head = [*renamed(first.loop.body, {first.moved: moved, first.loop.variable: second.variable})[:-1]]
    clash = {n: names.fresh(n) for n in sorted(assigns(second.body) & assigns(tuple(head)))}
    pivot: Expr = Name(moved)
    if guards:
        pivot = Name(names.fresh(f"{m}_safe"))
        head.append(Assign(pivot.id, guard(Name(moved))))
    values: dict[str, Expr] = {m: Name(moved), **dict.fromkeys(guards, pivot)}
    head.append(Assign(alpha, _rescale(weights[0], Name(m), pivot)))
    try:
        body = [_rescaled(s, second, scope, weights, alpha, values) for s in second.body]
    except NoShape:
        return None
    body = list(renamed(tuple(body), clash))
    loop = replace(second, carried=(m, *second.carried), body=merged((*head, *body, Assign(m, Name(moved)))))
    between = place.block[first.at + 1 : at]
    before = [s for s in between if not _sets(s, late)]
    after = [s for s in between if _sets(s, late)]
    return (*place.block[: first.at], *before, loop, *after, *place.block[at + 1 :])


def _range(loop: For) -> tuple[Expr, Expr, Expr]:
    return loop.start, loop.stop, loop.step


def _sets(statement: Statement, names: set[str]) -> bool:
    return isinstance(statement, Assign) and statement.name in names


def _resting_on(block: Block, name: str) -> set[str]:
    """What a block computes from a name."""
    found = {name}
    for statement in block:
        if isinstance(statement, Assign) and reads(statement) & found:
            found.add(statement.name)
    return found - {name}


def _rescale(weight: Exponential, m: Expr, pivot: Expr) -> Expr:
    difference: Expr = Binary("-", m, pivot)
    if weight.factor is not None:
        difference = Binary("*", difference, weight.factor)
    return Call(weight.call.function, (difference,))


def _rescaled(
    statement: Statement, loop: For, scope: Scope, weights: list[Exponential], alpha: str, values: dict[str, Expr]
) -> Statement:
    """A statement of the second pass: what it adds to is what was summed so far times alpha."""
    calls = {e.call for e in weights}
    own = dict(values)
    for name in loop.carried:
        used = any(name in reads(s) for s in (statement,))
        weighted = any(node in calls for e in expressions(statement) for node in nodes(scope.whole(e)))
        if used and (weighted or _weighs(statement, scope, calls)):
            row = extents(origin(weights[0].pivot, scope), scope)
            own[name] = Binary("*", Name(name), lined_up(Name(alpha), row, extents(Name(name), scope)))
    return mapped(statement, lambda e: substitute(e, own))


def _weighs(statement: Statement, scope: Scope, calls: set[Call]) -> bool:
    """Whether a statement reads a weight, as it stands or through names."""
    found = [e for e in expressions(statement)]
    while found:
        expr = found.pop()
        for node in nodes(expr):
            if node in calls:
                return True
            if isinstance(node, Name) and node.id in scope.values:
                found.append(scope.values[node.id])
    return False


REWRITES = (
    Rewrite("lazy-pivot", in_straight_form(lazy_pivot)),
    Rewrite("running-pivot", in_straight_form(running_pivot)),
    Rewrite("two-passes", in_straight_form(two_passes)),
    Rewrite("one-pass", in_straight_form(one_pass)),
    Rewrite("fixed-pivot", in_straight_form(fixed_pivot)),
)
