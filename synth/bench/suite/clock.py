"""How long contenders take on one shape: many runs of each in shuffled rounds, so that a drifting clock hits all alike.

On a GPU a contender is a CUDA graph of one call where it can be captured, else the call itself; which one is recorded.
Before every run a buffer larger than the L2 cache is written, and the host is far ahead while that happens: neither
warm caches nor launch overhead are measured. Events resolve about a microsecond; what they read for an empty stretch
is recorded beside the results (`floor`), not subtracted. On a CPU a monotonic clock times the call.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

CACHE_BYTES = 256 * 2**20  # written between GPU runs so that none starts with a warm cache
ROUNDS = 10
WARM = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call: median, quantiles 5, 25, 75 and 95 %, least; (q75 - q25) / median as spread."""

    median: float
    q05: float
    q25: float
    q75: float
    q95: float
    least: float
    spread: float
    runs: int
    how: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ready:
    """A contender warmed up: `once` runs it; `how` is graph, events or cpu."""

    once: Callable[[], Any]
    how: str
    graph: Any = None


def ready(run: Callable[[], Any], device: torch.device) -> Ready:
    """Warm up and, on a GPU, capture on the current stream, which must not be the default one where the call is a
    backward: it runs where its forward ran. What waits for the device, or cannot be captured, is run call by call."""
    if device.type != "cuda":
        run()
        return Ready(run, "cpu")
    for _ in range(WARM):
        run()
    torch.cuda.synchronize(device)
    if _waits(run):
        return Ready(run, "events")
    stream = torch.cuda.current_stream(device)
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream if stream != torch.cuda.default_stream(device) else None):
            run()
        graph.replay()
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        torch.cuda.synchronize(device)
        return Ready(run, "events")
    return Ready(graph.replay, "graph", graph)


def _waits(run: Callable[[], Any]) -> bool:
    """Whether a call makes the host wait for the device, which would break a capture."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    return False


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Everything inside is on a stream that can be captured, after all that was asked for before."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        yield
    torch.cuda.synchronize(device)


def measure(contenders: Mapping[str, Ready], device: torch.device, seed: int, seconds: float) -> dict[str, Timing]:
    """About `seconds` of runs of each contender, in `ROUNDS` rounds of a seeded random order."""
    order = random.Random(seed)
    flush = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=device) if device.type == "cuda" else None
    repeats = {}
    for name, contender in contenders.items():
        guess = statistics.median(_burst(contender, flush, 3))
        repeats[name] = max(1, min(20, int(seconds / ROUNDS / max(guess + (0.0 if flush is None else 2e-4), 1e-6))))
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name in order.sample(list(contenders), len(contenders)):
            found[name] += _burst(contenders[name], flush, repeats[name])
    return {name: timing(values, contenders[name].how) for name, values in found.items()}


def timing(values: list[float], how: str) -> Timing:
    median = statistics.median(values)
    q05, q25, q75, q95 = (_quantile(sorted(values), q) for q in (0.05, 0.25, 0.75, 0.95))
    spread = (q75 - q25) / median if median else 0.0
    return Timing(median, q05, q25, q75, q95, min(values), spread, len(values), how)


def floor(device: torch.device) -> float:
    """What the clock reads for nothing at all, in seconds."""
    flush = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=device) if device.type == "cuda" else None
    return statistics.median(_burst(Ready(lambda: None, "nothing"), flush, 20))


def _quantile(values: list[float], q: float) -> float:
    place = q * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def _burst(contender: Ready, flush: torch.Tensor | None, times: int) -> list[float]:
    if flush is None:
        return [_on_the_cpu(contender.once) for _ in range(times)]
    events: list[tuple[Any, Any]] = []
    for _ in range(times):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        events.append((start, stop))
        flush.zero_()
        start.record()
        contender.once()
        stop.record()
    torch.cuda.synchronize(flush.device)
    return [start.elapsed_time(stop) / 1e3 for start, stop in events]


def _on_the_cpu(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
