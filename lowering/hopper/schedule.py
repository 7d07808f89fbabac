"""From a typed kernel to its asynchronous program: what is copied ahead, and which dots run beside other work.

Decides, for any kernel of the supported form, and says by name what it does not support (`NotForHopper`):

- every tile read by TMA (`BoxLoad`, which `lowering.descriptors` shows equal to the load it replaces) becomes a fill of
  a ring; tiles of innermost loops get as many slots as fit in shared memory, up to `num_stages`, others one, or two
  where an outer loop brings the next one and there is room; a computed operand that a dot reads from shared memory
  is a fill of a ring that the consumer writes;
- every dot is a wgmma on such tiles, its left operand perhaps in registers (`lowering.hopper.flatten`);
- dots are issued in order and waited for where their results are wanted (`lowering.hopper.inorder`); where that leaves
  vector work without a dot beside it, a loop whose last dots only add to carried accumulators is rotated
  (`lowering.hopper.rotate`), if the registers are there (`lowering.hopper.pressure`);
- consumer warps: one for every 16 rows of the smallest dot, so that a warpgroup holds 64 rows and a row's reductions
  stay inside a warp.

The two partitions are projections of one sequential program in which each `Copy` stands right before its `WaitFull`:
the consumer's is that program without the copies, the producer's what the copies need. Hence one control structure.

Not trusted: the protocol of what comes out is checked, and its values simulated, before it may run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum

from ir.program import Dot, Expr, For, Kernel, Let, Var
from ir.program import Statement as CoreStatement
from lowering.accesses import BoxLoad
from lowering.hopper.async_program import (
    AsyncKernel,
    Copy,
    If,
    IssueDot,
    Loop,
    Read,
    Ring,
    Statement,
    Tile,
    WaitDots,
    WaitEmpty,
    WaitFull,
    Write,
)
from lowering.hopper.flatten import Flattener, NotForHopper, Written, flatten, names_in, tile_of
from lowering.hopper.inorder import in_order
from lowering.hopper.layouts import homes_of, natural
from lowering.hopper.pressure import most_held
from lowering.hopper.rotate import rotated
from lowering.plan import walk

SHARED = 227 * 1024  # bytes one thread block may have on sm_90
SCRATCH = 1024  # bytes left to the compiler (seen: 220)
ROWS_PER_WARP = 16
WARPS = (4, 8)
REGISTERS = 230  # of a lane's 240, what tiles may take; the rest are addresses and what is computed on the way


class Style(Enum):
    """How loops are written, the most overlap first, which is the most registers."""

    ROTATED = "the last dots beside the next iteration, where the loop has that form"
    AHEAD = "in order, but dots and loads that wait for nothing first"
    WRITTEN = "in order"


def schedule(kernel: Kernel) -> AsyncKernel:
    """The asynchronous program of a kernel whose TMA loads are `BoxLoad`s: of the styles, the first whose tiles fit in
    registers, else the last. Raises NotForHopper."""
    found = scheduled(kernel, Style.ROTATED)
    for style in (Style.AHEAD, Style.WRITTEN):
        if most_held(found) <= REGISTERS:
            break
        found = scheduled(kernel, style)
    return found


def scheduled(kernel: Kernel, style: Style) -> AsyncKernel:
    """The asynchronous program in one style, whether or not it fits. Raises NotForHopper."""
    body, tiles, fresh = flatten(kernel)
    dots = [n for n in walk(body) if isinstance(n, Dot)]
    if not dots:
        raise NotForHopper("it has no dot")
    warps = min(d.type.shape[0] for d in dots) // ROWS_PER_WARP
    if warps not in WARPS:
        raise NotForHopper(f"its smallest dot has {warps * ROWS_PER_WARP} rows; 64 or 128 are supported")
    sequence = Sequencer(tiles, fresh, _rings(body, tiles, kernel.schedule.num_stages), style)
    program = sequence.straight(body, 0)
    rings = _fitting(tuple(r for r in sequence.rings.values() if _fills(program, r.name)), sequence.least)
    rings = _ahead(rings, program)
    grid = {axis.name for axis in kernel.grid}
    copied = {r.name for r in rings if not r.written}
    consumer = _needed(program, set(), lambda s: not _of_producer(s, copied))
    _written_from_dots(consumer, warps)
    return AsyncKernel(
        name=kernel.name,
        grid=kernel.grid,
        schedule=replace(kernel.schedule, num_warps=warps),
        rings=rings,
        producer=_producer(program, grid, copied),
        consumer=consumer,
    )


def _written_from_dots(consumer: tuple[Statement, ...], warps: int) -> None:
    """What teams write are rows of dots' results; other tiles come from memory, and no lane should wait for that."""
    homes = homes_of(consumer, warps)
    for s in walk(consumer):
        if isinstance(s, Write) and natural(s.value, homes) is None:
            raise NotForHopper("a dot whose shared operand is loaded, but not as a box of a tensor")


# ---- rings -----------------------------------------------------------------------------------


def _rings(body: tuple[CoreStatement, ...], tiles: Mapping[str, BoxLoad | Written], stages: int) -> dict[str, Ring]:
    """The ring of each tile; of a written one its own, in loops with a second slot: a team that is ahead need not wait
    for one that still reads. Loops one after another share rings; loops inside one another, and two tiles of one block,
    do not, so that a ring's tiles are let go in the order they came."""
    rings: dict[tuple[str, tuple[int, ...], int, int], Ring] = {}
    found: dict[str, Ring] = {}

    def visit(statements: tuple[CoreStatement, ...], depth: int) -> None:
        innermost = depth > 0 and not any(isinstance(s, For) for s in statements)
        seen: dict[tuple[str, tuple[int, ...]], int] = {}
        for s in statements:
            if isinstance(s, For):
                visit(s.body, depth + 1)
            elif isinstance(s, Let) and s.name in tiles:
                load = tiles[s.name]
                if isinstance(load, Written):
                    shape, slots = load.type.shape, 2 if depth else 1
                    found[s.name] = Ring(s.name, None, shape, shape, load.type.dtype, slots)
                    continue
                number = seen.get((load.tensor, load.box), 0)
                seen[load.tensor, load.box] = number + 1
                key = (load.tensor, load.box, depth, number)
                if key not in rings:
                    same = sum(k[0] == load.tensor for k in rings)
                    name = load.tensor + (f"_{same}" if same else "")
                    slots = max(stages, 2) if innermost else 1
                    rings[key] = Ring(name, load.tensor, load.box, load.type.shape, load.type.dtype, slots)
                found[s.name] = rings[key]

    visit(body, 0)
    return found


def _fills(program: Iterable[Statement], ring: str) -> bool:
    return any(isinstance(n, Copy | Write) and n.ring == ring for n in walk(tuple(program)))


def _fitting(rings: tuple[Ring, ...], least: Mapping[str, int]) -> tuple[Ring, ...]:
    """With slots taken away, largest tiles first, until all fit; `least`: the slots a ring cannot do without."""
    unique = {r.name: r for r in rings}
    while sum(r.stages * (r.tile_bytes + 16) for r in unique.values()) > SHARED - SCRATCH:
        spare = [r for r in unique.values() if r.stages > least.get(r.name, 1)]
        if not spare:
            need = sum(r.stages * r.tile_bytes for r in unique.values())
            raise NotForHopper(f"its tiles need {need} bytes of shared memory; a thread block has {SHARED}")
        largest = max(spare, key=lambda r: (r.stages, r.tile_bytes))
        unique[largest.name] = replace(largest, stages=largest.stages - 1)
    return tuple(unique.values())


def _ahead(rings: tuple[Ring, ...], program: tuple[Statement, ...]) -> tuple[Ring, ...]:
    """With a second slot, smallest tiles first, for what an outer loop fills once an iteration, so that the next one's
    tile arrives during this one; only where there is room, and no other program of the multiprocessor has to go."""
    used = sum(r.stages * (r.tile_bytes + 16) for r in rings)
    room = SHARED // 2 - SCRATCH if used <= SHARED // 2 - SCRATCH else SHARED - SCRATCH
    again = {n.ring for loop in walk(program) if isinstance(loop, Loop) for n in walk(loop.body) if isinstance(n, Copy)}
    found = {r.name: r for r in rings}
    for r in sorted(rings, key=lambda r: r.tile_bytes):
        if r.stages == 1 and r.name in again and used + r.tile_bytes + 16 <= room:
            found[r.name], used = replace(r, stages=2), used + r.tile_bytes + 16
    return tuple(found.values())


# ---- the sequential program ------------------------------------------------------------------


class Sequencer:
    """Turns flat statements into the sequential program. `rings`: by tile's name; `least`: by ring's name."""

    def __init__(
        self, tiles: Mapping[str, BoxLoad | Written], fresh: Flattener, rings: Mapping[str, Ring], style: Style
    ) -> None:
        self.tiles, self.rings, self.style = tiles, rings, style
        self.fresh = fresh.fresh
        self.least: dict[str, int] = {}

    def fill(self, tile: str, renamed: Callable[[Expr], Expr] = lambda e: e) -> list[Statement]:
        ring, found = self.rings[tile].name, self.tiles[tile]
        if isinstance(found, Written):
            return [WaitEmpty(ring), Write(ring, renamed(found.value)), WaitFull(ring)]
        return [WaitEmpty(ring), Copy(ring, tuple(renamed(e) for e in found.index)), WaitFull(ring)]

    def operand(self, e: Expr, age: int = 0) -> Tile | Expr:
        found = tile_of(e)
        if found is None or found[0] not in self.tiles:
            return e
        return Tile(self.rings[found[0]].name, age, found[1])

    def dot(self, let: Let, age: Callable[[str], int] = lambda tile: 0) -> IssueDot:
        """`age`: of the held tile of that name, counted in newer tiles of its ring."""
        dot = let.value
        assert isinstance(dot, Dot)
        left, right = (self.operand(e, age(t[0]) if (t := tile_of(e)) else 0) for e in (dot.left, dot.right))
        assert isinstance(right, Tile)
        return IssueDot(let.name, left, right, dot.acc, dot.type, let.comment)

    def read(self, let: Let) -> Read:
        tile = self.operand(let.value)
        assert isinstance(tile, Tile)
        return Read(let.name, tile, let.value.type, let.comment)

    def used(self, node: object) -> set[str]:
        return names_in(node) & self.tiles.keys()

    def straight(self, statements: tuple[CoreStatement, ...], depth: int) -> tuple[Statement, ...]:
        return in_order(statements, depth, self, self.style is not Style.WRITTEN)

    def loop(self, loop: For, depth: int) -> Statement:
        """In order where that leaves a dot in flight when the first result is waited for, so that what is done with it
        has company; else rotated, if it can be."""
        body = self.straight(loop.body, depth + 1)
        alone = not next((s.pending for s in body if isinstance(s, WaitDots)), 0)
        written = any(isinstance(self.tiles[tile], Written) for tile in self.used(loop.body))
        found = rotated(loop, self) if alone and self.style is Style.ROTATED and not written else None
        return found or Loop(loop.counter, loop.start, loop.stop, loop.carries, body, loop.comment)


# ---- projections -----------------------------------------------------------------------------


def _needed(
    statements: Iterable[Statement], after: set[str], effect: Callable[[Statement], bool]
) -> tuple[Statement, ...]:
    """The statements that have an effect there, and what they need. `after`: names read when the block has ended."""
    wanted, kept = set(after), []
    for s in reversed(tuple(statements)):
        if isinstance(s, Loop | If):
            found = _needed_block(s, wanted, effect)
            if found is None:
                continue
            s = found
        elif isinstance(s, Let | Read):
            if s.name not in wanted:
                continue
        elif not effect(s):
            continue
        kept.append(s)
        wanted |= names_in(s)
    return tuple(reversed(kept))


def _needed_block(block: Loop | If, wanted: set[str], effect: Callable[[Statement], bool]) -> Loop | If | None:
    names = {c.name for c in block.carries if c.name in wanted}
    while True:
        carries = tuple(c for c in block.carries if c.name in names)
        body = _needed(block.body, names_in(tuple(c.next for c in carries)), effect)
        inside = names_in(body) | names_in(tuple(c.next for c in carries))
        more = {c.name for c in block.carries if c.name in inside}
        if more <= names:
            break
        names |= more
    return replace(block, carries=carries, body=body) if body or carries else None


def _of_producer(s: Statement, copied: set[str]) -> bool:
    return isinstance(s, WaitEmpty | Copy) and s.ring in copied


def _producer(program: Iterable[Statement], grid: set[str], copied: set[str]) -> tuple[Statement, ...]:
    kept = _needed(program, set(), lambda s: _of_producer(s, copied))
    nodes = list(walk(kept))
    known = {n.name for n in nodes if isinstance(n, Let)} | {n.counter for n in nodes if isinstance(n, Loop)} | grid
    known |= {c.name for n in nodes if isinstance(n, Loop | If) for c in n.carries}
    for n in nodes:
        if isinstance(n, Var) and n.name not in known:
            raise NotForHopper(f"where to copy from depends on {n.name}, which the consumer computes")
        if isinstance(n, Var | Let) and (n.type if isinstance(n, Var) else n.value.type).shape:
            raise NotForHopper(f"where to copy from depends on the tile {n.name}")
    return kept
