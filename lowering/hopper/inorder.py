"""A block in the order written, its dots issued early and awaited late.

A dot is issued when its operands are there, and waited for where its result is first wanted, with those issued after
it left in flight; a tile is filled before its first use and, inside loops, let go when the last dot that reads it is
retired. With `ahead`, what waits for no dot of the block goes first: dots that need only tiles, all issued together,
then loads through pointers, whose answers arrive while these run. In a gradient's loop, for instance,

    issue scores, issue the product with dO; load the row statistics
    wait dots 1; weights                          # beside the second product
    issue the first gradient; wait dots 1; dS     # beside it
    issue the second gradient; wait dots 1, release dO; wait dots 0, release Q

A loop in the block is an edge: nothing is moved over it or a store, and no dot is in flight there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ir.program import Dot, For, Let, Load
from ir.program import Statement as CoreStatement
from lowering.accesses import BoxLoad
from lowering.hopper.async_program import IssueDot, Release, Statement, Tile, WaitDots
from lowering.hopper.flatten import names_in
from lowering.plan import walk

if TYPE_CHECKING:
    from lowering.hopper.schedule import Sequencer


def in_order(
    statements: tuple[CoreStatement, ...], depth: int, sequence: Sequencer, ahead: bool
) -> tuple[Statement, ...]:
    """The block as statements of the sequential program; `depth`: loops around it."""
    ordered = tuple(_ahead(statements, sequence)) if ahead else statements
    return tuple(_Block(ordered, depth, sequence).written())


class _Block:
    """`flying`: dots in flight, in the order issued; `reads`: by name, those not made yet; `ended`: rings of tiles
    that nothing later reads, to be let go."""

    def __init__(self, statements: tuple[CoreStatement, ...], depth: int, sequence: Sequencer) -> None:
        self.statements, self.depth, self.sequence = statements, depth, sequence
        self.mine = [s.name for s in statements if isinstance(s, Let) and s.name in sequence.tiles]
        self.reads: dict[str, Let] = {}
        self.filled: set[str] = set()
        self.flying: list[IssueDot] = []
        self.ended: list[str] = []

    def written(self) -> Iterator[Statement]:
        sequence = self.sequence
        works = [s for s in self.statements if not (isinstance(s, Let) and s.name in sequence.tiles)]
        reads = {s.name: s for s in works if isinstance(s, Let) and sequence.operand(s.value) is not s.value}
        last = self._last(works, reads)
        for at, s in enumerate(works):
            if isinstance(s, Let) and s.name in reads:
                self.reads[s.name] = s
                continue
            yield from self._fills(sequence.used(s))
            yield from self._waits(s)
            yield from self._read(names_in(s))
            yield from self._one(s)
            if self.depth:
                self.ended += [sequence.rings[tile].name for tile in self.mine if last.get(tile) == at]
            if not self.flying:
                yield from self._releases()
        yield from self._read(set(self.reads))
        if self.depth:
            self.ended += [sequence.rings[tile].name for tile in self.mine if last.get(tile) == len(works)]
        yield from self._retired(0)
        yield from self._releases()

    def _last(self, works: list[CoreStatement], reads: dict[str, Let]) -> dict[str, int]:
        """By tile, the last statement for which it must be held; past the end where the block's result reads it."""
        last: dict[str, int] = {}
        unmade = dict(reads)
        for at, s in enumerate(works):
            if isinstance(s, Let) and s.name in reads:
                continue
            first = [unmade.pop(name) for name in names_in(s) if name in unmade]
            last |= dict.fromkeys(self.sequence.used((s, *(r.value for r in first))), at)
        return last | dict.fromkeys(self.sequence.used(tuple(r.value for r in unmade.values())), len(works))

    def _fills(self, wanted: set[str]) -> Iterator[Statement]:
        for tile in self.mine:
            if tile in wanted and tile not in self.filled:
                self.filled.add(tile)
                yield from self.sequence.fill(tile)

    def _read(self, wanted: set[str]) -> Iterator[Statement]:
        """The reads of these names, as late as can be: what they hold takes registers."""
        for name in [name for name in self.reads if name in wanted]:
            let = self.reads.pop(name)
            yield from self._fills(self.sequence.used(let.value))
            yield self.sequence.read(let)

    def _one(self, s: CoreStatement) -> Iterator[Statement]:
        match s:
            case Let(value=Dot()):
                self.flying.append(self.sequence.dot(s))
                yield self.flying[-1]
            case For():
                yield self.sequence.loop(s, self.depth)
            case _:
                yield s

    def _waits(self, s: CoreStatement) -> Iterator[Statement]:
        """For the dots whose results a statement reads; for all of them before a loop."""
        read = names_in(s)
        wanted = [at for at, dot in enumerate(self.flying) if dot.name in read or isinstance(s, For)]
        if wanted:
            yield from self._retired(len(self.flying) - 1 - wanted[-1])

    def _retired(self, pending: int) -> Iterator[Statement]:
        """Waits until `pending` dots are in flight; on the way there, lets go each tile once nothing reads it."""
        while len(self.flying) > pending:
            freed = 1
            while len(self.flying) - freed > pending and not self._free(self.flying[freed:]):
                freed += 1
            self.flying = self.flying[freed:]
            yield WaitDots(len(self.flying))
            yield from self._releases()

    def _free(self, flying: list[IssueDot]) -> list[str]:
        busy = {t.ring for dot in flying for t in (dot.left, dot.right) if isinstance(t, Tile)}
        return [ring for ring in self.ended if ring not in busy]

    def _releases(self) -> Iterator[Statement]:
        for ring in self._free(self.flying):
            self.ended.remove(ring)
            yield Release(ring)


def _ahead(statements: tuple[CoreStatement, ...], sequence: Sequencer) -> Iterator[CoreStatement]:
    """The statements, in each stretch without loops and stores those first that can start at once."""
    stretch: list[Let] = []
    for s in statements:
        if isinstance(s, Let):
            stretch.append(s)
            continue
        yield from started_first(stretch, sequence)
        stretch = []
        yield s
    yield from started_first(stretch, sequence)


def started_first(stretch: list[Let], sequence: Sequencer) -> list[Let]:
    """Dots that wait for no dot and no register read of the stretch, then loads that do, each after what it needs."""
    defined = {s.name: s for s in stretch}
    behind: set[str] = set()
    first: dict[str, Let] = {}

    def needed(s: Let) -> Iterator[Let]:
        for name in sorted(_reach(s, sequence)):
            if name in defined and name not in first:
                yield from needed(defined[name])
        yield s

    for s in stretch:
        waits = bool(_reach(s, sequence) & behind)
        if isinstance(s.value, Dot) or waits or (s.name not in sequence.tiles and sequence.used(s.value)):
            behind.add(s.name)
    dots = [s for s in stretch if isinstance(s.value, Dot) and not _reach(s, sequence) & behind]
    loads = [s for s in stretch if s.name not in behind and _loads(s)]
    for s in (*dots, *loads):
        for early in needed(s):
            first.setdefault(early.name, early)
    return [*first.values(), *(s for s in stretch if s.name not in first)]


def _reach(s: Let, sequence: Sequencer) -> set[str]:
    """The names a statement needs, with those that say where its tiles are copied from."""
    names = names_in(s.value)
    for tile in sequence.used(s.value):
        names |= names_in(sequence.tiles[tile])
    return names


def _loads(s: Let) -> bool:
    return any(isinstance(n, Load) and not isinstance(n, BoxLoad) for n in walk(s.value))
