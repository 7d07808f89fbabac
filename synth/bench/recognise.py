"""Which of PyTorch's own operations computes what a spec asks for: found by trying, on small ragged inputs in float64.

Nothing is read off names. An operation is tried with the spec's inputs in every order that its ranks allow, in both
layouts of attention, with each parameter; it is the spec's when every result agrees with an output of the formula to
nine digits, with more keys than rows and with fewer. A gradient is found the same way, through autograd. What agrees
on two inputs could still differ elsewhere: a benchmark checks every contender again at every shape it is timed at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import Any

import torch
from torch.nn import functional

from ir.ast import Name
from ir.evaluate import check_requires, parameters_default
from ir.spec import Bound
from synth.bench.formula import Evaluator, NotInTorch, evaluator, tensor

ATTENTION = "scaled_dot_product_attention"
MASKS = ("full", "top-left causal", "bottom-right causal")
Operation = Callable[..., torch.Tensor]


@dataclass(frozen=True, slots=True)
class Meaning:
    """`operation` (with `variant`) of the inputs `arguments`, in its order; `number`: the spec's parameter that is its
    scale or epsilon, if any; `upstream`: the gradient that comes in, empty for a forward; `results`: the outputs that
    the result, or the gradients of the arguments, are; `heads_third`: tensors are [batch, length, heads, dim]."""

    operation: str
    variant: str
    arguments: tuple[str, ...]
    number: str
    upstream: str
    results: tuple[str, ...]
    heads_third: bool = False

    @property
    def title(self) -> str:
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.operation}{variant}{', backward' if self.upstream else ''}"


@dataclass(frozen=True, slots=True)
class Known:
    """An operation of PyTorch: ranks of its tensors (None: integers), and how it is called with a number."""

    ranks: tuple[int | None, ...]
    variants: tuple[str, ...]
    call: Callable[[str, Sequence[torch.Tensor], float | None], torch.Tensor]
    numbered: bool = False


def attention(variant: str, tensors: Sequence[torch.Tensor], scale: float | None) -> torch.Tensor:
    """scaled_dot_product_attention of [batch, heads, length, dim]; a fourth tensor is an additive mask."""
    q, k, v, *mask = tensors
    how: dict[str, Any] = {"is_causal": variant == "top-left causal"}
    if variant == "bottom-right causal":
        rows, keys = q.shape[2], k.shape[2]
        if rows == keys:
            how = {"is_causal": True}
        elif rows > 1:  # the last row sees every key
            how = {"attn_mask": torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)}
    if mask:
        how = {"attn_mask": mask[0]}
    grouped = q.shape[1] != k.shape[1]
    return functional.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=grouped, **how)


def _eps(number: float | None, otherwise: float) -> float:
    return otherwise if number is None else number


KNOWN: dict[str, Known] = {
    ATTENTION: Known((4, 4, 4), MASKS, attention, True),
    f"{ATTENTION} with a bias": Known((4, 4, 4, 4), ("",), attention, True),
    "softmax": Known((2,), ("",), lambda _, t, n: functional.softmax(t[0], -1)),
    "log_softmax": Known((2,), ("",), lambda _, t, n: functional.log_softmax(t[0], -1)),
    "layer_norm": Known(
        (2, 1, 1), ("",), lambda _, t, n: functional.layer_norm(t[0], t[1].shape, t[1], t[2], _eps(n, 1e-5)), True
    ),
    "rms_norm": Known((2, 1), ("",), lambda _, t, n: functional.rms_norm(t[0], t[1].shape, t[1], _eps(n, 1e-6)), True),
    "cross_entropy": Known(
        (2, None), ("",), lambda _, t, n: functional.cross_entropy(t[0], t[1].long(), reduction="none")
    ),
}


def operation(meaning: Meaning) -> Callable[[Sequence[torch.Tensor], float | None], torch.Tensor]:
    """The forward operation on tensors in its own order and in the spec's layout."""
    known = KNOWN[meaning.operation]

    def call(tensors: Sequence[torch.Tensor], number: float | None) -> torch.Tensor:
        if not meaning.heads_third:
            return known.call(meaning.variant, tensors, number)
        turned = [x.transpose(1, 2) if x.dim() == 4 else x for x in tensors]
        return known.call(meaning.variant, turned, number).transpose(1, 2)

    return call


def applied(
    meaning: Meaning, inputs: Mapping[str, torch.Tensor], parameters: Mapping[str, float]
) -> Callable[[], list[torch.Tensor]]:
    """The results by `meaning.results`; a gradient's forward is done at once and kept."""
    call, number = operation(meaning), parameters.get(meaning.number)
    return differentiated(lambda tensors: call(tensors, number), meaning, inputs)


def differentiated(
    forward: Callable[[Sequence[torch.Tensor]], torch.Tensor], meaning: Meaning, inputs: Mapping[str, torch.Tensor]
) -> Callable[[], list[torch.Tensor]]:
    """`forward` on the meaning's arguments, or what `torch.autograd.grad` makes of its kept graph."""
    tensors = [inputs[name] for name in meaning.arguments]
    if not meaning.upstream:
        return lambda: [forward(tensors)]
    leaves = [x.detach().requires_grad_() if x.is_floating_point() else x for x in tensors]
    wanted = [x for x in leaves if x.requires_grad]
    with torch.enable_grad():
        out = forward(leaves)
    return lambda: list(torch.autograd.grad(out, wanted, inputs[meaning.upstream], retain_graph=True))


# ---- finding it ------------------------------------------------------------------------------------


@cache
def recognised(bound: Bound) -> Meaning | None:
    """None when no operation is seen to compute the spec's outputs."""
    sizes = small_sizes(bound)
    other = small_sizes(bound, (9, 5))
    if sizes is None or (found := _found(bound, sizes)) is None:
        return None
    return found if other is None or _found(bound, other, (found,)) is not None else None


def _found(bound: Bound, sizes: Mapping[str, int], tried: Sequence[Meaning] = ()) -> Meaning | None:
    from synth.bench.suite.inputs import make  # it works saved inputs out by the formula, as this does outputs

    inputs = make(bound, sizes, torch.device("cpu"), 0, torch.float64)
    parameters = parameters_default(bound, sizes)
    evaluate = evaluator(bound, sizes, inputs, parameters, wide=True)
    wanted: dict[str, torch.Tensor] = {}
    for meaning in tried or _candidates(bound, inputs, parameters):
        try:
            results = applied(meaning, inputs, parameters)()
        except (RuntimeError, ValueError, IndexError):  # shapes this call does not take: not this one
            continue
        if names := _matched(results, bound, evaluate, wanted):
            return Meaning(
                meaning.operation, meaning.variant, meaning.arguments, meaning.number, meaning.upstream, names,
                meaning.heads_third,
            )  # fmt: skip
    return None


def _matched(
    results: Sequence[torch.Tensor], bound: Bound, evaluate: Evaluator, wanted: dict[str, torch.Tensor]
) -> tuple[str, ...]:
    """For each result the output it equals; empty when one equals none. Outputs are worked out when first needed."""
    found: list[str] = []
    for result in results:
        for spec, _ in bound.outputs:
            if len(spec.shape) != result.dim() or spec.name in found:
                continue
            if spec.name not in wanted:
                try:
                    wanted[spec.name] = tensor(evaluate, bound, spec.name)
                except NotInTorch:
                    return ()
            cells = wanted[spec.name]
            if cells.shape == result.shape and torch.allclose(result, cells, rtol=1e-9, atol=1e-9):
                found.append(spec.name)
                break
        else:
            return ()
    return tuple(found)


def _candidates(bound: Bound, inputs: Mapping[str, torch.Tensor], parameters: Mapping[str, float]) -> Iterator[Meaning]:
    free = [t.name for t, _ in bound.inputs if not t.saved]
    floats = [name for name in free if inputs[name].is_floating_point()]
    integers = [name for name in free if not inputs[name].is_floating_point()]
    for name, known in KNOWN.items():
        count = sum(rank is not None for rank in known.ranks)
        for order in permutations(floats):
            for chosen in product(integers, repeat=len(known.ranks) - count):
                arguments, upstream = order[:count], order[count:]
                if len(arguments) < count or len(upstream) > 1:
                    continue
                if tuple(inputs[a].dim() for a in arguments) != known.ranks[:count]:
                    continue
                for variant, number, third in product(
                    known.variants, ("", *parameters) if known.numbered else ("",), (False, True)[: 1 + (count > 2)]
                ):
                    if third and known.ranks[0] != 4:
                        continue
                    yield Meaning(name, variant, (*arguments, *chosen), number, "".join(upstream), (), third)


def small_sizes(bound: Bound, lengths: tuple[int, int] = (5, 9)) -> dict[str, int] | None:
    """Small sizes that satisfy the spec, none 1 and all different if possible; `lengths` of the first two inputs."""
    wanted: dict[str, int] = {}
    symbolic = {d.name for d in bound.dims}
    for (spec, _), length in zip(bound.inputs, lengths, strict=False):
        if len(spec.shape) > 2 and isinstance(extent := spec.shape[2], Name) and extent.id in symbolic:
            wanted.setdefault(extent.id, length)
    return _small(bound, wanted) or _small(bound, {})


def _small(bound: Bound, wanted: Mapping[str, int]) -> dict[str, int] | None:
    dims = [d for d in bound.dims if d.name not in wanted]
    choices = [[n for n in (4, 2, 3, 1, 6) if d.minimum <= n <= d.maximum] or [d.minimum] for d in dims]
    fitting = []
    for values in product(*choices):
        sizes = {**wanted, **{d.name: n for d, n in zip(dims, values, strict=True)}}
        if check_requires(bound, sizes):
            fitting.append((values.count(1), -len(set(values)), sizes))
    return min(fitting, key=lambda item: item[:2])[2] if fitting else None
