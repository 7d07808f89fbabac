"""Boxes that TMA moves, as loads and stores of the core with a mask.

A box begins at a corner and has an extent for each axis of the tensor; what lies outside the tensor reads as 0 and is
not written (PTX ISA, tensor copies). Axes in front along which it is one cell long are no axes of the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from ir import program as core
from ir.program import DType
from lowering.ttir.text import NotLifted, Operation
from lowering.ttir.values import Descriptor, Reshaped, expanded, integer

if TYPE_CHECKING:
    from lowering.ttir.lift import Lift


def box_load(state: Lift, op: Operation, source: Descriptor) -> core.Expr:
    if op.words != "[ ]" or tuple(op.types[0].shape) != source.box:
        raise NotLifted(f"line {op.line}: {op.name} with {op.words}")
    tensor, shape = state.program.tensor(source.tensor), op.types[-1].shape
    index = _cells(source, [state.expression(o) for o in op.operands[1:]], shape)
    zero = core.Literal(Fraction(0), core.Type(tensor.dtype))
    type_ = core.Type(tensor.dtype, shape)
    inside = _inside(tensor, index, shape)
    return core.Load(source.tensor, index, inside, core.Broadcast(zero, type_), type_, op.span)


def box_store(state: Lift, op: Operation, target: Descriptor) -> core.Store:
    given = state.values[op.operands[-1]]
    if not isinstance(given, Reshaped):  # a tensor whose axes are all the tile's
        whole = state.expression(op.operands[-1])
        given = Reshaped(whole, whole.type.shape)
    if op.words != "[ ]" or given.shape != target.box:
        raise NotLifted(f"line {op.line}: {op.name} with {op.words}")
    value = given.value
    index = _cells(target, [state.expression(o) for o in op.operands[1:-1]], value.type.shape)
    inside = _inside(state.program.tensor(target.tensor), index, value.type.shape)
    return core.Store(target.tensor, index, value, inside, span=op.span)


def in_front(op: Operation, value: core.Expr) -> Reshaped:
    """A reshape that adds extents of 1 in front."""
    shape, inner = op.types[-1].shape, value.type.shape
    if shape[len(shape) - len(inner) :] != inner or set(shape[: len(shape) - len(inner)]) - {1}:
        raise NotLifted(f"line {op.line}: a reshape of {inner} to {shape}")
    return Reshaped(value, shape)


def _cells(box: Descriptor, corner: Sequence[core.Expr], shape: tuple[int, ...]) -> tuple[core.Expr, ...]:
    """The index of every cell of a box, for each axis: a number, or a tile along its own axis."""
    front = len(box.box) - len(shape)
    if len(corner) != len(box.box) or box.box[front:] != shape or set(box.box[:front]) - {1}:
        raise ValueError(f"a box {box.box} as a tile {shape}")
    return (*corner[:front], *(_walked(x, k, shape) for k, x in enumerate(corner[front:])))


def _walked(corner: core.Expr, axis: int, shape: tuple[int, ...]) -> core.Expr:
    lanes: core.Expr = core.Arange(core.Type(DType.INT, (shape[axis],)))
    for other in range(len(shape)):
        lanes = lanes if other == axis else expanded(lanes, other)
    return lanes if corner == integer(0) else core.Binary("add", core.Broadcast(corner, lanes.type), lanes, lanes.type)


def _inside(tensor: core.Tensor, index: Sequence[core.Expr], shape: tuple[int, ...]) -> core.Expr:
    """Whether a cell is one of the tensor's, in every lane."""
    whole = core.Type(DType.BOOL, shape)
    out: core.Expr | None = None
    for e, extent in zip(index, tensor.shape, strict=True):
        for op, limit in (("ge", integer(0)), ("lt", extent)):
            here = core.Type(DType.BOOL, e.type.shape)
            end = core.Broadcast(limit, e.type) if e.type.shape else limit
            said: core.Expr = core.Binary(op, e, end, here)
            said = said if here == whole else core.Broadcast(said, whole)
            out = said if out is None else core.Binary("and", out, said, whole)
    assert out is not None
    return out
