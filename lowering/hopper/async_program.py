"""The asynchronous program: one kernel as a producer that copies tiles and a consumer that computes on them.

Everything `lowering.hopper` makes or checks is written against this page. A kernel runs as two partitions of one
thread block, started together: the PRODUCER, one warp that only asks the tensor memory accelerator (TMA) for tiles,
and the CONSUMER, `schedule.num_warps` warps that do all arithmetic and every store. They share RINGS of buffers.

**Rings.** Ring R has `stages` slots. The producer's `Copy`s into R are numbered 0, 1, 2, ... in the order it executes
them, the consumer's `WaitFull`s of R likewise, and its `Release`s too: number k of each speaks of fill k, which lives
in slot k mod stages. Each slot has two barriers in shared memory, `full` and `empty`; fill k is their completion
number k div stages, hence the parity (k div stages) mod 2 that a wait names. Nobody writes slot numbers: they follow
from counting, so an `AsyncKernel` cannot get one wrong, only the order of its statements.

A ring of no tensor is WRITTEN by the consumer itself, for dots whose shared operand is computed: `Write` takes the
place of `Copy`, and the consumer executes `WaitEmpty`, `Write` and `WaitFull` of it, number k of each speaking of fill
k. The producer has no part in it.

**What each statement means, and when memory may be touched.** This is the whole contract; a checker that accepts a
kernel relies on nothing else, and the emitted text must keep it.

- `WaitEmpty(R)`, before `Copy` number k: goes on once `Release` number k - stages of R has happened; at once when
  k < stages. It does not count itself: it speaks of the next `Copy` of R.
- `Copy(R, index)`, number k: announces the tile's bytes on `full` and starts the TMA copy of the box of R.tensor at
  `index` into the slot; cells outside the tensor arrive as 0. It returns at once. The engine WRITES THE SLOT AT ANY
  TIME from here until the fill is complete; a fill completes by itself, some time later.
- `Write(R, value)`, number k: this team's rows of `value` are in the slot, visible to the tensor cores, when the
  statement ends. Fill k is complete once every team has executed it.
- `WaitFull(R)`, number k: goes on once fill k is complete. From here until the matching `Release` the tile is HELD: its
  cells may be read. `Tile(R, age)` names the tile of the last `WaitFull` of R, or of the one `age` before it.
- `Release(R)`, number k: says that the consumer has done with fill k, the oldest tile of R it holds: every warp's reads
  of it are complete, register reads and tensor-core reads alike. After it the slot may be overwritten at any time.
- `Read(name, tile)`: copies a held tile to registers; complete when the statement ends.
- `IssueDot(name, left, right, acc)`: starts left @ right + acc on the tensor cores (wgmma) and returns at once. Dots
  retire in the order issued. Until its dot is retired, the hardware may READ a shared operand's slot and the registers
  of a register operand, and READ AND WRITE the accumulator, at any time. So until then: shared operands stay held,
  `name` is not read, and the values used are not changed (names are assigned once, so only the emitted text could).
  The accumulator is computed (`acc` is an ordinary expression) before the dot is issued; None means zeros.
- `WaitDots(pending)`: goes on once at most `pending` dots issued by this consumer are not retired.
- `Let`, `Store`: of the typed core (`ir.program`), executed in order; complete when they end (a store becomes visible
  to others when the kernel ends; R2 proves that nobody here reads it). Their expressions hold no `Dot`; a `Load` in
  them goes through pointers as written.
- `Loop`: as `ir.program.For`. `If(condition, carries, body)`: runs the body once if the condition holds; after it a
  carried name is `next` if it held, else `init`. Rule at every edge of both (entering, going round, leaving): no dot is
  in flight, and each ring has as many tiles held as when the construct was entered.

**Skeletons.** The two partitions have one control structure: take from each the `Loop`s and `If`s that hold a ring
statement somewhere inside; they must be the same nest in the same order, with bounds and conditions that are the same
integers once each partition's `Let`s are put in, and between two edges of that nest each ring must have as many `Copy`s
in the producer (of a written ring: `Write`s in the consumer) as `WaitFull`s in the consumer. Hence every fill is waited
for exactly once, whatever the bounds are.

**Teams.** The consumer's warps may be `teams` equal groups. Each executes the whole consumer program on its share
of the rows: of every tile whose rows are some dot's rows, team i of T has the i-th T-th of them, of any other tile all.
Each team counts its own waits and releases; `Release` number k has happened when every team has executed it. So a team
and the producer, looked at alone, are a consumer of one team whose producer is at times held up longer: what holds
for one team in every order of events holds for each of several. Nothing passes between teams but through written rings:
no row depends on another row (a program in which one does has one team). There teams MEET twice a fill: `WaitFull` goes
on when all have written their rows, `WaitEmpty` (k >= stages) when all have let go what they overwrite.

**Names.** Assigned once, as in the typed core; a name of one partition is not seen by the other (each has its own
`Let`s). Program ids, sizes and parameters are seen by both.

**Ends.** When a partition ends there is nothing in flight: every fill asked for has been waited for (the thread block's
shared memory must not be given away under a running copy), and every dot is retired.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from ir.program import Axis, Carry, DType, Expr, Let, Schedule, Store, Type


@dataclass(frozen=True, slots=True)
class Ring:
    """`stages` buffers, each for one box of `tensor`: `box` has the tensor's rank, `shape` is the tile of one
    or two axes that remains without the box's leading extents of 1; dots read those of two. A tile that is copied once
    is a ring of one stage. Without a tensor, a ring that the consumer writes: `box` is `shape`."""

    name: str
    tensor: str | None
    box: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: DType
    stages: int

    @property
    def tile_bytes(self) -> int:
        """What one fill transfers; also what its `full` barrier is told to expect (cells outside arrive as 0)."""
        return prod(self.box) * self.dtype.bits // 8

    @property
    def written(self) -> bool:
        return self.tensor is None


@dataclass(frozen=True, slots=True)
class Tile:
    """An operand in shared memory: a held tile of `ring`, `age` fills before the newest; read as its transpose if
    `transposed` (the hardware does that as it reads; nothing is moved)."""

    ring: str
    age: int = 0
    transposed: bool = False


# ---- who fills a ring ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WaitEmpty:
    ring: str


@dataclass(frozen=True, slots=True)
class Copy:
    """`index`: the box's first cell, one INT scalar for each dimension of the ring's tensor."""

    ring: str
    index: tuple[Expr, ...]


# ---- the consumer ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WaitFull:
    ring: str


@dataclass(frozen=True, slots=True)
class Release:
    ring: str


@dataclass(frozen=True, slots=True)
class Write:
    """The ring's next tile is `value`, of which each team writes its rows."""

    ring: str
    value: Expr
    comment: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Read:
    """name = the tile, in registers."""

    name: str
    tile: Tile
    type: Type
    comment: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class IssueDot:
    """name [m, n] F32 = left [m, k] @ right [k, n] + acc. `left` in shared memory or, an expression, in registers."""

    name: str
    left: Tile | Expr
    right: Tile
    acc: Expr | None
    type: Type
    comment: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class WaitDots:
    pending: int


# ---- both ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loop:
    """counter = start, start+1, ..., stop-1 (no iteration when stop <= start); carries as in `ir.program.For`."""

    counter: str
    start: Expr
    stop: Expr
    carries: tuple[Carry, ...]
    body: tuple[Statement, ...]
    comment: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class If:
    """The body once if `condition` (a BOOL scalar) holds; each carried name is then `next`, otherwise `init`.
    Inside the body a carried name is its `init`."""

    condition: Expr
    carries: tuple[Carry, ...]
    body: tuple[Statement, ...]
    comment: str = field(default="", compare=False)


ProducerStatement = Let | Loop | If | WaitEmpty | Copy
ConsumerStatement = Let | Loop | If | Store | WaitEmpty | Write | WaitFull | Release | Read | IssueDot | WaitDots
Statement = ProducerStatement | ConsumerStatement


@dataclass(frozen=True, slots=True)
class AsyncKernel:
    """One kernel of the program. Inside a `Loop` or `If` of a partition are statements of that partition only."""

    name: str
    grid: tuple[Axis, ...]
    schedule: Schedule
    rings: tuple[Ring, ...]
    producer: tuple[Statement, ...]
    consumer: tuple[Statement, ...]
    teams: int = 1

    def ring(self, name: str) -> Ring:
        return next(r for r in self.rings if r.name == name)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of all slots and their barriers."""
        return sum(r.stages * (r.tile_bytes + 16) for r in self.rings)
