"""Is an `AsyncKernel` one at all? Names, rings, shapes: everything about its statements that needs no order of events.

Names are assigned once in a partition. So a register operand of a dot in flight cannot be overwritten, and the checker
of the protocol need not ask.
"""

from __future__ import annotations

from math import prod

from ir.program import Dot, DType, Let, Store, Type, Var
from lowering.accesses import BoxLoad, BoxStore
from lowering.hopper import async_program as ap
from lowering.plan import walk

PRODUCER = (Let, ap.Loop, ap.If, ap.WaitEmpty, ap.Copy)
CONSUMER = (
    Let, ap.Loop, ap.If, Store, ap.WaitEmpty, ap.Write, ap.WaitFull, ap.Release, ap.Read, ap.IssueDot, ap.WaitDots,
)  # fmt: skip


def defects(kernel: ap.AsyncKernel) -> list[str]:
    """What is wrong with the statements of `kernel`, in order."""
    found = [text for ring in kernel.rings for text in _ring(ring)]
    if len({ring.name for ring in kernel.rings}) < len(kernel.rings):
        found.append("two rings have one name")
    if kernel.teams < 1 or kernel.schedule.num_warps % kernel.teams:
        found.append(f"{kernel.schedule.num_warps} warps in {kernel.teams} teams")
    for name, body, kinds in (("producer", kernel.producer, PRODUCER), ("consumer", kernel.consumer, CONSUMER)):
        reader = _Reader(kernel, kinds, {axis.name for axis in kernel.grid})
        reader.statements(body, set(reader.assigned))
        found += [f"{name}: {text}" for text in reader.found]
    return found


def _ring(ring: ap.Ring) -> list[str]:
    found = []
    if ring.stages < 1:
        found.append(f"ring {ring.name} has {ring.stages} slots")
    kept = tuple(n for n in ring.box if n != 1)
    if prod(ring.box) != prod(ring.shape) or kept != tuple(n for n in ring.shape if n != 1):
        found.append(f"ring {ring.name} copies boxes of {list(ring.box)} as tiles of {list(ring.shape)}")
    return found


class _Reader:
    """One partition. `assigned`: every name so far; `statements` is given those in scope."""

    def __init__(self, kernel: ap.AsyncKernel, kinds: tuple[type, ...], ids: set[str]) -> None:
        self.kernel = kernel
        self.rings = {ring.name: ring for ring in kernel.rings}
        self.kinds = kinds
        self.assigned = set(ids)
        self.found: list[str] = []

    def statements(self, statements: tuple[ap.Statement, ...], scope: set[str]) -> None:
        for statement in statements:
            if not isinstance(statement, self.kinds):
                self.found.append(f"{type(statement).__name__} does not belong here")
            elif isinstance(statement, ap.Loop | ap.If):
                self.block(statement, scope)
            else:
                self.statement(statement, scope)

    def block(self, block: ap.Loop | ap.If, scope: set[str]) -> None:
        head = (block.start, block.stop) if isinstance(block, ap.Loop) else (block.condition,)
        self.expressions((head, tuple(c.init for c in block.carries)), scope)
        counters = [block.counter] if isinstance(block, ap.Loop) else []
        for name in (*counters, *(c.name for c in block.carries)):
            self.assign(name)
        inside = scope | set(counters) | {c.name for c in block.carries}
        self.statements(block.body, inside)
        self.expressions(tuple(c.next for c in block.carries), inside)
        scope |= {c.name for c in block.carries}

    def statement(self, statement: ap.Statement, scope: set[str]) -> None:
        match statement:
            case Let(name=name, value=value):
                self.expressions(value, scope)
                self.assign(name, scope)
            case BoxStore(tensor=tensor):
                self.found.append(f"a box stored to {tensor}: only the producer moves boxes")
            case Store(index=index, value=value, mask=mask):
                self.expressions((index, value, mask), scope)
            case ap.Copy(ring=ring, index=index):
                self.expressions(index, scope)
                if self.fills(ring) and len(index) != len(self.rings[ring].box):
                    self.found.append(f"a copy to {ring} has {len(index)} coordinates")
            case ap.Write(ring=ring, value=value):
                self.expressions(value, scope)
                if self.fills(ring) and value.type != Type(self.rings[ring].dtype, self.rings[ring].shape):
                    self.found.append(f"a tile written to {ring} is of type {value.type}")
            case ap.WaitEmpty(ring=ring):
                self.fills(ring)
            case ap.WaitFull(ring=ring) | ap.Release(ring=ring):
                self.known(ring)
            case ap.Read(name=name, tile=tile, type=type_):
                self.tile(tile, type_.shape, type_.dtype)
                self.assign(name, scope)
            case ap.IssueDot():
                self.dot(statement, scope)
            case ap.WaitDots(pending=pending) if pending < 0:
                self.found.append("a wait for less than no dots")

    def dot(self, dot: ap.IssueDot, scope: set[str]) -> None:
        (m, n), right = dot.type.shape, dot.right
        dtype = self.rings[right.ring].dtype if right.ring in self.rings else DType.F16
        if isinstance(dot.left, ap.Tile):
            width = self.shape(dot.left)[-1]
            self.tile(dot.left, (m, width), dtype)
        else:
            self.expressions(dot.left, scope)
            width = dot.left.type.shape[1]
            if dot.left.type.shape != (m, width) or dot.left.type.dtype is not dtype:
                self.found.append(f"dot {dot.name} has a left operand of type {dot.left.type}")
        self.tile(right, (width, n), dtype)
        if dot.acc is not None:
            self.expressions(dot.acc, scope)
            if dot.acc.type != dot.type:
                self.found.append(f"dot {dot.name} has an accumulator of type {dot.acc.type}")
        self.assign(dot.name, scope)

    def shape(self, tile: ap.Tile) -> tuple[int, ...]:
        shape = self.rings[tile.ring].shape if tile.ring in self.rings else (0, 0)
        return shape[::-1] if tile.transposed else shape

    def tile(self, tile: ap.Tile, shape: tuple[int, ...], dtype: DType) -> None:
        if self.known(tile.ring) and (self.shape(tile) != shape or self.rings[tile.ring].dtype is not dtype):
            self.found.append(f"a tile of {tile.ring} is {list(self.shape(tile))}, read as {list(shape)} {dtype.value}")
        if tile.age < 0:
            self.found.append(f"a tile of {tile.ring} younger than the newest")

    def fills(self, ring: str) -> bool:
        """Whether this partition fills that ring: the consumer those without a tensor, the producer the others."""
        if not self.known(ring):
            return False
        mine = self.rings[ring].written == (ap.Write in self.kinds)
        if not mine:
            self.found.append(f"{ring} is filled by the other partition")
        return mine

    def known(self, ring: str) -> bool:
        if ring not in self.rings:
            self.found.append(f"there is no ring {ring}")
        return ring in self.rings

    def assign(self, name: str, scope: set[str] | None = None) -> None:
        if name in self.assigned:
            self.found.append(f"{name} is assigned twice")
        self.assigned.add(name)
        if scope is not None:
            scope.add(name)

    def expressions(self, node: object, scope: set[str]) -> None:
        for part in walk(node):
            if isinstance(part, Var) and part.name not in scope:
                self.found.append(f"{part.name} is used where it has no value")
            if isinstance(part, Dot | BoxLoad):
                self.found.append(f"a {'dot' if isinstance(part, Dot) else 'box'} inside an expression")
