"""Spells the typed core's expressions in Gluon: `lowering.spelling`, with a layout for every tile.

The writer knows in which layout the expression at hand is wanted (`wanted`). Names that have no home layout are
written once for each layout that some use wants; which these are is found by writing the partition until nothing new
is asked for (`demands`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ir.program import Arange, Dot, Expand, Expr, Random, Reduce, Transpose, Unary, Var
from lowering.hopper.flatten import NotForHopper
from lowering.hopper.layouts import Blocked, Layout, Slice, natural, split_axis
from lowering.spelling import ATOM, PRODUCT, SUM, Piece, Writer, expr, shaped, tensor

Demands = dict[str, list[Layout]]
TEAM = "team"  # the parameter that tells a consumer which team it is


class NotByRows(NotForHopper):
    """The consumer's work cannot be shared among teams by rows; one team can do it."""


@dataclass(slots=True)
class GluonWriter(Writer):
    """`warps` of the partition, which is one of `teams`; `homes`: layouts of names that have one; `demands`: those
    other names are wanted in, as far as found; `once`: names made in one layout only and converted from there (a load,
    a carried value)."""

    warps: int = 1
    teams: int = 1
    homes: dict[str, Layout] = field(default_factory=dict)
    demands: Demands = field(default_factory=dict)
    once: set[str] = field(default_factory=set)
    wanted: Layout | None = None

    def local(self, shape: tuple[int, ...], layout: Layout | None) -> tuple[int, ...]:
        """The shape of a team's share of a tile in that layout."""
        rows = split_axis(layout)
        return tuple(n // self.teams if axis == rows else n for axis, n in enumerate(shape))

    def part(self, shape: tuple[int, ...], axis: int) -> str:
        """Where a team's share begins along an axis."""
        return f"{TEAM} * {shape[axis] // self.teams}"

    def converted(self, text: str, source: Layout, target: Layout) -> str:
        if source == target:
            return text
        if self.teams > 1 and split_axis(source) != split_axis(target):
            raise NotByRows("a value of one team's rows is wanted by all")
        return f"gl.convert_layout({text}, {target})"

    @contextmanager
    def under(self, layout: Layout | None) -> Iterator[None]:
        outer, self.wanted = self.wanted, layout
        yield
        self.wanted = outer

    def piece(self, e: Expr, layout: Layout | None) -> Piece:
        """The expression as a tile of exactly its type, in that layout (None: a scalar)."""
        with self.under(layout):
            return shaped(self, expr(self, e), e.type)

    def home(self, name: str, shape: tuple[int, ...]) -> Layout:
        """Where a name that is made once lies."""
        if name in self.homes:
            return self.homes[name]
        return next(iter(self.demands.get(name, ())), Blocked(shape, self.warps))

    def variant(self, name: str, layout: Layout) -> str:
        """The Python name of a name without a home, in one of the layouts it is wanted in."""
        found = self.demands.setdefault(name, [])
        if layout not in found:
            found.append(layout)
        number = found.index(layout)
        return self.name(name if number == 0 else f"{name}_{number}")

    def _variable(self, e: Var) -> Piece:
        layout = self.wanted
        assert layout is not None
        if e.name in self.homes or e.name in self.once:
            self.demands.setdefault(e.name, [layout])
            text = self.converted(self.name(e.name), self.home(e.name, e.type.shape), layout)
        else:
            text = self.variant(e.name, layout)
        return Piece(text, shape=e.type.shape)

    def special(self, e: Expr) -> Piece | None:
        if not e.type.shape and not isinstance(e, Reduce | Unary):
            return None
        match e:
            case Var():
                return self._variable(e)
            case Arange():
                return self._arange(e)
            case Expand(operand=x, axis=axis):
                assert self.wanted is not None
                slots = [":"] * len(e.type.shape)
                slots[axis] = "None"
                inner = self.piece(x, Slice(axis, self.wanted))
                return Piece(f"{inner.within(ATOM)}[{', '.join(slots)}]", shape=e.type.shape)
            case Reduce():
                return self._reduce(e)
            case Unary(op="sigmoid", operand=x):
                inner = tensor(self, expr(self, x), x.type)
                return Piece(f"1.0 / (1.0 + gl.exp(-{inner.within(ATOM)}))", PRODUCT, inner.shape)
            case Transpose():
                raise NotForHopper("a transpose in registers")
            case Random():
                raise NotForHopper("random numbers, which Gluon has none of")
            case Dot():
                raise NotForHopper("a dot inside an expression")
            case _:
                return None

    def _arange(self, e: Arange) -> Piece:
        (count,) = self.local(e.type.shape, self.wanted)
        text = f"gl.arange(0, {count}, {self.wanted})" + (".to(gl.int64)" if self.width == 64 else "")
        if count == e.type.shape[0]:
            return Piece(text, shape=e.type.shape)
        return Piece(f"{self.part(e.type.shape, 0)} + {text}", SUM, e.type.shape)

    def _reduce(self, e: Reduce) -> Piece:
        x = e.operand
        layout = natural(x, self.homes)
        if layout is None:
            match self.wanted:
                case Slice(axis=axis, parent=parent) if axis == e.axis:
                    layout = parent
                case _:
                    layout = Blocked(x.type.shape, self.warps)
        if self.teams > 1 and split_axis(layout) == e.axis:
            raise NotByRows("a reduction over the rows that teams share")
        inner = self.piece(x, layout)
        half = e.type.dtype.is_float and e.type.dtype.bits == 16
        if half:  # one rounding, at the end
            inner = inner.method(".to(gl.float32)")
        text = f"gl.{e.op}({inner.text}, axis={e.axis})" + (f".to({self.dtype(e.type.dtype)})" if half else "")
        if e.type.shape and self.wanted is not None:
            text = self.converted(text, Slice(e.axis, layout), self.wanted)
        return Piece(text, shape=e.type.shape)

    def full(self, shape: tuple[int, ...], text: str, dtype: str) -> str:
        layout = f", {self.wanted}" if shape else ""
        return f"gl.full({list(self.local(shape, self.wanted))}, {text}, {dtype}{layout})"

    def broadcast(self, piece: Piece, shape: tuple[int, ...], dtype: str) -> str:
        if not piece.shape:
            return self.full(shape, piece.text, dtype)
        return f"{piece.within(ATOM)}.broadcast_to({', '.join(map(str, self.local(shape, self.wanted)))})"
