"""A reply as its stream builds it up, event by event, so that a stream that breaks off leaves what it had said it used.

Tool input is kept as the text it came as until its block is closed: only input that is whole JSON then becomes `input`,
so that a submission that was cut off can never be taken for a shorter one. Blocks, deltas and events of kinds not known
here are kept or passed over, never an error: the API adds to them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from synth.search.budget import Usage

CHARACTERS = 4  # to a token, about: what a stream that broke off is charged for where it had not said how much it used
_APPENDED = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


class Garbled(Exception):
    """The stream is not one of a reply; trying again may give one."""


@dataclass
class Reply:
    """`content`: the blocks so far, as JSON. A tool call whose input was not whole has `partial_json`, not `input`."""

    content: list[dict[str, Any]] = field(default_factory=list)
    id: str = ""
    model: str = ""
    stop: str = ""
    stop_details: dict[str, Any] | None = None
    reported: dict[str, int] = field(default_factory=dict)
    written: int = 0
    started: bool = False
    complete: bool = False

    def take(self, event: dict[str, Any]) -> None:
        """Raises Garbled for an event that has no place here."""
        try:
            self._take(event)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise Garbled(f"an event that fits nowhere ({type(error).__name__}: {error})") from error

    def _take(self, event: dict[str, Any]) -> None:
        match event.get("type"):
            case "message_start":
                message = event["message"]
                self.started = True
                self.id, self.model = str(message.get("id") or ""), str(message.get("model") or "")
                self._report(message.get("usage"))
            case "content_block_start":
                if event["index"] != len(self.content):
                    raise Garbled("a block is missing")
                self.content.append(dict(event["content_block"]))
            case "content_block_delta":
                self._extend(self.content[event["index"]], event["delta"])
            case "content_block_stop":
                _close(self.content[event["index"]])
            case "message_delta":
                self.stop = str(event["delta"].get("stop_reason") or "")
                self.stop_details = event["delta"].get("stop_details")
                self._report(event.get("usage"))
            case "message_stop":
                if not self.started:
                    raise Garbled("an end without a beginning")
                self.complete = True
            case _:
                return

    def _extend(self, block: dict[str, Any], delta: dict[str, Any]) -> None:
        if delta["type"] == "signature_delta":
            block["signature"] = delta["signature"]
        elif delta["type"] in _APPENDED:
            name = _APPENDED[delta["type"]]
            self.written += len(delta[name])
            block[name] = (block.get(name) or "") + delta[name]

    def _report(self, usage: dict[str, Any] | None) -> None:
        """Counts are totals so far; one that is left out stays."""
        for name, count in (usage or {}).items():
            if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
                self.reported[name] = count

    def usage(self) -> Usage:
        """What the stream reported. Of one that broke off, what had been written by then counts too."""
        reported = self.reported.get
        output = reported("output_tokens", 0)
        if not self.complete:
            output = max(output, -(-self.written // CHARACTERS))
        return Usage(
            reported("input_tokens", 0),
            output,
            reported("cache_read_input_tokens", 0),
            reported("cache_creation_input_tokens", 0),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "model": self.model,
            "content": [clean(block) for block in self.content],
            "stop_reason": self.stop,
            "stop_details": self.stop_details,
        }


def _close(block: dict[str, Any]) -> None:
    """What a closed block says, cleaned; input that is no JSON object stays the text it is."""
    if "partial_json" in block:
        try:
            found = json.loads(block["partial_json"] or "{}")
        except json.JSONDecodeError:
            found = None
        block.pop("input", None)
        if isinstance(found, dict):
            del block["partial_json"]
            block["input"] = found
    block.update(clean(block))


def clean(value: Any) -> Any:
    """The value with what no database or file takes (NUL, halves of surrogate pairs) replaced."""
    match value:
        case str():
            return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [clean(item) for item in value]
        case dict():
            return {clean(key): clean(item) for key, item in value.items()}
        case _:
            return value
