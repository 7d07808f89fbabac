"""Where candidates come from. A candidate is text in the kernel language and nothing else is trusted of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """`text` is a `.tile` file; `choices` says how it was composed, in words a report can print.

    `expected` names the obligations one of which a deliberately broken candidate should lose; empty for an honest one.
    `source` is who wrote it: "shipped" with the spec, "composed", "rewrite" (of its one parent), "crossover", "tuned"
    or "model". `parents` are the names of the candidates it was made from; `note` is what its author said of it.
    """

    name: str
    text: str
    choices: tuple[tuple[str, str], ...] = ()
    expected: tuple[str, ...] = ()
    source: str = "composed"
    parents: tuple[str, ...] = ()
    note: str = ""


class NothingToPropose(Exception):
    """The spec's formula has no structure this proposer composes kernels for; the message says which part."""
