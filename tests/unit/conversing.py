"""What the tests of the model share: a proposer with journal, budget and events, held against a loopback server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from messages_server import KEY, MessagesServer

from ir.loader import bind, load_spec
from synth.events import ModelEvent
from synth.jobs import Prove, prove
from synth.propose import Candidate
from synth.propose.model import Example, ModelProposer, ModelSettings
from synth.propose.model.client import Patience
from synth.propose.model.exchange import Backoff
from synth.search.budget import Budget, Limits
from synth.search.tried import Brief, Tried
from synth.state import InMemory

SOFTMAX = bind(load_spec("softmax"), {})
GOOD = (Path(__file__).parents[2] / "specs" / "softmax" / "three_pass.tile").read_text()
BAD = GOOD.replace("cdiv(C, BC)", "C // BC")
NONSENSE = "this is no kernel\n"
SOON = Backoff(0.01, 0.02)
MODEL = "claude-opus-5-5"


def set_up(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """The test's key, and nothing of what the machine has."""
    patch.setenv("ANTHROPIC_API_KEY", KEY)
    patch.setenv("ANTHROPIC_CONFIG_DIR", str(folder))
    patch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("ANTHROPIC_BASE_URL", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_PROFILE", "ANTHROPIC_CUSTOM_HEADERS"):
        patch.delenv(name, raising=False)


class Run:
    """A proposer with its journal, budget and events, as a run has them."""

    def __init__(
        self,
        server: MessagesServer | None,
        journal: InMemory | None = None,
        limits: Limits | None = None,
        replay: bool = False,
        examples: tuple[Example, ...] = (),
        patience: Patience | None = None,
        **settings: Any,
    ) -> None:
        self.journal = journal or InMemory()
        self.budget = Budget(limits)
        self.events: list[ModelEvent] = []
        url = server.url if server else None
        asked = ModelSettings(**{"model": MODEL, "base_url": url, **settings})
        self.proposer = ModelProposer(
            asked, self.budget, self.journal, self.events.append, examples, replay, patience or Patience(5, 5), SOON
        )

    def drafts(self, slot: int = 0, parents: tuple[Tried, ...] = ()) -> list[Tried]:
        """Everything one conversation proposes, with what the gate said of it."""
        talk = self.proposer.converse(Brief(SOFTMAX, "sm_90", parents, slot=slot))
        found: list[Tried] = []
        try:
            drafts = next(talk)
            while True:
                answers = tuple(judged(draft) for draft in drafts)
                found += answers
                drafts = talk.send(answers)
        except StopIteration:
            return found

    def records(self) -> list[dict[str, Any]]:
        return [answer for (kind, _), answer in self.journal.answers.items() if kind == "exchange"]

    def heard(self, kind: type[ModelEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def judged(draft: Candidate) -> Tried:
    return Tried(draft, draft.name, prove(Prove(draft.name, draft.text), SOFTMAX))


def last_words(request: dict[str, Any]) -> str:
    return str(request["messages"][-1]["content"][-1]["text"])
