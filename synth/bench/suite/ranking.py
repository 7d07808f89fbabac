"""Predicted against measured: how well the static cost model orders and estimates what a benchmark then timed.

For people who improve the model (`synth/bench/cost.py`). It needs the proving code, to read kernels; results come from
wherever they were measured. Kendall's tau over all certified times, and over those of one row where several
certificates competed; the median of measured over predicted says how far off the scale is.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.bench.hardware import Device, device_named
from synth.bench.predicted import predicted
from synth.bench.rank import tau
from synth.bench.suite.results import NotResults, right, seconds
from synth.bench.suite.subject import files
from verifier.certificate import Certificate, CertificateError


@dataclass(frozen=True, slots=True)
class Pair:
    """One certified kernel at one shape, in seconds."""

    row: int
    title: str
    version: str
    predicted: float
    measured: float


def pairs(body: Mapping[str, Any], paths: list[Path]) -> list[Pair]:
    """Everything certified that was right, and is among these certificates. Raises NotResults for a device the model
    has no figures of."""
    device = device_named(body["machine"]["device"])
    if device is None:
        raise NotResults(f"{body['machine']['device']}: the cost model has no figures for it (synth/bench/hardware.py)")
    try:
        certificates = {c.id: c for c in map(Certificate.load, files(paths))}
    except CertificateError as error:
        raise NotResults(str(error)) from error
    names = {c["name"]: c["id"] for c in body["certificates"]}
    found = []
    for place, row in enumerate(body["rows"]):
        for entry in right(row, "certified"):
            certificate = certificates.get(names.get(entry["name"].removeprefix("certified "), ""))
            if certificate is None:
                continue
            guess = _predicted(certificate, row["shape"]["sizes"], entry.get("version", ""), device)
            if guess is not None:
                title = f"{entry['name']}, {row['shape']['name']}"
                found.append(Pair(place, title, entry.get("version", ""), guess, seconds(entry)))
    return found


def _predicted(certificate: Certificate, sizes: Mapping[str, int], version: str, device: Device) -> float | None:
    guesses = {p.version: p.prediction.seconds for p in predicted(certificate, sizes, device.target, device)}
    return guesses.get(version)


def report(body: Mapping[str, Any], paths: list[Path]) -> str:
    """For a terminal, and for benchmarks/LOG.md."""
    found = pairs(body, paths)
    if not found:
        return "no certified time of these certificates, in a version the model can read, is in the results"
    lines = [
        f"{p.title} ({p.version}): predicted {p.predicted * 1e3:.4f} ms, measured {p.measured * 1e3:.4f} ms"
        for p in found
    ]
    rows = {p.row for p in found}
    within = [t for row in sorted(rows) if (t := tau([_times(p) for p in found if p.row == row])) is not None]
    overall = tau([_times(p) for p in found])
    lines.append(f"tau over all {len(found)}: {_shown(overall)}; mean over {len(within)} rows with several: " + _shown(
        statistics.mean(within) if within else None
    ))  # fmt: skip
    lines.append(f"measured over predicted, median: {statistics.median(p.measured / p.predicted for p in found):.2f}")
    return "\n".join(lines)


def _times(pair: Pair) -> tuple[float, float]:
    return pair.predicted, pair.measured


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
