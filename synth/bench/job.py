"""The timing job: a certified kernel, or standard PyTorch, on the shapes and the device there are.

A process prepares its inputs and its yardstick once for each set of shapes; every kernel is timed on the same ones.
Nothing here decides what may run: a certificate comes in, and it is run through the doors of `synth.bench.timing`.
"""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path

from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from lowering.assumptions import AssumptionViolated, LaunchError
from synth.bench.timing import Bench, measure_certified, measure_peers, prepare
from synth.events import Measurement
from synth.jobs import Time, Timed

prepared = lru_cache(maxsize=2)(prepare)  # the search shapes and the held-out ones


def time_job(job: Time, bound: Bound) -> Timed:
    """`problem` says which assumption of the certificate the run would have broken, or that there is no shape."""
    bench = prepared(bound, job.shapes)
    if job.rung == "short":
        bench = bench.short()
    if not bench.shapes:
        advice = "; add [[bench.heldout]] to it" if job.shapes == "heldout" else ", and none could be chosen"
        return Timed(device=bench.label, problem=f"the spec names no {job.shapes} shapes{advice}")
    try:
        measured = measure_peers(bench) if job.certificate is None else _certified(job, bench)
    except (AssumptionViolated, LaunchError) as error:
        return Timed(device=bench.label, problem=str(error))
    return Timed(measured, bench.label, bench.peak.source if bench.peak else "")


def _certified(job: Time, bench: Bench) -> tuple[Measurement, ...]:
    assert job.certificate is not None
    program = check(parse(job.certificate.candidate), bench.bound)
    with tempfile.TemporaryDirectory(prefix="timed-") as folder:  # the launcher reads a file, once
        path = Path(folder) / "kernel.cert.json"
        job.certificate.save(path)
        return measure_certified(job.certificate, path, program, bench)
