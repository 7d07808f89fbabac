"""Which program does which tiles: one axis for all of a grid, axes as loops and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from ir.ast import Assign, Axis, Binary, Expr, For, Kernel, Module, Name, Number, Statement
from synth.propose.emit import Names
from synth.propose.formula import free, substitute
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import in_straight_form, names_of

ONE, ZERO = Number(Fraction(1)), Number(Fraction(0))


# ---- one axis ------------------------------------------------------------------------------------


def linear_grid(subject: Subject) -> Iterator[Module]:
    """All axes of a grid become one, taken apart again with // and %: the last axis is the fastest.

    Applies to grids of two axes and more. It makes the order of programs the kernel's own, whatever a launch does
    with several axes.
    """
    names = names_of(subject)
    for number, kernel in enumerate(subject.module.kernels):
        if len(kernel.grid) > 1:
            program = names.fresh("program")
            total, parts = _taken_apart(kernel, Name(program), names)
            changed = replace(kernel, grid=(Axis(program, total),), body=(*parts, *kernel.body))
            yield subject.with_kernel(number, changed)


def _taken_apart(kernel: Kernel, program: Expr, names: Names) -> tuple[Expr, tuple[Statement, ...]]:
    """The number of programs of a grid, and what each axis is in program number `program`."""
    lines: list[Assign] = []
    rest = program
    below: Expr | None = None
    total: Expr | None = None
    for axis in kernel.grid:
        total = axis.extent if total is None else Binary("*", total, axis.extent)
    for k, axis in enumerate(reversed(kernel.grid)):
        extent = axis.extent
        if not isinstance(extent, (Name, Number)) and k < len(kernel.grid) - 1:
            count = names.fresh("tiles")
            lines.append(Assign(count, extent))
            extent = Name(count)
        rest = program if below is None else Binary("//", program, below)
        lines.append(Assign(axis.name, rest if k == len(kernel.grid) - 1 else Binary("%", rest, extent)))
        below = extent if below is None else Binary("*", below, extent)
    return total or ONE, tuple(lines)


def axis_to_loop(subject: Subject) -> Iterator[Module]:
    """The last axis of a grid becomes a loop: one program does all tiles of it, one after the other.

    Applies to grids of two axes and more. Fewer, longer programs; tiles that read the same keys run back to back.
    """
    for number, kernel in enumerate(subject.module.kernels):
        if len(kernel.grid) > 1:
            *grid, last = kernel.grid
            loop = For(last.name, ZERO, last.extent, ONE, (), kernel.body)
            yield subject.with_kernel(number, replace(kernel, grid=tuple(grid), body=(loop,)))


def loop_to_axis(subject: Subject) -> Iterator[Module]:
    """A loop around all that a kernel does, which carries nothing, becomes an axis of its grid: more programs.

    Applies where everything but definitions stands in that loop, and its range does not rest on them.
    """
    for number, kernel in enumerate(subject.module.kernels):
        *before, last = kernel.body or (None,)
        if isinstance(last, For) and not last.carried and all(isinstance(s, Assign) for s in before):
            defined = {s.name: s.value for s in before if isinstance(s, Assign)}
            extent = substitute(last.stop, defined)
            if last.start == ZERO and last.step == ONE and not free(extent) & {a.name for a in kernel.grid}:
                axis = Axis(last.variable, extent)
                body = (*before, *last.body)
                yield subject.with_kernel(number, replace(kernel, grid=(*kernel.grid, axis), body=body))


REWRITES = (
    Rewrite("linear-grid", in_straight_form(linear_grid)),
    Rewrite("axis-to-loop", in_straight_form(axis_to_loop)),
    Rewrite("loop-to-axis", in_straight_form(loop_to_axis)),
)
