"""A counterexample as a picture of the tile grid: who stores which cell, where the failing program reaches, what its
mask leaves out, which cells are wrong, stored twice or never, and the cell the counterexample names.

Rows run down and columns across. Each axis has its own scale, so that one cell and half a million fit the same frame;
a region finer than the frame can show is drawn coarser, and touched where any of its cells is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from synth.report.replay import NOBODY, Program_, Scene
from synth.report.svg import element, line, number, picture, rect, text

Array = NDArray[Any]
WIDTH, HEIGHT = 264.0, 232.0  # of the frame, pixels
LARGEST_CELL = 20.0
BLOCKS = 66  # a region is drawn with at most so many steps along an axis
TOP, RIGHT, BOTTOM = 34.0, 34.0, 12.0
DIGIT = 6.5  # width of a character of a ruler
OWNERS = 64  # programs drawn one by one; more are one region


class _Frame:
    """From rows and columns to pixels; the window is the tensor, the failing access and the cell."""

    def __init__(self, scene: Scene) -> None:
        foot = scene.foot
        rows, columns = [(0, scene.extents[0])], [(0, scene.extents[1])]
        rows.append((scene.cell[0], scene.cell[0] + 1))
        columns.append((scene.cell[1], scene.cell[1] + 1))
        if foot is not None:
            rows.append((foot.row, foot.row + foot.touched.shape[0]))
            columns.append((foot.column, foot.column + foot.touched.shape[1]))
        self.top, bottom = min(a for a, _ in rows), max(b for _, b in rows)
        self.left, right = min(a for a, _ in columns), max(b for _, b in columns)
        self.down = min(HEIGHT / max(bottom - self.top, 1), LARGEST_CELL)
        self.across = min(WIDTH / max(right - self.left, 1), LARGEST_CELL)
        labels = (str(scene.cell[0]), f"{scene.names[0]} = {scene.extents[0]}") if scene.axes[0] is not None else ("",)
        self.margin = 12 + DIGIT * max(map(len, labels))
        self.width = (right - self.left) * self.across
        self.height = (bottom - self.top) * self.down

    def x(self, column: float) -> float:
        return self.margin + (column - self.left) * self.across

    def y(self, row: float) -> float:
        return TOP + (row - self.top) * self.down

    def region(self, cells: Array, row: int = 0, column: int = 0) -> str:
        """The cells that hold, as a path: rectangles of runs, equal runs of neighbouring rows made one."""
        tall, wide = (max(1, math.ceil(n / BLOCKS)) for n in cells.shape)
        padded = np.pad(cells, [(0, -cells.shape[0] % tall), (0, -cells.shape[1] % wide)])
        blocks = padded.reshape(padded.shape[0] // tall, tall, padded.shape[1] // wide, wide)
        coarse: Array = np.asarray(blocks.any(axis=(1, 3)))
        open_: dict[tuple[int, int], int] = {}
        path: list[str] = []
        for k in range(coarse.shape[0] + 1):
            line_ = np.zeros(coarse.shape[1] + 2, dtype=bool)
            line_[1:-1] = coarse[k] if k < coarse.shape[0] else False
            edges = np.flatnonzero(line_[1:] != line_[:-1])
            runs = {(int(edges[j]), int(edges[j + 1])) for j in range(0, len(edges), 2)}
            for run in sorted(set(open_) - runs):
                start = open_.pop(run)
                y0, y1 = row + start * tall, row + min(k * tall, cells.shape[0])
                x0, x1 = column + run[0] * wide, column + min(run[1] * wide, cells.shape[1])
                w, h = number((x1 - x0) * self.across), number((y1 - y0) * self.down)
                path.append(f"M{number(self.x(x0))} {number(self.y(y0))}h{w}v{h}h-{w}z")
            for run in runs:
                open_.setdefault(run, k)
        return "".join(path)


def draw(scene: Scene, title: str) -> Markup:
    """The picture. `title` says what it shows; it is read out in its place."""
    frame = _Frame(scene)
    rows, columns = scene.extents
    tensor = (frame.x(0), frame.y(0), columns * frame.across, rows * frame.down)
    parts = [rect(*tensor, "tensor")]
    parts += _owners(scene, frame)
    layers: list[tuple[str, Array | None]] = [("wrong", scene.wrong), ("twice", scene.twice)]
    if scene.owner is not None:
        layers.append(("never", scene.owner == NOBODY))
    for name, cells in layers:
        if cells is not None and cells.any():
            parts.append(element("path", d=frame.region(cells), fill=f"url(#p-{name})", class_=f"layer {name}"))
    parts += _foot(scene, frame)
    parts.append(rect(*tensor, "edge"))
    parts += _labels(scene, frame)
    parts += _cell(scene, frame) + _rulers(scene, frame)
    return picture(frame.margin + frame.width + RIGHT, TOP + frame.height + BOTTOM, title, *parts, class_="tiles")


def _numbers(scene: Scene) -> list[int]:
    return [] if scene.owner is None else [int(n) for n in np.unique(scene.owner) if n != NOBODY]


def _owners(scene: Scene, frame: _Frame) -> list[Markup]:
    """Each program's cells, in two tints in turn."""
    numbers = _numbers(scene)
    assert scene.owner is not None or not numbers
    if len(numbers) > OWNERS:
        return [element("path", d=frame.region(scene.owner != NOBODY), class_="own even")]  # type: ignore[arg-type]
    return [
        element("path", d=frame.region(scene.owner == n), class_=f"own {'odd' if k % 2 else 'even'}")  # type: ignore[arg-type]
        for k, n in enumerate(numbers)
    ]


def _labels(scene: Scene, frame: _Frame) -> list[Markup]:
    """The program ids that tell the tiles apart, on each tile that is large enough."""
    numbers = _numbers(scene)
    if not numbers or len(numbers) > OWNERS or scene.owner is None:
        return []
    ids = [dict(scene.programs[n]) for n in numbers]
    varying = [axis for axis in ids[0] if len({program.get(axis) for program in ids}) > 1] or list(ids[0])[-1:]
    found = []
    for n, program in zip(numbers, ids, strict=True):
        rows, columns = np.nonzero(np.asarray(scene.owner == n))
        x0, x1 = frame.x(columns.min()), frame.x(columns.max() + 1)
        y0, y1 = frame.y(rows.min()), frame.y(rows.max() + 1)
        label = ", ".join(f"{axis} = {program[axis]}" for axis in varying if axis in program)
        if y1 - y0 >= 13 and x1 - x0 >= 6.2 * len(label) + 4:
            found.append(text(x0 + 5, y0 + 12, label, "owner"))
    return found


def _foot(scene: Scene, frame: _Frame) -> list[Markup]:
    """Where the failing access goes: its outline, the lanes its mask leaves out, and the lanes outside the tensor."""
    foot = scene.foot
    if foot is None:
        return []
    rows, columns = foot.touched.shape
    inside = np.zeros(foot.touched.shape, dtype=bool)
    low = max(0, -foot.row), max(0, -foot.column)
    inside[low[0] : max(0, scene.extents[0] - foot.row), low[1] : max(0, scene.extents[1] - foot.column)] = True
    found = []
    for name, cells in (("masked", foot.masked), ("beyond", foot.touched & ~inside)):
        if cells.any():
            path = frame.region(cells, foot.row, foot.column)
            found.append(element("path", d=path, fill=f"url(#p-{name})", class_=f"layer {name}"))
    outline = (frame.x(foot.column), frame.y(foot.row), columns * frame.across, rows * frame.down)
    return [*found, rect(*outline, "foot")]


def _cell(scene: Scene, frame: _Frame) -> list[Markup]:
    """The cell itself, at least a few pixels large, with lines to both rulers."""
    width, height = max(frame.across, 5.0), max(frame.down, 5.0)
    x, y = frame.x(scene.cell[1] + 0.5), frame.y(scene.cell[0] + 0.5)
    return [
        line(frame.margin - 4, y, x - width / 2, y, "guide"),
        line(x, TOP - 4, x, y - height / 2, "guide"),
        rect(x - width / 2 - 2, y - height / 2 - 2, width + 4, height + 4, "halo"),
        rect(x - width / 2, y - height / 2, width, height, "cell"),
    ]


def _rulers(scene: Scene, frame: _Frame) -> list[Markup]:
    """Where the cell is and where the tensor ends, and where tiles begin as far as there is room."""
    found = []
    row, column = scene.cell
    starts = _starts(scene)

    def ticks(at: int, extent: int, name: str, tiles: list[int], place: Callable[[float], float], gap: float) -> Any:
        taken: list[float] = []
        said: set[str] = set()
        end = f"{name} = {extent}" if name and name != str(extent) else str(extent)
        wanted = [(at, place(at + 0.5), str(at), "here"), (extent, place(extent), end, "extent")]
        wanted += [(n, place(n), str(n), "tick") for n in (0, *tiles)]
        for _, where, label, kind in wanted:
            room = gap if kind != "extent" else gap * 1.4
            if label not in said and all(abs(where - other) >= room for other in taken):
                taken.append(where)
                said.add(label)
                yield where, label, kind

    for y, label, kind in ticks(row, scene.extents[0], scene.names[0], starts[0], frame.y, 10.0):
        if scene.axes[0] is not None:
            found.append(text(frame.margin - 7, y + 3.5, label, kind, "end"))
    for x, label, kind in ticks(column, scene.extents[1], scene.names[1], starts[1], frame.x, 26.0):
        found.append(text(x, TOP - 8, label, kind, "middle"))
    return found


def _starts(scene: Scene) -> tuple[list[int], list[int]]:
    """Rows and columns where some program's cells begin."""
    rows, columns = set(), set()
    for n in _numbers(scene)[:OWNERS]:
        where = np.nonzero(np.asarray(scene.owner == n))
        rows.add(int(where[0].min()))
        columns.add(int(where[1].min()))
    return sorted(rows - {0}), sorted(columns - {0})


def program_text(program: Program_) -> str:
    return ", ".join(f"{axis} = {k}" for axis, k in program)


def slice_text(scene: Scene) -> str:
    """The tensor, which part of it is shown, and how large that is: O[1, 2, :, :], 65 by 64."""
    fixed = {k: str(at) for k, at in scene.fixed}
    shown = f"{scene.tensor}[{', '.join(fixed.get(k, ':') for k in range(len(scene.shape)))}]"
    rows, columns = scene.extents
    return f"{shown}, {columns}" if scene.axes[0] is None else f"{shown}, {rows} by {columns}"


def legend(scene: Scene) -> list[tuple[str, str]]:
    """What the marks of this picture mean: the name of the mark and a phrase."""
    found = [("cell", "the cell of the counterexample")]
    who = f"program {program_text(scene.who)}" if scene.who else "the failing program"
    if scene.foot is not None:
        found.append(("foot", f"where {who} reaches"))
        if scene.foot.masked.any():
            found.append(("masked", "lanes its mask leaves out"))
        rows, columns = np.nonzero(scene.foot.touched)
        rows, columns = rows + scene.foot.row, columns + scene.foot.column
        outside = (rows < 0) | (rows >= scene.extents[0]) | (columns < 0) | (columns >= scene.extents[1])
        if outside.any():
            found.append(("beyond", "lanes outside the tensor"))
    if scene.wrong is not None and scene.wrong.any():
        found.append(("wrong", f"{int(scene.wrong.sum()):,} of {scene.wrong.size:,} cells differ from the formula"))
    if scene.twice is not None and scene.twice.any():
        found.append(("twice", f"{int(scene.twice.sum()):,} cells stored by two programs"))
    if scene.owner is not None and (scene.owner == NOBODY).any():
        found.append(("never", f"{int((scene.owner == NOBODY).sum()):,} cells nobody stores"))
    return found


def swatch(name: str) -> Markup:
    """The small picture of a mark, for a legend; decoration, so not read out."""
    if name == "cell":
        content = rect(4, 2, 8, 8, "cell")
    elif name == "foot":
        content = rect(1, 1, 14, 10, "foot")
    else:
        content = element("rect", x=1, y=1, width=14, height=10, fill=f"url(#p-{name})", class_=f"layer {name}")
    return element("svg", content, viewBox="0 0 16 12", width=16, height=12, aria_hidden="true", class_="swatch")


PATTERNS = ("wrong", "twice", "never", "masked", "beyond")


def patterns() -> Markup:
    """The hatchings, once a page: each has its own stroke, so that they differ without colour."""
    strokes = {
        "wrong": "M0 6L6 0M-1 1L1 -1M5 7L7 5",
        "twice": "M0 6L6 0M0 0L6 6",
        "never": "M0 3H6M3 0V6",
        "masked": "M3 2.4v1.2",
        "beyond": "M0 0L6 6M-1 5L1 7M5 -1L7 1",
    }
    found = [
        element(
            "pattern", element("path", d=strokes[name], class_=f"stroke {name}"),
            id=f"p-{name}", width=6, height=6, patternUnits="userSpaceOnUse",
        )
        for name in PATTERNS
    ]  # fmt: skip
    return element("svg", element("defs", *found), width=0, height=0, aria_hidden="true", class_="defs")
