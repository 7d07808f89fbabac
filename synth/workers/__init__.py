"""Who does the jobs: processes of this machine, or Ray's on many. A worker that dies costs one job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol

from ir.spec import Bound
from synth.errors import Unavailable
from synth.jobs import Answer, Build, Check, Job, Prove, Time

# Seconds a job of each kind may take. Compiling and interpreting have limits of their own, a little shorter, whose
# messages say more.
LIMITS: Mapping[type[Job], float] = {Prove: 45.0, Build: 260.0, Check: 400.0, Time: 300.0}
MEMORY = 6 * 2**30  # bytes of address space that one job may add to a worker; proofs take a few hundred MB


class WorkersUnavailable(Unavailable):
    """No worker can be started, so no job can be done; the message says what to do about it."""


class Pool(Protocol):
    """Does jobs for one bound spec. A context manager; leaving it ends its workers, also in the middle of a job."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """Every job's index and answer, as they come. A job whose worker dies, hangs or runs out of memory is answered
        too, by `synth.jobs.lost`. `Time` jobs run one at a time with nothing beside them on that machine: here, after
        the others. One call at a time; a call given up in the middle ends the workers that were busy for it.
        Raises WorkersUnavailable."""
        ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


def open_pool(bound: Bound, workers: int, ray: str | None = None) -> Pool:
    """`workers` processes of this machine, or all machines of the Ray cluster at an address (`synth.workers.ray`).
    Raises WorkersUnavailable."""
    if ray is not None:
        from synth.workers.ray import RayPool

        return RayPool(bound, ray)
    from synth.workers.local import LocalPool

    return LocalPool(bound, workers)
