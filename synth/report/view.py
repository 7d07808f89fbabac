"""A run as the page shows it: plain values, whatever they were read from. What is not known is None or empty.

Nothing here is proof of anything: verdicts are repeated as the run recorded them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ir.spec import Bound
from synth.events import Measurement
from verifier.verdict import Report

NOT_A_KERNEL = "no kernel"  # the text does not parse, or does not fit the spec


@dataclass(frozen=True, slots=True)
class KernelView:
    """One candidate. `verdict`: proved, refuted, unproved, "no kernel", or empty when it was not judged.

    `at` is seconds since the run began; `expected` names the obligations one of which a kernel broken on purpose should
    lose; `failed` is the stage after the proof that did not work out and `problem` says why; `twin` names an
    earlier candidate that is the same program; `damage` says which of its own records could not be read.
    """

    name: str
    text: str = ""
    source: str = ""
    parents: tuple[str, ...] = ()
    note: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    expected: tuple[str, ...] = ()
    at: float | None = None
    verdict: str = ""
    seconds: float | None = None
    obligations: tuple[tuple[str, str], ...] = ()
    report: Report | None = None
    certificate: str = ""
    triton: str = ""
    resources: tuple[dict[str, Any], ...] = ()
    target: str = ""
    checked: int | None = None
    largest_error: float | None = None
    measurements: tuple[Measurement, ...] = ()
    heldout: tuple[Measurement, ...] = ()
    controls: tuple[dict[str, Any], ...] = ()
    failed: str = ""
    problem: str = ""
    twin: str = ""
    cell: str = ""
    damage: tuple[str, ...] = ()

    @property
    def broken(self) -> bool:
        """Broken on purpose."""
        return bool(self.expected)

    @property
    def certified(self) -> bool:
        """Proved, compiled and cross-checked."""
        return self.verdict == "proved" and self.checked is not None

    def mark(self, obligation: str) -> str:
        return dict(self.obligations).get(obligation, "")


@dataclass(frozen=True, slots=True)
class ExchangeView:
    """One exchange with a model: tokens in (of which read from a cache) and out, dollars, seconds."""

    name: str
    model: str
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    dollars: float
    seconds: float
    outcome: str


@dataclass(frozen=True, slots=True)
class CellView:
    """A cell of the archive: what kind of kernel it holds, the best one, and how many were tried in it."""

    name: str
    best: str
    tried: int


@dataclass(frozen=True, slots=True)
class ArmView:
    """One arm of a comparison: the winner's speed-ups over standard PyTorch on search and held-out shapes and over the
    fastest PyTorch there; the shares of its `candidates` that were certified and refuted; what it spent."""

    name: str
    speedup: float | None
    heldout: float | None
    gap: float | None
    candidates: int | None = None
    certified: float | None = None
    wrong: float | None = None
    dollars: float | None = None
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class RunView:
    """A whole run. `bound` is the spec with its settings, None when the run does not say what it was; `gaps` are
    sentences about what is missing or damaged; `where` is where the run's own files are."""

    run: str
    spec: str
    settings: tuple[tuple[str, str | int], ...] = ()
    target: str = ""
    device: str = ""
    status: str = ""
    begun: str = ""
    seconds: float | None = None
    proposer: str = ""
    seed: str = ""
    where: str = ""
    bound: Bound | None = None
    spec_text: str = ""
    roofline: str = ""
    kernels: tuple[KernelView, ...] = ()
    peers: tuple[Measurement, ...] = ()
    peers_heldout: tuple[Measurement, ...] = ()
    exchanges: tuple[ExchangeView, ...] = ()
    cells: tuple[CellView, ...] = ()
    arms: tuple[ArmView, ...] = ()
    gaps: tuple[str, ...] = field(default=())

    @property
    def honest(self) -> tuple[KernelView, ...]:
        return tuple(k for k in self.kernels if not k.broken)

    @property
    def distinct(self) -> tuple[KernelView, ...]:
        """The honest candidates, each program once."""
        return tuple(k for k in self.honest if not k.twin)

    @property
    def controls(self) -> tuple[KernelView, ...]:
        return tuple(k for k in self.kernels if k.broken)
