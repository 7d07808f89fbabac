"""How well the static cost model ranks: predicted against measured times of the kernels of one run, shape by shape.

Only times of a device the model has figures for count. Those of the CPU executor do not: it pays a Python call for
each operation, and a correlation with it would say nothing of a GPU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.typing import check
from synth.bench.cost import predict
from synth.bench.hardware import device_named
from synth.state.run import Run


@dataclass(frozen=True, slots=True)
class Rank:
    """`pairs` are (predicted, measured) seconds of the certified kernels timed at one shape."""

    device: str
    shape: str
    pairs: tuple[tuple[float, float], ...]

    @property
    def tau(self) -> float | None:
        return tau(self.pairs)

    @property
    def ratio(self) -> float:
        """Median of measured over predicted."""
        return statistics.median(measured / predicted for predicted, measured in self.pairs)


def ranks(run: Run) -> tuple[Rank, ...]:
    """One row for each device and shape that the run's kernels were timed on, the long rung where there is one."""
    bound = bind(parse_spec(run.spec_text, run.spec_path), run.settings)
    kernels = {c.ordinal: c for c in run.candidates() if c.certified and not c.twin}
    times = {}
    for rung in ("short", "long"):
        for m in run.measurements():
            if m.rung == rung and m.candidate in kernels and (device := device_named(m.device)) is not None:
                times[m.device, m.shape, m.candidate] = (device.target, m)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (name, shape, ordinal), (target, m) in times.items():
        kernel = kernels[ordinal]
        # what was compiled for another target says nothing of registers here
        resources = kernel.resources if all(r["target"] == target for r in kernel.resources) else []
        predicted = predict(check(parse(kernel.text), bound), bound, m.sizes, target, resources)
        found.setdefault((name, shape), []).append((predicted.seconds, m.seconds))
    return tuple(Rank(device, shape, tuple(pairs)) for (device, shape), pairs in found.items())


def tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's rank correlation, tau-b: 1 for the same order, -1 for the opposite, None where one side has no order
    (Kendall, Biometrika 33, 1945)."""
    signs = [((a > c) - (a < c), (b > d) - (b < d)) for (a, b), (c, d) in combinations(pairs, 2)]
    ordered = math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    return sum(x * y for x, y in signs) / ordered if ordered else None
