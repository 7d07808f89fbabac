"""Where questions are answered: by the journal where it knows, else by the workers, and then the journal knows.

A question is named by what it is about, the text of the candidate, never by when it was asked or by ids that an answer
made (a certificate's id holds how long its proof took). So a resumed run, and a replayed one, ask the same questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from synth.jobs import Answer, Build, Check, Job, Prove, Time, Timed
from synth.state import Journal
from synth.state.answers import Damaged, decode, encode
from synth.workers import Pool
from verifier.certificate import digest


def question(job: Job) -> tuple[str, str]:
    """The kind of a job, and the key that its answer is kept under."""
    match job:
        case Prove(_, text):
            return "prove", digest(text)
        case Build(_, certificate, target):
            return "build", f"{digest(certificate.candidate)} {target}"
        case Check(_, certificate):
            return "check", digest(certificate.candidate)
        case Time(_, certificate, shapes, rung):
            subject = "peers" if certificate is None else digest(certificate.candidate)
            return "time", f"{subject} {shapes} {rung}"


@dataclass(frozen=True, slots=True)
class Lab:
    """`answer` yields the index and answer of every job: first what the journal knows, then the rest as it comes."""

    journal: Journal
    pool: Pool

    def answer(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Answer]]:
        open_jobs: list[int] = []
        for index, job in enumerate(jobs):
            kind, key = question(job)
            known = self.journal.answer(kind, key)
            if known is None:
                open_jobs.append(index)
            else:
                yield index, _about(job, decode(kind, known))
        for position, answer in self.pool.run([jobs[index] for index in open_jobs]):
            index = open_jobs[position]
            kind, key = question(jobs[index])
            kept = encode(answer)
            self.journal.record(kind, key, kept)
            yield index, decode(kind, kept)  # as a run that is resumed will read it, to the letter


def _about(job: Job, answer: Answer) -> Answer:
    """An answer that was kept, if the certificate in it is of the kernel that was asked about: a whole one that stands
    in another's row has a right hash too. Of the spec and its settings `lowering` sees to. Raises Damaged."""
    asked = job.text if isinstance(job, Prove) else None if job.certificate is None else job.certificate.candidate
    certificate = None if isinstance(answer, Timed) else answer.certificate
    if certificate is not None and certificate.candidate != asked:
        raise Damaged(f"what was kept about {job.name} is the certificate of another kernel")
    return answer


@dataclass(frozen=True, slots=True)
class Replayed:
    """A journal for running a recorded run again: what cannot be done again (exchanges with a model, times) is answered
    from the record, everything else is asked anew and kept in this run's own journal."""

    recorded: Journal
    own: Journal

    def answer(self, kind: str, key: str) -> dict[str, object] | None:
        if kind not in ("exchange", "time"):
            return self.own.answer(kind, key)
        known = self.recorded.answer(kind, key)
        if known is not None:
            self.own.record(kind, key, known)
        return known

    def record(self, kind: str, key: str, answer: dict[str, object]) -> None:
        self.own.record(kind, key, answer)
