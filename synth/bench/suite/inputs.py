"""Inputs to time with: random normal data within the spec's limits, full lengths, and what earlier kernels saved.

Integer inputs keep the spec's facts. One that says where to read (it occurs in an index) is drawn evenly; one that
cuts rows into parts cuts them evenly; any other is a length or a limit, and is as large as it may be: a decode
benchmark runs over full caches.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ir.ast import Element
from ir.evaluate import tensor_shape
from ir.facts import limits, splits_of
from ir.program import DType
from ir.spec import Bound, TensorSpec
from lowering.values import TORCH
from synth.bench.formula import evaluator, tensor
from synth.propose.formula import walk

ROOM = 2**27  # elements of one intermediate of the reference: 1 GiB in float64


def make(
    bound: Bound, sizes: Mapping[str, int], device: torch.device, seed: int, dtype: torch.dtype | None = None
) -> dict[str, torch.Tensor]:
    """Every input of the spec; `dtype` instead of the spec's for floats. Saved ones are worked out in float64."""
    generator = torch.Generator(device=device).manual_seed(seed)
    found = integers(bound, sizes, device, seed)
    for spec, kind in bound.inputs:
        if not spec.saved and kind.is_float:
            shape, wanted = tensor_shape(bound, spec, sizes), dtype or TORCH[kind]
            drawn = torch.randn(shape, generator=generator, device=device, dtype=wanted)
            found[spec.name] = drawn if spec.abs_max is None else drawn.clamp_(-spec.abs_max, spec.abs_max)
    evaluate = evaluator(bound, sizes, found, wide=True, room=ROOM)
    for spec, kind in bound.inputs:
        if spec.saved:
            found[spec.name] = tensor(evaluate, bound, spec.name).to(dtype or TORCH[kind]).contiguous()
    return found


def integers(bound: Bound, sizes: Mapping[str, int], device: torch.device, seed: int) -> dict[str, torch.Tensor]:
    """The inputs that are no floats."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return {
        spec.name: _integers(bound, spec, kind, sizes, tensor_shape(bound, spec, sizes), generator)
        for spec, kind in bound.inputs
        if not kind.is_float
    }


def _integers(
    bound: Bound,
    spec: TensorSpec,
    kind: DType,
    sizes: Mapping[str, int],
    shape: tuple[int, ...],
    generator: torch.Generator,
) -> torch.Tensor:
    device = generator.device
    if kind is DType.BOOL:
        return torch.rand(shape, generator=generator, device=device) < 0.5
    if spec.facts.splits is not None:
        total, parts = splits_of(bound, spec, sizes)[0], max(shape[0] - 1, 1)
        return (torch.arange(shape[0], device=device) * total // parts).to(TORCH[kind])
    low, high = limits(bound, spec, sizes)
    least = 0 if low is None else low
    if high is not None and spec.name not in _addresses(bound):
        return torch.full(shape, max(high, least), device=device, dtype=TORCH[kind])
    most = least + 3 if high is None else max(high, least)
    return torch.randint(least, most + 1, shape, generator=generator, device=device, dtype=TORCH[kind])


def _addresses(bound: Bound) -> set[str]:
    """Inputs that are read inside the index of another: page tables, labels."""
    elements = [e for d in bound.spec.definitions for e in walk(d.value) if isinstance(e, Element)]
    return {x.name for e in elements for index in e.index for x in walk(index) if isinstance(x, Element)}
