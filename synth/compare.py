"""The arms of a comparison side by side: each under the same budget, through the same gate, judged on held-out shapes.

An arm's speed-up is over standard PyTorch measured in the arm's own run, so that a machine that slows down between two
arms slows both sides of a ratio. Selection saw the search shapes only; what is reported is measured on shapes it never
saw. "wrong" counts kernels with a replayed counterexample: what a search without a gate might have handed out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from synth.events import (
    STANDARD,
    Benchmarked,
    Event,
    Failed,
    Finished,
    HeldOut,
    Judged,
    Measurement,
    PeersMeasured,
    Proposed,
)
from synth.jobs import Time, Timed
from synth.plan import Place, Plan
from synth.search.winner import kernel_gap, speedup
from verifier.verdict import Report, Verdict

ARMS = ("baseline", "autotune", "single-shot", "guided")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One arm. Shares are of `candidates`, which counts distinct programs; ratios are 0 where nothing was measured.

    `speedup` and `gap` are the winner's on held-out shapes, over standard PyTorch and over the fastest that PyTorch
    has; `searched` is its speed-up on the shapes it was selected by."""

    arm: str
    candidates: int = 0
    certified: int = 0
    wrong: int = 0
    unproved: int = 0
    unread: int = 0
    winner: str = ""
    speedup: float = 0.0
    searched: float = 0.0
    gap: float = 0.0
    generalises: bool = True
    usd: float = 0.0
    tokens: int = 0
    seconds: float = 0.0
    folder: Path | None = None
    problem: str = ""

    def share(self, count: int) -> float:
        return count / self.candidates if self.candidates else 0.0


def observe(arm: str, events: Iterator[Event]) -> Iterator[tuple[Event, Outcome]]:
    """Every event of an arm's run, with what the arm has come to."""
    found = Outcome(arm)
    peers: tuple[Measurement, ...] = ()
    for event in events:
        match event:
            case Proposed(candidate) if not candidate.expected:
                found = replace(found, candidates=found.candidates + 1)
            case Judged(candidate, report) if not candidate.expected:
                found = _counted(found, report)
            case Failed(_, "read"):
                found = replace(found, unread=found.unread + 1)
            case PeersMeasured():
                peers = event.measurements
            case Benchmarked(candidate, measurements, rung="long"):
                ratio = speedup(measurements, peers)
                if ratio > found.searched:
                    found = replace(found, winner=candidate.name, searched=ratio)
            case HeldOut(candidate, measurements, there):
                found = replace(
                    found,
                    winner=candidate.name,
                    speedup=event.speedup,
                    searched=event.searched,
                    gap=kernel_gap(measurements, there),
                    generalises=event.generalises,
                )
            case Finished():
                spent = event.spent
                found = replace(
                    found, usd=spent.usd, tokens=spent.tokens, seconds=event.seconds, folder=event.folder
                )
        yield event, found


def _counted(found: Outcome, report: Report) -> Outcome:
    match report.verdict:
        case Verdict.PROVED:
            return replace(found, certified=found.certified + report.answers)
        case Verdict.REFUTED:
            return replace(found, wrong=found.wrong + 1)
        case Verdict.UNPROVED:
            return replace(found, unproved=found.unproved + 1)


def baseline(plan: Plan, place: Place) -> Outcome:
    """Standard PyTorch against itself on the held-out shapes, and how far it is from PyTorch's own fused kernels."""
    begin = time.monotonic()
    shapes = "heldout" if plan.bound.spec.heldout_shapes else "search"
    with place.pool(plan.bound) as pool:
        ((_, answer),) = pool.run([Time(STANDARD, None, shapes, "long")])
    assert isinstance(answer, Timed)
    unfused = [m for m in answer.measurements if m.name == STANDARD]
    own = 1.0 if unfused else 0.0
    gap = kernel_gap(unfused, answer.measurements)
    seconds = time.monotonic() - begin
    return Outcome("baseline", winner=STANDARD, speedup=own, gap=gap, seconds=seconds, problem=answer.problem)
