"""Jobs in processes of this machine, so that a run outlives a job that takes too long, too much memory, or crashes.

Fail closed: whatever keeps a worker from answering is a failed job with that reason, never anything else. A worker
serves many jobs and is replaced after one it did not survive. Each leads a process group of its own, which holds the
compilers it starts, and is ended with the whole of it. If this process is killed, its end of every worker's lifeline
closes, and each worker ends its own group. (POSIX.)
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType

from ir.spec import Bound
from synth.jobs import Answer, Job, Time, do, lost
from synth.workers import LIMITS, MEMORY, WorkersUnavailable

START = 120.0  # seconds a worker may take to be ready; a fork of the prepared server takes a few milliseconds
PRELOADED = ["synth.jobs", "lowering.crosscheck", "synth.bench.job"]  # imported once, by the server workers fork from


@dataclass(frozen=True, slots=True)
class Lost:
    """In place of an answer. A worker that sends it ends, because what the job left of it cannot be trusted."""

    reason: str


# ---- in the worker -------------------------------------------------------------------------------


def serve(bound: Bound, channel: Connection, lifeline: Connection, memory: int) -> None:
    """Answers jobs until the channel closes. The first message says that it is ready."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    channel.send(None)
    while True:
        try:
            job = channel.recv()
        except EOFError:
            return
        channel.send(answer := attempt(job, bound, memory))
        if isinstance(answer, Lost):
            return


def attempt(job: Job, bound: Bound, memory: int) -> Answer | Lost:
    """Do a job within `memory` bytes beyond what the process has now."""
    limit_memory(None if isinstance(job, Time) else memory)  # a GPU's driver maps more than any machine has
    try:
        return do(job, bound)
    except MemoryError:
        return Lost(f"it ran out of memory (a job may take {memory / 2**30:.1f} GiB)")
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return Lost(f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})")


def limit_memory(more: int | None) -> None:
    """Let this process, and each it starts, take `more` bytes of address space than this one has; None: all there is.
    Elsewhere than on Linux address space is not what a process uses."""
    if sys.platform != "linux":
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = resource.RLIM_INFINITY
    if more is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
    if hard != resource.RLIM_INFINITY:
        limit = hard if limit == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _end_with(lifeline: Connection) -> None:
    """Nothing is ever sent: it becomes readable when the parent is gone, however it went."""
    lifeline.poll(None)
    os.killpg(0, signal.SIGKILL)


# ---- in the parent -------------------------------------------------------------------------------


@dataclass
class Worker:
    """A process, the channel to it, and the job it is at with its index in the list of jobs.

    `begun` counts from the job's beginning, or from the worker's own until it said that it is `ready`."""

    process: BaseProcess
    channel: Connection
    lifeline: Connection
    ready: bool = False
    index: int = 0
    job: Job | None = None
    begun: float = field(default_factory=time.monotonic)

    def take(self, index: int, job: Job) -> None:
        self.index, self.job = index, job
        if self.ready:
            self.begun = time.monotonic()
        with suppress(OSError):  # died meanwhile: found out when its answer is waited for
            self.channel.send(job)

    def limit(self, limits: Mapping[type[Job], float]) -> float:
        """Seconds after which it is given up."""
        assert self.job is not None
        return limits[type(self.job)] if self.ready else START

    def left(self, limits: Mapping[type[Job], float]) -> float:
        return self.begun + self.limit(limits) - time.monotonic()

    def end(self) -> None:
        """Its whole process group, at once."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError, PermissionError):  # gone already, or not yet leading a group
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.channel.close()
        self.lifeline.close()

    def cause_of_death(self) -> str:
        self.process.join(1.0)
        code = self.process.exitcode or 0
        if code == -signal.SIGKILL:
            return "its worker was killed, as the system does when memory runs out"
        if code < 0:
            return f"its worker crashed (signal {-code}), as it may when the job's memory runs out"
        return f"its worker ended unasked (exit code {code})"


@dataclass
class LocalPool:
    """`workers` processes for one bound spec, started when there is work for them and kept until the pool is left.

    `limits` in seconds for each kind of job; `memory` in bytes for each job but `Time`. `Time` jobs all go to the
    first worker, which keeps its inputs and its yardstick.
    """

    bound: Bound
    workers: int
    limits: Mapping[type[Job], float] = field(default_factory=lambda: LIMITS)
    memory: int = MEMORY
    alive: list[Worker] = field(default_factory=list, init=False)
    stillborn: int = field(default=0, init=False)  # workers in a row that ended before they were ready

    def __enter__(self) -> LocalPool:
        forkserver.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()  # it imports while the caller goes on
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        while self.alive:
            self.alive.pop().end()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """As `synth.workers.Pool.run`: what runs alone comes last."""
        numbered = list(enumerate(jobs))
        yield from self._run([(k, job) for k, job in numbered if not isinstance(job, Time)], self.workers)
        for k, job in numbered:
            if isinstance(job, Time):  # begun only when the caller is done with what came before
                yield from self._run([(k, job)], 1)

    def _run(self, jobs: Sequence[tuple[int, Job]], at_once: int) -> Iterator[tuple[int, Answer]]:
        waiting = deque(jobs)
        try:
            self._hand_out(waiting, at_once)
            while self._busy():
                answers = self._collect(waiting)
                self._hand_out(waiting, at_once)  # before the caller does anything with the answers
                yield from answers
        finally:
            for worker in self._busy():
                self._drop(worker)

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.alive if worker.job is not None]

    def _hand_out(self, waiting: deque[tuple[int, Job]], at_once: int) -> None:
        for worker in [w for w in self.alive if w.job is None and not w.process.is_alive()]:
            self._drop(worker)
        while len(self.alive) < min(at_once, len(self._busy()) + len(waiting)):
            self.alive.append(self._start())
        for worker in self.alive[:at_once]:
            if waiting and worker.job is None:
                worker.take(*waiting.popleft())

    def _collect(self, waiting: deque[tuple[int, Job]]) -> list[tuple[int, Answer]]:
        """What has been answered, when something is or a worker is given up. The job of a worker that never was ready
        waits again."""
        busy = self._busy()
        wait([worker.channel for worker in busy], max(0.0, min(worker.left(self.limits) for worker in busy)))
        found = []
        for worker in busy:
            job, index = worker.job, worker.index
            assert job is not None
            match self._heard(worker):
                case None:
                    pass
                case Lost(reason):
                    self._drop(worker)
                    if worker.ready:
                        found.append((index, lost(job, reason, time.monotonic() - worker.begun)))
                    else:
                        waiting.appendleft((index, job))
                        self._stillborn(reason)
                case answer:
                    worker.job = None
                    found.append((index, answer))
        return found

    def _heard(self, worker: Worker) -> Answer | Lost | None:
        """None while there is no answer."""
        try:
            if not worker.channel.poll():
                overdue = worker.left(self.limits) <= 0
                return Lost(f"no answer within {worker.limit(self.limits):g} s") if overdue else None
            answer: Answer | Lost | None = worker.channel.recv()
        except (EOFError, OSError):
            return Lost(worker.cause_of_death())
        if answer is None:
            worker.ready, worker.begun, self.stillborn = True, time.monotonic(), 0
        return answer

    def _stillborn(self, reason: str) -> None:
        self.stillborn += 1
        if self.stillborn == 3:
            raise WorkersUnavailable(f"no worker process gets ready: {reason}; what it wrote itself is above")

    def _start(self) -> Worker:
        context = multiprocessing.get_context("forkserver")
        channel, theirs = context.Pipe()
        their_lifeline, lifeline = context.Pipe(duplex=False)
        process = context.Process(
            target=serve, args=(self.bound, theirs, their_lifeline, self.memory), daemon=True, name="worker"
        )
        process.start()
        theirs.close()
        their_lifeline.close()
        return Worker(process, channel, lifeline)

    def _drop(self, worker: Worker) -> None:
        worker.end()
        self.alive.remove(worker)
