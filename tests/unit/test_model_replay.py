"""What is recorded of a model, replayed and resumed; and budgets, which no request passes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conversing import BAD, GOOD, NONSENSE, Run, set_up
from messages_server import (
    Drip,
    MessagesServer,
    Reply,
    Says,
    Status,
    results_in,
    submit,
    text,
    thinking,
)

from synth.events import GaveUp
from synth.propose.model import Diverged, Example, ModelError
from synth.search.budget import Budget, Limits
from synth.search.tried import Tried
from synth.state import InMemory
from verifier.verdict import Verdict


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_up(monkeypatch, tmp_path)


def repairing(request: dict[str, Any]) -> Reply:
    """An author who makes a mistake, and repairs it once told of a counterexample."""
    told = results_in(request)
    if any("refuted" in t and "expected" in t for t in told):
        return Says(thinking("the last block"), submit(GOOD, "the last, partial block too", "model-0-0-1-1"))
    return Says(text("First try."), submit(BAD, "plain"))


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InMemory, list[Tried], list[dict[str, Any]]]]:
    """A recorded conversation: a wrong kernel, then the right one. The server is gone by the time it is used."""
    with pytest.MonkeyPatch.context() as patch, MessagesServer(repairing) as server:
        set_up(patch, tmp_path_factory.mktemp("none"))
        run = Run(server, turns=2)
        tried = run.drafts()
    yield run.journal, tried, server.requests


def test_a_refuted_kernel_is_repaired_from_what_the_gate_said(
    repaired: tuple[InMemory, list[Tried], list[dict[str, Any]]],
) -> None:
    _, (wrong, right), requests = repaired
    assert (wrong.verdict, right.verdict) == (Verdict.REFUTED, Verdict.PROVED)
    assert right.candidate.name == "model-0-0-2-1" and right.candidate.parents == ("model-0-0-1-1",)
    assert right.candidate.source == "model" and right.candidate.note == "the last, partial block too"
    (told,) = results_in(requests[1])
    assert "refuted" in told and "C1 coverage" in told and "never written" in told


def test_replay_gives_the_same_drafts_without_server_or_key(
    repaired: tuple[InMemory, list[Tried], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, tried, _ = repaired
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    again = Run(None, journal, replay=True, turns=2)
    assert [t.candidate for t in again.drafts()] == [t.candidate for t in tried]
    assert again.budget.spent().calls == 2 and again.budget.spent().usd > 0
    assert again.drafts(slot=7) == []  # never recorded: nothing is asked


def test_a_resumed_run_asks_only_for_what_is_not_recorded(
    repaired: tuple[InMemory, list[Tried], list[dict[str, Any]]],
) -> None:
    journal, tried, _ = repaired
    half = InMemory()
    half.record("exchange", "0/0/0", json.loads(json.dumps(journal.answer("exchange", "0/0/0"))))
    with MessagesServer(repairing) as server:
        run = Run(server, half, turns=2)
        assert [t.candidate for t in run.drafts()] == [t.candidate for t in tried]
        assert len(server.requests) == 1


def test_a_run_that_asks_something_else_is_told_where(
    repaired: tuple[InMemory, list[Tried], list[dict[str, Any]]],
) -> None:
    journal, _, _ = repaired
    with pytest.raises(Diverged, match=r"step 0, conversation 0, turn 0") as caught:
        Run(None, journal, replay=True, turns=2, effort="low").drafts()
    assert "request.output_config" in str(caught.value) and '"low"' in str(caught.value)
    with pytest.raises(Diverged, match=r"request\.messages\[0\]\.content\[0\]\.text, line \d+") as caught:
        Run(None, journal, replay=True, turns=2, drafts=9).drafts()
    assert "up to 9 kernels" in str(caught.value) and "up to 4 kernels" in str(caught.value)


def test_a_conversation_that_ended_without_a_reply_ends_there_again() -> None:
    with MessagesServer(lambda request: Status(529)) as server:
        run = Run(server)
        run.drafts()
        resumed = Run(server, run.journal)
        assert resumed.drafts() == [] and len(server.requests) == 8
    assert resumed.heard(GaveUp) == run.heard(GaveUp) and resumed.budget.spent().retries == 8


# ---- budgets ----------------------------------------------------------------------------------------


def endless(request: dict[str, Any]) -> Reply:
    return Says(submit(NONSENSE, "x" * 4000))


@pytest.mark.parametrize("limits", [Limits(tokens=20_000), Limits(usd=0.09)])
def test_no_request_is_sent_that_could_pass_a_limit(limits: Limits) -> None:
    with MessagesServer(endless) as server:
        run = Run(server, limits=limits, turns=50)
        assert 1 < len(run.drafts()) < 50
    spent = run.budget.spent()
    assert spent.tokens <= (limits.tokens or spent.tokens) and spent.usd <= (limits.usd or spent.usd)
    assert "does not pay for one more" in run.budget.exhausted()
    assert "out of budget" in run.heard(GaveUp)[0].reason
    assert server.requests[0]["max_tokens"] < 32_000 and server.requests[-1]["max_tokens"] >= 1024


def test_a_run_resumed_with_more_goes_on_where_the_budget_ended_it() -> None:
    with MessagesServer(endless) as server:
        short = Run(server, limits=Limits(tokens=9_000), turns=3)
        assert len(short.drafts()) == 1 and len(server.requests) == 1
        resumed = Run(server, short.journal, Limits(tokens=90_000), turns=3)
        assert len(resumed.drafts()) == 3 and len(server.requests) == 3
    assert resumed.budget.spent().calls == 3


def test_minutes_end_a_reply_that_does_not_come() -> None:
    with MessagesServer([Drip()]) as server:
        run = Run(server, limits=Limits(minutes=0.03))
        begin = time.monotonic()
        assert run.drafts() == []
        assert time.monotonic() - begin < 10
    assert "minutes are over" in run.budget.exhausted() and len(server.requests) == 1


def test_conversations_at_once_keep_one_limit_together() -> None:
    with MessagesServer(endless) as server:
        run = Run(server, limits=Limits(usd=0.25), turns=9)
        busy = [threading.Thread(target=run.drafts, args=(slot,)) for slot in range(4)]
        for thread in busy:
            thread.start()
        for thread in busy:
            thread.join(20)
    assert len(server.requests) > 4 and 0 < run.budget.spent().usd <= 0.25
    assert {e.slot for e in run.heard(GaveUp)} == {0, 1, 2, 3}


def test_earlier_parts_of_a_run_count_against_its_minutes() -> None:
    assert Budget(Limits(minutes=1), seconds=61).exhausted() == "1 minutes are over"
    assert not Budget(Limits(minutes=1), seconds=30).exhausted()


def test_a_limit_in_dollars_needs_a_price() -> None:
    with MessagesServer([Says(submit(NONSENSE))]) as server:
        with pytest.raises(ModelError, match="--price IN,OUT"):
            Run(server, model="my-own", limits=Limits(usd=1))
        run = Run(server, model="my-own", limits=Limits(usd=1), price="3,15", turns=1)
        run.drafts()
        assert 0 < run.budget.spent().usd < 1
    with pytest.raises(ModelError, match="IN,OUT"):
        Run(server, price="cheap")


def test_what_does_not_fit_the_context_is_not_sent() -> None:
    with MessagesServer([Says(submit(NONSENSE))]) as server:
        huge = (Example("huge", "# " + "x" * 5_000_000, "softmax"),)
        run = Run(server, examples=huge)
        assert run.drafts() == [] and server.requests == []
    assert "do not fit" in run.heard(GaveUp)[0].reason
