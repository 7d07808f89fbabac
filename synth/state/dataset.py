"""A run as training data: one JSON object for each candidate, with the prompt that led to it and what became of it.

A candidate that a model wrote has the exchange it came from: the request's system prompt and messages, and the reply.
`feedback` is what an author is told of the kernel, written anew by `synth.feedback` from the recorded answers. Requests
are recorded without the key (`synth.propose.model.exchange`), so there is none here. Numbers that JSON lacks become
null.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ir.diagnostics import SourceError
from ir.loader import bind, parse_spec
from ir.spec import Bound
from synth.feedback import feedback
from synth.jobs import Answer, Build, Built, Check, Checked, Job, Proof, Prove, Time, Timed
from synth.propose import Candidate
from synth.propose.model.talk import TOOL, submission
from synth.search.lab import question
from synth.search.tried import Tried
from synth.state.answers import Damaged, decode
from synth.state.run import NO_KERNEL, Run
from synth.state.tables import CandidateRow, MeasurementRow
from verifier.verdict import Verdict


def write_dataset(run: Run, path: Path) -> int:
    """Write it whole or not at all ("-": to standard output); returns how many candidates. Raises OSError."""
    if str(path) == "-":
        return _write(run, sys.stdout.buffer)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as out:
        found = _write(run, out)
    os.replace(partial, path)
    return found


def _write(run: Run, out: BinaryIO) -> int:
    found = 0
    for row in rows(run):
        out.write(msgspec.json.encode(row) + b"\n")
        found += 1
    out.flush()
    return found


def rows(run: Run) -> Iterator[dict[str, Any]]:
    """One for each candidate, in the order they were drafted."""
    bound = _bound(run)
    prompts = Prompts([(key, a) for key, a in run.answers("exchange") if a.get("reply")])
    measured: dict[int | None, list[MeasurementRow]] = {}
    for m in run.measurements():
        measured.setdefault(m.candidate, []).append(m)
    candidates = run.candidates()
    named = {row.name: row for row in candidates}
    for row in candidates:
        timed = named.get(row.twin, row)  # a twin's times are those of the first of its kind
        yield {
            "run": run.id,
            "spec": run.spec,
            "spec_text": run.spec_text,
            "settings": run.settings,
            "target": run.target,
            "name": row.name,
            "source": row.source,
            "parents": row.parents,
            "step": row.step,
            "choices": dict(row.choices),
            "note": row.note,
            "prompt": prompts.of(row) if row.source == "model" else None,
            "candidate": row.text,
            "twin_of": row.twin or None,
            "verdict": row.verdict or NO_KERNEL,
            "obligations": row.obligations,
            **_why(row),
            "failed": {"stage": row.stage, "problem": row.problem} if row.problem else None,
            "feedback": _feedback(run, row, timed, bound),
            "certified": row.certified,
            "certificate": row.certificate,
            "resources": row.resources,
            "timing": [_timing(m) for m in measured.get(timed.ordinal, [])],
            "standard": [_timing(m) for m in measured.get(None, [])],
        }


@dataclass
class Prompts:
    """The exchanges of a run. A kernel belongs to the first reply of its step and slot that submits its text and has
    not been given a candidate for it yet."""

    exchanges: list[tuple[str, dict[str, Any]]]
    _taken: set[tuple[str, int]] = field(default_factory=set)

    def of(self, row: CandidateRow) -> dict[str, Any] | None:
        """The request and the reply that a model's candidate came from."""
        for key, exchange in self.exchanges:
            if key.split("/")[:2] != [str(row.step), str(row.slot)]:
                continue
            for index, block in enumerate(exchange["reply"]["content"]):
                if (key, index) not in self._taken and _submits(block, row.text):
                    self._taken.add((key, index))
                    request = exchange["request"]
                    return {
                        "exchange": key,
                        "model": request["model"],
                        "system": request["system"],
                        "messages": request["messages"],
                        "reply": exchange["reply"]["content"],
                        "usage": exchange["usage"],
                        "usd": exchange["usd"],
                    }
        return None


def _submits(block: dict[str, Any], text: str) -> bool:
    given = block.get("input")
    whole = block.get("name") == TOOL and isinstance(given, dict) and isinstance(given.get("text"), str)
    return whole and submission(block).text == text


def _why(row: CandidateRow) -> dict[str, Any]:
    """The first counterexample, and what is left to show of what is neither proved nor refuted."""
    results = (row.report or {}).get("results", [])
    found = [{"obligation": r["id"], **r["counterexample"]} for r in results if r["counterexample"]]
    left = {r["id"]: r["residual"] for r in results if r["verdict"] == Verdict.UNPROVED.value}
    return {"counterexample": found[0] if found else None, "residual": left}


def _timing(m: MeasurementRow) -> dict[str, Any]:
    names = ("name", "shapes", "shape", "sizes", "rung", "seconds", "tflops", "share", "device")
    return {name: getattr(m, name) for name in names}


def _bound(run: Run) -> Bound | None:
    """None for a spec that this version does not accept any more: then nothing is said of its kernels."""
    try:
        return bind(parse_spec(run.spec_text, run.spec_path), run.settings)
    except SourceError:
        return None


def _feedback(run: Run, row: CandidateRow, first: CandidateRow, bound: Bound | None) -> str | None:
    """What an author is told of it; None where the recorded answers do not say."""
    try:
        tried = known(run, row, first)
    except Damaged:
        return None
    return feedback(tried, bound) if tried is not None and bound is not None else None


def known(run: Run, row: CandidateRow, first: CandidateRow) -> Tried | None:
    """The candidate with the journal's answers about it, which of a twin are those about the first of its kind. None
    where the journal has no proof of it. Raises Damaged."""

    def answered(job: Job) -> Answer | None:
        kind, key = question(job)
        kept = run.answer(kind, key)
        return None if kept is None else decode(kind, kept)

    proof = answered(Prove(first.name, first.text))
    if not isinstance(proof, Proof):
        return None
    built = checked = short = long = None
    if proof.certificate is not None:
        built = answered(Build(first.name, proof.certificate, run.target))
        checked = answered(Check(first.name, proof.certificate))
        short, long = (answered(Time(first.name, proof.certificate, "search", rung)) for rung in ("short", "long"))
    assert isinstance(built, Built | None) and isinstance(checked, Checked | None)
    assert isinstance(short, Timed | None) and isinstance(long, Timed | None)
    choices = tuple((name, value) for name, value in row.choices)
    candidate = Candidate(row.name, row.text, choices, tuple(row.expected), row.source, tuple(row.parents), row.note)
    return Tried(candidate, row.identity, proof, built, checked, short, long, row.twin)
