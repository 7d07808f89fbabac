"""How long a program should take on a target, without one at hand: a prediction, never a measurement.

Each kernel is bounded from below by what it does over what the device can do at most: dots over the tensor cores'
rate; exponentials and lane arithmetic over theirs; bytes over the cache's ports and over memory, where programs that
run at the same time share what they read (so grid order and tile sizes show). What does not overlap comes on top: from
the machine code where it was compiled (`synth.bench.processor`), else by a rule over phases of one program that wait
for each other, unless other resident programs or pipelined loads fill the gap. Then partial waves and launches.

Work and traffic are the program's own (`synth.bench.counts`), not the spec's: recomputation, padding, masked blocks
that are visited all cost. Constants that no data sheet gives are named below and are rough; what the model is for is
to rank candidates of one spec. docs/cost.md says how well it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ir.program import Kernel, Program
from ir.spec import Bound
from lowering.occupancy import PROCESSORS, occupancy, resident
from lowering.persistent import by_turns
from synth.bench.counts import Counts, Floats, Traffic, count, extents, tensor_bytes
from synth.bench.hardware import Device, device_of
from synth.bench.processor import work

SAMPLE = 2048  # programs of a grid that are counted, spread evenly
DEALT = 16384  # tiles of a persistent kernel that are dealt out one by one; of more, all programs have as much to do
LAUNCH = 3e-6  # seconds from one kernel of a graph to the next
START = 1000.0  # cycles to begin and end a program
WAIT = 700.0  # cycles until a load from memory arrives
STEP = 60.0  # cycles of a loop step, a reduction or a dot that the next operation waits for
LANES = 128  # plain 32-bit operations per clock and processor
ATOMIC = 2.0  # an atomic addition reads and writes its cell in the last-level cache: docs/cost.md
SUSTAINED = 0.85  # of the peak clock while tensor cores work: cuBLAS, too, stops at 75 to 85 % of an H100's peak
STREAMED = 0.92  # of the memory's bandwidth is what a copy gets
CACHED = 0.5  # of the ports' sum is what microbenchmarks get from the last-level cache of an A100 or H100
REGISTERS = 128  # assumed of a kernel that was not compiled
OVERLAP = 0.75  # of two resident programs' phases, what still adds up when many are resident


@dataclass(frozen=True, slots=True)
class Part:
    """One kernel, in seconds. `tensor`, `exponential` (with lane arithmetic) and `memory` are what each alone would
    take; `latency` is what the prediction has beyond the largest of them. `resident` programs share a processor.
    `source` is "machine code" where that was read, "program" where only the typed program is known."""

    kernel: str
    seconds: float
    tensor: float
    exponential: float
    memory: float
    latency: float
    programs: int
    resident: int
    flops: float
    bytes: float
    source: str = "program"

    @property
    def bound(self) -> str:
        parts = {name: getattr(self, name) for name in ("tensor", "exponential", "memory", "latency")}
        return max(parts, key=lambda name: parts[name])


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted `seconds` for one run of all kernels, on `device`; `bound` names what takes most of it: "tensor",
    "exponential", "memory" or "latency". `flops` of all dots and `bytes` from and to memory are the program's own."""

    device: str
    kernels: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        return sum(k.seconds for k in self.kernels)

    @property
    def tensor(self) -> float:
        return sum(k.tensor for k in self.kernels)

    @property
    def exponential(self) -> float:
        return sum(k.exponential for k in self.kernels)

    @property
    def memory(self) -> float:
        return sum(k.memory for k in self.kernels)

    @property
    def latency(self) -> float:
        return sum(k.latency for k in self.kernels)

    @property
    def flops(self) -> float:
        return sum(k.flops for k in self.kernels)

    @property
    def bytes(self) -> float:
        return sum(k.bytes for k in self.kernels)

    @property
    def bound(self) -> str:
        taken: dict[str, float] = {}
        for k in self.kernels:
            taken[k.bound] = taken.get(k.bound, 0.0) + k.seconds
        return max(taken, key=lambda name: taken[name])


def predict(
    program: Program,
    bound: Bound,
    sizes: Mapping[str, int],
    target: str,
    resources: Sequence[Mapping[str, Any]] = (),
    device: Device | None = None,
) -> Prediction:
    """Predict one run at `sizes` on `device`, the usual one of `target` where none is given. `resources`: one entry
    for each kernel, as `lowering.compile` reports them; without them registers are assumed. Raises KeyError for an
    unknown target."""
    device = device or device_of(target)
    compiled: Sequence[Mapping[str, Any] | None] = (
        resources if len(resources) == len(program.kernels) else [None] * len(program.kernels)
    )
    parts = (
        _kernel(kernel, program, bound, sizes, device, found)
        for kernel, found in zip(program.kernels, compiled, strict=True)
    )
    return Prediction(device.name, tuple(parts))


def asked_bytes(program: Program, bound: Bound, sizes: Mapping[str, int]) -> float:
    """Bytes that a program's loads, stores and atomic additions ask for, whichever cache answers: what its tiles and
    its loops reuse shows in it, and nothing of the device."""
    total = 0.0
    for kernel in program.kernels:
        grid = extents(kernel, sizes)
        programs = math.prod(grid)
        if programs:
            counts = count(kernel, program, bound, sizes, _spread(grid, programs))
            total += programs * sum(float(t.bytes.mean()) for t in counts.traffic)
    return total


def _kernel(
    kernel: Kernel,
    program: Program,
    bound: Bound,
    sizes: Mapping[str, int],
    device: Device,
    compiled: Mapping[str, Any] | None,
) -> Part:
    grid = extents(kernel, sizes)
    programs = math.prod(grid)
    if programs == 0:
        return Part(kernel.name, LAUNCH, 0.0, 0.0, 0.0, LAUNCH, 0, 0, 0.0, 0.0)
    turns = Turns.of(kernel, grid) if compiled and compiled.get("persistent") and programs <= DEALT else None
    counts = count(kernel, program, bound, sizes, turns.order if turns else _spread(grid, programs))
    warps = int(compiled["warps"]) if compiled else kernel.schedule.num_warps
    fit = _resident(kernel, counts, device, compiled, warps)
    here = max(1, min(fit, -(-programs // device.processors)))
    slots = device.processors * here
    moved, through = _memory(kernel, program, bound, sizes, device, counts, programs, slots, turns)
    cached = 1.0 - min(1.0, moved / through) if through else 0.0
    stages = kernel.schedule.num_stages
    found = work(counts, compiled, stages, here, device, cached) if compiled else None
    if found is not None:
        # at the clock the power limit leaves, as cycles of the peak one
        cycles, tensor, lanes = (c / SUSTAINED for c in (found.cycles, found.tensor, found.lanes))
        lanes = np.maximum(lanes, found.shared / SUSTAINED)
    else:
        tensor, lanes = _tensor_cycles(counts, device, warps), _lane_cycles(counts, device)
        cycles = here * _busy(counts, tensor, lanes, here, warps, compiled, device, stages)
    longest = turns.longest(cycles, slots) if turns else _makespan(cycles, programs, slots)
    computing = (longest + (found.begin / SUSTAINED if found is not None else 0.0)) / device.clock
    each = programs / device.processors / device.clock
    ports = device.port * device.processors * device.clock
    memory = max(moved / (STREAMED * device.memory), through / (CACHED * ports))
    taken = (float(tensor.mean()) * each, float(lanes.mean()) * each, memory)
    seconds = LAUNCH + max(computing, *taken)
    flops = float((counts.half + counts.single).mean()) * programs
    source = "machine code" if found is not None else "program"
    return Part(kernel.name, seconds, *taken, seconds - max(taken), programs, here, flops, moved, source)


def _spread(grid: Sequence[int], programs: int) -> NDArray[np.int64]:
    """Linear numbers of programs spread over every axis: all of them, or a low-discrepancy sample."""
    if programs <= SAMPLE:
        return np.arange(programs)
    k = np.arange(SAMPLE) + 0.5
    axes = [np.minimum((extent * ((k * math.sqrt(a)) % 1.0)).astype(np.int64), extent - 1)
            for extent, a in zip(grid, _irrational(len(grid)), strict=True)]  # fmt: skip
    return np.asarray(np.ravel_multi_index(tuple(axes), tuple(grid)), np.int64)


def _irrational(count: int) -> list[int]:
    """Numbers whose square roots are irrational and independent: primes."""
    found: list[int] = []
    n = 2
    while len(found) < count:
        if all(n % q for q in found):
            found.append(n)
        n += 1
    return found


def _resident(kernel: Kernel, counts: Counts, device: Device, compiled: Mapping[str, Any] | None, warps: int) -> int:
    """Programs that share one processor."""
    if compiled is not None:
        share = float(compiled["occupancy"])
    else:
        shared = counts.staged * kernel.schedule.num_stages
        share = occupancy(device.target, min(REGISTERS, kernel.schedule.maxnreg or REGISTERS), shared, warps)
    return resident(device.target, share, warps)


def _tensor_cycles(counts: Counts, device: Device, warps: int) -> Floats:
    """Cycles of one processor that each program's dots take at the highest rate. On sm_90 and sm_100 the fast
    instructions take 64 rows and four warps; narrower dots run at half the rate."""
    rate = device.half / device.processors / device.clock
    if device.target in ("sm_90", "sm_100") and (counts.rows < 64 or warps < 4):
        rate /= 2
    return counts.half / rate + counts.single / (device.single / device.processors / device.clock)


def _lane_cycles(counts: Counts, device: Device) -> Floats:
    return counts.special / device.exponentials + counts.plain / LANES


def _busy(
    counts: Counts,
    tensor: Floats,
    lanes: Floats,
    here: int,
    warps: int,
    compiled: Mapping[str, Any] | None,
    device: Device,
    stages: int,
) -> Floats:
    """Cycles of its processor that a program takes with `here` of them resident, where no machine code tells."""
    together = here + (1 if compiled and compiled["warp_specialized"] else 0)
    both = (tensor + lanes) * (OVERLAP + (1 - OVERLAP) / together)
    alone = (tensor + lanes) / min(1.0, warps / PROCESSORS["sm_90"].partitions) / here
    waits = WAIT * (counts.waits + counts.hidden / stages) + STEP * counts.steps + START
    spills = float(compiled["spills"]) if compiled else 0.0
    spilling = spills * PROCESSORS[device.target].lanes * warps * 2 * counts.iterations / device.port
    return np.asarray(np.maximum(np.maximum(both, alone), np.maximum(tensor, lanes)) + waits / here + spilling)


def _makespan(durations: Floats, programs: int, slots: int) -> float:
    """When the last program ends: whole waves where all take equally long, else the average load and half of one."""
    longest, mean = float(durations.max()), float(durations.mean())
    if programs <= slots:
        return longest
    if longest - float(durations.min()) <= 0.1 * longest:
        return mean * (programs / slots if programs > 8 * slots else -(-programs // slots))
    return max(longest, mean * programs / slots + 0.5 * float(durations[-max(1, len(durations) // 8) :].mean()))


@dataclass(frozen=True, slots=True)
class Turns:
    """The tiles of a persistent kernel (`lowering.persistent`): the linear numbers of its grid's points, in the order
    in which they are dealt out."""

    order: NDArray[np.int64]

    @staticmethod
    def of(kernel: Kernel, grid: Sequence[int]) -> Turns:
        axes = [kernel.grid.index(axis) for axis in by_turns(kernel)]
        return Turns(np.arange(math.prod(grid)).reshape(grid).transpose(axes).ravel())

    def longest(self, durations: Floats, programs: int) -> float:
        """What the program takes that has most to do; `durations` of the tiles in their order."""
        dealt = np.zeros((-(-len(durations) // programs), programs))
        dealt.ravel()[: len(durations)] = durations
        dealt[1::2] = dealt[1::2, ::-1]
        return float(dealt.sum(axis=0).max())


def _memory(
    kernel: Kernel,
    program: Program,
    bound: Bound,
    sizes: Mapping[str, int],
    device: Device,
    counts: Counts,
    programs: int,
    slots: int,
    turns: Turns | None,
) -> tuple[float, float]:
    """Bytes from and to memory, and bytes through the processors' ports."""
    wave = min(slots, programs)
    starts = sorted({0, (programs - wave) // 2, programs - wave})
    together = [np.arange(s, s + wave) for s in starts]
    together = [turns.order[numbers] for numbers in together] if turns else together
    waves = [count(kernel, program, bound, sizes, numbers).traffic for numbers in together]
    moved = through = 0.0
    for k, traffic in enumerate(counts.traffic):
        asked = float(traffic.bytes.mean()) * programs
        through += asked * (ATOMIC if traffic.kind == "atomic" else 1.0)
        whole = min(asked, tensor_bytes(program.tensor(traffic.tensor), sizes))
        if whole <= device.cache / 2:
            moved += whole
            continue
        distinct = sum(_distinct(w[k]) for w in waves)
        total = sum(float(w[k].bytes.sum()) for w in waves)
        moved += min(asked, max(whole, asked * distinct / total if total else 0.0))
    return moved, through


def _distinct(traffic: Traffic) -> float:
    """Bytes that the programs of a wave read between them, each cell once."""
    _, group = np.unique(traffic.key, return_inverse=True)
    count = int(group.max()) + 1
    total, most = np.zeros(count), np.zeros(count)
    np.add.at(total, group, traffic.bytes)
    np.maximum.at(most, group, traffic.bytes)
    if traffic.low is None or traffic.high is None:
        return float(most.sum())
    low, high, length = np.full(count, np.inf), np.full(count, -np.inf), np.zeros(count)
    np.minimum.at(low, group, traffic.low)
    np.maximum.at(high, group, traffic.high)
    np.maximum.at(length, group, traffic.high - traffic.low)
    return float(np.minimum(total, most * (high - low) / np.maximum(length, 1.0)).sum())
