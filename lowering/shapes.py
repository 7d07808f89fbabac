"""Small shapes to try a program at: ragged on purpose, within the spec's limits and requirements.

No length is a multiple of a tile, lengths differ in both directions, one is empty where the spec allows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

from ir.facts import settled
from ir.nearby import nearby
from ir.program import Arange, For, Let, Load, Program, Size, Store, Var
from ir.requirements import narrowed
from ir.spec import Bound
from lowering.assumptions import evaluate
from lowering.plan import formula, walk


def long_sizes(program: Program) -> set[str]:
    """Sizes a kernel walks in tiles: in a loop bound, a mask, a requirement, or a grid extent that is computed."""
    found = {n.name for n in walk(program.requires) if isinstance(n, Size)}
    for kernel in program.kernels:
        nodes = list(walk(kernel.body))
        parts: list[object] = [n.mask for n in nodes if isinstance(n, Load | Store) and n.mask is not None]
        parts += [n.stop for n in nodes if isinstance(n, For)]
        parts += [axis.extent for axis in kernel.grid if not isinstance(axis.extent, Size)]
        found |= {n.name for part in parts for n in walk(part) if isinstance(n, Size)}
    return found


def _looped(program: Program) -> set[str]:
    """Sizes in the bounds of loops, also where a bound was given a name before: `blocks = N // BN`."""
    found: set[str] = set()
    for kernel in program.kernels:
        nodes = list(walk(kernel.body))
        named = {n.name: n.value for n in nodes if isinstance(n, Let)}
        waiting: list[object] = [n.stop for n in nodes if isinstance(n, For)]
        while waiting:
            for n in walk(waiting.pop()):
                if isinstance(n, Size):
                    found.add(n.name)
                elif isinstance(n, Var) and n.name in named:
                    waiting.append(named.pop(n.name))  # each once
    return found


def ragged(program: Program, bound: Bound) -> tuple[dict[str, int], ...]:
    """Up to three small shapes within the limits and requirements; see the module docstring. A program that requires
    its lengths to be multiples of tiles gets the multiples next to them."""
    statics = {v for _, v in bound.settings if isinstance(v, int)}
    tiles = {n.type.shape[0] for k in program.kernels for n in walk(k.body) if isinstance(n, Arange)}
    lengths = sorted(tiles - statics) or sorted(tiles) or [16]
    small, large = lengths[0], lengths[-1]
    cut = {name for t, _ in bound.inputs if t.facts.splits for name in _names(formula(t.facts.splits, bound))}
    longs = [d.name for d in bound.dims if d.name in long_sizes(program) | cut]
    related = {name for r in bound.spec.requires for name in _names(formula(r, bound))}
    first = large * (2 if program.requires else 1) + 5  # two tiles, also where it is rounded to a multiple of them
    patterns = ([first, small + 3], [small // 2 + 3, large + small // 2 + 7], [large + 1, 0])
    shapes: list[dict[str, int]] = []
    for pattern in patterns:
        wanted = {name: pattern[i % len(pattern)] for i, name in enumerate(longs)}
        free = {name: wanted[name] for name in longs if name not in related}
        found = _complete(free, bound) or _complete(wanted, bound) or _complete({}, bound)
        shape = None if found is None else nearby(narrowed(bound, program), settled(bound, found))
        if shape is not None and shape not in shapes:
            shapes.append(shape)
    return tuple(shapes)


def many_tiles(program: Program, bound: Bound, looped: bool = False) -> dict[str, int] | None:
    """A shape with several tiles along every length, or along those that loops run over (`looped`), for loops that
    reuse buffers; None where none is allowed."""
    limits = {d.name: d.maximum for d in bound.dims}
    longs, factor = (_looped(program), 3 if program.requires else 5) if looped else (long_sizes(program), 8)
    counted = {axis.extent.name for k in program.kernels for axis in k.grid if isinstance(axis.extent, Size)}
    for shape in ragged(program, bound):
        others = {d.name: max(d.minimum, 1) for d in bound.dims} if looped else shape
        given = {name: shape[name] if name in longs else others[name] for name in shape}
        long = longs - counted if looped else longs  # heads in a loop's bound are not what makes it long
        scaled = {name: min(n * factor, limits[name]) if name in long else n for name, n in given.items()}
        found = nearby(narrowed(bound, program), settled(bound, scaled))
        if found is not None:
            return found
    return None


def _complete(wanted: Mapping[str, int], bound: Bound) -> dict[str, int] | None:
    """Lengths clamped to their limits, the other sizes chosen to be unequal where requirements let them."""
    requires = [formula(r, bound) for r in bound.spec.requires]
    fixed = {d.name: min(max(wanted[d.name], d.minimum), d.maximum) for d in bound.dims if d.name in wanted}
    others = [d for d in bound.dims if d.name not in wanted]
    choices = [[n for n in (1, 2, 4, 3, 6, 8, 16) if d.minimum <= n <= d.maximum] or [d.minimum] for d in others]
    related = {name for r in requires for name in _names(r)}
    related |= {n for t, _ in bound.inputs if t.facts.splits for n in _names(formula(t.shape[0], bound))}
    possible = []
    for values in product(*choices):
        sizes = {**fixed, **{d.name: v for d, v in zip(others, values, strict=True)}}
        if all(evaluate(r, sizes) for r in requires):
            repeated = len(values) - len(set(values))  # an index that uses the wrong size shows when sizes differ
            ones = sum(sizes[d.name] == 1 for d in others if d.name in related)
            possible.append((repeated, ones, math.prod(values), sizes))
    return min(possible, key=lambda p: p[:3])[3] if possible else None


def _names(expression: Any) -> set[str]:
    """The sizes a requirement speaks of."""
    if isinstance(expression, list):
        return {name for operand in expression[1:] for name in _names(operand)}
    return {expression} if isinstance(expression, str) else set()


def even(sizes: Mapping[str, int], program: Program, bound: Bound) -> dict[str, int] | None:
    """The shape with every length rounded up to a multiple of 16; None where nothing near meets the requirements."""
    wanted = {name: -(-size // 16) * 16 for name, size in sizes.items() if size > 1}
    found = _complete(wanted, bound)
    return None if found is None else nearby(narrowed(bound, program), settled(bound, found))


def shapes_to_compare(program: Program, bound: Bound) -> list[dict[str, int]]:
    """Where to compare on the device: small and ragged, the same with aligned lengths, and many tiles."""
    every = ragged(program, bound)
    wanted = [*every, *(even(shape, program, bound) for shape in every), many_tiles(program, bound)]
    found: list[dict[str, int]] = []
    for shape in wanted:
        if shape is not None and shape not in found:
            found.append(shape)
    return found
