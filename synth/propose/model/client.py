"""The official SDK, and what its failures mean. Nothing else here knows it.

The SDK's own retries are off: every attempt is seen, charged and recorded by whoever asks for it. A stream is read on a
thread of its own, so that a server that says nothing, or one byte a minute, can be left when time is up or the run is
stopped.
"""

from __future__ import annotations

import email.utils
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from synth.propose.model.errors import ModelError
from synth.propose.model.reply import Garbled, Reply

if TYPE_CHECKING:
    from synth.propose.model.settings import ModelSettings

BYTES = 2  # to a token, at least: prose and code have three to four
LOOK = 0.05  # seconds between looks at the clock while a stream is read
SAMPLING = {"anthropic-version": "2023-06-01"}  # the last version of the API that takes a temperature
PASSING = {"rate_limit_error", "timeout_error", "api_error", "overloaded_error"}
NO_KEY = (
    "no key for the model: set ANTHROPIC_API_KEY (and ANTHROPIC_BASE_URL for a gateway of your own), or leave out "
    "--model to search without one"
)
ADVICE = {
    400: "check --model, --effort and --temperature against what that model takes",
    401: "set ANTHROPIC_API_KEY to a valid key, or ANTHROPIC_BASE_URL to the gateway it is for",
    402: "the account cannot pay for it: add credit",
    403: "the key may not use this model: choose another with --model",
    404: "no such model there: check --model and ANTHROPIC_BASE_URL",
    413: "the request is too large: show the model fewer examples",
}


class Passing(Exception):
    """A failure that another attempt may not meet. `after`: seconds the server asked to wait, 0 where it did not."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class Stopped(Exception):
    """The run is being stopped."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: to connect, without a byte from the server, and for one reply in all."""

    connect: float = 15.0
    quiet: float = 180.0
    reply: float = 3600.0


class Client:
    """Raises ModelError where there is no SDK or no key."""

    def __init__(self, settings: ModelSettings, patience: Patience) -> None:
        try:
            import anthropic
        except ImportError as error:
            raise ModelError(
                "talking to a model needs Anthropic's SDK, which is not installed: pip install 'synth-kernels[llm]'"
            ) from error
        self._sdk = anthropic
        self._patience = patience
        key = os.environ.get("ANTHROPIC_API_KEY") or ""
        url = settings.base_url or os.environ.get("ANTHROPIC_BASE_URL") or None
        timeout = anthropic.Timeout(patience.quiet, connect=patience.connect)
        # The SDK sends the key as a bearer token; gateways made for earlier SDKs look for it in X-Api-Key.
        headers = {"X-Api-Key": key} if key and url else None
        try:
            self._client = anthropic.Anthropic(base_url=url, max_retries=0, timeout=timeout, default_headers=headers)
        except anthropic.AnthropicError as error:
            raise ModelError(f"{NO_KEY} ({error})") from error
        self._secrets = [s for s in (key, self._client.api_key, self._client.auth_token) if s]
        if not self._secrets and self._client.credentials is None:
            raise ModelError(NO_KEY)

    def count(self, request: Mapping[str, Any]) -> int:
        """Tokens that a request sends; where the server does not count, about the most that its bytes can be. Whatever
        else is wrong shows when the request itself is sent."""
        body = {name: value for name, value in request.items() if name != "temperature"}
        try:
            return int(self._client.messages.count_tokens(**body, timeout=self._patience.connect).input_tokens)
        except Exception as error:
            if self._failure(error) is None:
                raise
            return len(json.dumps(body, ensure_ascii=False).encode()) // BYTES

    def send(self, request: Mapping[str, Any], most: int, reply: Reply, seconds: float, stop: threading.Event) -> None:
        """Fill `reply` in, of at most `most` tokens, within so many seconds. Raises Passing, Stopped or ModelError;
        what `reply` has by then was used all the same."""
        outcome: list[BaseException] = []
        over = threading.Event()
        streams: list[Any] = []

        def read() -> None:
            try:
                self._stream(request, most, reply, streams)
            except BaseException as error:  # handed to whoever waits
                outcome.append(error)
            finally:
                over.set()

        threading.Thread(target=read, name="model", daemon=True).start()
        limit = min(seconds, self._patience.reply)
        deadline = time.monotonic() + limit
        while not over.wait(LOOK):
            if stop.is_set() or time.monotonic() > deadline:
                for stream in streams:
                    stream.close()
                if stop.is_set():
                    raise Stopped
                raise Passing(f"no whole reply within {limit:.0f} s")
        for error in outcome:
            raise self._failure(error) or error from error
        if not reply.complete:
            raise Passing("the stream ended before the reply did")

    def _stream(self, request: Mapping[str, Any], most: int, reply: Reply, streams: list[Any]) -> None:
        body = dict(request)
        temperature = body.pop("temperature", None)
        extra: dict[str, Any] = {}
        if temperature is not None:  # the SDK has no parameter for it: newer versions of the API take none
            extra = {"extra_body": {"temperature": temperature}, "extra_headers": SAMPLING}
        stream = self._client.messages.create(**body, **extra, max_tokens=most, stream=True)
        streams.append(stream)
        with stream:
            for event in stream:
                reply.take(event.to_dict(warnings=False))

    def _failure(self, error: BaseException) -> Exception | None:
        """What an exception means: Passing, ModelError, or None for one that is no failure of the exchange."""
        import httpx2

        sdk = self._sdk
        match error:
            case sdk.APIStatusError():
                return self._refused(error)
            case sdk.APIConnectionError():
                return Passing(self.redact(f"{error} ({error.__cause__ or 'no more is known'})"))
            case httpx2.HTTPError() | httpx2.StreamError():
                return Passing(self.redact(f"the connection broke ({type(error).__name__}: {error})"))
            case Garbled() | ValueError() | sdk.APIError():
                return Passing(self.redact(f"the stream is garbled ({error})"))
            case sdk.AnthropicError():
                return ModelError(self.redact(f"the SDK cannot send the request: {error}"))
            case _:
                return None

    def _refused(self, error: Any) -> Exception:
        """An answer with an error status, or an error event in a stream that had begun well."""
        status, kind = int(error.status_code), str(error.type or "")
        said = self.redact(str(error.api_message or error.message))[:2000]
        passing = kind in PASSING if status < 400 else status in (408, 409, 429) or status >= 500
        if passing:
            return Passing(f"{status if status >= 400 else kind}: {said}", _asked_to_wait(error.response.headers))
        advice = ADVICE.get(status, "this request would be refused again")
        return ModelError(f"the API refused the request ({status} {kind}): {said}; {advice}")

    def redact(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds, from retry-after-ms or retry-after (a number or a date); 0 where neither can be read."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers.get(name, "")) / unit)
        except ValueError:
            continue
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0
