"""The search loop with a real gate: what proposers write, how it is named, and what twins are spared."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from small_spec import RIGHT, SPEC, WRONG

from ir.loader import bind, parse_spec
from synth.errors import Unavailable
from synth.events import Benchmarked, Failed, Judged, Lowered, Proposed, Twin
from synth.feedback import feedback
from synth.jobs import Prove
from synth.propose import Candidate
from synth.search.lab import Lab, question
from synth.search.loop import Search, Strategy
from synth.search.tried import Brief, Conversation, Tried
from synth.state import InMemory
from synth.workers.local import LocalPool
from verifier.verdict import Verdict

BOUND = bind(parse_spec(SPEC), {})


class Script:
    """Yields what it is given, round by round, and keeps what it was told."""

    name = "script"

    def __init__(self, *rounds: tuple[Candidate, ...]) -> None:
        self.rounds = rounds
        self.told: list[tuple[Tried, ...]] = []

    def converse(self, brief: Brief) -> Conversation:
        for some in self.rounds if brief.step == 1 else ():
            self.told.append((yield some))


def nobody() -> Iterator[Candidate]:
    return iter(())


def test_two_conversations_with_one_idea_are_told_the_same_and_one_proof_is_done() -> None:
    renamed = RIGHT.replace("acc", "total")
    one = Script((Candidate("idea", WRONG),), (Candidate("better", RIGHT),))
    two = Script((Candidate("idea", WRONG), Candidate("not-a-kernel", "nonsense")), (Candidate("mine", renamed),))
    with LocalPool(BOUND, 1) as pool:
        search = Search(BOUND, "sm_90", 0, Lab(InMemory(), pool), Strategy(nobody, (one, two)), lambda n, talking: "")
        events = list(search.search())
    assert [e.candidate.name for e in events if isinstance(e, Judged)] == ["idea", "better"]
    assert [(e.candidate.name, e.of) for e in events if isinstance(e, Twin)] == [("idea.2", "idea"), ("mine", "better")]
    assert len([e for e in events if isinstance(e, Proposed)]) == 3
    assert [[t.verdict for t in told] for told in one.told] == [[Verdict.REFUTED], [Verdict.PROVED]]
    assert [[t.verdict for t in told] for told in two.told] == [[Verdict.REFUTED, None], [Verdict.PROVED]]
    assert not search.tried["idea"].twin and search.tried["idea.2"].twin == "idea"
    assert [t.candidate.name for t in search.archive.leaders(3)] == ["better"]
    assert search.tried["better"].long is not None and search.tried["better"].certified


def test_a_kernel_for_some_sizes_is_proved_and_goes_no_further() -> None:
    even = "require C % BC == 0\n" + RIGHT.replace(", mask=j < C, other=0", "")
    only = Script((Candidate("even", even),))
    with LocalPool(BOUND, 1) as pool:
        search = Search(BOUND, "sm_90", 0, Lab(InMemory(), pool), Strategy(nobody, (only,)), lambda n, talking: "")
        events = list(search.search())
    assert [e.report.verdict for e in events if isinstance(e, Judged)] == [Verdict.PROVED]
    assert [(e.stage, "C % 64 == 0" in e.message) for e in events if isinstance(e, Failed)] == [("every size", True)]
    assert not [e for e in events if isinstance(e, (Lowered, Benchmarked))]
    assert not search.archive.leaders(1) and not search.tried["even"].certified
    (told,) = only.told[0]
    assert "only for sizes where C % 64 == 0" in feedback(told, BOUND)


def test_a_certificate_in_another_kernels_row_is_not_taken_for_its_own() -> None:
    journal = InMemory()
    right, wrong = Prove("right", RIGHT), Prove("wrong", WRONG)
    with LocalPool(BOUND, 1) as pool:
        lab = Lab(journal, pool)
        ((_, proof),) = lab.answer([right])
        assert proof.certificate is not None
        journal.record(*question(wrong), journal.answers[question(right)])
        with pytest.raises(Unavailable, match="wrong is the certificate of another kernel"):
            list(lab.answer([wrong]))
