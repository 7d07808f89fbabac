"""How many programs of a kernel fit on one multiprocessor, from registers, shared memory and warps.

The limits are the vendors' published ones; allocation is rounded up to the hardware's granularity.
Occupancy is resident warps over the most the multiprocessor can hold.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Processor:
    """One SM or CU. Registers are 32-bit, counted per lane for `registers_per_lane`, whole file for
    `registers`; memory in bytes. `blocks` is the most programs resident at once."""

    lanes: int
    registers: int
    register_step: int
    warps: int
    blocks: int
    shared: int
    shared_reserved: int
    partitions: int


NVIDIA = Processor(32, 65536, 8, 64, 32, 228 * 1024, 1024, 4)
PROCESSORS = {
    "sm_80": Processor(32, 65536, 8, 64, 32, 164 * 1024, 1024, 4),
    "sm_90": NVIDIA,
    "sm_100": NVIDIA,
    "gfx942": Processor(64, 131072, 8, 32, 32, 64 * 1024, 0, 4),  # 4 SIMDs, 512 VGPRs a lane, 8 waves each
}


def _ceil(value: int, step: int) -> int:
    return -(-value // step) * step


def occupancy(target: str, registers: int, shared: int, warps: int) -> float:
    """Share of the multiprocessor's warps that are resident: 0.0 when one program does not fit."""
    p = PROCESSORS[target]
    per_warp = _ceil(max(registers, 1), p.register_step) * p.lanes
    slots = (p.registers // p.partitions // per_warp) * p.partitions  # warps whose registers fit
    by_registers = min(slots, p.warps) // warps
    by_shared = p.shared // (shared + p.shared_reserved) if shared + p.shared_reserved else p.blocks
    blocks = min(by_registers, by_shared, p.blocks, p.warps // warps)
    return blocks * warps / p.warps
