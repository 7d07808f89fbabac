"""Persistent programs: a fixed number of them, each taking every so manyeth tile of what was the grid."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from ir.ast import Assign, Axis, Binary, Call, Expr, For, Kernel, Meta, Module, Name, Number, Statement
from synth.propose.emit import Names

PROGRAMS = 132  # multiprocessors of the reference GPU: one program each
ONE, ZERO = Number(Fraction(1)), Number(Fraction(0))


def taking_turns(module: Module, number: int, names: Names) -> Module:
    """The file with the programs of one kernel's grid taken in turn, in the order in which they were launched."""
    kernel = module.kernels[number]
    count, program, turn, tile = (names.fresh(n) for n in ("PROGRAMS", "program", "turn", "tile"))
    total, parts = taken_apart(kernel, Name(tile), names)
    at = Assign(tile, Binary("+", Binary("*", Name(turn), Name(count)), Name(program)))
    turns = Call("max", (ZERO, Call("cdiv", (Binary("-", total, Name(program)), Name(count)))))
    loop = For(turn, ZERO, turns, ONE, (), (at, *parts, *kernel.body))
    changed = replace(kernel, grid=(Axis(program, Name(count)),), body=(loop,))
    kernels = (*module.kernels[:number], changed, *module.kernels[number + 1 :])
    return replace(module, kernels=kernels, metas=(*module.metas, Meta(count, Number(Fraction(PROGRAMS)))))


def taken_apart(kernel: Kernel, program: Expr, names: Names) -> tuple[Expr, tuple[Statement, ...]]:
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
