"""What the database says of its runs, and which of their certified kernels are fastest. For people to read.

A kernel's speed-up is the geometric mean, over shapes, of standard PyTorch's time over its own, both measured by the
same run on the same device; kernels of different runs are put in order by it, since their times cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log

from sqlalchemy import func, select

from synth.state.run import Run
from synth.state.store import Store
from synth.state.tables import CandidateRow, MeasurementRow

STANDARD = "standard PyTorch"  # how the names of its measurements begin


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in one line. `best` is the fastest certified kernel, None where none was timed; times in seconds."""

    run: str
    spec: str
    settings: dict[str, str | int]
    status: str
    candidates: int
    certified: int
    best: Leader | None
    usd: float
    seconds: float
    created: float
    folder: str


@dataclass(frozen=True, slots=True)
class Leader:
    """A certified kernel. `seconds` by shape; `speedup` and `heldout` are over standard PyTorch on search and held-out
    shapes, None where the two were not both timed; `path` is its certificate's file, empty where that is gone."""

    name: str
    run: str
    spec: str
    settings: dict[str, str | int]
    speedup: float | None
    heldout: float | None
    seconds: dict[str, float]
    device: str
    source: str
    certificate: str
    path: str
    text: str

    @property
    def order(self) -> tuple[bool, float, float, str]:
        """Fastest first; what was not compared last."""
        return self.speedup is None, -(self.speedup or 0.0), min(self.seconds.values(), default=0.0), self.name


def summaries(store: Store) -> Iterator[Summary]:
    """Every run, newest first."""
    for run in store.runs():
        with store.read() as session:
            counted = select(func.count()).select_from(CandidateRow).filter_by(run=run.number)
            total, certified = session.scalar(counted) or 0, session.scalar(counted.filter_by(certified=True)) or 0
        best = min((leader for leader in leaders(run) if leader.seconds), key=lambda leader: leader.order, default=None)
        yield Summary(
            run.id, run.spec, run.settings, run.status, total, certified, best, run.usd, run.seconds, run.created,
            str(run.folder),
        )  # fmt: skip


def top(store: Store, run: str, spec: str, number: int) -> list[Leader]:
    """The certified kernels of one run or of all (""), of one spec or of all, best first; of equal texts for the same
    spec and settings the best, and no more than `number` for them. Raises StateError for a run that is not there."""
    runs = [store.load(run)] if run else store.runs()
    groups: dict[tuple[str, str], dict[str, Leader]] = {}
    for leader in sorted((k for r in runs if spec in ("", r.spec) for k in leaders(r)), key=lambda k: k.order):
        group = groups.setdefault((leader.spec, repr(sorted(leader.settings.items()))), {})
        if len(group) < number:
            group.setdefault(leader.text, leader)
    return [leader for group in groups.values() for leader in group.values()]


def leaders(run: Run) -> list[Leader]:
    """The certified kernels of a run, in the order they were drafted."""
    measured = run.measurements()
    times = _times(measured)
    devices = {m.candidate: m.device for m in measured if m.device}
    wanted = (CandidateRow.ordinal, CandidateRow.name, CandidateRow.text, CandidateRow.source, CandidateRow.certificate)
    with run.store.read() as session:
        rows = select(*wanted).filter_by(run=run.number, certified=True, twin="").order_by(CandidateRow.ordinal)
        found = session.execute(rows).all()
    kept = []
    for ordinal, name, text, source, certificate in found:
        mine = {shapes: times.get((ordinal, shapes), {}) for shapes in ("search", "heldout")}
        gain = {shapes: speedup(mine[shapes], times.get((None, shapes), {})) for shapes in mine}
        path = run.folder / "certificates" / f"{name}.json"
        kept.append(
            Leader(
                name, run.id, run.spec, run.settings, gain["search"], gain["heldout"], mine["search"],
                devices.get(ordinal, ""), source, certificate or "", str(path) if path.is_file() else "", text,
            )
        )  # fmt: skip
    return kept


def speedup(mine: dict[str, float], standard: dict[str, float]) -> float | None:
    """Geometric mean over the shapes that both were timed at."""
    ratios = [log(standard[shape] / seconds) for shape, seconds in mine.items() if shape in standard]
    return exp(sum(ratios) / len(ratios)) if ratios else None


Times = dict[tuple[int | None, str], dict[str, float]]


def _times(rows: Sequence[MeasurementRow]) -> Times:
    """Seconds by shape: of each candidate, and under None of standard PyTorch, on "search" and "heldout" shapes. The
    long rung counts where there is one."""
    found: Times = {}
    kept = [r for r in rows if r.candidate is not None or r.name.startswith(STANDARD)]
    for rung in ("short", "long"):
        for r in kept:
            if r.rung == rung:
                found.setdefault((r.candidate, r.shapes), {})[r.shape] = r.seconds
    return found

