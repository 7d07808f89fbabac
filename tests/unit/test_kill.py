"""kill -9 at any moment: a real search, killed again and again and resumed, ends as one that was left alone.

Proofs are real; emission too; nothing is compiled or timed, as on a machine without Triton. The moments come from what
the process says it is doing, so they fall into proofs, between answers, and while the past is gone through again.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from searching import CANDIDATES, search

from ir.loader import bind, load_spec
from synth.state.run import Run
from synth.state.store import Store

BOUND = bind(load_spec("softmax"), {})
KILLS = 20


@contextmanager
def child(store: Path, run: Run) -> Iterator[tuple[BaseProcess, Connection]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["synth.search.loop", "synth.propose.evolve", "synth.state.store", "verifier.prove"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=search, args=(str(store), run.id, theirs), daemon=True)
    process.start()
    theirs.close()
    with ours:
        yield process, ours
    process.join()


def outcome(run: Run) -> list[tuple[Any, ...]]:
    """What a run found, less what a clock says."""
    names = ("ordinal", "name", "text", "identity", "twin", "source", "parents", "step", "slot", "verdict")
    return [tuple(getattr(row, name) for name in (*names, "obligations", "stage")) for row in run.candidates()]


def begin(db: Path) -> Run:
    with Store.open(str(db)) as store, store.begin(BOUND, {"target": "sm_90"}, db.parent) as run:
        return run


def live(db: Path, run: Run, further: int | None) -> tuple[Counter[tuple[str, ...]], bool]:
    """One life of the process: killed `further` messages after the first question that is not of the past, or left to
    its end. What it asked of the pool, and whether it came to the end first."""
    asked: Counter[tuple[str, ...]] = Counter()
    new = 0
    with child(db, run) as (process, said):
        while further is None or new <= further:
            message = said.recv()
            if message[0] == "over":
                return asked, True
            asked.update([message] if message[0] == "asked" else [])
            new += bool(new) or message[0] == "asked"
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        while (message := last_words(said))[0] != "over":
            asked.update([message] if message[0] == "asked" else [])
    return asked, False


def last_words(said: Connection) -> tuple[str, ...]:
    """What it had said before it died, one message at a time."""
    try:
        return tuple(said.recv())
    except (EOFError, OSError):  # OSError: in the middle of a message
        return ("over",)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    db = tmp_path_factory.mktemp("left-alone") / "synth.db"
    run = begin(db)
    live(db, run, None)
    with Store.open(str(db)) as store:
        found = outcome(store.load(run.id))
    assert len(found) >= CANDIDATES and "proved" in {row[9] for row in found}
    assert {row[5] for row in found} >= {"shipped", "rewrite"}
    return found


def test_a_search_killed_twenty_times_ends_as_one_that_was_left_alone(
    undisturbed: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    """Where the search comes to its end before the twentieth time, another one is begun."""
    chance = random.Random(3)
    db = tmp_path / "synth.db"
    kills = 0
    while kills < KILLS:
        run, asked, deaths, over = begin(db), Counter[tuple[str, ...]](), 0, False
        while not over:
            more, over = live(db, run, chance.randrange(4) if kills < KILLS else None)
            asked.update(more)
            with Store.open(str(db)) as store:
                assert over or store.load(run.id).status == "interrupted"
            deaths += not over
            kills += not over
        with Store.open(str(db)) as store:
            again = store.load(run.id)
            assert again.status == "finished" and outcome(again) == undisturbed
            answered = {("asked", kind, key) for kind in ("prove", "build", "check") for key, _ in again.answers(kind)}
        assert set(asked) == answered
        assert asked.total() - len(asked) <= deaths  # each death loses the one in flight, and none twice
