"""How much arithmetic a spec's formula asks for, by the convention FlashAttention's figures use.

Forward: 2 operations for every term of every distinct contraction (a sum of products of tensors that vary differently),
at every point its conditions admit: 4 M N D a head for attention, half of it (exactly: the visible pairs) when causal.
A gradient counts 2.5 times its forward: two products for each operand's gradient and the scores once more.
Exponentials, maxima and plain sums are not counted. Traffic is every input and output once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ir.ast import Big, Binary, Element, Expr, Name
from ir.spec import Bound
from synth.bench.formula import Evaluator
from synth.bench.roofline import traffic_bytes
from synth.propose.formula import ONE, children, factors, free, rebuild, substitute, walk, written_out

BACKWARD = 2.5


@dataclass(frozen=True, slots=True)
class Work:
    """Operations and bytes of one call. `backward`: counted as 2.5 times the forward."""

    flops: float
    bytes: float
    backward: bool


def work(bound: Bound, gradients: Mapping[str, list[list[str]]], sizes: Mapping[str, int], evaluate: Evaluator) -> Work:
    """`evaluate`: of these sizes, with the call's integer inputs (their lengths count)."""
    forward = {y for terms in gradients.values() for y, _, _ in terms}
    names = sorted(forward) or [t.name for t, _ in bound.outputs]
    counted: dict[Expr, float] = {}
    for name in names:
        _count(bound, name, evaluate, counted)
    flops = sum(counted.values())
    return Work(flops * (BACKWARD if forward else 1.0), traffic_bytes(bound, sizes), bool(forward))


def _count(bound: Bound, name: str, evaluate: Evaluator, found: dict[Expr, float]) -> None:
    parameters, value = written_out(bound, name)
    known = next((t for t, _ in (*bound.outputs, *bound.inputs) if t.name == name), None)
    scope = {p: None for p in parameters} if known is None else dict(zip(parameters, known.shape, strict=True))
    for big, around in _contractions(value, ()):
        common = substitute(big, {v: Name(v.partition("#")[0]) for v in free(big) if "#" in v})
        key = _renamed(common)
        if key not in found:
            bounds = {**scope, **{b.variable: b.bound for b in around}}
            conditions = [c for b in (*around, big) for c in _conditions(b)]
            found[key] = 2.0 * _points(big, conditions, bounds, evaluate)


def _contractions(expr: Expr, around: tuple[Big, ...]) -> Iterator[tuple[Big, tuple[Big, ...]]]:
    """Sums of products of differently varying tensors, each with the sums and maxima it stands in."""
    inner = around
    if isinstance(expr, Big):
        inner = (*around, expr)
        varying = [free(part) for part, _ in factors(expr.body) if expr.variable in free(part)]
        if expr.op == "sum" and len(varying) > 1 and len(set(varying)) > 1:
            yield expr, around
    for child in children(expr):
        yield from _contractions(child, inner)


def _renamed(expr: Expr) -> Expr:
    """Bound variables by their stems, so that one score in two sums is one contraction."""
    if isinstance(expr, Big):
        stem = expr.variable.partition("#")[0]
        names: dict[str, Expr] = {expr.variable: Name(stem)}
        conditions = tuple(_renamed(substitute(c, names)) for c in expr.conditions)
        return Big(expr.op, stem, _renamed(expr.bound), conditions, _renamed(substitute(expr.body, names)))
    return rebuild(expr, _renamed)


def _conditions(big: Big) -> list[Expr]:
    return [*big.conditions, Binary("<", Name(big.variable), big.bound)]


def _points(big: Big, conditions: list[Expr], bounds: Mapping[str, Expr | None], evaluate: Evaluator) -> float:
    """How many (index, term) pairs the conditions admit; those that speak of other variables count as met."""
    scope = {**bounds, big.variable: big.bound}
    inside = (free(big) | {big.variable}) & scope.keys()
    relevant = [c for c in conditions if (free(c) & scope.keys()) <= inside]
    for name, extent in scope.items():  # what an extent depends on stands further out
        if name in inside and extent is not None:
            evaluate.span(name, torch.arange(evaluate.extent(extent), device=evaluate.device))
    cut = {name for c in relevant for name in free(c) & inside if _restricts(c, scope, evaluate)}
    whole = math.prod(evaluate.axes[name].numel() for name in inside - cut)
    if not cut:
        return float(whole)
    kept = tuple(c for c in relevant if free(c) & cut)
    last = max(cut, key=lambda name: evaluate.axes[name].numel())
    counted = Big("sum", last, scope[last] or ONE, kept, ONE)
    return _count_cells(counted, cut - {last}, evaluate) * whole


@lru_cache(maxsize=256)
def _cells_known(key: tuple[Any, ...]) -> list[float]:
    """A place to keep a count in: the same mask at the same lengths is counted once a process."""
    return []


def _count_cells(counted: Big, others: set[str], evaluate: Evaluator) -> float:
    """What a counting sum adds up to over its remaining variables."""
    used = free(counted) | free(counted.bound)
    numbers = tuple(sorted((n, evaluate.numbers[n]) for n in used & evaluate.numbers.keys()))
    key = (counted, numbers, tuple(sorted((name, evaluate.axes[name].numel()) for name in others)))
    kept = [] if any(isinstance(e, Element) for e in walk(counted)) else _cells_known(key)
    if not kept:
        result = evaluate.real(counted)
        repeated = math.prod(evaluate.axes[name].numel() for name in others if name not in result.axes)
        kept.append(float(result.tensor.double().sum()) * repeated)
    return kept[0]


def _restricts(condition: Expr, scope: Mapping[str, Expr | None], evaluate: Evaluator) -> bool:
    """Whether a condition says more than that a variable is below its own constant extent."""
    match condition:
        case Binary("<", Name(variable), bound) if scope.get(variable) == bound:
            return bool(evaluate(bound).axes)
        case _:
            return True
