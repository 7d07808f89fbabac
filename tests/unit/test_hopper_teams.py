"""Several teams, tried out: the checker looks at one team and argues for more; here two of them and the producer take
their steps in every order, at small trip counts, on barriers that count arrivals and have a parity. What the checker
verifies never goes wrong here, and what it refuses for the teams' sake does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import pytest
from hopper_cases import WRITE, consumer, dropped, meeting, neighbours, plain

from lowering.hopper import async_program as ap
from lowering.hopper.protocol import verify
from lowering.hopper.verdict import Verified

TEAMS = 2
TRIPS = 4  # two slots, used twice


@dataclass(frozen=True, slots=True)
class Reads:
    """A dot: issued at one step, it reads fills (ring, number) until another step is done."""

    at: int
    until: int
    fills: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A partition as the steps it takes; `done[kind, ring][n]`: how many of a kind its first n steps hold."""

    steps: tuple[ap.Statement, ...]
    done: dict[tuple[type, str], list[int]]
    reads: tuple[Reads, ...]

    def count(self, kind: type, ring: str, steps: int) -> int:
        return self.done[kind, ring][steps] if (kind, ring) in self.done else 0


def unrolled(statements: tuple[ap.Statement, ...], trips: int) -> Iterator[ap.Statement]:
    for s in statements:
        if isinstance(s, ap.Loop):
            for _ in range(trips):
                yield from unrolled(s.body, trips)
        elif isinstance(s, ap.WaitEmpty | ap.Copy | ap.Write | ap.WaitFull | ap.Release | ap.IssueDot | ap.WaitDots):
            yield s


def line(statements: tuple[ap.Statement, ...], trips: int) -> Line:
    steps = tuple(unrolled(statements, trips))
    kinds = {(type(s), s.ring) for s in steps if hasattr(s, "ring")}
    done = {
        (kind, ring): [0, *accumulate(int(type(s) is kind and getattr(s, "ring", "") == ring) for s in steps)]
        for kind, ring in kinds
    }
    reads = []
    for at, s in enumerate(steps):
        if isinstance(s, ap.IssueDot):
            ends = (n for n, w in enumerate(steps) if n > at and isinstance(w, ap.WaitDots) and _retires(steps, at, n))
            tiles = [t for t in (s.left, s.right) if isinstance(t, ap.Tile)]
            fills = tuple((t.ring, done.get((ap.WaitFull, t.ring), [0] * 99)[at] - 1 - t.age) for t in tiles)
            reads.append(Reads(at, next(ends, len(steps)), fills))
    return Line(steps, done, tuple(reads))


def _retires(steps: tuple[ap.Statement, ...], dot: int, wait: int) -> bool:
    after = sum(isinstance(s, ap.IssueDot) for s in steps[dot + 1 : wait])
    found = steps[wait]
    return isinstance(found, ap.WaitDots) and after >= found.pending


def goes_wrong(kernel: ap.AsyncKernel, trips: int) -> str:
    """What can happen at this trip count in some order of steps; "" where nothing can."""
    stages = {r.name: r.stages for r in kernel.rings}
    written = {r.name for r in kernel.rings if r.written}
    lines = [line(kernel.producer, trips), *[line(kernel.consumer, trips)] * TEAMS]

    def phases(at: tuple[int, ...], ring: str, slot: int, full: bool) -> int:
        """Completions of a barrier. A slot's fills are those of its number; a copy may land at once."""
        kind = (ap.Write if ring in written else ap.Copy) if full else ap.Release
        filler = [0] if full and ring not in written else range(1, TEAMS + 1)
        counts = (lines[who].count(kind, ring, at[who]) for who in filler)
        arrivals = sum(len(range(slot, n, stages[ring])) for n in counts)
        return arrivals // len(filler)

    def passes(at: tuple[int, ...], who: int, s: ap.Statement) -> bool:
        if not isinstance(s, ap.WaitEmpty | ap.WaitFull):
            return True
        full = isinstance(s, ap.WaitFull)
        kind = ap.WaitFull if full else ap.Write if s.ring in written else ap.Copy
        number = lines[who].count(kind, s.ring, at[who])
        parity = (number // stages[s.ring] - (0 if full else 1)) % 2
        return phases(at, s.ring, number % stages[s.ring], full) % 2 != parity

    def harm(at: tuple[int, ...], who: int, s: ap.Statement) -> str:
        if isinstance(s, ap.Copy | ap.Write):
            old = lines[who].count(type(s), s.ring, at[who]) - stages[s.ring]
            for team in range(1, TEAMS + 1):
                if old >= 0 and any((s.ring, old) in r.fills and r.until >= at[team] for r in lines[team].reads):
                    return f"fill {old} of {s.ring} is overwritten before team {team} has read it"
        if isinstance(s, ap.IssueDot):
            for ring, fill in next(r for r in lines[who].reads if r.at == at[who]).fills:
                fillers = range(1, TEAMS + 1) if ring in written else [0]
                kind = ap.Write if ring in written else ap.Copy
                if fill < 0 or any(lines[f].count(kind, ring, at[f]) <= fill for f in fillers):
                    return f"team {who} reads fill {fill} of {ring} before it is there"
        return ""

    start = (0,) * (1 + TEAMS)
    seen, todo = {start}, [start]
    while todo:
        at = todo.pop()
        able = [w for w, n in enumerate(at) if n < len(lines[w].steps) and passes(at, w, lines[w].steps[n])]
        if not able and any(n < len(lines[w].steps) for w, n in enumerate(at)):
            return "everybody waits"
        for who in able:
            if found := harm(at, who, lines[who].steps[at[who]]):
                return found
            after = (*at[:who], at[who] + 1, *at[who + 1 :])
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return ""


@pytest.mark.parametrize("kernel", [meeting(1), meeting(2), meeting(3), plain()], ids=["1", "2", "3", "no meeting"])
def test_what_is_verified_for_one_team_holds_for_two(kernel: ap.AsyncKernel) -> None:
    assert isinstance(verify(kernel), Verified)
    assert not any(goes_wrong(kernel, trips) for trips in range(TRIPS + 1))


@pytest.mark.parametrize(
    ("missing", "stages", "what"),
    [
        (ap.WaitFull("W"), 1, "before it is there"),
        (ap.WaitFull("W"), 2, "before it is there"),
        (ap.WaitEmpty("W"), 1, "overwritten before team"),
        (ap.Write("W", WRITE.value), 2, "everybody waits"),
    ],
)
def test_without_a_meeting_two_teams_go_wrong(missing: ap.Statement, stages: int, what: str) -> None:
    assert what in goes_wrong(consumer(meeting(stages), dropped(missing)), TRIPS)


def test_every_small_change_that_is_verified_is_harmless_to_two_teams() -> None:
    kernel = meeting(2)
    tried = [body for _, body in neighbours(kernel.consumer)]
    verified = [k for body in tried if isinstance(verify(k := replace(kernel, consumer=body)), Verified)]
    assert len(tried) > 25 and 0 < len(verified) < len(tried) / 2
    for changed in verified:
        assert not goes_wrong(changed, TRIPS)

