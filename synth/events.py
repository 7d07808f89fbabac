"""What a run tells whoever watches it, in the order it happens. Views and results.json are made from these alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowering.versions import LeftOut
from synth.propose import Candidate
from synth.search.budget import Spent
from verifier.certificate import Certificate
from verifier.verdict import Report


@dataclass(frozen=True, slots=True)
class Started:
    spec: str
    settings: tuple[tuple[str, str | int], ...]
    target: str
    device: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Proposed:
    candidate: Candidate
    stage: str = "propose"


@dataclass(frozen=True, slots=True)
class Judged:
    """`certificate` is there exactly when proved."""

    candidate: Candidate
    report: Report
    certificate: Certificate | None
    stage: str = "prove"


@dataclass(frozen=True, slots=True)
class Lowered:
    """Emitted and compiled ahead of time. `resources`: one entry per kernel, as `lowering.compile` reports them.
    `left_out`: the versions that were asked for and are not there."""

    candidate: Candidate
    target: str
    resources: tuple[dict[str, Any], ...]
    certificate: Certificate
    left_out: tuple[LeftOut, ...] = ()
    stage: str = "compile"


@dataclass(frozen=True, slots=True)
class CrossChecked:
    """Emitted Triton agreed with the reference interpreter in each of `cases` small runs."""

    candidate: Candidate
    cases: int
    largest_error: float
    certificate: Certificate
    stage: str = "cross-check"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Median `seconds` of one run at `sizes`; `tflops` from the spec's products and sums, `share` of the roofline."""

    name: str
    shape: str
    sizes: tuple[tuple[str, int], ...]
    seconds: float
    tflops: float
    share: float | None


@dataclass(frozen=True, slots=True)
class Twin:
    """The same program as the candidate named `of` but for its names; that one's answers are its answers."""

    candidate: Candidate
    of: str
    stage: str = "propose"


@dataclass(frozen=True, slots=True)
class Benchmarked:
    """`rung` of the successive halving: "short" or "long"."""

    candidate: Candidate
    measurements: tuple[Measurement, ...]
    device: str
    rung: str = "long"
    stage: str = "benchmark"


STANDARD = "standard PyTorch (the formula, unfused)"  # the peer that speed-ups are over


@dataclass(frozen=True, slots=True)
class PeersMeasured:
    """The same computation by PyTorch: `STANDARD`, and what it ships for the purpose. `roofline` says what shares are
    shares of."""

    device: str
    roofline: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The winner on shapes that selection never saw. `speedup` and `searched`: geometric means over standard PyTorch on
    those and on the search shapes; `generalises` is False when the former falls short of the latter by a fifth or more,
    or another finalist is faster there by as much."""

    candidate: Candidate
    measurements: tuple[Measurement, ...]
    peers: tuple[Measurement, ...]
    speedup: float
    searched: float
    generalises: bool
    rival: str = ""  # the finalist that is faster there by as much


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the search is over; `archive` is how many cells hold a certified kernel."""

    number: int
    tried: int
    archive: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A stage did not work out for this candidate ("read": its text is no kernel; "every size": it is proved for some
    sizes only); the run goes on."""

    candidate: Candidate
    stage: str
    message: str


@dataclass(frozen=True, slots=True)
class Replay:
    """A recorded run was done again: `candidates` in all, and what of them differs."""

    run: str
    candidates: int
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """A model is sent a request: turn `turn`, from 0, of the conversation (step, slot)."""

    step: int
    slot: int
    turn: int
    model: str


@dataclass(frozen=True, slots=True)
class Answered:
    """Its reply is there, or the one an earlier part of the run recorded. `input_tokens` are those that the prompt
    cache did not have, `usd` is None where no price is known, `stop` is why the model stopped writing."""

    step: int
    slot: int
    turn: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    usd: float | None
    seconds: float
    stop: str


@dataclass(frozen=True, slots=True)
class Retrying:
    """An attempt to reach the model failed; the next one begins in `wait` seconds."""

    step: int
    slot: int
    reason: str
    wait: float


@dataclass(frozen=True, slots=True)
class GaveUp:
    """A conversation with the model ended before its last turn."""

    step: int
    slot: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """`status`: finished, "out of budget (of what)" or interrupted."""

    status: str
    certified: int
    refuted: int
    unproved: int
    seconds: float
    folder: Path
    spent: Spent


ModelEvent = Asked | Answered | Retrying | GaveUp  # from the threads that talk to it
Event = (
    Started | Proposed | Twin | Judged | Lowered | CrossChecked | PeersMeasured | Benchmarked | HeldOut | Step | Replay
    | Failed | ModelEvent | Finished
)  # fmt: skip
