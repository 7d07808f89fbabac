"""A counterexample run again, watching who touches the tensor it is about: what its picture is drawn from.

The run is the one the counterexample names (sizes, parameters, generator and seed), on the reference interpreter, so
that tiles, overlaps, gaps and wrong cells on the page are what the kernel does and not what its tile sizes suggest.
Where it cannot be run (no spec, sizes too large), the scene has the place alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ir.diagnostics import SourceError
from ir.evaluate import EvaluationError, evaluate, tensor_shape
from ir.inputs import UnknownGenerator, generate, parse_description
from ir.interpret import InterpretError, Mode, Outcome, interpret
from ir.memory import Access, Memory
from ir.parser import parse
from ir.printer import print_expr
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from verifier.verdict import Counterexample

Array = NDArray[Any]
FUEL = 2**27  # as much as the search for counterexamples grants one run
CELLS = 2**22  # of the tensor shown; more is shown as a place only
TOLERANCE = 1e-4  # of a cell and of the tensor's largest; what differs less is not marked as wrong
NOBODY = -1
OUTSIDE = -(2**40)  # no index: beyond any tensor

Program_ = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Where one access goes, as offsets from (row, column): `touched` lanes count, `masked` ones do not."""

    row: int
    column: int
    touched: Array
    masked: Array


@dataclass(frozen=True, slots=True)
class Scene:
    """Two axes of one tensor at the counterexample's sizes; the other axes are fixed where the cell is.

    `extents` are (rows, columns) and `names` how the spec writes them; a tensor of rank 1 has one row, named "".
    `owner[r, c]` is the number of the program that stored the cell last, NOBODY for none, None where not run again;
    `programs` says which program has a number. `twice` cells were stored by more than one program of a launch, `wrong`
    ones differ from the formula. `foot` is the failing program's access, `who` that program, `line` where in
    the kernel it is; `run` says that the counterexample was run again; `every` names all axes.
    """

    tensor: str
    shape: tuple[int, ...]
    fixed: tuple[tuple[int, int], ...]
    axes: tuple[int | None, int]
    extents: tuple[int, int]
    names: tuple[str, str]
    cell: tuple[int, int]
    owner: Array | None = None
    twice: Array | None = None
    wrong: Array | None = None
    programs: Mapping[int, Program_] = field(default_factory=dict)
    who: Program_ = ()
    foot: Footprint | None = None
    line: int = 0
    run: bool = False
    every: tuple[str, ...] = ()


@dataclass
class _Watch:
    """Every store to one tensor, and the loads that the failing program makes of it."""

    memory: Memory
    tensor: str
    program: Program_
    launch: int = 0
    stores: list[tuple[int, Access]] = field(default_factory=list)
    loads: list[Access] = field(default_factory=list)

    def begin_launch(self) -> None:
        self.launch += 1
        self.memory.begin_launch()

    def load(self, access: Access, other: Any) -> Array:
        if access.tensor == self.tensor and access.site.program == self.program:
            self.loads.append(access)
        return self.memory.load(access, other)

    def store(self, access: Access, value: Any, atomic: bool) -> None:
        if access.tensor == self.tensor:
            self.stores.append((self.launch, access))
        self.memory.store(access, value, atomic)


def scene(text: str, bound: Bound | None, counterexample: Counterexample, obligation: str) -> Scene | str:
    """What to draw, or a sentence saying why there is nothing to draw."""
    c = counterexample
    if bound is None:
        return "No picture: the spec of this run is not known, and so the tensor's shape is not."
    try:
        program = check(parse(text), bound)
        place = _place(program, bound, c)
    except (SourceError, EvaluationError, InterpretError, StopIteration):
        return "No picture: the kernel's text is missing or is not the one that was refuted."
    if place is None:
        return f"No picture: {c.tensor or 'the fault'} is not one cell of a tensor."
    if math.prod(place.shape) > CELLS or obligation == "B2":
        return place
    watches: list[_Watch] = []

    def watch(memory: Memory) -> Memory:
        watches.append(_Watch(memory, c.tensor, c.program))
        return watches[-1]

    sizes, parameters = dict(c.sizes), dict(c.parameters)
    try:
        inputs = generate(*parse_description(c.inputs), bound, sizes, parameters)
        mode = Mode.MACHINE if obligation == "S1" else Mode.EXACT
        outcome = interpret(program, bound, sizes, parameters, inputs, mode, fuel=FUEL, watch=watch)
        expected = evaluate(bound, sizes, parameters, inputs)
    except (InterpretError, EvaluationError, UnknownGenerator):
        return place
    return _watched(place, c, watches[0], outcome, expected)


def _place(program: Program, bound: Bound, c: Counterexample) -> Scene | None:
    """The tensor and its shape, before it is known which of its axes the failing program tiles."""
    known = {t.name: t for t, _ in (*bound.inputs, *bound.outputs)}
    if c.tensor in known:
        shape = tensor_shape(bound, known[c.tensor], dict(c.sizes))
        names = tuple(print_expr(e) for e in known[c.tensor].shape)
    elif any(t.name == c.tensor for t in program.tensors):
        shape, names = _scratch(program, c)
    else:
        return None
    if len(shape) != len(c.cell) or not shape:
        return None
    return _slice(shape, names, c, ())


def _slice(shape: tuple[int, ...], names: tuple[str, ...], c: Counterexample, tiled: Sequence[int]) -> Scene:
    """The two axes most worth showing: first one that the cell is outside of, then those that the failing access
    tiles, then the last ones. The earlier axis runs down, the later one across, as arrays are written."""
    rank = len(shape)
    outside = [k for k, (at, n) in enumerate(zip(c.cell, shape, strict=True)) if not 0 <= at < n]
    wanted = list(dict.fromkeys([*outside, *reversed(tiled), *reversed(range(rank))]))[:2]
    row, column = (None, 0) if rank == 1 else (min(wanted), max(wanted))
    return Scene(
        tensor=c.tensor,
        shape=shape,
        fixed=tuple((k, at) for k, at in enumerate(c.cell) if k not in (row, column)),
        axes=(row, column),
        extents=(1 if row is None else shape[row], shape[column]),
        names=("" if row is None else names[row], names[column]),
        cell=(0 if row is None else c.cell[row], c.cell[column]),
        who=c.program,
        every=names,
    )


def _scratch(program: Program, c: Counterexample) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """A scratch tensor is shown from the origin to the cell and a tile beyond: its extents are the kernel's own."""
    rank = len(program.tensor(c.tensor).shape)
    if rank != len(c.cell):
        raise StopIteration
    return tuple(max(at, 0) + 1 for at in c.cell), ("",) * rank


def _watched(first: Scene, c: Counterexample, watch: _Watch, outcome: Outcome, expected: Mapping[str, Array]) -> Scene:
    found = outcome.tensors.get(c.tensor)
    failing = _failing(watch, c)
    shape = first.shape if found is None else tuple(found.shape)
    place = _slice(shape, first.every, c, () if failing is None else _tiled(failing))
    extents = place.extents
    owner = np.full(extents, NOBODY, dtype=np.int64)
    twice = np.zeros(extents, dtype=bool)
    programs: dict[int, Program_] = {}
    for launch, access in watch.stores:
        rows, columns, active = _lanes(access, place)
        inside = active & (rows >= 0) & (rows < extents[0]) & (columns >= 0) & (columns < extents[1])
        r, k = rows[inside], columns[inside]
        if r.size:
            number = launch * 2**32 + access.site.number
            programs[number] = access.site.program
            twice[r, k] |= (owner[r, k] >> 32 == launch) & (owner[r, k] != number)
            owner[r, k] = number
    wrong = _wrong(place, found, expected.get(c.tensor))
    if wrong is not None:
        wrong = wrong & (owner != NOBODY)  # a cell that nobody stores is marked as that
    stored = bool(watch.stores)
    return replace(
        place,
        owner=owner if stored else None,
        twice=twice if stored else None,
        wrong=wrong,
        programs=programs,
        who=failing.site.program if failing is not None else place.who,
        foot=_footprint(failing, place) if failing is not None else None,
        line=failing.span.line if failing is not None else 0,
        run=True,
    )


def _failing(watch: _Watch, c: Counterexample) -> Access | None:
    """The access the counterexample is about: the load or store it names; else the last store that hit the cell; else
    the first one that would have, had its mask held."""
    stores = [access for _, access in watch.stores]
    named = [a for a in (*watch.loads, *stores) if a.site.program == c.program and a.span == c.span]
    if named:
        return next((a for a in named if _hits(a, c.cell, masked=False)), named[0])
    hit = [a for a in stores if _hits(a, c.cell, masked=True)]
    return hit[-1] if hit else next((a for a in stores if _hits(a, c.cell, masked=False)), None)


def _hits(access: Access, cell: tuple[int, ...], masked: bool) -> bool:
    """Whether some lane goes to the cell; with `masked`, a lane whose mask holds."""
    lanes = np.ones(access.shape, dtype=bool)
    for k, at in zip(access.index, cell, strict=True):
        lanes = lanes & (np.asarray(k) == at)
    if masked and access.mask is not None:
        lanes = lanes & np.asarray(access.mask)
    return bool(lanes.any())


def _tiled(access: Access) -> list[int]:
    """The axes along which the lanes of an access differ."""
    return [axis for axis, k in enumerate(access.index) if np.asarray(k).size and np.ptp(np.asarray(k))]


def _lanes(access: Access, place: Scene) -> tuple[Array, Array, Array]:
    """Row and column of each lane, and whether its mask holds and it is in the slice that is shown. A lane outside the
    slice has row and column OUTSIDE."""
    index = [np.broadcast_to(np.asarray(k), access.shape) for k in access.index]
    mask = np.broadcast_to(np.asarray(True if access.mask is None else access.mask), access.shape)
    here = np.ones(access.shape, dtype=bool)
    for axis, at in place.fixed:
        here = here & (index[axis] == at)
    row, column = place.axes
    rows = np.zeros(access.shape, dtype=np.int64) if row is None else index[row]
    rows, columns = (np.where(here, k, OUTSIDE).astype(np.int64) for k in (rows, index[column]))
    return rows, columns, mask & here


def _footprint(access: Access, place: Scene) -> Footprint | None:
    rows, columns, active = _lanes(access, place)
    in_slice = rows != OUTSIDE
    if not in_slice.any():
        return None
    low = int(rows[in_slice].min()), int(columns[in_slice].min())
    high = int(rows[in_slice].max()), int(columns[in_slice].max())
    extents = high[0] - low[0] + 1, high[1] - low[1] + 1
    if math.prod(extents) > CELLS:
        return None
    touched, masked = np.zeros(extents, dtype=bool), np.zeros(extents, dtype=bool)
    off = in_slice & ~active
    touched[rows[active] - low[0], columns[active] - low[1]] = True
    masked[rows[off] - low[0], columns[off] - low[1]] = True
    return Footprint(*low, touched, masked & ~touched)


def _wrong(place: Scene, found: Array | None, wanted: Array | None) -> Array | None:
    """Cells of the slice that differ from the formula; NaN, also of a cell never stored, differs from everything."""
    if found is None or wanted is None or found.shape != wanted.shape:
        return None
    finite = np.abs(wanted[np.isfinite(wanted)])
    scale = float(finite.max(initial=0.0))
    with np.errstate(all="ignore"):
        far = ~((found == wanted) | (np.abs(found - wanted) <= TOLERANCE * (np.abs(wanted) + scale)))
    far |= np.isfinite(found) != np.isfinite(wanted)
    far &= ~np.isnan(wanted)
    row, column = place.axes
    at = dict(place.fixed)
    cut = far[tuple(at.get(k, slice(None)) for k in range(far.ndim))]
    return np.atleast_2d(cut) if row is None or row < column else cut.T
