"""What a run leaves in a database, so that it can be resumed, replayed, listed, exported and learned from."""

from __future__ import annotations

from typing import Any, Protocol


class Journal(Protocol):
    """Everything a run asked of the world outside, by what was asked: "prove", "build", "check", "time", "exchange".

    A run is a function of its plan and of these answers. Resuming it is running it again with the journal answering
    first; replaying it is running it with "exchange" and "time" answered by the journal alone. An answer is committed
    before anything is done with it, so a killed run loses what was in flight and nothing else.
    """

    def answer(self, kind: str, key: str) -> dict[str, Any] | None:
        """What was answered, None when it was never asked (or not yet answered)."""
        ...

    def record(self, kind: str, key: str, answer: dict[str, Any]) -> None:
        """Keep an answer; the first one under a key stays."""
        ...


class InMemory:
    """A journal that dies with the process."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], dict[str, Any]] = {}

    def answer(self, kind: str, key: str) -> dict[str, Any] | None:
        return self.answers.get((kind, key))

    def record(self, kind: str, key: str, answer: dict[str, Any]) -> None:
        self.answers.setdefault((kind, key), answer)
