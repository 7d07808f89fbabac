"""Kernels in straight form, in which a rewrite can look a name up, and back to the form a person writes.

In straight form a name has one value wherever it can be seen: an assignment to a name that already has a value makes a
new name, a copy is its original, and a loop sets each name it carries once, in the last lines of its body
(`m = m_new`). So before those lines a carried name is its value from the iteration before, and `Scope.see` may replace
any other name by what defines it. `tidy` undoes what straight form adds. Both keep what a kernel computes; nothing
rests on that, since the gate judges every text that comes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps

from ir.ast import Assign, Element, Expr, For, Kernel, Module, Name, Statement, Store
from synth.propose.emit import Names
from synth.propose.formula import free, substitute
from synth.propose.rewrites.rewrite import Subject
from synth.propose.tree import assigns, every_place, nodes, reads, renamed

LARGEST = 2000  # nodes of an expression with all names written out; what kernels index and mask by has some dozens
Apply = Callable[[Subject], Iterator[Module]]
Block = tuple[Statement, ...]


class TooLarge(Exception):
    """An expression too long to be written out."""


# ---- statements ---------------------------------------------------------------------------------


def expressions(statement: Statement) -> Iterator[Expr]:
    """The outermost expressions of one statement, those inside a loop's body included."""
    match statement:
        case Assign(value=value):
            yield value
        case Store(target, value, mask):
            yield from (*target.index, value, *([] if mask is None else [mask]))
        case For(start=start, stop=stop, step=step, body=body):
            yield from (start, stop, step)
            for inner in body:
                yield from expressions(inner)


def mapped(statement: Statement, change: Callable[[Expr], Expr]) -> Statement:
    """A statement with `change` applied to its outermost expressions."""
    match statement:
        case Assign(value=value):
            return replace(statement, value=change(value))
        case Store(target, value, mask):
            target = Element(target.name, tuple(map(change, target.index)), target.span)
            return replace(statement, target=target, value=change(value), mask=None if mask is None else change(mask))
        case For(start=start, stop=stop, step=step, body=body):
            inner = tuple(mapped(s, change) for s in body)
            return replace(statement, start=change(start), stop=change(stop), step=change(step), body=inner)


def inside_out(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """An expression with `change` applied to every node, innermost first."""
    result: Expr = every_place(expr, lambda node: change(node) if isinstance(node, Expr) else node)
    return result


# ---- straight form ------------------------------------------------------------------------------


def in_straight_form(rewrite: Apply) -> Apply:
    """A rewrite of kernels in straight form as one of any kernel."""

    @wraps(rewrite)
    def apply(subject: Subject) -> Iterator[Module]:
        form = replace(subject, module=straight(subject))
        try:
            yield from map(tidy, rewrite(form))
        except (TooLarge, RecursionError):  # not one that a rewrite can look through
            return

    return apply


def names_of(subject: Subject) -> Names:
    """For handing out names that mean nothing yet in this file."""
    return Names(set(subject.taken))


def straight(subject: Subject) -> Module:
    """The same kernels in straight form."""
    names = names_of(subject)
    kernels = []
    for kernel in subject.module.kernels:
        body, _ = _Straight(names).block(kernel.body, {axis.name for axis in kernel.grid}, {})
        kernels.append(replace(kernel, body=body))
    return replace(subject.module, kernels=tuple(kernels))


@dataclass
class _Straight:
    names: Names

    def block(self, body: Block, known: set[str], now: dict[str, Expr]) -> tuple[Block, dict[str, Expr]]:
        """The block, and what each renamed name is at its end. `known` have values, `now` holds their names here."""
        out: list[Statement] = []
        known, now = set(known), dict(now)
        for at, statement in enumerate(body):
            match mapped(statement, lambda e: substitute(e, now)) if not isinstance(statement, For) else statement:
                case Assign(name, Name(copied)) if self._lasts(copied, known, body[at + 1 :], now):
                    now[name] = Name(copied)
                    known.add(name)
                case Assign(name) as assign:
                    fresh = self.names.fresh(name) if name in known else name
                    now[name] = Name(fresh)
                    known |= {name, fresh}
                    out.append(replace(assign, name=fresh))
                case For() as loop:
                    out += self._loop(loop, known, now)
                case other:
                    out.append(other)
        return tuple(out), now

    @staticmethod
    def _lasts(name: str, known: set[str], rest: Block, now: Mapping[str, Expr]) -> bool:
        """A copy may stand for its original when no later loop of the block changes that."""
        changed = {now.get(c, Name(c)) for s in rest if isinstance(s, For) for c in s.carried}
        return name in known and Name(name) not in changed

    def _loop(self, loop: For, known: set[str], now: dict[str, Expr]) -> list[Statement]:
        before: list[Statement] = []
        for name in loop.carried:  # a name carried under two versions, or a copy, becomes a variable of its own
            if (there := now.get(name, Name(name))) != Name(name) and isinstance(there, Name):
                shared = [c for c in loop.carried if c != name and now.get(c, Name(c)) == there]
                if shared or there.id in _outer_names(now, name):
                    fresh = self.names.fresh(name)
                    before.append(Assign(fresh, there))
                    now[name] = Name(fresh)
                    known.add(fresh)
        own = {c: _id(now.get(c, Name(c))) for c in loop.carried}
        shadow = {k: v for k, v in now.items() if k != loop.variable}
        body, after = self.block(loop.body, known | {loop.variable}, shadow)
        final = [(own[c], after.get(c, Name(c))) for c in loop.carried]
        final = [(name, value) for name, value in final if value != Name(name)]
        moved: list[Statement] = []
        last: list[Statement] = []
        for name, value in final:
            if isinstance(value, Name) and value.id in own.values():  # another carried name's old value
                fresh = self.names.fresh(name)
                moved.append(Assign(fresh, value))
                value = Name(fresh)
            last.append(Assign(name, value))
        head = replace(
            loop,
            start=substitute(loop.start, now),
            stop=substitute(loop.stop, now),
            carried=tuple(own.values()),
            body=(*body, *moved, *last),
        )
        return [*before, head]


def _id(expr: Expr) -> str:
    return expr.id if isinstance(expr, Name) else ""


def _outer_names(now: Mapping[str, Expr], but: str) -> set[str]:
    return {_id(v) for k, v in now.items() if k != but}


# ---- looking names up ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """What names are defined by at one place of a kernel in straight form; `starts` has what loops carry too, as it is
    before them. `counters` are program ids and counters of loops, `counter` is that of the innermost
    loop; `shapes` remembers extents."""

    values: Mapping[str, Expr]
    starts: Mapping[str, Expr] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()
    counter: str = ""
    shapes: dict[str, tuple[Expr, ...]] = field(default_factory=dict)

    def see(self, expr: Expr) -> Expr:
        """What a name stands for, as often as it is one."""
        while isinstance(expr, Name) and expr.id in self.values:
            expr = self.values[expr.id]
        return expr

    def whole(self, expr: Expr) -> Expr:
        """An expression with every name in it written out. Raises TooLarge."""
        self.fits(expr)

        def one(node: Expr) -> Expr:
            return self.whole(self.values[node.id]) if isinstance(node, Name) and node.id in self.values else node

        return inside_out(expr, one)

    def rests_on(self, expr: Expr, name: str) -> bool:
        """Whether a value is computed from a name's."""
        return name in self.sources(expr)

    def sources(self, expr: Expr) -> frozenset[str]:
        """Every name a value is computed from."""
        found, todo = set[str](), [expr]
        while todo:
            for name in free(todo.pop()) - found:
                found.add(name)
                if name in self.values:
                    todo.append(self.values[name])
        return frozenset(found)

    def fits(self, expr: Expr) -> None:
        """Raises TooLarge for what would be more than `LARGEST` nodes written out: names double each other up."""
        sizes: dict[str, int] = {}

        def size(one: Expr) -> int:
            total = 0
            for node in nodes(one):
                total += 1
                if isinstance(node, Name) and node.id in self.values:
                    if node.id not in sizes:
                        sizes[node.id] = size(self.values[node.id])
                    total += sizes[node.id]
            return total

        if size(expr) > LARGEST:
            raise TooLarge


def values_of(block: Block, but: Iterable[str] = ()) -> dict[str, Expr]:
    """Names a block defines for good: not those a loop in it carries."""
    changed = {c for s in block if isinstance(s, For) for c in s.carried} | set(but)
    return {s.name: s.value for s in block if isinstance(s, Assign) and s.name not in changed}


# ---- places in a kernel -------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """One block of a module: `around` are definitions visible in it from outside, `put` is the module with another
    block here. `after` are the names read outside the block once it has run (what the loop it is in carries)."""

    kernel: Kernel
    block: Block
    around: Mapping[str, Expr]
    put: Callable[[Block], Module] = field(repr=False)
    carried: tuple[str, ...] = ()
    before: Mapping[str, Expr] = field(default_factory=dict)
    counters: frozenset[str] = frozenset()

    def scope(self, loop: For | None = None) -> Scope:
        """Inside `loop`, a statement of this block; without one, after the block's last statement."""
        here = values_of(self.block, self.carried)
        inside = {} if loop is None else values_of(loop.body, loop.carried)
        first = {s.name: s.value for s in reversed(self.block) if isinstance(s, Assign)}
        counter = "" if loop is None else loop.variable
        counters = self.counters | {axis.name for axis in self.kernel.grid} | ({counter} - {""})
        return Scope({**self.around, **here, **inside}, {**inside, **first, **self.before}, counters, counter)


def places(module: Module) -> Iterator[Place]:
    """Every block of every kernel, outermost first."""
    for number, kernel in enumerate(module.kernels):

        def put(block: Block, number: int = number, kernel: Kernel = kernel) -> Module:
            changed = replace(kernel, body=block)
            return replace(module, kernels=(*module.kernels[:number], changed, *module.kernels[number + 1 :]))

        yield from _inner(Place(kernel, kernel.body, {}, put))


def _inner(place: Place) -> Iterator[Place]:
    yield place
    for at, statement in enumerate(place.block):
        if isinstance(statement, For):

            def put(block: Block, at: int = at, loop: For = statement) -> Module:
                return place.put((*place.block[:at], replace(loop, body=block), *place.block[at + 1 :]))

            around = {**place.around, **values_of(place.block, place.carried)}
            before, counters = place.scope().starts, place.counters | {statement.variable}
            yield from _inner(Place(place.kernel, statement.body, around, put, statement.carried, before, counters))


# ---- cleaning up --------------------------------------------------------------------------------


def tidy(module: Module) -> Module:
    """Dead code dropped, and straight form's extra names folded back where nothing reads the old value later."""
    kernels = []
    for kernel in module.kernels:
        body, _ = pruned(kernel.body, frozenset())
        kernels.append(replace(kernel, body=_folded(body)))
    used = {n.name for n in nodes(tuple(kernels)) if isinstance(n, Element)}
    scratch = tuple(s for s in module.scratch if s.name in used)
    return replace(module, kernels=tuple(kernels), scratch=scratch)


def pruned(block: Block, live: frozenset[str]) -> tuple[Block, frozenset[str]]:
    """What of a block is needed for its stores and for the names in `live`, and the names it needs in turn."""
    out: list[Statement] = []
    for statement in reversed(block):
        match statement:
            case Assign(name, value):
                if name in live:
                    live = (live - {name}) | free(value)
                    out.append(statement)
            case Store():
                live = live | reads(statement)
                out.append(statement)
            case For():
                wanted = live & frozenset(statement.carried)
                while True:
                    body, needs = pruned(statement.body, wanted)
                    more = wanted | (needs & frozenset(statement.carried))
                    if more == wanted:
                        break
                    wanted = more
                if not body and not wanted:
                    continue
                live = live | wanted | (needs - {statement.variable})
                live |= free(statement.start) | free(statement.stop)
                kept = tuple(c for c in statement.carried if c in wanted)
                out.append(replace(statement, carried=kept, body=body))
    return tuple(reversed(out)), live


_NUMBERED = re.compile(r"(.+)_\d+$")


def _folded(block: Block) -> Block:
    """`l_2 = ...; l = l_2` as `l = ...`, and `s_2 = ... s ...` as `s = ... s ...`, inside out."""
    out = [replace(s, body=_folded(s.body)) if isinstance(s, For) else s for s in block]
    at = 0
    while at < len(out):
        match out[at]:
            case Assign(name, Name(new)) if (start := _set_at(out[:at], new)) is not None and not any(
                name in reads(s) or name in assigns(s) for s in out[start + 1 : at]
            ):
                rest = renamed(tuple(out[start:at]), {new: name})
                later = renamed(tuple(out[at + 1 :]), {new: name})
                out[start:] = [*rest, *later]
                at = start
            case Assign(name) if (found := _NUMBERED.match(name)) and _free_from(out, at, found[1], name):
                out[at:] = renamed(tuple(out[at:]), {name: found[1]})
        at += 1
    return tuple(out)


def _set_at(block: list[Statement], name: str) -> int | None:
    return next((k for k, s in enumerate(block) if isinstance(s, Assign) and s.name == name), None)


def _free_from(block: list[Statement], at: int, base: str, name: str) -> bool:
    """Whether `base`, set in this block before, is read and set no more once statement `at` has set `name`."""
    if not any(isinstance(s, Assign) and s.name == base for s in block[:at]):
        return False
    if any(isinstance(s, For) and base in s.carried for s in block):
        return False
    later = block[at + 1 :]
    return not any(base in reads(s) or base in assigns(s) for s in later) and not any(
        isinstance(s, For) and name in s.carried for s in later
    )


def merged(block: Block, known: Mapping[Expr, str] | None = None) -> Block:
    """Values computed twice are computed once. Only for straight form; loops get what is known before them."""
    seen = dict(known or {})
    names: dict[str, Expr] = {}
    out: list[Statement] = []
    for statement in block:
        match mapped(statement, lambda e: substitute(e, names)):
            case Assign(name, value) if value in seen and not isinstance(value, Name):
                names[name] = Name(seen[value])
            case Assign(name, value) as assign:
                seen.setdefault(value, name)
                out.append(assign)
            case For(carried=carried, body=body) as loop:
                kept = {v: n for v, n in seen.items() if not (free(v) | {n}) & set(carried)}
                out.append(replace(loop, body=merged(body, kept)))
                seen = kept
            case store:
                out.append(store)
    return tuple(out)


def hoisted(block: Block) -> Block:
    """Definitions at the head level of a loop that do not change in it stand before the loop."""
    out: list[Statement] = []
    for statement in block:
        if not isinstance(statement, For):
            out.append(statement)
            continue
        loop = replace(statement, body=hoisted(statement.body))
        changing = {loop.variable, *loop.carried, *assigns(loop.body)}
        kept: list[Statement] = []
        for inner in loop.body:
            if isinstance(inner, Assign) and inner.name not in loop.carried and not free(inner.value) & changing:
                if inner not in out:
                    out.append(inner)
                changing.discard(inner.name)
            else:
                kept.append(inner)
        out.append(replace(loop, body=tuple(kept)))
    return tuple(out)
