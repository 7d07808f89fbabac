"""One partition of an asynchronous program as lines of Gluon.

Keeps the contract of `lowering.hopper.async_program`, statement by statement: the fills of each ring (the producer's
copies, the consumer's waits) are counted, from which slots and parities follow; a release counts back by the tiles
held; a dot's result is read through the wait that retires it, and a register operand is named in that wait, so that
its registers live until then. Gluon's `mbarrier.arrive` first brings the partition's warps together (seen in the
assembly of Triton 3.6.0 and 3.7.1), which is what makes one arrival speak for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ir.program import Expr, Let, Load, Reduce, Store
from lowering.hopper import async_program as ap
from lowering.hopper.flatten import names_in
from lowering.hopper.layouts import Blocked, Mma, Operand, mma, natural, split_axis
from lowering.hopper.writer import GluonWriter, NotByRows
from lowering.intervals import UNKNOWN, interval
from lowering.plan import walk
from lowering.spelling import address, expr, tensor


@dataclass(frozen=True, slots=True)
class RingNames:
    """How a ring's parts are called in the emitted kernel; `descriptor` is the argument its tiles come from, empty for
    a ring that the consumer writes."""

    tiles: str
    full: str
    empty: str
    fills: str
    descriptor: str


Pattern = tuple[object, ...]


def pattern(statements: Iterable[ap.Statement], ring: str) -> Pattern:
    """How a partition fills a ring: the fills between the loops and branches of a block, and the patterns of these.
    Rings of one pattern have had as many fills as each other at every edge of a loop or branch."""
    counts: list[object] = [0]
    for s in statements:
        if isinstance(s, ap.Loop | ap.If):
            counts += [pattern(s.body, ring), 0]
        elif isinstance(s, ap.Copy | ap.WaitFull) and s.ring == ring:
            counts.append(int(str(counts.pop())) + 1)
    return tuple(counts)


def single(kernel: ap.AsyncKernel, ring: ap.Ring) -> bool:
    """Whether the ring is filled at most once: it needs no counter, and nobody waits for it to be empty."""
    filler = kernel.consumer if ring.written else kernel.producer
    loops = [s for s in walk(filler) if isinstance(s, ap.Loop)]
    return _copies(filler, ring) == 1 and not any(_copies(loop, ring) for loop in loops)


def _power(ring: ap.Ring) -> bool:
    """Whether slots and parities are bits of a count: no sign to see to, and right even where the count wraps round."""
    return ring.stages.bit_count() == 1


def _copies(node: object, ring: ap.Ring) -> int:
    return sum(isinstance(n, ap.Copy | ap.Write) and n.ring == ring.name for n in walk(node))


@dataclass(slots=True)
class Partition:
    """Writes one partition. `held`: tiles of each ring held at this point; `written`: those written and not waited
    for; `flying`: dots issued and not retired, with the names of their register operands. `counters`: by ring, what
    counts its fills, shared by the rings of one pattern; it is raised at the edges of loops and branches, `since` fills
    after it was last."""

    kernel: ap.AsyncKernel
    rings: Mapping[str, RingNames]
    w: GluonWriter
    held: dict[str, int] = field(default_factory=dict)
    counters: dict[str, str] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    flying: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)
    layouts: set[Mma] = field(default_factory=set)

    def write(self, statements: Iterable[ap.Statement], depth: int) -> None:
        body = tuple(statements)
        counted = {n.ring for n in walk(body) if isinstance(n, ap.Copy | ap.WaitFull)}
        counts: dict[Pattern, str] = {}
        for ring in self.kernel.rings:
            if ring.name in counted and not single(self.kernel, ring):
                self.counters[ring.name] = counts.setdefault(pattern(body, ring.name), self.rings[ring.name].fills)
        for count in counts.values():
            self.w.line(depth, f"{count} = 0")
        self.block(body, depth)

    def block(self, statements: Iterable[ap.Statement], depth: int) -> None:
        for s in statements:
            self.statement(s, depth)

    def _flush(self, depth: int) -> None:
        """Raises the counters by the fills since that was last done."""
        for count, fills in {self.counters[ring]: fills for ring, fills in self.since.items()}.items():
            if fills:
                self.w.line(depth, f"{count} += {fills}")
        self.since.clear()

    def statement(self, s: ap.Statement, depth: int) -> None:
        match s:
            case Let():
                self._let(s, depth)
            case Store():
                self._store(s, depth)
            case ap.WaitEmpty(ring=name):
                self._wait(name, depth, full=False)
            case ap.Copy(ring=name, index=index):
                self._copy(name, index, depth)
            case ap.Write():
                self._write(s, depth)
            case ap.WaitFull(ring=name):
                if name in self.written:
                    self.written[name] -= 1
                self._wait(name, depth, full=True)
                self.held[name] = self.held.get(name, 0) + 1
                self._count(name)
            case ap.Release(ring=name):
                if any(isinstance(n, ap.Read) and n.tile.ring == name for n in walk(self.kernel.consumer)):
                    # Ordinary reads of the slot come before the copy engine's next writes.
                    self.w.line(depth, "hopper.fence_async_shared()")
                slot = self._slot(name, self.held[name])
                self.w.line(depth, f"mbarrier.arrive({self.rings[name].empty}.index({slot}), count=1)")
                self.held[name] -= 1
            case ap.Read():
                self._read(s, depth)
            case ap.IssueDot():
                self._issue(s, depth)
            case ap.WaitDots(pending=pending):
                self._retire(pending, depth)
            case ap.Loop() | ap.If():
                self._control(s, depth)

    # ---- rings -------------------------------------------------------------------------------

    def _slot(self, name: str, back: int) -> str:
        """The slot of the fill `back` before the next one to be copied or waited for."""
        ring = self.kernel.ring(name)
        if ring.stages == 1:
            return "0"
        text = self._fills(name, -back)
        return f"{text} & {ring.stages - 1}" if _power(ring) else f"{text} % {ring.stages}"

    def _fills(self, name: str, more: int) -> str:
        """The number of the next fill, and `more`."""
        count, offset = self.counters[name], self.since.get(name, 0) + more
        return f"({count} {'+' if offset > 0 else '-'} {abs(offset)})" if offset else count

    def _wait(self, name: str, depth: int, full: bool) -> None:
        ring, names = self.kernel.ring(name), self.rings[name]
        if single(self.kernel, ring):
            if full:
                self.w.line(depth, f"mbarrier.wait({names.full}.index(0), 0)")
            return
        ahead = 0 if full else self.written.get(name, 0)
        times = f">> {ring.stages.bit_length() - 1}" if _power(ring) else f"// {ring.stages}"
        turn = self._fills(name, ahead) if ring.stages == 1 else f"{self._fills(name, ahead)} {times}"
        parity = f"{turn} & 1" if full else f"({turn} & 1) ^ 1"
        barrier = names.full if full else names.empty
        self.w.line(depth, f"mbarrier.wait({barrier}.index({self._slot(name, -ahead)}), {parity})")

    def _copy(self, name: str, index: tuple[Expr, ...], depth: int) -> None:
        ring, names = self.kernel.ring(name), self.rings[name]
        slot = self._slot(name, 0)
        corner = ", ".join(expr(self.w, e).text for e in index)
        self.w.line(depth, f"mbarrier.expect({names.full}.index({slot}), {ring.tile_bytes})")
        text = (
            f"tma.async_copy_global_to_shared({names.descriptor}, [{corner}], "
            f"{names.full}.index({slot}), {names.tiles}.index({slot}))"
        )
        self.w.call(depth, "", text)
        self._count(name)

    def _write(self, s: ap.Write, depth: int) -> None:
        """This team's rows; one arrival says that the warps of the team have written theirs, for dots to read."""
        w, ring, names = self.w, self.kernel.ring(s.ring), self.rings[s.ring]
        layout = natural(s.value, w.homes) or Blocked(ring.shape, w.warps)
        rows = split_axis(layout)
        if w.teams > 1 and rows is None:
            raise NotByRows(f"a tile written to {s.ring} that every team has whole")
        ahead = self.written.get(s.ring, 0)
        self.written[s.ring] = ahead + 1
        slot = self._slot(s.ring, -ahead)
        tile = f"{names.tiles}.index({slot})" + self._share(ring, rows)
        w.call(depth, "", f"{tile}.store({w.piece(s.value, layout).text})", s.comment)
        w.line(depth, "hopper.fence_async_shared()")
        w.line(depth, f"mbarrier.arrive({names.full}.index({slot}), count=1)")

    def _share(self, ring: ap.Ring, axis: int | None) -> str:
        """The part of a tile, along an axis, that is the team's."""
        if axis is None or self.w.teams == 1:
            return ""
        return f".slice({self.w.part(ring.shape, axis)}, {ring.shape[axis] // self.w.teams}, {axis})"

    def _count(self, name: str) -> None:
        if name in self.counters:
            self.since[name] = self.since.get(name, 0) + 1

    def _tile(self, tile: ap.Tile, rows: int | None = None) -> str:
        """A tile, or a team's share of it along the axis `rows` of what is read."""
        ring = self.kernel.ring(tile.ring)
        text = f"{self.rings[tile.ring].tiles}.index({self._slot(tile.ring, 1 + tile.age)})"
        text += "" if ring.written else f".reshape({list(ring.shape)})"
        text += self._share(ring, rows if rows is None or not tile.transposed else 1 - rows)
        return text + (".permute([1, 0])" if tile.transposed else "")

    # ---- dots --------------------------------------------------------------------------------

    def _issue(self, s: ap.IssueDot, depth: int) -> None:
        w = self.w
        layout = mma(s.type, w.warps)
        self.layouts.add(layout)
        registers: tuple[str, ...] = ()
        if isinstance(s.left, ap.Tile):
            left = self._tile(s.left, rows=0)
        else:
            left = w.fresh("left")
            w.line(depth, f"{left} = {w.piece(s.left, Operand(layout)).text}")
            registers = (left,)
        if s.acc is None:
            with w.under(layout):
                acc, use = w.full(s.type.shape, "0.0", "gl.float32"), ", use_acc=False"
        else:
            acc, use = w.piece(s.acc, layout).text, ""
        name = w.name(s.name)
        text = f"hopper.warpgroup_mma({left}, {self._tile(s.right)}, {acc}{use}, is_async=True)"
        w.call(depth, f"{name} = ", text, s.comment)
        self.flying.append((name, registers))

    def _retire(self, pending: int, depth: int) -> None:
        done = self.flying[: max(0, len(self.flying) - pending)]
        self.flying = self.flying[len(done) :]
        if not done:
            return
        names = [n for name, registers in done for n in (name, *registers)]
        self.w.line(depth, f"{', '.join(names)} = hopper.warpgroup_mma_wait({pending}, deps=[{', '.join(names)}])")

    # ---- the typed core ----------------------------------------------------------------------

    def _let(self, let: Let, depth: int) -> None:
        w, shape = self.w, let.value.type.shape
        w.ranges[let.name] = interval(let.value, w.sizes, w.ranges)
        if not shape:
            piece = w.piece(let.value, None) if not let.value.type.dtype.is_int else expr(w, let.value)
            if piece.value is not None:
                w.constants[let.name] = piece.value
            w.call(depth, f"{w.name(let.name)} = ", piece.text, let.comment)
            return
        if let.name not in w.homes and any(isinstance(n, Load | Reduce) for n in walk(let.value)):
            w.once.add(let.name)  # not to be loaded, or summed, twice
        if let.name in w.homes or let.name in w.once:
            layout = w.home(let.name, shape)
            w.call(depth, f"{w.name(let.name)} = ", w.piece(let.value, layout).text, let.comment)
            return
        for layout in tuple(w.demands.get(let.name, ())):
            w.call(depth, f"{w.variant(let.name, layout)} = ", w.piece(let.value, layout).text, let.comment)

    def _read(self, read: ap.Read, depth: int) -> None:
        w = self.w
        w.once.add(read.name)
        layout = w.home(read.name, read.type.shape)
        tile = self._tile(read.tile, split_axis(layout))
        w.line(depth, f"{w.name(read.name)} = {tile}.load({layout})", read.comment)

    def _store(self, store: Store, depth: int) -> None:
        w, shape = self.w, store.value.type.shape
        layout = natural(store.value, w.homes) or (Blocked(shape, w.warps) if shape else None)
        if w.teams > 1 and split_axis(layout) is None:
            raise NotByRows(f"a store to {store.tensor} that every team would do")
        with w.under(layout):
            value = tensor(w, expr(w, store.value), store.value.type)
            if store.value.type.dtype.is_int:
                value = value.method(f".to(gl.int{store.value.type.dtype.bits})")
            parts = [address(w, store.tensor, store.index, shape), value.text]
            if store.mask is not None:
                parts.append(f"mask={tensor(w, expr(w, store.mask), store.mask.type).text}")
        if store.atomic:
            parts.append('sem="relaxed"')
        w.call(depth, "", f"gl.{'atomic_add' if store.atomic else 'store'}({', '.join(parts)})", store.comment)

    # ---- control -----------------------------------------------------------------------------

    def _control(self, s: ap.Loop | ap.If, depth: int) -> None:
        w = self.w
        self._flush(depth)
        inits = []
        for c in s.carries:
            if c.type.shape and c.name not in w.homes:
                w.once.add(c.name)
            inits.append((w.name(c.name), self._carried(c.name, c.init)))
            w.ranges[c.name] = UNKNOWN
        for name, value in inits:
            if name != value:
                w.line(depth, f"{name} = {value}")
        if isinstance(s, ap.Loop):
            start, stop = expr(w, s.start), expr(w, s.stop)
            low, _ = interval(s.start, w.sizes, w.ranges)
            _, high = interval(s.stop, w.sizes, w.ranges)
            w.ranges[s.counter] = (low, None if high is None else high - 1)
            w.line(depth, f"for {w.name(s.counter)} in range({start.text}, {stop.text}):", s.comment)
        else:
            w.line(depth, f"if {expr(w, s.condition).text}:", s.comment)
        self.block(s.body, depth + 1)
        self._flush(depth + 1)
        nexts = [(w.name(c.name), self._carried(c.name, c.next)) for c in s.carries]
        moved = [(name, value) for name, value in nexts if name != value]
        if moved:
            w.line(depth + 1, f"{', '.join(n for n, _ in moved)} = {', '.join(v for _, v in moved)}")
        elif not s.body:
            w.line(depth + 1, "pass")

    def _carried(self, name: str, e: Expr) -> str:
        w = self.w
        return w.piece(e, w.home(name, e.type.shape) if e.type.shape else None).text


def free_names(statements: Iterable[ap.Statement]) -> set[str]:
    """Names a partition reads and does not bind: program ids."""
    nodes = list(walk(tuple(statements)))
    bound = {n.name for n in nodes if isinstance(n, Let | ap.Read | ap.IssueDot)}
    bound |= {n.counter for n in nodes if isinstance(n, ap.Loop)}
    bound |= {c.name for n in nodes if isinstance(n, ap.Loop | ap.If) for c in n.carries}
    return names_in(tuple(statements)) - bound


