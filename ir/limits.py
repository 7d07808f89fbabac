"""Limits that settings decide, such as `abs_max = 'if dtype == "fp16" then 16 else 64'`.

A promise that a coarse float needs is no reason to ask the same of a finer one. Which number a limit is follows from
options and static dimensions alone, so binding a spec settles it: whoever proves, launches or tests reads a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from ir import ast
from ir.binding import walk
from ir.diagnostics import Source, SpecProblem
from ir.evaluate import EvaluationError, real_value
from ir.spec import Bound, Limit, Parameter, Spec, TensorSpec

Settings = Mapping[str, str | int]


def settled(spec: Spec, settings: Settings) -> Spec:
    """The spec with the limits that these settings (all of them) decide. Raises SpecProblem where one leaves no
    value."""
    values = {(limit.name, limit.key): _value(spec, limit, settings) for limit in spec.limits}
    parameters = tuple(
        replace(p, lower=values.get((p.name, "min"), p.lower), upper=values.get((p.name, "max"), p.upper))
        for p in spec.parameters
    )
    inputs = tuple(replace(t, abs_max=values.get((t.name, "abs_max"), t.abs_max)) for t in spec.inputs)
    for limit in spec.limits:
        _check(spec, limit, parameters, inputs, settings)
    return replace(spec, parameters=parameters, inputs=inputs)


def widest(spec: Spec) -> Spec:
    """The spec with every limit as wide as some setting has it. Raises SpecProblem where a setting leaves no value."""
    found = [settled(spec, settings) for settings in _settings(spec)] if spec.limits else [spec]
    parameters = tuple(
        replace(same[0], lower=min(p.lower for p in same), upper=max(p.upper for p in same))
        for same in zip(*(s.parameters for s in found), strict=True)
    )
    inputs = tuple(
        max(same, key=lambda t: math.inf if t.abs_max is None else t.abs_max)
        for same in zip(*(s.inputs for s in found), strict=True)
    )
    return replace(spec, parameters=parameters, inputs=inputs)


def _settings(spec: Spec) -> Iterator[dict[str, str | int]]:
    """Every choice of what limits mention."""
    mentioned = {n.id for limit in spec.limits for n in walk(limit.value) if isinstance(n, ast.Name)}
    choices: dict[str, tuple[str | int, ...]] = {o.name: o.choices for o in spec.options if o.name in mentioned}
    choices |= {d.name: d.choices for d in spec.dims if d.name in mentioned}
    for chosen in product(*choices.values()):
        yield dict(zip(choices, chosen, strict=True))


def _value(spec: Spec, limit: Limit, settings: Settings) -> float:
    try:
        return real_value(Bound(spec, tuple(settings.items()), (), (), ()), limit.value)
    except EvaluationError as error:
        raise _problem(spec, limit, settings, str(error)) from error


def _check(
    spec: Spec, limit: Limit, parameters: tuple[Parameter, ...], inputs: tuple[TensorSpec, ...], settings: Settings
) -> None:
    promised = [t.abs_max for t in inputs if t.name == limit.name]
    if any(x is None or not 0 < x < math.inf for x in promised):
        raise _problem(spec, limit, settings, f"abs_max is {promised[0]}, not a positive number")
    for p in (p for p in parameters if p.name == limit.name):
        if not -math.inf < p.lower <= p.upper < math.inf:
            raise _problem(spec, limit, settings, f"the limits leave no value: {p.lower:g} > {p.upper:g}")


def _problem(spec: Spec, limit: Limit, settings: Settings, what: str) -> SpecProblem:
    where = ", ".join(f"{name} = {value}" for name, value in settings.items())
    source = Source(spec.source, spec.path)
    return SpecProblem("S013", f"`{limit.name}`: {what}, where {where}", limit.value.span, source)
