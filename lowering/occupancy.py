"""How many programs of a kernel fit on one multiprocessor, from registers, shared memory and warps.

The limits are the vendors' published ones; allocation is rounded up to the hardware's granularity.
Occupancy is resident warps over the most the multiprocessor can hold.

A schedule counts warps of 32 lanes. Where warps have 64 (AMD), half as many run: the threads of a program, and so the
registers that a tile takes of each, are then the same on every target.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Processor:
    """One SM or CU. Registers are 32-bit, counted per lane for `registers_per_lane`, whole file for
    `registers`; memory in bytes, `tensor_memory` in columns. `blocks` is the most programs resident at once."""

    lanes: int
    registers: int
    register_step: int
    warps: int
    blocks: int
    shared: int
    shared_reserved: int
    partitions: int
    tensor_memory: int = 0


# CUDA programming guide, compute capabilities; tensor memory: PTX ISA, tcgen05. CDNA 3 ISA and LLVM's AMDGPU usage:
# 4 SIMDs, each 512 vector registers a lane in steps of 8 (accumulation registers among them) and 8 waves; 64 KiB LDS.
PROCESSORS = {
    "sm_80": Processor(32, 65536, 8, 64, 32, 164 * 1024, 1024, 4),
    "sm_90": Processor(32, 65536, 8, 64, 32, 228 * 1024, 1024, 4),
    "sm_100": Processor(32, 65536, 8, 64, 32, 228 * 1024, 1024, 4, tensor_memory=512),
    "gfx942": Processor(64, 131072, 8, 32, 32, 64 * 1024, 0, 4),
}
THREADS = 32  # of a schedule's warp


def warps_of(num_warps: int, lanes: int) -> int:
    """Warps of `lanes` threads that a schedule's `num_warps` are."""
    return max(1, num_warps * THREADS // lanes)


def _ceil(value: int, step: int) -> int:
    return -(-value // step) * step


def occupancy(target: str, registers: int, shared: int, warps: int, tensor_memory: int = 0) -> float:
    """Share of the multiprocessor's warps that are resident: 0.0 when one program does not fit."""
    p = PROCESSORS[target]
    per_warp = _ceil(max(registers, 1), p.register_step) * p.lanes
    slots = (p.registers // p.partitions // per_warp) * p.partitions  # warps whose registers fit
    by_registers = min(slots, p.warps) // warps
    by_shared = p.shared // (shared + p.shared_reserved) if shared + p.shared_reserved else p.blocks
    by_tensor_memory = p.tensor_memory // tensor_memory if tensor_memory else p.blocks
    blocks = min(by_registers, by_shared, by_tensor_memory, p.blocks, p.warps // warps)
    return blocks * warps / p.warps


def resident(target: str, share: float, warps: int) -> int:
    """How many programs of so many warps an occupancy is: those that share a multiprocessor, at least 1."""
    return max(1, round(share * PROCESSORS[target].warps / warps))
