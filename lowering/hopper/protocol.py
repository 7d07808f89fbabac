"""Does the asynchronous program keep its protocol: for every trip count, in every order of events?

Decides, for an `AsyncKernel`, that no wait waits for ever, no slot is overwritten while it may be read, nothing is read
before its copy is complete, no dot's result is used before the dot is retired, and nothing is in flight at the end;
the contract is the page `lowering.hopper.async_program`. The answer is `Verified`, or a `Violation` with a shortest
order of events that shows it.

**Method.** All reachable states of the two partitions are enumerated, every order of their steps included. A state is
where each partition is, how many copies, waits and releases of each ring there were, which dots are not retired, and
what is known of loop lengths. Loop lengths are unknown integers: the first partition that asks whether a loop goes
on gets both answers, the other one the same answer where it asks the same question. There are infinitely many states,
but what can happen next depends only on differences: fills issued minus fills waited for minus fills released; a
counter minus where the slower partition is on the same line; and of a length, whether it exceeds the few constants
that peeled loops compare it with (`_CAP` lies above them all). So a state is stored under its differences (`_key`), and
not followed further when one with the same differences has been: the set of keys is finite when the producer cannot
run away from the consumer, and if it is not, the kernel is refused at `LIMIT` states. Hence "every trip count".

**Why these steps are enough.**
- Steps that the other partition cannot see (arithmetic, reads of held tiles, issuing and retiring dots) are
  taken together with the visible step before them: they commute with all steps of the other partition (Lipton 1975).
- A copy has no step for its landing: only a wait on its `full` barrier can tell, so landing is put just before that
  wait, and until then the slot counts as being written. Likewise a dot retires when a `WaitDots` says so, and until
  then it counts as reading its operands and writing its result: what may happen at any time happens at the worst.
- Copies, waits and releases are numbered by counting, so slots and parities need no state: in every state reached,
  released <= waited for <= copied <= released + stages, of each ring. Hence at a wait for completion number c of a
  barrier, c or c + 1 completions have happened, never fewer or more, and the parity that c implies tells these apart.
- If no order of steps has a conflict, then ordering by barriers alone is what the hardware guarantees: a program
  without data races behaves as if its steps were interleaved (PTX ISA, Memory Consistency Model).
- Termination: each partition executes finitely many statements for given sizes, and no state without a next step is
  reachable before both have ended.
- A consumer of w warps is one partition: all of them execute the same statements, each waits for itself, and a
  release counts once all of them have come to it (a barrier of the partition before the one arrival), so the
  slowest warp is the one that is modelled.

**Assumed of the hardware** (PTX ISA 8.x and 9.0, by section):
- "Parallel Synchronization: mbarrier": a phase completes when its expected arrivals have come and its transaction count
  is zero; `try_wait.parity` returns true when the phase of that parity is complete; arrive has release and wait
  acquire semantics; both barriers of a slot are initialised, with a fence, before either partition starts.
- "cp.async.bulk.tensor" with `mbarrier::complete_tx::bytes`: the bytes written, cells outside the tensor included,
  are counted on the barrier, and are visible to who waited for that phase; the copy writes in the async proxy.
- "wgmma.mma_async", "wgmma.wait_group": groups complete in the order committed; until then registers of the accumulator
  and of operand A, and the shared operands, must not be touched; completion makes results visible.
- "Async proxy": a slot read by ordinary loads (`Read`) and then given to a copy needs a proxy fence before its release;
  the emitted text must have it (`lowering.hopper.readback` looks).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from lowering.hopper.async_program import (
    AsyncKernel,
    Copy,
    IssueDot,
    Loop,
    Release,
    WaitDots,
    WaitEmpty,
    WaitFull,
)
from lowering.hopper.control import Back, Do, End, Enter, Head, partitions, text, tiles, visible
from lowering.hopper.states import Canonical, Facts, Flight, Frame, Known, Path, Place, RingState, State, path
from lowering.hopper.trips import largest_constant
from lowering.hopper.wellformed import defects

LIMIT = 20_000  # states; a forward kernel has a few hundred


class Rule(Enum):
    """What can be wrong with a protocol."""

    MALFORMED = "a statement that means nothing: an unknown ring, a name assigned twice or not at all, a wrong shape"
    DEADLOCK = "a partition waits for something that never happens"
    OVERWRITTEN = "a copy writes a slot that has not been released"
    NOT_HELD = "a tile is read that has not been waited for, or has been released"
    RELEASED_EARLY = "a slot is released while a dot that is not retired may read it"
    RELEASED_AGAIN = "a slot is released that is not held"
    NOT_RETIRED = "the result of a dot is used before the dot is retired"
    ACROSS_EDGE = "dots in flight or tiles held do not agree at the edges of a loop"
    LEFT_OVER = "a partition ends with a copy or a dot in flight"
    UNDECIDED = "too many states: one partition can run away from the other"


@dataclass(frozen=True, slots=True)
class Use:
    """Where the consumer reads a tile: its statement's number, and the operand (0 is the only or the left one)."""

    site: int
    operand: int


@dataclass(frozen=True, slots=True)
class Source:
    """Which copy fills what a `Use` reads: the producer's statement number, and for each of its loops, outermost
    first, how far its counter is ahead of the consumer's on the same line (None: the consumer is not on it)."""

    site: int
    offsets: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """`sources`: every copy that can feed each use; one each in a kernel that means one thing."""

    states: int
    seconds: float
    sources: dict[Use, frozenset[Source]]


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    message: str
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join((f"{self.message} ({self.rule.value})", *self.trace))


class ProtocolViolated(Exception):
    """The asynchronous program breaks its protocol; nothing may be emitted from it."""


def verify(kernel: AsyncKernel) -> Verified | Violation:
    """Explore every state of `kernel`; see the module docstring."""
    begun = time.perf_counter()
    found = defects(kernel)
    if found:
        return Violation(Rule.MALFORMED, found[0])
    explorer = _Explorer(kernel)
    violation = explorer.explore()
    if violation:
        return violation
    sources = {use: frozenset(found) for use, found in explorer.sources.items()}
    return Verified(len(explorer.found), time.perf_counter() - begun, sources)


def require(kernel: AsyncKernel) -> Verified:
    """The `Verified` of `kernel`; raises ProtocolViolated."""
    verdict = verify(kernel)
    if isinstance(verdict, Violation):
        raise ProtocolViolated(f"{kernel.name}: {verdict}")
    return verdict


# ---- exploration -----------------------------------------------------------------------------


class _Broken(Exception):
    def __init__(self, rule: Rule, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class _Found:
    """A state, the one it was reached from (its number), and what happened on the way."""

    state: State
    parent: int | None
    events: tuple[str, ...]


class _Explorer:
    def __init__(self, kernel: AsyncKernel) -> None:
        self.kernel = kernel
        self.parts = partitions(kernel)
        self.rings = {ring.name: k for k, ring in enumerate(kernel.rings)}
        cap = 2 + 2 * largest_constant(block.trip for part in self.parts for block in part.blocks)
        self.canonical = Canonical(self.parts, cap)
        self.found: list[_Found] = []
        self.sources: dict[Use, set[Source]] = {}
        self.events: list[str] = []

    def explore(self) -> Violation | None:
        """Breadth first, so that the first violation found has a shortest trace."""
        seen: set[object] = set()

        def add(state: State, parent: int | None, events: list[str]) -> None:
            key = self.canonical.key(state)
            if key not in seen:
                seen.add(key)
                self.found.append(_Found(state, parent, tuple(events)))

        at: int | None = None
        try:
            places = (Place(0, ()), Place(0, ()))
            start = State(places, (RingState(0, 0, 0, ()),) * len(self.kernel.rings), (), ())
            add(self.settled(self.settled(start, 0), 1), None, self.events)
            at = 0
            while at < len(self.found):
                following = [step for who in (0, 1) for step in self.steps(self.found[at].state, who)]
                for state, events in following:
                    add(state, at, events)
                if not following:
                    self.events = []
                    self.finished(self.found[at].state)
                if len(self.found) > LIMIT:
                    return Violation(Rule.UNDECIDED, f"more than {LIMIT} states", self.trace(at)[:40])
                at += 1
        except _Broken as broken:
            return Violation(broken.rule, str(broken), (*self.trace(at), *self.events))
        return None

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
                full = isinstance(instruction.statement, WaitFull)
                r = state.rings[self.rings[ring]]
                number = r.waited if full else r.copied
                stuck.append(f"the {part.name} waits until {self.slot(ring, number)} is {'full' if full else 'empty'}")
            else:
                stuck.append(f"the {part.name} has ended")
        if any("waits" in s for s in stuck):
            raise _Broken(Rule.DEADLOCK, " and ".join(stuck))
        for ring, r in zip(self.kernel.rings, state.rings, strict=True):
            if r.waited < r.copied:
                raise _Broken(Rule.LEFT_OVER, f"nobody waits for fill {r.waited} of {ring.name}")

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
                    if isinstance(loop, Loop):
                        turn = place.frames[-1].iteration
                        what = f"starts iteration {turn} of the loop over {loop.counter}"
                        self.say(who, what if yes else f"leaves the loop over {loop.counter} after {turn}")
                    yield self.settled(here, who), self.events
            case Do(statement=statement, site=site):
                done = self.visible_step(state, who, statement, site)
                if done is not None:
                    after = _moved(done, who, Place(place.position + 1, place.frames))
                    yield self.settled(after, who), self.events

    def visible_step(self, state: State, who: int, statement: object, site: int) -> State | None:
        """The state after a step on a ring; None when it has to wait."""
        match statement:
            case WaitEmpty(ring=ring):
                r = state.rings[self.rings[ring]]
                if r.released < r.copied - self.kernel.ring(ring).stages + 1:
                    return None
                self.say(who, f"finds {self.slot(ring, r.copied)} empty")
                return state
            case Copy(ring=ring):
                return self.copy(state, who, ring, site)
            case WaitFull(ring=ring):
                r = state.rings[self.rings[ring]]
                if r.waited >= r.copied:
                    return None
                self.say(who, f"finds {self.slot(ring, r.waited)} full")
                return self.with_ring(state, ring, r._replace(waited=r.waited + 1))
            case Release(ring=ring):
                r = state.rings[self.rings[ring]]
                what = self.slot(ring, r.released)
                if r.released >= r.waited:
                    raise _Broken(Rule.RELEASED_AGAIN, f"consumer releases {what}, which it does not hold")
                for flight in state.flights:
                    if (self.rings[ring], r.released) in flight.reads:
                        early = f"consumer releases {what} while dot {flight.name} may still read it"
                        raise _Broken(Rule.RELEASED_EARLY, early)
                self.say(who, f"releases {what}")
                return self.with_ring(state, ring, r._replace(released=r.released + 1, fills=r.fills[1:]))
        raise TypeError(f"not a visible statement: {statement}")

    def copy(self, state: State, who: int, ring: str, site: int) -> State:
        k = self.rings[ring]
        r = state.rings[k]
        old = r.copied - self.kernel.ring(ring).stages
        if old >= r.released:
            reading = [f.name for f in state.flights if (k, old) in f.reads]
            why = (
                f"may still be read by dot {reading[0]}" if reading
                else "is held by the consumer" if old < r.waited
                else "has not been consumed"
            )  # fmt: skip
            text_ = f"producer fills {self.slot(ring, r.copied)} while fill {old}, in the same slot, {why}"
            raise _Broken(Rule.OVERWRITTEN, text_)
        fill = (site, path(self.parts[who], state.places[who].frames))
        self.say(who, f"starts a copy into {self.slot(ring, r.copied)}")
        return self.with_ring(state, ring, r._replace(copied=r.copied + 1, fills=(*r.fills, fill)))

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
                            raise _Broken(Rule.ACROSS_EDGE, f"consumer {now}, {before} before it")
                    frames = (*place.frames[:-1], frame._replace(iteration=frame.iteration + 1))
                    state = _moved(state, who, Place(head, frames))
                case Do(statement=statement, reads=reads, site=site):
                    self.retired(state, who, reads, text(statement))
                    state = self.quiet_step(state, who, statement, site)
                    state = _moved(state, who, Place(place.position + 1, place.frames))
        if isinstance(part.code[state.places[who].position], End):
            self.level(state, who, "ends")
        return state

    def quiet_step(self, state: State, who: int, statement: object, site: int) -> State:
        if isinstance(statement, WaitDots):
            state = state._replace(flights=state.flights[max(0, len(state.flights) - statement.pending) :])
        reads = []
        for operand, tile in enumerate(tiles(statement)):  # type: ignore[arg-type]
            k = self.rings[tile.ring]
            r = state.rings[k]
            fill = r.waited - 1 - tile.age
            if not r.released <= fill < r.waited:
                why = "has been released" if 0 <= fill < r.released else "has not been waited for"
                what = self.slot(tile.ring, max(fill, 0))
                raise _Broken(Rule.NOT_HELD, f"consumer {text(statement)}, which reads {what}: it {why}")  # type: ignore[arg-type]
            self.note(Use(site, operand), state, r.fills[fill - r.released])
            reads.append((k, fill))
        if isinstance(statement, IssueDot):
            state = state._replace(flights=(*state.flights, Flight(statement.name, tuple(reads))))
        if tiles(statement) or isinstance(statement, WaitDots):  # type: ignore[arg-type]
            self.say(who, text(statement))  # type: ignore[arg-type]
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
                raise _Broken(Rule.NOT_RETIRED, f"consumer {what} with {flight.name}, a dot that may still be running")

    def level(self, state: State, who: int, what: str) -> None:
        if who == 1 and state.flights:
            rule = Rule.LEFT_OVER if what == "ends" else Rule.ACROSS_EDGE
            raise _Broken(rule, f"consumer {what} with dot {state.flights[0].name} in flight")

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
