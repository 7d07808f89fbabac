"""What a typed program does on the machine at given sizes, counted from its own statements.

One kernel is walked once for a whole batch of its programs: a scalar is an array with one entry for each program, so
loop bounds that depend on program ids (a causal kernel's) give every program its own trip count. An operation counts
as often as the innermost loop whose names it depends on runs: compilers move the rest out. Tiles count in full, padding
included, since that is what the machine computes; memory counts only what masks let through, on average.

These are estimates: an integer that is loaded counts as the middle of what the spec says of it, the counter of a loop
around another as the middle of its range. Nothing here is part of a proof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ir import program as p
from ir.arithmetic import ARITHMETIC, integer_binary
from ir.evaluate import integer_value
from ir.program import DType
from ir.spec import Bound

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Special-function and plain operations for each lane, from what PTX spells them as.
SPECIAL = {"exp": 1, "exp2": 1, "log": 1, "log2": 1, "sqrt": 1, "tanh": 2, "sigmoid": 2}
PLAIN = {"exp": 1, "log": 1, "sqrt": 2, "tanh": 6, "sigmoid": 4, "neg": 0}
DIVIDE = (1, 8)  # a reciprocal and its correction
PHILOX = 100  # ten rounds of multiplications and xors
SMALLEST_DOT = 16


@dataclass(slots=True)
class Traffic:
    """What programs ask of one tensor: `bytes` of each program; `key` tells programs apart that read other cells,
    `low` and `high` bound the index that a loop moves, None where no loop moves one."""

    tensor: str
    kind: str
    bytes: Floats
    key: Ints
    low: Floats | None
    high: Floats | None


@dataclass(slots=True)
class Cycle:
    """One loop of the program: `runs` iterations of each program in all, `entries` times it is begun; of one iteration,
    without the loops inside: operations of `dots`, `special` functions in lanes."""

    depth: int
    runs: Floats
    entries: Floats
    dots: float = 0.0
    special: float = 0.0


@dataclass(slots=True)
class Counts:
    """Of each program in the batch: operations of 16-bit (`half`) and of float32 dots, 2 for a multiply-add; `special`
    functions and `plain` operations, in lanes; `waits` for loads that nothing hides, and those `hidden` by pipelining;
    `steps` that the next operation waits for (of loops, reductions, dots); `iterations` of the innermost loops. `rows`
    is the fewest of any dot, `staged` the bytes a pipelined loop loads in one iteration."""

    half: Floats
    single: Floats
    special: Floats
    plain: Floats
    waits: Floats
    hidden: Floats
    steps: Floats
    iterations: Floats
    rows: int = 1024
    staged: int = 0
    traffic: list[Traffic] = field(default_factory=list)
    loops: list[Cycle] = field(default_factory=list)  # in the program's order


def extents(kernel: p.Kernel, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The grid at given sizes."""
    values = {name: np.array([value]) for name, value in sizes.items()}
    found = (_Values(values, {}, 1).of(axis.extent) for axis in kernel.grid)
    return tuple(max(0, int(v[0])) if v is not None else 1 for v in found)


def tensor_bytes(tensor: p.Tensor, sizes: Mapping[str, int]) -> float:
    values = _Values({name: np.array([value]) for name, value in sizes.items()}, {}, 1)
    found = [values.of(e) for e in tensor.shape]
    return math.prod(float(v[0]) for v in found if v is not None) * tensor.dtype.bits / 8


def count(kernel: p.Kernel, program: p.Program, bound: Bound, sizes: Mapping[str, int], numbers: Ints) -> Counts:
    """Count what the programs of these linear numbers do; the last grid axis varies fastest, as they are launched."""
    grid = extents(kernel, sizes)
    ids = np.unravel_index(numbers, grid) if grid else ()
    names = {axis.name: np.asarray(k, np.int64) for axis, k in zip(kernel.grid, ids, strict=True)}
    return _Walk(kernel, program, bound, sizes, names, len(numbers)).run()


@dataclass(slots=True)
class _Values:
    """Integer expressions at lane 0 for every program; None where the value is not known."""

    names: dict[str, Ints]
    tables: Mapping[str, tuple[float, float, float]]  # of an integer tensor: least, most, and cells if it cuts 0..most
    programs: int
    told_apart: bool = False  # what is loaded stands for where it was loaded from

    def of(self, e: p.Expr) -> Ints | None:
        match e:
            case p.Literal(value):
                return np.full(self.programs, int(value)) if e.type.dtype is not DType.BOOL else None
            case p.Var(name) | p.Size(name):
                return self.names.get(name)
            case p.Arange():
                return np.zeros(self.programs, np.int64)
            case p.Broadcast(operand=x) | p.Expand(operand=x) | p.Transpose(operand=x) | p.Cast(operand=x):
                return self.of(x)
            case p.Reduce(operand=x):
                return self.of(x)
            case p.Binary(op, left, right) if left.type.dtype.is_int and op in ARITHMETIC:
                a, b = self.of(left), self.of(right)
                return None if a is None or b is None else np.asarray(integer_binary(op, a, b))
            case p.Select(condition, then, otherwise):
                c, a, b = self.of(condition), self.of(then), self.of(otherwise)
                return a if c is None or b is None else b if a is None else np.where(c, a, b)
            case p.Load(tensor, index) if e.type.dtype.is_int:
                return self._cell(tensor, [self.of(i) for i in index])
            case _:
                return None

    def _cell(self, tensor: str, index: Sequence[Ints | None]) -> Ints | None:
        least, most, cells = self.tables.get(tensor, (0.0, 0.0, 0.0))
        if cells and index[0] is not None:
            return (index[0] * most / max(1.0, cells - 1)).astype(np.int64)
        if self.told_apart:
            found = np.zeros(self.programs, np.int64)
            for k in index:
                found = found * 8191 + (0 if k is None else k)
            return found
        return np.full(self.programs, int(least + most) // 2)


@dataclass
class _Walk:
    """Goes through one kernel. `levels` says of a name how many of the loops around it its value depends on."""

    kernel: p.Kernel
    program: p.Program
    bound: Bound
    sizes: Mapping[str, int]
    ids: Mapping[str, Ints]
    programs: int

    def run(self) -> Counts:
        a, b, c, d, e, f, g, h = (np.zeros(self.programs) for _ in range(8))
        self.counts = Counts(a, b, c, d, e, f, g, h)
        known = {name: np.full(self.programs, value) for name, value in self.sizes.items()} | dict(self.ids)
        tables = self._tables()
        # A loop's counter at its first, middle and last iteration.
        self.first = _Values(dict(known), tables, self.programs, True)
        self.middle = _Values(dict(known), tables, self.programs)
        self.last = _Values(dict(known), tables, self.programs, True)
        self.levels: dict[str, int] = {}
        self.around: list[Cycle] = []
        self.trips: list[Floats] = [np.ones(self.programs)]
        self.dotted = [_has_dot(self.kernel.body)]
        self._body(self.kernel.body)
        return self.counts

    def _tables(self) -> dict[str, tuple[float, float, float]]:
        found = {}
        for tensor, dtype in self.bound.inputs:
            if dtype.is_int:
                facts = tensor.facts
                least, most = (
                    0.0 if e is None else float(integer_value(self.bound, e, self.sizes))
                    for e in (facts.least, facts.splits or facts.most)
                )
                cells = integer_value(self.bound, tensor.shape[0], self.sizes) if facts.splits is not None else 0
                found[tensor.name] = (least, most, float(cells))
        return found

    # ---- statements ---------------------------------------------------------------------------------

    def _body(self, body: tuple[p.Statement, ...]) -> None:
        waited = False
        for s in body:
            match s:
                case p.Let(name, value):
                    self.levels[name] = self._expr(value)
                    for values in (self.first, self.middle, self.last):
                        if value.type.dtype.is_int and (found := values.of(value)) is not None:
                            values.names[name] = found
                    waited = waited or any(isinstance(e, p.Load) for e in walk(value))
                case p.Store():
                    self._store(s)
                case p.For():
                    self._loop(s)
        if waited:
            hidden = len(self.trips) > 1 and self.dotted[-1] and self.kernel.schedule.num_stages > 1
            self._add("hidden" if hidden else "waits", 1.0, len(self.trips) - 1)

    def _loop(self, s: p.For) -> None:
        for e in (s.start, s.stop):
            self._expr(e)
        start, stop = self.middle.of(s.start), self.middle.of(s.stop)
        trips = np.ones(self.programs)  # where the bounds are not known
        if start is not None and stop is not None:
            trips = np.maximum(0, stop - start).astype(np.float64)
        depth = len(self.trips)
        for carry in s.carries:
            self.levels[carry.name] = depth
            for values in (self.first, self.middle, self.last):
                if carry.type.dtype.is_int and (found := values.of(carry.init)) is not None:
                    values.names[carry.name] = found
        self.levels[s.counter] = depth
        if start is not None:
            steps = np.maximum(0, trips - 1).astype(np.int64)
            first = self.first.of(s.start)
            self.first.names[s.counter] = start if first is None else first
            self.middle.names[s.counter] = start + steps // 2
            self.last.names[s.counter] = self.first.names[s.counter] + steps
        self.around.append(Cycle(depth, self.trips[-1] * trips, self.trips[-1]))
        self.counts.loops.append(self.around[-1])
        self.trips.append(self.trips[-1] * trips)
        self.dotted.append(_has_dot(s.body))
        self._body(s.body)
        for carry in s.carries:
            self._expr(carry.next)
        self._add("steps", 1.0, depth)
        if not any(isinstance(inner, p.For) for inner in s.body):
            self._add("iterations", 1.0, depth)
        self.trips.pop()
        self.around.pop()
        self.dotted.pop()
        for carry in s.carries:
            self.levels[carry.name] = min(self.levels[carry.name], depth - 1)

    def _store(self, s: p.Store) -> None:
        depth = len(self.trips) - 1
        for e in (*s.index, s.value, *((s.mask,) if s.mask is not None else ())):
            self._expr(e)
        shape = s.value.type.shape
        self._traffic("atomic" if s.atomic else "store", s.tensor, s.index, shape, s.mask is not None, depth)

    # ---- expressions --------------------------------------------------------------------------------

    def _add(self, what: str, amount: float, level: int) -> None:
        total = getattr(self.counts, what)
        level = min(level, len(self.trips) - 1)
        total += amount * self.trips[level]
        if level and what in ("half", "single"):
            self.around[level - 1].dots += amount
        if level and what == "special":
            self.around[level - 1].special += amount

    def _expr(self, e: p.Expr) -> int:
        """Count one expression and what is in it; the level it depends on."""
        level = max((self._expr(child) for child in children(e)), default=0)
        lanes = float(math.prod(e.type.shape))
        match e:
            case p.Var(name):
                return self.levels.get(name, 0)
            case p.Unary(op):
                self._add("special", lanes * SPECIAL.get(op, 0), level)
                self._add("plain", lanes * PLAIN.get(op, 0 if op in SPECIAL else 1), level)
            case p.Binary("div") if e.type.dtype.is_float:
                self._add("special", lanes * DIVIDE[0], level)
                self._add("plain", lanes * DIVIDE[1], level)
            case p.Binary("floordiv" | "mod", _, right):
                self._add("plain", lanes * (1 if isinstance(right, p.Literal) else 20), level)
            case p.Binary(op, left, right):
                fused = op in ("add", "sub") and any(_is_product(x) for x in (left, right))
                self._add("plain", 0.0 if fused else lanes, level)
            case p.Select():
                self._add("plain", lanes, level)
            case p.Cast(operand) if operand.type.dtype is not e.type.dtype and e.type.dtype.is_float:
                self._add("plain", lanes / 2, level)
            case p.Reduce(_, operand):
                self._add("plain", float(math.prod(operand.type.shape)), level)
                self._add("steps", 1.0, level)
            case p.Random():
                self._add("plain", lanes * PHILOX, level)
            case p.Dot(left, right):
                self._dot(left, right, level)
            case p.Load():
                level = len(self.trips) - 1
                self._traffic("load", e.tensor, e.index, e.type.shape, e.mask is not None, level)
        return level

    def _dot(self, left: p.Expr, right: p.Expr, level: int) -> None:
        rows, depth, columns = (*left.type.shape, right.type.shape[1])
        work = 2.0 * math.prod(max(n, SMALLEST_DOT) for n in (rows, depth, columns))
        self._add("single" if left.type.dtype is DType.F32 else "half", work, level)
        self._add("steps", 1.0, level)
        self.counts.rows = min(self.counts.rows, rows)

    def _traffic(
        self, kind: str, tensor: str, index: tuple[p.Expr, ...], shape: tuple[int, ...], masked: bool, level: int
    ) -> None:
        declared = self.program.tensor(tensor)
        cells = np.full(self.programs, float(math.prod(shape)))
        key = np.zeros(self.programs, np.int64)
        low: Floats | None = None
        high: Floats | None = None
        for e, extent in zip(index, declared.shape, strict=True):
            length = math.prod(e.type.shape)
            whole = self.middle.of(extent)
            if masked and whole is not None and length > 1:
                tiles = np.ceil(np.maximum(whole, 1) / length)
                cells = cells * np.minimum(1.0, whole / (tiles * length))
            at, end = self.first.of(e), self.last.of(e)
            if at is None or end is None:
                continue
            if np.any(at != end):
                low, high = at.astype(np.float64), (end + length).astype(np.float64)
            else:
                key = key * 1000003 + at
        amount = cells * self.trips[level] * declared.dtype.bits / 8
        if kind == "load" and level and self.dotted[-1]:
            self.counts.staged += math.prod(shape) * declared.dtype.bits // 8
        self.counts.traffic.append(Traffic(tensor, kind, amount, key, low, high))


def children(e: p.Expr) -> tuple[p.Expr, ...]:
    """The operands of an expression; of a load, its index, mask and other."""
    match e:
        case p.Unary(operand=x) | p.Cast(operand=x) | p.Broadcast(operand=x) | p.Expand(operand=x):
            return (x,)
        case p.Transpose(operand=x) | p.Reduce(operand=x):
            return (x,)
        case p.Binary(_, left, right):
            return (left, right)
        case p.Select(condition, then, otherwise):
            return (condition, then, otherwise)
        case p.Dot(left, right, acc):
            return (left, right) if acc is None else (left, right, acc)
        case p.Random(seed, counter):
            return (seed, counter)
        case p.Load(_, index, mask, other):
            return (*index, *(x for x in (mask, other) if x is not None))
        case _:
            return ()


def walk(e: p.Expr) -> Sequence[p.Expr]:
    """Every expression in an expression."""
    found = [e]
    for child in children(e):
        found += walk(child)
    return found


def _is_product(e: p.Expr) -> bool:
    while isinstance(e, p.Broadcast | p.Expand):
        e = e.operand
    return isinstance(e, p.Binary) and e.op == "mul"


def _has_dot(body: tuple[p.Statement, ...]) -> bool:
    for s in body:
        match s:
            case p.Let(_, value) | p.Store(value=value):
                if any(isinstance(e, p.Dot) for e in walk(value)):
                    return True
            case p.For(body=inner):
                if _has_dot(inner):
                    return True
    return False
