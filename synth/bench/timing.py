"""How long one run takes on the device there is, and how fast that is for the spec's work.

A certified kernel runs through its certificate: on a GPU the emitted Triton through `lowering.launch`, without one
the CPU executor, whose figures are labelled as such. Every time is a median after warm-up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ir.ast import Name
from ir.evaluate import check_requires, parameters_default, tensor_shape
from ir.inputs import generate
from ir.nearby import admits
from ir.program import Program
from ir.spec import Bound, Shapes
from lowering.assumptions import DTYPES, AssumptionViolated
from lowering.cpu import execute
from lowering.launch import load
from lowering.lower import require_certified
from lowering.values import TORCH
from synth.bench.formula import NotInTorch
from synth.bench.peers import peers, saved
from synth.bench.roofline import Peak, device_peak, share, traffic_bytes, work_flops
from synth.bench.suite.clock import CACHE_BYTES
from synth.events import Measurement
from synth.propose import NothingToPropose
from synth.propose.structure import nests
from verifier.certificate import Certificate

CPU_WORK = 2.5e9  # operations; a run on a CPU takes well under a second at this size


@dataclass(frozen=True, slots=True)
class Bench:
    """The device, and the shapes and inputs every candidate of a run is timed on; `brief`: with few calls."""

    bound: Bound
    device: torch.device
    label: str
    peak: Peak | None
    shapes: tuple[Shapes, ...]
    inputs: dict[str, dict[str, torch.Tensor]]
    brief: bool = False

    def short(self) -> Bench:
        """Enough to tell a slow kernel: the first shape and few calls."""
        return replace(self, shapes=self.shapes[:1], brief=True)


def device_label() -> str:
    """The GPU's name, or "CPU"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def prepare(bound: Bound, which: str = "search") -> Bench:
    """With all of `chosen_shapes` on a GPU; on a CPU with the first one, shrunk until a run is short."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    shapes = chosen_shapes(bound, which)
    if not gpu:
        shapes = tuple(shrunk(s, bound) for s in shapes[:1])
    dtype = bound.inputs[0][1]
    peak = device_peak(device_label(), dtype) if gpu else measured_peak(TORCH[dtype])
    inputs = {s.name: random_inputs(bound, dict(s.sizes), device) for s in shapes}
    return Bench(bound, device, device_label(), peak, shapes, inputs)


def chosen_shapes(bound: Bound, which: str) -> tuple[Shapes, ...]:
    """The spec's "search" or "heldout" shapes, never one for the other: what was searched on says nothing of how a
    kernel generalises. A spec without search shapes is searched on `default_shapes`."""
    return bound.spec.heldout_shapes if which == "heldout" else bound.spec.search_shapes or default_shapes(bound)


def default_shapes(bound: Bound) -> tuple[Shapes, ...]:
    """For a spec that names no shapes: rows and keys of length 1024, the other sizes 8 or less, within all limits."""
    try:
        found = nests(bound)
    except NothingToPropose:
        return ()
    extents = [nest.row[1] for nest in found] + [group.extent for nest in found for group in nest.groups]
    long = {extent.id for extent in extents if isinstance(extent, Name)}
    choices = [
        [n for n in ((1024,) if d.name in long else (8, 4, 2, 1)) if d.minimum <= n <= d.maximum] or [d.minimum]
        for d in bound.dims
    ]
    shapes = (dict(zip((d.name for d in bound.dims), values, strict=True)) for values in product(*choices))
    fitting = next((sizes for sizes in shapes if check_requires(bound, sizes)), None)
    return () if fitting is None else (Shapes("default", tuple(fitting.items())),)


def shrunk(shape: Shapes, bound: Bound) -> Shapes:
    """A shape with batch-like sizes halved, smallest first, until the work is small enough for a CPU. Equal sizes
    stay equal, so that a spec's requirements on them keep holding."""
    sizes = dict(shape.sizes)
    while _work(bound, sizes) > CPU_WORK:
        smaller = (
            {name: n // 2 if n == size else n for name, n in sizes.items()}
            for size in sorted(set(sizes.values()))
            if size > 1
        )
        fitting = next((s for s in smaller if check_requires(bound, s)), None)
        if fitting is None:
            break
        sizes = fitting
    same = tuple(sizes.items()) == shape.sizes
    return shape if same else Shapes(f"{shape.name}, shrunk for a CPU", tuple(sizes.items()))


def random_inputs(bound: Bound, sizes: Mapping[str, int], device: torch.device) -> dict[str, torch.Tensor]:
    """Standard normal inputs of the spec's dtypes; saved ones are what their definitions make of the others, where
    PyTorch can say (they are only timed with)."""
    generator = torch.Generator(device=device).manual_seed(0)
    found = {}
    indices: dict[str, Any] = {}
    if any(not dtype.is_float for _, dtype in bound.inputs):  # those must meet the spec's facts
        indices = generate("normal", 0, bound, sizes, parameters_default(bound, sizes))
    for tensor, dtype in bound.inputs:
        if dtype.is_float:
            shape = tensor_shape(bound, tensor, sizes)
            found[tensor.name] = torch.randn(shape, generator=generator, device=device).to(TORCH[dtype])
        else:
            found[tensor.name] = torch.from_numpy(indices[tensor.name]).to(DTYPES[dtype.value]).to(device)
    try:
        return found | saved(bound, sizes, found)
    except NotInTorch:
        return found


@cache
def measured_peak(dtype: torch.dtype) -> Peak:
    """What this CPU reaches in a large matrix product and a large copy: a yardstick, not a data sheet."""
    a = torch.randn(1024, 1024).to(dtype)
    data = torch.empty(32 * 2**20, dtype=torch.uint8)
    multiply = median_seconds(lambda: a @ a, torch.device("cpu"))
    copy = median_seconds(lambda: data.clone(), torch.device("cpu"))
    return Peak(2 * 1024**3 / multiply, 2 * data.numel() / copy, "this CPU's own matrix product and copy")


def median_seconds(run: Callable[[], Any], device: torch.device, brief: bool = False) -> float:
    """Median time of one call after warm-up. On a CPU about a second in all, ten for slow calls; 50 calls on a GPU.
    `brief`: a fifth of that."""
    if device.type == "cuda":
        return _gpu_seconds(run, *((3, 10) if brief else (10, 50)))
    run()
    times: list[float] = []
    begin = time.perf_counter()
    part = 0.2 if brief else 1.0
    while not times or time.perf_counter() - begin < part * (10 if len(times) < 3 else 1 if len(times) < 20 else 0):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _gpu_seconds(run: Callable[[], Any], warm: int, times: int) -> float:
    cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    for _ in range(warm):
        run()
    events: list[tuple[Any, Any]] = []
    for _ in range(times):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        events.append((start, stop))
        cache.zero_()
        start.record()
        run()
        stop.record()
    torch.cuda.synchronize()
    return float(statistics.median(start.elapsed_time(stop) for start, stop in events)) / 1e3


def measure_certified(certificate: Certificate, path: Path, program: Program, bench: Bench) -> tuple[Measurement, ...]:
    """Time a certified kernel on every shape; `path` is where the certificate lies, with its emitted Triton.

    Raises NotCertified for a program the certificate is not about, AssumptionViolated where the program requires what
    some shape is not: nothing is timed on the shapes it likes alone.
    """
    require_certified(certificate, program, bench.bound)
    for shape in bench.shapes:
        if not admits(program, bench.bound, dict(shape.sizes)):
            only = " and ".join(certificate.requires) or "the spec's requirements hold"
            message = f"it is proved for sizes where {only}; {shape.name} is not one"
            raise AssumptionViolated("sizes", message, "time a kernel that is proved for every size")
    found = []
    kernel = load(path) if bench.device.type == "cuda" else None
    for shape in bench.shapes:
        sizes, inputs = dict(shape.sizes), bench.inputs[shape.name]
        run: Callable[[], Any]
        if kernel is not None:
            arguments: dict[str, Any] = {**inputs, **sizes}
            run = partial(kernel, **arguments)
        else:
            run = partial(execute, program, bench.bound, sizes, parameters_default(bench.bound, sizes), inputs)
        found.append(measurement("certified", shape, run, bench))
    return tuple(found)


def measure_peers(bench: Bench) -> tuple[Measurement, ...]:
    """Time standard PyTorch on the same inputs."""
    found = []
    for shape in bench.shapes:
        for peer in peers(bench.bound, dict(shape.sizes), bench.inputs[shape.name]):
            found.append(measurement(peer.name, shape, peer.run, bench))
    return tuple(found)


def measurement(name: str, shape: Shapes, run: Callable[[], Any], bench: Bench) -> Measurement:
    seconds = median_seconds(run, bench.device, bench.brief)
    sizes = dict(shape.sizes)
    flops = _work(bench.bound, sizes)
    part = share(flops, traffic_bytes(bench.bound, sizes), seconds, bench.peak) if bench.peak else None
    return Measurement(name, shape.name, shape.sizes, seconds, flops / seconds / 1e12, part)


def _work(bound: Bound, sizes: Mapping[str, int]) -> float:
    try:
        return work_flops(bound, sizes)
    except NothingToPropose:
        return 0.0
