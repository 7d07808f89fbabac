"""Which loads and stores of a kernel mean exactly "this box of the tensor", so that TMA may do them.

A box access reads, in lane l, the cell `index(l)` of the tensor where every index is within its dimension, and 0
elsewhere; a box store writes within and leaves out the rest. A load of the typed core reads `tensor[index]`
where its mask holds and `other` elsewhere. They are the same when

1. each index is one scalar for all lanes, or a scalar plus the lane's position along one axis of the tile,
   step 1; each axis of the tile is walked by one dimension, in the tensor's order of dimensions. The cells
   are then those of a box, in row-major order;
2. the mask is a conjunction of conditions that are each, as integers, `index[d] < extent[d]` or `0 <= index[d]`
   for a dimension d of this access, or there is no mask; `other` is 0.

Why no more is needed, negative indices in particular: take a lane. If its mask holds (or there is none), B1 has
proved that every index is within its dimension, so both read the cell (both store). If its mask does not
hold, one of the conditions fails, so for some d the index is past the extent or below 0: outside the box's tensor,
both read 0 (neither stores). The mask itself is no longer computed: conditions are compared as linear forms
in unbounded integers, which is what they mean. A condition that is narrower, wider or of another dimension equals no
such form, and the access stays as it was.

The corner is the index in lane 0, spelled with the operations of the candidate, so each of its partial results
is one that B2 has bounded; corners are 32-bit, hence only kernels whose integers are proved to fit 32 bits.

What the hardware adds: at most 5 dimensions, at most 256 cells a dimension of the box, its last dimension the
contiguous one, at least 16 bytes of it and starting at a multiple of 16 bytes. A vector is a box only where somebody
copies it ahead (`lowering.hopper`); elsewhere it is no work for TMA. Layout and alignment are the caller's:
`lowering.tensormap` checks them.
TMA writes through another path than ordinary stores and reads past them; that is no hazard here, for no launch
reads a cell it stores (R2), and the end of a launch orders all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, get_args

from ir.program import (
    Arange,
    Binary,
    Broadcast,
    Cast,
    DType,
    Expand,
    Expr,
    Literal,
    Load,
    Program,
    Store,
    Transpose,
    Type,
    Unary,
    Var,
)
from lowering.plan import walk

MAX_RANK = 5
MAX_EXTENT = 256
ALIGNMENT = 16  # bytes
Definitions = Mapping[str, Expr]
EXPRESSIONS = get_args(Expr)


# ---- integers as linear forms ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Linear:
    """`constant + sum(c * scalar) + sum(step[axis] * lane[axis])`. Scalars are expressions of the typed core, equal
    when they read equal; a step is only ever on an axis of more than one lane."""

    constant: int = 0
    scalars: frozenset[tuple[Expr, int]] = frozenset()
    steps: frozenset[tuple[int, int]] = frozenset()

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        return Linear(
            self.constant + factor * other.constant,
            _merged(self.scalars, other.scalars, factor),
            _merged(self.steps, other.steps, factor),
        )

    def moved(self, axis: Callable[[int], int]) -> Linear:
        """The same integers in a tile whose axes have other numbers."""
        return Linear(self.constant, self.scalars, frozenset((axis(a), step) for a, step in self.steps))


def _merged(left: frozenset[Any], right: frozenset[Any], factor: int) -> frozenset[Any]:
    total = dict(left)
    for key, count in right:
        total[key] = total.get(key, 0) + factor * count
    return frozenset((key, count) for key, count in total.items() if count)


def linear(e: Expr, names: Definitions) -> Linear | None:
    """The linear form of an integer expression; None for a tile that has none."""
    match e:
        case Literal(value=value) if e.type.dtype.is_int:
            return Linear(int(value))
        case Arange():
            return Linear(steps=frozenset([(0, 1)])) if e.type.shape[0] > 1 else Linear()
        case Broadcast(operand=x) | Cast(operand=x) if x.type.dtype.is_int and e.type.dtype.is_int:
            return linear(x, names)
        case Expand(operand=x, axis=axis):
            form = linear(x, names)
            return None if form is None else form.moved(lambda a: a + (a >= axis))
        case Transpose(operand=x):
            form = linear(x, names)
            return None if form is None else form.moved(lambda a: 1 - a)
        case Unary(op="neg", operand=x):
            form = linear(x, names)
            return None if form is None else Linear().plus(form, -1)
        case Var(name=name) if name in names:
            form = linear(names[name], names)
        case Binary(op="add" | "sub" | "mul" as op, left=left, right=right):
            form = _combined(op, linear(left, names), linear(right, names))
        case _:
            form = None
    if form is None and not e.type.shape and e.type.dtype.is_int:
        return Linear(scalars=frozenset([(e, 1)]))
    return form


def _combined(op: str, a: Linear | None, b: Linear | None) -> Linear | None:
    if a is None or b is None:
        return None
    if op != "mul":
        return a.plus(b, 1 if op == "add" else -1)
    for factor, other in ((a, b), (b, a)):
        if not factor.scalars and not factor.steps:
            return Linear().plus(other, factor.constant)
    return None


def conditions(e: Expr, names: Definitions) -> list[Linear] | None:
    """A mask as linear forms that must all be positive; None where it is no such conjunction."""
    match e:
        case Literal(value=value) if value == 1:
            return []
        case Var(name=name) if name in names:
            return conditions(names[name], names)
        case Broadcast(operand=x):
            return conditions(x, names)
        case Expand(operand=x, axis=axis):
            found = conditions(x, names)
            return None if found is None else [c.moved(lambda a: a + (a >= axis)) for c in found]
        case Binary(op="and", left=left, right=right):
            first, second = conditions(left, names), conditions(right, names)
            return None if first is None or second is None else first + second
        case Binary(op="lt" | "le" | "gt" | "ge" as op, left=left, right=right) if left.type.dtype.is_int:
            small, large = (left, right) if op in ("lt", "le") else (right, left)
            low, high = linear(small, names), linear(large, names)
            if low is None or high is None:
                return None
            return [high.plus(low, -1).plus(Linear(int(op in ("le", "ge"))))]
        case _:
            return None


# ---- one access ------------------------------------------------------------------------------


def box_of(
    access: Load | Store,
    shape: tuple[int, ...],
    program: Program,
    names: Definitions,
    view: bool = False,
    axes: int = 2,
) -> tuple[int, ...] | None:
    """The box of an access to a tile of `shape`, or None where it is not exactly one. `names`: what the names in
    scope stand for. `view`: the descriptor is to be one of the dimensions that the tile walks, from the scalar
    indices on; those are then not held against the tensor's extents, and the mask must not ask for it. `axes`: the
    fewest that a tile must have to be worth a box."""
    tensor = program.tensor(access.tensor)
    forms = [linear(e, names) for e in access.index]
    if not tensor.dtype.is_float or len(forms) > MAX_RANK:
        return None
    box, walked = [], []
    for form in forms:
        if form is None or len(form.steps) > 1:
            return None
        for axis, step in form.steps:
            if step != 1:
                return None
            walked.append(axis)
        box.append(shape[next(iter(form.steps))[0]] if form.steps else 1)
    if walked != [axis for axis, extent in enumerate(shape) if extent > 1] or len(walked) < axes:
        return None
    last, cells = forms[-1], ALIGNMENT * 8 // tensor.dtype.bits
    if last is None or max(box) > MAX_EXTENT or box[-1] < cells:
        return None
    if any(part % cells for part in (last.constant, *(count for _, count in last.scalars))):
        return None
    corners = walk(tuple(corner(e, names) for e in access.index))
    if any(isinstance(n, EXPRESSIONS) and n.type.dtype is DType.I64 for n in corners):
        return None  # a corner is 32 bits wide
    held = [(e, f) for e, f in zip(tensor.shape, forms, strict=True) if f is not None and (f.steps or not view)]
    return tuple(box) if _exact(access, held, names) else None


def _exact(access: Load | Store, held: list[tuple[Expr, Linear]], names: Definitions) -> bool:
    """Whether lanes the mask leaves out are those outside the tensor, and read as 0. `held`: the extent and the index
    of each dimension that the hardware holds against each other."""
    if access.mask is None:
        return True
    if isinstance(access, Load) and not (access.other is not None and _zero(access.other, names)):
        return False
    found = conditions(access.mask, names)
    extents = [linear(extent, {}) for extent, _ in held]
    within = [extent.plus(form, -1) for extent, (_, form) in zip(extents, held, strict=True) if extent is not None]
    within += [form.plus(Linear(1)) for _, form in held]
    return found is not None and all(condition in within for condition in found)


def _zero(e: Expr, names: Definitions) -> bool:
    match e:
        case Literal(value=value):
            return value == 0
        case Broadcast(operand=x) | Cast(operand=x):
            return _zero(x, names)
        case Var(name=name) if name in names:
            return _zero(names[name], names)
        case _:
            return False


def corner(e: Expr, names: Definitions) -> Expr:
    """An index that has a linear form, in lane 0: the same operations on scalars."""
    if not e.type.shape:
        return e
    match e:
        case Arange():
            return Literal(Fraction(0), Type(e.type.dtype))
        case Broadcast(operand=x) | Expand(operand=x) | Transpose(operand=x):
            return corner(x, names)
        case Cast(operand=x):
            return replace(e, operand=corner(x, names), type=Type(e.type.dtype))
        case Unary(operand=x):
            return replace(e, operand=corner(x, names), type=Type(e.type.dtype))
        case Var(name=name):
            return corner(names[name], names)
        case Binary(op=op, left=left, right=right):
            a, b = corner(left, names), corner(right, names)
            if op == "add" and _zero(a, {}):
                return b
            if op in ("add", "sub") and _zero(b, {}):
                return a
            return replace(e, left=a, right=b, type=Type(e.type.dtype))
        case _:
            raise ValueError(f"{type(e).__name__} has no linear form")
