"""The template auto-tuner: numbers change and nothing else, it gets faster, and it knows when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import Program
from ir.typing import check
from synth.certify import certify
from synth.events import Measurement
from synth.jobs import Built, Checked, Proof, Timed
from synth.propose import Candidate
from synth.propose.seeds import seeds
from synth.search.descriptor import algorithm
from synth.search.identity import program_identity
from synth.search.tried import Brief, Tried
from synth.search.tune import Template, Tuner, templates
from verifier.certificate import Certificate
from verifier.verdict import OBLIGATIONS, Report, Result, Verdict

BOUND = bind(load_spec("attention"))
GRADIENT = bind(load_spec("rmsnorm_bwd"))
CERTIFICATE = Certificate({})
PROVED = Proof(Report(tuple(Result(o, Verdict.PROVED, "", 0.0) for o in OBLIGATIONS), 0.1))


def typed(text: str) -> Program:
    return check(parse(text), BOUND)


def seconds(program: Program) -> float:
    """A machine that likes tiles of 128 x 32, 8 warps and 3 stages."""
    metas, schedule = dict(program.metas), program.kernels[0].schedule
    wanted = ((metas["BM"], 128), (metas["BN"], 32), (schedule.num_warps, 8), (schedule.num_stages, 3))
    return 1e-3 * math.exp(sum(abs(math.log2(is_ / best)) for is_, best in wanted))


def answered(candidate: Candidate, machine: Callable[[Program], float]) -> Tried:
    """What a loop on that machine would say; a time of infinity is a kernel that did not compile."""
    found = machine(typed(candidate.text))
    if math.isinf(found):
        return Tried(candidate, candidate.text, PROVED, Built(CERTIFICATE, problem="out of registers"))
    times = Timed((Measurement("certified", "4k", (), found, 0.0, None),))
    return Tried(candidate, candidate.text, PROVED, Built(CERTIFICATE), Checked(CERTIFICATE, 1), times)


def tuned(seed: int, steps: int, machine: Callable[[Program], float] = seconds) -> list[Tried]:
    tuner = Tuner(BOUND, seed)
    found: list[Tried] = []
    for step in range(steps):
        talk = tuner.converse(Brief(BOUND, "sm_90", step=step))
        drafts = next(talk)
        answers = tuple(answered(c, machine) for c in drafts)
        with pytest.raises(StopIteration):
            talk.send(answers)
        found += answers
    return found


@pytest.fixture(scope="module")
def run() -> list[Tried]:
    return tuned(seed=3, steps=9)


def test_it_starts_with_the_template_and_finds_something_faster(run: list[Tried]) -> None:
    template = next(templates(BOUND))
    text = run[0].candidate.text
    start = check(template.module, BOUND)
    assert program_identity(typed(text), BOUND) == program_identity(start, BOUND)
    times = [t.measurements[0].seconds for t in run]
    assert min(times) < 0.25 * times[0]


def test_it_goes_on_where_nothing_but_the_template_compiles() -> None:
    start = check(next(templates(BOUND)).module, BOUND)
    found = tuned(3, 2, lambda p: seconds(p) if p == start else math.inf)
    assert [bool(t.measurements) for t in found] == [True, *[False] * 7]


def test_numbers_change_and_the_algorithm_does_not(run: list[Tried]) -> None:
    programs = [typed(t.candidate.text) for t in run]
    assert {algorithm(p) for p in programs} == {algorithm(programs[0])}
    assert len({program_identity(p, BOUND) for p in programs}) == len(run)
    assert len({p.metas for p in programs}) > 5 and len({p.kernels[0].schedule for p in programs}) > 5
    assert all(t.candidate.source == "tuned" for t in run)
    assert [t.candidate.parents for t in run] == [(), *[(run[0].candidate.name,)] * (len(run) - 1)]


def test_the_same_seed_and_answers_make_the_same_run(run: list[Tried]) -> None:
    assert [t.candidate for t in tuned(3, 2)] == [t.candidate for t in run[:8]]
    assert [t.candidate for t in tuned(4, 2)] != [t.candidate for t in run[:8]]


def test_a_tuned_kernel_goes_through_the_gate() -> None:
    tuner = Tuner(BOUND, 0)
    drafts = next(tuner.converse(Brief(BOUND, "sm_90")))
    report = certify(drafts[1].text, BOUND).report
    assert drafts[1].text != drafts[0].text and report.verdict is Verdict.PROVED


def test_every_number_of_every_kernel_is_tuned() -> None:
    shipped = next(c for c in seeds(GRADIENT) if c.name == "atomic_weights")
    template = Template.of(shipped, GRADIENT)
    assert len(template.module.kernels) == 3
    assert {k for k in template.space if k.endswith("num_warps")} == {
        f"{k.name} num_warps" for k in template.module.kernels
    }
    assert template.space["BR"] == (8, 16, 32) and all(template.own[k] in v for k, v in template.space.items())
    again = template.text({**template.own, "BR": 16}, GRADIENT)
    assert again is not None and dict(check(parse(again), GRADIENT).metas)["BR"] == 16


def test_a_setting_that_makes_no_kernel_is_none() -> None:
    template = next(templates(BOUND))
    assert template.text({**template.own, "BM": 48}, BOUND) is None  # no power of two
    assert template.text({**template.own, "BM": 2048, "BN": 2048}, BOUND) is None  # too large a tile


def test_a_space_that_is_used_up_ends_the_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    one = next(templates(BOUND))
    single = Template(one.name, one.module, one.limit, one.own)
    object.__setattr__(single, "space", {k: (64, 128) if k == "BM" else (v,) for k, v in one.own.items()})
    tuner = Tuner(BOUND, 0)
    tuner.__dict__["templates"] = {one.name: single}
    talk = tuner.converse(Brief(BOUND, "sm_90"))
    drafts = next(talk)
    assert sorted(dict(typed(c.text).metas)["BM"] for c in drafts) == [64, 128]
    with pytest.raises(StopIteration):
        talk.send(tuple(answered(c, seconds) for c in drafts))
    assert list(tuner.converse(Brief(BOUND, "sm_90", step=1))) == []
