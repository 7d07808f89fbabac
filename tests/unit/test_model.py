"""Conversations with a model, held against a server on loopback: what is sent, and what is made of replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conversing import GOOD, NONSENSE, Run, judged, last_words, set_up
from messages_server import (
    CutInput,
    MessagesServer,
    Reply,
    Says,
    results_in,
    submit,
    text,
    thinking,
)

from ir.loader import bind, load_spec
from synth.events import Answered, Asked, GaveUp
from synth.propose import Candidate
from synth.propose.model import Example
from verifier.verdict import Verdict


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_up(monkeypatch, tmp_path)


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
