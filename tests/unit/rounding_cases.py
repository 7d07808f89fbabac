"""Rounding bounds put to the test: a kernel run by an adversary of the machine model, against the formula."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from adversary import STRATEGIES, Adversary

from ir import program as core
from ir.error_formula import Formula
from ir.error_formula import evaluate as value_of
from ir.evaluate import evaluate, parameters_default, saved
from ir.float_model import UNIT
from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.requirements import narrowed
from ir.rounding import round_to
from ir.spec import Bound
from ir.typing import check
from synth.rounding import Inputs
from verifier.proof import Proof, analyse
from verifier.rounding.cells import bounds

ROOT = Path(__file__).resolve().parents[2]


def case(path: str) -> tuple[core.Program, Bound]:
    """A kernel file and the spec its first line names."""
    text = (ROOT / path).read_text()
    name, *settings = text.splitlines()[0].split("spec:")[1].split()
    pairs = (s.split("=") for s in settings)
    bound = bind(load_spec(name), {k: int(v) if v.isdigit() else v for k, v in pairs})
    program = check(parse(text), bound)
    return program, narrowed(bound, program)


def of(spec: str, text: str) -> tuple[core.Program, Bound]:
    """A kernel's text for a spec's."""
    bound = bind(parse_spec(spec))
    program = check(parse(text), bound)
    return program, narrowed(bound, program)


def analysed(program: core.Program, bound: Bound) -> Proof:
    return analyse(program, bound)


def bounded(path: str) -> tuple[core.Program, Bound, dict[str, Formula]]:
    program, bound = case(path)
    return program, bound, dict(bounds(analysed(program, bound)))


def inputs_of(bound: Bound, sizes: Mapping[str, int], generator: str, scale: float) -> dict[str, np.ndarray]:
    """Inputs of every tensor, saved ones exact."""
    drawn = generate(generator, 1, bound, sizes, parameters(bound, sizes))
    free = {t.name: drawn[t.name] for t, _ in bound.inputs if not t.saved}
    floats = {t.name: dtype for t, dtype in bound.inputs if dtype.is_float and not t.saved}
    free |= {name: round_to(free[name] * scale, dtype) for name, dtype in floats.items()}
    return free | saved(bound, sizes, parameters(bound, sizes), free)


def parameters(bound: Bound, sizes: Mapping[str, int]) -> dict[str, float]:
    """Defaults, as f32 holds them."""
    return {n: x if isinstance(x, int) else float(np.float32(x)) for n, x in parameters_default(bound, sizes).items()}


def worst(
    program: core.Program, bound: Bound, found: Mapping[str, Formula], sizes: Mapping[str, int], generator: str,
    scale: float = 1.0, given: Mapping[str, np.ndarray] | None = None,
) -> Iterator[tuple[str, str, float]]:
    """(output, strategy, largest error over its bound) of every way the adversary has."""  # fmt: skip
    exact = inputs_of(bound, sizes, generator, scale) | dict(given or {})
    wanted = evaluate(bound, sizes, parameters(bound, sizes), exact)
    for strategy in STRATEGIES:
        passed = dict(exact)
        for t, dtype in bound.inputs:
            if t.saved:  # off by a rounding, one way or the other
                side = -1.0 if strategy == "down" else 1.0
                passed[t.name] = np.where(np.isfinite(exact[t.name]), exact[t.name] * (1 + side * UNIT[dtype]), -np.inf)
        Adversary.strategy, Adversary.random = strategy, np.random.default_rng(1)
        out = interpret(program, bound, sizes, parameters(bound, sizes), passed, Mode.EXACT, machine=Adversary)
        values = _inputs(bound, sizes, exact, passed, wanted).values()
        for name, formula in found.items():
            got, right = out.tensors[name], wanted[name]
            finite = np.isfinite(right)
            assert (np.isfinite(got) == finite).all(), "floats are -inf exactly where the formula is"
            error = float(np.max(np.abs(got[finite] - right[finite]), initial=0.0))
            allowed = value_of(formula, values)
            yield name, strategy, error / allowed if allowed > 0.0 else 0.0 if error == 0.0 else np.inf


def _inputs(
    bound: Bound, sizes: Mapping[str, int], exact: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
) -> Inputs:  # fmt: skip
    floats = [t for t, dtype in bound.inputs if dtype.is_float]
    finite = {t.name: np.isfinite(exact[t.name]) for t in floats}
    ranges = {n: float(np.max(np.abs(given[n][at]), initial=0.0)) for n, at in finite.items()}
    results = {n: float(np.max(np.abs(x[np.isfinite(x)]), initial=0.0)) for n, x in wanted.items()}
    off = {t.name: np.abs(given[t.name] - exact[t.name])[finite[t.name]] for t in floats if t.saved}
    errors = {n: float(np.max(x, initial=0.0)) for n, x in off.items()}
    return Inputs(sizes, parameters(bound, sizes), ranges, errors, results)
