"""Which registers hold which cells: the layout of every tile of a consumer, and how Gluon spells it.

Gluon, unlike Triton, wants a layout for each tile. A dot's result lies as wgmma leaves it (`Mma`); from there layouts
spread: an elementwise result lies where its operands do, a row sum in the rows of what was summed (`Slice`). A name
with no such origin (index vectors, masks, constants) has no layout of its own and is spelled again in each layout it is
wanted in; that costs a few integer instructions and no movement. What has a home and is wanted elsewhere is converted;
between the rows of two dots' results that is free.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from ir.program import Binary, Broadcast, Cast, Expand, Expr, Let, Reduce, Select, Type, Unary, Var
from lowering.hopper.async_program import If, IssueDot, Loop, Statement

LANES = 32


@dataclass(frozen=True, slots=True)
class Mma:
    """The accumulator of wgmma with `columns` columns; warps one above another, each with 16 rows."""

    columns: int
    warps: int

    @property
    def name(self) -> str:
        return f"MMA_{self.warps}x{self.columns}"

    @property
    def definition(self) -> str:
        return (
            f"{self.name} = gl.constexpr(gl.NVMMADistributedLayout("
            f"version=[3, 0], warps_per_cta=[{self.warps}, 1], instr_shape=[16, {self.columns}, 16]))"
        )

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Operand:
    """A dot's left operand in registers: 16-bit floats, two to a register."""

    parent: Mma

    def __str__(self) -> str:
        return f"gl.DotOperandLayout(operand_index=0, parent={self.parent}, k_width=2)"


@dataclass(frozen=True, slots=True)
class Slice:
    """What is left of a parent's layout when `axis` is removed."""

    axis: int
    parent: Layout

    def __str__(self) -> str:
        return f"gl.SliceLayout({self.axis}, {self.parent})"


@dataclass(frozen=True, slots=True)
class Blocked:
    """Tiles that no dot has touched: along the last axis first."""

    shape: tuple[int, ...]
    warps: int

    def __str__(self) -> str:
        rank, last = len(self.shape), self.shape[-1]
        each = max(1, min(8, last // LANES)) if rank > 1 else 1
        across = max(1, min(LANES, last // each))
        threads = [1] * (rank - 2) + [LANES // across, across] if rank > 1 else [LANES]
        size = [1] * (rank - 1) + [each]
        warps = [self.warps] + [1] * (rank - 1)
        return f"gl.BlockedLayout({size}, {threads}, {warps}, {list(range(rank))[::-1]})"


Layout = Mma | Operand | Slice | Blocked


def split_axis(layout: Layout | None) -> int | None:
    """The axis that teams share among them: a dot's rows; None for what every team has whole."""
    match layout:
        case Mma() | Operand():
            return 0
        case Slice(axis=axis, parent=parent):
            rows = split_axis(parent)
            return None if rows is None or rows == axis else rows - (axis < rows)
        case _:
            return None


def mma(type_: Type, warps: int) -> Mma:
    return Mma(type_.shape[1], warps)


def natural(e: Expr, homes: dict[str, Layout]) -> Layout | None:
    """Where an expression's value lies if nobody asks; None where it can be made anywhere."""
    if not e.type.shape:
        return None
    match e:
        case Var(name=name):
            return homes.get(name)
        case Unary(operand=x) | Cast(operand=x) | Broadcast(operand=x):
            return natural(x, homes)
        case Binary(left=x, right=y):
            return natural(x, homes) or natural(y, homes)
        case Select(condition=c, then=x, otherwise=y):
            return natural(x, homes) or natural(y, homes) or natural(c, homes)
        case Expand(operand=x, axis=axis):
            inner = natural(x, homes)
            return inner.parent if isinstance(inner, Slice) and inner.axis == axis else None
        case Reduce(operand=x, axis=axis):
            inner = natural(x, homes)
            return None if inner is None else Slice(axis, inner)
        case _:
            return None


def homes_of(statements: Iterable[Statement], warps: int) -> dict[str, Layout]:
    """The layouts that follow from the dots. A carried name lies where its next value does, else its first."""
    homes: dict[str, Layout] = {}

    def visit(block: Iterable[Statement]) -> None:
        for s in block:
            match s:
                case IssueDot(name=name, type=type_):
                    homes[name] = mma(type_, warps)
                case Let(name=name, value=value):
                    settle(name, natural(value, homes))
                case Loop(carries=carries, body=body) | If(carries=carries, body=body):
                    for c in carries:
                        settle(c.name, natural(c.init, homes))
                    visit(body)
                    for c in carries:
                        settle(c.name, natural(c.next, homes))

    def settle(name: str, layout: Layout | None) -> None:
        if layout is not None:
            homes.setdefault(name, layout)

    known = -1
    while known != len(homes):
        known = len(homes)
        visit(statements)
    return homes


def registers(type_: Type, warps: int) -> int:
    """32-bit registers a lane needs for a tile, were it spread evenly."""
    return prod(type_.shape) * min(type_.dtype.bits, 32) // (32 * LANES * warps)
