"""Loads and stores of the CPU executor: a strided view where the address is affine, a gather otherwise.

A block of memory is an index per tensor dimension. When every index is `Lanes` in closed form, the
element offset is affine in lanes, and if it is also affine in the program number the whole batch of
tiles is one view of the tensor: no copy, no index tensor. Masked-off lanes are never read from
outside the tensor: a view that would leave it is replaced by a gather of the lanes whose mask holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lowering.lanes import Integer, Lanes, dense


@dataclass(frozen=True, slots=True)
class Block:
    """Cells `tensor[index]` for a tile of `shape`, per program: each index as the typed core has it."""

    index: tuple[Integer, ...]
    shape: tuple[int, ...]


class OutOfBounds(Exception):
    """A lane whose mask holds addresses a cell that is not there."""


Mask = bool | torch.Tensor


def read(tensor: torch.Tensor, block: Block, mask: Mask, other: torch.Tensor | None) -> torch.Tensor:
    """[P or 1, *shape]: the cells where the mask holds, `other` (by default 0) elsewhere."""
    other = torch.zeros((), dtype=tensor.dtype) if other is None else other
    if mask is False:
        return other.to(tensor.dtype)
    affine = _affine(tensor, block, mask is True)
    if affine is not None:
        cells = _view(tensor, affine, block.shape)
        if cells is None:  # the programs' tiles lie irregularly: copying each is far cheaper than a gather
            cells = torch.stack([tensor.as_strided(block.shape, affine.steps, at) for at in affine.starts])
        return cells if isinstance(mask, bool) else torch.where(mask, cells, other.to(tensor.dtype))
    offsets = _offsets(tensor, block, mask)
    flat = tensor.view(-1)
    if isinstance(mask, bool):
        return flat[offsets]
    if flat.numel() == 0:
        return other.to(tensor.dtype)
    return torch.where(mask, flat[torch.where(mask, offsets, 0)], other.to(tensor.dtype))


def write(tensor: torch.Tensor, block: Block, value: torch.Tensor, mask: Mask, atomic: bool) -> None:
    """Store [P or 1, *shape] (broadcast as needed) where the mask holds; add when atomic."""
    if mask is False:
        return
    if mask is True and not atomic:
        affine = _affine(tensor, block, True)
        cells = None if affine is None else _view(tensor, affine, block.shape)
        if cells is not None:
            cells.copy_(value)
            return
    offsets = _offsets(tensor, block, mask)
    parts = [offsets, value] if isinstance(mask, bool) else [offsets, value, mask]
    programs = max((p.shape[0] for p in parts if p.dim()), default=1)
    offsets, value, *masks = (p.expand(programs, *block.shape) for p in parts)
    if masks:
        offsets, value = offsets[masks[0]], value[masks[0]]
    tensor.view(-1).index_put_((offsets.reshape(-1),), value.to(tensor.dtype).reshape(-1), accumulate=atomic)


@dataclass(frozen=True, slots=True)
class Affine:
    """Element offsets `start + sum(step[a] * lane[a])`: one start for all programs, or one for each."""

    starts: list[int]
    steps: list[int]


def _affine(tensor: torch.Tensor, block: Block, every: bool) -> Affine | None:
    """The block's offsets in closed form, or None when they have none, or when a masked block (`every`
    false) would leave the tensor's memory. Raises OutOfBounds for an unmasked one that does."""
    steps = [0] * len(block.shape)
    base: int | torch.Tensor = 0
    for lanes, extent, stride in zip(block.index, tensor.shape, tensor.stride(), strict=True):
        if not isinstance(lanes, Lanes):
            return None
        if every:
            _check(lanes, extent)
        base = base + lanes.base * stride
        for axis, step in enumerate(lanes.steps):
            steps[axis] += step * stride
    if any(step < 0 for step in steps):
        return None
    starts = [base] if isinstance(base, int) else base.tolist()
    reach = sum(step * (extent - 1) for step, extent in zip(steps, block.shape, strict=True))
    if not every and (min(starts) < 0 or max(starts) + reach >= tensor.numel()):
        return None
    return Affine(starts, steps)


def _view(tensor: torch.Tensor, affine: Affine, shape: tuple[int, ...]) -> torch.Tensor | None:
    """The cells as one view of a contiguous tensor, when the programs' starts are evenly spaced."""
    starts = affine.starts
    hop = starts[1] - starts[0] if len(starts) > 1 else 0
    if hop < 0 or any(b - a != hop for a, b in zip(starts, starts[1:], strict=False)):
        return None
    programs = len(starts) if hop else 1
    return tensor.as_strided((programs, *shape), (hop, *affine.steps), starts[0])


def _check(lanes: Lanes, extent: int) -> None:
    low, high = lanes.bounds()
    if low < 0 or high >= extent:
        raise OutOfBounds(f"index {low if low < 0 else high} is outside 0..{extent - 1}")


def _offsets(tensor: torch.Tensor, block: Block, mask: Mask) -> torch.Tensor:
    """Element offsets [P or 1, *shape], extent 1 where nothing varies."""
    rank = len(block.shape)
    result = torch.zeros((1,) * (rank + 1), dtype=torch.int64)
    wrong: torch.Tensor | None = None
    for index, extent, stride in zip(block.index, tensor.shape, tensor.stride(), strict=True):
        k = dense(index)
        if k.dim() == 1:
            k = k.view(-1, *(1,) * rank)
        outside = (k < 0) | (k >= extent)
        wrong = outside if wrong is None else wrong | outside
        result = result + k * stride
    if wrong is not None and bool((wrong if isinstance(mask, bool) else wrong & mask).any()):
        raise OutOfBounds(f"a lane addresses a cell outside {list(tensor.shape)}")
    return result
