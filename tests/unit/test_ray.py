"""Jobs on a Ray cluster: a real one, on loopback. Actors are killed and stopped, and each time one job is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shipped import SQUARE, SQUARED
from test_workers import answered, gone, residual

from ir.loader import bind, parse_spec
from synth.cli import main
from synth.jobs import Proof, Prove, Time, Timed
from synth.workers import LIMITS
from verifier.verdict import Verdict

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'synth-kernels[ray]'")
BOUND = bind(parse_spec(SQUARE), {})


@pytest.fixture(scope="module")
def pool() -> Iterator[Any]:
    from synth.workers.ray import RayPool

    with RayPool(BOUND, "local", 1) as pool:
        yield pool


def pid(pool: Any) -> int:
    (remote,) = pool.provers
    return int(ray.get(remote.actor.__ray_call__.remote(lambda self: os.getpid())))


def proved(answer: Any) -> bool:
    return isinstance(answer, Proof) and answer.verdict is Verdict.PROVED


def test_actors_prove_and_time(pool: Any) -> None:
    timed, right, nonsense = answered(pool, Time("t", None, "heldout", "short"), Prove("a", SQUARED), Prove("n", "?"))
    assert proved(right)
    assert isinstance(nonsense, Proof) and "n.tile:1" in nonsense.problem
    assert isinstance(timed, Timed) and "names no heldout shapes" in timed.problem


def test_an_actor_that_dies_costs_one_job(pool: Any) -> None:
    first = pid(pool)
    os.kill(first, signal.SIGSTOP)  # so that it is surely at the job when it is killed
    threading.Timer(0.2, os.kill, (first, signal.SIGKILL)).start()
    lost_one, next_one = answered(pool, Prove("lost", SQUARED), Prove("next", SQUARED))
    assert "its actor died" in residual(lost_one)
    assert proved(next_one)


def test_an_actor_no_longer_heard_of_costs_one_job_and_is_ended(pool: Any) -> None:
    first = pid(pool)
    pool.limits, pool.grace = LIMITS | {Prove: 0.2}, 0.2
    os.kill(first, signal.SIGSTOP)
    (hung,) = answered(pool, Prove("hung", SQUARED))
    assert "no answer in time" in residual(hung)
    assert gone(first)


def test_no_cluster_is_an_error_that_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path), "--json"]
    assert main(["prove-and-run", "attention", "--ray", "127.0.0.1:1", *out]) == 64
    assert "ray start --head" in capsys.readouterr().err
