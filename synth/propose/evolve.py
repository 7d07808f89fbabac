"""The embedded proposer in the search: children of the archive's kernels by typed rewrites and by crossover.

Every choice follows from the brief: its seed, step and slot, its parents, and what their children it was shown were
made by. So a run that is resumed or replayed gets the same drafts, in any process and beside any number of others.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from ir.diagnostics import SourceError
from ir.printer import print_module
from ir.spec import Bound
from synth.propose import Candidate
from synth.propose.crossover import kernels_of_both, scheduled_as
from synth.propose.rewrites import REWRITES, Rewrite, Subject
from synth.propose.rewrites.rewrite import kernel_text
from synth.search.tried import Brief, Conversation, Tried

CROSSOVER = 0.2  # share of drafts with two parents, where there are two
CHAIN = (6, 3, 1)  # weights of one, two and three rewrites in a row
PLACES = 8  # results of one rewrite that are chosen among, the first most often
NAME = 80  # characters; a name is a file's name too
ATTEMPTS = 40  # choices that may come to nothing before a round ends short


@dataclass(frozen=True, slots=True)
class Evolver:
    """Rewrites and crosses the kernels of a brief: `drafts` of them, then as many other ones as were not proved.
    Proposes nothing where the brief holds no proved kernel."""

    name: str = "evolver"
    drafts: int = 4
    rewrites: tuple[Rewrite, ...] = REWRITES

    def converse(self, brief: Brief) -> Conversation:
        pool = [_Parent.of(t, brief.bound) for t in (*brief.parents, *brief.inspirations)]
        proved = [parent for parent in pool if parent is not None]
        if not proved:
            return
        own = sum(1 for t in brief.parents if t.answers) or len(proved)
        draw = random.Random(f"{brief.seed}/{brief.step}/{brief.slot}")
        brood = _Brood(proved[:own], proved, brief, self.rewrites, draw)
        first = tuple(islice(brood.children(), self.drafts))
        if not first:
            return
        answers = yield first
        failed = [t for t in answers if not t.answers]
        brood.learn(failed)
        if second := tuple(islice(brood.children(), len(failed))):
            yield second


@dataclass(frozen=True, slots=True)
class _Parent:
    candidate: Candidate
    subject: Subject

    @staticmethod
    def of(tried: Tried, bound: Bound) -> _Parent | None:
        """None for what is not proved, or for some sizes only: a rewrite of a wrong kernel is wrong."""
        if not tried.answers:
            return None
        try:
            return _Parent(tried.candidate, Subject.of(tried.candidate.text, bound))
        except SourceError:
            return None


@dataclass
class _Brood:
    """The children of one conversation. `used` counts how often a rewrite was done on a parent, by names, as far as
    the brief and this conversation tell; the least used are tried first."""

    parents: list[_Parent]
    mates: list[_Parent]
    brief: Brief
    rewrites: tuple[Rewrite, ...]
    draw: random.Random
    used: dict[tuple[str, str], int] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.seen = {print_module(parent.subject.module) for parent in self.mates}
        for tried in (*self.brief.parents, *self.brief.inspirations):
            self._count(tried.candidate, 1)

    def learn(self, failed: list[Tried]) -> None:
        """What failed once is tried last on the same parent."""
        for tried in failed:
            self._count(tried.candidate, 10)

    def _count(self, candidate: Candidate, weight: int) -> None:
        lineage = rewrites_of(candidate)
        for parent in candidate.parents if candidate.source == "rewrite" else ():
            for name in lineage[-len(CHAIN) :]:
                self.used[parent, name] = self.used.get((parent, name), 0) + weight

    def children(self) -> Iterator[Candidate]:
        """New texts only; ends when no parent has a rewrite left, or drafts come to nothing too often."""
        parents = list(self.parents)
        for _ in range(ATTEMPTS):
            if not parents:
                return
            parent = self.draw.choices(parents, [1 / (k + 1) for k in range(len(parents))])[0]
            mates = [mate for mate in self.mates if mate is not parent]
            child = None
            if mates and self.draw.random() < CROSSOVER:
                child = self._crossed(parent, self.draw.choice(mates))
            elif (child := self._rewritten(parent)) is None:
                parents.remove(parent)
            if child is not None and child.text not in self.seen:
                self.seen.add(child.text)
                yield child

    # ---- one parent ----

    def _rewritten(self, parent: _Parent) -> Candidate | None:
        length = self.draw.choices(range(1, len(CHAIN) + 1), CHAIN)[0]
        subject, done = parent.subject, list[str]()
        text = ""
        for _ in range(length):
            step = self._step(parent.candidate.name, subject)
            if step is None:
                break
            name, text = step
            done.append(name)
            subject = Subject.of(text, self.brief.bound)
        return _child(parent.candidate, text, done) if done else None

    def _step(self, parent: str, subject: Subject) -> tuple[str, str] | None:
        """One rewrite that fits: the least used first, in an order of its own otherwise."""
        order = self.draw.sample(self.rewrites, len(self.rewrites))
        place = self.draw.choices(range(1, PLACES + 1), [1 / k for k in range(1, PLACES + 1)])[0]
        for rewrite in sorted(order, key=lambda r: self.used.get((parent, r.name), 0)):
            self.used[parent, rewrite.name] = self.used.get((parent, rewrite.name), 0) + 1
            new = (text for text in rewrite.texts(subject) if text not in self.seen)
            if results := list(islice(new, place)):
                return rewrite.name, results[-1]
        return None

    # ---- two parents ----

    def _crossed(self, parent: _Parent, mate: _Parent) -> Candidate | None:
        """In an order of this draw: kernels of both, one's body with the other's schedule, the mate's rewrites."""
        ways = [
            ("kernels", kernels_of_both(parent.subject, mate.subject)),
            ("schedule", scheduled_as(parent.subject, mate.subject)),
        ]
        self.draw.shuffle(ways)
        for way, modules in ways:
            texts = (kernel_text(module, self.brief.bound) for module in modules)
            if found := [t for t in texts if t is not None and t not in self.seen]:
                return _child(parent.candidate, self.draw.choice(found), [], mate.candidate, way)
        return self._with_rewrites_of(parent, mate)

    def _with_rewrites_of(self, parent: _Parent, mate: _Parent) -> Candidate | None:
        """The rewrites that only the mate's lineage has, done on the parent, as far as they fit."""
        own, done = rewrites_of(parent.candidate), list[str]()
        subject, text = parent.subject, ""
        by_name = {r.name: r for r in self.rewrites}
        for name in rewrites_of(mate.candidate):
            result = next(by_name[name].texts(subject), None) if name in by_name and name not in own else None
            if result is not None:
                subject, text = Subject.of(result, self.brief.bound), result
                done.append(name)
        return _child(parent.candidate, text, done, mate.candidate) if done else None


def rewrites_of(candidate: Candidate) -> list[str]:
    """The rewrites that made a candidate of the kernel its lineage began with, first to last."""
    return [value for name, value in candidate.choices if name == "rewrite"]


def _child(parent: Candidate, text: str, done: list[str], mate: Candidate | None = None, way: str = "") -> Candidate:
    """`way`: how two parents were crossed; else `done` are the rewrites, all of `parent`."""
    choices = [*parent.choices, *(("rewrite", name) for name in done)]
    if way:
        choices.append(("crossover", way))
    words = [f"x-{way}"] if way else done
    mates = () if mate is None else (mate.name,)
    note = ", then ".join(words) + ("" if mate is None else f", with {mate.name}")
    source = "rewrite" if mate is None else "crossover"
    return Candidate(_named(parent, words, text), text, tuple(choices), (), source, (parent.name, *mates), note)


def _named(parent: Candidate, words: list[str], text: str) -> str:
    """What the lineage began with, its latest rewrites, and a few digits of the text that make it the only one."""
    bred = parent.source in ("rewrite", "crossover")
    root, *lineage = (parent.name.rpartition("-")[0] if bred else parent.name).split("+")
    digits = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{'+'.join([root, *[*lineage, *words][-3:]])[: NAME - 7]}-{digits}"
