"""Jobs on the machines of a Ray cluster: a `LocalPool` of one worker in every actor, and an actor for every CPU.

Each machine needs this package installed, in the same version; nothing is shipped. Next to its worker the actor does
what `synth.workers.local` does anywhere: limits of time and memory, process groups, and a worker that ends when its
actor does. What is left to find out from here is an actor that died, with its machine or alone, and one that is no
longer heard of: either costs the job it was at. Everything is timed by one actor, on one GPU where the cluster has
any, so that all figures are of one device.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from ir.spec import Bound
from synth import __version__
from synth.jobs import Answer, Job, Time, lost
from synth.workers import LIMITS, WorkersUnavailable
from synth.workers.local import LocalPool

try:
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RayError
except ImportError as error:
    raise WorkersUnavailable("Ray is not installed here; install it: pip install 'synth-kernels[ray]'") from error

START = 300.0  # seconds the cluster may take to find room for an actor and to start it
CONNECT = 10.0  # seconds until a cluster's address counts as dead
GRACE = 60.0  # seconds beyond a job's own limit after which its actor is taken for lost
STORE = 100 * 2**20  # bytes of shared memory for a cluster of this machine alone; answers are small


class Actor:
    """Answers jobs one at a time, in a process of its own that it replaces when a job was too much for it."""

    def __init__(self, bound: Bound, limits: Mapping[type[Job], float], alone: bool) -> None:
        if alone:
            os.environ.pop("OMP_NUM_THREADS", None)  # Ray's, for actors that share a machine
        self.pool = LocalPool(bound, 1, limits).__enter__()

    def version(self) -> str:
        return __version__

    def do(self, job: Job) -> Answer:
        ((_, answer),) = self.pool.run([job])
        return answer


@dataclass
class Remote:
    """An actor, what is awaited from it since when and for how long, and the job it is at with its index. Without a
    job it is idle, or not ready yet while something is awaited."""

    actor: Any
    awaited: Any
    patience: float = START
    since: float = field(default_factory=time.monotonic)
    index: int = 0
    job: Job | None = None

    def take(self, index: int, job: Job, patience: float) -> None:
        self.index, self.job, self.patience, self.since = index, job, patience, time.monotonic()
        self.awaited = self.actor.do.remote(job)

    @property
    def left(self) -> float:
        """Seconds until it is given up."""
        return self.since + self.patience - time.monotonic()


@dataclass
class RayPool:
    """The cluster at `address`: "auto" (the one this machine belongs to), ray://HOST:PORT, HOST:PORT, or "local", one
    of `workers` CPUs on this machine alone. At most `workers` prove at once; 0: as many as the cluster has CPUs.
    `limits` in seconds for each kind of job, `grace` on top of them for an actor to say that its worker broke one."""

    bound: Bound
    address: str
    workers: int = 0
    limits: Mapping[type[Job], float] = field(default_factory=lambda: LIMITS)
    grace: float = GRACE
    provers: list[Remote] = field(default_factory=list, init=False)
    benches: list[Remote] = field(default_factory=list, init=False)
    stillborn: int = field(default=0, init=False)  # actors in a row that ended before they were ready

    def __enter__(self) -> RayPool:
        """Raises WorkersUnavailable."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address == "local":
                ray.init(
                    "local", num_cpus=self.workers or None, include_dashboard=False, object_store_memory=STORE,
                    _node_ip_address="127.0.0.1", **quiet,
                )  # fmt: skip
            else:
                knock(self.address)
                ray.init(self.address, **quiet)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            advice = "start one with `ray start --head`, or use --ray local"
            raise WorkersUnavailable(f"no Ray cluster at {self.address!r}: {error}; {advice}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if ray.is_initialized():
            for remote in (*self.provers, *self.benches):
                ray.kill(remote.actor)
        ray.shutdown()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """As `synth.workers.Pool.run`: what is timed comes last, when nothing else runs."""
        numbered = list(enumerate(jobs))
        cpus = int(ray.cluster_resources().get("CPU", 1))
        most = min(self.workers, cpus) if self.workers else cpus
        yield from self._run([(k, job) for k, job in numbered if not isinstance(job, Time)], self.provers, most)
        for k, job in numbered:
            if isinstance(job, Time):
                yield from self._run([(k, job)], self.benches, 1)

    def _run(self, jobs: Sequence[tuple[int, Job]], remotes: list[Remote], most: int) -> Iterator[tuple[int, Answer]]:
        waiting = deque(jobs)
        try:
            self._hand_out(waiting, remotes, most)
            while waiting or any(r.job is not None for r in remotes):
                answers = self._collect(waiting, remotes)
                self._hand_out(waiting, remotes, most)  # before the caller does anything with the answers
                yield from answers
        finally:
            for remote in [r for r in remotes if r.job is not None]:
                self._drop(remote, remotes)

    def _hand_out(self, waiting: deque[tuple[int, Job]], remotes: list[Remote], most: int) -> None:
        busy = sum(r.job is not None for r in remotes)
        while len(remotes) < min(most, busy + len(waiting)):
            remotes.append(self._start(alone=remotes is self.benches))
        for remote in remotes:
            if waiting and remote.awaited is None:
                index, job = waiting.popleft()
                remote.take(index, job, self.limits[type(job)] + self.grace)

    def _collect(self, waiting: deque[tuple[int, Job]], remotes: list[Remote]) -> list[tuple[int, Answer]]:
        """What has been answered, when something is or an actor is given up."""
        awaited = [r for r in remotes if r.awaited is not None]
        patience = max(0.0, min(r.left for r in awaited))
        done = set(ray.wait([r.awaited for r in awaited], timeout=patience)[0])
        found = []
        for remote in awaited:
            job, seconds = remote.job, remote.patience - remote.left
            if remote.awaited not in done and remote.left > 0:
                continue
            try:
                answer = ray.get(remote.awaited, timeout=0 if remote.awaited in done else 0.001)
            except RayError as error:
                self._drop(remote, remotes)
                if job is None:
                    self._stillborn(error)
                else:
                    found.append((remote.index, lost(job, why(error), seconds)))
                continue
            if job is not None:
                found.append((remote.index, answer))
            elif answer != __version__:
                raise WorkersUnavailable(
                    f"a machine of the cluster has version {answer} of this package, not {__version__}"
                )
            remote.job, remote.awaited, self.stillborn = None, None, 0
        return found

    def _start(self, alone: bool) -> Remote:
        """`alone` on its GPU; without any it takes no CPU either, since it works when nobody else does."""
        gpus = 1 if alone and ray.cluster_resources().get("GPU", 0) >= 1 else 0
        made = ray.remote(Actor).options(num_cpus=0 if alone else 1, num_gpus=gpus, max_restarts=0)
        actor = made.remote(self.bound, dict(self.limits), alone)
        return Remote(actor, actor.version.remote())

    def _stillborn(self, error: RayError) -> None:
        self.stillborn += 1
        if self.stillborn == 3:
            advice = "is this package installed on every machine of the cluster, and has it a CPU to spare?"
            raise WorkersUnavailable(f"no actor gets ready: {why(error)}; {advice}") from error

    def _drop(self, remote: Remote, remotes: list[Remote]) -> None:
        ray.kill(remote.actor)
        remotes.remove(remote)


def knock(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT, which Ray would wait for for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT).close()


def why(error: RayError) -> str:
    """What became of an actor, in a line."""
    match error:
        case GetTimeoutError():
            return "no answer in time, nor word from its actor"
        case RayActorError():
            return f"its actor died: {first_line(error)}"
        case _:
            return f"{type(error).__name__}: {first_line(error)}"


def first_line(error: RayError) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), "no more is known")
