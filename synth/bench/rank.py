"""How well the static cost model ranks: predicted against measured times of kernels, device by device, shape by shape.

Measured times come from a search's database, or from the JSON that the benchmark suite writes. Only times of a device
the model has figures for count. Those of the CPU executor do not: it pays a Python call for each operation, and a
correlation with it would say nothing of a GPU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.typing import check
from synth.bench.cost import Prediction, predict
from synth.bench.hardware import device_named
from synth.bench.predicted import predicted
from synth.state.run import Run
from verifier.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Timed:
    """One kernel, measured and predicted at one shape."""

    name: str
    shape: str
    seconds: float
    prediction: Prediction

    @property
    def off(self) -> float:
        """Measured over predicted."""
        return self.seconds / self.prediction.seconds


@dataclass(frozen=True, slots=True)
class Rank:
    """The certified kernels timed at one shape on one device."""

    device: str
    shape: str
    rows: tuple[Timed, ...]

    @property
    def pairs(self) -> tuple[tuple[float, float], ...]:
        """(predicted, measured) seconds."""
        return tuple((t.prediction.seconds, t.seconds) for t in self.rows)

    @property
    def tau(self) -> float | None:
        return tau(self.pairs)

    @property
    def ratio(self) -> float:
        """Median of measured over predicted."""
        return statistics.median(t.off for t in self.rows)


def ranks(run: Run) -> tuple[Rank, ...]:
    """One row for each device and shape that the run's kernels were timed on, the long rung where there is one."""
    bound = bind(parse_spec(run.spec_text, run.spec_path), run.settings)
    kernels = {c.ordinal: c for c in run.candidates() if c.certified and not c.twin}
    times = {}
    for rung in ("short", "long"):
        for m in run.measurements():
            if m.rung == rung and m.candidate in kernels and (device := device_named(m.device)) is not None:
                times[m.device, m.shape, m.candidate] = (device, m)
    found: dict[tuple[str, str], list[Timed]] = {}
    for (name, shape, ordinal), (device, m) in times.items():
        kernel = kernels[ordinal]
        # what was compiled for another target says nothing of registers here
        resources = kernel.resources if all(r["target"] == device.target for r in kernel.resources) else []
        program = check(parse(kernel.text), bound)
        prediction = predict(program, bound, m.sizes, device.target, resources, device)
        found.setdefault((name, shape), []).append(Timed(kernel.name, shape, m.seconds, prediction))
    return tuple(Rank(device_name, shape, tuple(rows)) for (device_name, shape), rows in found.items())


def of_results(results: Sequence[Mapping[str, Any]], certificates: Mapping[str, Certificate]) -> tuple[Rank, ...]:
    """The same of what the benchmark suite wrote: rows with "certificate" (an id among `certificates`), "sizes",
    "seconds" and perhaps "version"; the device is the row's or the file's. Other rows, a peer's, are passed over."""
    found: dict[tuple[str, str], list[Timed]] = {}
    for body in results:
        for row in body["rows"]:
            certificate = certificates.get(str(row.get("certificate")))
            name = str(row.get("device") or body["device"])
            device = device_named(name)
            if certificate is None or device is None or not row.get("seconds"):
                continue
            options = predicted(certificate, row["sizes"], device.target, device)
            wanted = [p for p in options if p.version == row.get("version", p.version)]
            if not wanted:
                continue
            shape = ", ".join(f"{k}={v}" for k, v in row["sizes"].items())
            kernel = f"{certificate.id[:12]} {wanted[0].version}"
            found.setdefault((name, shape), []).append(
                Timed(kernel, shape, float(row["seconds"]), wanted[0].prediction)
            )
    return tuple(Rank(name, shape, tuple(rows)) for (name, shape), rows in found.items())


def tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's rank correlation, tau-b: 1 for the same order, -1 for the opposite, None where one side has no order
    (Kendall, Biometrika 33, 1945)."""
    signs = [((a > c) - (a < c), (b > d) - (b < d)) for (a, b), (c, d) in combinations(pairs, 2)]
    ordered = math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    return sum(x * y for x, y in signs) / ordered if ordered else None
