"""Bytes that a program's loads and stores move, counted over its grid and loops at one shape of the spec.

A few programs spread over the grid stand for all of them, so that triangular loops count with their mean length. A
tile counts whole, also the lanes that its mask hides. What depends on data (a sequence's length in a tensor) is taken
at the most that the spec says of it; a loop whose length is still not known counts once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class _Block:
    """`moved` bytes each time it runs, loops apart; `steps` are what those bytes and loops depend on, in order."""

    moved: float
    steps: tuple[Let | tuple[For, _Block], ...]


def _block(body: tuple[Statement, ...], width: Mapping[str, int]) -> _Block:
    moved = 0.0
    steps: list[Let | tuple[For, _Block]] = []
    for statement in body:
        match statement:
            case For(body=inner):
                steps.append((statement, _block(inner, width)))
                continue
            case Let(_, value) if not value.type.shape and value.type.dtype.is_int:
                steps.append(statement)
        for node in walk(statement):
            if isinstance(node, Load | Store):
                shape = node.type.shape if isinstance(node, Load) else node.value.type.shape
                cells = max(math.prod(s) for s in (shape, *(e.type.shape for e in node.index)))
                moved += cells * width[node.tensor]
    return _Block(moved, tuple(steps))


def _kernel(kernel: Kernel, program: Program, sizes: Mapping[str, int], limits: Mapping[str, int]) -> float:
    extents = [_value(axis.extent, sizes, limits) or 0 for axis in kernel.grid]
    block = _block(kernel.body, {t.name: t.dtype.bits // 8 for t in program.tensors})
    total = 0.0
    for sample in range(SAMPLES):
        values: Values = dict(sizes)
        for place, (axis, extent) in enumerate(zip(kernel.grid, extents, strict=True)):
            part = ((2 * place + 1) * (2 * sample + 1) / (2 * SAMPLES)) % 1.0
            values[axis.name] = int(part * extent)
        total += _bytes(block, values, limits)
    return math.prod(extents) * total / SAMPLES


def _bytes(block: _Block, values: Values, limits: Mapping[str, int]) -> float:
    """`values` gains what the block's integers are at these; a loop's body is taken at its middle iteration."""
    total = block.moved
    for step in block.steps:
        match step:
            case Let(name, value):
                values[name] = _value(value, values, limits)
            case (loop, inner):
                first, last = _value(loop.start, values, limits), _value(loop.stop, values, limits)
                times = 1 if first is None or last is None else max(0, last - first)
                values[loop.counter] = None if first is None else first + times // 2
                total += times * _bytes(inner, values, limits)
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
