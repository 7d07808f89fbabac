"""The archive: what it ranks, whom it names as parents, and that a flood of near-copies does not drown the rest."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import pytest

from ir.loader import bind, load_spec, packaged_specs
from ir.parser import parse
from ir.typing import check
from synth.events import Measurement
from synth.jobs import Built, Checked, Proof, Timed, unanswered
from synth.propose import Candidate
from synth.propose.choices import Choices
from synth.propose.embedded import written
from synth.propose.seeds import wanted_settings
from synth.search.archive import Archive, Stage
from synth.search.descriptor import Cell, cell_of
from synth.search.halving import survivors
from synth.search.identity import identity
from synth.search.tried import Tried
from verifier.certificate import Certificate
from verifier.verdict import OBLIGATIONS, Report, Result, Verdict

BOUND = bind(load_spec("attention"), {"causal": "bottom_right"})
CERTIFICATE = Certificate({})
KINDS = {
    "plain": Choices(),
    "lazy": Choices(pivot="lazy"),
    "split": Choices(split=True),
    "two-pass": Choices(pivot="two-pass"),
    "reverse": Choices(reverse=True),
    "wide": Choices(rows=128, warps=8),
}


marks = cache(lambda text: identity(text, BOUND))


@cache
def text_of(kind: str) -> str:
    return written(BOUND, KINDS[kind])


def report(*broken: str, verdict: Verdict = Verdict.REFUTED) -> Report:
    return Report(tuple(Result(o, verdict if o in broken else Verdict.PROVED, "", 0.0) for o in OBLIGATIONS), 0.1)


def tried(name: str, text: str, *broken: str, parents: tuple[str, ...] = ()) -> Tried:
    proof = Proof(report(*broken))
    return Tried(Candidate(name, text, parents=parents), marks(text), proof)


def certified(name: str, text: str, seconds: float | None = None, parents: tuple[str, ...] = ()) -> Tried:
    found = replace(tried(name, text, parents=parents), built=Built(CERTIFICATE), checked=Checked(CERTIFICATE, 1))
    return found if seconds is None else replace(found, short=timed(seconds))


def timed(*seconds: float) -> Timed:
    return Timed(tuple(Measurement("certified", f"shape {n}", (), s, 0.0, None) for n, s in enumerate(seconds)))


def copies(text: str, n: int) -> list[str]:
    """Programs that differ from one in their schedule alone."""
    head, own, rest = text.partition("    schedule num_warps = 4, num_stages = 2\n")
    assert own
    schedules = product((1, 2, 4, 8, 16), range(1, 9), (64, 128))
    return [
        f"{head}    schedule num_warps = {w}, num_stages = {s}, maxnreg = {r}\n{rest}" for w, s, r in schedules
    ][:n]


def full(slow: float = 2.0) -> Archive:
    """One kernel of each kind, the plain one fastest."""
    archive = Archive(BOUND, "sm_90", seed=7)
    for number, kind in enumerate(KINDS):
        archive.insert(certified(kind, text_of(kind), 1.0 if kind == "plain" else slow + number))
    return archive


# ---- cells


@pytest.mark.parametrize(
    "kernel, algorithm, tile",
    [
        ("attention_bwd/fused_atomic_none", "straight then (up (up 2 sum 5 dot)) exp atomic", "32x64x32"),
        ("window/exp2_lazy", "(up lazy 2 scaled 2 dot) exp2", "64x64x32"),
        ("alibi/exp2_reversed", "(down max 2 scaled 2 dot) exp2", "64x64x32"),
        ("decode/packed_even_splits",
         "(up max 2 scaled 2 dot) exp packed then (up max) (up 2 sum) exp", "16x64x64"),
        ("softmax/three_pass", "(up max) (up sum) (up) exp", "2048"),
        ("rmsnorm/whole_row", "straight", "4096"),
    ],
)  # fmt: skip
def test_a_cell_says_what_a_kernel_does(kernel: str, algorithm: str, tile: str) -> None:
    text = (packaged_specs() / f"{kernel}.tile").read_text()
    settings = {k: int(v) if v.isdigit() else v for k, v in wanted_settings(text).items()}
    bound = bind(load_spec(kernel.split("/")[0]), settings)
    found = cell_of(check(parse(text), bound), bound)
    assert (found.algorithm, found.tile) == (algorithm, tile)


def cell(text: str) -> Cell:
    return cell_of(check(parse(text), BOUND), BOUND)


def test_traffic_counts_what_programs_load_and_store() -> None:
    """Twice the rows in a tile: keys and values are read half as often. A second pass reads the keys again."""
    plain, wide, again = (cell(text_of(kind)).traffic for kind in ("plain", "wide", "two-pass"))
    assert plain is not None and wide is not None and again is not None
    assert wide == plain - 1 and again > plain


def test_names_and_schedules_make_no_cell() -> None:
    text = text_of("plain")
    other = copies(text, 1)[0].replace("acc", "total").replace("BM", "TILE")
    assert other != text and cell(other) == cell(text)


# ---- parents and inspirations


def test_near_copies_of_one_fast_kernel_do_not_crowd_out_the_rest() -> None:
    archive = full()
    for number, text in enumerate(copies(text_of("plain"), 24)):
        archive.insert(certified(f"copy-{number}", text, 0.5 - number * 1e-3))
    assert all(t.candidate.name.startswith("copy-") for t in archive.leaders(24))  # what a plain ranking would offer
    assert [n.members for n in archive.cells()] == [25, 1, 1, 1, 1, 1]
    for step in range(1, 6):
        briefs = [archive.brief(step, slot) for slot in range(len(KINDS))]
        parents = {archive.cell(b.parents[0]) for b in briefs}
        assert len(parents) == len(KINDS)
        for brief in briefs:
            cells = [archive.cell(t) for t in brief.inspirations]
            assert len(set(cells)) == 3 and archive.cell(brief.parents[0]) not in cells


def test_better_kernels_are_parents_more_often() -> None:
    archive = full()
    first = [archive.brief(step, 0).parents[0].candidate.name for step in range(300)]
    ranking = [niche.elite.candidate.name for niche in archive.cells()]
    counts = [first.count(name) for name in ranking]
    assert ranking[0] == "plain" and counts[0] > counts[2] > counts[5] > 0


def test_briefs_depend_on_seed_step_slot_and_content_only() -> None:
    one, two, other = full(), full(), full()
    other.seed = 8
    places = list(product(range(8), range(4)))
    assert [one.brief(*at) for at in places] == [two.brief(*at) for at in reversed(places)][::-1]
    assert [one.brief(*at).parents for at in places] != [other.brief(*at).parents for at in places]


def test_an_empty_archive_asks_for_something_new() -> None:
    archive = Archive(BOUND, "sm_90", seed=0)
    archive.insert(Tried(Candidate("prose", "no kernel"), identity("no kernel", BOUND), Proof(None, problem="no")))
    brief = archive.brief(3, 1)
    assert (brief.parents, brief.inspirations, brief.step, brief.slot) == ((), (), 3, 1)
    assert not archive.cells() and not archive.leaders(3)


def test_before_anything_is_proved_the_nearest_miss_is_the_parent() -> None:
    archive = Archive(BOUND, "sm_90", seed=0)
    archive.insert(tried("far", text_of("plain"), "C1", "E1", "D1"))
    archive.insert(tried("near", copies(text_of("plain"), 1)[0], "E1"))
    assert {archive.brief(step, 0).parents[0].candidate.name for step in range(10)} == {"near"}
    assert archive.merit(archive.brief(0, 0).parents[0]) == (Stage.MISSED, 8.0)


def test_a_near_miss_is_sometimes_the_parent_until_it_is_repaired() -> None:
    archive = full()
    miss = copies(text_of("lazy"), 2)
    archive.insert(tried("miss", miss[0], "S1"))

    def asked() -> int:
        return sum(archive.brief(step, 0).parents[0].candidate.name == "miss" for step in range(200))

    assert 10 < asked() < 100
    archive.insert(certified("repaired", miss[1], 3.0, parents=("miss",)))
    assert asked() == 0


def test_islands_hear_of_a_kernel_one_after_another() -> None:
    archive = Archive(BOUND, "sm_90", seed=0, islands=3)
    archive.insert(certified("plain", text_of("plain"), 1.0), step=0, slot=1)

    def hear(step: int) -> list[int]:
        return [slot for slot in range(3) if archive.brief(step, slot).parents]

    assert hear(0) == hear(3) == [1]
    assert hear(4) == [1, 2]
    assert hear(8) == [0, 1, 2]


# ---- what it is worth


def test_a_known_program_enters_once_and_later_answers_update_it() -> None:
    archive = full()
    again = certified("again", text_of("plain").replace("acc", "total"), 0.1)
    archive.insert(again)
    assert archive.by_identity(again.identity).candidate.name == "plain"  # type: ignore[union-attr]
    archive.update(replace(certified("reverse", text_of("reverse")), long=timed(0.25, 0.25)))
    assert archive.leaders(1)[0].candidate.name == "reverse"
    with pytest.raises(KeyError):
        archive.update(certified("new", copies(text_of("plain"), 1)[0]))


def test_ranking_goes_by_speed_over_standard_pytorch_on_every_shape() -> None:
    archive = Archive(BOUND, "sm_90", seed=0)
    archive.peers = tuple(
        Measurement(name, shape, (), seconds, 0.0, None)
        for name, shape, seconds in (("sdpa", "shape 0", 1.0), ("unfused", "shape 0", 4.0), ("unfused", "shape 1", 9.0))
    )
    assert archive.speed(timed(1.0, 9.0).measurements) == pytest.approx(2.0)
    rows = {"even": timed(2.0, 4.5), "one": timed(0.9, 90.0), "slow": timed(4.0, 9.0)}
    for (name, times), kind in zip(rows.items(), KINDS, strict=False):
        archive.insert(replace(certified(name, text_of(kind)), long=times))
    archive.insert(certified("untimed", text_of("two-pass")))
    archive.insert(replace(certified("does not run", text_of("reverse")), short=Timed(problem="out of memory")))
    assert [t.candidate.name for t in archive.leaders(9)] == ["even", "slow", "one", "untimed"]


def test_kernels_not_timed_yet_rank_by_predicted_time() -> None:
    archive = Archive(BOUND, "sm_90", seed=0)
    for kind in ("two-pass", "wide"):
        archive.insert(certified(kind, text_of(kind)))
    assert [t.candidate.name for t in archive.leaders(3)] == ["wide", "two-pass"]
    prose = Tried(Candidate("prose", "no kernel"), "text-", Proof(None, problem="no"))
    assert archive.expected(prose) == float("inf")


def test_a_proof_cut_short_is_a_near_miss_like_any_other() -> None:
    archive = Archive(BOUND, "sm_90", seed=0)
    late = Tried(Candidate("late", text_of("plain")), identity(text_of("plain"), BOUND), unanswered("no answer", 45.0))
    archive.insert(late)
    assert archive.merit(late) == (Stage.MISSED, 0.0) and not archive.cells()


# ---- successive halving


def built(name: str, text: str) -> Tried:
    return replace(tried(name, text), built=Built(CERTIFICATE))


def test_few_candidates_are_all_kept() -> None:
    some = [built(kind, text_of(kind)) for kind in KINDS]
    for rung in ("check", "long"):
        found = survivors([replace(t, checked=Checked(CERTIFICATE, 1)) for t in some], rung, Archive(BOUND, "sm_90", 0))
        assert {t.candidate.name for t in found} == set(KINDS)


def test_the_best_of_each_cell_is_checked_before_a_second_of_any() -> None:
    some = [built(f"copy-{n:02}", text) for n, text in enumerate(copies(text_of("wide").replace("8,", "4,"), 9))]
    some += [built(kind, text_of(kind)) for kind in ("two-pass", "lazy", "reverse")]
    archive = Archive(BOUND, "sm_90", 0)
    found = survivors(some, "check", archive, few=3)
    assert len(found) == 4 and {"two-pass", "lazy", "reverse"} < {t.candidate.name for t in found}
    assert found == survivors(some[::-1], "check", archive, few=3)


def test_what_lost_a_rung_is_not_run_again() -> None:
    """Nine raced, three went on; of two newcomers only the one among the best of all eleven goes on."""
    archive = Archive(BOUND, "sm_90", 0)
    nine = [certified(f"old-{n}", text, 1.0 + n) for n, text in enumerate(copies(text_of("plain"), 9))]
    for t in nine:
        archive.insert(t)
    ahead = survivors(nine, "long", archive, few=1)
    assert [t.candidate.name for t in ahead] == ["old-0", "old-1", "old-2"]
    for t in ahead:
        archive.update(replace(t, long=timed(t.measurements[0].seconds, 1.0)))
    news = [certified(f"new-{n}", text_of(kind), s) for n, (kind, s) in enumerate(zip(KINDS, (3.5, 1.5), strict=False))]
    for t in news:
        archive.insert(t)
    assert [t.candidate.name for t in survivors([*nine[3:], *news], "long", archive, few=1)] == ["new-1"]


def test_one_at_least_goes_on_and_what_does_not_run_does_not() -> None:
    archive = Archive(BOUND, "sm_90", 0)
    two = [certified("b", text_of("plain"), 2.0), certified("a", text_of("lazy"), 2.0)]
    assert [t.candidate.name for t in survivors(two, "long", archive, few=1)] == ["a"]
    failed = replace(two[0], short=Timed(problem="out of memory"))
    assert survivors([failed], "long", archive) == []
    with pytest.raises(ValueError, match="no rung 'medium'"):
        survivors(two, "medium", archive)
