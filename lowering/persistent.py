"""Persistent programs: fewer, longer-lived programs that take the tiles of a proved kernel in turns.

Asked for by `schedule persistent = true`, and made here after the proof, so that what is proved stays short and its
integers narrow. A kernel runs one program for each point of its grid; call these points its *tiles*. The rewritten
kernel has a grid of one axis, of `programs` programs, a number that the launcher chooses (what the device runs at the
same time, at most one for each tile); its body is the old body in a loop over turns. In turn k a program takes tile
k * programs + place, if there is one, where its place is its own number in even turns and is counted from the other end
in odd ones. What comes out is a kernel of the typed core again, so every emitter takes it as it is.

**Every tile is taken once**, whatever `programs` >= 1 is. In each turn, program -> place is a permutation of 0 ..
programs - 1, so (turn, program) -> tile is one-to-one onto the naturals (division with remainder), and a program's
turns are counted so that they are just those with tile < tiles. Tile -> grid point is the mixed-radix reading of a
number below the product of the extents: one-to-one as well. A test proves this of the expressions built here, with Z3,
for all numbers of tiles and programs.

**Nothing else depends on who runs a tile, or when.** Inside a launch: R1 has proved that no two executions of a store
write one cell, but for atomic additions, whose order was never fixed (the certificate says so), and R2 that no load
hits a cell which a program of the launch writes, its own included (verifier/obligations/races.py): a later turn reads
what an earlier one would have. Names are local to a tile: nothing is carried around the loop. Between kernels: each is
rewritten alone and they run one after the other as before, so scratch holds what it held.

**Width.** Tile numbers, and what they are made of, are below the number of tiles: 32 bits do under the condition that
this is below 2^31 (`conditions`). The grid's ids are what they were, so what B2 proved of the rest holds.

**Order.** The fast way through a grid is the kernel's own: its last axis fastest. But turns are dealt out in advance,
so tiles that take unequally long must be dealt out evenly: axes that the bounds of some loop depend on (a causal
kernel's row tiles) become the slowest. Tiles of one turn are then nearly of one length, and turning round at the end of
each turn evens out what is left, as in a draft: if lengths fall along that order (longest first), what two programs do
differs by the longest tile at most, since the differences of their turns add up to one way down the list.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from functools import reduce
from typing import Any

from ir.program import (
    Axis,
    Binary,
    Carry,
    DType,
    Expr,
    For,
    Kernel,
    Let,
    Literal,
    Program,
    Select,
    Size,
    Statement,
    Type,
    Var,
)
from ir.spec import Bound, Dim
from lowering.plan import expression, walk
from lowering.versions import Condition

MOST = 2**31  # tiles: their numbers fit 32 bits
INT = Type(DType.INT)


def asks(kernel: Kernel) -> bool:
    """Whether a kernel is to be run by persistent programs; one without a grid is one program anyway."""
    return kernel.schedule.persistent and bool(kernel.grid)


def programs_size(program: Program, bound: Bound) -> str:
    """The name of the size that says how many programs: no name of the spec or of the program's kernels."""
    taken = {d.name for d in bound.spec.dims} | {p.name for p in bound.spec.parameters}
    taken |= {t.name for t in program.tensors} | {k.name for k in program.kernels}
    return _fresh("programs", taken.union(*(_names(k) for k in program.kernels)))


def in_turns(program: Program, size: str) -> Program:
    """The program (with boxes or without) with every kernel that asks for it taken in turns, by `size` programs."""
    return replace(program, kernels=tuple(_kernel(k, size) if asks(k) else k for k in program.kernels))


def chosen_at_launch(bound: Bound, size: str) -> Bound:
    """The spec of the rewritten program: with the number of programs as a size."""
    return replace(bound, dims=(*bound.dims, Dim(size, 1, MOST - 1)))


def launches(program: Program, size: str, written: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The launches of the rewritten program, each persistent one with the grid it stands for, its "tiles", and the size
    "programs" that a launcher is to choose. `program`: as it was before."""
    return [
        {**launch, "persistent": {"programs": size, "tiles": [expression(axis.extent) for axis in kernel.grid]}}
        if asks(kernel)
        else launch
        for kernel, launch in zip(program.kernels, written, strict=True)
    ]


def conditions(program: Program) -> list[Condition]:
    """On sizes: no tile of a kernel that asks has a number that does not fit 32 bits. `program`: as it was before."""
    totals = (expression(_product([axis.extent for axis in k.grid])) for k in program.kernels if asks(k))
    return [["size", ["lt", total, MOST]] for total in totals]


# ---- a kernel --------------------------------------------------------------------------------


def _kernel(kernel: Kernel, size: str) -> Kernel:
    taken = _names(kernel) | {size}

    def name(wanted: str) -> str:
        taken.add(found := _fresh(wanted, taken))
        return found

    def given(wanted: str, value: Expr) -> tuple[Let, Var]:
        found = name(wanted)
        return Let(found, value), Var(found, INT)

    programs, program, turn = Size(size, INT), Var(name("program"), INT), Var(name("turn"), INT)
    axes = by_turns(kernel)
    counts = [given(f"{axis.name}_count", axis.extent) for axis in axes]
    tiles_let, tiles = given("tiles", _product([count for _, count in counts]))
    # Never below 0; the maximum says so to `lowering.intervals`, which then spells plain divisions.
    other_let, other = given("other_end", _op("max", _number(0), _op("sub", _less(programs), program)))
    turns_let, turns = given("turns", _turns(tiles, programs, program, other))
    tile_let, tile = given("tile", _tile(turn, programs, program, other))
    ids: list[Statement] = []
    rest: Expr = tile
    for axis, (_, count) in zip(reversed(axes[1:]), reversed(counts[1:]), strict=True):
        ids.append(Let(axis.name, _op("mod", rest, count)))
        rest_let, rest = given("rest", _op("floordiv", rest, count))
        ids.append(rest_let)
    ids.append(Let(axes[0].name, rest))
    loop = For(turn.name, _number(0), turns, (), (tile_let, *ids, *kernel.body))
    body: tuple[Statement, ...] = (*(let for let, _ in counts), tiles_let, other_let, turns_let, loop)
    return replace(kernel, grid=(Axis(program.name, programs),), body=body)


def by_turns(kernel: Kernel) -> tuple[Axis, ...]:
    """The axes of the grid, slowest first: those that the bounds of a loop depend on, then the others."""
    meant: dict[str, list[object]] = {}
    bounds: list[object] = []
    for n in walk(kernel.body):
        match n:
            case Let(name=name, value=value):
                meant.setdefault(name, []).append(value)
            case Carry(name=name, init=init, next=following):
                meant.setdefault(name, []).extend((init, following))
            case For(counter=counter, start=start, stop=stop):
                meant.setdefault(counter, []).extend((start, stop))
                bounds += (start, stop)
    reached: set[str] = set()
    while bounds:
        found = {n.name for n in walk(bounds.pop()) if isinstance(n, Var)} - reached
        reached |= found
        bounds += (e for name in found for e in meant.get(name, ()))
    uneven = [axis for axis in kernel.grid if axis.name in reached]
    return (*uneven, *(axis for axis in kernel.grid if axis not in uneven))


def _turns(tiles: Expr, programs: Expr, program: Expr, other: Expr) -> Expr:
    """In how many turns a program has a tile: all before number tiles // programs, and that one if there is one."""
    place = _place(_op("floordiv", tiles, programs), program, other)
    return _op("add", _op("floordiv", _op("sub", _less(tiles), place), programs), _number(1))


def _tile(turn: Expr, programs: Expr, program: Expr, other: Expr) -> Expr:
    return _op("add", _op("mul", turn, programs), _place(turn, program, other))


def _place(turn: Expr, program: Expr, other: Expr) -> Expr:
    even = Binary("eq", _op("mod", turn, _number(2)), _number(0), Type(DType.BOOL))
    return Select(even, program, other, INT)


# ---- expressions and names -------------------------------------------------------------------


def _number(value: int) -> Expr:
    return Literal(Fraction(value), INT)


def _op(op: str, left: Expr, right: Expr) -> Expr:
    return Binary(op, left, right, INT)


def _less(e: Expr) -> Expr:
    return _op("sub", e, _number(1))


def _product(factors: list[Expr]) -> Expr:
    return reduce(lambda a, b: _op("mul", a, b), factors)


def _names(kernel: Kernel) -> set[str]:
    nodes = list(walk(kernel.body))
    found = {n.name for n in nodes if isinstance(n, Var | Let | Carry)} | {axis.name for axis in kernel.grid}
    return found | {n.counter for n in nodes if isinstance(n, For)}


def _fresh(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name
