"""What the prover says: the three verdicts, one result per obligation, and the counterexample.

A `Report` is a plain value with a JSON form. It is `PROVED` only if every obligation the table names
is present and `PROVED`; a missing row, an empty report or an unknown answer can never read as proved.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from ir.ast import NOWHERE, Span

OBLIGATIONS = ("B1", "B2", "R1", "R2", "C1", "D1", "E1", "S1", "V1")
TITLES = {
    "B1": "bounds",
    "B2": "width",
    "R1": "write-write",
    "R2": "read-write",
    "C1": "coverage",
    "D1": "definedness",
    "E1": "equivalence",
    "S1": "range",
    "V1": "non-vacuity",
}


class Verdict(Enum):
    PROVED = "proved"  # every instance, for all sizes in the limits; evidence attached
    REFUTED = "refuted"  # a concrete counterexample is attached and has been replayed
    UNPROVED = "unproved"  # neither: unknown, time-out, unsupported; the residual goal is attached

    @property
    def exit_code(self) -> int:
        return {"proved": 0, "refuted": 1, "unproved": 2}[self.value]


@dataclass(frozen=True, slots=True)
class Evidence:
    """`kind` is "smt" (`body` is SMT-LIB 2, the expected answer is unsat) or "algebra" (`body` is the
    rule trace, one step a line) or "interval" (bounds derived step by step)."""

    name: str
    kind: str
    body: str


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A shape, a place and the two values, found by running the reference interpreter.

    `inputs` names the generator and seed (`ir.inputs`), so that anyone gets the same arrays.
    """

    sizes: tuple[tuple[str, int], ...]
    parameters: tuple[tuple[str, int | float], ...]
    inputs: str
    kernel: str
    program: tuple[tuple[str, int], ...]
    tensor: str
    cell: tuple[int, ...]
    expected: str
    actual: str
    message: str
    span: Span = NOWHERE


@dataclass(frozen=True, slots=True)
class Result:
    """One obligation of one candidate. `statement` quantifies in words; `residual` says what is left
    to show when unproved."""

    id: str
    verdict: Verdict
    statement: str
    seconds: float
    evidence: tuple[Evidence, ...] = ()
    residual: str = ""
    counterexample: Counterexample | None = None
    span: Span = NOWHERE


@dataclass(frozen=True, slots=True)
class RoundingBound:
    """|computed - exact| <= a formula, in every finite cell of `output`, under the machine model. `text`: for people, a
    line for each term that is used again, the bound last; `terms`: the same as JSON (`ir.error_formula`)."""

    output: str
    text: str
    terms: str


@dataclass(frozen=True, slots=True)
class Rounding:
    """N1: a bound for every output, or why there is none. No obligation: a kernel without one is proved all the same,
    and its certificate says that nothing bounds its rounding (decisions/0018)."""

    outputs: tuple[RoundingBound, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """`widths` gives the proved address width in bits per kernel (32 or 64), `index_widths` that of its
    other integers; `facts` are further
    things a certificate prints: the largest safe shape, exp bounds, the witness shape. `requires`: what the program
    requires of sizes beyond the spec; whatever the verdict says, it says of sizes where these hold. `rounding` is there
    when it was asked for and everything is proved."""

    results: tuple[Result, ...]
    seconds: float
    widths: tuple[tuple[str, int], ...] = ()
    index_widths: tuple[tuple[str, int], ...] = ()
    facts: tuple[tuple[str, str], ...] = field(default=())
    requires: tuple[str, ...] = ()
    rounding: Rounding | None = None

    @property
    def verdict(self) -> Verdict:
        if any(r.verdict is Verdict.REFUTED for r in self.results):
            return Verdict.REFUTED
        ids = sorted(r.id for r in self.results)
        if ids == sorted(OBLIGATIONS) and all(r.verdict is Verdict.PROVED for r in self.results):
            return Verdict.PROVED
        return Verdict.UNPROVED

    @property
    def answers(self) -> bool:
        """Proved for every size the spec admits. A kernel proved for some of them only is part of an answer."""
        return self.verdict is Verdict.PROVED and not self.requires

    def result(self, obligation: str) -> Result:
        return next(r for r in self.results if r.id == obligation)

    def to_json(self) -> dict[str, Any]:
        def plain(value: Any) -> Any:
            match value:
                case Enum():
                    return value.value
                case dict():
                    return {k: plain(v) for k, v in value.items()}
                case list() | tuple():
                    return [plain(v) for v in value]
                case _:
                    return value

        return {"verdict": self.verdict.value, **plain(asdict(self))}
