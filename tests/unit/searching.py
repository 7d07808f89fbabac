"""A process that carries out a real search of a small spec until it is killed; tests start it many times."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from types import TracebackType

from ir.loader import bind, parse_spec
from ir.spec import Bound
from synth.jobs import Answer, Job, do
from synth.propose.evolve import Evolver
from synth.propose.seeds import seeds
from synth.search.lab import Lab, question
from synth.search.loop import Search, Strategy
from synth.state.store import Store

CANDIDATES = 4


@dataclass
class Here:
    """A pool of this very process: does the jobs one after the other, and says so before each."""

    bound: Bound
    said: Connection

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        for index, job in enumerate(jobs):
            self.said.send(("asked", *question(job)))
            yield index, do(job, self.bound)

    def __enter__(self) -> Here:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        return


def search(url: str, name: str, said: Connection) -> None:
    """Go on with a run to its end, telling every question that is really worked on and every event."""
    sys.modules["triton"] = None  # type: ignore[assignment]  # as where it is not installed: emitted, not compiled
    run = Store.open(url).resume(name)
    bound = bind(parse_spec(run.spec_text, run.spec_path), run.settings)
    found = Search(
        bound,
        run.target,
        7,
        Lab(run, Here(bound, said)),
        Strategy(lambda: islice(seeds(bound), 1), (Evolver(drafts=2),)),
        lambda tried, talking: "enough" if tried >= CANDIDATES else "",
        keep=run.put,
    )
    for event in found.search():
        said.send((type(event).__name__,))
    run.finish("finished", 0.0)
    said.send(("over",))
