"""The commands that search: prove-and-run, resume, compare. Arguments in, a plan and a place out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ir.spec import Bound
    from synth.events import Event
    from synth.plan import Place
    from synth.propose.model import Example, ModelSettings
    from synth.search.budget import Limits

WITHOUT_MODEL, WITH_MODEL = 6, 48  # candidates, where the user names no number
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")

Spec = Annotated[str, typer.Argument(help="A spec file, or the name of one that ships: attention.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Fix an option or static dimension; repeatable."),
]
Target = Annotated[str | None, typer.Option(help="sm_80, sm_90, sm_100 or gfx942 [default: the spec's]")]
MaxMinutes = Annotated[float, typer.Option(min=0.0, help="Wall time; no candidate is begun after it.")]
MaxUsd = Annotated[float | None, typer.Option(min=0.0, help="Money for the model; no request that could exceed it.")]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="Tokens for the model, in and out.")]
Model = Annotated[str | None, typer.Option(help="A model of the Messages API; without one nothing is sent.")]
Effort = Annotated[str | None, typer.Option(help="The model's effort: low, medium, high, ... [default: the model's]")]
Temperature = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="[default: the model's]")]
Turns = Annotated[int, typer.Option(min=1, help="Replies in one conversation with the model.")]
Price = Annotated[
    str | None, typer.Option(metavar="IN,OUT", help="$ per million tokens of a model that the price list lacks.")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that prove, compile and check.")]
Ray = Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help="A Ray cluster instead: auto, local, ray://.")]
Database = Annotated[
    str | None, typer.Option("--db", envvar="SYNTH_DB", help="Where runs are kept [default: sqlite in the runs folder]")
]
Out = Annotated[Path, typer.Option(help="Where the run folder is made.")]
Seed = Annotated[int, typer.Option(help="Decides every choice that is left to chance.")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Use verdicts of earlier runs about the same text.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def add_to(app: typer.Typer) -> None:
    """Make these commands part of `synth`."""
    app.command(
        "prove-and-run",
        epilog="synth prove-and-run attention · synth prove-and-run my.toml --set causal=true --max-candidates 40"
        " · synth prove-and-run attention --model MODEL --max-usd 5 --max-minutes 60 --workers 8"
        " · synth prove-and-run attention --replay last",
    )(prove_and_run)
    app.command(epilog="synth resume last · synth resume 20260101-120000-attention --max-minutes 30")(resume)
    app.command(epilog="synth compare attention --arms baseline,autotune,guided --max-minutes 10")(compare)


def bound_of(spec: str, settings: list[str] | None) -> Bound:
    from ir.loader import bind, load_spec
    from synth.cli import settings_of

    return bind(load_spec(spec), settings_of(settings))


def target_of(bound: Bound, target: str | None) -> str:
    target = target or bound.spec.target
    if target not in TARGETS:
        raise typer.BadParameter(f"--target is one of {', '.join(TARGETS)}, not {target}")
    return target


def prove_and_run(
    spec: Annotated[str | None, typer.Argument(help="A spec file, or the name of one that ships: attention.")] = None,
    settings: Settings = None,
    max_minutes: MaxMinutes = 2.0,
    max_candidates: Annotated[
        int | None, typer.Option(min=1, help="How many honest candidates to try [default: 6; with a model 48]")
    ] = None,
    model: Model = None,
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
    effort: Effort = None,
    temperature: Temperature = None,
    turns: Turns = 3,
    price: Price = None,
    target: Target = None,
    out: Out = Path("runs"),
    mutate: Annotated[bool, typer.Option("--mutate", help="Also propose kernels broken on purpose.")] = False,
    seed: Seed = 0,
    workers: Workers = 1,
    ray: Ray = None,
    db: Database = None,
    cache: Cache = True,
    replay: Annotated[
        str | None, typer.Option(metavar="RUN", help="Do a recorded run again, offline, and compare; no SPEC.")
    ] = None,
    as_json: Json = False,
) -> int:
    """From a formula to certified kernels: propose, prove or refute, lower, compile, cross-check, benchmark."""
    from synth import pipeline
    from synth.plan import Plan

    place = place_of(out, db, workers, ray, cache)
    if replay is not None:
        if spec is not None:
            raise typer.BadParameter("--replay takes its spec and everything else from the run; leave SPEC out")
        return shown(pipeline.replay(replay, place), as_json)
    if spec is None:
        raise typer.BadParameter("a SPEC is missing; `synth specs` lists those that ship")
    bound = bound_of(spec, settings)
    asked = model_of(model, effort, temperature, turns, price)
    plan = Plan(
        bound,
        target_of(bound, target),
        limits_of(max_minutes, max_usd, max_tokens),
        max_candidates or (WITH_MODEL if asked else WITHOUT_MODEL),
        mutate=mutate,
        seed=seed,
        model=asked,
        examples=examples_of(bound, place) if asked else (),
    )
    return shown(pipeline.prove_and_run(plan, place), as_json)


def resume(
    run: Annotated[str, typer.Argument(help="A run's name, the start of one, or last; `synth runs` lists them.")],
    max_minutes: Annotated[float | None, typer.Option(min=0.0, help="Wall time in all [default: the run's]")] = None,
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
    out: Out = Path("runs"),
    workers: Workers = 1,
    ray: Ray = None,
    db: Database = None,
    cache: Cache = True,
    as_json: Json = False,
) -> int:
    """Go on with a run that was stopped or killed, or that ran out of its budget and is given a larger one."""
    from synth import pipeline

    limits = {"minutes": max_minutes, "usd": max_usd, "tokens": max_tokens}
    changed = {name: value for name, value in limits.items() if value is not None}
    return shown(pipeline.resume(run, place_of(out, db, workers, ray, cache), changed), as_json)


def shown(events: Iterator[Event], as_json: bool) -> int:
    """Show a run to its end. What keeps it from being begun is a usage error that says what to do."""
    from synth.propose import NothingToPropose
    from synth.propose.model import ModelError
    from synth.view_run import show_run

    try:
        return show_run(events, as_json)
    except (ModelError, NothingToPropose) as error:
        raise typer.BadParameter(str(error)) from error


def place_of(out: Path, db: str | None, workers: int, ray: str | None, cache: bool) -> Place:
    from synth.plan import Place

    return Place(out, db or f"sqlite:///{out / 'synth.db'}", workers, ray, cache)


def compare(
    spec: Spec,
    arms: Annotated[
        str, typer.Option(help="baseline (standard PyTorch), autotune (tuned templates), single-shot, guided")
    ] = "baseline,autotune,single-shot,guided",
    settings: Settings = None,
    max_minutes: MaxMinutes = 10.0,
    max_candidates: Annotated[int, typer.Option(min=1, help="Honest candidates of each arm.")] = 48,
    model: Model = None,
    max_usd: MaxUsd = None,
    max_tokens: MaxTokens = None,
    effort: Effort = None,
    temperature: Temperature = None,
    turns: Turns = 3,
    price: Price = None,
    target: Target = None,
    out: Out = Path("runs"),
    seed: Seed = 0,
    workers: Workers = 1,
    ray: Ray = None,
    db: Database = None,
    cache: Cache = True,
    as_json: Json = False,
) -> int:
    """Standard PyTorch, a template auto-tuner, one-shot completion and guided search, each under the same budget."""
    from synth import compare, pipeline
    from synth.plan import Plan
    from synth.view_compare import show_outcomes, watch

    wanted = [arm.strip() for arm in arms.split(",") if arm.strip()]
    if unknown := [arm for arm in wanted if arm not in compare.ARMS]:
        raise typer.BadParameter(f"no arm {unknown[0]!r}; there are {', '.join(compare.ARMS)}")
    bound = bound_of(spec, settings)
    limits = limits_of(max_minutes, max_usd, max_tokens)
    asked = model_of(model, effort, temperature, turns, price)
    place = place_of(out, db, workers, ray, cache)
    plan = Plan(bound, target_of(bound, target), limits, max_candidates, seed=seed, model=asked)
    plan = replace(plan, examples=examples_of(bound, place) if asked else ())
    found = []
    for arm in wanted:
        if arm == "single-shot" and asked is None:
            found.append(compare.Outcome(arm, problem="not run: it asks a model, and --model names none"))
        elif arm == "baseline":
            found.append(compare.baseline(plan, place))
        else:
            events = pipeline.prove_and_run(replace(plan, arm=arm), place)
            found.append(watch(arm, compare.observe(arm, events), as_json))
    show_outcomes(found, as_json)
    return 0 if any(o.certified for o in found) or wanted == ["baseline"] else 2


def limits_of(minutes: float, usd: float | None, tokens: int | None) -> Limits:
    from synth.search.budget import Limits

    return Limits(usd, tokens, minutes)


def model_of(
    model: str | None, effort: str | None, temperature: float | None, turns: int, price: str | None
) -> ModelSettings | None:
    from synth.propose.model import ModelSettings

    if model is None:
        return None
    return ModelSettings(model, effort or "", temperature, turns=turns, price=price or "")


def examples_of(bound: Bound, place: Place) -> tuple[Example, ...]:
    """Certified kernels for other specs that a model is shown: of earlier runs, or shipped where there are none."""
    from synth.state.library import examples
    from synth.state.store import Store

    with Store.open(place.db) as store:
        return examples(store, bound)
