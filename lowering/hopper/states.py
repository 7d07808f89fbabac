"""States of the two partitions, and when two of them have the same future.

`Canonical.key` maps a state to what its future depends on. Two states with one key can make the same steps and end in
states that again have one key, so following one of them is enough. The argument, piece by piece:

- rings: rules speak of differences of the three counts, and ask of a copy whether it is the first into its slot;
- a line (`lowering.hopper.control`) is renumbered: a number below `cap` is kept, from `cap` on it is taken less a
  shift s. Steps compare numbers on a line with each other or, where a loop is entered and in peeled loops, with the
  constants of loop bounds, all below `cap`. s is 0 as long as either partition may still enter an unbounded loop
  of the line, and otherwise the smallest number at which a partition is in such a loop, less `cap`, so that a length
  it went on for is known to be `cap` at least, and every comparison comes out the same in both states;
- of a length that only peeled loops can still ask about, it matters whether it exceeds their constants;
- what is known of a length that nobody can ask about again is dropped.
"""

from __future__ import annotations

from typing import NamedTuple

from lowering.hopper.control import Line, Partition

Path = tuple[tuple[Line, int], ...]  # the loops around a place: line and value of each counter, outermost first
Fill = tuple[int, Path]  # a copy: the producer's statement number, and where the producer was
Unknown = tuple[Line, Path]  # an integer nobody knows: a line of questions, in one iteration of the loops around


class Frame(NamedTuple):
    block: int
    iteration: int
    held: tuple[int, ...]  # tiles of each ring held when the loop was entered


class Place(NamedTuple):
    position: int
    frames: tuple[Frame, ...]


class RingState(NamedTuple):
    """Counts since the start. `empty`: the producer has waited for the slot of the next copy. `fills`: those not
    released, oldest first."""

    copied: int
    waited: int
    released: int
    empty: bool
    fills: tuple[Fill, ...]


class Flight(NamedTuple):
    name: str
    reads: tuple[tuple[int, int], ...]  # ring, fill


class Known(NamedTuple):
    """low <= L, L <= high; None: nothing known."""

    low: int | None
    high: int | None

    def exceeds(self, number: int) -> bool | None:
        """L > number, if that is known."""
        if self.low is not None and self.low > number:
            return True
        return False if self.high is not None and self.high <= number else None

    def told(self, number: int, yes: bool) -> Known:
        """Also knowing that L > number, or that it is not."""
        return Known(number + 1, self.high) if yes else Known(self.low, number)


Facts = tuple[tuple[Unknown, Known], ...]


class State(NamedTuple):
    places: tuple[Place, Place]  # producer, consumer
    rings: tuple[RingState, ...]
    flights: tuple[Flight, ...]  # dots not retired, oldest first
    known: Facts


def path(part: Partition, frames: tuple[Frame, ...]) -> Path:
    """Where a partition is: line and value of the counter of each loop around it."""
    return tuple((part.blocks[f.block].counter, part.blocks[f.block].trip.first + f.iteration) for f in frames)


_FAR = 2**40  # sets shifted numbers apart from those that are kept


class Canonical:
    """The key of a state; see the module docstring."""

    def __init__(self, parts: tuple[Partition, Partition], stages: tuple[int, ...], cap: int) -> None:
        self.parts = parts
        self.stages = stages
        self.cap = cap

    def key(self, state: State) -> object:
        paths = [path(part, place.frames) for part, place in zip(self.parts, state.places, strict=True)]
        shifts: dict[Unknown, int | None] = {}

        def shift(line: Line, around: Path) -> int | None:
            if (line, around) not in shifts:
                shifts[line, around] = self.shift(line, around, state, paths)
            return shifts[line, around]

        def renumbered(whole: Path) -> object:
            return tuple((line, self.number(v, shift(line, whole[:d]))) for d, (line, v) in enumerate(whole))

        places = []
        for part, place, here in zip(self.parts, state.places, paths, strict=True):
            asked = tuple(
                self.number(f.iteration - c, shift(line, here[:d]))
                for d, f in enumerate(place.frames)
                for line, c in part.blocks[f.block].limits
                if line is not None
            )
            frames = tuple((f.block, f.held) for f in place.frames)
            places.append((place.position, frames, renumbered(here), asked))
        rings = tuple(
            (
                *(r.copied - r.waited, r.waited - r.released, min(r.copied, stages), r.empty),
                *((site, renumbered(where)) for site, where in r.fills),
            )
            for r, stages in zip(state.rings, self.stages, strict=True)
        )
        flights = tuple(
            (f.name, tuple((k, fill - state.rings[k].released) for k, fill in f.reads)) for f in state.flights
        )
        known = []
        for (line, around), facts in state.known:
            s = shift(line, around)
            if s is None and around and all(here[: len(around)] != around for here in paths):
                continue
            known.append((line, renumbered(around), self.facts(facts, s)))
        return (tuple(places), rings, flights, frozenset(known))

    def number(self, n: int, s: int | None) -> int:
        return n if n < self.cap else n - (s or 0) + _FAR

    def facts(self, known: Known, s: int | None) -> object:
        if s is not None:
            return tuple(None if n is None else self.number(n, s) for n in known)
        low = None if known.low is None else min(known.low, self.cap)
        return (low, known.high if known.high is not None and known.high < self.cap else None)

    def shift(self, line: Line, around: Path, state: State, paths: list[Path]) -> int | None:
        """By how much the numbers of a line in one iteration of the loops around are less in the key; None when no
        unbounded loop of either partition is on the line any more."""
        both = zip(self.parts, state.places, paths, strict=True)
        at = [n for part, place, here in both if (n := self.place(line, around, part, place, here)) is not None]
        if not at:
            # Only copies that nobody waited for yet are left on a line of counters: their order is what matters.
            left = [w[len(around)][1] for r in state.rings for _, w in r.fills if len(w) > len(around)
                    and w[: len(around)] == around and w[len(around)][0] == line]  # fmt: skip
            return max(0, min(left) - self.cap) if left else None
        return max(0, min(at) - self.cap)

    def place(self, line: Line, around: Path, part: Partition, place: Place, here: Path) -> int | None:
        """Where a partition is on a line: 0 if it has yet to come to it, None if it has left it behind."""
        for (mine, v), (theirs, w) in zip(here, around, strict=False):
            if mine != theirs:
                return 0 if part.ahead(line, place.position, bounded=True) else None
            if v != w:  # behind, or past it for good
                return 0 if v < w or part.ahead(mine, place.position + 1, bounded=True) else None
        depth = len(around)
        if len(here) < depth:
            return 0 if part.ahead(line, place.position, bounded=True) else None
        if len(here) > depth:
            frame = place.frames[depth]
            block = part.blocks[frame.block]
            if not block.trip.bounded:
                if line == block.counter:
                    return here[depth][1]
                for one, c in block.limits:
                    if one == line:
                        return frame.iteration - c
        return 0 if part.ahead(line, place.position, bounded=False) else None

