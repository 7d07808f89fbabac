"""A spec of the attention family as a FlexAttention call, worked out from its formula.

FlexAttention takes q, k, v, a function of one score and its place (`score_mod`) and one of a place alone (`mask_mod`).
Where the formula is a weighted sum of values by exp of a score that holds one product of a query and a key, the score
with that product left open is the first, and the conditions of the sum are the second. Windows, soft-capping, ALiBi,
biases, prefixes and documents come out without being looked for by name. What comes out is compared with the formula
on small inputs (FlexAttention runs uncompiled on a CPU) before it is anybody's peer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from ir.ast import Big, Binary, Call, Element, Expr, If, Name, Number, Unary
from ir.evaluate import parameters_default
from ir.spec import Bound
from synth.bench.formula import CONSTANTS, FUNCTIONS, evaluator, tensor
from synth.bench.roofline import is_plain
from synth.propose import NothingToPropose
from synth.propose.formula import factors, free, rebuild, walk
from synth.propose.structure import Group, nests

DOT = "dot#"  # no spec can use this name
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Flex:
    """`query`, `key`, `value`: names of inputs [batch, heads, length, dim]; `place`: the formula's names for batch,
    head, row and key; `score` over them and DOT; `output`: what it computes, whose gradients `gradients` may be."""

    query: str
    key: str
    value: str
    place: tuple[str, str, str, str]
    score: Expr
    sees: tuple[Expr, ...]
    output: str
    upstream: str = ""
    results: tuple[str, ...] = ()


def derived(bound: Bound, gradients: Mapping[str, list[list[str]]]) -> Flex | None:
    """None where the formula has another form, or FlexAttention is seen to compute something else."""
    return _derived(bound, tuple((name, tuple(map(tuple, terms))) for name, terms in sorted(gradients.items())))


@cache
def _derived(bound: Bound, gradients: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]) -> Flex | None:
    forward, upstream = bound, ""
    if gradients:
        ys = {(term[0], term[2]) for _, terms in gradients for term in terms}
        saved = {t.name: (t, d) for t, d in bound.inputs}
        if len(ys) != 1 or (y := next(iter(ys)))[0] not in saved:
            return None
        forward, upstream = replace(bound, outputs=(saved[y[0]],)), y[1]
    found = _from_formula(forward)
    if found is None:
        return None
    if upstream:
        of = {terms[0][1]: name for name, terms in gradients if len(terms) == 1}
        if not {found.query, found.key, found.value} <= of.keys():
            return None
        found = replace(found, upstream=upstream, results=(of[found.query], of[found.key], of[found.value]))
    return found if _agrees(bound, found) else None


def _from_formula(bound: Bound) -> Flex | None:
    try:
        for nest in nests(bound):
            for output in nest.outputs:
                for group in nest.groups:
                    value = _value(group, output.value)
                    if group.score is not None and value is not None and len(output.index) == 4:
                        return _flex(bound, group, group.score, value, output.tensor.name)
    except NothingToPropose:
        return None
    return None


def _value(group: Group, output: Expr) -> Element | None:
    """The values that an output sums, where it sums a tensor's cells and nothing else."""
    used = free(output)
    sums = [f.rest for f in group.folds if f.name in used and isinstance(f.rest, Element)]
    return sums[0] if len(sums) == 1 else None


def _flex(bound: Bound, group: Group, score: Expr, value: Expr, output: str) -> Flex | None:
    dots = {e for e in walk(score) if isinstance(e, Big)}
    if len(dots) != 1 or not isinstance(value, Element):
        return None
    (dot,) = dots
    parts = [part for part, sign in factors(dot.body) if sign > 0]
    if dot.op != "sum" or dot.conditions or len(parts) != len(factors(dot.body)):
        return None
    cells = [part for part in parts if isinstance(part, Element) and len(part.index) == 4]
    if len(cells) != 2 or len(parts) != 2 or len(value.index) != 4:
        return None
    query, key = sorted(cells, key=lambda cell: group.key in free(cell))
    if any(not isinstance(e, Name) for e in query.index[:3]) or key.index[2] != Name(group.key):
        return None
    batch, head, row = (e.id for e in query.index[:3] if isinstance(e, Name))
    ends = () if is_plain(group.extent) else (Binary("<", Name(group.key), group.extent),)
    place = (batch, head, row, group.key)
    return Flex(query.name, key.name, value.name, place, _open(score, dot), (*group.sees, *ends), output)


def _open(expr: Expr, dot: Big) -> Expr:
    """The score with its product left open."""
    return Name(DOT) if expr == dot else rebuild(expr, lambda child: _open(child, dot))


# ---- calling it ------------------------------------------------------------------------------------


def modifiers(
    flex: Flex, bound: Bound, sizes: Mapping[str, int], inputs: Tensors, parameters: Mapping[str, float]
) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """score_mod and mask_mod (None where every key is seen) for FlexAttention called with scale 1."""
    numbers: dict[str, Any] = {**CONSTANTS, **parameters, **sizes}
    numbers |= {k: v for k, v in bound.settings if isinstance(v, int)}
    named = dict(zip(flex.place, PLACE, strict=True)) | {DOT: "dot"}
    score = _text(flex.score, named, numbers)
    sees = " & ".join(["(j >= 0)", *(f"({_text(c, named, numbers)})" for c in flex.sees)])
    return (
        _function(f"dot, {', '.join(PLACE)}", score, inputs),
        _function(", ".join(PLACE), sees, inputs) if flex.sees else None,
    )


PLACE = ("b", "h", "i", "j")
CALLS = {"max": "torch.maximum", "min": "torch.minimum"}


def _function(arguments: str, value: str, inputs: Tensors) -> Callable[..., Any]:
    """As a person would write it, tensors from around it: torch.compile has to read it."""
    names = ", ".join(f"t_{name}" for name in inputs)
    scope: dict[str, Any] = {"torch": torch, "inf": math.inf}
    exec(f"def around({names}):\n    return lambda {arguments}: {value}\n", scope)  # of a checked formula's own words
    found: Callable[..., Any] = scope["around"](*inputs.values())
    return found


def _text(expr: Expr, named: Mapping[str, str], numbers: Mapping[str, Any]) -> str:
    """A cell's value as Python text; what needs no tensor is a number in it. Raises NothingToPropose."""

    def text(e: Expr) -> str:
        return _text(e, named, numbers)

    match expr:
        case Number(literal, is_float):
            return str(int(literal)) if literal.denominator == 1 and not is_float else repr(float(literal))
        case Name(id) if id in named:
            return named[id]
        case Name(id) if id in numbers:
            return repr(numbers[id])
        case Element(name, index):
            return f"t_{name}[{', '.join(map(text, index))}]"
        case Unary(op, operand):
            return f"(~({text(operand)}))" if op == "not" else f"(-{text(operand)})"
        case Binary("and" | "or" as op, left, right):
            return f"(({text(left)}) {'&' if op == 'and' else '|'} ({text(right)}))"
        case Binary(op, left, right):
            return f"({text(left)} {op} {text(right)})"
        case Call(function, (argument,)) if function in FUNCTIONS:
            plain = not free(argument) & named.keys() and not any(isinstance(e, Element) for e in walk(argument))
            inner = f"torch.tensor(float({text(argument)}))" if plain else text(argument)
            return f"torch.{FUNCTIONS[function].__name__}({inner})"
        case Call(function, (left, right)) if function in CALLS:
            return f"{CALLS[function]}(*map(torch.as_tensor, ({text(left)}, {text(right)})))"
        case If(condition, then, otherwise):
            return f"torch.where({text(condition)}, {text(then)}, {text(otherwise)})"
        case _:
            raise NothingToPropose(f"{type(expr).__name__} in a score")


def _agrees(bound: Bound, flex: Flex) -> bool:
    """Whether FlexAttention, uncompiled on a CPU, gives the formula's output in float64. It has no gradient there:
    those are first compared where they are timed."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    from synth.bench.recognise import small_sizes
    from synth.bench.suite.inputs import make

    sizes = small_sizes(bound)
    if sizes is None:
        return False
    cpu = torch.device("cpu")
    inputs = make(bound, sizes, cpu, 0, torch.float64)
    q, k, v = (inputs[name] for name in (flex.query, flex.key, flex.value))
    try:
        score_mod, mask_mod = modifiers(flex, bound, sizes, inputs, parameters_default(bound, sizes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow uncompiled
            mask = None
            if mask_mod is not None:
                mask = create_block_mask(mask_mod, q.shape[0], q.shape[1], q.shape[2], k.shape[2], device="cpu")
            out = flex_attention(q, k, v, score_mod, mask, 1.0, enable_gqa=q.shape[1] != k.shape[1])
    except (NothingToPropose, RuntimeError, ValueError, TypeError, NameError, IndexError):
        return False
    wanted = tensor(evaluator(bound, sizes, inputs, wide=True), bound, flex.output)
    return out.shape == wanted.shape and torch.allclose(out.double(), wanted, rtol=1e-6, atol=1e-6)
