"""How long one iteration of a loop takes when several warps share a partition: a small simulation, not a formula.

A partition (a quarter of a processor) has one issue slot a clock, units that each warp instruction holds for some
cycles, and a tensor core that serves the asynchronous products of all its warps in turn. Its warps run the phases
that the compiler's code consists of (`lowering.phases`) and stop where that code stops: for their products, for loads
that take their time, at barriers of their program. Whoever has waited longest goes first, as the hardware's
schedulers do; the rest get what it leaves. What overlaps and what does not then follows from the code: softmax of one
warp group runs under the products of another unless a barrier keeps them together.

Products keep their sums in registers, so what warps issue meanwhile takes time of the register file from them
(`PORTS`). Between two events every warp goes at a constant rate, so time advances from event to event. The other three
partitions do the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

UNITS = ("issue", "fma", "alu", "special", "shared", "tensor")
LAPS = 8  # iterations simulated; the second half is measured
QUEUE = 4  # groups of products of one warp that may be under way
MEETING = 30.0  # cycles a barrier takes when all are there
PORTS = 0.3  # cycles that an issued instruction takes from running products: see docs/cost.md
INSTANT = 1e-3  # cycles: what is left of a phase counts as done, or rounding could stop time
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Phase:
    """`demands` in cycles of UNITS, `alone` the cycles without company, `dots` cycles of products started at its end;
    `until`, `left`, `groups`, `asks` as in `lowering.phases`."""

    until: str
    left: int
    alone: float
    demands: tuple[float, ...]
    dots: float
    groups: int
    asks: int


def phase_of(found: Mapping[str, Any], tensor: float = 0.0) -> Phase:
    """A phase as the compiler's summary says it; `tensor` cycles where its products do not tell their shape."""
    demands = tuple(float(found.get(unit, 0)) for unit in UNITS)
    dots = float(found.get("dots", 0)) or tensor * found.get("started", 0)
    return Phase(
        found["until"], found["left"], max(float(found["alone"]), *demands), demands, dots,
        found.get("groups", 0), found.get("asks", 0),
    )  # fmt: skip


@dataclass(slots=True)
class _Warp:
    """`at`: index of its phase; `done` of it, 0 to 1; `since`: until when it waits, but for `pending` groups of
    products; `met`: barriers it has come to; `products`: cycles left of each group, in order; `copies`: when each group
    of them ends."""

    program: int
    phases: Sequence[Phase]
    warps: int
    since: float
    at: int = 0
    done: float = 0.0
    met: int = 0
    stopped: bool = False
    laps: list[float] = field(default_factory=list)
    products: list[list[float]] = field(default_factory=list)
    pending: list[list[float]] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)

    def runs(self, now: float) -> bool:
        return self.since <= now and not self.stopped and all(rest <= INSTANT for (rest,) in self.pending)

    def product(self) -> list[float] | None:
        """The group that the tensor core works on for this warp."""
        return next((group for group in self.products[-QUEUE:] if group[0] > INSTANT), None)


@lru_cache(maxsize=4096)
def iteration(
    roles: tuple[tuple[tuple[Phase, ...], int], ...], resident: int, stages: int, far: float, partitions: int = 4
) -> float:
    """Cycles from one iteration to the next with `resident` programs on a processor, each with the given roles: the
    phases of a loop and how many warps run it. `stages` is how many iterations a signal's loads are ahead, `far` the
    cycles a load takes."""
    warps: list[_Warp] = []
    lap = max(sum(p.alone + p.dots for p in phases) for phases, _ in roles)
    for program in range(resident):
        for phases, count in roles:
            # fewer warps than partitions: several programs take turns on them
            here = (program + 1) * count // partitions - program * count // partitions
            begin = lap * program / resident  # programs do not begin at the same time
            warps += [_Warp(program, phases, sum(n for _, n in roles), begin) for _ in range(here)]
    if not warps:
        warps = [_Warp(0, roles[0][0], roles[0][1], 0.0)]
    now = 0.0
    while min(len(w.laps) for w in warps) < LAPS and max(len(w.laps) for w in warps) < 4 * LAPS:
        running = sorted((w for w in warps if w.runs(now)), key=lambda w: w.since)
        rates, issued = _rates(running)
        groups = [group for w in warps if (group := w.product()) is not None]
        speed = (1.0 - PORTS * issued) / len(groups) if groups else 0.0
        ends = [now + (1.0 - w.done) / rate for w, rate in zip(running, rates, strict=True) if rate > 0.0]
        ends += [now + rest / speed for (rest,) in groups]
        ends += [w.since for w in warps if w.since > now and not w.stopped]
        after = min(ends, default=NEVER)
        if after == NEVER:
            break  # everybody waits at a barrier for a warp that never comes: other roles' code, not modelled
        for group in groups:
            group[0] -= speed * (after - now)
        for w, rate in zip(running, rates, strict=True):
            w.done += rate * (after - now)
        now = after
        for w, rate in zip(running, rates, strict=True):
            if 1.0 - w.done <= INSTANT * rate:
                _finish(w, now, stages, far, warps)
    finished = [w for w in warps if len(w.laps) >= LAPS] or [w for w in warps if len(w.laps) > 1]
    spans = [(w.laps[-1] - w.laps[len(w.laps) // 2 - 1]) / (len(w.laps) - len(w.laps) // 2) for w in finished]
    return sum(spans) / len(spans) if spans else sum(p.alone + p.dots for p in warps[0].phases)


def _rates(running: Sequence[_Warp]) -> tuple[list[float], float]:
    """Phases a cycle that each may do, the one that has waited longest first; and the share of issue slots used."""
    rest = [1.0] * len(UNITS)
    rates = []
    for w in running:
        phase = w.phases[w.at]
        rate = min(
            1.0 / max(phase.alone, INSTANT),
            *(left / need if need else NEVER for left, need in zip(rest, phase.demands, strict=True)),
        )
        rest = [max(0.0, left - rate * need) for left, need in zip(rest, phase.demands, strict=True)]
        rates.append(rate)
    return rates, 1.0 - rest[0]


def _finish(w: _Warp, now: float, stages: int, far: float, warps: Sequence[_Warp]) -> None:
    """A warp has issued a phase: start what it starts, see until when it waits."""
    phase = w.phases[w.at]
    if phase.dots:
        w.products.append([phase.dots])
    w.copies += [now + far] * phase.groups
    w.done, w.since, w.pending = 0.0, now, []
    match phase.until:
        case "dots":
            w.pending = w.products[: len(w.products) - phase.left][-QUEUE:]
        case "loads":
            w.since = _older(w.copies, phase.left, now)
        case "signal":
            if not any(p.until == "dots" for p in w.phases):  # where products, too, are announced in memory
                w.pending = w.products[-QUEUE:]
            w.since = _older(w.copies, (stages - 1) * sum(p.groups for p in w.phases if p.asks), now)
        case "barrier" if not 0 < phase.left <= w.warps // 2:
            w.met += 1
            w.stopped = True
            _meet(w.program, now, warps)
    w.at += 1
    if w.at == len(w.phases):
        w.at = 0
        w.laps.append(now)


def _older(ends: Sequence[float], left: int, now: float) -> float:
    """When all but the last `left` groups have ended."""
    return max(now, *ends[: len(ends) - left]) if len(ends) > left else now


def _meet(program: int, now: float, warps: Sequence[_Warp]) -> None:
    """Let the warps of a program go on when all of them have come to the same barrier."""
    own = [w for w in warps if w.program == program]
    fewest = min(w.met for w in own)
    for w in own:
        if w.stopped and w.met <= fewest:
            w.stopped = False
            w.since = max(w.since, now + MEETING)
