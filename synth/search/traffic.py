"""Bytes that a program's loads and stores move, counted over its grid and loops at one shape of the spec.

A few programs spread over the grid stand for all of them, so that triangular loops count with their mean length. A
tile counts whole, also the lanes that its mask hides. What depends on data (a sequence's length in a tensor) is taken
at the most that the spec says of it; a loop whose length is still not known counts once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ir.evaluate import integer_value, tensor_shape
from ir.program import Binary, Cast, Expr, For, Kernel, Let, Literal, Load, Program, Size, Statement, Store, Unary, Var
from ir.spec import Bound
from lowering.plan import walk

SAMPLES = 8  # programs that stand for the grid
LENGTH = 256  # of every size, within its limits, where the spec names no shapes
Values = dict[str, int | None]


def traffic(program: Program, bound: Bound) -> tuple[float, float]:
    """Bytes moved by the program, and the fewest that the spec allows (every input and output once), at the first
    search shape."""
    sizes = first_sizes(bound)
    limits = _limits(bound, sizes)
    moved = sum(_kernel(kernel, program, sizes, limits) for kernel in program.kernels)
    tensors = (*bound.inputs, *bound.outputs)
    return moved, float(sum(math.prod(tensor_shape(bound, t, sizes)) * d.bits // 8 for t, d in tensors))


def first_sizes(bound: Bound) -> dict[str, int]:
    shapes = bound.spec.search_shapes or bound.spec.heldout_shapes
    given = dict(shapes[0].sizes) if shapes else {}
    return {d.name: given.get(d.name, max(d.minimum, min(d.maximum, LENGTH))) for d in bound.dims}


def _limits(bound: Bound, sizes: Mapping[str, int]) -> dict[str, int]:
    """The most that a cell of each integer input can be."""
    most = {t.name: t.facts.most or t.facts.splits for t, _ in bound.inputs}
    return {name: integer_value(bound, e, sizes) for name, e in most.items() if e is not None}


def _kernel(kernel: Kernel, program: Program, sizes: Mapping[str, int], limits: Mapping[str, int]) -> float:
    extents = [_value(axis.extent, dict(sizes), limits) or 0 for axis in kernel.grid]
    programs = math.prod(extents)
    if not programs:
        return 0.0
    width = {t.name: t.dtype.bits // 8 for t in program.tensors}
    total = 0.0
    for sample in range(SAMPLES):
        values: Values = dict(sizes)
        for place, (axis, extent) in enumerate(zip(kernel.grid, extents, strict=True)):
            part = ((2 * place + 1) * (2 * sample + 1) / (2 * SAMPLES)) % 1.0
            values[axis.name] = int(part * extent)
        total += _bytes(kernel.body, values, limits, width)
    return programs * total / SAMPLES


def _bytes(
    body: tuple[Statement, ...], values: Values, limits: Mapping[str, int], width: Mapping[str, int]
) -> float:
    total = 0.0
    for statement in body:
        match statement:
            case For(counter, start, stop, _, inner):
                first, last = _value(start, values, limits), _value(stop, values, limits)
                times = 1 if first is None or last is None else max(0, last - first)
                values[counter] = None if first is None else first + times // 2
                total += times * _bytes(inner, values, limits, width)
                continue
            case Let(name, value) if not value.type.shape and value.type.dtype.is_int:
                values[name] = _value(value, values, limits)
        for node in walk(statement):
            if isinstance(node, Load | Store):
                shapes = [e.type.shape for e in node.index]
                shape = node.type.shape if isinstance(node, Load) else node.value.type.shape
                total += math.prod(max((shape, *shapes), key=math.prod)) * width[node.tensor]
    return total


def _value(e: Expr, values: Mapping[str, int | None], limits: Mapping[str, int]) -> int | None:
    """An integer scalar, None where it is not known."""
    match e:
        case Literal(value=number):
            return int(number)
        case Size(name=name) | Var(name=name):
            return values.get(name)
        case Load(tensor=tensor):
            return limits.get(tensor)
        case Cast(operand):
            return _value(operand, values, limits)
        case Unary("neg", operand):
            value = _value(operand, values, limits)
            return None if value is None else -value
        case Binary(op, left, right):
            return _binary(op, _value(left, values, limits), _value(right, values, limits))
        case _:
            return None


def _binary(op: str, a: int | None, b: int | None) -> int | None:
    if a is None or b is None:  # what is not known bounds nothing
        return (b if a is None else a) if op in ("min", "max") else None
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "floordiv":
            return a // b if b else None
        case "mod":
            return a % b if b else None
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
        case _:
            return None
