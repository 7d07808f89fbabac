"""One partition as the checker walks it: instructions with jumps, and what each of them touches.

A loop (or an `If`, which is one of at most one iteration) becomes `Enter`, `Head` (asks whether to run the next
iteration) and `Back`. Everything the protocol does not see (arithmetic, addresses, stores to global memory) stays in as
an instruction that reads names and does nothing else.

**Lines.** The checker must recognise a state it has seen `P` iterations ago, so it measures loop counters from where
the partitions are. A line is a sequence of integers that may be renumbered together: the counters of the loops that
start at one origin, or the questions asked about one unknown (`lowering.hopper.trips`). A second sweep over the same
range is a line of its own: what the first sweep learned about its length is forgotten, which allows more runs than
there are, never fewer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ir.program import Let, Store, Var
from lowering.hopper import async_program as ap
from lowering.hopper.trips import Scope, Trip
from lowering.plan import walk

Line = int  # the number in `Lines` of a kind ("counter" or "limit"), depth, form and sweep
Lines = dict[tuple[str, int, object, int], Line]  # of both partitions of a kernel


@dataclass(frozen=True, slots=True)
class Block:
    """A loop, or an `If`. `counter`: the line of its counter; `limits`: for each limit its line and c (no line: c is a
    plain number of iterations)."""

    loop: ap.Loop | ap.If
    trip: Trip
    depth: int
    counter: Line
    limits: tuple[tuple[Line | None, int], ...]


@dataclass(frozen=True, slots=True)
class Do:
    """`reads`: the names whose values the statement needs; `site`: its running number in the partition."""

    statement: ap.Statement
    reads: frozenset[str]
    site: int


@dataclass(frozen=True, slots=True)
class Enter:
    block: int
    reads: frozenset[str]


@dataclass(frozen=True, slots=True)
class Head:
    block: int
    exit: int


@dataclass(frozen=True, slots=True)
class Back:
    block: int
    head: int


@dataclass(frozen=True, slots=True)
class End:
    pass


Instruction = Do | Enter | Head | Back | End


@dataclass(frozen=True, slots=True)
class Partition:
    name: str
    code: tuple[Instruction, ...]
    blocks: tuple[Block, ...]
    heads: tuple[tuple[Line, int, bool], ...]  # for each loop and line of it: the line, the position, bounded or not

    def ahead(self, line: Line, position: int, bounded: bool) -> bool:
        """Whether an unbounded (or, if asked for, any) loop of this line starts at `position` or further down."""
        return any(at >= position for known, at, peeled in self.heads if known == line and (bounded or not peeled))


def partitions(kernel: ap.AsyncKernel) -> tuple[Partition, Partition]:
    """The instructions of the producer and of the consumer."""
    ids = frozenset(axis.name for axis in kernel.grid)
    lines: Lines = {}

    def written(name: str, statements: tuple[ap.Statement, ...]) -> Partition:
        writer = _Writer(name, ids, lines)
        writer.statements(statements, 0)
        return Partition(name, (*writer.code, End()), tuple(writer.blocks), tuple(writer.heads))

    return written("producer", kernel.producer), written("consumer", kernel.consumer)


class _Writer:
    def __init__(self, name: str, ids: frozenset[str], lines: Lines) -> None:
        self.scope = Scope(name, ids)
        self.lines = lines
        self.code: list[Instruction] = []
        self.blocks: list[Block] = []
        self.heads: list[tuple[Line, int, bool]] = []

    def statements(self, statements: tuple[ap.Statement, ...], depth: int) -> None:
        sweeps: Counter[tuple[str, object]] = Counter()
        for statement in statements:
            if isinstance(statement, ap.Loop | ap.If):
                self.loop(statement, depth, sweeps)
                continue
            if isinstance(statement, Let):
                self.scope.let(statement)
            self.code.append(Do(statement, names_read(statement), len(self.code)))

    def loop(self, loop: ap.Loop | ap.If, depth: int, sweeps: Counter[tuple[str, object]]) -> None:
        trip = self.scope.trip(loop)
        self.scope.enter(loop, depth)

        def line(kind: str, form: object) -> Line:
            seen = sweeps[kind, form]
            key = (kind, depth, form, max(0, seen - 1) if trip.bounded else seen)
            return self.lines.setdefault(key, len(self.lines))

        counter = line("counter", trip.origin)
        limits = tuple((line("limit", form) if form.terms else None, c) for form, c in trip.limits)
        number = len(self.blocks)
        self.blocks.append(Block(loop, trip, depth, counter, limits))
        condition = (loop.condition,) if isinstance(loop, ap.If) else (loop.start, loop.stop)
        self.code.append(Enter(number, names_in((condition, tuple(c.init for c in loop.carries)))))
        head = len(self.code)
        self.code.append(End())  # replaced below, when the exit is known
        self.statements(loop.body, depth + 1)
        self.code.append(Back(number, head))
        self.code[head] = Head(number, len(self.code))
        asked = [counter, *(known for known, _ in limits if known is not None)]
        self.heads += [(one, head, trip.bounded) for one in asked]
        if not trip.bounded:
            sweeps["counter", trip.origin] += 1
            sweeps.update(("limit", form) for form, _ in trip.limits)


def names_in(node: object) -> frozenset[str]:
    return frozenset(n.name for n in walk(node) if isinstance(n, Var))


def names_read(statement: ap.Statement) -> frozenset[str]:
    """The names whose values a statement (not a loop) needs when it is executed."""
    match statement:
        case Let(value=value):
            return names_in(value)
        case Store():
            return names_in((statement.index, statement.value, statement.mask))
        case ap.Copy(index=index):
            return names_in(index)
        case ap.Write(value=value):
            return names_in(value)
        case ap.IssueDot(left=left, acc=acc):
            return names_in((left, acc))
        case _:
            return frozenset()


def tiles(statement: ap.Statement) -> tuple[ap.Tile, ...]:
    """The held tiles a statement reads."""
    match statement:
        case ap.Read(tile=tile):
            return (tile,)
        case ap.IssueDot(left=ap.Tile() as left, right=right):
            return (left, right)
        case ap.IssueDot(right=right):
            return (right,)
        case _:
            return ()


def visible(instruction: Instruction) -> bool:
    """Whether the other partition can see or stop it, or it decides how a loop goes on: a point to switch at."""
    match instruction:
        case Do(statement=ap.WaitEmpty() | ap.Copy() | ap.WaitFull() | ap.Release()):
            return True
        case Head() | End():
            return True
        case _:
            return False


def text(statement: ap.Statement) -> str:
    """A statement in a trace."""
    match statement:
        case ap.WaitDots(pending=pending):
            return f"waits for all but {pending} dots"
        case ap.IssueDot(name=name):
            return f"issues dot {name}"
        case ap.Read(name=name, tile=tile):
            return f"reads {name} from {tile.ring}"
        case ap.Write(ring=ring):
            return f"writes {ring}"
        case Let(name=name):
            return f"computes {name}"
        case Store(tensor=tensor):
            return f"stores to {tensor}"
        case _:
            return type(statement).__name__
