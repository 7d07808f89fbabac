"""Proofs of earlier runs answer again: a journal that looks into the whole database before it says "never asked".

A verdict is kept under the digest of the checker (all of `ir/` and `verifier/`, Python, Z3 and the libraries it
uses), the spec's text, the settings, and the kernel's exact text, so it is what this checker would say again.

Why a cached answer cannot make a wrong kernel certified:

- `refuted` and `unproved` claim nothing; serving one that is wrong loses a kernel and harms nobody.
- `proved` is served only with its certificate, whose content must hash to the id it was kept under, and whose subject
  must be this kernel, this spec and these settings, to the letter. A damaged row, or one moved from another kernel, is
  not served; the kernel is proved as if it had never been seen.
- Who can write to the database could still forge a row whose hash fits, as who can write to the source could change
  the checker. So the cache decides what a search *learns from*; a kernel that is handed out as a run's winner is
  proved afresh. Do not point `--db` at a server whose writers you would not let run code here; `--no-cache` does
  without the cache altogether.

A proof that was given up (a time limit, a killed worker) is not kept: it says something about that day's machine.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from ir.spec import Bound
from synth.jobs import Proof
from synth.state import Journal
from synth.state.answers import Damaged, decode, encode
from synth.state.checker import checker
from synth.state.run import insert_new
from synth.state.store import Store
from synth.state.tables import ProofRow
from verifier.certificate import digest


@dataclass(frozen=True, slots=True)
class Cached:
    """A run's journal with the proofs of all runs behind it. A proof's key is the digest of the kernel's text."""

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
        if kind == "prove" and worth_keeping(answer):
            row = {"key": self._place(key), "answer": answer, "created": time.time()}
            with self.store.write() as session:
                session.execute(insert_new(session, ProofRow, row))

    def _find(self, key: str) -> dict[str, Any] | None:
        with self.store.read() as session:
            try:
                kept = session.scalar(select(ProofRow.answer).filter_by(key=self._place(key)))
                if kept is None:
                    return None
                proof = decode("prove", kept)
            except Damaged:
                return None  # as if never asked: it is proved again
        return encode(proof) if isinstance(proof, Proof) and self._is_about(proof, key) else None

    def _is_about(self, proof: Proof, key: str) -> bool:
        certificate = proof.certificate
        if certificate is None:
            return True  # decode has seen that it does not say proved
        try:
            subject = certificate.candidate, certificate.spec_source, certificate.settings
        except (KeyError, TypeError, ValueError):
            return False
        return (digest(subject[0]), *subject[1:]) == (key, self.bound.spec.source, dict(self.bound.settings))

    def _place(self, key: str) -> str:
        parts = [checker(), self.bound.spec.source, self.bound.settings, key]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def worth_keeping(answer: dict[str, Any]) -> bool:
    """Whether there is a report that came to its own end. One that was cut off has no statement of any obligation."""
    report = answer.get("report")
    return report is not None and any(result["statement"] for result in report["results"])
