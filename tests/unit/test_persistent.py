"""Persistent programs: every tile is taken once, by whatever number of programs, and nothing else changes."""

from __future__ import annotations

import math
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import z3
from lowering_cases import EVERY_OPERATION, attention, certificate_for, documented, typed

from ir.arithmetic import integer_binary
from ir.diagnostics import TypeProblem
from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.parser import parse
from ir.printer import print_module
from ir.program import Binary, Expr, For, Kernel, Let, Literal, Program, Select, Size, Var
from ir.spec import Bound
from lowering.choose import holds
from lowering.crosscheck import AT_ONCE, Emitted, Run, run_interpreted
from lowering.hopper.protocol import verify
from lowering.hopper.simulate import adversaries, simulate
from lowering.hopper.verdict import Verified
from lowering.hopper.version import asynchronous
from lowering.launch import prepared
from lowering.lower import versions_of
from lowering.persistent import INT, by_turns, chosen_at_launch, in_turns
from lowering.plan import plan, walk
from lowering.versions import Version
from synth.propose.choices import Choices
from synth.propose.embedded import written

COPY = """kernel k(b < B, h < H, t < cdiv(M, 16)):
    schedule persistent = true
    i = t * 16 + arange(16)
    e = arange(D)
    x = load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=0)
    store(O[b, h, i[:, None], e[None, :]], x, mask=i[:, None] < M)
    store(LSE[b, h, i], zeros([16], f32), mask=i < M)
"""


# ---- the map from turns to tiles, for all numbers of tiles and programs ----------------------


class Ints:
    """Integer expressions of the core as Z3 terms; a quotient is an integer of its own, `facts` say which."""

    def __init__(self, mark: str, **known: Any) -> None:
        self.mark = mark
        self.names: dict[str, Any] = dict(known)
        self.facts: list[Any] = []

    def of(self, e: Expr) -> Any:
        match e:
            case Literal(value=value):
                return z3.IntVal(int(value))
            case Var(name=name) | Size(name=name):
                return self.names.setdefault(name, z3.Int(name + self.mark))
            case Select(condition=c, then=a, otherwise=b):
                return z3.If(self.of(c), self.of(a), self.of(b))
            case Binary(op="floordiv" | "mod", left=left, right=right):
                x, y = self.of(left), self.of(right)
                q, r = (z3.Int(f"{part}{len(self.facts)}{self.mark}") for part in ("quotient", "rest"))
                self.facts += [x == q * y + r, 0 <= r, r < y]
                return r if e.op == "mod" else q
            case Binary(op="max", left=left, right=right):
                x, y = self.of(left), self.of(right)
                return z3.If(x >= y, x, y)
            case Binary(op=op, left=left, right=right):
                return OPERATORS[op](self.of(left), self.of(right))
        raise AssertionError(f"not an integer expression of a persistent kernel: {e}")


OPERATORS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "eq": operator.eq}


def in_the_loop(kernel: Kernel) -> tuple[For, dict[str, Expr]]:
    """The loop over turns, and the names around and in it that `lowering.persistent` gives, by their own names."""
    loop = kernel.body[-1]
    assert isinstance(loop, For)
    return loop, {s.name: s.value for s in (*kernel.body, *loop.body) if isinstance(s, Let)}


class Turn:
    """One turn of one program: the tile it takes, and how many turns there are."""

    def __init__(self, kernel: Kernel, mark: str, **known: Any) -> None:
        loop, values = in_the_loop(kernel)
        ints = Ints(mark, **known)
        self.number, self.program = ints.of(Var("turn", loop.start.type)), ints.of(Var("program", loop.start.type))
        for name in ("other_end", "turns", "tile"):
            ints.names[name] = ints.of(values[name])
        self.tile, self.turns = ints.names["tile"], ints.names["turns"]
        self.facts = [*ints.facts, 0 <= self.program, self.program < known["programs"], 0 <= self.number]


def unproved(kernel: Kernel, patience: int = 20_000) -> list[str]:
    """Of what makes (turn, program) -> ids one-to-one onto the grid, what Z3 does not prove; milliseconds for each."""
    tiles, programs, wanted = z3.Ints("tiles programs wanted")
    known = {"tiles": tiles, "programs": programs}
    ranges = [tiles >= 0, programs >= 1]
    one, two = Turn(kernel, "", **known), Turn(kernel, "'", **known)
    turn, place = z3.Ints("turn_of place_of")
    divided = [0 <= wanted, wanted == turn * programs + place, 0 <= place, place < programs, turn >= 0]
    program = z3.If(turn % 2 == 0, place, programs - 1 - place)
    taker = Turn(kernel, "*", **known, turn=turn, program=program)
    goals = {
        "a turn takes a tile that there is": (
            [*one.facts, one.number < one.turns], z3.And(0 <= one.tile, one.tile < tiles)),
        "a tile that there is has its turn": (
            [*one.facts, 0 <= one.tile, one.tile < tiles], one.number < one.turns),
        "two turns take two tiles": (
            [*one.facts, *two.facts, one.tile == two.tile],
            z3.And(one.number == two.number, one.program == two.program)),
        "somebody takes every number": (
            [*divided, *taker.facts[:-3]], z3.And(0 <= program, program < programs, taker.tile == wanted)),
    }  # fmt: skip
    wrong = [name for name, (facts, goal) in goals.items() if not proved([*ranges, *facts], goal, patience)]
    return wrong + reading(kernel)


def reading(kernel: Kernel) -> list[str]:
    """Of reading ids off a tile's number, fastest axis first, what Z3 does not prove: that each step takes an id inside
    its extent, keeps the rest, and leaves a number below the product of the extents that are left."""
    loop, values = in_the_loop(kernel)
    axes = [name.removesuffix("_count") for name in values if name.endswith("_count")]
    left = {axis: z3.Int(f"{axis}_count") for axis in axes}
    total = Ints("", **{f"{axis}_count": extent for axis, extent in left.items()}).of(values["tiles"])
    wrong = [] if proved([], total == math.prod(left.values()), 1000) else ["the product of the extents"]
    before, extent, more = z3.Ints("before extent more")
    rest = "tile"
    for axis in reversed(axes[1:]):
        ints = Ints("", **{rest: before, f"{axis}_count": extent})
        own = ints.of(values[axis])
        rest = next(name for name, e in values.items() if name.startswith("rest") and Var(rest, INT) in walk(e))
        after = ints.of(values[rest])
        goal = z3.And(0 <= own, own < extent, before == after * extent + own, 0 <= after, after < more)
        facts = [*ints.facts, extent >= 1, 0 <= before, before < more * extent]
        wrong += [] if proved(facts, goal, 2000) else [f"the id of {axis}"]
    return [*wrong, *([] if values[axes[0]] == Var(rest, INT) else [f"the id of {axes[0]}"])]


def proved(facts: list[Any], goal: Any, patience: int) -> bool:
    solver = z3.Solver()
    solver.set("timeout", patience)
    solver.add(*facts, z3.Not(goal))
    return bool(solver.check() == z3.unsat)


@pytest.fixture(scope="module")
def bound() -> Bound:
    return attention("none")


@pytest.fixture(scope="module")
def turned(bound: Bound) -> Kernel:
    return in_turns(typed(COPY, bound), "programs").kernels[0]


def test_for_all_numbers_of_tiles_and_programs_every_tile_is_taken_once(turned: Kernel) -> None:
    assert unproved(turned) == []


def plus(e: Expr, n: int) -> Expr:
    return Binary("add", e, Literal(Fraction(n), INT), INT)


def by(e: Expr, name: str) -> Expr:
    assert isinstance(e, Binary)
    return replace(e, right=Var(name, INT))


def strided(e: Expr, more: int) -> Expr:
    assert isinstance(e, Binary) and isinstance(e.left, Binary)
    return replace(e, left=replace(e.left, right=plus(e.left.right, more)))


def of_the_last_place(e: Expr) -> Expr:
    """The turns of a program as if its place were its number in every turn."""
    match e:
        case Select(then=then):
            return then
        case Binary(left=left, right=right):
            return replace(e, left=of_the_last_place(left), right=of_the_last_place(right))
    return e


WRONG: dict[str, tuple[str, Callable[[Expr], Expr]]] = {
    "a stride too long: tiles are skipped": ("tile", lambda e: strided(e, 1)),
    "a stride too short: tiles are taken twice": ("tile", lambda e: strided(e, -1)),
    "one turn too few": ("turns", lambda e: plus(e, -1)),
    "one turn too many": ("turns", lambda e: plus(e, 1)),
    "turns as if nobody turned round": ("turns", of_the_last_place),
    "counted from beyond the end": ("other_end", lambda e: plus(e, 1)),
    "the id of another axis": ("t", lambda e: by(e, "h_count")),
    "the rest by another axis": ("rest", lambda e: by(e, "h_count")),
}


def mutated(kernel: Kernel, name: str, change: Callable[[Expr], Expr]) -> Kernel:
    def block(statements: tuple[Any, ...]) -> tuple[Any, ...]:
        out = [replace(s, body=block(s.body)) if isinstance(s, For) else s for s in statements]
        return tuple(replace(s, value=change(s.value)) if isinstance(s, Let) and s.name == name else s for s in out)

    return replace(kernel, body=block(kernel.body))


def ran(program: Program, bound: Bound, sizes: Mapping[str, int], **more: int) -> tuple[bool, dict[str, Any]]:
    parameters = {"scale": 0.125}
    inputs = generate("normal", 0, bound, sizes, parameters)
    spec = chosen_at_launch(bound, "programs") if more else bound
    found = interpret(program, spec, {**sizes, **more}, parameters, inputs, Mode.MACHINE)
    return bool(found.faults), {t.name: found.tensors[t.name] for t in program.tensors if t.role == "output"}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_map_is_caught_twice(what: str, bound: Bound, turned: Kernel) -> None:
    """By the proof for all numbers, and by running it: 36 tiles among 5 programs."""
    wrong = mutated(turned, *WRONG[what])
    assert wrong != turned and unproved(wrong, patience=300)
    program, sizes = typed(COPY, bound), {"B": 3, "H": 3, "G": 1, "M": 60, "N": 3}
    faulty, got = ran(replace(program, kernels=(wrong,)), bound, sizes, programs=5)
    _, wanted = ran(program, bound, sizes)
    assert faulty or not all(np.array_equal(got[name], wanted[name]) for name in wanted)


# ---- what it means ---------------------------------------------------------------------------


@pytest.mark.parametrize("programs", [1, 3, 50])
def test_values_and_scratch_stay_whatever_the_number_of_programs(programs: int, bound: Bound) -> None:
    """Two kernels, one reading what the other stored; 50 are more programs than tiles."""
    text = EVERY_OPERATION.replace("num_stages = 1", "num_stages = 1, persistent = true")
    program, sizes = typed(text, bound), {"B": 1, "H": 2, "G": 1, "M": 35, "N": 3}
    turned = in_turns(program, "programs")
    assert [len(k.grid) for k in turned.kernels] == [1, *(len(k.grid) for k in program.kernels[1:])]
    faulty, got = ran(turned, bound, sizes, programs=programs)
    _, wanted = ran(program, bound, sizes)
    assert not faulty and all(np.array_equal(got[name], wanted[name], equal_nan=True) for name in wanted)


def test_of_no_tiles_every_program_takes_none(turned: Kernel) -> None:
    _, values = in_the_loop(turned)
    for programs in (1, 5):
        for program in range(programs):
            known = {"programs": programs, "program": program, "tiles": 0}
            known["other_end"] = value(values["other_end"], known)
            assert value(values["turns"], known) == 0


def value(e: Expr, names: Mapping[str, int]) -> int:
    match e:
        case Literal(value=number):
            return int(number)
        case Var(name=name) | Size(name=name):
            return names[name]
        case Select(condition=c, then=then, otherwise=otherwise):
            return value(then if value(c, names) else otherwise, names)
        case Binary(op="eq", left=left, right=right):
            return value(left, names) == value(right, names)
        case Binary(op=op, left=left, right=right):
            return int(integer_binary(op, value(left, names), value(right, names)))
    raise AssertionError(e)


# ---- in which order --------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "most"), [(512, 1.035), (2048, 1.035), (16384, 1.005)])
def test_tiles_that_take_unequally_long_are_dealt_out_evenly(length: int, most: float) -> None:
    """Causal, head dim 128, 16k tokens in 16 heads, 132 programs: blocks of keys that the slowest program visits, over
    the average. The 3 % are tiles that do not divide by programs."""
    bound = attention()
    text = written(bound, Choices(rows=128, keys=128, split=True, persistent=True))
    (kernel,) = typed(text, bound).kernels
    assert [axis.name for axis in kernel.grid] == ["b", "h", "late"]
    assert [axis.name for axis in by_turns(kernel)] == ["late", "b", "h"]
    _, values = in_the_loop(in_turns(typed(text, bound), "programs").kernels[0])
    rows, heads, programs = length // 128, 16384 // length * 16, 132
    blocks: dict[int, int] = defaultdict(int)
    for program in range(programs):
        known = {"programs": programs, "program": program, "tiles": rows * heads}
        for name in ("other_end", "turns"):
            known[name] = value(values[name], known)
        for turn in range(known["turns"]):
            tile = value(values["tile"], {**known, "turn": turn})
            blocks[program] += rows - tile // heads
    assert sum(blocks.values()) == heads * rows * (rows + 1) // 2
    assert max(blocks.values()) * programs / sum(blocks.values()) <= most


def test_tiles_that_all_take_as_long_keep_their_order(bound: Bound) -> None:
    kernel = typed(written(bound, Choices(persistent=True)), bound).kernels[0]
    assert by_turns(kernel) == kernel.grid


# ---- how it is asked for, and what comes of it -----------------------------------------------


def test_it_is_a_property_of_the_schedule(bound: Bound) -> None:
    module = parse(COPY)
    assert parse(print_module(module)) == module and "persistent = true" in print_module(module)
    assert typed(COPY, bound).kernels[0].schedule.persistent
    with pytest.raises(TypeProblem, match="`persistent` is true or false"):
        typed(COPY.replace("true", "2"), bound)


@pytest.fixture(scope="module")
def attending() -> tuple[Bound, Program, tuple[Version, ...]]:
    """The kernel of docs/language.md, small, with all of its versions."""
    bound = attention()
    text = documented().replace("BM = 128", "BM = 64").replace("num_stages = 3", "warp_specialize = true")
    text = text.replace("num_warps = 8", "num_warps = 8, persistent = true")
    program = typed(text, bound)
    return bound, program, versions_of(certificate_for(text, bound, bits=32), program, bound)


def test_it_is_one_more_version_before_each(attending: tuple[Bound, Program, tuple[Version, ...]]) -> None:
    *_, versions = attending
    names = ["hopper", "descriptors", "pointers"]
    assert [v.name for v in versions] == [n for name in names for n in (f"{name} persistent", name)]
    first, last = versions[0], versions[-1]
    tiles = ["mul", ["mul", "B", "H"], ["floordiv", ["add", "M", 63], 64]]
    assert first.when[0] == ["size", ["lt", tiles, 2**31]] and last.when == []
    assert holds(first.when[0], "", {}, {"B": 2**15, "H": 2**10, "M": 63 * 64})
    assert not holds(first.when[0], "", {}, {"B": 2**15, "H": 2**10, "M": 64 * 64})
    assert first.launches[0]["grid"] == ["programs"] and "persistent" not in last.launches[0]


@pytest.mark.parametrize(
    ("sizes", "at_once", "turns", "programs"),
    [((2, 3, 100), 132, 1, 12), ((2, 3, 1000), 5, 1, 5), ((2, 3, 100), 132, 5, 3), ((1, 1, 7), 132, 3, 1)],
)
def test_a_launch_starts_what_runs_at_once_and_no_more_than_there_are_tiles(
    sizes: tuple[int, int, int], at_once: int, turns: int, programs: int,
    attending: tuple[Bound, Program, tuple[Version, ...]],
) -> None:  # fmt: skip
    """And where versions are compared, so few that each takes several turns."""
    launch = {**attending[2][-2].launches[0], "args": [["size", "M"], ["size", "programs"]]}
    calls: list[Any] = []
    module: Any = SimpleNamespace(attention=Started(calls))
    prepared(module, [launch], {}, dict(zip("BHM", sizes, strict=True)), {}, [at_once], turns)()
    assert calls == [((programs,), sizes[2], programs)]
    prepared(module, [launch], {}, {"B": 2, "H": 3, "M": 0}, {}, [at_once])()
    assert len(calls) == 1  # no tile, no program


class Started(list[Any]):
    """In place of a kernel: keeps the grid and arguments it is started with."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __getitem__(self, grid: Any) -> Any:
        return lambda *args, **_: self.calls.append((grid, *args))


def test_the_protocol_holds_over_turns_and_a_second_query_tile_arrives_meanwhile(
    attending: tuple[Bound, Program, tuple[Version, ...]],
) -> None:
    bound, program, _ = attending
    kernel = asynchronous(program, "programs")["attention"]
    assert isinstance(verify(kernel), Verified)
    assert kernel.ring("Q").stages == 2 and asynchronous(program)["attention"].ring("Q").stages == 1
    sizes, turned = {"B": 1, "H": 2, "G": 1, "M": 140, "N": 130, "programs": 2}, in_turns(program, "programs")
    inputs = generate("normal", 0, bound, sizes, {"scale": 0.125})
    _, wanted = ran(program, bound, {name: n for name, n in sizes.items() if name != "programs"})
    for adversary in adversaries(2):
        spec = chosen_at_launch(bound, "programs")
        got = simulate({"attention": kernel}, turned, spec, sizes, {"scale": 0.125}, inputs, adversary)
        assert not got.faults
        assert all(np.array_equal(got.tensors[name], wanted[name], equal_nan=True) for name in wanted)


def test_every_emitted_text_takes_all_tiles(attending: tuple[Bound, Program, tuple[Version, ...]]) -> None:
    """Gluon under the emulator and Triton under its interpreter, six tiles by three programs, then by one; and a text
    whose stride is wrong."""
    bound, program, versions = attending
    assert AT_ONCE[:2] == (3, 1)
    parameters, sizes = {"scale": 0.125}, {"B": 1, "H": 2, "G": 1, "M": 140, "N": 70}
    run = Run(sizes, parameters, generate("normal", 0, bound, sizes, parameters))
    _, wanted = ran(program, bound, sizes)
    right = [v for v in versions if v.name in ("hopper persistent", "pointers persistent")]
    wrong = replace(right[1], source=right[1].source.replace("turn * programs", "turn * (programs + 1)"))
    assert wrong != right[1]
    modules = [Emitted(v.source, v.launches, [run, run] if v is right[1] else [run]) for v in (*right, wrong)]
    *found, (skipped,) = run_interpreted(plan(program, bound), modules)
    for outputs in (got for runs in found for got in runs):
        for name in wanted:
            assert np.allclose(outputs[name], wanted[name], rtol=2**-6, atol=2**-6, equal_nan=True)
    assert np.isnan(skipped["O"]).any()
