"""What one program takes of its processor, from its machine code: cycles of every loop times how often it runs.

The compiler's summary (`lowering.phases`) says what an iteration does, `synth.bench.matching` which loop of the program
it is, `synth.bench.counts` how often that runs at given sizes for each program, `synth.bench.overlap` how long an
iteration takes with so many programs resident. None where the code and the program do not fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowering.instructions import FAR
from synth.bench.counts import Counts, Floats
from synth.bench.hardware import Device
from synth.bench.matching import Matched, match, turn_of
from synth.bench.overlap import UNITS, Phase, iteration, phase_of

PARTITIONS = 4
NEAR = 300.0  # cycles until what the last-level cache holds arrives (Luo et al.: 260 to 280 on an idle H100)
BEGIN = 500.0  # cycles from the end of one program to the first instruction of the next in its place
STEP = 100.0  # latencies are told apart in steps of that many cycles


@dataclass(frozen=True, slots=True)
class Work:
    """Of each program, or turn of a persistent one, in cycles of its processor: `cycles` from begin to end with the
    others resident; what it takes of the tensor cores, of the lanes (issue slots, float, integer or special units,
    whichever is most) and of shared memory's ports. `begin`: what a persistent program takes besides its turns."""

    cycles: Floats
    tensor: Floats
    lanes: Floats
    shared: Floats
    begin: float = 0.0


def work(
    counts: Counts, compiled: Mapping[str, Any], stages: int, resident: int, device: Device, cached: float
) -> Work | None:
    """`compiled` as `lowering.compile.Resources`; `cached` is the share of loads that the last-level cache answers."""
    code, begin = compiled.get("code"), 0.0
    turns = bool(compiled.get("persistent"))
    if code and turns:
        begin, code = _begin(code), turn_of(code, bool(counts.loops))
    if not code:
        return None
    warps, specialized = int(compiled["warps"]), bool(compiled["warp_specialized"])
    hot = match(counts.loops, code["loops"], warps, specialized)
    if hot is None:
        return None
    far = STEP * round((cached * NEAR + (1.0 - cached) * FAR) / STEP)
    ahead = turns and specialized  # who copies has gone on to this turn's tiles during the last one
    sharing = max(1.0, resident * warps / PARTITIONS)
    (straight,) = [phase_of(p) for p in code["straight"]["phases"]]
    stops = 0 if ahead else code["straight"]["phases"][0].get("stops", 0)
    cycles = np.zeros_like(counts.half) + max(straight.alone, sharing * max(straight.demands)) + stops * FAR
    cycles += 0.0 if turns else BEGIN
    units = {unit: np.zeros_like(cycles) + straight.demands[k] * warps / PARTITIONS for k, unit in enumerate(UNITS)}
    units["tensor"] += straight.dots * warps / PARTITIONS
    for found in hot:
        roles = tuple((_phases(found, block, count, device), count) for block, count in found.roles)
        laps = found.loop.runs / found.unroll
        cycles += laps * iteration(roles, resident, stages, far)
        if not ahead and any(p.until in ("loads", "signal") for phases, _ in roles for p in phases):
            cycles += found.loop.entries * far  # the first loads, which nothing hides
        for k, unit in enumerate(UNITS):
            units[unit] += laps * sum(n * sum(p.demands[k] for p in phases) for phases, n in roles) / PARTITIONS
        units["tensor"] += laps * sum(n * sum(p.dots for p in phases) for phases, n in roles) / PARTITIONS
    lanes = np.maximum.reduce([units[u] for u in ("issue", "fma", "alu", "special")])
    return Work(cycles, units["tensor"], lanes, units["shared"], begin)


def _begin(code: Mapping[str, Any]) -> float:
    """Cycles until a persistent program's first turn has its first tiles."""
    return float(code["straight"]["phases"][0].get("alone", 0.0)) + FAR + BEGIN


def _phases(found: Matched, block: Mapping[str, Any], warps: int, device: Device) -> tuple[Phase, ...]:
    """The phases of a block; products that do not tell their shape share the program's operations equally."""
    started = sum(p.get("started", 0) for p in block["phases"])
    each = 0.0
    if started and not block["flops"]:
        rate = device.half / device.processors / device.clock
        each = found.loop.dots * found.unroll / rate / started / max(1.0, warps / PARTITIONS)
    return tuple(phase_of(p, each) for p in block["phases"])
