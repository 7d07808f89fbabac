"""The strategies that `synth compare` puts side by side, and the one that `prove-and-run` uses: "guided".

- "guided": shipped and composed kernels first, then conversations that are told of the archive: with a model (if there
  is one) and with the embedded proposer's rewrites.
- "single-shot": a model asked once per candidate, told of the spec and nothing else. Naive completion.
- "autotune": templates whose schedule and tile sizes alone are tuned, by Optuna. The algorithm stays.

All of them go through the same gate, and none is told anything but what the gate and the search shapes say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from ir.spec import Bound
from synth.plan import Plan
from synth.propose import Candidate, NothingToPropose
from synth.propose.embedded import propose
from synth.propose.evolve import Evolver
from synth.propose.model import ModelProposer, ModelSettings
from synth.propose.mutate import mutants
from synth.propose.seeds import seeds
from synth.search.loop import Strategy, nothing
from synth.search.tried import Brief, Conversation, Proposer
from synth.search.tune import Tuner

ARMS = ("guided", "single-shot", "autotune")
COMPOSED = 2  # further composed ones in each step of a search without a model


def opening(bound: Bound, seed: int, alone: bool = True) -> Iterator[Candidate]:
    """What ships with the spec, then what is composed. Raises NothingToPropose when there is neither, and no model
    that could do without (`alone`)."""
    shipped = list(seeds(bound))
    yield from shipped
    try:
        yield from propose(bound, seed)
    except NothingToPropose:
        if alone and not shipped:
            raise


class Composed:
    """Further kernels composed from the spec, a few in each step, so that a search does not live on its opening's
    offspring alone."""

    name = "composed"

    def __init__(self, candidates: Iterator[Candidate]) -> None:
        self.candidates = candidates

    def converse(self, brief: Brief) -> Conversation:
        if some := tuple(islice(self.candidates, COMPOSED)):
            yield some


def strategy(plan: Plan, model: Callable[[ModelSettings], ModelProposer]) -> Strategy:
    """The strategy of a plan's arm; `model` makes a proposer that talks to one.

    Raises ValueError for an arm that there is not, and for a single-shot arm without a model."""
    settings = plan.model
    first = opening(plan.bound, plan.seed, alone=settings is None)
    match plan.arm:
        case "guided":
            talk = None if settings is None else model(settings)
            most = plan.max_candidates if talk is None else max(1, plan.max_candidates // 2)  # the rest is the model's
            size = min(plan.opening, most)
            who: tuple[Proposer, ...] = (Evolver(), Composed(first)) if talk is None else (talk, talk, Evolver())
            return Strategy(lambda: islice(first, size), who, controls=mutants if plan.mutate else nothing)
        case "single-shot":
            if settings is None:
                raise ValueError("single-shot asks a model: name one with --model")
            once = model(replace(settings, turns=1))
            return Strategy(lambda: iter(()), (once,) * 4, informed=False)
        case "autotune":
            return Strategy(lambda: iter(()), (Tuner(plan.bound, plan.seed),), informed=False)
        case _:
            raise ValueError(f"no arm {plan.arm!r}; there are {', '.join(ARMS)}")
