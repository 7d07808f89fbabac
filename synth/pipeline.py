"""Prove-and-run: from a spec to certified kernels. Read `prove_and_run` first: it is the whole story.

A run is a `Plan`, which holds everything that decides its course, and a `Place`, which says where it is carried out and
decides nothing. The search is `synth.search.loop`; here its parts are put together, and its events are written down as
they come. Whoever iterates the events may stop at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from queue import SimpleQueue
from typing import Any

from synth import runfolder
from synth.bench.timing import device_label
from synth.events import Benchmarked, CrossChecked, Event, Finished, Judged, Lowered, Replay, Started
from synth.plan import Place, Plan
from synth.propose.model import ModelProposer, ModelSettings
from synth.search.arms import strategy
from synth.search.budget import Budget
from synth.search.lab import Lab, Replayed
from synth.search.loop import Search
from synth.state import Journal
from synth.state.cache import Cached
from synth.state.run import Run
from synth.state.store import Store
from synth.workers import Pool
from verifier.certificate import Certificate
from verifier.verdict import Verdict


def prove_and_run(plan: Plan, place: Place) -> Iterator[Event]:
    """Search under a plan, and keep what is found."""
    yield from _carry_out(plan, place, Store.open(place.db).begin(plan.bound, plan.to_json(), place.out), None)


def resume(name: str, place: Place, limits: Mapping[str, Any]) -> Iterator[Event]:
    """Go on with a run that was stopped, in whatever way. What it knew is not asked again; `limits` replace its own."""
    run = Store.open(place.db).resume(name)
    plan = Plan.from_json(run.plan)
    yield from _carry_out(replace(plan, limits=replace(plan.limits, **limits)), place, run, None)


def replay(name: str, place: Place) -> Iterator[Event]:
    """The course of a recorded run again, offline: a model's replies and the times are taken from the record,
    everything else is done anew, and the verdicts are compared."""
    store = Store.open(place.db)
    recorded = store.load(name)
    plan = Plan.from_json(recorded.plan)
    yield from _carry_out(plan, place, store.begin(plan.bound, recorded.plan, place.out), recorded)


def _carry_out(plan: Plan, place: Place, run: Run, recorded: Run | None) -> Iterator[Event]:
    begin = time.monotonic()
    budget = Budget(plan.limits, run.seconds)
    results = runfolder.Results(run.folder)
    certificates = _Certificates(results)
    counts = dict.fromkeys(Verdict, 0)
    status = "interrupted"
    try:
        with place.pool(plan.bound) as pool:
            search, ended = _search(plan, place, run, recorded, pool, budget)
            started = Started(plan.bound.spec.name, plan.bound.settings, plan.target, device_label(), run.folder)
            for event in chain((started,), search.search()):
                results.note(event)
                certificates.note(event)
                run.note(event)
                match event:
                    case Judged(candidate, report) if not candidate.expected:
                        counts[report.verdict] += report.answers or report.verdict is not Verdict.PROVED
                yield event
            if recorded is not None:
                event = _compared(recorded, search)
                results.note(event)
                yield event
        status = f"out of budget ({ended()})" if ended() else "finished"
    finally:
        seconds = time.monotonic() - begin
        proved, refuted, unproved = (counts[v] for v in (Verdict.PROVED, Verdict.REFUTED, Verdict.UNPROVED))
        done = Finished(status, proved, refuted, unproved, seconds, run.folder, budget.spent())
        results.note(done)
        run.finish(status, seconds)
    yield done


def _search(
    plan: Plan, place: Place, run: Run, recorded: Run | None, pool: Pool, budget: Budget
) -> tuple[Search, Callable[[], str]]:
    """The search, and what budget ended it (nothing while none has)."""
    own: Journal = Cached(run, run.store, plan.bound) if place.cache and recorded is None else run
    journal: Journal = own if recorded is None else Replayed(recorded, own)
    most = plan.max_candidates if recorded is None else len(recorded.verdicts())
    heard: SimpleQueue[Event] = SimpleQueue()
    ended = ""

    def stop(tried: int, talking: bool) -> str:
        nonlocal ended
        if tried >= most and (recorded is not None or not talking):
            return "enough candidates"
        ended = budget.exhausted() if recorded is None else ""
        return ended

    def model(settings: ModelSettings) -> ModelProposer:
        return ModelProposer(settings, budget, journal, heard.put, plan.examples, replay=recorded is not None)

    batch = place.workers if recorded is None else 1  # a replay stops exactly where the record does
    lab = Lab(journal, pool)
    search = Search(
        plan.bound, plan.target, plan.seed, lab, strategy(plan, model), stop, batch=batch, heard=heard, keep=run.put
    )
    return search, lambda: ended


def _compared(recorded: Run, search: Search) -> Replay:
    """Which candidates of a recorded run did not get the same verdict again, or did not come again at all."""
    known = recorded.verdicts()
    again = {name: "no kernel" if t.verdict is None else t.verdict.value for name, t in search.tried.items()}
    differing = [
        f"{name}: {known.get(name, 'not tried')} then, {again.get(name, 'not tried')} now"
        for name in dict.fromkeys((*known, *again))
        if known.get(name) != again.get(name)
    ]
    return Replay(recorded.id, len(again), tuple(differing))


@dataclass
class _Certificates:
    """Writes each candidate's certificate and emitted Triton into the run folder, as far as it has come."""

    results: runfolder.Results
    latest: dict[str, Certificate] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        match event:
            case Judged(candidate, report, Certificate() as certificate) if report.answers:
                self._save(candidate.name, certificate)
            case CrossChecked(candidate, certificate=certificate):
                self._save(candidate.name, certificate)
            case Lowered(candidate, certificate=certificate):
                self.results.triton(candidate.name, certificate.body["lowered"], event.target)
            case Benchmarked(candidate, measurements, rung="long"):
                figures = {"device": event.device, "measurements": [asdict(m) for m in measurements]}
                self._save(candidate.name, self.latest[candidate.name].with_section("benchmarks", figures))

    def _save(self, name: str, certificate: Certificate) -> None:
        self.latest[name] = certificate
        self.results.certificate(name, certificate)
