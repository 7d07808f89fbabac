"""What the search knows of a candidate, and what a proposer is told. The contract between loop and proposers.

A proposer holds a conversation: it yields drafts, is sent what became of each, and may answer with more. It is a
generator, so that a one-shot proposer is a plain loop with `yield`, and one that refines needs no callbacks. The loop
decides when it ends; whatever it yields is text for the gate and nothing more.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ir.spec import Bound
from synth.events import Measurement
from synth.jobs import Built, Checked, Proof, Timed
from synth.propose import Candidate
from verifier.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Tried:
    """A candidate with the answers it has so far; stages it did not reach are None.

    `identity` is the hash of its alpha-normalised program (`synth.search.identity`), the text's own hash where it is
    no program. `twin` names an earlier candidate of the same identity, whose answers these then are.
    """

    candidate: Candidate
    identity: str
    proof: Proof
    built: Built | None = None
    checked: Checked | None = None
    short: Timed | None = None
    long: Timed | None = None
    twin: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """None for a text that is no kernel of the spec."""
        return self.proof.verdict

    @property
    def answers(self) -> bool:
        """Proved for every size the spec admits."""
        return self.proof.report is not None and self.proof.report.answers

    @property
    def certified(self) -> bool:
        """Proved, compiled and cross-checked: what may be timed and handed out."""
        return self.checked is not None and not self.checked.problem

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The best there are: of the long rung, else of the short one."""
        timed = self.long or self.short
        return timed.measurements if timed is not None else ()

    @property
    def problem(self) -> str:
        """Why it got no further, in one text; empty where it was refuted, unproved, or went all the way."""
        answers = (self.proof, self.built, self.checked, self.short, self.long)
        return next((a.problem for a in answers if a is not None and a.problem), "")


@dataclass(frozen=True, slots=True)
class Brief:
    """What a proposer is asked to do. `parents` are to be improved on (best first; none at the start), `inspirations`
    are other kernels of the archive that differ from them; `seed` decides every random choice; `step` counts from 0
    and `slot` from 0 within a step, so (step, slot) names this conversation within its run."""

    bound: Bound
    target: str
    parents: tuple[Tried, ...] = ()
    inspirations: tuple[Tried, ...] = ()
    seed: int = 0
    step: int = 0
    slot: int = 0


Conversation = Generator[tuple[Candidate, ...], tuple[Tried, ...], None]


class Proposer(Protocol):
    """`name` is shown and recorded. A proposer that has nothing (more) to say yields nothing."""

    @property
    def name(self) -> str: ...

    def converse(self, brief: Brief) -> Conversation:
        """Yield drafts, be sent a `Tried` for each of them in order (fewer when the run ends), and so on."""
        ...


@runtime_checkable
class Stoppable(Protocol):
    """A proposer that may have to be waited for."""

    def stop(self) -> None:
        """End its conversations now, from another thread; it is not used again."""
        ...
