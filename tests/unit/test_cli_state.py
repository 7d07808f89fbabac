"""`synth runs` and `synth top`: what was tried, what came of it, and errors that say what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ir.loader import bind, load_spec
from synth.cli import main
from synth.events import Measurement, PeersMeasured
from synth.jobs import Checked, Proof, Timed, unanswered
from synth.propose import Candidate
from synth.search.tried import Tried
from synth.state.store import Store
from verifier.certificate import Certificate

BOUND = bind(load_spec("softmax"), {})


def timed(name: str, **seconds: float) -> tuple[Measurement, ...]:
    return tuple(Measurement(name, shape, (), s, 0.1, None) for shape, s in seconds.items())


def certified(name: str, **seconds: float) -> Tried:
    """Tables do not ask what is in a certificate."""
    certificate = Certificate({"name": name})
    proof = replace(unanswered("", 0.0), certificate=certificate)
    long = Timed(timed(name, **seconds), "CPU") if seconds else None
    return Tried(Candidate(name, f"# {name}"), name, proof, checked=Checked(certificate, 1), long=long)


@pytest.fixture
def db(tmp_path: Path) -> str:
    """Two runs: a finished one with three certified kernels of four, and one whose process is gone."""
    url = str(tmp_path / "synth.db")
    with Store.open(url) as store:
        run = store.begin(BOUND, {}, tmp_path / "runs")
        run.note(PeersMeasured("CPU", "", timed("standard PyTorch (the formula, unfused)", a=8.0, b=2.0)))
        run.put(certified("slow", a=8.0, b=2.0), step=0)
        run.put(certified("fast", a=1.0, b=1.0), step=0)
        run.put(certified("untimed"), step=0)
        run.put(Tried(Candidate("none", "no kernel"), "x", Proof(None, problem="error[K001]")), step=1)
        (run.folder / "certificates" / "fast.json").write_text("{}")
        run.record("exchange", "1/0/0", {"usd": 1.25})
        run.finish("finished", 5.0)
        store.begin(BOUND, {}, tmp_path / "runs")
    return url


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_runs_lists_the_newest_first(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    second, first = json.loads(told(capsys, "runs", "--db", db, "--json"))
    assert (first["status"], first["candidates"], first["certified"], first["usd"]) == ("finished", 4, 3, 1.25)
    assert first["best"]["name"] == "fast" and first["best"]["speedup"] == pytest.approx(4.0)  # of 8 and 2
    assert (second["status"], second["best"]) == ("interrupted", None)
    lines = told(capsys, "runs", "--db", db).splitlines()
    assert "interrupted" in lines[1] and "4.00x" in lines[2] and "$1.25" in lines[2] and lines[2].endswith("dtype=bf16")


def test_top_puts_the_fastest_first(db: str, capsys: pytest.CaptureFixture[str]) -> None:
    best = json.loads(told(capsys, "top", "--db", db, "--json"))
    assert [k["name"] for k in best] == ["fast", "slow", "untimed"]
    assert best[0]["path"].endswith("certificates/fast.json") and best[1]["path"] == ""
    assert best[2]["speedup"] is None
    assert [k["name"] for k in json.loads(told(capsys, "top", "--db", db, "--json", "-n", "1"))] == ["fast"]
    assert json.loads(told(capsys, "top", "--db", db, "--json", "--spec", "attention")) == []
    printed = told(capsys, "top", "--db", db)
    assert "softmax (dtype=bf16)" in printed and "certificates/fast.json" in printed
    assert "no certified kernels yet" in told(capsys, "top", "last", "--db", db)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["top", "nonsense"], "no such run: nonsense; `synth runs` lists them"),
        (["runs", "--db", "nowhere.db"], "no database nowhere.db yet; `synth prove-and-run SPEC` makes one"),
        (["runs", "--db", "mysql://x/y"], "--db takes a file"),
    ],
)
def test_errors_exit_64_and_say_what_to_do(
    arguments: list[str], said: str, db: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_DB", db)
    assert main(arguments) == 64
    assert said in capsys.readouterr().err
