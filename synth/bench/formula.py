"""A spec's formula evaluated with whole tensors: in float64 as a reference, or as a PyTorch user would write it.

Every variable of the formula is a named axis: products under a sum become `torch.einsum`, everything else broadcasts.
Nothing of a kernel's own structure (tiles, running maxima, splits) enters, so agreement means something. Two uses:

- `wide`: everything in float64, an intermediate larger than `room` cut along its longest axis. `window`s restrict the
  cells asked for; sums still run over everything. Cells that a condition leaves out may be read outside a tensor.
- not `wide`: matrix products in the inputs' 16-bit dtype, the rest in float32, nothing cut: standard PyTorch.

Unlike `ir.evaluate` exponents are plain floats: inputs must not be so large that exp leaves float64 (float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ir.ast import Big, Binary, Call, Element, Expr, If, Name, Number, Unary
from ir.evaluate import parameters_default
from ir.random import random
from ir.spec import Bound
from synth.propose.formula import factors, free, walk, written_out

NARROW = (torch.float16, torch.bfloat16)
Tensors = Mapping[str, torch.Tensor]
Windows = Mapping[str, torch.Tensor]  # which values of an output's index variable, int64, ascending


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


@dataclass
class Evaluator:
    """`axes`: the values each variable takes; `numbers`: sizes, parameters and static dimensions by name."""

    inputs: Tensors
    numbers: Mapping[str, float]
    device: torch.device
    parts: Mapping[str, str] = field(default_factory=dict)  # part functions, and the inputs that cut
    empty_is_zero: bool = False
    wide: bool = False
    room: int | None = None
    axes: dict[str, torch.Tensor] = field(default_factory=dict)
    known: dict[Expr, Axed] = field(default_factory=dict)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.wide else torch.float32

    def extent(self, expr: Expr) -> int:
        """An integer; the largest where it differs from row to row."""
        tensor = self(expr).tensor
        return max(0, int(tensor.max())) if tensor.numel() else 0

    def real(self, expr: Expr) -> Axed:
        return self._real(self(expr))

    def _real(self, value: Axed) -> Axed:
        return Axed(value.tensor.to(self.dtype), value.axes)

    def __call__(self, expr: Expr) -> Axed:
        if (found := self.known.get(expr)) is None:
            found = self.known[expr] = self._evaluate(expr)
        return found

    def span(self, variable: str, values: torch.Tensor) -> None:
        """Let a variable take these values; what was known under other ones is forgotten."""
        old = self.axes.get(variable)
        if old is None or not torch.equal(old, values):
            self.axes[variable] = values
            if old is not None:
                self.known.clear()

    def number(self, value: float | bool) -> Axed:
        dtype = None if isinstance(value, bool | int) else self.dtype
        return Axed(torch.tensor(value, device=self.device, dtype=dtype), ())

    def _evaluate(self, expr: Expr) -> Axed:
        match expr:
            case Number(literal, is_float):
                return self.number(int(literal) if literal.denominator == 1 and not is_float else float(literal))
            case Name(id) if id in self.axes:
                return Axed(self.axes[id], (id,))
            case Name(id) if id in self.numbers:
                return self.number(self.numbers[id])
            case Name(id) if id in CONSTANTS:
                return self.number(CONSTANTS[id])
            case Element(name, (position,)) if name in self.parts:
                return self._part(self.inputs[self.parts[name]], self(position))
            case Element(name, index) if name in self.inputs:
                return self._cells(self.inputs[name], index)
            case Unary(op, operand):
                value = self(operand)
                return Axed(torch.logical_not(value.tensor) if op == "not" else -value.tensor, value.axes)
            case Binary("/", left, right):
                return self._join(torch.mul, self.real(left), self._inverse(self.real(right)))
            case Binary(op, left, right) if op in OPERATORS:
                return self._join(OPERATORS[op], self(left), self(right))
            case Call(function, (argument,)) if function in FUNCTIONS:
                value = self.real(argument)
                return Axed(FUNCTIONS[function](value.tensor), value.axes)
            case Call(function, (left, right)) if function in JOINED:
                return self._join(JOINED[function], self(left), self(right))
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
        if any(x.tensor.is_floating_point() for x in (a, b)):
            a, b = self._real(a), self._real(b)
        return Axed(operation(a.over(axes), b.over(axes)), axes)

    def _inverse(self, value: Axed) -> Axed:
        inverse = value.tensor.reciprocal()
        if self.empty_is_zero:  # a quotient by zero is zero
            inverse = inverse.masked_fill(value.tensor == 0, 0.0)
        return Axed(inverse, value.axes)

    # ---- reading tensors ---------------------------------------------------------------------------

    def _part(self, starts: torch.Tensor, at: Axed) -> Axed:
        found = torch.searchsorted(starts.to(at.tensor.dtype), at.tensor.contiguous(), right=True) - 1
        return Axed(found.clamp(0, max(len(starts) - 2, 0)), at.axes)

    def _cells(self, tensor: torch.Tensor, index: tuple[Expr, ...]) -> Axed:
        """An index over one variable of its own selects along its dimension; others gather cell by cell."""
        at = [self(expr) for expr in index]
        axes = tuple(a for value in at for a in value.axes)
        if all(len(value.axes) == 1 for value in at) and len(set(axes)) == len(axes):
            for place, (expr, value) in enumerate(zip(index, at, strict=True)):
                tensor = self._selected(tensor, place, expr, value.tensor)
        else:
            axes = _union(*at)
            places = [value.over(axes) for value in at]
            inside = [(k >= 0) & (k < n) for k, n in zip(places, tensor.shape, strict=True)]
            if 0 in tensor.shape:
                shape = np.broadcast_shapes(*(tuple(k.shape) for k in places))
                return Axed(torch.zeros(shape, dtype=self._stored(tensor).dtype, device=self.device), axes)
            safe = [k.clamp(0, n - 1) for k, n in zip(places, tensor.shape, strict=True)]
            whole = all(bool(mask.all()) for mask in inside)
            tensor = tensor[tuple(safe)]
            for mask in () if whole else inside:
                tensor = torch.where(mask, tensor, torch.zeros((), dtype=tensor.dtype, device=self.device))
        return Axed(self._stored(tensor), axes)

    def _selected(self, tensor: torch.Tensor, place: int, expr: Expr, values: torch.Tensor) -> torch.Tensor:
        extent = tensor.shape[place]
        if isinstance(expr, Name) and values.numel() == extent and (extent == 0 or int(values[0]) == 0):
            return tensor  # ascending and as many as there are: all of them
        if values.numel() == 0 or (int(values.min()) >= 0 and int(values.max()) < extent):
            return tensor.index_select(place, values)
        if extent == 0:
            return tensor.new_zeros(*tensor.shape[:place], values.numel(), *tensor.shape[place + 1 :])
        inside = ((values >= 0) & (values < extent)).view(-1, *[1] * (tensor.dim() - place - 1))
        return torch.where(inside, tensor.index_select(place, values.clamp(0, extent - 1)), tensor.new_zeros(()))

    def _stored(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype is torch.bool:
            return tensor
        if not tensor.is_floating_point():
            return tensor.long()
        return tensor.to(self.dtype) if self.wide else tensor

    # ---- sums and maxima ---------------------------------------------------------------------------

    def _big(self, big: Big) -> Axed:
        limit = self(big.bound)
        count = self.extent(big.bound)
        self.span(big.variable, torch.arange(count, device=self.device))
        outside = sorted(free(big) & self.axes.keys())
        if self.room is not None and outside and (size := self.size(big)) > self.room:
            longest = max(outside, key=lambda a: self.axes[a].numel())
            if self.axes[longest].numel() > 1:
                return self._in_pieces(big, longest, -(-size // self.room))
        conditions = [self(c) for c in big.conditions]
        if limit.axes:
            conditions.append(self._join(torch.lt, self(Name(big.variable)), limit))
        if big.op == "sum":
            return self._sum(big, conditions)
        value = self.real(big.body)
        axes = _union(value, *conditions)
        axes = axes if big.variable in axes else (*axes, big.variable)
        tensor = value.over(axes).expand([self.axes[a].numel() for a in axes])
        for condition in conditions:
            tensor = tensor.masked_fill(~condition.over(axes), -torch.inf)
        kept = tuple(a for a in axes if a != big.variable)
        if count == 0:
            shape = [self.axes[a].numel() for a in kept]
            return Axed(torch.full(shape, -torch.inf, dtype=self.dtype, device=self.device), kept)
        return Axed(tensor.amax(axes.index(big.variable)), kept)

    def size(self, big: Big) -> int:
        """Elements of the largest tensor that a sum or maximum works on; a product of factors is never laid out."""
        factored = [part for part, _ in factors(big.body)] if big.op == "sum" else [big.body]
        touched = [free(expr) for expr in (*factored, *big.conditions, big)]
        return max(math.prod(self.axes[a].numel() for a in names & self.axes.keys()) for names in touched)

    def _in_pieces(self, big: Big, axis: str, pieces: int) -> Axed:
        self._ahead(big, axis)
        found = []
        for values in self.axes[axis].chunk(min(pieces, self.axes[axis].numel())):
            kept = {e: v for e, v in self.known.items() if axis not in v.axes}
            piece = replace(self, axes={**self.axes, axis: values}, known=kept)(big)
            axes = piece.axes if axis in piece.axes else (*piece.axes, axis)
            tensor = piece.over(axes)
            found.append(tensor.expand([self.axes[a].numel() if a != axis else values.numel() for a in axes]))
        return Axed(torch.cat(found, dim=axes.index(axis)), axes)

    def _ahead(self, big: Big, axis: str) -> None:
        """Sums inside another that are the same for every piece are worked out once, if they are small."""
        named = self.axes.keys() | self.numbers.keys() | CONSTANTS.keys()
        for inner in walk(big.body):
            variables = free(inner) & self.axes.keys()
            fits = math.prod(self.axes[a].numel() for a in variables) <= (self.room or 0)
            if isinstance(inner, Big) and axis not in variables and free(inner) <= named and fits:
                self(inner)

    def _sum(self, big: Big, conditions: list[Axed]) -> Axed:
        parts = [self(part) if sign > 0 else self._inverse(self.real(part)) for part, sign in factors(big.body)]
        if not any(big.variable in p.axes for p in parts):
            parts.append(Axed(torch.ones_like(self.axes[big.variable], dtype=self.dtype), (big.variable,)))
        for condition in conditions:
            place = max(range(len(parts)), key=lambda k: len(set(parts[k].axes) & set(condition.axes)))
            axes = _union(parts[place], condition)
            part = parts[place].over(axes)
            parts[place] = Axed(torch.where(condition.over(axes), part, part.new_zeros(())), axes)
        scalars = [p for p in parts if not p.axes]
        tensors = [p for p in parts if p.axes]
        dtype = self._product_dtype(tensors)
        axes = tuple(a for a in _union(*tensors) if a != big.variable)
        letters = {a: chr(ord("a") + k) for k, a in enumerate(_union(*tensors))}
        terms = ["".join(letters[a] for a in p.axes) for p in tensors]
        result = "".join(letters[a] for a in axes)
        summed = torch.einsum(f"{','.join(terms)}->{result}", *(p.tensor.to(dtype) for p in tensors)).to(self.dtype)
        for scalar in scalars:
            summed = summed * scalar.tensor
        return Axed(summed, axes)

    def _product_dtype(self, tensors: list[Axed]) -> torch.dtype:
        """16 bits for what a PyTorch user writes as a matrix product of 16-bit tensors, else float32 (or float64)."""
        narrow = {p.tensor.dtype for p in tensors if p.tensor.dtype in NARROW}
        product = len(tensors) == 2 and set(tensors[0].axes) != set(tensors[1].axes)
        return narrow.pop() if product and len(narrow) == 1 and not self.wide else self.dtype


def evaluator(
    bound: Bound,
    sizes: Mapping[str, int],
    inputs: Tensors,
    parameters: Mapping[str, float] | None = None,
    device: torch.device | None = None,
    wide: bool = False,
    room: int | None = None,
) -> Evaluator:
    """For a spec at these sizes, its parameters at their defaults; `device`: of the inputs unless given."""
    numbers: dict[str, float] = {**(parameters or parameters_default(bound, sizes)), **sizes}
    numbers |= {k: v for k, v in bound.settings if isinstance(v, int)}
    device = device or next(iter(inputs.values())).device
    parts = {t.facts.part: t.name for t, _ in bound.inputs if t.facts.part}
    return Evaluator(inputs, numbers, device, parts, bound.spec.empty_row == "zero", wide, room)


def tensor(evaluate: Evaluator, bound: Bound, name: str, windows: Windows | None = None) -> torch.Tensor:
    """An output, or a saved input, in the evaluator's dtype: all of it, or the cells in the windows of its indices.
    Raises NotInTorch."""
    shape = next(t.shape for t, _ in (*bound.outputs, *bound.inputs) if t.name == name)
    parameters, value = written_out(bound, name)
    for parameter, extent in zip(parameters, shape, strict=True):
        every = torch.arange(evaluate.extent(extent), device=evaluate.device)
        evaluate.span(parameter, (windows or {}).get(parameter, every))
    result = evaluate.real(value)
    return result.over(parameters).expand([evaluate.axes[p].numel() for p in parameters])


def _union(*values: Axed) -> tuple[str, ...]:
    return tuple(dict.fromkeys(a for v in values for a in v.axes))


def _random(seed: torch.Tensor, counter: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(random(int(seed), counter.cpu().numpy())).to(counter.device)


CONSTANTS = {"inf": math.inf, "true": True, "false": False, "log2e": math.log2(math.e), "ln2": math.log(2.0)}
OPERATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "+": torch.add, "-": torch.sub, "*": torch.mul, "//": torch.floor_divide, "%": torch.remainder,
    "<": torch.lt, "<=": torch.le, ">": torch.gt, ">=": torch.ge, "==": torch.eq, "!=": torch.ne,
    "and": torch.logical_and, "or": torch.logical_or,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp": torch.exp, "exp2": torch.exp2, "log": torch.log, "log2": torch.log2, "sqrt": torch.sqrt,
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "abs": torch.abs,
}  # fmt: skip
JOINED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "max": torch.maximum, "min": torch.minimum, "random": _random,
    "cdiv": lambda a, b: -torch.floor_divide(-a, b),
}  # fmt: skip
