"""What a search may spend on a model, and what it has spent: tokens, money, wall time.

Before a request is sent, the most it can cost is put on hold: everything it sends and every token it may write. Only
what is left after all holds can be held, so requests made at once cannot together go over a limit, and a limit is not
passed by the last request either. A hold ends with a charge for what the request really used.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from fractions import Fraction

WAIT = 0.1  # seconds between looks at whether to stop, while other requests hold what is left


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. `tokens` counts all of them, in and out, cached ones too; `minutes` is wall time of the run."""

    usd: float | None = None
    tokens: int | None = None
    minutes: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request. `input` excludes those read from and written to the prompt cache."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def tokens(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write

    def plus(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """`seconds` is time spent waiting for the model, over all requests; `calls` counts replies, `retries` attempts that
    failed. `usd` is 0 for a model whose price is not known."""

    usage: Usage = Usage()
    usd: float = 0.0
    calls: int = 0
    retries: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.usage.tokens


class OutOfBudget(Exception):
    """What is left does not pay for the request; the message says which limit it is."""


@dataclass(frozen=True, slots=True)
class Hold:
    """`output` is how many tokens the request may write; `tokens` and `usd` are the most that it can cost."""

    output: int
    tokens: int
    usd: float
    id: object = field(default_factory=object)


class Budget:
    """The ledger of one run. Thread-safe. `seconds`: wall time that earlier parts of a resumed run took."""

    def __init__(self, limits: Limits | None = None, seconds: float = 0.0) -> None:
        self.limits = limits or Limits()
        self._begin = time.monotonic() - seconds
        self._changed = threading.Condition()
        self._holds: dict[object, Hold] = {}
        self._spent = Spent()
        self._refused = ""

    def elapsed(self) -> float:
        """Seconds of wall time, earlier parts of the run included."""
        return time.monotonic() - self._begin

    def seconds_left(self) -> float:
        """Infinite without a limit; never negative."""
        minutes = self.limits.minutes
        return float("inf") if minutes is None else max(0.0, minutes * 60 - self.elapsed())

    def spent(self) -> Spent:
        with self._changed:
            return self._spent

    def remaining(self) -> Limits:
        """What is neither spent nor on hold."""
        with self._changed:
            return self._left()

    def exhausted(self) -> str:
        """Why nothing more may be spent; empty while something may."""
        limits = self.limits
        with self._changed:
            if self._refused:
                return self._refused
            if limits.minutes is not None and self.elapsed() >= limits.minutes * 60:
                return f"{limits.minutes:g} minutes are over"
            if limits.usd is not None and self._spent.usd >= limits.usd:
                return f"${self._spent.usd:.2f} of ${limits.usd:.2f} spent"
            if limits.tokens is not None and self._spent.tokens >= limits.tokens:
                return f"{self._spent.tokens} of {limits.tokens} tokens used"
        return ""

    def hold(
        self, sent: int, wanted: int, least: int, sent_usd: float, token_usd: float, stop: threading.Event
    ) -> Hold:
        """Put a request's largest cost on hold: `sent` tokens at `sent_usd` each, and `wanted` tokens at `token_usd`
        each or as many as what is left pays for, though no fewer than `least`.

        While other requests hold what this one lacks, waits for them. Raises OutOfBudget, also once `stop` is set.
        """
        with self._changed:
            while True:
                if reason := self.exhausted_by_time():
                    raise OutOfBudget(reason)
                output, lacking = self._affordable(sent, wanted, sent_usd, token_usd)
                if output >= wanted or (output >= least and not self._holds):
                    held = Hold(output, sent + output, sent * sent_usd + output * token_usd)
                    self._holds[held.id] = held
                    return held
                if not self._holds:
                    self._refused = f"what is left of {lacking} does not pay for one more request"
                    raise OutOfBudget(self._refused)
                if stop.is_set():
                    raise OutOfBudget("stopped")
                self._changed.wait(WAIT)

    def exhausted_by_time(self) -> str:
        return "" if self.seconds_left() > 0 else f"{self.limits.minutes:g} minutes are over"

    def charge(self, usage: Usage, usd: float, seconds: float, calls: int = 1, retries: int = 0) -> None:
        """Enter what was used: by a reply (`calls` = 1) or by an attempt that failed (`retries` = 1)."""
        with self._changed:
            old = self._spent
            self._spent = replace(
                old,
                usage=old.usage.plus(usage),
                usd=old.usd + usd,
                calls=old.calls + calls,
                retries=old.retries + retries,
                seconds=old.seconds + seconds,
            )
            self._changed.notify_all()

    def release(self, hold: Hold) -> None:
        with self._changed:
            self._holds.pop(hold.id, None)
            self._changed.notify_all()

    def _left(self) -> Limits:
        limits = self.limits
        holds = self._holds.values()
        usd = None if limits.usd is None else max(0.0, limits.usd - self._spent.usd - sum(h.usd for h in holds))
        tokens = None
        if limits.tokens is not None:
            tokens = max(0, limits.tokens - self._spent.tokens - sum(h.tokens for h in holds))
        return Limits(usd, tokens, None if limits.minutes is None else self.seconds_left() / 60)

    def _affordable(self, sent: int, wanted: int, sent_usd: float, token_usd: float) -> tuple[int, str]:
        """Tokens that may be written (negative: not even what is sent is paid for), and what limits them."""
        left = self._left()
        most, lacking = wanted, ""
        if left.tokens is not None and left.tokens - sent < most:
            most, lacking = left.tokens - sent, f"{self.limits.tokens} tokens"
        if left.usd is not None and token_usd > 0:
            paid = int((Fraction(left.usd) - sent * Fraction(sent_usd)) // Fraction(token_usd))
            if paid < most:
                most, lacking = paid, f"${self.limits.usd:.2f}"
        return most, lacking
