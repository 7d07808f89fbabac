"""What the database says of its runs, and which of their certified kernels are fastest. For people to read.

A kernel's speed-up is the geometric mean, over shapes, of standard PyTorch's time over its own, both measured by the
same run on the same device; kernels of different runs are put in order by it, since their times cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select

from synth.events import Measurement
from synth.search.winner import speedup
from synth.state.run import Run
from synth.state.store import Store
from synth.state.tables import CandidateRow, MeasurementRow


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
    rows = run.measurements()
    timed = _measurements(rows)
    devices = {m.candidate: m.device for m in rows if m.device}
    wanted = (CandidateRow.ordinal, CandidateRow.name, CandidateRow.text, CandidateRow.source, CandidateRow.certificate)
    with run.store.read() as session:
        kept = select(*wanted).filter_by(run=run.number, certified=True, twin="").order_by(CandidateRow.ordinal)
        found = session.execute(kept).all()
    return [
        Leader(
            name, run.id, run.spec, run.settings, _gain(timed, ordinal, "search"), _gain(timed, ordinal, "heldout"),
            {m.shape: m.seconds for m in timed.get((ordinal, "search"), ())}, devices.get(ordinal, ""), source,
            certificate or "", _file(run.folder / "certificates" / f"{name}.json"), text,
        )
        for ordinal, name, text, source, certificate in found
    ]  # fmt: skip


Measured = dict[tuple[int | None, str], list[Measurement]]


def _measurements(rows: Sequence[MeasurementRow]) -> Measured:
    """Of every candidate, and under None of PyTorch, on "search" and "heldout" shapes; the long rung where there is
    one."""
    best: dict[tuple[int | None, str, str, str], MeasurementRow] = {}
    for row in sorted(rows, key=lambda r: r.rung == "long"):
        best[row.candidate, row.shapes, row.name, row.shape] = row
    found: Measured = {}
    for row in best.values():
        one = Measurement(row.name, row.shape, tuple(row.sizes.items()), row.seconds, row.tflops, row.share)
        found.setdefault((row.candidate, row.shapes), []).append(one)
    return found


def _gain(timed: Measured, ordinal: int, shapes: str) -> float | None:
    return speedup(timed.get((ordinal, shapes), []), timed.get((None, shapes), [])) or None


def _file(path: Path) -> str:
    return str(path) if path.is_file() else ""
