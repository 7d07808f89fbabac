"""Where candidates come from. A candidate is text in the kernel language and nothing else is trusted of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """`text` is a `.tile` file; `choices` says how it was composed, in words a report can print.

    `expected` names the obligations one of which a deliberately broken candidate should lose; empty for an honest one.
    """

    name: str
    text: str
    choices: tuple[tuple[str, str], ...] = ()
    expected: tuple[str, ...] = ()


class NothingToPropose(Exception):
    """The spec's formula has no structure this proposer composes kernels for; the message says which part."""
