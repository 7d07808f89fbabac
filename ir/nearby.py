"""Sizes at which a program may run: whether these are, and which are next to them.

For whoever runs a program at sizes of his own choosing: counterexamples, cross-checks, benchmarks. No proof rests on
it: sizes that are not found are sizes at which nothing is tried.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import product

from ir import ast
from ir.binding import walk
from ir.evaluate import check_requires
from ir.program import Program
from ir.requirements import formula, narrowed
from ir.spec import Bound, Dim

_TRIES = 1024


def admits(program: Program, bound: Bound, sizes: Mapping[str, int]) -> bool:
    """Whether a program may be run at these sizes: within the limits, and as the spec and the program require."""
    return check_requires(narrowed(bound, program), sizes)


def nearby(bound: Bound, sizes: Mapping[str, int]) -> dict[str, int] | None:
    """Sizes that meet every requirement, the given ones or some not far from them; None where a thousand tries
    find none. A size that is required about is tried at the multiples around it of each number that is mentioned, at
    those numbers, and at the values of the other sizes."""
    if check_requires(bound, sizes):
        return dict(sizes)
    mentioned = {n.id for r in bound.spec.requires for n in walk(r) if isinstance(n, ast.Name)}
    moved = [d for d in bound.dims if d.name in mentioned]
    numbers = {int(n.value) for r in bound.spec.requires for n in walk(r) if isinstance(n, ast.Number) if n.value > 0}
    others = {sizes[d.name] for d in moved}
    choices = [_values(d, sizes[d.name], numbers, others) for d in moved]
    names = [d.name for d in moved]
    for values, _ in zip(product(*choices), range(_TRIES), strict=False):
        tried = {**sizes, **dict(zip(names, values, strict=True))}
        if check_requires(bound, tried):
            return tried
    return None


def multiples(program: Program, bound: Bound, sizes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """The sizes with each one the program requires something of at an odd multiple, mostly, of a number it names: what
    is required to come in half tiles and treated as if it came in whole ones shows there."""
    wanted = [formula(r) for r in program.requires]
    mentioned = {n.id for r in wanted for n in walk(r) if isinstance(n, ast.Name)}
    numbers = sorted({int(n.value) for r in wanted for n in walk(r) if isinstance(n, ast.Number) if n.value > 0})
    moved = [d for d in bound.dims if d.name in mentioned]
    for number, turns in product(numbers, ((1, 1), (3, 1), (1, 3), (2, 3), (3, 2))):
        tried = {d.name: number * turns[k % 2] for k, d in enumerate(moved)}
        if (found := nearby(narrowed(bound, program), {**sizes, **tried})) is not None:
            yield found


def _values(d: Dim, value: int, numbers: Collection[int], others: Collection[int]) -> list[int]:
    """Values of a size to try, the nearest first."""
    around = {n * k for n in numbers for k in (value // n, value // n + 1, 1, 2)}
    around |= {value, d.minimum, *others, *(n + 1 for n in numbers), *(n - 1 for n in numbers)}
    return sorted((v for v in around if d.minimum <= v <= d.maximum), key=lambda v: (abs(v - value), v))
