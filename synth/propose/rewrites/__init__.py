"""Typed rewrites of kernels, by which the embedded proposer evolves. Proposed, not trusted: the gate judges each.

A rewrite is a function from a `Subject` (a kernel file with its types) to changed files, and a line in the list at the
end of its module; docs/adding-a-rewrite.md shows one from start to end. None looks at names or at who wrote the
kernel: each fits wherever the structure it speaks of is found.
"""

from __future__ import annotations

from synth.propose.rewrites import (
    exponents,
    grid,
    heads,
    loops,
    masks,
    programs,
    recompute,
    scaling,
    schedule,
    softmax,
    split,
    split_keys,
    sums,
    visits,
)
from synth.propose.rewrites.rewrite import Rewrite, Site, Subject

__all__ = ["REWRITES", "Rewrite", "Site", "Subject"]

REWRITES: tuple[Rewrite, ...] = (
    *schedule.REWRITES,
    *grid.REWRITES,
    *split.REWRITES,
    *loops.REWRITES,
    *softmax.REWRITES,
    *exponents.REWRITES,
    *visits.REWRITES,
    *programs.REWRITES,
    *heads.REWRITES,
    *split_keys.REWRITES,
    *scaling.REWRITES,
    *masks.REWRITES,
    *sums.REWRITES,
    *recompute.REWRITES,
)
