"""The evolver and crossover: drafts are kernels of the spec, new, named apart, and the same in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import pytest

from ir.loader import bind, load_spec, packaged_specs
from ir.parser import parse
from ir.printer import print_module
from ir.spec import Bound
from ir.typing import check
from synth.certify import certify
from synth.jobs import Proof
from synth.propose import Candidate
from synth.propose.choices import Choices
from synth.propose.compose import compose
from synth.propose.crossover import kernels_of_both, scheduled_as
from synth.propose.embedded import propose
from synth.propose.evolve import NAME, Evolver, rewrites_of
from synth.propose.rewrites import REWRITES, Rewrite, Subject
from synth.propose.seeds import seeds, wanted_settings
from synth.search.tried import Brief, Conversation, Tried
from verifier.verdict import OBLIGATIONS, Report, Result, Verdict

ROOT = Path(__file__).parents[2]
ATTENTION = bind(load_spec("attention"))
BACKWARD = bind(load_spec("attention_bwd"), {"causal": "bottom_right"})
LAYERNORM = bind(load_spec("layernorm"))


def tried(candidate: Candidate, verdict: Verdict = Verdict.PROVED) -> Tried:
    """As the loop would tell of it; the drafts asked for here depend on no more than the verdict."""
    return Tried(candidate, candidate.name, Proof(Report(tuple(Result(o, verdict, "", 0.0) for o in OBLIGATIONS), 0.0)))


def shipped(bound: Bound, count: int) -> tuple[Tried, ...]:
    return tuple(tried(c) for c in islice(chain(seeds(bound), propose(bound)), count))


def replies(talk: Conversation, verdict: Verdict) -> Iterator[tuple[Candidate, ...]]:
    """Every round of a conversation in which each draft is found to be `verdict`."""
    drafts = next(talk, None)
    while drafts is not None:
        yield drafts
        try:
            drafts = talk.send(tuple(tried(d, verdict) for d in drafts))
        except StopIteration:
            return


def drafted(brief: Brief) -> list[Candidate]:
    return [draft for some in replies(Evolver().converse(brief), Verdict.PROVED) for draft in some]


def test_without_a_proved_kernel_there_is_nothing_to_rewrite() -> None:
    refuted = tuple(tried(t.candidate, Verdict.REFUTED) for t in shipped(LAYERNORM, 2))
    assert drafted(Brief(LAYERNORM, "sm_90")) == []
    assert drafted(Brief(LAYERNORM, "sm_90", refuted)) == []


@pytest.mark.parametrize("name", ["softmax", "rmsnorm"])
def test_every_draft_is_a_new_kernel_of_the_spec_with_a_name_of_its_own(name: str) -> None:
    spec = load_spec(name)
    for path in sorted((packaged_specs() / name).glob("*.tile")):
        text = path.read_text()
        bound = bind(spec, wanted_settings(text))
        parents = (tried(Candidate(path.stem, text)), *(tried(c) for c in seeds(bound) if c.name != path.stem))[:3]
        drafts = drafted(Brief(bound, "sm_90", parents[:1], parents[1:]))
        assert drafts, path
        assert len({d.name for d in drafts}) == len({d.text for d in drafts})
        for draft in drafts:
            assert len(draft.name) <= NAME
            assert draft.text not in [print_module(parse(p.candidate.text)) for p in parents]
            assert draft.text == print_module(parse(draft.text))
            check(parse(draft.text), bound, draft.text)
            assert draft.source == ("rewrite" if len(draft.parents) == 1 else "crossover")
            assert draft.parents[0] == parents[0].candidate.name


def test_lineage_is_told_in_choices_and_in_short_names() -> None:
    parent = shipped(ATTENTION, 1)
    for generation in range(1, 6):
        (child, *_) = drafted(Brief(ATTENTION, "sm_90", parent, seed=generation))
        assert child.name.startswith("128x128-split-exp2-running-w8s2+") and len(child.name) <= NAME
        assert len(rewrites_of(child)) > len(rewrites_of(parent[0].candidate))
        assert set(rewrites_of(child)) <= {r.name for r in REWRITES}
        parent = (tried(child),)


def test_rewrites_that_a_parent_has_not_had_come_first() -> None:
    """Its children are in the brief, as the archive's inspirations are."""
    (parent,) = shipped(LAYERNORM, 1)
    had = [r.name for r in REWRITES if r.name not in ("double-tile", "grid-order", "own-tile")]
    children = tuple(
        tried(replace(parent.candidate, name=f"child-{n}", source="rewrite", parents=(parent.candidate.name,),
                      choices=(("rewrite", n),), text=f"{parent.candidate.text}# {n}\n"))
        for n in had
    )  # fmt: skip
    drafts = drafted(Brief(LAYERNORM, "sm_90", (parent,), children))
    firsts = [rewrites_of(d)[0] for d in drafts if d.source == "rewrite"]
    assert firsts[0] in {"double-tile", "grid-order", "own-tile"}


def test_drafts_that_fail_are_answered_with_other_ones_once() -> None:
    brief = Brief(ATTENTION, "sm_90", shipped(ATTENTION, 1))
    first, second = replies(Evolver().converse(brief), Verdict.REFUTED)
    assert len(first) == len(second) == 4
    assert not {d.text for d in first} & {d.text for d in second}
    assert len(list(replies(Evolver().converse(brief), Verdict.PROVED))) == 1
    broken = Evolver(rewrites=(Rewrite("nothing", lambda subject: iter(())),))
    assert list(replies(broken.converse(brief), Verdict.PROVED)) == []


def fingerprint() -> str:
    """Of all results of all rewrites, and of some conversations."""
    found = []
    parents = shipped(ATTENTION, 3)
    subject = Subject.of(parents[2].candidate.text, ATTENTION)
    found += [result for rewrite in REWRITES for result in islice(rewrite.texts(subject), 2)]
    found += [d.name + d.text for d in drafted(Brief(ATTENTION, "sm_90", parents, seed=3))]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def test_drafts_are_the_same_in_every_process() -> None:
    code = "from tests.unit.test_evolve import fingerprint; print(fingerprint())"
    runs = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
        runs.append(run.stdout.strip())
    assert runs[0] == runs[1] and len(runs[0]) == 64


# ---- crossover ---------------------------------------------------------------------------------


def backward(name: str, bound: Bound = BACKWARD) -> Subject:
    return Subject.of((ROOT / "specs" / "attention_bwd" / f"{name}.tile").read_text(), bound)


def test_a_body_gets_the_tiles_and_the_schedule_of_another() -> None:
    choices = Choices(), Choices(rows=128, warps=8, stages=3, base2=True)
    small, large = (Subject.of(compose(ATTENTION, c), ATTENTION) for c in choices)
    both, schedule = (print_module(m) for m in scheduled_as(small, large))
    assert "meta BM = 128" in both and "num_warps = 8, num_stages = 3" in both and "exp(" in both
    assert "meta BM = 64" in schedule and "num_warps = 8, num_stages = 3" in schedule
    assert list(scheduled_as(small, small)) == []


def test_kernels_of_two_parents_meet_where_their_scratch_agrees() -> None:
    first, second = backward("three_kernels_bottom_right"), backward("diagonal_and_body")
    names = [[k.name for k in module.kernels] for module in kernels_of_both(first, second)]
    assert names == [["delta", "dq", "dkdv1"], ["delta", "dkdv", "dq1"]]  # one Delta for both
    assert [len(m.scratch) for m in kernels_of_both(first, second)] == [1, 1]


def test_kernels_bring_what_they_read_and_nothing_stays_that_nobody_reads() -> None:
    with_delta, without = backward("three_kernels_bottom_right"), backward("two_kernels")
    mixed = [(sorted(k.name for k in m.kernels), len(m.scratch)) for m in kernels_of_both(without, with_delta)]
    assert mixed == [(["delta", "dkdv1", "dq"], 1), (["delta", "dkdv", "dq1"], 1)]
    wider = replace(with_delta.module, metas=tuple(replace(m, value=replace(m.value, value=m.value.value * 2))  # type: ignore
                                                   for m in with_delta.module.metas))  # fmt: skip
    for module in kernels_of_both(without, Subject.of(print_module(wider), BACKWARD)):
        text = print_module(module)
        check(parse(text), BACKWARD, text)
        assert {"meta BM = 64", "meta BM1 = 128"} <= set(text.splitlines())


def test_a_child_of_two_kernels_is_proved() -> None:
    layernorm = {c.name: Subject.of(c.text, LAYERNORM) for c in seeds(LAYERNORM)}
    (child, *_) = scheduled_as(layernorm["shifted"], layernorm["two_pass"])
    text = print_module(child)
    assert "meta BC = 2048" in text
    assert certify(text, LAYERNORM).report.verdict is Verdict.PROVED
    assert list(kernels_of_both(layernorm["shifted"], layernorm["two_pass"])) == []  # no outputs are written apart
