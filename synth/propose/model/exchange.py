"""One exchange with the model: from the journal where it is recorded, else from the API, then recorded.

The key of an exchange is its place in the run (step, slot, turn); the hash of what was asked is kept with the answer,
so that a recorded answer is only ever given to the request it answered. `max_tokens` is no part of that hash: it is
what the budget left at that moment, which other conversations of the same step decide too.

An exchange ends in a reply, or in a reason why there is none, such as too many attempts that failed. Both are answers
of the world outside, so both are recorded. To be out of budget, or stopped, is neither: it leaves nothing behind, and a
run that is resumed with a larger budget asks there again.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from synth.events import Answered, Asked, GaveUp, ModelEvent, Retrying
from synth.propose.model.client import Client, Passing, Stopped
from synth.propose.model.errors import Diverged
from synth.propose.model.prices import Price
from synth.propose.model.reply import Reply
from synth.search.budget import Budget, Hold, OutOfBudget, Usage
from synth.state import Journal

ATTEMPTS = 8
LONGEST_WAIT = 600.0  # seconds: a server that asks for more is not waited for


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before the second attempt, doubled for each further one, up to `longest`."""

    first: float = 1.0
    longest: float = 60.0

    def wait(self, attempt: int, key: str) -> float:
        """With up to a quarter off, so that conversations that failed together do not come back together."""
        spread = random.Random(f"{key} {attempt}").uniform(0.75, 1.0)
        return min(self.longest, self.first * 2.0**attempt) * spread


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the run: turn `turn` of the conversation (step, slot)."""

    step: int
    slot: int
    turn: int

    @property
    def key(self) -> str:
        return f"{self.step}/{self.slot}/{self.turn}"

    def __str__(self) -> str:
        return f"step {self.step}, conversation {self.slot}, turn {self.turn}"


@dataclass(frozen=True, slots=True)
class Said:
    """A reply as the conversation uses it: its blocks, and why the model stopped."""

    content: tuple[dict[str, Any], ...]
    stop: str


@dataclass
class Exchanges:
    """`client` is None in a replay: then nothing is ever sent. `wanted` and `least` are the most
    tokens a reply may have and the fewest that are worth asking for."""

    client: Client | None
    price: Price | None
    budget: Budget
    journal: Journal
    listen: Callable[[ModelEvent], None]
    stop: threading.Event
    wanted: int
    least: int
    backoff: Backoff

    def ask(self, place: Place, request: dict[str, Any]) -> Said | None:
        """The reply, None where there is none. Raises Diverged and ModelError."""
        recorded = self.journal.answer("exchange", place.key)
        if recorded is None:
            if self.client is None or self.stop.is_set():
                return None
            recorded = self._live(self.client, place, request)
            if recorded is None:
                return None
            self.journal.record("exchange", place.key, recorded)
        else:
            compare(place, recorded, request)
            self._charge_again(recorded)
        return self._heard(place, recorded)

    def _heard(self, place: Place, record: Mapping[str, Any]) -> Said | None:
        if record["ended"]:
            self.listen(GaveUp(place.step, place.slot, record["ended"]))
            return None
        usage, reply = Usage(**record["usage"]), record["reply"]
        self.listen(
            Answered(
                place.step,
                place.slot,
                place.turn,
                usage.input + usage.cache_write,
                usage.output,
                usage.cache_read,
                record["usd"],
                record["seconds"],
                reply["stop_reason"],
            )
        )
        return Said(tuple(reply["content"]), reply["stop_reason"])

    def _charge_again(self, record: Mapping[str, Any]) -> None:
        """A recorded exchange costs this run what it cost then."""
        for attempt in record["attempts"]:
            self.budget.charge(Usage(**attempt["usage"]), attempt["usd"] or 0.0, attempt["seconds"], 0, 1)
        if not record["ended"]:
            self.budget.charge(Usage(**record["usage"]), record["usd"] or 0.0, record["seconds"])

    def _live(self, client: Client, place: Place, request: dict[str, Any]) -> dict[str, Any] | None:
        """What will be recorded of this exchange; None when the budget did not last, or the run was stopped."""
        self.listen(Asked(place.step, place.slot, place.turn, request["model"]))
        attempts: list[dict[str, Any]] = []
        record = {"request": request, "sha256": digest(request), "attempts": attempts}
        nothing = {"reply": None, "usage": asdict(Usage()), "usd": 0.0, "seconds": 0.0}
        sent = client.count(request)
        if self.price is not None and self.price.context and sent + self.least > self.price.context:
            return {**record, **nothing, "ended": f"{sent} tokens do not fit the model's context"}
        for attempt in range(ATTEMPTS):
            try:
                hold = self._hold(sent)
            except OutOfBudget as error:
                self.listen(GaveUp(place.step, place.slot, f"out of budget: {error}"))
                return None
            reply, begin = Reply(), time.monotonic()
            try:
                client.send(request, hold.output, reply, self.budget.seconds_left(), self.stop)
            except Stopped:
                self._charge(hold, reply, begin, failed=True)
                return None
            except Passing as error:
                attempts.append(self._charge(hold, reply, begin, failed=True) | {"error": str(error)})
                wait = max(self.backoff.wait(attempt, place.key), error.after)
                if attempt + 1 == ATTEMPTS or wait > LONGEST_WAIT:
                    return {**record, **nothing, "ended": f"gave up after {attempt + 1} attempts: {error}"}
                if wait >= self.budget.seconds_left():
                    self.listen(GaveUp(place.step, place.slot, f"no time left to try again: {error}"))
                    return None
                self.listen(Retrying(place.step, place.slot, str(error), wait))
                if self.stop.wait(wait):
                    return None
            except BaseException:
                self._charge(hold, reply, begin, failed=True)
                raise
            else:
                charged = self._charge(hold, reply, begin)
                return {**record, **charged, "max_tokens": hold.output, "reply": reply.to_json(), "ended": ""}
        raise AssertionError("the last attempt returns")

    def _hold(self, sent: int) -> Hold:
        sent_usd, token_usd = self.price.most(sent) if self.price is not None else (0.0, 0.0)
        return self.budget.hold(sent, self.wanted, self.least, sent_usd, token_usd, self.stop)

    def _charge(self, hold: Hold, reply: Reply, begin: float, failed: bool = False) -> dict[str, Any]:
        usage, seconds = reply.usage(), time.monotonic() - begin
        usd = self.price.of(usage) if self.price is not None else None
        self.budget.charge(usage, usd or 0.0, seconds, int(not failed), int(failed))
        self.budget.release(hold)
        return {"usage": asdict(usage), "usd": usd, "seconds": seconds}


def canonical(request: Mapping[str, Any]) -> str:
    return json.dumps(request, sort_keys=True, ensure_ascii=False)


def digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(request).encode()).hexdigest()


def compare(place: Place, record: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """Raises Diverged unless the record answers this very request."""
    if record["sha256"] == digest(request):
        return
    path, then, now = _difference(record["request"], request, "request")
    raise Diverged(
        f"the exchange at {place} asks something else than the recorded run did, first at {path}:\n"
        f"  recorded: {then}\n  now:      {now}\n"
        "The code, the spec or a prompt has changed since, or a verdict came out differently. To go on with what is "
        "there now, begin a new run."
    )


def _difference(then: Any, now: Any, path: str) -> tuple[str, str, str]:
    """The first place where two JSON values differ, and what stands there in each, shortened."""
    match then, now:
        case dict(), dict():
            for key in sorted({*then, *now}):
                if key not in then or key not in now:
                    return f"{path}.{key}", _shown(then.get(key)), _shown(now.get(key))
                if then[key] != now[key]:
                    return _difference(then[key], now[key], f"{path}.{key}")
        case list(), list():
            for index, (a, b) in enumerate(zip(then, now, strict=False)):
                if a != b:
                    return _difference(a, b, f"{path}[{index}]")
            return f"{path}: its length", str(len(then)), str(len(now))
        case str(), str():
            at = next((i for i, (a, b) in enumerate(zip(then, now, strict=False)) if a != b), min(len(then), len(now)))
            line = then.count("\n", 0, at)
            return f"{path}, line {line + 1}", _shown(_line(then, at)), _shown(_line(now, at))
    return path, _shown(then), _shown(now)


def _line(text: str, at: int) -> str:
    return text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]} ..."
