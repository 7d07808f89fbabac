"""The arms of a comparison beside a run: the newest run of each other arm under the same plan.

`synth compare` makes one run for each arm, with plans that differ in the arm alone; so that is how they find each
other, and no record of the comparison is needed.
"""

from __future__ import annotations

from typing import Any

from synth.events import STANDARD
from synth.report.database import exchange, timings
from synth.report.view import ArmView
from synth.search.winner import kernel_gap, speedup
from synth.state.run import Run
from verifier.verdict import Verdict

ORDER = ("autotune", "single-shot", "guided")


def arms_beside(run: Run) -> tuple[ArmView, ...]:
    """One line for each arm, standard PyTorch first; none for a run that stands alone."""
    kept: dict[str, Run] = {}
    for other in (run, *run.store.runs()):
        if isinstance(other.plan.get("arm"), str) and _course(other.plan) == _course(run.plan):
            kept.setdefault(other.plan["arm"], other)
    if len(kept) < 2:
        return ()
    names = sorted(kept, key=lambda arm: (ORDER.index(arm) if arm in ORDER else len(ORDER), arm))
    return (_baseline(run), *(_arm(name, kept[name]) for name in names))


def _course(plan: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plan.items() if key != "arm"}


def _baseline(run: Run) -> ArmView:
    """Standard PyTorch against itself, and how far it is from the fastest that PyTorch has."""
    held = timings(run.measurements(), None, "heldout")
    standard = [m for m in held if m.name == STANDARD]
    one = 1.0 if standard else None
    return ArmView("baseline", one, one, kernel_gap(standard, held) or None, note=STANDARD)


def _arm(name: str, run: Run) -> ArmView:
    rows = [row for row in run.candidates() if not row.expected and not row.twin]
    measured = run.measurements()
    peers, there = (timings(measured, None, shapes) for shapes in ("search", "heldout"))
    winner = next((row for row in rows if timings(measured, row.ordinal, "heldout")), None)
    searched = timings(measured, winner.ordinal, "search") if winner else ()
    held = timings(measured, winner.ordinal, "heldout") if winner else ()
    total = len(rows) or 1
    return ArmView(
        name,
        speedup(searched, peers) or None,
        speedup(held, there) or None,
        kernel_gap(held, there) or None,
        candidates=len(rows),
        certified=sum(row.certified for row in rows) / total,
        wrong=sum(row.verdict == Verdict.REFUTED.value for row in rows) / total,
        dollars=sum(exchange(key, answer).dollars for key, answer in run.answers("exchange")),
        seconds=run.seconds,
        note=winner.name if winner else "",
    )
