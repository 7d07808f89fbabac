"""Operations on pointers, strides and program ids, and the loads and stores at the end of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ir import program as core
from ir.program import DType
from lowering.ttir.boxes import box_load, made
from lowering.ttir.text import NotLifted, Operation
from lowering.ttir.values import (
    PARTS,
    Descriptor,
    Digits,
    Offset,
    Pointer,
    Stride,
    Value,
    added,
    digits,
    expanded,
    integer,
    mapped,
)  # fmt: skip

if TYPE_CHECKING:
    from lowering.ttir.lift import Lift

STORED = {
    "i1": DType.BOOL, "i32": DType.I32, "i64": DType.I64, "f32": DType.F32, "f16": DType.F16, "bf16": DType.BF16,
}  # fmt: skip


def address(state: Lift, op: Operation) -> Value:
    """An operation of which an operand is no number. Raises ValueError, KeyError, NotLifted."""
    values = [state.values[o] for o in op.operands]
    wide = all(t.element != "i32" or t.pointer for t in op.types)
    match op.name, values:
        case "arith.extsi" | "tt.splat" | "tt.broadcast", [Stride() | Digits() as x]:
            return x
        case "arith.extsi" | "tt.splat" | "tt.broadcast", [Offset() | Pointer() as x]:
            return x  # an extent of 1 in an index stands for any
        case "tt.expand_dims", [Offset() | Pointer() as x]:
            axis = op.attribute("axis")
            return mapped(x, lambda e: expanded(e, axis) if e.type.shape else e)
        case "arith.muli", [Stride(), Stride()]:
            raise ValueError("a product of strides")
        case "arith.muli", [Stride() as s, x] | [x, Stride() as s] if not isinstance(x, PARTS):
            state.narrow_offsets |= not wide
            return Offset(s.tensor, {s.axis: x})
        case "arith.addi", [Offset() as x, Offset() as y] if x.tensor == y.tensor:
            state.narrow_offsets |= not wide
            return Offset(x.tensor, added(x.index, y.index))
        case "arith.addi", [Offset() as x, y] | [y, Offset() as x] if not isinstance(y, PARTS):
            state.narrow_offsets |= not wide
            return Offset(x.tensor, added(x.index, {state.unit[x.tensor]: y}))
        case "tt.addptr", [Pointer() as p, Offset() as x] if x.tensor == p.tensor:
            return Pointer(p.tensor, added(p.index, x.index))
        case "tt.addptr", [Pointer() as p, x] if not isinstance(x, PARTS):
            return Pointer(p.tensor, added(p.index, {state.unit[p.tensor]: x}))
        case "tt.addptr", [Pointer() as p, Stride() as s] if s.tensor == p.tensor:
            return Pointer(p.tensor, added(p.index, {s.axis: integer(1)}))
        case "tt.load", [Pointer() as p, *_]:
            return load(state, op, p)
        case "tt.make_tensor_descriptor", [Pointer() as p, *_]:
            return made(state, op, p)
        case "tt.descriptor_load", [Descriptor() as d, *_]:
            return box_load(state, op, d)
        case "arith.remsi" | "arith.divsi", [Digits() as d, n] if not isinstance(n, PARTS):
            *rest, last = d.axes
            if unfolded(state, n) != last.extent:
                raise ValueError(f"a program id over something else than the extent of axis {last.name}")
            return core.Var(last.name, core.Type(DType.INT)) if op.name == "arith.remsi" else digits(rest)
        case _:
            raise ValueError(", ".join(type(v).__name__ for v in values))


def load(state: Lift, op: Operation, pointer: Pointer) -> core.Expr:
    if op.words:
        raise NotLifted(f"line {op.line}: a load with {op.words}")
    kind, shape = op.types[-1].element, op.types[-1].shape
    type_ = core.Type(STORED[kind], shape)
    mask = state.expression(op.operands[1]) if len(op.operands) > 1 else None
    other = state.expression(op.operands[2]) if len(op.operands) > 2 else None
    if mask is not None and other is None:
        raise NotLifted(f"line {op.line}: a load that leaves masked lanes undefined")
    found = core.Load(pointer.tensor, index(state, pointer, shape), mask, other, type_, op.span)
    return core.Cast(found, core.Type(DType.INT, shape), op.span) if type_.dtype.is_int else found


def unfolded(state: Lift, e: core.Expr) -> core.Expr:
    """An integer scalar with names written out."""
    match e:
        case core.Var() if e.name in state.defined:
            return unfolded(state, state.defined[e.name])
        case core.Binary():
            return core.Binary(e.op, unfolded(state, e.left), unfolded(state, e.right), e.type)
        case _:
            return e


def index(state: Lift, pointer: Pointer, shape: tuple[int, ...]) -> tuple[core.Expr, ...]:
    """An index for each axis of the tensor; what is not added is 0."""
    rank = len(state.program.tensor(pointer.tensor).shape)
    found = tuple(pointer.index.get(axis, integer(0)) for axis in range(rank))
    for extents in (e.type.shape for e in found if e.type.shape):
        if len(extents) != len(shape) or any(n not in (1, m) for n, m in zip(extents, shape, strict=True)):
            raise ValueError(f"an index of shape {extents} for {shape}")
    return found
