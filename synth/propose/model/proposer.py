"""The model as the search sees it: a conversation per brief, drafts out, verdicts in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from synth.events import ModelEvent
from synth.feedback import feedback
from synth.propose import Candidate
from synth.propose.model import prompt
from synth.propose.model.client import Client, Patience
from synth.propose.model.examples import Example
from synth.propose.model.exchange import Backoff, Exchanges, Place, Said
from synth.propose.model.prices import needs_price, price_of
from synth.propose.model.settings import ModelSettings
from synth.propose.model.talk import SCHEMA, Submission, Talk, cut_off
from synth.search.budget import Budget
from synth.search.tried import Brief, Conversation
from synth.state import Journal


class ModelProposer:
    """Thread-safe: conversations may be held at once, and `listen` is called from whichever thread holds one. With
    `replay` the journal alone answers: nothing is sent, and neither SDK nor key is needed.

    Raises ModelError where the model cannot be used as asked; conversations raise it too, and `Diverged`."""

    name = "model"

    def __init__(
        self,
        settings: ModelSettings,
        budget: Budget,
        journal: Journal,
        listen: Callable[[ModelEvent], None],
        examples: Sequence[Example] = (),
        replay: bool = False,
        patience: Patience | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.settings = settings
        self.examples = tuple(examples)
        self._parameters = settings.parameters()
        self._stop = threading.Event()
        price = price_of(settings.model, settings.price)
        if price is None and budget.limits.usd is not None and not replay:
            raise needs_price(settings.model)
        client = None if replay else Client(settings, patience or Patience())
        self._exchanges = Exchanges(
            client,
            price,
            budget,
            journal,
            listen,
            self._stop,
            settings.max_tokens,
            settings.least,
            backoff or Backoff(),
        )

    def stop(self) -> None:
        """End every conversation, also in the middle of a reply or of a wait. They end as if there were no more to say,
        and what was in flight is not recorded."""
        self._stop.set()

    def converse(self, brief: Brief) -> Conversation:
        settings = self.settings
        system = prompt.system(brief.bound, brief.target, self.examples)
        talk = Talk(prompt.opening(brief, settings.turns, settings.drafts), settings.drafts)
        known = tuple(t.candidate.name for t in (*brief.parents, *brief.inspirations))
        latest = tuple(t.candidate.name for t in brief.parents)
        for turn in range(settings.turns):
            left = settings.turns - turn - 1
            request = {**self._parameters, "system": system, "tools": [SCHEMA], "messages": talk.sent(left > 0)}
            said = self._exchanges.ask(Place(brief.step, brief.slot, turn), request)
            if said is None:
                return
            submissions = talk.take(said)
            if not submissions:
                talk.answer((), prompt.rendered("again.md.j2", reason=_why_nothing(said), left=left))
                continue
            drafts = tuple(
                self._draft(submission, f"{self.name}-{brief.step}-{brief.slot}-{turn + 1}-{number}", known, latest)
                for number, submission in enumerate(submissions, 1)
            )
            tried = yield drafts
            if left == 0 or tried is None or len(tried) < len(drafts):
                return  # no more to say, or the run ends
            results = [(s, feedback(t, brief.bound)) for s, t in zip(submissions, tried, strict=True)]
            reason = "cut off" if cut_off(said) else "tried"
            talk.answer(results, prompt.rendered("again.md.j2", reason=reason, left=left))
            latest = tuple(draft.name for draft in drafts)
            known += latest

    def _draft(self, submission: Submission, name: str, known: tuple[str, ...], latest: tuple[str, ...]) -> Candidate:
        parents = (submission.based_on,) if submission.based_on in known else latest
        choices = (("model", self.settings.model),)
        return Candidate(name, submission.text, choices, source="model", parents=parents, note=submission.change)


def _why_nothing(said: Said) -> str:
    if said.stop == "refusal":
        return "refusal"
    if said.stop in ("max_tokens", "model_context_window_exceeded"):
        return "cut off"
    return "garbled" if cut_off(said) else "nothing"
