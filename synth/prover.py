"""Proofs in a process of their own, so that a run outlives a proof that takes too long, too much memory, or crashes.

Fail closed: whatever keeps the process from answering is an unproved report with that reason, never anything else.
One process serves many candidates; it is replaced after it was stopped.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import sys
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import cast

from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from synth.certify import Judgement, certify
from verifier.verdict import OBLIGATIONS, Report, Result, Verdict

MEMORY = 6 * 2**30  # bytes of address space; proofs take a few hundred MB


def _serve(bound: Bound, channel: Connection) -> None:
    """Answers (text, filename) with a Judgement, or with the exception that proving it raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    if sys.platform == "linux":  # elsewhere address space is not what a process uses
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while True:
        try:
            text, filename = channel.recv()
        except EOFError:
            return
        answer: Judgement | Exception
        try:
            answer = certify(text, bound, filename)
        except Exception as error:  # the parent raises it
            answer = error
        channel.send(answer)


@dataclass
class Prover:
    """Certifies candidates of one bound spec, each within `seconds`. A context manager; leaving it ends the process."""

    bound: Bound
    seconds: float
    process: BaseProcess | None = field(default=None, init=False)
    channel: Connection | None = field(default=None, init=False)

    def __enter__(self) -> Prover:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def certify(self, text: str, filename: str) -> Judgement:
        """As `synth.certify.certify`. Raises SourceError for a text that is not a kernel of this spec."""
        channel = self.channel or self._start()
        try:
            channel.send((text, filename))
            if channel.poll(self.seconds):
                answer = channel.recv()
                if isinstance(answer, Exception):
                    raise answer
                return cast(Judgement, answer)
            reason = f"no answer within {self.seconds:.0f} s"
        except (EOFError, OSError):
            code = None if self.process is None else self.process.exitcode
            reason = f"the prover's process ended unasked (exit code {code})"
        self._stop()
        return self._unproved(text, filename, reason)

    def _unproved(self, text: str, filename: str, reason: str) -> Judgement:
        program = check(parse(text, filename), self.bound, text, filename)
        results = tuple(Result(o, Verdict.UNPROVED, "", 0.0, residual=reason) for o in OBLIGATIONS)
        return Judgement(program, Report(results, self.seconds), None)

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        self.channel, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.bound, theirs), daemon=True)
        self.process.start()
        theirs.close()
        return self.channel

    def _stop(self) -> None:
        if self.channel is not None:
            self.channel.close()
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.channel = self.process = None
