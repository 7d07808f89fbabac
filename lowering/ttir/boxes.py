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
from lowering.ttir.values import Descriptor, Pointer, Reshaped, Stride, added, expanded, integer

if TYPE_CHECKING:
    from lowering.ttir.lift import Lift


def box_load(state: Lift, op: Operation, source: Descriptor) -> core.Expr:
    if op.words != "[ ]" or tuple(op.types[0].shape) != source.box:
        raise NotLifted(f"line {op.line}: {op.name} with {op.words}")
    tensor, shape = state.program.tensor(source.tensor), op.types[-1].shape
    index, inside = _cells(source, len(tensor.shape), [state.expression(o) for o in op.operands[1:]], shape)
    zero = core.Literal(Fraction(0), core.Type(tensor.dtype))
    type_ = core.Type(tensor.dtype, shape)
    return core.Load(source.tensor, index, inside, core.Broadcast(zero, type_), type_, op.span)


def box_store(state: Lift, op: Operation, target: Descriptor) -> core.Store:
    given = state.values[op.operands[-1]]
    if not isinstance(given, Reshaped):  # a tensor whose axes are all the tile's
        tile = state.expression(op.operands[-1])
        given = Reshaped(tile, tile.type.shape)
    if op.words != "[ ]" or given.shape != target.box:
        raise NotLifted(f"line {op.line}: {op.name} with {op.words}")
    value = given.value
    rank = len(state.program.tensor(target.tensor).shape)
    index, inside = _cells(target, rank, [state.expression(o) for o in op.operands[1:-1]], value.type.shape)
    return core.Store(target.tensor, index, value, inside, span=op.span)


def in_front(op: Operation, value: core.Expr) -> Reshaped:
    """A reshape that adds extents of 1 in front."""
    shape, inner = op.types[-1].shape, value.type.shape
    if shape[len(shape) - len(inner) :] != inner or set(shape[: len(shape) - len(inner)]) - {1}:
        raise NotLifted(f"line {op.line}: a reshape of {inner} to {shape}")
    return Reshaped(value, shape)


def made(state: Lift, op: Operation, pointer: Pointer) -> Descriptor:
    """A descriptor that the kernel makes: an extent and a stride for each axis it has."""
    box = op.types[-1].shape
    given = op.operands[1:]
    extents = tuple(state.expression(o) for o in given[: len(box)])
    strides = [state.values[o] for o in given[len(box) :]]
    if op.words != "[ ] [ ]" or len(strides) != len(box) or not op.types[-1].box:
        raise NotLifted(f"line {op.line}: {op.name} with {op.words}")
    axes = []
    for stride in strides:
        if isinstance(stride, Stride) and stride.tensor == pointer.tensor:
            axes.append(stride.axis)
        elif stride == integer(1):
            axes.append(state.unit[pointer.tensor])
        else:
            raise ValueError("a stride that is none of the tensor's")
    if len(set(axes)) != len(axes):
        raise ValueError("one axis twice")
    return Descriptor(pointer.tensor, box, tuple(axes), extents, pointer.index)


def whole(tensor: core.Tensor, box: tuple[int, ...]) -> Descriptor:
    """What the launcher makes: of all axes."""
    return Descriptor(tensor.name, box, tuple(range(len(tensor.shape))), tensor.shape, {})


def _cells(
    box: Descriptor, rank: int, corner: Sequence[core.Expr], shape: tuple[int, ...]
) -> tuple[tuple[core.Expr, ...], core.Expr]:
    """The index of every cell of a box, for each axis of the tensor, and whether the box has the cell: along its own
    axes it is inside the extents."""
    front = len(box.box) - len(shape)
    if len(corner) != len(box.box) or box.box[front:] != shape or set(box.box[:front]) - {1}:
        raise ValueError(f"a box {box.box} as a tile {shape}")
    along = (*corner[:front], *(_walked(x, k, shape) for k, x in enumerate(corner[front:])))
    moved = added(box.base, dict(zip(box.axes, along, strict=True)))
    index = tuple(moved.get(axis, integer(0)) for axis in range(rank))
    return index, _inside(along, box.extents, shape)


def _walked(corner: core.Expr, axis: int, shape: tuple[int, ...]) -> core.Expr:
    lanes: core.Expr = core.Arange(core.Type(DType.INT, (shape[axis],)))
    for other in range(len(shape)):
        lanes = lanes if other == axis else expanded(lanes, other)
    return lanes if corner == integer(0) else core.Binary("add", core.Broadcast(corner, lanes.type), lanes, lanes.type)


def _inside(index: Sequence[core.Expr], extents: Sequence[core.Expr], shape: tuple[int, ...]) -> core.Expr:
    """0 <= index < extent along every axis, in every lane."""
    everywhere = core.Type(DType.BOOL, shape)
    out: core.Expr | None = None
    for e, extent in zip(index, extents, strict=True):
        for op, limit in (("ge", integer(0)), ("lt", extent)):
            here = core.Type(DType.BOOL, e.type.shape)
            end = core.Broadcast(limit, e.type) if e.type.shape else limit
            said: core.Expr = core.Binary(op, e, end, here)
            said = said if here == everywhere else core.Broadcast(said, everywhere)
            out = said if out is None else core.Binary("and", out, said, everywhere)
    assert out is not None
    return out
