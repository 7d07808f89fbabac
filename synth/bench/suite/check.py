"""Whether what a contender computed is right: against the formula in float64, cell by cell.

The rule is the field's usual one, which binds peers alike: the largest error may be twice that of
standard PyTorch (the same formula, matrix products in the inputs' dtype), plus one rounding of the largest value to
the dtype it is given in. A NaN anywhere fails, so that a cell nobody wrote shows once outputs are filled with NaN.

All cells are compared where the formula's own work allows it, else a sample: for every index its first and last
values and random ones between, so that tails and edges are always among them. The result says how many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ir.ast import Big
from ir.spec import Bound
from lowering.values import TORCH
from synth.bench.formula import Evaluator, evaluator, tensor
from synth.bench.suite.inputs import ROOM
from synth.propose.formula import free, walk, written_out

FACTOR = 2.0
PAIRS = {"cuda": 2**37, "cpu": 2**21}  # summed terms worked out for one output: about a second on either device


class NoReference(Exception):
    """The formula has no finite value here: nothing can be said of a contender."""


@dataclass(frozen=True, slots=True)
class Expected:
    """One output: cells `at` (a tensor of values for each dimension), their float64 values, and the error allowed to
    values of `dtype`, the spec's; `largest`: of the finite ones."""

    at: tuple[torch.Tensor, ...]
    cells: torch.Tensor
    of: int
    standard: float
    allowed: float
    dtype: torch.dtype
    largest: float

    def allows(self, dtype: torch.dtype) -> float:
        """The error allowed to values given in a dtype: of PyTorch's operations some round to a coarser one than the
        spec asks for (a loss in bf16), and that is no fault of theirs."""
        return self.allowed + max(0.0, _rounding(dtype, self.largest) - _rounding(self.dtype, self.largest))


@dataclass(frozen=True, slots=True)
class Judged:
    """`error`: the largest, infinite where a number is missing; `reason` is empty when all is well."""

    error: dict[str, float]
    reason: str


def expected(
    bound: Bound, sizes: Mapping[str, int], inputs: Mapping[str, torch.Tensor], seed: int
) -> dict[str, Expected]:
    """By output. Raises NoReference, and formula.NotInTorch for a formula nobody here can evaluate."""
    wide = evaluator(bound, sizes, inputs, wide=True, room=ROOM)
    narrow = evaluator(bound, sizes, inputs, room=ROOM)
    found = {}
    for spec, dtype in bound.outputs:
        windows = _windows(bound, spec.name, wide, seed)
        cells = tensor(wide, bound, spec.name, windows)
        if bool(cells.isnan().any()):
            raise NoReference(f"the formula has no value in some cells of {spec.name} at this shape")
        like = TORCH[dtype]
        error = difference(tensor(narrow, bound, spec.name, windows).to(like).double(), cells)
        sizes_ = [wide.extent(e) for e in spec.shape]
        finite = cells[cells.isfinite()].abs()
        largest = float(finite.max()) if finite.numel() else 0.0
        at = tuple(windows.values())
        error = error if math.isfinite(error) else 0.0
        allowed = FACTOR * error + _rounding(like, largest)
        found[spec.name] = Expected(at, cells, math.prod(sizes_), error, allowed, like, largest)
        wide.known.clear()
        narrow.known.clear()
    return found


def _rounding(dtype: torch.dtype, value: float) -> float:
    """What rounding to a dtype moves a value at most."""
    return torch.finfo(dtype).eps / 2 * value if dtype.is_floating_point else 0.0


def difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest absolute difference; equal infinities differ by nothing, a NaN by infinitely much."""
    if wanted.numel() == 0:
        return 0.0
    apart = torch.where(got == wanted, 0.0, (got - wanted).abs())
    return float(torch.where(apart.isnan(), torch.inf, apart).max())


def judge(wanted: Mapping[str, Expected], outputs: Mapping[str, torch.Tensor]) -> Judged:
    """What a contender's outputs are worth; it may give only some of the spec's."""
    errors: dict[str, float] = {}
    for name, got in outputs.items():
        right = wanted[name]
        if got.numel() != right.of:
            return Judged({**errors, name: math.inf}, f"{name} has {got.numel()} cells, not {right.of}")
        if missing := int(got.isnan().sum()):
            return Judged({**errors, name: math.inf}, f"{name} holds NaN, or was never written, in {missing} cells")
        for axis, values in enumerate(right.at):
            if values.numel() != got.shape[axis]:
                got = got.index_select(axis, values)
        errors[name] = difference(got.double(), right.cells)
        if not errors[name] <= (allowed := right.allows(got.dtype)):
            return Judged(errors, f"{name} is off by {errors[name]:.3g}; {allowed:.3g} is allowed")
    return Judged(errors, "" if outputs else "it computes none of the outputs")


def outside(bounds: Mapping[str, float], errors: Mapping[str, float]) -> str:
    """Which error a certificate's rounding bound has no room for, in words; "" when there is none. The bound is proved
    of the machine model, so hardware that the model does not describe, or a compiler, is at fault."""
    for name, bound in bounds.items():
        if errors.get(name, 0.0) > bound:
            return f"{name} is off by {errors[name]:.3g}; its certificate proves {bound:.3g} under the machine model"
    return ""


def _windows(bound: Bound, name: str, evaluate: Evaluator, seed: int) -> dict[str, torch.Tensor]:
    """Which values of every index are compared: all, or as few of the leading ones as the work allows."""
    spec = next(t for t, _ in bound.outputs if t.name == name)
    parameters, value = written_out(bound, name)
    generator = torch.Generator().manual_seed(seed)
    windows: dict[str, torch.Tensor] = {}
    for parameter, extent in zip(parameters, spec.shape, strict=True):
        windows[parameter] = torch.arange(evaluate.extent(extent), device=evaluate.device)
        evaluate.span(parameter, windows[parameter])
    bounds = [e.bound for e in walk(value) if isinstance(e, Big)]
    known = evaluate.axes.keys() | evaluate.numbers.keys()
    longest = max([evaluate.extent(e) for e in bounds if free(e) <= known], default=1)
    budget = PAIRS.get(evaluate.device.type, PAIRS["cpu"])
    for parameter in parameters:
        work = longest * math.prod(w.numel() for w in windows.values())
        if work > budget:
            values = windows[parameter].numel()
            keep = max(min(values, 2 if values <= 256 else 64), values * budget // work)
            windows[parameter] = _some(values, keep, generator).to(evaluate.device)
    return windows


def _some(extent: int, keep: int, generator: torch.Generator) -> torch.Tensor:
    """`keep` of the values 0..extent-1 in order: the ends and random ones between."""
    if keep >= extent:
        return torch.arange(extent)
    ends = max(1, keep // 4)
    middle = torch.randperm(extent - 2 * ends, generator=generator)[: max(0, keep - 2 * ends)] + ends
    return torch.cat([torch.arange(ends), middle.sort().values, torch.arange(extent - ends, extent)])
