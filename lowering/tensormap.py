"""May a tensor, as passed, be moved in boxes by TMA, and the descriptor by which it is.

The rules are those of `cuTensorMapEncodeTiled` (CUDA driver API, tensor maps) and of Triton's launcher, which holds
extents in 32 bits: the base is a multiple of 16 bytes, the last dimension is contiguous, every other stride a
positive multiple of 16 bytes below 2^40, every extent at least 1. The stride of a dimension of extent 1 moves
nothing, and torch leaves it arbitrary: the descriptor gets one that is allowed.

Standard library and (when a descriptor is made) Triton only; torch by way of the tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ALIGNMENT = 16  # bytes
MAX_STRIDE = 2**40  # bytes
MAX_EXTENT = 2**31
MAX_RANK = 5


def strides(x: torch.Tensor) -> list[int]:
    """Element strides that address the same cells, with those of dimensions of extent 1 chosen to be allowed."""
    return list(_layout(x.shape, x.stride(), x.element_size())[0])


def unfit(x: torch.Tensor) -> str:
    """Why TMA cannot move boxes of this tensor; empty when it can."""
    if x.data_ptr() % ALIGNMENT:
        return f"its base is not a multiple of {ALIGNMENT} bytes"
    return _layout(x.shape, x.stride(), x.element_size())[1]


@lru_cache(maxsize=4096)  # asked of every tensor at every call
def _layout(shape: tuple[int, ...], given: tuple[int, ...], size: int) -> tuple[tuple[int, ...], str]:
    """The strides of a descriptor, and what of shape and strides it cannot have."""
    unit = max(ALIGNMENT // size, 1)
    reach = max((n * s for n, s in zip(shape, given, strict=True) if n > 1), default=1)
    free = -(-reach // unit) * unit
    chosen = [s if n > 1 else free for n, s in zip(shape, given, strict=True)]
    if chosen and shape[-1] == 1:
        chosen[-1] = 1
    return tuple(chosen), _problem(shape, given, chosen, size)


def _problem(shape: tuple[int, ...], given: tuple[int, ...], chosen: list[int], size: int) -> str:
    if not 1 <= len(shape) <= MAX_RANK:
        return f"it has {len(shape)} dimensions"
    if not all(0 < n < MAX_EXTENT for n in shape):
        return f"an extent of {list(shape)} is outside 1..2^31 - 1"
    if chosen[-1] != 1:
        return "its last dimension is not contiguous"
    if not all(s > 0 and s * size % ALIGNMENT == 0 and s * size < MAX_STRIDE for s in chosen[:-1]):
        return f"a stride of {list(given)} is not a positive multiple of {ALIGNMENT} bytes below 2^40"
    return ""


def descriptor(x: torch.Tensor, box: Sequence[int]) -> Any:
    """Triton's host-side descriptor for boxes of that extent; `unfit(x)` must be empty."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(x, list(x.shape), strides(x), list(box))


def shared_layout(box: Sequence[int], dtype: str) -> Any:
    """How Gluon lays out a box in shared memory, so that TMA writes it and wgmma reads it as it is; dtype: "bf16"."""
    from triton.experimental.gluon import language as gl

    types = {"bf16": gl.bfloat16, "f16": gl.float16, "f32": gl.float32}
    return gl.NVMMASharedLayout.get_default_for(list(box), types[dtype])


def shared_descriptor(x: torch.Tensor, box: Sequence[int], dtype: str) -> Any:
    """Gluon's host-side descriptor, which says that layout too; `unfit(x)` must be empty."""
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    return TensorDescriptor(x, list(x.shape), strides(x), list(box), shared_layout(box, dtype))
