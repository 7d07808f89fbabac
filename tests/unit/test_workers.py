"""Jobs in processes of this machine: each is answered, whatever becomes of its worker, and no process is left over."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pytest
from shipped import SQUARE, SQUARED

from ir.loader import bind, load_spec, parse_spec
from ir.spec import Bound
from lowering.compile import child_environment
from synth.bench import timing
from synth.certify import certify
from synth.jobs import Answer, Build, Built, Check, Checked, Job, Proof, Prove, Time, Timed, lost
from synth.workers import LIMITS, WorkersUnavailable
from synth.workers.local import LocalPool
from verifier.certificate import Certificate
from verifier.verdict import Verdict

BOUND = bind(parse_spec(SQUARE), {})
WRONG = SQUARED.replace("x * x * scale", "x * scale")
PATIENCE = 60.0  # seconds until a test that waits for a process fails


def gone(pid: int) -> bool:
    """Whether the process ends within `PATIENCE`."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], PATIENCE)[0])
    finally:
        os.close(handle)


def pids(pool: LocalPool) -> list[int]:
    return [worker.process.pid or 0 for worker in pool.alive]


def answered(pool: LocalPool, *jobs: Job) -> list[Answer]:
    found = dict(pool.run(jobs))
    assert sorted(found) == list(range(len(jobs)))
    return [found[k] for k in range(len(jobs))]


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with LocalPool(BOUND, 2) as pool:
        yield pool


@pytest.fixture
def one(pool: LocalPool) -> Iterator[LocalPool]:
    """A pool of one worker, which is ready."""
    while len(pool.alive) > 1:
        pool.alive.pop().end()
    pool.workers = 1
    answered(pool, Prove("warm", "nonsense"))
    yield pool
    pool.workers, pool.limits = 2, LIMITS


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    found = certify(SQUARED, BOUND).certificate
    assert found is not None
    return found


# ---- answers -----------------------------------------------------------------------------------------


def test_each_job_is_answered_under_its_index(pool: LocalPool) -> None:
    right, wrong, nonsense = answered(pool, Prove("right", SQUARED), Prove("wrong", WRONG), Prove("n", "nonsense"))
    assert isinstance(right, Proof) and right.verdict is Verdict.PROVED
    assert right.certificate is not None and right.certificate.candidate == SQUARED
    assert isinstance(wrong, Proof) and wrong.verdict is Verdict.REFUTED and wrong.certificate is None
    assert isinstance(nonsense, Proof) and nonsense.report is None and "n.tile:1" in nonsense.problem
    assert len(pool.alive) == 2


def test_what_is_timed_comes_last_and_goes_to_one_worker(pool: LocalPool) -> None:
    peers = Time("t", None, "search", "short")
    jobs = [peers, Prove("a", SQUARED), peers, Prove("b", "?")]
    order, busy = [], []
    for index, _ in pool.run(jobs):
        order.append(index)
        busy.append([worker.job for worker in pool.alive if worker.job is not None])
    assert sorted(order[:2]) == [1, 3] and order[2:] == [0, 2]
    assert busy[2] == busy[3] == []


def test_an_answer_in_place_of_one_is_never_a_good_one(certificate: Certificate) -> None:
    for job in (Prove("p", "x"), Build("b", certificate, "sm_90"), Check("c", certificate), Time("t", None, "s", "r")):
        answer = lost(job, "the reason", 1.0)
        match answer:
            case Proof(report, None, ""):
                assert report is not None and {r.verdict for r in report.results} == {Verdict.UNPROVED}
                assert {r.residual for r in report.results} == {"the reason"}
            case Built(problem=problem) | Checked(problem=problem) | Timed(problem=problem):
                assert problem == "the reason"


# ---- workers that fail -------------------------------------------------------------------------------


def residual(answer: Answer) -> str:
    assert isinstance(answer, Proof) and answer.report is not None and answer.verdict is Verdict.UNPROVED
    return answer.report.results[0].residual


def test_a_worker_that_dies_costs_one_job(one: LocalPool) -> None:
    (first,) = pids(one)
    os.kill(first, signal.SIGSTOP)  # so that it is surely at the job when it is killed
    killer = threading.Timer(0.2, os.kill, (first, signal.SIGKILL))
    killer.start()
    lost_one, next_one = answered(one, Prove("lost", SQUARED), Prove("next", SQUARED))
    assert "its worker was killed" in residual(lost_one)
    assert isinstance(next_one, Proof) and next_one.verdict is Verdict.PROVED
    assert pids(one) != [first]


def test_a_worker_that_hangs_costs_one_job(one: LocalPool) -> None:
    one.limits = LIMITS | {Prove: 0.2}
    (first,) = pids(one)
    os.kill(first, signal.SIGSTOP)
    (hung,) = answered(one, Prove("hung", SQUARED))
    assert residual(hung) == "no answer within 0.2 s"
    assert gone(first)


def test_an_idle_worker_that_died_costs_nothing(one: LocalPool) -> None:
    (first,) = pids(one)
    os.kill(first, signal.SIGKILL)
    assert gone(first)
    one.alive[0].process.join()
    (found,) = answered(one, Prove("right", SQUARED))
    assert isinstance(found, Proof) and found.verdict is Verdict.PROVED


def test_memory_that_runs_out_costs_one_job() -> None:
    with LocalPool(BOUND, 1, memory=2**20) as pool:
        starved, nonsense = answered(pool, Prove("starved", SQUARED), Prove("small", "nonsense"))
    assert "memory" in residual(starved).lower()
    assert isinstance(nonsense, Proof) and "small.tile:1" in nonsense.problem


def test_an_unforeseen_error_is_an_answer_with_its_place(one: LocalPool, certificate: Certificate) -> None:
    stranger = Certificate({**certificate.body, "subject": {}})
    (found,) = answered(one, Build("stranger", stranger, "sm_90"))
    assert isinstance(found, Built) and "KeyError" in found.problem and ".py:" in found.problem


def test_workers_that_cannot_start_are_an_error_not_a_loop() -> None:
    with (
        LocalPool(BOUND, 1) as pool,
        pytest.raises(WorkersUnavailable, match="gets ready: its worker ended unasked .exit code 3."),
    ):
        pool.bound = Fatal()  # type: ignore[assignment]
        answered(pool, Prove("any", SQUARED))


class Fatal:
    """Whoever unpickles it ends."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (3,)


# ---- endings -----------------------------------------------------------------------------------------


def test_an_interrupt_ends_every_worker(interruptible: None) -> None:
    with pytest.raises(KeyboardInterrupt), LocalPool(BOUND, 2) as pool:
        answered(pool, Prove("a", SQUARED), Prove("b", SQUARED))
        workers = pids(pool)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
        answered(pool, Prove("c", SQUARED), Prove("d", SQUARED))
    assert len(workers) == 2 and all(gone(pid) for pid in workers)


SCRIPT = """
from ir.loader import bind, parse_spec
from synth.jobs import Build, Prove
from synth.workers import local
from shipped import SQUARE, SQUARED

local.PRELOADED = ["synth.jobs"]  # PyTorch is not needed here, and takes seconds
with local.LocalPool(bind(parse_spec(SQUARE), {}), 1) as pool:
    ((_, proof),) = pool.run([Prove("p", SQUARED)])
    for _ in range(2):
        print(pool.alive[0].process.pid, flush=True)
        for _, answer in pool.run([Build("b", proof.certificate, "sm_90"), Prove("n", "nonsense")]):
            print(answer.problem.splitlines()[0], flush=True)
"""


def test_compilers_end_with_their_worker_and_workers_with_the_run(tmp_path: Path) -> None:
    """The compiler's assembler hangs. First its worker is killed, then, at the next job, the run."""
    started = tmp_path / "started"
    os.mkfifo(started)
    assembler = tmp_path / "ptxas"
    assembler.write_text(f"#!/bin/sh\necho $$ >{started}\nexec tail -f /dev/null\n")
    assembler.chmod(0o755)
    environment = child_environment(False) | {"TRITON_PTXAS_PATH": str(assembler), "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    command = [sys.executable, "-c", SCRIPT]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run,
        open(os.open(started, os.O_RDWR)) as compilers,
    ):
        assert run.stdout is not None
        worker, compiler = int(run.stdout.readline()), int(line_of(compilers))
        os.kill(worker, signal.SIGKILL)
        assert "its worker was killed" in run.stdout.readline()
        assert "nonsense" in run.stdout.readline()
        assert gone(worker) and gone(compiler)
        worker, compiler = int(run.stdout.readline()), int(line_of(compilers))
        run.kill()
    assert gone(worker) and gone(compiler)


def line_of(pipe: TextIO) -> str:
    assert select.select([pipe], [], [], PATIENCE)[0], "nobody wrote"
    return pipe.readline()


# ---- timing ------------------------------------------------------------------------------------------


def tiny() -> Bound:
    """Attention with shapes that take no time."""
    source = load_spec("attention").source
    shapes = '[bench]\ntarget = "sm_90"\n' + "".join(
        f'[[bench.{which}]]\nname = "{which}-{n}"\nsizes = {{ B = 1, H = 2, G = 1, M = {n}, N = {n} }}\n'
        for which in ("search", "heldout")
        for n in (48, 80)
    )
    return bind(parse_spec(source[: source.index("[bench]")] + shapes), {})


def test_kernels_and_peers_are_timed_on_the_shapes_asked_for() -> None:
    bound = tiny()
    text = (Path(__file__).parents[1] / "golden/proved/fa2_none.tile").read_text()
    found = certify(text, bound).certificate
    assert found is not None
    with LocalPool(bound, 1) as pool:
        peers, search, heldout = answered(
            pool,
            Time("peers", None, "search", "short"),
            Time("k", found, "search", "short"),
            Time("k", found, "heldout", "short"),
        )
    assert isinstance(peers, Timed) and isinstance(search, Timed) and isinstance(heldout, Timed)
    assert not peers.problem + search.problem + heldout.problem
    assert {m.shape for m in peers.measurements + search.measurements} == {"search-48"}
    assert "standard PyTorch (the formula, unfused)" in [m.name for m in peers.measurements]
    assert [m.shape for m in heldout.measurements] == ["heldout-48"]
    assert all(m.seconds > 0 and m.tflops > 0 for m in search.measurements)
    assert search.device and search.roofline


def test_heldout_shapes_never_stand_in_for_search_shapes() -> None:
    bound = tiny()
    bound = replace(bound, spec=replace(bound.spec, search_shapes=()))
    assert [s.name for s in timing.chosen_shapes(bound, "search")] == ["default"]
    assert [s.name for s in timing.chosen_shapes(bound, "heldout")] == ["heldout-48", "heldout-80"]


def test_a_spec_without_heldout_shapes_says_so(pool: LocalPool) -> None:
    (found,) = answered(pool, Time("peers", None, "heldout", "long"))
    assert isinstance(found, Timed) and "[[bench.heldout]]" in found.problem
