"""The devices that speed is measured against and predicted for: one row a device, one source for each number.

Rates are the makers' dense peaks; `clock` is the one at which the 16-bit rate follows from the number of processors.
What one processor holds (registers, shared memory, warps) is in `lowering.occupancy`, with the same sources.
"""

from __future__ import annotations

from dataclasses import dataclass

TERA = 1e12


@dataclass(frozen=True, slots=True)
class Device:
    """`half` and `single` in operations a second (tensor cores at 16 bits, plain float32), `memory` in bytes a second,
    `cache` the last-level cache in bytes, `exponentials` per clock and processor, `port` bytes a clock that one
    processor takes from the cache."""

    name: str
    target: str
    processors: int
    clock: float
    half: float
    single: float
    memory: float
    cache: int
    exponentials: int = 16
    port: int = 64
    source: str = "data sheet"


# Processors, rates, bandwidth, cache: data sheets and architecture white papers of NVIDIA (A100, H100, H200, B200) and
# AMD (MI300X). Exponentials: CUDA programming guide, throughput of special functions; CDNA 3 guide, quarter rate of 64.
# The first device of a target is the one predictions for that target are made for.
DEVICES = (
    Device("B200", "sm_100", 148, 1.85e9, 2250 * TERA, 80 * TERA, 8.0 * TERA, 126 * 2**20),
    Device("H200", "sm_90", 132, 1.83e9, 989 * TERA, 67 * TERA, 4.8 * TERA, 50 * 2**20),
    Device("H100 PCIe", "sm_90", 114, 1.62e9, 756 * TERA, 51 * TERA, 2.0 * TERA, 50 * 2**20),
    Device("H100", "sm_90", 132, 1.83e9, 989 * TERA, 67 * TERA, 3.35 * TERA, 50 * 2**20),
    Device("A100", "sm_80", 108, 1.41e9, 312 * TERA, 19.5 * TERA, 2.0 * TERA, 40 * 2**20),
    Device("MI300X", "gfx942", 304, 2.1e9, 1307 * TERA, 163 * TERA, 5.3 * TERA, 256 * 2**20),
)


def device_named(name: str) -> Device | None:
    """The row whose name occurs in what a driver calls the device."""
    return next((d for d in DEVICES if d.name in name), None)


def device_of(target: str) -> Device:
    """The device predictions for a target are made for. Raises KeyError for an unknown target."""
    for device in DEVICES:
        if device.target == target:
            return device
    raise KeyError(target)
