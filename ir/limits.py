"""Limits that settings decide, such as `abs_max = 'if dtype == "fp16" then 16 else 64'`.

A promise that a coarse float needs is no reason to ask the same of a finer one. Which number a limit is follows from
options and static dimensions alone, so binding a spec settles it: whoever proves, launches or tests reads a number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from ir import ast
from ir.binding import walk
from ir.diagnostics import Source, SpecProblem
from ir.formulas import settled as decided
from ir.spec import Limit, Parameter, Spec, TensorSpec

Settings = Mapping[str, str | int]
_BINARY: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs, "sqrt": math.sqrt, "exp": math.exp}


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
        return float(_number(decided(limit.value, settings), settings))
    except (ValueError, ArithmeticError) as error:
        raise _problem(spec, limit, settings, f"no number: {error}") from error


def _number(e: ast.Expr, settings: Settings) -> float:
    """The value of a formula over static dimensions, its options decided. Raises ValueError, ArithmeticError."""
    match e:
        case ast.Number(value):
            return float(value)
        case ast.Name("true" | "false" as truth):
            return float(truth == "true")
        case ast.Name(name) if isinstance(settings.get(name), int):
            return float(settings[name])
        case ast.Unary("-", x):
            return -_number(x, settings)
        case ast.Unary("not", x):
            return float(not _number(x, settings))
        case ast.Binary("and" | "or" as op, left, right):
            return _number(right if bool(_number(left, settings)) is (op == "and") else left, settings)
        case ast.Binary(op, left, right) if op in _BINARY:
            return _BINARY[op](_number(left, settings), _number(right, settings))
        case ast.Call(function, args, ()) if function in _FUNCTIONS:
            return _FUNCTIONS[function](*(_number(x, settings) for x in args))
        case ast.If(condition, then, otherwise):
            return _number(then if _number(condition, settings) else otherwise, settings)
        case _:
            known = ", ".join(_FUNCTIONS)
            raise ValueError(f"a limit is made of numbers, static dimensions, options, arithmetic and {known}")


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
