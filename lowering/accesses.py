"""Loads and stores of whole boxes: the two nodes that lowering adds to the typed core.

A box of a tensor is `extent` cells along each dimension from a corner on. Hardware that moves boxes (TMA on
sm_90 and later) takes the tensor's shape and strides once, in a descriptor, and then only the
corner; what lies outside the tensor reads as 0 and is not written. `lowering.descriptors`
decides which loads and stores mean exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass

from ir.program import Expr, Load, Store


@dataclass(frozen=True, slots=True)
class BoxLoad(Load):
    """The cells of `tensor` from the corner `index` (one INT scalar per dimension) on, `box` of them along each
    dimension, as a tile of `type`; cells outside the tensor are 0. No mask.

    `made`: empty where the launch passes a descriptor; else the kernel makes one of the dimensions the tile walks
    (those where the box is more than 1), and these are their extents."""

    box: tuple[int, ...] = ()
    made: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class BoxStore(Store):
    """Writes a tile into the same cells; those outside the tensor stay unwritten. No mask, never atomic."""

    box: tuple[int, ...] = ()
    made: tuple[Expr, ...] = ()


def descriptor_name(tensor: str, box: tuple[int, ...]) -> str:
    """The argument of the emitted kernel for one tensor and box, `K_64x128`; extents of 1 in front left out."""
    first = next((axis for axis, extent in enumerate(box) if extent > 1), len(box) - 1)
    return f"{tensor}_{'x'.join(map(str, box[first:]))}"
