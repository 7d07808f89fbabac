"""What certified kernels are timed next to: the spec's formula in standard PyTorch, and attention as torch ships it.

The formula is evaluated with whole tensors, one named axis for each variable: products under a short or long sum
become `torch.einsum`, everything else broadcasts. `scaled_dot_product_attention` is listed only where it is seen to
compute the spec's first output on a small ragged input; nothing is assumed from the spec's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

from ir.ast import Big, Binary, Call, Element, Expr, If, Name, Number, Unary
from ir.evaluate import check_requires, evaluate, parameters_default
from ir.inputs import generate
from ir.program import DType
from ir.spec import Bound, TensorSpec
from synth.events import STANDARD
from synth.propose.formula import factors, written_out

TORCH = {DType.F32: torch.float32, DType.F16: torch.float16, DType.BF16: torch.bfloat16}
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Peer:
    """A name and a function from the spec's inputs to something computed, to be timed."""

    name: str
    run: Callable[[], Any]


class NotInTorch(Exception):
    """The formula uses something this evaluator does not know."""


@dataclass(frozen=True, slots=True)
class Axed:
    """A tensor whose dimensions are variables of the formula."""

    tensor: torch.Tensor
    axes: tuple[str, ...]

    def over(self, axes: tuple[str, ...]) -> torch.Tensor:
        """Dimensions in the order of `axes`, extents of 1 where it does not vary."""
        kept = [a for a in axes if a in self.axes]
        moved = self.tensor.permute([self.axes.index(a) for a in kept])
        return moved.reshape([moved.shape[kept.index(a)] if a in kept else 1 for a in axes])


def standard(bound: Bound, sizes: Mapping[str, int], inputs: Tensors) -> dict[str, torch.Tensor]:
    """Every output of the spec by whole-tensor operations. Raises NotInTorch."""
    return _defined(bound, bound.outputs, sizes, inputs)


def saved(bound: Bound, sizes: Mapping[str, int], inputs: Tensors) -> dict[str, torch.Tensor]:
    """The saved inputs by whole-tensor operations on the others. Raises NotInTorch."""
    return _defined(bound, tuple((t, d) for t, d in bound.inputs if t.saved), sizes, inputs)


def _defined(
    bound: Bound, tensors: tuple[tuple[TensorSpec, DType], ...], sizes: Mapping[str, int], inputs: Tensors
) -> dict[str, torch.Tensor]:
    numbers: dict[str, float] = {**parameters_default(bound, sizes), **sizes}
    numbers |= {k: v for k, v in bound.settings if isinstance(v, int)}
    device = next(iter(inputs.values())).device
    found = {}
    parts = {t.facts.part: t.name for t, _ in bound.inputs if t.facts.part}
    evaluator = _Evaluator(inputs, numbers, device, parts)
    for tensor, dtype in tensors:
        parameters, value = written_out(bound, tensor.name)
        for parameter, extent in zip(parameters, tensor.shape, strict=True):
            evaluator.ranges[parameter] = evaluator.integer(extent)
        result = evaluator.real(value)
        shape = [evaluator.ranges[p] for p in parameters]
        found[tensor.name] = result.over(parameters).expand(shape).to(TORCH[dtype])
    return found


@dataclass
class _Evaluator:
    inputs: Tensors
    numbers: Mapping[str, float]
    device: torch.device
    parts: Mapping[str, str] = field(default_factory=dict)  # part functions, and the inputs that cut
    ranges: dict[str, int] = field(default_factory=dict)
    known: dict[Expr, Axed] = field(default_factory=dict)

    def integer(self, expr: Expr) -> int:
        value = self(expr)
        if value.axes:
            raise NotInTorch("a bound that differs from row to row")
        return int(value.tensor)

    def real(self, expr: Expr) -> Axed:
        value = self(expr)
        return Axed(value.tensor.float(), value.axes)

    def __call__(self, expr: Expr) -> Axed:
        if (found := self.known.get(expr)) is None:
            found = self.known[expr] = self._evaluate(expr)
        return found

    def _evaluate(self, expr: Expr) -> Axed:
        match expr:
            case Number(literal):
                exact = int(literal) if literal.denominator == 1 else float(literal)
                return Axed(torch.tensor(exact, device=self.device), ())
            case Name("inf"):
                return Axed(torch.tensor(float("inf"), device=self.device), ())
            case Name("true" | "false" as word):
                return Axed(torch.tensor(word == "true", device=self.device), ())
            case Name(id) if id in self.ranges:
                return Axed(torch.arange(self.ranges[id], device=self.device), (id,))
            case Name(id) if id in self.numbers:
                return Axed(torch.tensor(self.numbers[id], device=self.device), ())
            case Element(name, (position,)) if name in self.parts:
                at = self(position)
                part = torch.searchsorted(self.inputs[self.parts[name]], at.tensor, right=True) - 1
                return Axed(part, at.axes)
            case Element(name, index) if name in self.inputs:
                return self._cells(self.inputs[name], index)
            case Unary(op, operand):
                value = self(operand)
                return Axed(torch.logical_not(value.tensor) if op == "not" else -value.tensor, value.axes)
            case Binary(op, left, right) if op in OPERATORS:
                return self._join(OPERATORS[op], self(left), self(right))
            case Call(function, (argument,)) if function in FUNCTIONS:
                value = self.real(argument)
                return Axed(FUNCTIONS[function](value.tensor), value.axes)
            case Call("maximum" | "minimum" | "max" | "min" as function, (left, right)):
                return self._join(getattr(torch, function[:3] + "imum"), self(left), self(right))
            case If(condition, then, otherwise):
                test, a, b = self(condition), self(then), self(otherwise)
                axes = _union(test, a, b)
                return Axed(torch.where(test.over(axes), a.over(axes), b.over(axes)), axes)
            case Big():
                return self._big(expr)
            case _:
                raise NotInTorch(type(expr).__name__)

    def _join(self, operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], a: Axed, b: Axed) -> Axed:
        axes = _union(a, b)
        return Axed(operation(a.over(axes), b.over(axes)), axes)

    def _cells(self, tensor: torch.Tensor, index: tuple[Expr, ...]) -> Axed:
        """Plain variables name dimensions; one computed from a single variable selects along its dimension."""
        axes: list[str] = []
        for place, expr in enumerate(index):
            value = self(expr)
            if len(value.axes) != 1 or value.axes[0] in axes:
                raise NotInTorch("an index over several variables")
            if not isinstance(expr, Name):
                tensor = tensor.index_select(place, value.tensor)
            axes.append(value.axes[0])
        return Axed(tensor, tuple(axes))

    def _big(self, big: Big) -> Axed:
        self.ranges[big.variable] = self.integer(big.bound)
        conditions = [self(c) for c in big.conditions]
        if big.op == "sum":
            return self._sum(big, conditions)
        value = self.real(big.body)
        axes = _union(value, *conditions)
        axes = axes if big.variable in axes else (*axes, big.variable)
        tensor = value.over(axes).expand([self.ranges[a] for a in axes])
        for condition in conditions:
            tensor = tensor.masked_fill(~condition.over(axes), -torch.inf)
        return Axed(tensor.amax(axes.index(big.variable)), tuple(a for a in axes if a != big.variable))

    def _sum(self, big: Big, conditions: list[Axed]) -> Axed:
        parts = [self(part) if sign > 0 else _inverse(self.real(part)) for part, sign in factors(big.body)]
        if not any(big.variable in p.axes for p in parts):
            ones = torch.ones(self.ranges[big.variable], device=self.device)
            parts.append(Axed(ones, (big.variable,)))
        for condition in conditions:
            place = max(range(len(parts)), key=lambda k: len(set(parts[k].axes) & set(condition.axes)))
            axes = _union(parts[place], condition)
            zeroed = torch.where(condition.over(axes), parts[place].over(axes), 0)
            parts[place] = Axed(zeroed, axes)
        scalars = [p for p in parts if not p.axes]
        tensors = [p for p in parts if p.axes]
        narrow = {p.tensor.dtype for p in tensors if p.tensor.dtype in (torch.float16, torch.bfloat16)}
        dtype = narrow.pop() if len(narrow) == 1 else torch.float32  # as a PyTorch user would: matmul in 16 bits
        axes = tuple(a for a in _union(*tensors) if a != big.variable)
        letters = {a: chr(ord("a") + k) for k, a in enumerate(_union(*tensors))}
        terms = ["".join(letters[a] for a in p.axes) for p in tensors]
        result = "".join(letters[a] for a in axes)
        summed = torch.einsum(f"{','.join(terms)}->{result}", *(p.tensor.to(dtype) for p in tensors)).float()
        for scalar in scalars:
            summed = summed * scalar.tensor
        return Axed(summed, axes)


def _inverse(value: Axed) -> Axed:
    return Axed(value.tensor.reciprocal(), value.axes)


def _union(*values: Axed) -> tuple[str, ...]:
    return tuple(dict.fromkeys(a for v in values for a in v.axes))


OPERATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "+": torch.add, "-": torch.sub, "*": torch.mul, "/": torch.div, "//": torch.floor_divide, "%": torch.remainder,
    "<": torch.lt, "<=": torch.le, ">": torch.gt, ">=": torch.ge, "==": torch.eq, "!=": torch.ne,
    "and": torch.logical_and, "or": torch.logical_or,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp": torch.exp, "exp2": torch.exp2, "log": torch.log, "log2": torch.log2, "sqrt": torch.sqrt,
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "abs": torch.abs,
}  # fmt: skip


# ---- scaled_dot_product_attention ------------------------------------------------------------------


def attention_variants(
    bound: Bound, sizes: Mapping[str, int], inputs: Tensors
) -> dict[str, Callable[[], torch.Tensor]]:
    """The ways torch's attention could be called on three inputs of rank 4, in the order the spec names them;
    with a fourth, the gradient of the output, the ways its backward could be."""
    tensors = [inputs[t.name] for t, _ in bound.inputs if not t.saved]
    if len(tensors) not in (3, 4) or any(t.dim() != 4 for t in tensors):
        return {}
    q, k, v, *upstream = tensors
    grouped = q.shape[1] != k.shape[1]
    scale = next(iter(parameters_default(bound, sizes).values()), None)
    attention = torch.nn.functional.scaled_dot_product_attention

    def call(**how: Any) -> Callable[[], torch.Tensor]:
        if not upstream:
            return lambda: attention(q, k, v, scale=scale, enable_gqa=grouped, **how)
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        out = attention(leaves[0], leaves[1], leaves[2], scale=scale, enable_gqa=grouped, **how)
        return lambda: torch.autograd.grad(out, leaves, upstream, retain_graph=True)[0]

    rows, keys = q.shape[2], k.shape[2]
    ends = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    corner = call(is_causal=True) if rows == keys else call(attn_mask=ends)  # a flag takes faster paths than a mask
    return {"full": call(), "top-left causal": call(is_causal=True), "bottom-right causal": corner}


def attention_variant(bound: Bound) -> str | None:
    """Which variant computes the spec's first output on a small ragged input; None when none does."""
    sizes = small_sizes(bound)
    if sizes is None:
        return None
    parameters = parameters_default(bound, sizes)
    arrays = generate("normal", 0, bound, sizes, parameters)
    name = bound.outputs[0][0].name
    wanted = torch.from_numpy(evaluate(bound, sizes, parameters, arrays)[name].copy())
    inputs = {n: torch.from_numpy(a).double() for n, a in arrays.items()}
    for variant, run in attention_variants(bound, sizes, inputs).items():
        try:
            got = run()
        except RuntimeError:  # shapes this call does not take: not this variant
            continue
        if got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-9, atol=1e-9):
            return variant
    return None


def small_sizes(bound: Bound) -> dict[str, int] | None:
    """Small sizes that satisfy the spec, none 1 and all different if possible, the second input the longer one."""
    wanted: dict[str, int] = {}
    symbolic = {d.name for d in bound.dims}
    for (tensor, _), length in zip(bound.inputs, (5, 9), strict=False):
        if len(tensor.shape) > 2 and isinstance(extent := tensor.shape[2], Name) and extent.id in symbolic:
            wanted.setdefault(extent.id, length)
    dims = [d for d in bound.dims if d.name not in wanted]
    choices = [[n for n in (4, 2, 3, 1, 6) if d.minimum <= n <= d.maximum] or [d.minimum] for d in dims]
    fitting = []
    for values in product(*choices):
        sizes = wanted | {d.name: n for d, n in zip(dims, values, strict=True)}
        if check_requires(bound, sizes):
            fitting.append((values.count(1), -len(set(values)), sizes))
    return min(fitting, key=lambda item: item[:2])[2] if fitting else None


def peers(bound: Bound, sizes: Mapping[str, int], inputs: Tensors) -> list[Peer]:
    """What can be timed next to a certified kernel on these inputs."""
    found = []
    variant = attention_variant(bound)
    if variant is not None:
        run = attention_variants(bound, sizes, inputs)[variant]
        part = "" if sum(not t.saved for t, _ in bound.inputs) == 3 else "backward, "
        found.append(Peer(f"torch scaled_dot_product_attention ({part}{variant})", run))
    try:
        standard(bound, sizes, inputs)
    except (NotInTorch, torch.OutOfMemoryError):
        return found
    found.append(Peer(STANDARD, lambda: standard(bound, sizes, inputs)))
    return found


