"""What certified kernels are timed next to: the spec's formula in standard PyTorch, and attention as torch ships it.

The formula is evaluated with whole tensors (`synth.bench.formula`). `scaled_dot_product_attention`
is listed only where it is seen to compute the spec's first output on a small ragged input; nothing is assumed from
the spec's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from ir.ast import Name
from ir.evaluate import check_requires, evaluate, parameters_default
from ir.inputs import generate
from ir.program import DType
from ir.spec import Bound, TensorSpec
from lowering.values import TORCH
from synth.bench.formula import NotInTorch, Tensors, evaluator, tensor
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


# ---- scaled_dot_product_attention ------------------------------------------------------------------


def attention_variants(
    bound: Bound, sizes: Mapping[str, int], inputs: Tensors
) -> dict[str, Callable[[], torch.Tensor]]:
    """The ways torch's attention could be called on three inputs of rank 4, in the order the spec names them;
    with a fourth, the gradient of the output, the ways its backward could be."""
    tensors = [inputs[t.name] for t, _ in bound.inputs if not t.saved]
    if len(tensors) not in (3, 4) or any(t.dim() != 4 for t in tensors):
        return {}
    q, k, v, *upstream = tensors
    grouped = q.shape[1] != k.shape[1]
    scale = next(iter(parameters_default(bound, sizes).values()), None)
    attention = torch.nn.functional.scaled_dot_product_attention

    def call(**how: Any) -> Callable[[], torch.Tensor]:
        if not upstream:
            return lambda: attention(q, k, v, scale=scale, enable_gqa=grouped, **how)
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = attention(leaves[0], leaves[1], leaves[2], scale=scale, enable_gqa=grouped, **how)
        return lambda: torch.autograd.grad(out, leaves, upstream, retain_graph=True)[0]

    rows, keys = q.shape[2], k.shape[2]
    ends = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    corner = call(is_causal=True) if rows == keys else call(attn_mask=ends)  # a flag takes faster paths than a mask
    return {"full": call(), "top-left causal": call(is_causal=True), "bottom-right causal": corner}


def attention_variant(bound: Bound) -> str | None:
    """Which variant computes the spec's first output on a small ragged input; None when none does."""
    sizes = small_sizes(bound)
    if sizes is None:
        return None
    parameters = parameters_default(bound, sizes)
    arrays = generate("normal", 0, bound, sizes, parameters)
    name = bound.outputs[0][0].name
    wanted = torch.from_numpy(evaluate(bound, sizes, parameters, arrays)[name].copy())
    inputs = {n: torch.from_numpy(a).double() for n, a in arrays.items()}
    for variant, run in attention_variants(bound, sizes, inputs).items():
        try:
            got = run()
        except RuntimeError:  # shapes this call does not take: not this variant
            continue
        if got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-9, atol=1e-9):
            return variant
    return None


def small_sizes(bound: Bound) -> dict[str, int] | None:
    """Small sizes that satisfy the spec, none 1 and all different if possible, the second input the longer one."""
    wanted: dict[str, int] = {}
    symbolic = {d.name for d in bound.dims}
    for (t, _), length in zip(bound.inputs, (5, 9), strict=False):
        if len(t.shape) > 2 and isinstance(extent := t.shape[2], Name) and extent.id in symbolic:
            wanted.setdefault(extent.id, length)
    dims = [d for d in bound.dims if d.name not in wanted]
    choices = [[n for n in (4, 2, 3, 1, 6) if d.minimum <= n <= d.maximum] or [d.minimum] for d in dims]
    fitting = []
    for values in product(*choices):
        sizes = wanted | {d.name: n for d, n in zip(dims, values, strict=True)}
        if check_requires(bound, sizes):
            fitting.append((values.count(1), -len(set(values)), sizes))
    return min(fitting, key=lambda item: item[:2])[2] if fitting else None


def peers(bound: Bound, sizes: Mapping[str, int], inputs: Tensors) -> list[Peer]:
    """What can be timed next to a certified kernel on these inputs."""
    found = []
    variant = attention_variant(bound)
    if variant is not None:
        run = attention_variants(bound, sizes, inputs)[variant]
        part = "" if sum(not t.saved for t, _ in bound.inputs) == 3 else "backward, "
        found.append(Peer(f"torch scaled_dot_product_attention ({part}{variant})", run))
    try:
        standard(bound, sizes, inputs)
    except (NotInTorch, torch.OutOfMemoryError):
        return found
    found.append(Peer(STANDARD, lambda: standard(bound, sizes, inputs)))
    return found
