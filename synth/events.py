"""What a run tells whoever watches it, in the order it happens. Views and results.json are made from these alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synth.propose import Candidate
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
    """`certificate` is the id of the one issued, empty unless proved."""

    candidate: Candidate
    report: Report
    certificate: str
    stage: str = "prove"


@dataclass(frozen=True, slots=True)
class Lowered:
    """Emitted and compiled ahead of time. `resources`: one entry per kernel, as `lowering.compile` reports them."""

    candidate: Candidate
    target: str
    resources: tuple[dict[str, Any], ...]
    seconds: float
    stage: str = "compile"


@dataclass(frozen=True, slots=True)
class CrossChecked:
    """Emitted Triton agreed with the reference interpreter in each of `cases` small runs."""

    candidate: Candidate
    cases: int
    largest_error: float
    seconds: float
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
class Benchmarked:
    candidate: Candidate
    measurements: tuple[Measurement, ...]
    stage: str = "benchmark"


@dataclass(frozen=True, slots=True)
class PeersMeasured:
    """The same computation by standard PyTorch. `roofline` says what shares are shares of."""

    device: str
    roofline: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A stage after the proof did not work out for this candidate; the run goes on with the next one."""

    candidate: Candidate
    stage: str
    message: str


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
    """`status`: finished, "out of budget" or interrupted."""

    status: str
    certified: int
    refuted: int
    unproved: int
    seconds: float
    folder: Path


ModelEvent = Asked | Answered | Retrying | GaveUp  # from the threads that talk to it
Event = (
    Started | Proposed | Judged | Lowered | CrossChecked | Benchmarked | PeersMeasured | Failed | ModelEvent | Finished
)
