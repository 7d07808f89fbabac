"""All states of an asynchronous program, in one order of steps or in all, and the rules that must hold in each.

The argument why these are enough stands in `lowering.hopper.protocol`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest

from lowering.hopper import async_program as ap
from lowering.hopper.control import Back, Do, End, Enter, Head, partitions, text, tiles, visible
from lowering.hopper.states import Canonical, Facts, Flight, Frame, Known, Path, Place, RingState, State, path
from lowering.hopper.trips import largest_constant
from lowering.hopper.verdict import Rule, Source, Use, Violation

LIMIT = 6_000  # states; a kernel of several loops has a few hundred


class Order(Enum):
    """Which orders of steps are tried."""

    LEVEL = "one: the partition that is behind in its loops goes first"
    SLOW_CONSUMER = "one: the consumer only goes on when the producer cannot"
    EVERY = "all of them"


class Broken(Exception):
    """A rule does not hold in the state at hand."""

    def __init__(self, rule: Rule, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class _Found:
    """A state, the one it was reached from (its number), and what happened on the way."""

    state: State
    parent: int | None
    events: tuple[str, ...]


class Explorer:
    """The states of a kernel. `found`: one of each kind; `sources`: every copy that fed each use."""

    def __init__(self, kernel: ap.AsyncKernel, order: Order) -> None:
        self.kernel = kernel
        self.order = order
        self.parts = partitions(kernel)
        self.rings = {ring.name: k for k, ring in enumerate(kernel.rings)}
        cap = 2 + 2 * largest_constant(block.trip for part in self.parts for block in part.blocks)
        self.canonical = Canonical(self.parts, tuple(ring.stages for ring in kernel.rings), cap)
        self.found: list[_Found] = []
        self.sources: dict[Use, set[Source]] = {}
        self.events: list[str] = []

    def explore(self) -> Violation | None:
        """Breadth first, so that the trace of the first violation found is short."""
        seen: set[object] = set()

        def add(state: State, parent: int | None, events: list[str]) -> None:
            key = self.canonical.key(state)
            if key not in seen:
                seen.add(key)
                self.found.append(_Found(state, parent, tuple(events)))

        at: int | None = None
        try:
            places = (Place(0, ()), Place(0, ()))
            start = State(places, (RingState(0, 0, 0, False, ()),) * len(self.kernel.rings), (), ())
            add(self.settled(self.settled(start, 0), 1), None, self.events)
            at = 0
            while at < len(self.found):
                following = self.following(self.found[at].state)
                for state, events in following:
                    add(state, at, events)
                if not following:
                    self.events = []
                    self.finished(self.found[at].state)
                if len(self.found) > LIMIT:
                    return Violation(Rule.UNDECIDED, f"more than {LIMIT} states", self.trace(at)[:40])
                at += 1
        except Broken as broken:
            return Violation(broken.rule, str(broken), (*self.trace(at), *self.events))
        return None

    def following(self, state: State) -> list[tuple[State, list[str]]]:
        """What can come next, in the order of steps that is tried."""
        first = self.behind(state) if self.order is Order.LEVEL else 0
        steps = list(self.steps(state, first))
        if self.order is Order.EVERY or not steps:
            steps += self.steps(state, 1 - first)
        return steps

    def behind(self, state: State) -> int:
        """The partition that is behind in the outermost loop in which they differ: in an earlier iteration, or still to
        come to the loop in which the other one is."""
        paths = [path(part, place.frames) for part, place in zip(self.parts, state.places, strict=True)]
        for mine, theirs in zip_longest(*paths):
            if mine and theirs and mine[0] == theirs[0]:
                if mine[1] != theirs[1]:
                    return int(mine[1] > theirs[1])
            elif mine and self.parts[1].ahead(mine[0], state.places[1].position, bounded=True):
                return 1
            else:
                return 0
        return 0

    def trace(self, at: int | None) -> tuple[str, ...]:
        events: list[str] = []
        while at is not None:
            events[:0] = self.found[at].events
            at = self.found[at].parent
        return tuple(events)

    def finished(self, state: State) -> None:
        """A state without a next step: both partitions have ended, with nothing in flight, or wait for ever."""
        stuck = []
        for part, place in zip(self.parts, state.places, strict=True):
            instruction = part.code[place.position]
            if isinstance(instruction, Do):
                ring = getattr(instruction.statement, "ring", "")
                full = isinstance(instruction.statement, ap.WaitFull)
                r = state.rings[self.rings[ring]]
                number = r.waited if full else r.copied
                stuck.append(f"the {part.name} waits until {self.slot(ring, number)} is {'full' if full else 'empty'}")
            else:
                stuck.append(f"the {part.name} has ended")
        if any("waits" in s for s in stuck):
            raise Broken(Rule.DEADLOCK, " and ".join(stuck))
        for ring, r in zip(self.kernel.rings, state.rings, strict=True):
            if r.waited < r.copied:
                raise Broken(Rule.LEFT_OVER, f"nobody waits for fill {r.waited} of {ring.name}")

    # ---- steps -------------------------------------------------------------------------------

    def steps(self, state: State, who: int) -> Iterator[tuple[State, list[str]]]:
        """What partition `who` can do next: one visible step, then everything up to the next one."""
        self.events = []
        place = state.places[who]
        match self.parts[who].code[place.position]:
            case Head(block=number, exit=exit_):
                for yes, known in self.answers(state, who):
                    self.events = []
                    here = state._replace(known=known)
                    if yes:
                        here = _moved(here, who, Place(place.position + 1, place.frames))
                    else:
                        self.level(state, who, "leaves")
                        here = _moved(here, who, Place(exit_, place.frames[:-1]))
                    loop = self.parts[who].blocks[number].loop
                    if isinstance(loop, ap.Loop):
                        turn = place.frames[-1].iteration
                        what = f"starts iteration {turn} of the loop over {loop.counter}"
                        self.say(who, what if yes else f"leaves the loop over {loop.counter} after {turn}")
                    yield self.settled(here, who), self.events
            case Do(statement=statement, site=site):
                done = self.visible_step(state, who, statement, site)
                if done is not None:
                    after = _moved(done, who, Place(place.position + 1, place.frames))
                    yield self.settled(after, who), self.events

    def visible_step(self, state: State, who: int, statement: ap.Statement, site: int) -> State | None:
        """The state after a step on a ring; None when it has to wait."""
        match statement:
            case ap.WaitEmpty(ring=ring):
                r = state.rings[self.rings[ring]]
                if r.released < r.copied - self.kernel.ring(ring).stages + 1:
                    return None
                self.say(who, f"finds {self.slot(ring, r.copied)} empty")
                return self.with_ring(state, ring, r._replace(empty=True))
            case ap.Copy(ring=ring):
                return self.copy(state, who, ring, site)
            case ap.WaitFull(ring=ring):
                r = state.rings[self.rings[ring]]
                if r.waited >= r.copied:
                    return None
                self.say(who, f"finds {self.slot(ring, r.waited)} full")
                return self.with_ring(state, ring, r._replace(waited=r.waited + 1))
            case ap.Release(ring=ring):
                r = state.rings[self.rings[ring]]
                what = self.slot(ring, r.released)
                if r.released >= r.waited:
                    raise Broken(Rule.RELEASED_AGAIN, f"consumer releases {what}, which it does not hold")
                for flight in state.flights:
                    if (self.rings[ring], r.released) in flight.reads:
                        early = f"consumer releases {what} while dot {flight.name} may still read it"
                        raise Broken(Rule.RELEASED_EARLY, early)
                self.say(who, f"releases {what}")
                return self.with_ring(state, ring, r._replace(released=r.released + 1, fills=r.fills[1:]))
        raise TypeError(f"not a visible statement: {statement}")

    def copy(self, state: State, who: int, ring: str, site: int) -> State:
        k = self.rings[ring]
        r = state.rings[k]
        old = r.copied - self.kernel.ring(ring).stages
        name = self.parts[who].name
        asked = self.order is Order.LEVEL or who == 1  # of written rings, always: other teams may read the slot
        if asked and old >= 0 and not r.empty:
            unasked = f"{name} fills {self.slot(ring, r.copied)} without waiting for it to be empty"
            raise Broken(Rule.OVERWRITTEN, unasked)
        if old >= r.released:
            reading = [f.name for f in state.flights if (k, old) in f.reads]
            why = (
                f"may still be read by dot {reading[0]}" if reading
                else "is held by the consumer" if old < r.waited
                else "has not been consumed"
            )  # fmt: skip
            text_ = f"{name} fills {self.slot(ring, r.copied)} while fill {old}, in the same slot, {why}"
            raise Broken(Rule.OVERWRITTEN, text_)
        fill = (site, path(self.parts[who], state.places[who].frames))
        self.say(who, f"{'starts a copy into' if who == 0 else 'writes'} {self.slot(ring, r.copied)}")
        return self.with_ring(state, ring, r._replace(copied=r.copied + 1, empty=False, fills=(*r.fills, fill)))

    def answers(self, state: State, who: int) -> list[tuple[bool, Facts]]:
        """Whether the loop at hand runs its next iteration, each answer with what is known then."""
        place = state.places[who]
        block, frame = self.parts[who].blocks[place.frames[-1].block], place.frames[-1]
        around = path(self.parts[who], place.frames[:-1])
        going = [state.known]
        ended: list[Facts] = []
        for line, c in sorted(block.limits, key=lambda limit: limit[0] is not None):
            number = frame.iteration - c
            if line is None:
                if number >= 0:
                    return [(False, state.known)]
                continue
            after: list[Facts] = []
            for known in going:
                facts = dict(known)
                before = facts.get((line, around), Known(None, None))
                told = before.exceeds(number)
                for yes in (True, False) if told is None else (told,):
                    facts[line, around] = before if told is not None else before.told(number, yes)
                    (after if yes else ended).append(tuple(facts.items()))
            going = after
        return [(True, known) for known in going] + [(False, known) for known in ended]

    def settled(self, state: State, who: int) -> State:
        """The state after the steps of partition `who` that the other one cannot see."""
        part = self.parts[who]
        while not visible(part.code[state.places[who].position]):
            place = state.places[who]
            match part.code[place.position]:
                case Enter(block=number, reads=reads):
                    self.retired(state, who, reads, "a loop")
                    self.level(state, who, "enters")
                    held = tuple(r.waited - r.released for r in state.rings)
                    state = _moved(state, who, Place(place.position + 1, (*place.frames, Frame(number, 0, held))))
                case Back(head=head):
                    self.level(state, who, "goes round")
                    frame = place.frames[-1]
                    for ring, r, before in zip(self.kernel.rings, state.rings, frame.held, strict=True):
                        if who == 1 and r.waited - r.released != before:
                            now = f"holds {r.waited - r.released} tiles of {ring.name} after an iteration"
                            raise Broken(Rule.ACROSS_EDGE, f"consumer {now}, {before} before it")
                    frames = (*place.frames[:-1], frame._replace(iteration=frame.iteration + 1))
                    state = _moved(state, who, Place(head, frames))
                case Do(statement=statement, reads=reads, site=site):
                    self.retired(state, who, reads, text(statement))
                    state = self.quiet_step(state, who, statement, site)
                    state = _moved(state, who, Place(place.position + 1, place.frames))
        if isinstance(part.code[state.places[who].position], End):
            self.level(state, who, "ends")
        return state

    def quiet_step(self, state: State, who: int, statement: ap.Statement, site: int) -> State:
        if isinstance(statement, ap.WaitDots):
            state = state._replace(flights=state.flights[max(0, len(state.flights) - statement.pending) :])
        if isinstance(statement, ap.Write):
            state = self.copy(state, who, statement.ring, site)
        reads = []
        for operand, tile in enumerate(tiles(statement)):
            k = self.rings[tile.ring]
            r = state.rings[k]
            fill = r.waited - 1 - tile.age
            if not r.released <= fill < r.waited:
                why = "has been released" if 0 <= fill < r.released else "has not been waited for"
                what = self.slot(tile.ring, max(fill, 0))
                raise Broken(Rule.NOT_HELD, f"consumer {text(statement)}, which reads {what}: it {why}")
            self.note(Use(site, operand), state, r.fills[fill - r.released])
            reads.append((k, fill))
        if isinstance(statement, ap.IssueDot):
            state = state._replace(flights=(*state.flights, Flight(statement.name, tuple(reads))))
        if tiles(statement) or isinstance(statement, ap.WaitDots):
            self.say(who, text(statement))
        return state

    def note(self, use: Use, state: State, fill: tuple[int, Path]) -> None:
        """Remember which copy fed a use, its counters relative to the consumer's."""
        here = dict(path(self.parts[1], state.places[1].frames))
        site, where = fill
        offsets = tuple(v - here[line] if line in here else None for line, v in where)
        self.sources.setdefault(use, set()).add(Source(site, offsets))

    def retired(self, state: State, who: int, reads: frozenset[str], what: str) -> None:
        for flight in state.flights:
            if who == 1 and flight.name in reads:
                raise Broken(Rule.NOT_RETIRED, f"consumer {what} with {flight.name}, a dot that may still be running")

    def level(self, state: State, who: int, what: str) -> None:
        for ring, r in zip(self.kernel.rings, state.rings, strict=True):
            if who == 1 and ring.written and r.waited != r.copied:
                rule = Rule.LEFT_OVER if what == "ends" else Rule.ACROSS_EDGE
                raise Broken(rule, f"consumer {what} with fill {r.waited} of {ring.name} written and not waited for")
        if who == 1 and state.flights:
            rule = Rule.LEFT_OVER if what == "ends" else Rule.ACROSS_EDGE
            raise Broken(rule, f"consumer {what} with dot {state.flights[0].name} in flight")

    # ---- small things ------------------------------------------------------------------------

    def slot(self, ring: str, fill: int) -> str:
        return f"{ring} slot {fill % self.kernel.ring(ring).stages} (fill {fill})"

    def say(self, who: int, what: str) -> None:
        self.events.append(f"{self.parts[who].name} {what}")

    def with_ring(self, state: State, ring: str, value: RingState) -> State:
        k = self.rings[ring]
        return state._replace(rings=(*state.rings[:k], value, *state.rings[k + 1 :]))


def _moved(state: State, who: int, place: Place) -> State:
    return state._replace(places=(place, state.places[1]) if who == 0 else (state.places[0], place))
