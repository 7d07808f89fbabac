"""Who does the jobs: processes of this machine, or Ray's on many. A worker that dies costs one job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol

from synth.jobs import Answer, Job


class Pool(Protocol):
    """Does jobs for one bound spec. A context manager; leaving it ends its workers, also in the middle of a job."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        """Every job's index and answer, as they come. A job whose worker dies, hangs or runs out of memory is answered
        too: `synth.jobs.unanswered` for a proof, a `problem` for the rest. `Time` jobs run one at a time with nothing
        beside them on that machine."""
        ...

    def __enter__(self) -> Pool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...
