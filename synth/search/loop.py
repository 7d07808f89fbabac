"""The search, step by step: conversations with proposers, the gate, the archive, the benchmark. Read `search` first.

The search is a function of its strategy, its seed and the answers of the lab and of the proposers' models; answers
enter the archive in the order in which candidates were drafted, whatever order they came in. So a run that is resumed
or replayed with the same answers does the same, on any number of workers. Only the gate decides what is certified:
whatever a proposer writes and however the archive ranks it, `Build`, `Check` and `Time` take a `Certificate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice
from queue import Empty, SimpleQueue

from ir.spec import Bound
from lowering.versions import left_out
from synth.events import (
    Benchmarked,
    CrossChecked,
    Event,
    Failed,
    Judged,
    Lowered,
    PeersMeasured,
    Proposed,
    Step,
    Twin,
)
from synth.jobs import Answer, Build, Built, Check, Checked, Job, Proof, Prove, Time, Timed
from synth.propose import Candidate
from synth.search.archive import Archive
from synth.search.halving import survivors
from synth.search.identity import identity
from synth.search.lab import Lab
from synth.search.tried import Brief, Conversation, Proposer, Stoppable, Tried
from synth.search.winner import held_out

FINALISTS = 3  # are timed on held-out shapes
IDLE = 3  # steps in a row without a draft, after which nobody is expected to have one


def nothing(candidate: Candidate) -> Iterator[Candidate]:
    """No kernels broken on purpose."""
    return iter(())


@dataclass(frozen=True, slots=True)
class Strategy:
    """Who proposes. `opening` are the candidates of step 0; then each step holds one conversation with each of
    `proposers` (name one twice for two), told of the archive's kernels unless `informed` is False. `controls` follow
    the first candidate: kernels broken on purpose, shown and recorded, never run."""

    opening: Callable[[], Iterator[Candidate]]
    proposers: tuple[Proposer, ...] = ()
    informed: bool = True
    controls: Callable[[Candidate], Iterator[Candidate]] = nothing


@dataclass
class Search:
    """`stop` says why no further candidate is to be begun, or nothing; it is asked with the number tried so far, and
    whether within a conversation, which only the budget cuts short.
    `heard` receives what proposers tell while they talk to a model; `keep` is called with every candidate, its step and
    slot when it is gated, and again when it is timed."""

    bound: Bound
    target: str
    seed: int
    lab: Lab
    strategy: Strategy
    stop: Callable[[int, bool], str]
    batch: int = 1  # candidates of the opening gated side by side
    heard: SimpleQueue[Event] = field(default_factory=SimpleQueue)
    keep: Callable[[Tried, int, int], None] = lambda tried, step, slot: None
    step: int = field(default=0, init=False)
    peered: bool = field(default=False, init=False)  # standard PyTorch was asked for, whatever it answered
    archive: Archive = field(init=False)
    tried: dict[str, Tried] = field(default_factory=dict)  # by candidate's name, in the order they were drafted
    slots: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.archive = Archive(self.bound, self.target, self.seed)

    # ---- the whole story ----

    def search(self) -> Iterator[Event]:
        """Every event, until `stop` says so or nobody proposes anything any more."""
        yield from self._opening()
        idle = 0
        while self.strategy.proposers and idle < IDLE and not self.stop(len(self.tried), False):
            self.step += 1
            before = len(self.tried)
            yield from self._converse()
            yield Step(self.step, len(self.tried) - before, len(self.archive.cells()))
            idle = idle + 1 if len(self.tried) == before else 0
        yield from self._finals()

    def _opening(self) -> Iterator[Event]:
        drafts = self.strategy.opening()
        while not (self.tried and self.stop(len(self.tried), False)):
            some = tuple(islice(drafts, 1 if not self.tried else self.batch))
            if not some:
                return
            first = not self.tried
            yield from self._gate([(0, draft) for draft in some])
            if first:
                yield from self._show_controls(some[0])
            yield from self._bench()

    def _converse(self) -> Iterator[Event]:
        """One conversation with each proposer, side by side; their drafts are gated together, round by round."""
        talks = [p.converse(self._brief(slot)) for slot, p in enumerate(self.strategy.proposers)]
        answers: list[tuple[Tried, ...] | None] = [None] * len(talks)
        open_talks = list(range(len(talks)))
        try:
            with ThreadPoolExecutor(max(1, len(talks))) as threads, _hanging_up(self.strategy.proposers):
                while open_talks:
                    asked = {slot: threads.submit(_next, talks[slot], answers[slot]) for slot in open_talks}
                    while not all(future.done() for future in asked.values()):
                        yield from self._hear(0.1)
                    yield from self._hear(0.0)
                    found = {slot: asked[slot].result() for slot in open_talks}
                    drafts = self._named({slot: some for slot, some in found.items() if some is not None})
                    yield from self._gate([(slot, d) for slot in drafts for d in drafts[slot]])
                    yield from self._bench()
                    for slot, some in drafts.items():
                        answers[slot] = tuple(self.tried[d.name] for d in some if d.name in self.tried)
                    open_talks = [] if self.stop(len(self.tried), True) else list(drafts)
        finally:
            for talk in talks:
                talk.close()

    def _named(self, drafts: dict[int, tuple[Candidate, ...]]) -> dict[int, tuple[Candidate, ...]]:
        """The drafts under names that no other candidate has: two conversations may have had the same idea."""
        taken = set(self.tried)

        def named(draft: Candidate) -> Candidate:
            names = chain((draft.name,), (f"{draft.name}.{k}" for k in count(2)))
            name = next(n for n in names if n not in taken)
            taken.add(name)
            return replace(draft, name=name)

        return {slot: tuple(named(draft) for draft in some) for slot, some in drafts.items()}

    def _brief(self, slot: int) -> Brief:
        if not self.strategy.informed:
            return Brief(self.bound, self.target, seed=self.seed, step=self.step, slot=slot)
        return self.archive.brief(self.step, slot)

    def _know(self, tried: Tried, slot: int) -> None:
        name = tried.candidate.name
        self.tried[name] = tried
        self.slots[name] = (self.step, slot)
        self.keep(tried, self.step, slot)

    def _hear(self, seconds: float) -> Iterator[Event]:
        """What proposers told since the last time; waits that long for the first of it."""
        try:
            yield self.heard.get(timeout=seconds) if seconds else self.heard.get_nowait()
            while True:
                yield self.heard.get_nowait()
        except Empty:
            return

    # ---- the gate ----

    def _gate(self, drafts: Sequence[tuple[int, Candidate]]) -> Iterator[Event]:
        """Prove what is new among the drafts (each with its slot), compile and cross-check what is proved; into the
        archive with all."""
        fresh: list[Tried] = []
        twins: list[tuple[int, Candidate, str, str]] = []
        known: dict[str, str] = {}
        for slot, draft in drafts:
            mark = identity(draft.text, self.bound)
            earlier = self.archive.by_identity(mark)
            of = known.get(mark) or (earlier.candidate.name if earlier else "")
            if of:
                yield Twin(draft, of)
                twins.append((slot, draft, mark, of))
            else:
                yield Proposed(draft)
                known[mark] = draft.name
                fresh.append(Tried(draft, mark, Proof(None)))
        yield from self._prove(fresh)
        yield from self._build(fresh)
        yield from self._check(fresh)
        gated = {t.candidate.name: t for t in fresh}
        for slot, draft in drafts:
            if draft.name in gated:
                self._know(gated[draft.name], slot)
                self.archive.insert(gated[draft.name], self.step, slot)
        for slot, draft, mark, of in twins:
            self._know(replace(self.tried[of], candidate=draft, identity=mark, twin=of), slot)

    def _show_controls(self, candidate: Candidate) -> Iterator[Event]:
        broken = list(self.strategy.controls(candidate))
        for one in broken:
            yield Proposed(one)
        for index, proof in self.lab.answer([Prove(one.name, one.text) for one in broken]):
            assert isinstance(proof, Proof)
            yield _judged(broken[index], proof)

    def _prove(self, fresh: list[Tried]) -> Iterator[Event]:
        for index, answer in self._each(fresh, lambda t: Prove(t.candidate.name, t.candidate.text)):
            assert isinstance(answer, Proof)
            fresh[index] = replace(fresh[index], proof=answer)
            yield _judged(fresh[index].candidate, answer)

    def _build(self, fresh: list[Tried]) -> Iterator[Event]:
        def job(t: Tried) -> Job | None:
            certificate = t.proof.certificate
            return None if certificate is None or t.problem else Build(t.candidate.name, certificate, self.target)

        for t in fresh:
            if t.proof.certificate is not None and t.problem:
                yield Failed(t.candidate, "every size", t.problem)
        for index, answer in self._each(fresh, job):
            assert isinstance(answer, Built)
            fresh[index] = replace(fresh[index], built=answer)
            candidate = fresh[index].candidate
            if answer.problem:
                yield Failed(candidate, "compile", answer.problem)
            else:
                missing = left_out(answer.certificate.body["lowered"])
                yield Lowered(candidate, self.target, answer.resources, answer.certificate, missing)

    def _check(self, fresh: list[Tried]) -> Iterator[Event]:
        places = {t.candidate.name: index for index, t in enumerate(fresh)}
        built = [t for t in fresh if t.built is not None and not t.built.problem]
        chosen = survivors(built, "check", self.archive)

        def job(t: Tried) -> Job | None:
            return None if t.built is None else Check(t.candidate.name, t.built.certificate)

        for position, answer in self._each(chosen, job):
            assert isinstance(answer, Checked)
            tried = replace(chosen[position], checked=answer)
            fresh[places[tried.candidate.name]] = tried
            if answer.problem:
                yield Failed(tried.candidate, "cross-check", answer.problem)
            else:
                yield CrossChecked(tried.candidate, answer.cases, answer.largest_error, answer.certificate)

    def _each(self, some: Sequence[Tried], job: Callable[[Tried], Job | None]) -> Iterator[tuple[int, Answer]]:
        """Jobs for those that have one, answered as they come, with the place of each in `some`."""
        jobs = [(index, found) for index, t in enumerate(some) if (found := job(t)) is not None]
        for position, answer in self.lab.answer([found for _, found in jobs]):
            yield jobs[position][0], answer

    # ---- the benchmark ----

    def _bench(self) -> Iterator[Event]:
        """Successive halving of what is certified and not timed yet. A rung that would drop nobody is not run."""
        waiting = [t for t in self.tried.values() if t.certified and not t.twin and t.long is None]
        if any(t.short is None for t in waiting) and len(survivors(waiting, "long", self.archive)) < len(waiting):
            yield from self._time([t for t in waiting if t.short is None], "short")
            waiting = [self.tried[t.candidate.name] for t in waiting]
        yield from self._time(survivors(waiting, "long", self.archive), "long")

    def _time(self, some: Sequence[Tried], rung: str) -> Iterator[Event]:
        if some and not self.peered:
            yield from self._peers()
        for t in some:
            assert t.checked is not None
            job = Time(t.candidate.name, t.checked.certificate, "search", rung)
            for _, answer in self.lab.answer([job]):
                assert isinstance(answer, Timed)
                tried = replace(t, short=answer) if rung == "short" else replace(t, long=answer)
                self.tried[t.candidate.name] = tried
                self.keep(tried, *self.slots[t.candidate.name])
                self.archive.update(tried)
                if answer.problem:
                    yield Failed(t.candidate, "benchmark", answer.problem)
                else:
                    yield Benchmarked(t.candidate, answer.measurements, answer.device, rung)

    def _peers(self) -> Iterator[Event]:
        for _, answer in self.lab.answer([Time("standard PyTorch", None, "search", "long")]):
            assert isinstance(answer, Timed)
            self.peered, self.archive.peers = True, answer.measurements
            yield PeersMeasured(answer.device, answer.roofline, answer.measurements)

    def _finals(self) -> Iterator[Event]:
        """The leaders on shapes that selection never saw; there was no selection where only one was tried."""
        leaders = [t for t in self.archive.leaders(FINALISTS) if t.checked is not None and t.long is not None]
        if not leaders or len(self.tried) < 2 or not self.bound.spec.heldout_shapes:
            return
        jobs = [Time("standard PyTorch", None, "heldout", "long")]
        jobs += [Time(t.candidate.name, t.checked.certificate, "heldout", "long") for t in leaders if t.checked]
        answers: dict[int, Timed] = {}
        for index, answer in self.lab.answer(jobs):
            assert isinstance(answer, Timed)
            answers[index] = answer
        yield from held_out(leaders, self.archive.peers, [answers[index] for index in range(len(jobs))])


def _next(talk: Conversation, answer: tuple[Tried, ...] | None) -> tuple[Candidate, ...] | None:
    """The conversation's next drafts, None when it is over."""
    try:
        return next(talk) if answer is None else talk.send(answer)
    except StopIteration:
        return None


def _judged(candidate: Candidate, proof: Proof) -> Event:
    if proof.report is None:
        return Failed(candidate, "read", proof.problem)
    return Judged(candidate, proof.report, proof.certificate)


@contextmanager
def _hanging_up(proposers: Sequence[Proposer]) -> Iterator[None]:
    """Whoever leaves the search (Ctrl-C, an error) does not wait for the replies that are on their way."""
    try:
        yield
    except BaseException:
        for proposer in proposers:
            if isinstance(proposer, Stoppable):
                proposer.stop()
        raise
