"""What an operand of TTIR can be besides a number of the core: part of an address, or the program id.

A pointer is a tensor and an index for each of its strides: base + sum of index times stride is the address of the cell
with these indices, whatever they are. An extent of 1 in an index stands for any, so broadcasting leaves indices alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ir import program as core
from ir.program import DType


@dataclass(frozen=True, slots=True)
class Stride:
    tensor: str
    axis: int


@dataclass(frozen=True, slots=True)
class Offset:
    """A sum of index times stride: the index by axis of the tensor."""

    tensor: str
    index: Mapping[int, core.Expr]


@dataclass(frozen=True, slots=True)
class Pointer:
    tensor: str
    index: Mapping[int, core.Expr]


@dataclass(frozen=True, slots=True)
class Digits:
    """A program id in mixed radix, most significant axis first."""

    axes: tuple[core.Axis, ...]


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Of boxes along some axes of a tensor, with its strides, `extents` cells long from the cell with the index `base`
    on. The launcher makes those of a whole tensor, with the tensor's own extents."""

    tensor: str
    box: tuple[int, ...]
    axes: tuple[int, ...]
    extents: tuple[core.Expr, ...]
    base: Mapping[int, core.Expr]


@dataclass(frozen=True, slots=True)
class Reshaped:
    """A tile with extents of 1 in front, which only a descriptor's store takes."""

    value: core.Expr
    shape: tuple[int, ...]


Value = core.Expr | Stride | Offset | Pointer | Digits | Descriptor | Reshaped
PARTS = (Stride, Offset, Pointer, Digits, Descriptor, Reshaped)


def integer(value: int) -> core.Literal:
    return core.Literal(Fraction(value), core.Type(DType.INT))


def spread(e: core.Expr, type_: core.Type) -> core.Expr:
    return core.Broadcast(e, core.Type(e.type.dtype, type_.shape)) if type_.shape else e


def digits(axes: Sequence[core.Axis]) -> Value:
    return core.Var(axes[0].name, core.Type(DType.INT)) if len(axes) == 1 else Digits(tuple(axes))


def mapped(x: Offset | Pointer, f: Callable[[core.Expr], core.Expr]) -> Offset | Pointer:
    return type(x)(x.tensor, {axis: f(e) for axis, e in x.index.items()})


def expanded(e: core.Expr, axis: int) -> core.Expr:
    shape = (*e.type.shape[:axis], 1, *e.type.shape[axis:])
    return core.Expand(e, axis, core.Type(e.type.dtype, shape))


def added(a: Mapping[int, core.Expr], b: Mapping[int, core.Expr]) -> dict[int, core.Expr]:
    return {axis: _sum([m[axis] for m in (a, b) if axis in m]) for axis in sorted(a.keys() | b.keys())}


def _sum(terms: Sequence[core.Expr]) -> core.Expr:
    """Of one or two integers, scalars and tiles whose extents are alike or 1."""
    if len(terms) == 1:
        return terms[0]
    shapes = [t.type.shape for t in terms if t.type.shape]
    if len({len(s) for s in shapes}) > 1:
        raise ValueError("indices of different rank")
    shape = tuple(max(extents) for extents in zip(*shapes, strict=True))
    if any(n not in (1, m) for s in shapes for n, m in zip(s, shape, strict=True)):
        raise ValueError("indices of different extents")
    type_ = core.Type(DType.INT, shape)
    left, right = (t if t.type == type_ else core.Broadcast(t, type_) for t in terms)
    return core.Binary("add", left, right, type_)
