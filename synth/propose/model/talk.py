"""A conversation as the Messages API has it: what was said so far, and what a reply submits.

What goes back to the model is what it said, without what cannot be said again: a call that was cut off, empty text,
anything of a refused reply. Every call that goes back is answered by a result in the next message, as the API asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from synth.propose.model.exchange import Said

TOOL = "submit_kernel"
SAID_AGAIN = ("text", "thinking", "redacted_thinking", "tool_use")
SCHEMA: dict[str, Any] = {
    "name": TOOL,
    "description": (
        "Submit one whole kernel file to the gate, which proves or refutes it for all sizes; if it is proved it is "
        "compiled, cross-checked and timed. The result says what became of it. Call it several times in one reply to "
        "try several kernels at once."
    ),
    "input_schema": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "The whole kernel file, in the kernel language; no Markdown."},
            "change": {"type": "string", "description": "One or two sentences: what it does differently, and why."},
            "based_on": {"type": "string", "description": "The name of the kernel it was made from, if any."},
        },
        "required": ["text", "change"],
    },
}
EPHEMERAL = {"type": "ephemeral"}


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of the tool. `call` is its id, which its result has to name."""

    call: str
    text: str
    change: str
    based_on: str


@dataclass
class Talk:
    """`most`: submissions of one reply that are tried; further ones are told so."""

    opening: str
    most: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    _refused: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.messages.append({"role": "user", "content": [_text(self.opening)]})

    def sent(self, again: bool) -> list[dict[str, Any]]:
        """The messages of the next request, with the point to cache up to: all of it where another request will follow,
        else what the request before this one had cached."""
        at = len(self.messages) - (1 if again else 3)
        if at < 0:
            return list(self.messages)
        *blocks, end = self.messages[at]["content"]
        marked = {"role": "user", "content": [*blocks, {**end, "cache_control": EPHEMERAL}]}
        return [*self.messages[:at], marked, *self.messages[at + 1 :]]

    def take(self, said: Said) -> tuple[Submission, ...]:
        """What a reply submits; the reply becomes part of the conversation."""
        self._refused = []
        if said.stop == "refusal":
            return ()
        blocks = [b for b in (_again(block) for block in said.content) if b is not None]
        if not any(b["type"] in ("text", "tool_use") for b in blocks):
            return ()
        self.messages.append({"role": "assistant", "content": blocks})
        found: list[Submission] = []
        for block in blocks:
            if block["type"] == "tool_use":
                problem = _problem(block) or ("" if len(found) < self.most else _too_many(self.most))
                if problem:
                    self._refused.append(_result(block["id"], problem, True))
                else:
                    found.append(submission(block))
        return tuple(found)

    def answer(self, results: Sequence[tuple[Submission, str]], note: str) -> None:
        """What became of the submissions, and what is asked next, as the user's next words."""
        blocks = [_result(submission.call, text, False) for submission, text in results] + self._refused
        blocks.append(_text(note))
        self._refused = []
        last = self.messages[-1]
        if last["role"] == "user":  # the reply left nothing that could go back
            self.messages[-1] = {"role": "user", "content": [*last["content"], *blocks]}
        else:
            self.messages.append({"role": "user", "content": blocks})


def cut_off(said: Said) -> bool:
    """Whether a call in it was not whole."""
    return any("partial_json" in block for block in said.content)


def _again(block: Mapping[str, Any]) -> dict[str, Any] | None:
    """The block as it can be sent back; None for one that cannot."""
    kind = block.get("type")
    if kind not in SAID_AGAIN or (kind == "thinking" and not block.get("signature")):
        return None
    if kind == "text":
        return _text(block["text"]) if str(block.get("text") or "").strip() else None
    if kind == "tool_use":
        whole = "input" in block and isinstance(block.get("id"), str) and isinstance(block.get("name"), str)
        return {k: block[k] for k in ("type", "id", "name", "input")} if whole and "partial_json" not in block else None
    return dict(block)


def _problem(block: Mapping[str, Any]) -> str:
    """Why a call is no submission; empty where it is one."""
    given = block["input"]
    if block["name"] != TOOL:
        return f"There is no tool {block['name']!r}; the only one is {TOOL}."
    if not isinstance(given.get("text"), str) or not given["text"].strip():
        return "Not tried: `text` has to be the whole kernel file, as a string."
    return ""


def submission(block: Mapping[str, Any]) -> Submission:
    given = block["input"]
    text = _unfenced(given["text"])
    return Submission(block["id"], text, _words(given.get("change")), _words(given.get("based_on")))


def _words(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _unfenced(text: str) -> str:
    """Without a Markdown fence around the whole file, which would be the only thing wrong with it."""
    lines = text.strip().split("\n")
    fenced = len(lines) > 2 and lines[0].startswith("```") and lines[-1].strip() == "```"
    return "\n".join(lines[1:-1] if fenced else lines) + "\n"


def _too_many(most: int) -> str:
    return f"Not tried: at most {most} submissions of one reply are."


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _result(call: str, text: str, wrong: bool) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call, "content": text} | ({"is_error": True} if wrong else {})
