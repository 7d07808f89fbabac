"""What certified kernels are timed next to: the spec's formula in standard PyTorch, and torch's own operation for it.

The formula is evaluated with whole tensors (`synth.bench.formula`); an operation of torch is listed where it is seen to
compute the spec's outputs (`synth.bench.recognise`). Nothing is assumed from the spec's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ir.evaluate import parameters_default
from ir.program import DType
from ir.spec import Bound, TensorSpec
from lowering.values import TORCH
from synth.bench.formula import NotInTorch, Tensors, evaluator, tensor
from synth.bench.recognise import applied, recognised
from synth.events import STANDARD


@dataclass(frozen=True, slots=True)
class Peer:
    """A name and a function from the spec's inputs to something computed, to be timed."""

    name: str
    run: Callable[[], Any]


def standard(bound: Bound, sizes: Mapping[str, int], inputs: Tensors) -> dict[str, torch.Tensor]:
    """Every output of the spec by whole-tensor operations. Raises NotInTorch."""
    return _defined(bound, bound.outputs, sizes, inputs)


def saved(bound: Bound, sizes: Mapping[str, int], inputs: Tensors) -> dict[str, torch.Tensor]:
    """The saved inputs by whole-tensor operations on the others. Raises NotInTorch."""
    return _defined(bound, tuple((t, d) for t, d in bound.inputs if t.saved), sizes, inputs)


def _defined(
    bound: Bound, tensors: tuple[tuple[TensorSpec, DType], ...], sizes: Mapping[str, int], inputs: Tensors
) -> dict[str, torch.Tensor]:
    evaluate = evaluator(bound, sizes, inputs)
    return {t.name: tensor(evaluate, bound, t.name).to(TORCH[dtype]) for t, dtype in tensors}


def peers(bound: Bound, sizes: Mapping[str, int], inputs: Tensors) -> list[Peer]:
    """What can be timed next to a certified kernel on these inputs."""
    found = []
    meaning = recognised(bound)
    if meaning is not None:
        found.append(Peer(f"torch {meaning.title}", applied(meaning, inputs, parameters_default(bound, sizes))))
    try:
        standard(bound, sizes, inputs)
    except (NotInTorch, torch.OutOfMemoryError):
        return found
    found.append(Peer(STANDARD, lambda: standard(bound, sizes, inputs)))
    return found
