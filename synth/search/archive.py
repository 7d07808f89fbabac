"""What the search remembers: every kernel it tried, and the best one of each kind, so that it does not run in a rut.

Kernels live in cells (`synth.search.descriptor`): algorithm x tile x memory traffic. The best certified kernel of a
cell is its *elite*; parents are drawn from elites, better ones more often, so that a cell full of near-copies of one
fast kernel counts once (MAP-Elites, Mouret & Clune 2015). What the gate did not let through is kept as material: a
kernel that lacks a single obligation is worth repairing, and all there is while nothing is proved.

With several *islands* a slot of the loop draws only from kernels of its own island and, as steps go by, from those of
the islands before it on the ring: news of a kernel travels one island further every `MIGRATION` steps.

Nothing here is random beyond the seed, and nothing decides what is certified: an archive that ranks badly wastes time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from ir.diagnostics import SourceError
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from synth.events import Measurement
from synth.search.descriptor import Cell, cell_of, expected_seconds
from synth.search.tried import Brief, Tried
from verifier.verdict import Verdict

MIGRATION = 4  # steps
NEAR_MISS = 0.2  # of briefs ask for a repair, where there is something to repair and something certified
INSPIRATIONS = 3


class Stage(IntEnum):
    """How far a candidate got. Every later stage is worth more than the ones before it."""

    TEXT = 0  # no kernel of the spec
    MISSED = 1  # refuted, unproved, or stopped after its proof: worth the obligations that were proved
    PROVED = 2  # proved, built or certified, not timed: worth what it is expected to take
    TIMED = 3  # worth its speed


@dataclass(frozen=True, slots=True)
class Member:
    """`home` is the slot of the loop that brought it, in `step`; `cell` is None for a text that is no kernel."""

    tried: Tried
    cell: Cell | None
    step: int
    home: int


@dataclass(frozen=True, slots=True)
class Niche:
    """A cell that holds a certified kernel, its best one, and how many kernels were found in it."""

    cell: Cell
    elite: Tried
    members: int


@dataclass
class Archive:
    """`peers` are standard PyTorch's times on the search shapes, what speed is measured against once they are known."""

    bound: Bound
    target: str
    seed: int
    islands: int = 1
    peers: tuple[Measurement, ...] = ()
    members: dict[str, Member] = field(default_factory=dict, init=False)  # by identity, in the order they came
    places: dict[str, Cell | None] = field(default_factory=dict, init=False)  # by identity
    predicted: dict[tuple[str, bool], float] = field(default_factory=dict, init=False)  # and whether it is compiled

    # ---- what comes in ----

    def insert(self, tried: Tried, step: int = 0, slot: int = 0) -> None:
        """Take a candidate in. One whose identity is known already changes nothing."""
        if tried.identity not in self.members:
            self.members[tried.identity] = Member(tried, self.cell(tried), step, slot)

    def update(self, tried: Tried) -> None:
        """The same candidate with more answers. Raises KeyError for one that was never inserted."""
        self.members[tried.identity] = replace(self.members[tried.identity], tried=tried)

    def by_identity(self, identity: str) -> Tried | None:
        member = self.members.get(identity)
        return None if member is None else member.tried

    def cell(self, tried: Tried) -> Cell | None:
        """Where a candidate belongs, inserted or not; None for a text that is no kernel of the spec."""
        if tried.identity not in self.places:
            try:
                program = check(parse(tried.candidate.text), self.bound)
            except SourceError:
                self.places[tried.identity] = None
            else:
                self.places[tried.identity] = cell_of(program, self.bound)
        return self.places[tried.identity]

    # ---- what it is worth ----

    def merit(self, tried: Tried) -> tuple[Stage, float]:
        """Greater is better; equal merits rank in the order in which candidates came."""
        if tried.proof.report is None:
            return Stage.TEXT, 0.0
        if not tried.answers or tried.problem:
            proved = sum(r.verdict is Verdict.PROVED for r in tried.proof.report.results)
            return Stage.MISSED, float(proved)
        if tried.measurements:
            return Stage.TIMED, self.speed(tried.measurements)
        return Stage.PROVED, -self.expected(tried)

    def speed(self, measurements: Sequence[Measurement]) -> float:
        """Geometric mean over shapes of the slowest peer's time over this one's: standard PyTorch's, where the
        formula can be written in it. Against one second for a shape that no peer was timed on."""
        slowest: dict[str, float] = {}
        for peer in self.peers:
            slowest[peer.shape] = max(peer.seconds, slowest.get(peer.shape, 0.0))
        logs = [math.log(slowest.get(m.shape, 1.0) / m.seconds) for m in measurements]
        return math.exp(sum(logs) / len(logs))

    def expected(self, tried: Tried) -> float:
        """Predicted seconds on the target, infinite for a text that is no kernel: what ranks those not timed."""
        certificate = tried.built.certificate if tried.built is not None and tried.built.resources else None
        known = (tried.identity, certificate is not None)
        if known not in self.predicted:
            try:
                program = check(parse(tried.candidate.text), self.bound)
            except SourceError:
                self.predicted[known] = math.inf
            else:
                self.predicted[known] = expected_seconds(program, self.bound, self.target, certificate)
        return self.predicted[known]

    def ranked(self, members: Iterable[Member]) -> list[Member]:
        return sorted(members, key=lambda m: self.merit(m.tried), reverse=True)  # stable: first come, first listed

    # ---- what it tells ----

    def leaders(self, n: int) -> list[Tried]:
        """The best proved kernels, timed ones first."""
        return [m.tried for m in self.ranked(self.members.values()) if self._alive(m)][:n]

    def cells(self) -> list[Niche]:
        """Every cell with a proved kernel, the best first."""
        alive = [m for m in self.members.values() if self._alive(m)]
        counts: dict[Cell | None, int] = {}
        for member in self.members.values():
            counts[member.cell] = counts.get(member.cell, 0) + 1
        return [Niche(m.cell, m.tried, counts[m.cell]) for m in self._elites(alive) if m.cell is not None]

    def brief(self, step: int, slot: int) -> Brief:
        """Whom to improve on, and who else there is. The slots of one step get different parents as far as there are
        enough; no parent at all while the archive holds no kernel."""
        island = slot % self.islands
        seen = [m for m in self.members.values() if self._reached(m, island, step)]
        elites = self._elites(m for m in seen if self._alive(m))
        misses = self._elites(self._repairable(seen))
        draw = random.Random(f"{self.seed}/{step}/{slot}")
        repair = bool(misses) and (not elites or draw.random() < NEAR_MISS)
        pool = misses if repair else elites
        if not pool:
            return Brief(self.bound, self.target, seed=self.seed, step=step, slot=slot)
        order = shuffled(pool, random.Random(f"{self.seed}/{step}/{island}"))
        parent = order[(slot // self.islands) % len(order)]
        others = list(_different(parent, elites, shuffled(elites, draw)))[:INSPIRATIONS]
        inspirations = tuple(m.tried for m in others)
        return Brief(self.bound, self.target, (parent.tried,), inspirations, self.seed, step, slot)

    # ---- who is who ----

    def _alive(self, member: Member) -> bool:
        return self.merit(member.tried)[0] >= Stage.PROVED

    def _reached(self, member: Member, island: int, step: int) -> bool:
        away = (island - member.home) % self.islands
        return step - member.step >= away * MIGRATION

    def _elites(self, members: Iterable[Member]) -> list[Member]:
        """The best of each cell, the best cell first."""
        best: dict[Cell | None, Member] = {}
        for member in self.ranked(members):
            best.setdefault(member.cell, member)
        return list(best.values())

    def _repairable(self, members: Sequence[Member]) -> Iterator[Member]:
        """Kernels that were stopped, and not repaired since; the latest first among equals."""
        repaired = {name for m in self.members.values() if self._alive(m) for name in m.tried.candidate.parents}
        for member in reversed(members):
            stage = self.merit(member.tried)[0]
            if stage is Stage.MISSED and member.cell is not None and member.tried.candidate.name not in repaired:
                yield member


def shuffled(ranking: Sequence[Member], draw: random.Random) -> list[Member]:
    """A random order in which the member of rank r (from 0) comes first with a weight of 1 / (r + 1), and so on among
    those left (weighted sampling without replacement, Efraimidis & Spirakis 2006)."""
    keys = [draw.random() ** (rank + 1) for rank in range(len(ranking))]
    order = sorted(range(len(ranking)), key=lambda rank: -keys[rank])
    return [ranking[rank] for rank in order]


def _different(parent: Member, elites: Sequence[Member], order: Sequence[Member]) -> Iterator[Member]:
    """Other elites: the best one, then other algorithms, each once, then other tiles and traffic."""
    algorithms = {parent.cell.algorithm} if parent.cell is not None else set[str]()
    candidates = [m for m in (*elites[:1], *order) if m is not parent]
    chosen: set[Cell | None] = set()
    for again in (False, True):
        for place, member in enumerate(candidates):
            assert member.cell is not None
            best = place == 0 and member is elites[0]
            if member.cell not in chosen and (again or best or member.cell.algorithm not in algorithms):
                chosen.add(member.cell)
                algorithms.add(member.cell.algorithm)
                yield member
