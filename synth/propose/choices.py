"""The algorithmic choices a kernel is composed by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choices:
    """`pivot`: "running" maximum, "lazy" (moves only when it grows by more than a threshold) or "two-pass".
    `persistent`: programs that take tiles in turns, as many as run at once (`lowering.persistent`). `specialise`: warps
    of their own for loads, where the compiler knows how."""

    rows: int = 64
    keys: int = 64
    split: bool = False
    base2: bool = False
    pivot: str = "running"
    reverse: bool = False
    packed: bool = False
    persistent: bool = False
    warps: int = 4
    stages: int = 2
    specialise: bool = False
    registers: int | None = None

    def named(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, str(getattr(self, name))) for name in self.__slots__)


class DoesNotApply(Exception):
    """The choice makes no difference, or has no meaning, for this spec."""
