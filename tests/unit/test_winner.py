"""What is said of a winner on shapes it was not chosen by."""

from __future__ import annotations

import pytest

from synth.events import STANDARD, HeldOut, Measurement
from synth.jobs import Proof, Timed
from synth.propose import Candidate
from synth.search.tried import Tried
from synth.search.winner import held_out, kernel_gap, speedup


def at(seconds: float, name: str = "certified", shape: str = "a") -> Measurement:
    return Measurement(name, shape, (("N", 8),), seconds, 0.0, None)


def judged(times: tuple[float, ...], searched: float) -> HeldOut:
    """Leaders that take `times` on the held-out shape, where standard PyTorch takes 1; the first was chosen at
    `searched` times its speed."""
    chosen = Timed((at(1 / searched),))
    leaders = [Tried(Candidate(f"k{n}", ""), "", Proof(None), long=chosen) for n in range(len(times))]
    standard = at(1.0, STANDARD)
    (found,) = held_out(leaders, [standard], [Timed((standard,)), *(Timed((at(t),)) for t in times)])
    return found


def test_speedups_are_geometric_means_over_standard_pytorch_and_the_gap_over_the_fastest() -> None:
    peers = [at(4.0, STANDARD), at(2.0, "fused"), at(9.0, STANDARD, "b")]
    mine = [at(1.0), at(1.0, shape="b"), at(1.0, shape="untimed")]
    assert speedup(mine, peers) == pytest.approx(6.0)
    assert kernel_gap(mine, peers) == pytest.approx((2.0 * 9.0) ** 0.5)
    assert speedup(mine, []) == 0.0


def test_a_winner_that_holds_generalises() -> None:
    found = judged((0.5, 0.6), searched=2.0)
    assert found.generalises and not found.rival and found.speedup == pytest.approx(2.0)


def test_a_winner_that_falls_short_of_itself_does_not() -> None:
    found = judged((0.5, 0.6), searched=3.0)
    assert not found.generalises and not found.rival


def test_a_winner_that_another_finalist_beats_does_not_and_the_other_is_named() -> None:
    found = judged((0.5, 0.3), searched=2.0)
    assert not found.generalises and found.rival == "k1"


def test_a_winner_that_could_not_be_timed_is_not_spoken_of() -> None:
    leaders = [Tried(Candidate("k", ""), "", Proof(None))]
    assert not list(held_out(leaders, [], [Timed((at(1.0, STANDARD),)), Timed(problem="on purpose")]))
