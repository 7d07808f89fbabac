"""The database of runs, on SQLite and on PostgreSQL: what is kept, who may write, what is refused."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from databases import postgres
from recording import record
from sqlalchemy import create_engine, text

from ir.loader import bind, load_spec, packaged_specs
from synth.events import Measurement, PeersMeasured
from synth.jobs import Built, Checked, Proof, Prove, Timed, prove
from synth.propose import Candidate
from synth.search.tried import Tried
from synth.state import store as store_module
from synth.state.answers import encode
from synth.state.store import StateError, Store

BOUND = bind(load_spec("softmax"), {})
TEXT = (packaged_specs() / "softmax" / "online.tile").read_text()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path_factory.mktemp("db") / "runs" / "synth.db")
    else:
        with postgres() as server:
            yield server


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def proof() -> Proof:
    return prove(Prove("online", TEXT), BOUND)


def tried(proof: Proof, name: str = "online", seconds: float = 2.0) -> Tried:
    """A candidate that went all the way."""
    assert proof.certificate is not None
    certificate = proof.certificate.with_section("lowered", {"source": "..."})
    long = Timed((Measurement(name, "1k", (("R", 1024), ("C", 1024)), seconds, 0.5, None),), "CPU")
    candidate = Candidate(name, TEXT, (("BR", "4"),), source="model", parents=("a", "b"), note="one\0pass \ud800")
    return Tried(candidate, "id", proof, Built(certificate), Checked(certificate, 3, 1e-9), long=long)


# ---- what is kept --------------------------------------------------------------------------------------


def test_a_run_is_found_again_with_its_plan(store: Store, tmp_path: Path) -> None:
    with store.begin(BOUND, {"seed": 7, "target": "sm_90"}, tmp_path) as run:
        assert run.folder == tmp_path / run.id and (run.folder / "candidates").is_dir()
        assert store.load(run.id).plan == store.load("last").plan == store.load(run.id[:-1]).plan == {
            "seed": 7,
            "target": "sm_90",
        }  # fmt: skip
        found = store.load(run.id)
        assert (found.spec, found.settings, found.spec_text) == ("softmax", dict(BOUND.settings), BOUND.spec.source)
        assert found.versions["z3-solver"] and found.checker == run.checker


def test_the_first_answer_stays_and_every_process_sees_it(store: Store, url: str, tmp_path: Path) -> None:
    with store.begin(BOUND, {}, tmp_path) as run:
        assert run.answer("time", "k") is None
        run.record("time", "k", {"seconds": [1.5, float("inf"), "\0\ud800"]})
        run.record("time", "k", {"seconds": []})
        run.record("check", "k", {"other": "kind"})
        with Store.open(url) as elsewhere:
            assert elsewhere.load(run.id).answer("time", "k") == {"seconds": [1.5, float("inf"), "\0\ud800"]}
        assert run.answers("time") == [("k", {"seconds": [1.5, float("inf"), "\0\ud800"]})]


def test_threads_record_side_by_side(store: Store, tmp_path: Path) -> None:
    with store.begin(BOUND, {}, tmp_path) as run, ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda k: run.record("prove", str(k % 20), {"k": k}), range(60)))
        assert sorted(int(key) for key, _ in run.answers("prove")) == list(range(20))


def test_candidates_are_kept_as_far_as_they_came(store: Store, proof: Proof, tmp_path: Path) -> None:
    with store.begin(BOUND, {}, tmp_path) as run:
        whole = tried(proof)
        run.put(replace(whole, built=None, checked=None, long=None), step=1, slot=2)
        run.put(Tried(Candidate("none", "no kernel"), "x", Proof(None, problem="error[K001]")), step=1)
        run.put(whole, step=1, slot=2)  # it came further
        first, second = run.candidates()
        assert (first.name, first.ordinal, first.step, first.slot, first.verdict) == ("online", 0, 1, 2, "proved")
        assert (first.source, first.parents, first.choices) == ("model", ["a", "b"], [["BR", "4"]])
        assert first.note == "one\ufffdpass \ufffd"  # what no database keeps
        assert first.certified and first.certificate == whole.checked.certificate.id  # type: ignore[union-attr]
        assert set(first.obligations.values()) == {"proved"} and len(first.obligations) == 9
        assert (second.verdict, second.stage, second.problem) == (None, "read", "error[K001]")
        assert run.verdicts() == {"online": "proved", "none": "no kernel"}
        assert [(m.name, m.shape, m.seconds, m.rung) for m in run.measurements()] == [("online", "1k", 2.0, "long")]

        run.note(PeersMeasured("CPU", "", (Measurement("torch", "1k", (), 3.0, 0.1, None),)))
        run.note(PeersMeasured("CPU", "", (Measurement("torch", "1k", (), 3.5, 0.1, None),)))  # as when resumed
        assert [(m.name, m.seconds) for m in run.measurements() if m.candidate is None] == [("torch", 3.5)]


# ---- who may write -------------------------------------------------------------------------------------


def test_a_run_has_one_writer(store: Store, url: str, tmp_path: Path) -> None:
    run = store.begin(BOUND, {}, tmp_path)
    with pytest.raises(StateError, match=f"still being written by process {os.getpid()} on "):
        store.resume(run.id)
    with child(url, run.id) as (_, said):
        assert f"still being written by process {os.getpid()} on " in said.recv()
    assert store.load(run.id).status == "running"
    run.record("exchange", "1/0/0", {"usd": 0.25, "attempts": [{"usd": 0.5}, {"usd": None}]})
    run.record("exchange", "1/0/0", {"usd": 9.0})  # not new, so not paid for again
    run.finish("finished", 2.0)
    again = store.resume(run.id)
    assert (again.seconds, again.usd, again.status) == (2.0, 0.75, "running")
    again.finish("finished", 3.0)
    assert (store.load(run.id).seconds, store.load(run.id).status) == (5.0, "finished")


def test_kill_9_at_any_moment_loses_at_most_what_was_in_flight(store: Store, url: str, tmp_path: Path) -> None:
    """Twenty times: what the child said it had recorded is there with nothing half-written, the dead one's lock is
    gone, and the next child goes on from there."""
    chance, known = random.Random(5), 0
    with store.begin(BOUND, {}, tmp_path) as begun:
        run = begun.id
    for _ in range(20):
        with child(url, run) as (process, said):
            last = known
            for _ in range(chance.randrange(4)):
                last = said.recv()
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        kept = store.load(run).answers("prove")
        assert [(key, answer["k"]) for key, answer in kept] == [(str(k), k) for k in range(len(kept))]
        given_up = time.monotonic() + 10  # a server lets go of a lock when it notices that the one who held it is gone
        while (status := store.load(run).status) == "running" and time.monotonic() < given_up:
            continue
        assert last <= len(kept) and status == "interrupted"
        known = len(kept)
    assert known > 10


@contextmanager
def child(url: str, run: str) -> Iterator[tuple[BaseProcess, Connection]]:
    """A process of `recording.record`, forked from a server that has imported what it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["synth.state.store"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=record, args=(url, run, theirs), daemon=True)
    process.start()
    theirs.close()
    with ours:
        yield process, ours
    process.join()


# ---- what is refused -----------------------------------------------------------------------------------


def test_runs_that_are_not_there(store: Store, tmp_path: Path) -> None:
    with store.begin(BOUND, {}, tmp_path) as run:
        with pytest.raises(StateError, match="no such run: nonsense; `synth runs` lists them"):
            store.load("nonsense")
        with pytest.raises(StateError, match="no such run: ;"):
            store.load("")
        store.begin(BOUND, {}, tmp_path)
        with pytest.raises(StateError, match="runs begin with 2"):
            store.load(run.id[:1])


def test_another_checker_does_not_go_on_with_a_run(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.begin(BOUND, {}, tmp_path)
    run.finish("interrupted", 1.0)
    monkeypatch.setattr(store_module, "checker", lambda: "another")
    with pytest.raises(StateError, match=f"--replay {run.id}"):
        store.resume(run.id)
    monkeypatch.undo()
    store.resume(run.id)  # it was not left locked


def test_an_edited_certificate_is_noticed(store: Store, proof: Proof, tmp_path: Path) -> None:
    from synth.state.answers import Damaged, decode

    kept = encode(proof)
    kept["certificate"]["body"]["claim"] = []
    with store.begin(BOUND, {}, tmp_path) as run:
        run.record("prove", "k", kept)
        with pytest.raises(Damaged, match="does not match its id"):
            decode("prove", run.answer("prove", "k") or {})


def test_places_that_hold_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, it is a text that is long enough" * 20)
    with pytest.raises(StateError, match="text.db cannot be used: file is not a database"):
        Store.open(str(tmp_path / "text.db"))
    with pytest.raises(StateError, match="prove-and-run SPEC` makes one"):
        Store.open(str(tmp_path / "none.db"), create=False)
    with pytest.raises(StateError, match="postgresql://..., not mysql://"):
        Store.open("mysql://localhost/runs")
    with pytest.raises(StateError, match="give --db a path"):
        Store.open("sqlite://")
    with pytest.raises(StateError) as refused:
        Store.open("postgresql://someone:secret@127.0.0.1:1/runs?connect_timeout=2")
    assert "cannot be used" in str(refused.value) and "secret" not in str(refused.value)
    assert not (tmp_path / "none.db").exists()


def test_tables_of_another_version(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "synth.db")).close()
    with create_engine(f"sqlite:///{tmp_path / 'synth.db'}").begin() as connection:
        connection.execute(text("UPDATE schema SET version = 99"))
    with pytest.raises(StateError, match="tables of version 99, this is version 1; give another --db"):
        Store.open(str(tmp_path / "synth.db"))


def test_sqlite_is_in_wal_mode(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "synth.db")).close()
    assert sqlite3.connect(tmp_path / "synth.db").execute("PRAGMA journal_mode").fetchone() == ("wal",)
