"""Proofs of earlier runs answer again, where the answer is no: a journal that looks into the whole database before it
says "never asked".

A verdict is kept under the digest of the checker (all of `ir/` and `verifier/`, Python, Z3 and the libraries it
uses), the spec's text, the settings, and the kernel's exact text, so it is what this checker would say again.

Why this cannot make a wrong kernel certified: only `refuted` and `unproved` are ever kept or served, and they claim
nothing. A row that is wrong, by whatever accident or intent, loses a kernel and certifies none. A kernel that an
earlier run proved is proved again by every run that comes upon it, so the certificates that a run hands out rest on no
other run's word, nor on the database's; what that costs is a second or so, where looking for a proof that does not
exist, and for a counterexample, costs most.

A proof that was given up (a time limit, a killed worker) is not kept: it says something about that day's machine.
`--no-cache` does without all of this.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from ir.spec import Bound
from synth.jobs import Answer, Proof
from synth.state import Journal
from synth.state.answers import Damaged, decode
from synth.state.checker import checker
from synth.state.run import insert_new
from synth.state.store import Store
from synth.state.tables import ProofRow
from verifier.verdict import Report, Verdict


@dataclass(frozen=True, slots=True)
class Cached:
    """A run's journal with the proofs of all runs behind it. Key of a proof: the digest of the text."""

    journal: Journal
    store: Store
    bound: Bound

    def answer(self, kind: str, key: str) -> dict[str, Any] | None:
        known = self.journal.answer(kind, key)
        if known is None and kind == "prove" and (known := self._find(key)) is not None:
            self.journal.record(kind, key, known)
        return known

    def record(self, kind: str, key: str, answer: dict[str, Any]) -> None:
        self.journal.record(kind, key, answer)
        if kind == "prove" and says_no(decode(kind, answer)):
            row = {"key": self._place(key), "answer": answer, "created": time.time()}
            with self.store.write() as session:
                session.execute(insert_new(session, ProofRow, row))

    def _find(self, key: str) -> dict[str, Any] | None:
        with self.store.read() as session:
            try:
                kept = session.scalar(select(ProofRow.answer).filter_by(key=self._place(key)))
                return kept if kept is not None and says_no(decode("prove", kept)) else None
            except Damaged:
                return None  # as if never asked: it is proved or refuted again

    def _place(self, key: str) -> str:
        parts = [checker(), self.bound.spec.source, self.bound.settings, key]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def says_no(answer: Answer) -> bool:
    """Whether it is a refuted or unproved report that came to its own end. One that was cut off states nothing."""
    match answer:
        case Proof(report=Report() as report, certificate=None) if report.verdict is not Verdict.PROVED:
            return any(result.statement for result in report.results)
        case _:
            return False
