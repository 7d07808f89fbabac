"""Integers of many program instances at once, kept in closed form as long as possible.

A `Lanes` is `base + sum(step[a] * lane[a])`: one base per program (or one for all), one step per tile
axis. Addition, scaling, slicing and broadcasting keep that form, so that a tile of addresses is a
strided view of memory instead of a gather, and `j < N` over a tile is usually decided once, from two
bounds, instead of lane by lane. What leaves the form becomes an int64 tensor with a leading program
axis: slower, never different.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Base = int | torch.Tensor


@dataclass(frozen=True, slots=True)
class Lanes:
    """Integers [P, *shape]. `base` is one int for all programs or an int64 tensor [P]; a step is 0 on an
    axis the value does not vary along."""

    base: Base
    steps: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()

    @property
    def uniform(self) -> int | None:
        """The one integer it is in every lane of every program, if there is one."""
        return self.base if isinstance(self.base, int) and not any(self.steps) else None

    @property
    def scalar(self) -> bool:
        return not any(self.steps)

    def bounds(self) -> tuple[int, int]:
        """The smallest and largest integer in it."""
        low = self.base if isinstance(self.base, int) else int(self.base.min())
        high = self.base if isinstance(self.base, int) else int(self.base.max())
        for step, extent in zip(self.steps, self.shape, strict=True):
            reach = step * (extent - 1)
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high

    def dense(self) -> torch.Tensor:
        """As int64 [P or 1, *shape], extent 1 along the axes it does not vary along."""
        rank = len(self.steps)
        base = torch.tensor([self.base]) if isinstance(self.base, int) else self.base
        result = base.view(-1, *(1,) * rank)
        for axis, (step, extent) in enumerate(zip(self.steps, self.shape, strict=True)):
            if step:
                lane = torch.arange(extent) * step
                result = result + lane.view(*(extent if a == axis else 1 for a in range(rank)))
        return result

    def broadcast(self, shape: tuple[int, ...]) -> Lanes:
        return Lanes(self.base, self.steps if self.shape else (0,) * len(shape), shape)

    def expand(self, axis: int) -> Lanes:
        """With an axis of extent 1 put in at `axis`."""
        steps, shape = self.steps, self.shape
        return Lanes(self.base, (*steps[:axis], 0, *steps[axis:]), (*shape[:axis], 1, *shape[axis:]))

    def transpose(self) -> Lanes:
        return Lanes(self.base, self.steps[::-1], self.shape[::-1])


Integer = Lanes | torch.Tensor  # a tensor is int64 [P or 1, *shape], extents possibly 1 where it does not vary


def arange(count: int) -> Lanes:
    return Lanes(0, (1 if count > 1 else 0,), (count,))


def dense(value: Integer) -> torch.Tensor:
    return value.dense() if isinstance(value, Lanes) else value


def _base(op: str, a: Base, b: Base) -> Base:
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "floordiv":
            return a // b
        case "mod":
            return a % b
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b) if op == "min" else max(a, b)
    x, y = torch.as_tensor(a), torch.as_tensor(b)
    return torch.minimum(x, y) if op == "min" else torch.maximum(x, y)


def arithmetic(op: str, a: Integer, b: Integer) -> Integer:
    """op: add sub mul floordiv mod min max; both of one shape; divisions round towards minus infinity."""
    if isinstance(a, Lanes) and isinstance(b, Lanes):
        if op in ("add", "sub"):
            sign = 1 if op == "add" else -1
            steps = tuple(x + sign * y for x, y in zip(a.steps, b.steps, strict=True))
            return Lanes(_base(op, a.base, b.base), steps, a.shape)
        if a.scalar and b.scalar:
            return Lanes(_base(op, a.base, b.base), a.steps, a.shape)
        if op == "mul" and (a.uniform is not None or b.uniform is not None):
            factor, other = (a.uniform, b) if a.uniform is not None else (b.uniform, a)
            assert factor is not None
            return Lanes(other.base * factor, tuple(s * factor for s in other.steps), a.shape)
    x, y = dense(a), dense(b)
    match op:
        case "floordiv":
            return torch.div(x, y, rounding_mode="floor")
        case "mod":
            return torch.remainder(x, y)
        case "min":
            return torch.minimum(x, y)
        case "max":
            return torch.maximum(x, y)
        case _:
            result = _base(op, x, y)
            return torch.as_tensor(result)


def compare(op: str, a: Integer, b: Integer) -> bool | torch.Tensor:
    """lt le gt ge eq ne; a Python bool where every lane of every program agrees."""
    if isinstance(a, Lanes) and isinstance(b, Lanes):
        difference = arithmetic("sub", a, b)
        if isinstance(difference, Lanes):
            low, high = difference.bounds()
            decided = _decide(op, low, high)
            if decided is not None:
                return decided
            if not isinstance(difference.base, int) or sum(map(bool, difference.steps)) < 2:
                return _TENSOR[op](difference.dense(), 0)
    return _TENSOR[op](dense(a), dense(b))


_TENSOR = {"lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne}


def _decide(op: str, low: int, high: int) -> bool | None:
    """Whether `difference op 0` holds for all, for none, or (None) for some of low..high."""
    match op:
        case "lt":
            return True if high < 0 else False if low >= 0 else None
        case "le":
            return True if high <= 0 else False if low > 0 else None
        case "gt":
            return True if low > 0 else False if high <= 0 else None
        case "ge":
            return True if low >= 0 else False if high < 0 else None
        case "eq":
            return True if low == high == 0 else False if low > 0 or high < 0 else None
        case _:
            return False if low == high == 0 else True if low > 0 or high < 0 else None
