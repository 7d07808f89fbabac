"""The model as a proposer, against a real server on loopback: conversations, failures, budgets, record and replay."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from messages_server import (
    KEY,
    Cut,
    CutInput,
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
    results_in,
    submit,
    text,
    thinking,
)

from ir.loader import bind, load_spec
from synth.events import Answered, Asked, Event, GaveUp, ModelEvent, Retrying
from synth.jobs import Prove, prove
from synth.propose import Candidate
from synth.propose.model import Diverged, Example, ModelError, ModelProposer, ModelSettings
from synth.propose.model.client import Patience
from synth.propose.model.exchange import Backoff
from synth.search.budget import Budget, Limits
from synth.search.lab import Lab
from synth.search.loop import Search, Strategy
from synth.search.tried import Brief, Tried
from synth.state import InMemory
from synth.workers.local import LocalPool
from verifier.verdict import Verdict

SOFTMAX = bind(load_spec("softmax"), {})
GOOD = (Path(__file__).parents[2] / "specs" / "softmax" / "three_pass.tile").read_text()
BAD = GOOD.replace("cdiv(C, BC)", "C // BC")
NONSENSE = "this is no kernel\n"
SOON = Backoff(0.01, 0.02)
MODEL = "claude-opus-5-5"


def set_up(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """The test's key, and nothing of what the machine has."""
    patch.setenv("ANTHROPIC_API_KEY", KEY)
    patch.setenv("ANTHROPIC_CONFIG_DIR", str(folder))
    patch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE", "ANTHROPIC_CUSTOM_HEADERS"):
        patch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_up(monkeypatch, tmp_path)


class Run:
    """A proposer with its journal, budget and events, as a run has them."""

    def __init__(
        self,
        server: MessagesServer | None,
        journal: InMemory | None = None,
        limits: Limits | None = None,
        replay: bool = False,
        examples: tuple[Example, ...] = (),
        patience: Patience | None = None,
        **settings: Any,
    ) -> None:
        self.journal = journal or InMemory()
        self.budget = Budget(limits)
        self.events: list[ModelEvent] = []
        url = server.url if server else None
        asked = ModelSettings(**{"model": MODEL, "base_url": url, **settings})
        self.proposer = ModelProposer(
            asked, self.budget, self.journal, self.events.append, examples, replay, patience or Patience(5, 5), SOON
        )

    def drafts(self, slot: int = 0, parents: tuple[Tried, ...] = ()) -> list[Tried]:
        """Everything one conversation proposes, with what the gate said of it."""
        talk = self.proposer.converse(Brief(SOFTMAX, "sm_90", parents, slot=slot))
        found: list[Tried] = []
        try:
            drafts = next(talk)
            while True:
                answers = tuple(judged(draft) for draft in drafts)
                found += answers
                drafts = talk.send(answers)
        except StopIteration:
            return found

    def records(self) -> list[dict[str, Any]]:
        return [answer for (kind, _), answer in self.journal.answers.items() if kind == "exchange"]

    def heard(self, kind: type[ModelEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def judged(draft: Candidate) -> Tried:
    return Tried(draft, draft.name, prove(Prove(draft.name, draft.text), SOFTMAX))


def last_words(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"][-1]["text"])


# ---- conversations ----------------------------------------------------------------------------------


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


def test_several_kernels_of_one_reply_are_tried_and_too_many_are_not() -> None:
    with MessagesServer([Says(*(submit(f"{NONSENSE}{n}") for n in range(3))), Says(text("done"))]) as server:
        run = Run(server, turns=2, drafts=2)
        assert [t.candidate.name for t in run.drafts()] == ["model-0-0-1-1", "model-0-0-1-2"]
        told = results_in(server.requests[1])
    assert sum("not a kernel" in t for t in told) == 2 and sum("at most 2" in t for t in told) == 1


def test_one_turn_asks_once() -> None:
    with MessagesServer([Says(submit(NONSENSE))]) as server:
        assert len(Run(server, turns=1).drafts()) == 1
        assert len(server.requests) == 1 and "one reply" in last_words(server.requests[0])
        assert "cache_control" not in server.requests[0]["messages"][0]["content"][0]


@pytest.mark.parametrize(
    ("first", "next_words"),
    [
        (Says(text("I would rather not."), stop="refusal"), "declined"),
        (Says(stop="refusal"), "declined"),
        (CutInput(Says(submit(GOOD))), "limit on its length"),
        (Says(text("long " * 99), stop="max_tokens"), "limit on its length"),
        (Says(text("```\nkernel ...\n```")), "with the tool"),
        (Says(thinking("hm")), "with the tool"),
        (Says(), "with the tool"),
        (Says(text(" \n")), "with the tool"),
        (Says({"type": "future_block", "data": "x"}, text("hello"), stop="future_reason"), "with the tool"),
        (Says({"type": "tool_use", "name": "run_shell", "input": {"text": "ls"}}), "with the tool"),
        (Says({"type": "tool_use", "name": "submit_kernel", "input": {"change": "no text"}}), "with the tool"),
    ],
)
def test_a_reply_that_submits_nothing_is_told_so_and_asked_again(first: Reply, next_words: str) -> None:
    with MessagesServer([first, Says(submit(NONSENSE))]) as server:
        run = Run(server, turns=2)
        assert len(run.drafts()) == 1
        assert next_words in last_words(server.requests[1])
    assert [e.turn for e in run.heard(Asked)] == [0, 1] and not run.heard(GaveUp)


def test_a_kernel_that_was_cut_off_is_never_tried_as_a_shorter_one() -> None:
    cut = CutInput(Says(submit(NONSENSE), submit(GOOD)))
    with MessagesServer([cut, Says(text("done"))]) as server:
        run = Run(server, turns=2)
        assert [t.candidate.text for t in run.drafts()] == [NONSENSE]
        assert "limit on its length" in last_words(server.requests[1])
    assert "partial_json" in run.records()[0]["reply"]["content"][1]


def test_arguments_that_are_no_json_are_told_so() -> None:
    def spoil(events: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(name, data.replace('{\\"text', '{\\"text\\" \\"')) for name, data in events]

    with MessagesServer([Says(submit(NONSENSE), events=spoil), Says(submit(NONSENSE))]) as server:
        assert len(Run(server, turns=2).drafts()) == 1
        assert "not valid JSON" in last_words(server.requests[1])


def test_unknown_events_and_deltas_are_passed_over() -> None:
    def more(events: list[tuple[str, str]]) -> list[tuple[str, str]]:
        odd = {"type": "content_block_delta", "index": 0, "delta": {"type": "future_delta", "more": 1}}
        return [*events[:4], ("future_event", '{"type": "future_event"}'), (odd["type"], json.dumps(odd)), *events[4:]]

    with MessagesServer([Says(submit(GOOD), events=more)]) as server:
        (tried,) = Run(server, turns=1).drafts()
    assert tried.verdict is Verdict.PROVED


def test_characters_that_no_file_takes_do_not_get_in() -> None:
    with MessagesServer([Says(submit("a\0b \ud800 c"))]) as server:
        run = Run(server, turns=1)
        (tried,) = run.drafts()
    assert tried.candidate.text == "a\ufffdb \ufffd c\n"
    assert "\\u0000" not in json.dumps(run.records()) and "\\ud800" not in json.dumps(run.records())


# ---- what is sent -----------------------------------------------------------------------------------


def test_the_prompt_is_cached_and_the_same_for_every_conversation() -> None:
    shown = (Example("three_pass", GOOD, "softmax", "dtype = bf16", "Proved; 0.9 of roofline on H200."),)
    with MessagesServer(lambda request: Says(submit(NONSENSE))) as server:
        run = Run(server, examples=shown, turns=3)
        parent = judged(Candidate("three_pass", GOOD))
        run.drafts(0)
        run.drafts(1, (parent,))
    first, other = server.requests[0], server.requests[3]
    assert first["system"] == other["system"] and first["tools"] == other["tools"]
    assert [("cache_control" in block) for block in first["system"]] == [True, False, False, True]
    whole = "".join(block["text"] for block in first["system"])
    assert "`atomic_add(T[..], x, mask=..)`" in whole and "Z[i]     = sum" in whole and "0.9 of roofline" in whole
    assert "three_pass" in last_words(other) and "All obligations are proved" in last_words(other)
    answered = run.heard(Answered)
    assert answered[0].cached_tokens == 0 and answered[3].cached_tokens > 1000  # one reads what another wrote
    turns = [(e.cached_tokens, e.input_tokens) for e in answered[:3]]
    assert turns[0][0] < turns[1][0] < turns[2][0] and turns[2][1] < turns[0][1]  # and what the last turn wrote


def test_held_out_shapes_are_shown_to_no_model() -> None:
    from synth.propose.model import prompt

    for path in sorted((Path(__file__).parents[2] / "specs").glob("*.toml")):
        spec = load_spec(str(path))
        shown = "".join(block["text"] for block in prompt.system(bind(spec, {}), "sm_90", ()))
        assert "heldout" not in shown and "[[bench" not in shown
        assert "define = " in shown and spec.search_shapes[0].name in shown


def test_the_installed_package_has_the_language_page() -> None:
    from synth.propose.model import prompt

    assert prompt.text("language.md") == (Path(__file__).parents[2] / "docs" / "language.md").read_text()


def test_effort_thinking_and_temperature_are_sent_as_the_api_takes_them() -> None:
    with MessagesServer([Says(submit(NONSENSE))] * 2) as server:
        Run(server, turns=1, effort="high", thinking="adaptive").drafts()
        Run(server, turns=1, temperature=0.3, thinking="2048", max_tokens=9000).drafts()
    assert server.requests[0]["output_config"] == {"effort": "high"}
    assert server.requests[0]["thinking"] == {"type": "adaptive"} and "temperature" not in server.requests[0]
    assert server.requests[1]["temperature"] == 0.3 and server.headers[1]["anthropic-version"] == "2023-06-01"
    assert server.requests[1]["thinking"]["budget_tokens"] == 2048 and server.requests[1]["max_tokens"] == 9000


# ---- failures ---------------------------------------------------------------------------------------

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


# ---- record and replay ------------------------------------------------------------------------------


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
    with MessagesServer([SAYS]) as server:
        with pytest.raises(ModelError, match="--price IN,OUT"):
            Run(server, model="my-own", limits=Limits(usd=1))
        run = Run(server, model="my-own", limits=Limits(usd=1), price="3,15", turns=1)
        run.drafts()
        assert 0 < run.budget.spent().usd < 1
    with pytest.raises(ModelError, match="IN,OUT"):
        Run(server, price="cheap")


def test_what_does_not_fit_the_context_is_not_sent() -> None:
    with MessagesServer([SAYS]) as server:
        huge = (Example("huge", "# " + "x" * 5_000_000, "softmax"),)
        run = Run(server, examples=huge)
        assert run.drafts() == [] and server.requests == []
    assert "do not fit" in run.heard(GaveUp)[0].reason
