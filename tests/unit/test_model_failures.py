"""What goes wrong between us and a model: each failure once, by a server that fails on purpose."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest
from conversing import MODEL, NONSENSE, SOFTMAX, Run, set_up
from messages_server import (
    KEY,
    Cut,
    Drip,
    ErrorEvent,
    Garbled,
    Hang,
    MessagesServer,
    Reply,
    Reset,
    Says,
    Status,
    Web,
    submit,
    text,
)

from synth.events import Asked, Event, GaveUp, Retrying
from synth.propose.model import ModelError, ModelProposer, ModelSettings
from synth.propose.model.client import Patience
from synth.search.budget import Budget
from synth.search.lab import Lab
from synth.search.loop import Search, Strategy
from synth.state import InMemory
from synth.workers.local import LocalPool


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_up(monkeypatch, tmp_path)


SAYS = Says(text("Here it is."), submit(NONSENSE))


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Status(429, "rate_limit_error"), "429"),
        (Status(500), "500"),
        (Status(529, "overloaded_error"), "529"),
        (Status(408), "408"),
        (Cut(SAYS, 6), "connection broke"),
        (Cut(SAYS, 6, clean=True), "ended before"),
        (Cut(SAYS, 0, clean=True), "ended before"),
        (Garbled(SAYS), "garbled"),
        (ErrorEvent(SAYS), "overloaded_error"),
        (Reset(), "onnection"),
        (Hang(), "timed out"),
        (Drip(), "no whole reply"),
        (Web(), "ended before"),
    ],
)
def test_what_may_pass_is_tried_again(failure: Reply, reason: str) -> None:
    patience = Patience(5, 1.0, 1.5) if isinstance(failure, Hang | Drip) else None
    with MessagesServer([failure, SAYS]) as server:
        run = Run(server, turns=1, patience=patience)
        assert len(run.drafts()) == 1
    (retrying,) = run.heard(Retrying)
    assert reason in retrying.reason
    (record,) = run.records()
    assert [reason in attempt["error"] for attempt in record["attempts"]] == [True]
    assert run.budget.spent().retries == 1 and run.budget.spent().calls == 1


def test_a_stream_that_breaks_off_is_charged_for_what_it_used() -> None:
    with MessagesServer([Cut(SAYS, 6), SAYS]) as server:
        run = Run(server, turns=1)
        run.drafts()
    (attempt,) = run.records()[0]["attempts"]
    assert attempt["usage"]["cache_write"] > 1000 and attempt["usage"]["output"] > 1 and attempt["usd"] > 0
    assert run.budget.spent().usd == pytest.approx(attempt["usd"] + run.records()[0]["usd"])


@pytest.mark.parametrize("header", [{"retry-after": "0.3"}, {"retry-after-ms": "300"}])
def test_the_server_is_waited_for_as_long_as_it_asks(header: dict[str, str]) -> None:
    with MessagesServer([Status(429, headers=header), SAYS]) as server:
        run = Run(server, turns=1)
        begin = time.monotonic()
        run.drafts()
        assert time.monotonic() - begin >= 0.3
    assert run.heard(Retrying)[0].wait == 0.3


def test_a_server_that_never_recovers_ends_the_conversation_not_the_run() -> None:
    with MessagesServer(lambda request: Status(529)) as server:
        run = Run(server)
        assert run.drafts() == []
        assert len(server.requests) == 8
    (gave_up,) = run.heard(GaveUp)
    assert "gave up after 8 attempts: 529" in gave_up.reason and run.records()[0]["ended"] == gave_up.reason
    assert not run.budget.exhausted()


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        (400, "invalid_request_error", "--effort"),
        (403, "permission_error", "--model"),
        (404, "not_found_error", "ANTHROPIC_BASE_URL"),
    ],
)
def test_what_would_fail_again_fails_at_once_and_says_what_to_do(code: int, kind: str, advice: str) -> None:
    with MessagesServer([Status(code, kind, "because")]) as server:
        run = Run(server)
        with pytest.raises(ModelError, match="because") as caught:
            run.drafts()
        assert len(server.requests) == 1
    assert advice in str(caught.value) and run.records() == []


def test_a_wrong_key_is_said_without_saying_the_key() -> None:
    with MessagesServer([SAYS], key="another") as server, pytest.raises(ModelError, match="401") as caught:
        Run(server).drafts()  # this server repeats the key that it was sent
    assert "ANTHROPIC_API_KEY" in str(caught.value) and KEY not in str(caught.value)


@pytest.mark.parametrize("elsewhere", ["", "ANTHROPIC_CONFIG_DIR"])
def test_no_key_is_said_before_anything_is_sent(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    if not elsewhere:  # there is no place either where the SDK would look for other credentials
        monkeypatch.delenv("ANTHROPIC_CONFIG_DIR")
        monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(ModelError, match="set ANTHROPIC_API_KEY"):
        Run(None)


def test_no_sdk_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "anthropic", None)
    with pytest.raises(ModelError, match="pip install"):
        Run(None)


def test_the_key_is_recorded_nowhere() -> None:
    with MessagesServer([Status(500, message=f"cannot use {KEY}"), SAYS]) as server:
        run = Run(server, turns=1)
        run.drafts()
    kept = json.dumps(run.records()) + repr(run.events)
    assert "[key]" in kept and KEY not in kept and "uthorization" not in kept and server.url not in kept


def test_the_environment_names_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    with MessagesServer([SAYS], counts=False) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        assert len(Run(None, turns=1).drafts()) == 1
    assert server.headers[0]["authorization"] == f"Bearer {KEY}" and server.headers[0]["x-api-key"] == KEY


@pytest.mark.parametrize("failure", [Status(429, headers={"retry-after": "500"}), Hang(), Drip()])
def test_a_run_that_is_stopped_leaves_a_wait_or_a_reply_at_once(failure: Reply) -> None:
    with MessagesServer([failure, SAYS]) as server:
        run = Run(server)
        busy = threading.Thread(target=run.drafts)
        busy.start()
        while not server.requests:
            assert busy.is_alive()
        begin = time.monotonic()
        run.proposer.stop()
        busy.join(20)
        assert not busy.is_alive() and time.monotonic() - begin < 10
    assert run.records() == [] and len(server.requests) == 1


def test_a_search_that_is_left_does_not_wait_for_the_reply() -> None:
    heard: SimpleQueue[Event] = SimpleQueue()
    journal = InMemory()
    with MessagesServer([Hang()]) as server:
        proposer = ModelProposer(ModelSettings(MODEL, base_url=server.url), Budget(), journal, heard.put)
        strategy = Strategy(lambda: iter(()), (proposer,))
        search = Search(SOFTMAX, "sm_90", 0, Lab(journal, LocalPool(SOFTMAX, 1)), strategy, lambda *_: "", heard=heard)
        events = search.search()
        assert isinstance(next(events), Asked)
        begin = time.monotonic()
        events.close()
        assert time.monotonic() - begin < 10  # the server would have had it wait for minutes
    assert journal.answers == {}
