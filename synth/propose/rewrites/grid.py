"""Rewrites of the grid: which program does which part of the work, and with tiles of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ir.ast import Assign, Binary, Call, Meta, Module, Name
from synth.propose.rewrites.bounds import number
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.schedule import SMALLEST
from synth.propose.tree import identifiers, renamed


def grid_order(subject: Subject) -> Iterator[Module]:
    """One grid axis of a kernel becomes the last, which runs fastest. Programs that run at the same time then share
    what does not depend on that axis in cache: with heads last, the tiles of keys of grouped heads; with tiles last,
    those of one head. Applies to grids of two axes and more."""
    for k, kernel in enumerate(subject.module.kernels):
        for axis in kernel.grid[:-1]:
            order = (*(a for a in kernel.grid if a != axis), axis)
            yield subject.with_kernel(k, replace(kernel, grid=order))


def last_first(subject: Subject) -> Iterator[Module]:
    """The programs of one axis run from its last part to its first. With a causal mask the last rows see most keys;
    started first, they do not trail behind when all others are done. Applies to axes counted in blocks (cdiv)."""
    for k, kernel in enumerate(subject.module.kernels):
        for axis in kernel.grid:
            if not isinstance(axis.extent, Call) or axis.extent.function != "cdiv":
                continue
            part = subject.fresh("part")
            turned = Binary("-", Binary("-", axis.extent, number(1)), Name(part))
            grid = tuple(replace(a, name=part) if a == axis else a for a in kernel.grid)
            body = (Assign(axis.name, turned), *kernel.body)
            yield subject.with_kernel(k, replace(kernel, grid=grid, body=body))


def own_tile(subject: Subject) -> Iterator[Module]:
    """One kernel of several gets a tile size of its own, half or twice the one it shared. Kernels of a backward pass
    hold different accumulators, so that their best tiles differ. Applies to metas that two kernels use and that no
    scratch tensor's shape is made of."""
    module = subject.module
    for k, kernel in enumerate(module.kernels):
        others = identifiers((module.kernels[:k], module.kernels[k + 1 :]))
        fixed = identifiers(module.scratch)
        for meta in module.metas:
            name, size = meta.name, subject.metas[meta.name]
            if name not in identifiers(kernel) or name not in others or name in fixed:
                continue
            for changed in (size // 2, size * 2):
                if changed >= SMALLEST or changed > size:
                    own = subject.fresh(f"{name}_{kernel.name}")
                    metas = (*module.metas, Meta(own, number(changed)))
                    grid = tuple(replace(a, extent=renamed(a.extent, {name: own})) for a in kernel.grid)
                    body = renamed(kernel.body, {name: own})
                    changed_kernel = replace(kernel, grid=grid, body=body)
                    yield replace(subject.with_kernel(k, changed_kernel), metas=metas)


REWRITES = (Rewrite("grid-order", grid_order), Rewrite("last-first", last_first), Rewrite("own-tile", own_tile))
