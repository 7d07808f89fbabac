"""One run in the database: its journal, its candidates, its measurements.

What it was begun with is read once. Only the process that began or resumed a run writes to it (`synth.state.locks`);
`answer` and `record` may be called from several of its threads.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Insert, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from synth.events import Event, HeldOut, Measurement, PeersMeasured
from synth.search.tried import Tried
from synth.state.tables import AnswerRow, Base, CandidateRow, CertificateRow, MeasurementRow, RunRow
from verifier.certificate import Certificate
from verifier.verdict import Report

if TYPE_CHECKING:
    from synth.state.store import Store

NO_KERNEL = "no kernel"  # the verdict's word for a text that is none


class Run:
    """A `Journal`. `number` is the key of its rows; `seconds` and `usd` are what it had spent when it was read."""

    def __init__(self, store: Store, row: RunRow) -> None:
        self.store = store
        self.number, self.id, self.folder = row.number, row.id, Path(row.folder)
        self.spec, self.spec_text, self.spec_path = row.spec, row.spec_text, row.spec_path
        self.settings, self.target, self.plan = row.settings, row.target, row.plan
        self.versions, self.checker, self.writer = row.versions, row.checker, row.writer
        self.kept_status, self.created, self.updated = row.status, row.created, row.updated
        self.seconds, self.usd = row.seconds, row.usd
        self._begin = time.monotonic()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.store.locks.release(self.number)

    @property
    def status(self) -> str:
        """As it ended, "running", or "interrupted" where nobody is left who would end it."""
        if self.kept_status != "running":
            return self.kept_status
        return "running" if self.store.locks.taken(self.number) else "interrupted"

    # ---- the journal ----

    def answer(self, kind: str, key: str) -> dict[str, Any] | None:
        with self.store.read() as session:
            asked = select(AnswerRow.answer).filter_by(run=self.number, kind=kind, key=key)
            found: dict[str, Any] | None = session.scalar(asked)
            return found

    def record(self, kind: str, key: str, answer: dict[str, Any]) -> None:
        row = {"run": self.number, "kind": kind, "key": key, "answer": answer, "created": time.time()}
        with self.store.write() as session:
            new = session.scalar(insert_new(session, AnswerRow, row).returning(AnswerRow.number)) is not None
            self._touch(session, cost(answer) if kind == "exchange" and new else 0.0)

    def answers(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """Every (key, answer) of a kind, in the order they came."""
        with self.store.read() as session:
            kept = select(AnswerRow.key, AnswerRow.answer).filter_by(run=self.number, kind=kind)
            return [(key, answer) for key, answer in session.execute(kept.order_by(AnswerRow.number))]

    # ---- what is told of it ----

    def put(self, tried: Tried, step: int, slot: int = 0) -> None:
        """Keep what is known of a candidate by now; the same name again replaces what was kept."""
        certificate = _latest(tried)
        name = tried.candidate.name
        with self.store.write() as session:
            if certificate is not None:
                kept = {"id": certificate.id, "body": certificate.body}
                session.execute(insert_new(session, CertificateRow, kept))
            named = select(CandidateRow).filter_by(run=self.number, name=name)
            row = session.scalar(named)
            if row is None:
                ordinal = session.scalar(select(func.count()).select_from(CandidateRow).filter_by(run=self.number)) or 0
                row = CandidateRow(run=self.number, ordinal=ordinal, seconds=self._spent())
                session.add(row)
            for column, value in {**_columns(tried), "step": step, "slot": slot}.items():
                setattr(row, column, value)
            row.certificate = None if certificate is None else certificate.id
            session.flush()
            for rung, timed in (("short", tried.short), ("long", tried.long)):
                if timed is not None and not tried.twin:
                    self._measured(session, row.ordinal, timed.measurements, "search", rung, timed.device)
            self._touch(session)

    def note(self, event: Event) -> None:
        """Keep what an event measured that is in no `Tried`: PyTorch's times, and the winner's on held-out shapes."""
        match event:
            case PeersMeasured():
                with self.store.write() as session:
                    self._measured(session, None, event.measurements, "search", "long", event.device)
            case HeldOut(candidate):
                with self.store.write() as session:
                    named = select(CandidateRow.ordinal).filter_by(run=self.number, name=candidate.name)
                    measured = [(session.scalar(named), event.measurements), (None, event.peers)]
                    for ordinal, measurements in measured:
                        self._measured(session, ordinal, measurements, "heldout", "long", "")
            case _:
                return

    def finish(self, status: str, seconds: float) -> None:
        """The run has ended (or pauses) in this status, after `seconds` of this process; others may write to it now."""
        with self.store.write() as session:
            now = {"status": status, "seconds": self.seconds + seconds, "updated": time.time()}
            session.execute(update(RunRow).filter_by(number=self.number).values(now))
        self.store.locks.release(self.number)

    def verdicts(self) -> dict[str, str]:
        """The verdict of every candidate by its name, in the order they were drafted: "proved", "refuted", "unproved"
        or "no kernel"."""
        with self.store.read() as session:
            rows = select(CandidateRow.name, CandidateRow.verdict).filter_by(run=self.number)
            return {n: v or NO_KERNEL for n, v in session.execute(rows.order_by(CandidateRow.ordinal))}

    def candidates(self) -> list[CandidateRow]:
        with self.store.read() as session:
            rows = select(CandidateRow).filter_by(run=self.number).order_by(CandidateRow.ordinal)
            return list(session.scalars(rows))

    def measurements(self) -> list[MeasurementRow]:
        with self.store.read() as session:
            rows = select(MeasurementRow).filter_by(run=self.number).order_by(MeasurementRow.number)
            return list(session.scalars(rows))

    # ---- rows ----

    def _spent(self) -> float:
        return self.seconds + time.monotonic() - self._begin

    def _touch(self, session: Session, usd: float = 0.0) -> None:
        """So that a killed run has its time and money counted as well."""
        now = {"updated": time.time(), "seconds": self._spent(), "usd": RunRow.usd + usd}
        session.execute(update(RunRow).filter_by(number=self.number).values(now))

    def _measured(
        self,
        session: Session,
        candidate: int | None,
        measurements: Iterable[Measurement],
        shapes: str,
        rung: str,
        device: str,
    ) -> None:
        session.execute(
            delete(MeasurementRow).filter_by(run=self.number, candidate=candidate, shapes=shapes, rung=rung)
        )
        for m in measurements:
            session.add(
                MeasurementRow(
                    run=self.number, candidate=candidate, name=m.name, rung=rung, shapes=shapes, shape=m.shape,
                    sizes=dict(m.sizes), seconds=m.seconds, tflops=m.tflops, share=m.share, device=device,
                )
            )  # fmt: skip


def cost(exchange: dict[str, Any]) -> float:
    """US dollars of an exchange and of its failed attempts; 0 where the price is not known."""
    return float(sum(part.get("usd") or 0.0 for part in (exchange, *exchange.get("attempts", ()))))


def insert_new(session: Session, table: type[Base], row: dict[str, Any]) -> Insert:
    """An insert that leaves a row which is there already as it is."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite.insert(table).values(row).on_conflict_do_nothing()
    return postgresql.insert(table).values(row).on_conflict_do_nothing()


def _latest(tried: Tried) -> Certificate | None:
    """The certificate with the most in it."""
    answers = (tried.checked, tried.built, tried.proof)
    return next((a.certificate for a in answers if a is not None and a.certificate is not None), None)


def _columns(tried: Tried) -> dict[str, Any]:
    candidate, report = tried.candidate, tried.proof.report
    stages = ("read", "compile", "cross-check", "benchmark")
    answers = (tried.proof, tried.built, tried.checked, tried.long or tried.short)
    failed = next((s for s, a in zip(stages, answers, strict=True) if a is not None and a.problem), "")
    return {
        "name": candidate.name,
        "text": candidate.text,
        "identity": tried.identity,
        "twin": tried.twin,
        "source": candidate.source,
        "parents": list(candidate.parents),
        "expected": list(candidate.expected),
        "choices": [list(choice) for choice in candidate.choices],
        "note": candidate.note,
        "verdict": None if tried.verdict is None else tried.verdict.value,
        "obligations": {} if report is None else {r.id: r.verdict.value for r in report.results},
        "report": None if report is None else msgspec.to_builtins(_without_evidence(report)),
        "resources": [] if tried.built is None else list(tried.built.resources),
        "stage": failed,
        "problem": tried.problem,
        "certified": tried.certified,
    }


def _without_evidence(report: Report) -> Report:
    return replace(report, results=tuple(replace(r, evidence=()) for r in report.results))
