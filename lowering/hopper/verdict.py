"""What the checker of the protocol (`lowering.hopper.protocol`) says about an asynchronous program."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Rule(Enum):
    """What can be wrong with a protocol."""

    MALFORMED = "a statement that means nothing: an unknown ring, a name assigned twice or not at all, a wrong shape"
    DEADLOCK = "a partition waits for something that never happens"
    OVERWRITTEN = "a copy writes a slot that has not been released"
    NOT_HELD = "a tile is read that has not been waited for, or has been released"
    RELEASED_EARLY = "a slot is released while a dot that is not retired may read it"
    RELEASED_AGAIN = "a slot is released that is not held"
    NOT_RETIRED = "the result of a dot is used before the dot is retired"
    ACROSS_EDGE = "dots in flight or tiles held do not agree at the edges of a loop"
    LEFT_OVER = "a partition ends with a copy or a dot in flight"
    UNDECIDED = "too many states: one partition can run away from the other"


@dataclass(frozen=True, slots=True)
class Use:
    """Where the consumer reads a tile: its statement's number, and the operand (0 is the only or the left one)."""

    site: int
    operand: int


@dataclass(frozen=True, slots=True)
class Source:
    """Which copy fills what a `Use` reads: the producer's statement number, and for each of its loops, outermost
    first, how far its counter is ahead of the consumer's on the same line (None: the consumer is not on it)."""

    site: int
    offsets: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """`sources`: every copy that can feed each use; one each in a kernel that means one thing."""

    states: int
    seconds: float
    sources: dict[Use, frozenset[Source]]


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    message: str
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n  ".join((f"{self.message} ({self.rule.value})", *self.trace))
