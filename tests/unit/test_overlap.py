"""The cost model's simulation and matching: what physics says is faster is faster, and by about as much."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from synth.bench.counts import Cycle
from synth.bench.matching import match, turn_of
from synth.bench.overlap import Phase, iteration, phase_of


def phase(until: str = "", left: int = 0, **counts: float) -> Phase:
    return phase_of({"until": until, "left": left, "alone": 0, **counts})


def softmax(**changed: float) -> Phase:
    usual = {"alone": 700, "issue": 340, "fma": 170, "alu": 240, "special": 270, "dots": 256}
    return phase("start", **{**usual, **changed})


def attention(*middle: Phase) -> tuple[Phase, ...]:
    """Scores, softmax, values: two groups of products, the first waited for at once."""
    return (phase("start", alone=180, issue=100, dots=256), phase("dots", alone=10), *(middle or (softmax(),)))


def cycles(phases: tuple[Phase, ...], warps: int = 8, resident: int = 1, stages: int = 3, far: float = 500.0) -> float:
    return iteration(((phases, warps),), resident, stages, far)


def test_one_warp_takes_the_sum_of_its_phases() -> None:
    only = (phase(alone=100, issue=50), phase(alone=40, issue=40))
    assert cycles(only, warps=4) == pytest.approx(140)


def test_no_unit_does_more_than_it_can() -> None:
    """Sixteen warps on four partitions: four of each share 100 cycles of the special unit an iteration."""
    only = (phase(alone=120, issue=20, special=100),)
    assert cycles(only, warps=16) == pytest.approx(400, rel=0.05)
    tensor = attention()
    assert cycles(tensor, warps=8, resident=2) >= 2 * 2 * 512


def test_softmax_of_one_group_runs_under_the_products_of_another() -> None:
    """A group alone takes products and softmax one after the other; a second one fills the gaps, not all of them."""
    one, two = cycles(attention(), warps=4), cycles(attention(), warps=8)
    assert one > 256 + 700
    assert max(one, 2 * 512) < two < 2 * one * 0.85


def test_two_programs_overlap_what_one_of_twice_the_size_cannot() -> None:
    """Eight warps that meet at a barrier in every iteration, against two programs of four that do not meet."""
    meeting = attention(softmax(), phase("barrier"))
    assert cycles(meeting, warps=4, resident=2) < cycles(meeting, warps=8, resident=1)


def test_fewer_exponentials_are_faster_where_they_are_the_limit_and_nowhere_else() -> None:
    def at(special: float, dots: float) -> float:
        scores = phase("start", alone=50, issue=50, dots=dots)
        return cycles((scores, phase("dots"), phase(alone=special, issue=100, special=special)), warps=16)

    assert at(200, 50) < 0.6 * at(400, 50)
    assert at(200, 1000) == pytest.approx(at(300, 1000), rel=0.05)  # products hide both


def test_each_stage_more_hides_more_of_a_load() -> None:
    """Asked for at the end of an iteration, waited for at the start of one: `stages` - 2 whole ones lie between."""

    def at(stages: int, far: float) -> float:
        body = (phase("loads", left=stages - 2), phase(alone=300, issue=100, groups=1))
        return cycles(body, warps=4, stages=stages, far=far)

    assert at(2, 600.0) == pytest.approx(300 + 600)
    assert at(2, 600.0) > at(3, 600.0) > at(4, 600.0)
    assert at(4, 600.0) == pytest.approx(300, rel=1e-3)  # nothing left to hide


def test_a_warp_that_waits_for_others_code_is_no_endless_loop() -> None:
    """Roles that meet at different numbers of barriers cannot be simulated; the sum of phases is the answer."""
    roles = (((phase("barrier", alone=50),), 4), ((phase(alone=70), phase("barrier"), phase("barrier")), 4))
    assert 0.0 < iteration(roles, 1, 2, 500.0) < 1e4


# ---- which loop is which -------------------------------------------------------------------------------------


def cycle(dots: float = 0.0, special: float = 0.0) -> Cycle:
    return Cycle(1, np.full(1, 10.0), np.ones(1), dots, special)


def block(flops: int = 0, special: float = 0.0, issue: int = 100, **ops: int) -> dict[str, Any]:
    phases = [{"until": "", "left": 0, "alone": issue, "issue": issue, "special": special}]
    return {"depth": 1, "phases": phases, "ops": ops, "flops": flops, "spills": 0}


def test_loops_are_matched_by_their_products_in_order() -> None:
    body, tail, walk = cycle(8e6), cycle(8e6), cycle()
    blocks = [block(10**6, issue=200), block(issue=30), block(10**6, issue=300)]
    found = match([body, tail, walk], blocks, 8, False)
    assert found is not None
    assert [(m.loop, m.roles[0][0]) for m in found] == [(body, blocks[0]), (tail, blocks[2]), (walk, blocks[1])]


def test_unrolling_is_seen_by_work_and_repetition_is_not_unrolling() -> None:
    program = cycle(8e6, special=8192)
    (once,) = match([program], [block(10**6, special=8192 / 4 / 8)], 8, False) or ()
    (twice,) = match([program], [block(2 * 10**6, special=2 * 8192 / 4 / 8)], 8, False) or ()
    (repeated,) = match([program], [block(2 * 10**6, special=8192 / 4 / 8)], 8, False) or ()
    assert (once.unroll, twice.unroll, repeated.unroll) == (1, 2, 1)


def test_what_does_not_fit_together_is_not_matched() -> None:
    assert match([cycle(8e6), cycle(8e6)], [block(10**6)], 8, False) is None


def test_roles_of_a_specialised_kernel_share_one_loop() -> None:
    (found,) = match([cycle(8e6)], [block(10**6), block(10**6), block(UTMALDG=2)], 12, True) or ()
    assert [warps for _, warps in found.roles] == [4, 4]
    (one,) = match([cycle(8e6)], [block(10**6), block(UTMALDG=2)], 12, True) or ()
    assert [warps for _, warps in one.roles] == [8]


def test_a_loop_over_turns_is_none_of_the_programs_and_counts_once_a_tile() -> None:
    """What it does itself is straight code of a turn; idling warps' loop is not taken for it."""
    idle, turn, body, diagonal = block(issue=9), block(issue=900), {**block(8), "depth": 2}, {**block(8), "depth": 2}
    code = {"straight": block(issue=50), "loops": [idle, turn, body, diagonal]}
    found = turn_of(code, inner=True)
    assert found is not None
    assert found["straight"]["phases"][0]["issue"] == 900
    assert found["loops"] == [idle, {**body, "depth": 1}, {**diagonal, "depth": 1}]
    assert turn_of({**code, "loops": [idle]}, inner=True) is None
    alone = turn_of({**code, "loops": [idle, turn]}, inner=False)  # of a program without loops
    assert alone is not None and alone["straight"]["phases"][0]["issue"] == 900 and alone["loops"] == []
