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


def to_the_end(db: Path, run: Run) -> list[tuple[str, ...]]:
    """Everything that was asked of the pool."""
    asked = []
    with child(db, run) as (_, said):
        while (message := said.recv())[0] != "over":
            asked += [message] if message[0] == "asked" else []
    return asked


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    db = tmp_path_factory.mktemp("left-alone") / "synth.db"
    run = begin(db)
    to_the_end(db, run)
    with Store.open(str(db)) as store:
        found = outcome(store.load(run.id))
    assert len(found) >= CANDIDATES and {row[9] for row in found} >= {"proved"}
    assert {row[5] for row in found} >= {"composed", "rewrite"}
    return found


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.thorough)])
def test_a_killed_search_ends_as_one_that_was_left_alone(
    kills: int, undisturbed: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    chance = random.Random(kills)
    db = tmp_path / "synth.db"
    run = begin(db)
    asked: Counter[tuple[str, ...]] = Counter()
    for _ in range(kills):
        with child(db, run) as (process, said):
            further = chance.randrange(7)  # messages after the first that is not of the past
            new = 0
            while new <= further:
                message = said.recv()
                asked[message] += message[0] == "asked"
                new += bool(new) or message[0] == "asked"
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            while said.poll():  # what it said before it died
                try:
                    message = said.recv()
                except EOFError:
                    break
                asked[message] += message[0] == "asked"
        with Store.open(str(db)) as store:
            assert store.load(run.id).status == "interrupted"
    asked.update(to_the_end(db, run))
    with Store.open(str(db)) as store:
        assert outcome(store.load(run.id)) == undisturbed
        assert store.load(run.id).status == "finished"
        kinds = ("prove", "build", "check")
        kept = {("asked", kind, key) for kind in kinds for key, _ in store.load(run.id).answers(kind)}
    questions = {message: count for message, count in asked.items() if count}
    assert set(questions) == kept
    again = sum(count - 1 for count in questions.values())
    assert again <= kills  # each death loses the one in flight, and none twice
