"""How well the static cost model ranks: predicted against measured times of kernels, device by device, shape by shape.

Measured times come from a search's database, or from the JSON that the benchmark suite writes. Only times of a device
the model has figures for count. Those of the CPU executor do not: it pays a Python call for each operation, and a
correlation with it would say nothing of a GPU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.typing import check
from synth.bench.cost import Prediction, predict
from synth.bench.hardware import Device, device_named
from synth.bench.predicted import predicted
from synth.bench.suite.results import right, seconds
from synth.state.run import Run
from verifier.certificate import Certificate

WORST = 5  # misses shown


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
    """The same of what the benchmark suite wrote (`synth.bench.suite.results`), of every contender that was right and
    whose certificate is among `certificates`, by id: the version that ran, where it says which."""
    found: dict[tuple[str, str], list[Timed]] = {}
    for body in results:
        name = str(body["machine"]["device"])
        here = [c for c in body["certificates"] if c["id"] in certificates]
        known = {c["name"]: certificates[c["id"]] for c in here}
        if device := device_named(name):
            for row in body["rows"]:
                timed = list(_of_row(row, known, device))
                if timed:
                    found.setdefault((name, timed[0].shape), []).extend(timed)
    return tuple(Rank(name, shape, tuple(rows)) for (name, shape), rows in found.items())


def _of_row(row: Mapping[str, Any], known: Mapping[str, Certificate], device: Device) -> Iterator[Timed]:
    settings = " ".join(str(value) for value in row["settings"].values())
    for contender in (*right(row, "certified"), *right(row, "version")):
        if (certificate := known.get(contender.get("certificate", ""))) is not None:
            options = predicted(certificate, row["shape"]["sizes"], device.target, device)
            ran = next((p for p in options if p.version == contender.get("version", p.version)), None)
            if ran is not None:
                shape = f"{row['spec']} {settings} {row['shape']['name']}"
                yield Timed(f"{contender['name']}, {ran.version}", shape, seconds(contender), ran.prediction)


def report(found: Sequence[Rank]) -> str:
    """For a terminal, and for benchmarks/LOG.md; empty where nothing was found."""
    if not found:
        return ""
    lines = [f"{'device':24} {'shape':28} {'kernels':>7} {'tau':>6} {'measured/predicted':>19}"]
    for r in found:
        order = "-" if r.tau is None else f"{r.tau:.2f}"
        lines.append(f"{r.device:24} {r.shape:28} {len(r.rows):7} {order:>6} {r.ratio:19.2f}")
    taus = [r.tau for r in found if r.tau is not None]
    if taus:
        lines.append(f"\nmean of tau over {len(taus)} shapes: {statistics.mean(taus):.2f}")
    worst = sorted((t for r in found for t in r.rows), key=lambda t: abs(math.log(t.off)), reverse=True)
    lines.append("\nworst misses: measured over predicted, and what the prediction says takes the time")
    lines += (
        f"  {t.off:5.2f}  {t.prediction.bound:12} {t.seconds * 1e3:9.4g} ms measured  {t.name} at {t.shape}"
        for t in worst[:WORST]
    )
    return "\n".join(lines)


def tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's rank correlation, tau-b: 1 for the same order, -1 for the opposite, None where one side has no order
    (Kendall, Biometrika 33, 1945)."""
    signs = [((a > c) - (a < c), (b > d) - (b < d)) for (a, b), (c, d) in combinations(pairs, 2)]
    ordered = math.sqrt(sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs))
    return sum(x * y for x, y in signs) / ordered if ordered else None
