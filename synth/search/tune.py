"""The template auto-tuner: the algorithm stays as it is, tile sizes and schedule are tuned by Optuna.

What autotuners of kernel libraries do, and the arm that a search for algorithms has to beat. Templates are the
kernels that ship with the spec and the embedded proposer's leading composition. Each trial sets a template's metas
(powers of two up to 4 times smaller or larger), and warps, stages and register limit of each of its kernels; Optuna's
tree-structured Parzen estimator (Bergstra et al. 2011) asks for the next ones and is told the times. Tile sizes change
what is computed where, so every tuned kernel goes through the gate like any other text.

Deterministic: the study is kept in memory, seeded, and told of answers in the order of its trials.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING

from ir.ast import Module, Number
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from synth.propose import Candidate, NothingToPropose
from synth.propose.embedded import MAX_TILE, largest_tile, propose
from synth.propose.rewrites.rewrite import kernel_text
from synth.propose.rewrites.schedule import REGISTERS, STAGES, WARPS, with_setting
from synth.propose.seeds import seeds
from synth.search.descriptor import expected_seconds
from synth.search.tried import Brief, Conversation, Tried

if TYPE_CHECKING:
    import optuna

BATCH = 4  # kernels asked for before the study is told of any
REPEATS = 64  # trials in a row that ask for what is known already: then the space is used up
COMPOSED = 1  # of the embedded proposer's compositions are templates
PREDICTED = "predicted"  # in place of a shape
SCHEDULE = ("num_warps", "num_stages", "maxnreg")
SMALLEST, REACH = 16, 4  # of a meta: not below, and times smaller or larger than the template's
Settings = dict[str, int | None]  # by meta, or kernel and schedule entry; None for no `maxnreg`


@dataclass(frozen=True)
class Template:
    """A kernel whose numbers are tuned. `limit`: elements of the largest tile that is worth a proof."""

    name: str
    module: Module
    limit: int
    own: Settings

    @staticmethod
    def of(candidate: Candidate, bound: Bound) -> Template:
        """Raises SourceError for a text that is no kernel of the spec."""
        module = parse(candidate.text)
        program = check(module, bound, candidate.text)
        values = dict(program.metas)
        own: Settings = {m.name: values[m.name] for m in module.metas if _is_tunable(m.value)}
        for kernel in program.kernels:
            own |= {f"{kernel.name} {setting}": getattr(kernel.schedule, setting) for setting in SCHEDULE}
        return Template(candidate.name, module, max(MAX_TILE, largest_tile(program)), own)

    @cached_property
    def space(self) -> dict[str, tuple[int | None, ...]]:
        """The values each number may take, from less to more; the template's own is one of them."""
        return {name: _values(name.rpartition(" ")[2], own) for name, own in self.own.items()}

    def text(self, settings: Settings, bound: Bound) -> str | None:
        """The template with these numbers; None where it is no kernel of the spec, or has too large a tile."""
        metas = tuple(
            m if size is None else replace(m, value=Number(Fraction(size)))
            for m, size in ((m, settings.get(m.name)) for m in self.module.metas)
        )
        kernels = self.module.kernels
        for setting in SCHEDULE:
            values = (settings[f"{k.name} {setting}"] for k in kernels)
            kernels = tuple(with_setting(k, setting, value) for k, value in zip(kernels, values, strict=True))
        return kernel_text(replace(self.module, metas=metas, kernels=kernels), bound, self.limit)


def _is_tunable(value: object) -> bool:
    return isinstance(value, Number) and int(value.value).bit_count() == 1


def _values(setting: str, own: int | None) -> tuple[int | None, ...]:
    match setting, own:
        case "num_warps", _:
            return WARPS
        case "num_stages", _:
            return STAGES
        case "maxnreg", None:
            return *REGISTERS, None
        case "maxnreg", int():
            return *sorted({*REGISTERS, own}), None
        case _, int():
            lowest = min(own, max(SMALLEST, own // REACH))
            return tuple(lowest << k for k in range((own * REACH // lowest).bit_length()))
        case _:
            raise ValueError(f"{setting} has no value to start from")


def templates(bound: Bound) -> Iterator[Template]:
    """Raises NothingToPropose for a spec without a kernel that ships, and none that can be composed."""
    shipped = list(seeds(bound))
    try:
        composed = list(islice(propose(bound), COMPOSED))
    except NothingToPropose:
        if not shipped:
            raise
        composed = []
    for candidate in chain(shipped, composed):
        yield Template.of(candidate, bound)


@dataclass
class Tuner:
    """A proposer that holds one short conversation per step: a batch of trials. Its study lives as long as it does."""

    bound: Bound
    seed: int
    name: str = "optuna"
    texts: dict[tuple[str, ...], str] = field(default_factory=dict, init=False)  # by template and settings
    values: dict[str, float | None] = field(default_factory=dict, init=False)  # by text, None for one that failed
    reference: dict[str, float] = field(default_factory=dict, init=False)  # seconds, by shape
    firsts: dict[str, str] = field(default_factory=dict, init=False)  # a template's first candidate

    @cached_property
    def templates(self) -> dict[str, Template]:
        return {t.name: t for t in templates(self.bound)}

    @cached_property
    def study(self) -> optuna.Study:
        import optuna  # heavy: only runs that tune wait for it

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=self.seed))
        for template in self.templates.values():
            own = {f"{template.name}: {key}": values.index(template.own[key]) for key, values in template.space.items()}
            study.enqueue_trial({"template": template.name, **own})
        return study

    def converse(self, brief: Brief) -> Conversation:
        asked = dict(islice(self._asked(), BATCH))
        if not asked:
            return
        answers = yield tuple(candidate for candidate, _ in asked.values())
        told = {t.candidate.name: t for t in answers}
        for candidate, trial in asked.values():
            if candidate.name in told:
                self._tell(trial, candidate.text, self.value(told[candidate.name], brief.target))

    def _asked(self) -> Iterator[tuple[str, tuple[Candidate, optuna.Trial]]]:
        """New kernels by text, each with its trial. One that was asked for before is told what is known of it, and
        one that is no kernel has failed."""
        from optuna.trial import TrialState

        waiting: set[str] = set()
        repeats = 0
        while repeats < REPEATS:
            trial = self.study.ask()
            template = self._template(trial)
            settings = self._settings(trial, template)
            asked = (template.name, *map(str, settings.values()))
            if asked not in self.texts:
                self.texts[asked] = template.text(settings, self.bound) or ""
            text = self.texts[asked]
            repeats += 1
            if not text or text in self.values:
                self._tell(trial, text, self.values.get(text))
            elif text in waiting:
                self.study.tell(trial, state=TrialState.FAIL)
            else:
                repeats = 0
                waiting.add(text)
                yield text, (self._candidate(trial.number, template, settings, text), trial)

    def _template(self, trial: optuna.Trial) -> Template:
        return self.templates[trial.suggest_categorical("template", list(self.templates))]

    def _settings(self, trial: optuna.Trial, template: Template) -> Settings:
        """By their place among a number's values, so that the study knows near ones from far ones."""
        return {
            key: values[trial.suggest_int(f"{template.name}: {key}", 0, len(values) - 1)]
            for key, values in template.space.items()
        }

    def _candidate(self, number: int, template: Template, settings: Settings, text: str) -> Candidate:
        name = f"{template.name}-tuned-{number}"
        first = self.firsts.setdefault(template.name, name)
        parents = () if first == name else (first,)
        choices = tuple((key, "no limit" if value is None else str(value)) for key, value in settings.items())
        return Candidate(name, text, choices, source="tuned", parents=parents)

    def _tell(self, trial: optuna.Trial, text: str, value: float | None) -> None:
        from optuna.trial import TrialState

        if text:
            self.values[text] = value
        if value is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, value)

    def value(self, tried: Tried, target: str) -> float | None:
        """Mean logarithm of its times over those of the first kernel that was timed on each shape. For one that
        compiled and was not chosen for timing the same of its predicted time; None for any other."""
        if tried.problem or tried.built is None:
            return None
        seconds = {m.shape: m.seconds for m in tried.measurements}
        if not seconds or PREDICTED not in self.reference:
            program = check(parse(tried.candidate.text), self.bound)
            predicted = expected_seconds(program, self.bound, target, tried.built.certificate)
            self.reference.setdefault(PREDICTED, predicted)
            seconds = seconds or {PREDICTED: predicted}
        logs = [math.log(value / self.reference.setdefault(shape, value)) for shape, value in seconds.items()]
        return sum(logs) / len(logs)
