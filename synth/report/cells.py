"""The archive as the page shows it: kernels by algorithm, tile and memory traffic, read off their texts again."""

from __future__ import annotations

from dataclasses import replace

from ir.diagnostics import SourceError
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from synth.report.view import CellView, KernelView, RunView
from synth.search.descriptor import cell_of


def with_cells(run: RunView) -> RunView:
    """The same run with the cell of every candidate, and the cells with the fastest certified kernel of each."""
    if run.bound is None:
        return run
    kernels = tuple(replace(k, cell=_cell(k, run.bound)) for k in run.kernels)
    groups: dict[str, list[KernelView]] = {}
    for kernel in kernels:
        if kernel.cell and not kernel.broken:
            groups.setdefault(kernel.cell, []).append(kernel)
    cells = tuple(CellView(name, _elite(members), len(members)) for name, members in sorted(groups.items()))
    return replace(run, kernels=kernels, cells=cells)


def _cell(kernel: KernelView, bound: Bound) -> str:
    try:
        return str(cell_of(check(parse(kernel.text), bound), bound))
    except SourceError:
        return ""


def _elite(members: list[KernelView]) -> str:
    """The certified kernel with the least time over the shapes; one that was not timed comes after all that were."""
    certified = [k for k in members if k.certified]
    times = {k.name: sum(m.seconds for m in k.measurements) or float("inf") for k in certified}
    return min(times, key=lambda name: times[name], default="")
