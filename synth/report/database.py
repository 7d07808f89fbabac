"""A run of the database as a `RunView`: what its folder has, and who was made from whom, when, and at what cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import select

from ir.diagnostics import SourceError
from ir.loader import bind, parse_spec
from ir.spec import Bound
from lowering.versions import NoVersion, version_on
from synth.events import Measurement
from synth.report.view import NOT_A_KERNEL, ExchangeView, KernelView, RunView
from synth.state.answers import Damaged, verified
from synth.state.run import Run
from synth.state.tables import CandidateRow, CertificateRow, MeasurementRow
from verifier.certificate import Certificate
from verifier.verdict import Evidence, Report

LONGER = ("long", "short")  # which rung replaces which


def read_run(run: Run) -> RunView:
    """Never fails for what a run lacks; a certificate or report that was changed is named on its candidate."""
    gaps: list[str] = []
    bound = _bound(run, gaps)
    rows = run.measurements()
    answers = [answer for _, answer in run.answers("time")]
    kernels = tuple(_kernel(run, row, rows) for row in run.candidates())
    return RunView(
        run=run.id,
        spec=run.spec,
        settings=tuple(run.settings.items()),
        target=run.target,
        device=next((row.device for row in rows if row.device), ""),
        status=run.status,
        begun=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run.created)),
        seconds=run.seconds,
        proposer=_proposer(run.plan),
        seed=str(run.plan.get("seed", "")),
        where=str(run.folder),
        bound=bound,
        spec_text=run.spec_text,
        roofline=next((str(t["roofline"]) for t in answers if t.get("roofline")), ""),
        kernels=kernels,
        peers=timings(rows, None, "search"),
        peers_heldout=timings(rows, None, "heldout"),
        exchanges=tuple(exchange(key, answer) for key, answer in run.answers("exchange")),
        gaps=tuple(gaps),
    )


def _proposer(plan: Mapping[str, Any]) -> str:
    """The plan's arm and its model: "guided, MODEL"."""
    model = plan.get("model")
    words = (plan.get("arm"), model.get("model") if isinstance(model, dict) else None)
    return ", ".join(str(word) for word in words if word)


def _bound(run: Run, gaps: list[str]) -> Bound | None:
    try:
        return bind(parse_spec(run.spec_text, run.spec_path), run.settings)
    except SourceError as error:
        gaps.append(f"The spec that the run keeps is not one that this version reads: {error.message}.")
        return None


def _emitted(body: Mapping[str, Any], target: str, damage: list[str]) -> str:
    if not body.get("lowered"):
        return ""
    try:
        return version_on(body["lowered"], target).source
    except NoVersion as error:
        damage.append(f"Its emitted kernels cannot be shown: {error}.")
        return ""


def timings(rows: Iterable[MeasurementRow], candidate: int | None, shapes: str) -> tuple[Measurement, ...]:
    """What a candidate (None: PyTorch) takes on the "search" or "heldout" shapes: of every name and shape the
    measurement of the longer rung."""
    found: dict[tuple[str, str], MeasurementRow] = {}
    for row in rows:
        if row.candidate == candidate and row.shapes == shapes and row.seconds > 0:
            kept = found.setdefault((row.name, row.shape), row)
            if (row.rung, kept.rung) == LONGER:
                found[row.name, row.shape] = row
    return tuple(
        Measurement(row.name, row.shape, tuple(row.sizes.items()), row.seconds, row.tflops, row.share)
        for row in found.values()
    )


def _kernel(run: Run, row: CandidateRow, rows: list[MeasurementRow]) -> KernelView:
    damage: list[str] = []
    certificate = _certificate(run, row, damage)
    body = certificate.body if certificate is not None else {}
    checks = (body.get("tests") or {}).get("crosscheck", []) if row.certified else None
    errors = [float(e) for case in checks or () for _, e in case.get("errors", ())]
    report = _report(row, body, damage)
    return KernelView(
        name=row.name,
        text=row.text,
        source=row.source,
        parents=tuple(map(str, row.parents)),
        note=row.note,
        choices=tuple((str(k), str(v)) for k, v in row.choices),
        expected=tuple(map(str, row.expected)),
        at=row.seconds,
        verdict=row.verdict or NOT_A_KERNEL,
        seconds=report.seconds if report is not None else None,
        obligations=tuple(row.obligations.items()),
        report=report,
        certificate=row.certificate or "",
        triton=_emitted(body, run.target, damage),
        resources=tuple(row.resources),
        target=run.target,
        checked=None if checks is None else len(checks),
        largest_error=max(errors, default=0.0),
        measurements=timings(rows, row.ordinal, "search"),
        heldout=timings(rows, row.ordinal, "heldout"),
        controls=tuple(body.get("controls", ())),
        failed=row.stage,
        problem=row.problem,
        twin=row.twin,
        damage=tuple(damage),
    )


def _certificate(run: Run, row: CandidateRow, damage: list[str]) -> Certificate | None:
    if row.certificate is None:
        return None
    with run.store.read() as session:
        try:
            body = session.scalar(select(CertificateRow.body).filter_by(id=row.certificate))
            certificate = verified(row.certificate, Certificate(body or {}))
        except Damaged as error:
            damage.append(f"Its certificate is not valid: {error}.")
            return None
    if certificate.candidate != row.text:
        damage.append("Its kernel text is not the one its certificate is about: it was changed after the proof.")
    return certificate


def _report(row: CandidateRow, body: Mapping[str, Any], damage: list[str]) -> Report | None:
    """The report, with the evidence that its certificate keeps."""
    if row.report is None:
        return None
    try:
        report = msgspec.convert(row.report, Report)
    except msgspec.ValidationError as error:
        damage.append(f"The report of its proof cannot be read: {error}.")
        return None
    kept = {e["obligation"]: tuple(Evidence(**item) for item in e["items"]) for e in body.get("evidence", ())}
    return replace(report, results=tuple(replace(r, evidence=kept.get(r.id, ())) for r in report.results))


def exchange(key: str, answer: Mapping[str, Any]) -> ExchangeView:
    """What one exchange with a model cost, failed attempts included."""
    attempts = [*(answer.get("attempts") or ()), answer]
    usage = [a.get("usage") or {} for a in attempts]
    reply = answer.get("reply") or {}
    return ExchangeView(
        name=key,
        model=str((answer.get("request") or {}).get("model", "")),
        tokens_in=sum(int(u.get(kind, 0)) for u in usage for kind in ("input", "cache_write", "cache_read")),
        tokens_cached=sum(int(u.get("cache_read", 0)) for u in usage),
        tokens_out=sum(int(u.get("output", 0)) for u in usage),
        dollars=sum(float(a.get("usd") or 0.0) for a in attempts),
        seconds=sum(float(a.get("seconds") or 0.0) for a in attempts),
        outcome=str(answer.get("ended") or reply.get("stop_reason", "")),
    )
