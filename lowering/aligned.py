"""Which sizes must be multiples of 16 for a kernel's threads to move 16 bytes at a time.

Neighbouring cells that one thread reads or writes are moved together, up to 16 bytes by one instruction, where they
begin at a multiple of as many bytes and all or none of them are masked. The first the compiler knows of pointers and
strides, which Triton looks at when it launches. The second it knows of a mask `j < C` only where C is a multiple of
these cells, and it is told nothing of sizes: a new length must not mean a new compilation. So rows of any length are
moved cell by cell, two bytes at a time.

A version for multiples of 16 alone has the same text, but lets Triton look at these sizes too; the condition under
which it runs is what the compiler is told when it compiles ahead of time. 16 is the one number that Triton asks for:
enough for every dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ir.program import Expr, Kernel, Let, Load, Program, Size, Store
from lowering.accesses import BoxLoad, BoxStore
from lowering.descriptors import conditions, linear
from lowering.plan import walk
from lowering.versions import Condition

MULTIPLE = 16
THREADS = 32  # of a warp, of those that `num_warps` counts


def aligned_sizes(program: Program) -> list[str]:
    """The sizes that bound, in a mask, the neighbours that one thread of some kernel moves, in order of name."""
    return sorted({size for kernel in program.kernels for size in _of_kernel(kernel)})


def when(sizes: Sequence[str]) -> list[Condition]:
    """All of them are multiples."""
    return [["size", ["eq", ["mod", size, MULTIPLE], 0]] for size in sizes]


def launches(written: Sequence[Mapping[str, Any]], sizes: Sequence[str]) -> list[dict[str, Any]]:
    """Launches of which the compiler may take it that these sizes are multiples: those of their own arguments."""
    own = [[name for kind, name, *_ in launch["args"] if kind == "size" and name in sizes] for launch in written]
    return [{**launch, "aligned": names} if names else {**launch} for launch, names in zip(written, own, strict=True)]


def _of_kernel(kernel: Kernel) -> Iterator[str]:
    nodes = list(walk(kernel.body))
    names = {node.name: node.value for node in nodes if isinstance(node, Let)}
    for node in nodes:
        if isinstance(node, BoxLoad | BoxStore) or not isinstance(node, Load | Store) or node.mask is None:
            continue
        shape = node.type.shape if isinstance(node, Load) else node.value.type.shape
        if math.prod(shape) >= 2 * THREADS * kernel.schedule.num_warps:
            yield from _bounds(node.index[-1], node.mask, names)


def _bounds(last: Expr, mask: Expr, names: Mapping[str, Expr]) -> Iterator[str]:
    """Sizes that the mask holds against lanes which the last index, contiguous in memory, takes one after another."""
    form = linear(last, names)
    neighbours = {axis for axis, step in form.steps if step == 1} if form is not None else set()
    for condition in conditions(mask, names) or ():
        if neighbours & {axis for axis, _ in condition.steps}:
            yield from (e.name for e, _ in condition.scalars if isinstance(e, Size))
