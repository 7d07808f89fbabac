"""A whole guided search over HTTP: a model that writes a wrong kernel, reads the refutation, and repairs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from messages_server import KEY, MessagesServer, Says, results_in, submit, text
from small_spec import RIGHT, SPEC, WRONG

from ir.loader import bind, load_spec
from ir.spec import Bound
from synth.cli import main
from synth.compare import ARMS
from synth.propose.model import ModelProposer, ModelSettings
from synth.search.budget import Budget
from synth.search.lab import Lab, Replayed
from synth.search.loop import Search, Strategy
from synth.state import InMemory, Journal
from synth.workers.local import LocalPool
from verifier.verdict import Verdict


def author(request: dict[str, Any]) -> Says:
    """Writes the wrong kernel first; told that it is refuted, the right one; content after that."""
    told = "\n".join(results_in(request))
    if not told:
        return Says(text("A loop over blocks of columns."), submit(WRONG, "one pass"))
    if "refuted" in told:
        return Says(submit(RIGHT, "cdiv, so that the last block is visited"))
    return Says(text("That is as good as I can make it."))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.delenv("SYNTH_DB", raising=False)
    (tmp_path / "rowsum.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def verdicts(seen: list[dict[str, Any]]) -> list[tuple[str, str]]:
    found = []
    for event in seen:
        if event["event"] == "Judged":
            results = {r["verdict"] for r in event["report"]["results"]}
            worst = next(v for v in ("refuted", "unproved", "proved") if v in results)
            found.append((event["candidate"]["name"], worst))
    return found


def test_a_refutation_is_read_and_the_kernel_repaired_and_all_of_it_replayed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop alone: two conversations with a model, the gate, the journal."""
    bound = bind(load_spec(place / "rowsum.toml"), {})
    journal = InMemory()
    with MessagesServer(author) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        first = searched(bound, journal, replay=False)
        asked = len(server.requests)
    assert asked == 6 and {n: t.verdict for n, t in first.tried.items()} == {
        "model-1-0-1-1": Verdict.REFUTED,
        "model-1-1-1-1": Verdict.REFUTED,
        "model-1-0-2-1": Verdict.PROVED,
        "model-1-1-2-1": Verdict.PROVED,
    }
    assert first.tried["model-1-1-2-1"].twin == "model-1-0-2-1" and first.archive.leaders(1)[0].certified
    monkeypatch.delenv("ANTHROPIC_API_KEY")  # and the server is gone
    again = searched(bound, Replayed(journal, InMemory()), replay=True)
    assert [(t.candidate, t.verdict, t.long) for t in again.tried.values()] == [
        (t.candidate, t.verdict, t.long) for t in first.tried.values()
    ]


def after_one_step(tried: int, talking: bool) -> str:
    return "one step" if tried and not talking else ""


def searched(bound: Bound, journal: Journal, replay: bool) -> Search:
    """One step of a search with a model as its only proposer, at two conversations."""
    model = ModelProposer(ModelSettings("any-model"), Budget(), journal, lambda event: None, replay=replay)
    with LocalPool(bound, 1) as pool:
        who = Strategy(lambda: iter(()), (model, model))
        search = Search(bound, "sm_90", 0, Lab(journal, pool), who, after_one_step)
        list(search.search())
    return search


@pytest.mark.thorough
def test_the_commands_do_all_of_that(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["--model", "any-model", "--price", "3,15", "--max-usd", "1", "--max-candidates", "2", "--json"]
    with MessagesServer(author) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        assert main(["compare", "rowsum.toml", "--arms", "single-shot,guided", *ask]) == 0
    arms = events(capsys)
    outcome = {o["arm"]: o for o in arms[-1]["arms"]}
    assert outcome["single-shot"]["certified"] == 0 and outcome["single-shot"]["wrong"] == 1  # never told
    assert outcome["guided"]["certified"] >= 1 and outcome["guided"]["speedup"] > 0
    assert outcome["guided"]["usd"] > 0 and outcome["guided"]["tokens"] > 0
    guided = arms[next(k for k, e in enumerate(arms) if e["event"] == "Finished") + 1 :]
    by_model = [(n, v) for n, v in verdicts(guided) if n.startswith("model-")]
    assert [v for _, v in by_model][:2] == ["refuted", "proved"]
    assert not [p for p in place.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]

    monkeypatch.delenv("ANTHROPIC_API_KEY")  # the server is gone as well
    assert main(["prove-and-run", "--replay", "last", "--json"]) == 0
    again = events(capsys)
    (compared,) = [e for e in again if e["event"] == "Replay"]
    assert compared["differences"] == [] and compared["candidates"] > 0
    assert verdicts(again) == verdicts(guided)


def test_a_budget_that_does_not_pay_for_a_request_sends_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with MessagesServer(author) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        ask = ["--model", "any-model", "--price", "3,15", "--max-usd", "0.000001", "--max-candidates", "30", "--json"]
        code = main(["compare", "rowsum.toml", "--arms", "single-shot", *ask])
        assert code == 2 and not server.requests
    assert events(capsys)[-1]["arms"][0]["usd"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["prove-and-run", "rowsum.toml", "--model", "any-model", "--max-usd", "1"], "--price"),
        (["prove-and-run", "rowsum.toml", "--model", "any-model"], "ANTHROPIC_API_KEY"),
        (["prove-and-run"], "SPEC is missing"),
        (["prove-and-run", "--replay", "last"], "no runs yet"),
        (["resume", "last"], "no runs yet"),
        (["compare", "rowsum.toml", "--arms", "magic"], ", ".join(ARMS)),
    ],
)
def test_what_cannot_be_begun_says_what_to_do(
    place: Path, arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert main(arguments) == 64
    assert told in capsys.readouterr().err


def test_a_comparison_without_a_model_says_which_arm_was_not_run(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "rowsum.toml", "--arms", "baseline,single-shot", "--json"]) == 2
    baseline, single = events(capsys)[-1]["arms"]
    assert baseline["speedup"] == 1.0 and baseline["gap"] == 1.0
    assert "--model" in single["problem"] and single["candidates"] == 0
