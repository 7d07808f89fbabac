"""How a model is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from synth.propose.model.errors import ModelError

ENOUGH = 1024  # tokens: a reply that may be no longer than that is not worth asking for
EFFORTS = ("low", "medium", "high", "xhigh", "max")
THINKING = ("adaptive", "disabled", "between_tools")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a model is asked. Empty and None leave a choice to the API.

    `max_tokens` is the most one reply may have, thinking included; `turns` the replies in one conversation; `drafts`
    the kernels of one reply that are tried; `thinking` is "adaptive", "disabled", "between_tools" or a number of
    tokens; `price` is "IN,OUT" in dollars per million tokens for a model that the price list lacks."""

    model: str
    effort: str = ""
    temperature: float | None = None
    max_tokens: int = 32_000
    turns: int = 3
    drafts: int = 4
    thinking: str = ""
    base_url: str | None = None
    price: str = ""

    def parameters(self) -> dict[str, Any]:
        """What of this is sent with every request. Raises ModelError for what no model takes."""
        found: dict[str, Any] = {"model": self.model}
        if self.effort:
            if self.effort not in EFFORTS:
                raise ModelError(f"--effort is one of {', '.join(EFFORTS)}, not {self.effort!r}")
            found["output_config"] = {"effort": self.effort}
        if self.thinking.isdecimal():
            found["thinking"] = {"type": "enabled", "budget_tokens": int(self.thinking)}
        elif self.thinking:
            if self.thinking not in THINKING:
                known = ", ".join(THINKING)
                raise ModelError(f"thinking is one of {known} or a number of tokens, not {self.thinking!r}")
            found["thinking"] = {"type": self.thinking}
        if self.temperature is not None:
            found["temperature"] = self.temperature
        return found

    @property
    def least(self) -> int:
        """Tokens without which a reply is not worth asking for."""
        return min(self.max_tokens, ENOUGH + (int(self.thinking) if self.thinking.isdecimal() else 0))
