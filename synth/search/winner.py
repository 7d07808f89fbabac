"""What the winner is worth on shapes that selection never saw.

Selecting the fastest of many on some shapes finds the fastest on those shapes, and also the luckiest. The held-out
shapes are measured once, after selection, and never enter it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from synth.events import STANDARD, HeldOut, Measurement
from synth.jobs import Timed
from synth.search.tried import Tried

SHORTFALL = 0.8  # of what it reached on the search shapes, or of the best finalist on the held-out ones


def speedup(measurements: Sequence[Measurement], peers: Sequence[Measurement]) -> float:
    """Geometric mean, over shapes, of standard PyTorch's time over this one's; 0 where nothing can be compared."""
    return _over(measurements, [peer for peer in peers if peer.name == STANDARD])


def kernel_gap(measurements: Sequence[Measurement], peers: Sequence[Measurement]) -> float:
    """The same over the fastest that the framework has for each shape, its own fused kernels included."""
    return _over(measurements, peers)


def _over(measurements: Sequence[Measurement], peers: Sequence[Measurement]) -> float:
    best: dict[str, float] = {}
    for peer in peers:
        best[peer.shape] = min(peer.seconds, best.get(peer.shape, math.inf))
    ratios = [best[m.shape] / m.seconds for m in measurements if m.shape in best]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else 0.0


def held_out(leaders: Sequence[Tried], searched: Sequence[Measurement], answers: Sequence[Timed]) -> Iterator[HeldOut]:
    """`answers`: standard PyTorch's, then one per leader, best first. Yields the winner's, if it could be timed."""
    peers, *timed = answers
    if not timed or timed[0].problem or peers.problem:
        return
    winner = leaders[0]
    there = speedup(timed[0].measurements, peers.measurements)
    here = speedup(winner.measurements, searched)
    others = {
        leader.candidate.name: speedup(t.measurements, peers.measurements)
        for leader, t in zip(leaders, timed, strict=True)
        if not t.problem
    }
    best = max(others, key=others.__getitem__)
    rival = best if there < SHORTFALL * others[best] else ""
    generalises = there >= SHORTFALL * here and not rival
    yield HeldOut(winner.candidate, timed[0].measurements, peers.measurements, there, here, generalises, rival)
