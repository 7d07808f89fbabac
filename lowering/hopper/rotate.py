"""Rotates a loop by one iteration, so that its last dots run beside the next iteration's vector work.

The schedule is FlashAttention-3's (Shah et al. 2024, section 3.2), for any loop of its form. EARLY is all of an
iteration but its LATE part: the dots that only add to a carried accumulator, and the vector work on that
accumulator (a rescale). Iteration n of the rotated loop runs

    issue early dots that need only tiles (heads) of n; late part of n-1, its dots issued;
    wait for the heads; the rest of early n; wait for n's late tiles, then for the late dots of n-1

and the first early and the last late part stand before and after it. All three are under `If(start < stop)`: a
loop of no iterations does nothing. It is the same computation: the late part reads of its own iteration only
names that early computed, and they are carried to it; nothing early reads what a late part computes.

No dot is in flight at the loop's edges, as the contract demands. The wait for the late tiles stands before the wait for
the late dots because it is a branch: the assembler does not move vector work over it, and without it (seen with
Triton 3.6.0 and 3.7.1) puts the wait first and all the exponentials after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from ir.program import Binary, Carry, Dot, DType, Expr, For, Let, Literal, Type, Var
from lowering.accesses import BoxLoad
from lowering.hopper.async_program import If, Loop, Release, Statement, WaitDots
from lowering.hopper.flatten import Written, mapped, names_in

if TYPE_CHECKING:
    from lowering.hopper.schedule import Sequencer

Renaming = Mapping[str, Expr]


@dataclass(frozen=True, slots=True)
class Parts:
    """A loop's statements, each group in the order written. `heads`: dots that need tiles only, and the names they
    need; `middle`: the rest of early; `late`; `accumulators`: the carries the late dots add to."""

    heads: tuple[Let, ...]
    middle: tuple[Let, ...]
    late: tuple[Let, ...]
    accumulators: frozenset[str]


def parts_of(loop: For, tiles: Mapping[str, BoxLoad | Written]) -> Parts | None:
    """How the loop divides; None where it is not of the form."""
    body = [s for s in loop.body if isinstance(s, Let)]
    if len(body) != len(loop.body):
        return None
    work = [s for s in body if s.name not in tiles]
    accumulators, last = set(), set()
    for carry in loop.carries:
        dot = next((s for s in work if isinstance(carry.next, Var) and s.name == carry.next.name), None)
        if dot is None or not isinstance(dot.value, Dot) or dot.value.acc is None:
            continue
        if carry.name in names_in(dot.value.acc) and _uses(loop, dot.name) == 1:
            accumulators.add(carry.name)
            last.add(dot.name)
    reached = set(accumulators)
    late = []
    for s in work:
        if names_in(s.value) & reached:
            reached.add(s.name)
            late.append(s)
    early = [s for s in work if s not in late]
    if any(names_in(c.next) & reached for c in loop.carries if c.name not in accumulators):
        return None
    if {s.name for s in late if isinstance(s.value, Dot)} != last or any(names_in(s.value) & tiles.keys() for s in late
                                                                         if not isinstance(s.value, Dot)):  # fmt: skip
        return None
    heads = _heads(early, tiles)
    if not last or not any(isinstance(s.value, Dot) for s in heads):
        return None
    middle = tuple(s for s in early if s not in heads)
    return Parts(heads, middle, tuple(late), frozenset(accumulators))


def _uses(loop: For, name: str) -> int:
    return sum(name in names_in(s) for s in loop.body) + sum(name in names_in(c.next) for c in loop.carries)


def _heads(early: list[Let], tiles: Mapping[str, BoxLoad | Written]) -> tuple[Let, ...]:
    defined = {s.name: s for s in early}

    def needs(e: object) -> set[str]:
        found: set[str] = set()
        for name in names_in(e):
            if name in tiles:
                found |= needs(tiles[name])
            elif name in defined:
                found |= {name} | needs(defined[name].value)
        return found

    def late(s: Let) -> bool:  # needs another dot first, or a tile in registers
        return isinstance(s.value, Dot) or bool(names_in(s.value) & tiles.keys())

    chosen: set[str] = set()
    for s in early:
        inner = needs(s.value)
        if isinstance(s.value, Dot) and not any(late(defined[name]) for name in inner):
            chosen |= {s.name} | inner
    return tuple(s for s in early if s.name in chosen)


def rotated(loop: For, sequence: Sequencer) -> If | None:
    """The rotated loop, or None where it is not of the form."""
    parts = parts_of(loop, sequence.tiles)
    return None if parts is None else _Rotation(loop, parts, sequence).build()


class _Rotation:
    def __init__(self, loop: For, parts: Parts, sequence: Sequencer) -> None:
        self.loop, self.parts, self.sequence = loop, parts, sequence
        early = (*parts.heads, *parts.middle)
        own = {s.name: s.value.type for s in early} | {loop.counter: loop.start.type}
        own |= {c.name: c.type for c in loop.carries if c.name not in parts.accumulators}
        read = names_in(tuple(s.value for s in parts.late)) - sequence.tiles.keys()
        self.crossing = {name: own[name] for name in own if name in read}
        self.early_tiles = sequence.used(tuple(s.value for s in early))
        self.late_tiles = [t for t in sequence.tiles if t in sequence.used(tuple(s.value for s in parts.late))]
        for tile in set(self.late_tiles) - self._outer():
            sequence.least[sequence.rings[tile].name] = 2  # one held while the next arrives

    def build(self) -> If:
        loop = self.loop
        first = {loop.counter: self._variable(f"{loop.counter}_first", loop.start.type)}
        first |= {s.name: self._variable(f"{s.name}_first", s.value.type) for s in self._early()}
        before = [Let(first[loop.counter].name, loop.start), *self._early_part(first, None)]
        inner = {c.name: self._variable(f"{c.name}_now", c.type) for c in loop.carries}
        held = {name: self._variable(f"{name}_held", type_) for name, type_ in self.crossing.items()}
        carries = []
        for c in loop.carries:
            if c.name in self.parts.accumulators:
                carries.append(Carry(inner[c.name].name, Var(c.name, c.type), c.next, c.type))
            else:
                carries.append(
                    Carry(inner[c.name].name, renamed(c.next, first), renamed(c.next, inner), c.type)
                )
        for name, type_ in self.crossing.items():
            now: Expr = Var(name, type_)
            carries.append(Carry(held[name].name, renamed(now, first), renamed(now, inner), type_))
        late = {**inner, **held}
        body = self._early_part(inner, late)
        one = Literal(Fraction(1), loop.start.type)
        start = Binary("add", loop.start, one, loop.start.type)
        main = Loop(loop.counter, start, loop.stop, tuple(carries), tuple(body), loop.comment)
        last = {s.name: self._variable(f"{s.name}_last", s.value.type) for s in self.parts.late}
        after = [*self._late_part({**late, **last}, ended=True), WaitDots(0), *self._releases()]
        results = tuple(
            Carry(c.name, c.init, renamed(c.next, last) if c.name in self.parts.accumulators else inner[c.name], c.type)
            for c in loop.carries
        )
        condition = Binary("lt", loop.start, loop.stop, Type(DType.BOOL))
        return If(condition, results, (*before, main, *after))

    def _early(self) -> tuple[Let, ...]:
        return (*self.parts.heads, *self.parts.middle)

    def _variable(self, wanted: str, type_: Type) -> Var:
        return Var(self.sequence.fresh(wanted), type_)

    def _early_part(self, names: Renaming, late: Renaming | None) -> list[Statement]:
        """Early of one iteration; `late`: names for the late part of the one before, where there is one."""
        sequence, filled = self.sequence, set[str]()
        out: list[Statement] = []

        def add(statements: tuple[Let, ...], after: tuple[Let, ...], dots_wait: bool) -> None:
            for at, s in enumerate(statements):
                for tile in sorted(sequence.used(s.value) & self.early_tiles - filled - self._outer()):
                    filled.add(tile)
                    out.extend(sequence.fill(tile, lambda e: renamed(e, names)))
                out.append(self._one(s, names))
                if dots_wait and isinstance(s.value, Dot):
                    out.append(WaitDots(0))
                if dots_wait:
                    out.extend(self._let_go(s, (*statements[at + 1 :], *after)))

        add(self.parts.heads, (), dots_wait=False)
        if late is not None:
            out += self._late_part(late, ended=False)
        out.append(WaitDots(0 if late is None else sum(isinstance(s.value, Dot) for s in self.parts.late)))
        for at, s in enumerate(self.parts.heads):
            out += self._let_go(s, (*self.parts.heads[at + 1 :], *self.parts.middle))
        add(self.parts.middle, (), dots_wait=True)
        for tile in self.late_tiles:
            if tile not in filled | self._outer():
                out += sequence.fill(tile, lambda e: renamed(e, names))
        if late is not None:
            out += [WaitDots(0), *self._releases()]
        return out

    def _outer(self) -> set[str]:
        """Tiles of enclosing blocks: filled there, and let go there."""
        return self.sequence.tiles.keys() - {s.name for s in self.loop.body if isinstance(s, Let)}

    def _let_go(self, s: Let, after: tuple[Let, ...]) -> list[Statement]:
        """Releases of this iteration's tiles that `s` is the last to read."""
        mine = self.sequence.used(s.value) - self._outer() - set(self.late_tiles)
        later = self.sequence.used(tuple(x.value for x in after))
        return [Release(self.sequence.rings[tile].name) for tile in sorted(mine - later)]

    def _releases(self) -> list[Statement]:
        return [Release(self.sequence.rings[tile].name) for tile in self.late_tiles if tile not in self._outer()]

    def _late_part(self, names: Renaming, ended: bool) -> list[Statement]:
        """`ended`: after the loop, when no newer tile has come."""
        in_heads = self.sequence.used(tuple(s.value for s in self.parts.heads)) - self._outer()
        return [self._one(s, names, set() if ended else in_heads) for s in self.parts.late]

    def _one(self, s: Let, names: Renaming, newer: set[str] | frozenset[str] = frozenset()) -> Statement:
        """One statement under its names; `newer`: tiles of which this iteration's has come already."""
        sequence = self.sequence
        own = names.get(s.name)
        name = own.name if isinstance(own, Var) else s.name
        let = replace(s, name=name, value=renamed(s.value, names))
        if isinstance(let.value, Dot):
            return sequence.dot(let, lambda tile: int(tile in newer))
        return let if sequence.operand(let.value) is let.value else sequence.read(let)


def renamed(e: Expr, names: Renaming) -> Expr:
    if isinstance(e, Var):
        return names.get(e.name, e)
    return mapped(e, lambda x: renamed(x, names))
