"""`synth export`: each candidate with the prompt that led to it and what became of it; no key anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from messages_server import KEY, MessagesServer, Says, submit, text

from ir.loader import bind, load_spec, packaged_specs
from synth.cli import main
from synth.events import HeldOut, Measurement, PeersMeasured
from synth.jobs import Prove, prove
from synth.propose import Candidate
from synth.propose.model import ModelProposer, ModelSettings
from synth.search.budget import Budget
from synth.search.lab import question
from synth.search.tried import Brief, Tried
from synth.state.answers import encode
from synth.state.run import Run
from synth.state.store import Store

BOUND = bind(load_spec("softmax"), {})
RIGHT = (packaged_specs() / "softmax" / "online.tile").read_text()
WRONG = RIGHT.replace(" / l[:, None]", "")


def gated(run: Run, draft: Candidate, step: int) -> Tried:
    """What the loop does with a draft, as far as the proof."""
    job = Prove(draft.name, draft.text)
    tried = Tried(draft, draft.text, prove(job, BOUND))
    run.record(*question(job), encode(tried.proof))
    run.put(tried, step)
    return tried


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run in which a model, over its real API, wrote a wrong kernel and then the right one; and a twin of that."""
    folder = tmp_path_factory.mktemp("export")
    script = [Says(text("First."), submit(WRONG, "plain")), Says(submit(RIGHT, "divided", "model-1-0-1-1"))]
    with (
        pytest.MonkeyPatch.context() as patch,
        MessagesServer(script) as server,
        Store.open(str(folder / "db")) as store,
    ):
        patch.setenv("ANTHROPIC_API_KEY", KEY)
        patch.setenv("ANTHROPIC_CONFIG_DIR", str(folder))
        run = store.begin(BOUND, {"target": "sm_90"}, folder)
        settings = ModelSettings("claude-opus-5-5", turns=2, base_url=server.url)
        talk = ModelProposer(settings, Budget(), run, lambda event: None).converse(Brief(BOUND, "sm_90", step=1))
        first = gated(run, next(talk)[0], 1)
        second = gated(run, talk.send((first,))[0], 1)
        twin = Candidate("again", RIGHT + "# the same\n", source="rewrite", parents=(second.candidate.name,))
        run.put(Tried(twin, RIGHT, second.proof, twin=second.candidate.name), 2)
        run.note(PeersMeasured("CPU", "", (Measurement("standard PyTorch", "4k", (), 3.0, float("inf"), None),)))
        shown = (Measurement("k", "ragged", (("R", 10),), 0.5, 0.1, None),)
        run.note(HeldOut(second.candidate, shown, shown, 1.0, 1.0, True))
        run.finish("finished", 1.0)
    return str(folder / "db")


def test_every_candidate_is_a_line(db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["export", "last", "--db", db, "--dataset", str(out)]) == 0
    assert capsys.readouterr().out == f"3 candidates written to {out}\n"
    assert KEY not in out.read_text() and list(tmp_path.iterdir()) == [out]
    wrong, right, twin = (json.loads(line) for line in out.read_text().splitlines())

    assert (wrong["candidate"], wrong["verdict"], wrong["obligations"]["E1"]) == (WRONG, "refuted", "refuted")
    assert wrong["counterexample"]["obligation"] == "E1" and wrong["counterexample"]["tensor"] == "Y"
    assert wrong["feedback"].startswith(f"{wrong['name']}: refuted") and "expected" in wrong["feedback"]
    assert wrong["certificate"] is None and wrong["certified"] is False
    assert len(wrong["prompt"]["messages"]) == 1 and "kernel language" in json.dumps(wrong["prompt"]["system"])

    assert (right["candidate"], right["verdict"], right["counterexample"]) == (RIGHT, "proved", None)
    assert right["parents"] == [wrong["name"]] and right["note"] == "divided"
    asked = right["prompt"]["messages"]
    assert len(asked) == 3 and "refuted" in json.dumps(asked[-1])  # what it was told of the first one
    assert right["prompt"]["reply"][0]["input"]["text"] == RIGHT
    assert right["certificate"] and right["feedback"].startswith(f"{right['name']}: proved")
    assert [(t["shapes"], t["shape"], t["seconds"]) for t in right["timing"]] == [("heldout", "ragged", 0.5)]
    assert [(t["shape"], t["tflops"]) for t in right["standard"]] == [("4k", None), ("ragged", 0.1)]  # no infinities

    assert (twin["twin_of"], twin["prompt"], twin["source"]) == (right["name"], None, "rewrite")
    assert twin["timing"] == right["timing"] and "same program as" in twin["feedback"]


def test_a_dataset_goes_to_standard_output(db: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["export", "last", "--db", db, "--dataset", "-"]) == 0
    assert [json.loads(line)["verdict"] for line in capfdbinary.readouterr().out.splitlines()] == [
        "refuted", "proved", "proved",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("run", "dataset", "said"),
    [("nonsense", "out.jsonl", "no such run: nonsense"), ("last", "no/such/folder/out.jsonl", "No such file")],
)
def test_errors_exit_64(
    run: str, dataset: str, said: str, db: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", run, "--db", db, "--dataset", str(tmp_path / dataset)]) == 64
    assert said in capsys.readouterr().err
