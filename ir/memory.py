"""Tensors as a kernel sees them, and every way a kernel can misuse them.

Both memories check each access lane by lane, without a Python loop over lanes. `ArrayMemory` holds
the tensors, and remembers for each cell whether it was ever written and by which store and program
of the running launch; `VirtualMemory` holds nothing, for shapes too large to allocate, and checks
bounds and address width only. Misuse is recorded as a `Fault` and never stops the run: a read out of
bounds gives poison (NaN), a write out of bounds is dropped.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ir.arithmetic import INT32_MAX, INT64_MAX, Array, Value, integer_array
from ir.ast import NOWHERE, Span
from ir.program import DType, Tensor


@dataclass(frozen=True, slots=True)
class Fault:
    """One misuse. kind: bounds, write-write, read-write, unwritten, uninitialised, undefined,
    overflow, width. `cell` is the tensor index concerned (outside the tensor for "bounds")."""

    kind: str
    message: str
    kernel: str
    program: tuple[tuple[str, int], ...]
    tensor: str
    cell: tuple[int, ...]
    span: Span = NOWHERE


@dataclass(frozen=True, slots=True)
class Site:
    """The running program instance: its kernel, ids, running number in the launch, and the width in
    bits the kernel asks for its address arithmetic (None: no claim)."""

    kernel: str
    program: tuple[tuple[str, int], ...]
    number: int
    offset_bits: int | None = None


class FaultLog:
    """Collects faults, at most `limit` of a kind."""

    def __init__(self, limit: int = 16) -> None:
        self.limit = limit
        self.faults: list[Fault] = []
        self._counts: dict[str, int] = {}

    def add(
        self, kind: str, message: str, site: Site | None, tensor: str, cell: tuple[int, ...], span: Span = NOWHERE
    ) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= self.limit:
            kernel, program = (site.kernel, site.program) if site else ("", ())
            self.faults.append(Fault(kind, message, kernel, program, tensor, cell, span))


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor at concrete sizes; strides in elements."""

    tensor: Tensor
    extents: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def contiguous(tensor: Tensor, extents: tuple[int, ...]) -> Layout:
        strides = tuple(math.prod(max(n, 1) for n in extents[d + 1 :]) for d in range(len(extents)))
        return Layout(tensor, extents, strides)


@dataclass(frozen=True, slots=True)
class Access:
    """One load or store: `index` entries broadcast to `shape`; mask None means every lane."""

    tensor: str
    index: tuple[Value, ...]
    shape: tuple[int, ...]
    mask: Value | None
    site: Site
    span: Span


class Memory(Protocol):
    """What the interpreter needs of a memory."""

    def begin_launch(self) -> None: ...

    def load(self, access: Access, other: Value | None) -> Array: ...

    def store(self, access: Access, value: Value, atomic: bool) -> None: ...


def program_text(program: tuple[tuple[str, int], ...]) -> str:
    return "program (" + ", ".join(f"{axis}={k}" for axis, k in program) + ")"


def cell_text(tensor: str, cell: tuple[int, ...]) -> str:
    return f"{tensor}[{', '.join(map(str, cell))}]"


def _first(lanes: Array) -> tuple[int, ...]:
    return tuple(int(k) for k in np.unravel_index(int(np.argmax(lanes)), lanes.shape))


@dataclass(frozen=True, slots=True)
class _Reach:
    """Which lanes of an access touch memory, and the per-dimension index, 0 where out of bounds."""

    active: Array
    outside: Array
    index: tuple[Array, ...]

    def cell(self, lane: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(np.broadcast_to(k, shape)[lane]) for k in self.index)


def _reach(access: Access, layout: Layout, log: FaultLog) -> _Reach:
    """Split the lanes whose mask holds into those in bounds and those outside, which are faults."""
    raw = tuple(integer_array(k) for k in access.index)
    oks = [np.asarray((k >= 0) & (k < extent), dtype=bool) for k, extent in zip(raw, layout.extents, strict=True)]
    inside = np.ones((), dtype=bool)
    for ok in oks:
        inside = inside & ok
    mask = np.broadcast_to(np.asarray(True if access.mask is None else access.mask), access.shape)
    active, outside = mask & inside, mask & ~inside
    if outside.any():
        lane = _first(outside)
        cell = tuple(int(np.broadcast_to(k, access.shape)[lane]) for k in raw)
        text = f"{cell_text(access.tensor, cell)} is outside {list(layout.extents)}"
        if lane:
            text += f" (lane {list(lane)}, {int(outside.sum())} lanes in all)"
        log.add("bounds", text, access.site, access.tensor, cell, access.span)
    clipped = tuple(k if ok.all() else np.where(ok, k, 0) for k, ok in zip(raw, oks, strict=True))
    return _Reach(active, outside, clipped)


def _check_width(access: Access, layout: Layout, reach: _Reach, log: FaultLog) -> None:
    """A kernel that asks for 32-bit addresses must not need a larger element offset."""
    furthest = sum(max(n - 1, 0) * stride for n, stride in zip(layout.extents, layout.strides, strict=True))
    if access.site.offset_bits != 32 or furthest <= INT32_MAX:
        return
    dtype = np.int64 if furthest <= INT64_MAX else object
    offset = np.zeros((), dtype=dtype)
    for k, stride in zip(reach.index, layout.strides, strict=True):
        offset = offset + k.astype(dtype) * stride
    over = reach.active & np.asarray(offset > INT32_MAX, dtype=bool)
    if over.any():
        lane = _first(over)
        cell = reach.cell(lane, access.shape)
        value = int(np.broadcast_to(offset, access.shape)[lane])
        text = f"{cell_text(access.tensor, cell)} is at element offset {value}, beyond 32 bits ({INT32_MAX})"
        log.add("width", text, access.site, access.tensor, cell, access.span)


def poison(dtype: DType) -> float | int | bool:
    """What memory nobody wrote, or memory out of bounds, is taken to hold."""
    return math.nan if dtype.is_float else (False if dtype is DType.BOOL else -(2**31))


def _numpy_dtype(dtype: DType) -> Any:
    return np.float64 if dtype.is_float else (np.bool_ if dtype is DType.BOOL else np.int64)


class _Cells:
    """One tensor and what happened to each of its cells, flat in row-major order."""

    def __init__(self, layout: Layout, given: Array | None) -> None:
        count = math.prod(layout.extents)
        dtype = layout.tensor.dtype
        self.layout = layout
        self.tracked = given is None
        if given is None:
            self.data = np.full(count, poison(dtype), dtype=_numpy_dtype(dtype))
        else:
            self.data = np.array(given, dtype=_numpy_dtype(dtype)).reshape(count)
        tracked = count if self.tracked else 0
        self.written = np.zeros(tracked, dtype=bool)  # in any launch
        self.stamp = np.full(tracked, -1, dtype=np.int64)  # running number of the lane that stored it in this launch
        self.plain = np.zeros(tracked, dtype=bool)  # stored in this launch by something else than an atomic
        self.reader = np.full(tracked, -1, dtype=np.int64)  # a program that loaded it in this launch

    def begin_launch(self) -> None:
        self.stamp.fill(-1)
        self.plain.fill(False)
        self.reader.fill(-1)

    def cell(self, flat: int) -> tuple[int, ...]:
        return tuple(int(k) for k in np.unravel_index(flat, self.layout.extents))


class ArrayMemory:
    """Tensors held as arrays; finds every fault. `rounded` is applied to what an atomic add leaves; in `infinite`
    tensors an infinity is what the spec asks of a value beyond the dtype."""

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        inputs: Mapping[str, Array],
        log: FaultLog,
        rounded: Callable[[Array, DType], Array],
        infinite: Collection[str] = (),
    ) -> None:
        self._log = log
        self._infinite = infinite
        self._rounded = rounded
        self._cells = {name: _Cells(layout, inputs.get(name)) for name, layout in layouts.items()}
        self._clock = 0
        self._starts: list[int] = []  # the clock before each store of this launch, and the program that stored
        self._sites: list[Site] = []

    def begin_launch(self) -> None:
        self._clock, self._starts, self._sites = 0, [], []
        for cells in self._cells.values():
            cells.begin_launch()

    def load(self, access: Access, other: Value | None) -> Array:
        cells = self._cells[access.tensor]
        reach, flat = self._locate(access, cells)
        missing = poison(cells.layout.tensor.dtype)
        if cells.data.size == 0:
            read = np.full(access.shape, missing)
        else:
            read = np.broadcast_to(cells.data[flat], access.shape)
        if other is not None:
            read = np.where(reach.active, read, other)
        if reach.outside.any():
            read = np.where(reach.outside, missing, read)
        if cells.tracked:
            self._note_read(access, cells, np.broadcast_to(flat, access.shape)[reach.active])
        return read

    def store(self, access: Access, value: Value, atomic: bool) -> None:
        cells = self._cells[access.tensor]
        reach, flat = self._locate(access, cells)
        where = np.broadcast_to(flat, access.shape)[reach.active]
        values = np.broadcast_to(np.asarray(value), access.shape)[reach.active]
        if where.size == 0:
            return
        self._check_values(access, cells, where, values)
        self._note_write(access, cells, where, atomic)
        if atomic:
            np.add.at(cells.data, where, values)
            cells.data[where] = self._rounded(cells.data[where], cells.layout.tensor.dtype)
        else:
            cells.data[where] = values
        cells.written[where] = True

    def unwritten(self) -> None:
        """Record a fault for cells of outputs that no launch wrote."""
        for name, cells in self._cells.items():
            if cells.layout.tensor.role == "output":
                for flat in np.flatnonzero(~cells.written)[: self._log.limit]:
                    cell = cells.cell(int(flat))
                    self._log.add("unwritten", f"{cell_text(name, cell)} is never written", None, name, cell)

    def tensors(self) -> dict[str, Array]:
        """Every tensor that is not an input, in its shape; floats as float64."""
        return {n: c.data.reshape(c.layout.extents) for n, c in self._cells.items() if c.tracked}

    def _locate(self, access: Access, cells: _Cells) -> tuple[_Reach, Array]:
        reach = _reach(access, cells.layout, self._log)
        _check_width(access, cells.layout, reach, self._log)
        row_major = Layout.contiguous(cells.layout.tensor, cells.layout.extents).strides
        flat = np.zeros((), dtype=np.int64)
        for k, stride in zip(reach.index, row_major, strict=True):
            flat = flat + k.astype(np.int64) * stride
        return reach, flat

    def _report(self, kind: str, text: str, access: Access, cells: _Cells, where: Array, bad: Array) -> None:
        flat = int(where[int(np.argmax(bad))])
        cell, count = cells.cell(flat), int(bad.sum())
        more = f" ({count} cells in all)" if count > 1 else ""
        message = f"{cell_text(access.tensor, cell)} {text}{more}"
        self._log.add(kind, message, access.site, access.tensor, cell, access.span)

    def _check_values(self, access: Access, cells: _Cells, where: Array, values: Array) -> None:
        if not cells.layout.tensor.dtype.is_float:
            return
        undefined = np.isnan(values)
        if undefined.any():
            self._report("undefined", "is given an undefined value (NaN)", access, cells, where, undefined)
        infinite = values == np.inf
        if infinite.any() and cells.layout.tensor.role == "output" and access.tensor not in self._infinite:
            self._report("overflow", "is given +inf", access, cells, where, infinite)

    def _note_read(self, access: Access, cells: _Cells, where: Array) -> None:
        never = ~cells.written[where]
        if never.any():
            self._report("uninitialised", "is loaded before anything is stored to it", access, cells, where, never)
        stored = cells.stamp[where] >= 0
        if stored.any():
            writer = self._writer(int(cells.stamp[where[int(np.argmax(stored))]]))
            text = f"is loaded by {program_text(access.site.program)} and stored in the same launch by {writer}"
            self._report("read-write", text, access, cells, where, stored)
        cells.reader[where] = access.site.number

    def _note_write(self, access: Access, cells: _Cells, where: Array, atomic: bool) -> None:
        here = program_text(access.site.program)
        loaded = cells.reader[where] >= 0
        if loaded.any():
            reader = int(cells.reader[where[int(np.argmax(loaded))]])
            who = "itself" if reader == access.site.number else f"another program (number {reader})"
            text = f"is stored by {here} and loaded in the same launch by {who}"
            self._report("read-write", text, access, cells, where, loaded)
        before = cells.stamp[where]
        order = self._clock + np.arange(where.size)
        cells.stamp[where] = order
        again = (before >= 0) & (cells.plain[where] if atomic else True)
        if again.any():
            writer = self._writer(int(before[int(np.argmax(again))]))
            text = f"is stored by {here} and before that in the same launch by {writer}"
            self._report("write-write", text, access, cells, where, again)
        twice = cells.stamp[where] != order  # a later lane of this very store hit the same cell
        if twice.any() and not atomic:
            self._report("write-write", f"is stored by two lanes of {here}", access, cells, where, twice)
        if atomic and not cells.written[where].all():
            never = ~cells.written[where]
            self._report("uninitialised", "is added to before anything is stored to it", access, cells, where, never)
        cells.plain[where] |= not atomic
        self._starts.append(self._clock)
        self._sites.append(access.site)
        self._clock += where.size

    def _writer(self, stamp: int) -> str:
        return program_text(self._sites[bisect_right(self._starts, stamp) - 1].program)


class VirtualMemory:
    """No cells at all: a load gives 0 (or `other`), of an integer input what `integers` says, a store checks
    only where it would go."""

    def __init__(
        self,
        layouts: Mapping[str, Layout],
        log: FaultLog,
        integers: Callable[[str, tuple[Array, ...]], Array | int] = lambda name, index: 0,
    ) -> None:
        self._layouts = layouts
        self._log = log
        self._integers = integers

    def begin_launch(self) -> None:
        """Nothing is kept between launches."""

    def load(self, access: Access, other: Value | None) -> Array:
        layout = self._layouts[access.tensor]
        reach = _reach(access, layout, self._log)
        _check_width(access, layout, reach, self._log)
        read = np.zeros(access.shape, dtype=_numpy_dtype(layout.tensor.dtype))
        if layout.tensor.dtype.is_int:
            read = read + self._integers(access.tensor, reach.index)
        return read if other is None else np.where(reach.active, read, other)

    def store(self, access: Access, value: Value, atomic: bool) -> None:
        layout = self._layouts[access.tensor]
        _check_width(access, layout, _reach(access, layout, self._log), self._log)
