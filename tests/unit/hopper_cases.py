"""Asynchronous programs written by hand, for the tests of the protocol: attention's shape, without its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import count

from ir.program import Axis, Binary, Carry, Constant, DType, Expr, Let, Literal, Schedule, Size, Store, Type, Var
from lowering.hopper.async_program import (
    AsyncKernel,
    Copy,
    If,
    IssueDot,
    Loop,
    Release,
    Ring,
    Statement,
    Tile,
    WaitDots,
    WaitEmpty,
    WaitFull,
    Write,
)

Body = tuple[Statement, ...]

INT = Type(DType.INT)
TILE = Type(DType.F32, (64, 64))
HALF = Type(DType.BF16, (64, 64))


def number(n: int) -> Expr:
    return Literal(Fraction(n), INT)


def plus(a: Expr, n: int) -> Expr:
    return Binary("add", a, number(n), INT)


def least(a: Expr, b: Expr) -> Expr:
    return Binary("min", a, b, INT)


T = Size("N", INT)  # how many tiles there are
ZEROS = Constant("inf", TILE)  # any tile expression will do: nothing is computed here


def ring(name: str, stages: int) -> Ring:
    return Ring(name, name, (1, 1, 64, 64), (64, 64), DType.BF16, stages)


def fill(name: str, at: Expr) -> Body:
    return (WaitEmpty(name), Copy(name, (number(0), number(0), at, number(0))))


def dot(name: str, left: Tile | Expr, right: str, acc: Expr | None = None, age: int = 0) -> IssueDot:
    return IssueDot(name, left, Tile(right, age), acc, TILE)


def let(name: str, value: Expr) -> Let:
    return Let(name, value)


def var(name: str, type_: Type = TILE) -> Var:
    return Var(name, type_)


def kernel(producer: Body, consumer: Body, k_stages: int = 2, v_stages: int = 2) -> AsyncKernel:
    rings = (ring("Q", 1), ring("K", k_stages), ring("V", v_stages))
    return AsyncKernel("toy", (Axis("t", T),), Schedule(), rings, producer, consumer)


def loop(counter: str, body: Body, start: Expr | None = None, stop: Expr = T, carried: str = "") -> Loop:
    carries = (Carry(carried, ZEROS, var(f"{carried}_next"), TILE),) if carried else ()
    return Loop(counter, number(0) if start is None else start, stop, carries, body)


def plain(k_stages: int = 2, v_stages: int = 2) -> AsyncKernel:
    """Each tile is waited for, used in a dot, and released when the dot is retired."""
    producer = (*fill("Q", number(0)), loop("n", (*fill("K", var("n", INT)), *fill("V", var("n", INT)))))
    body: Body = (
        WaitFull("K"),
        dot("s", Tile("Q"), "K"),
        WaitDots(0),
        Release("K"),
        let("p", Binary("add", var("s"), var("acc"), TILE)),
        let("p16", Constant("inf", HALF)),
        WaitFull("V"),
        dot("acc_next", var("p16", HALF), "V", var("acc")),
        WaitDots(0),
        Release("V"),
    )
    consumer = (WaitFull("Q"), loop("m", body, carried="acc"), Release("Q"), STORE)
    return kernel(producer, consumer, k_stages, v_stages)


STORE = Store("O", (number(0),), var("acc"), None)


def pipelined(k_stages: int = 2, v_stages: int = 2) -> AsyncKernel:
    """The next tile's scores run while the last tile's values are added: a peeled first iteration and a peeled end."""
    n = var("n", INT)
    producer = (*fill("Q", number(0)), loop("n", (*fill("K", n), *fill("V", n))))
    first: Body = (
        WaitFull("K"),
        dot("s_0", Tile("Q"), "K"),
        WaitDots(0),
        Release("K"),
    )
    body: Body = (
        WaitFull("K"),
        dot("s", Tile("Q"), "K"),
        WaitFull("V"),
        dot("acc_next", Constant("inf", HALF), "V", var("acc")),
        WaitDots(1),
        Release("K"),
        let("p", var("s")),
        WaitDots(0),
        Release("V"),
    )
    last: Body = (
        WaitFull("V"),
        dot("acc_last", Constant("inf", HALF), "V", var("acc")),
        WaitDots(0),
        Release("V"),
    )
    consumer = (
        WaitFull("Q"),
        loop("first", first, number(0), least(number(1), T)),
        loop("m", body, number(1), T, "acc"),
        loop("last", last, number(0), least(number(1), T)),
        Release("Q"),
        STORE,
    )
    return kernel(producer, consumer, k_stages, v_stages)


def meeting(stages: int = 2, teams: int = 2) -> AsyncKernel:
    """Each iteration two teams write a tile that both read, as a gradient's dS."""
    producer = (*fill("Q", number(0)), loop("n", fill("K", var("n", INT))))
    body: Body = (
        WaitFull("K"),
        dot("s", Tile("Q"), "K"),
        WaitDots(0),
        let("w", Constant("inf", HALF)),
        WaitEmpty("W"),
        Write("W", var("w", HALF)),
        WaitFull("W"),
        dot("acc_next", Tile("K", transposed=True), "W", var("acc")),
        WaitDots(0),
        Release("K"),
        Release("W"),
    )
    consumer = (WaitFull("Q"), loop("m", body, carried="acc"), Release("Q"), STORE)
    rings = (ring("Q", 1), ring("K", 2), Ring("W", None, (64, 64), (64, 64), DType.BF16, stages))
    schedule = Schedule(num_warps=4 * teams)
    return AsyncKernel("toy", (Axis("t", T),), schedule, rings, producer, consumer, teams)


# ---- mutations -------------------------------------------------------------------------------

Change = Callable[[Statement], Body | None]


def changed(statements: Body, change: Change) -> Body:
    """With every statement, at any depth, replaced by what `change` makes of it; None keeps it."""
    out: list[Statement] = []
    for s in statements:
        new = change(s)
        if new is not None:
            out += new
        elif isinstance(s, Loop | If):
            out.append(replace(s, body=changed(s.body, change)))
        else:
            out.append(s)
    return tuple(out)


def nth(wanted: Statement, occurrence: int, new: Callable[[Statement], Body]) -> Change:
    """Changes the occurrence number `occurrence` (from 0) of a statement."""
    seen = count()
    return lambda s: new(s) if s == wanted and next(seen) == occurrence else None


def consumer(k: AsyncKernel, change: Change) -> AsyncKernel:
    return replace(k, consumer=changed(k.consumer, change))


def producer(k: AsyncKernel, change: Change) -> AsyncKernel:
    return replace(k, producer=changed(k.producer, change))


def dropped(wanted: Statement, occurrence: int = 0) -> Change:
    return nth(wanted, occurrence, lambda s: ())


def twice(wanted: Statement, occurrence: int = 0) -> Change:
    return nth(wanted, occurrence, lambda s: (s, s))


def instead(wanted: Statement, new: Statement, occurrence: int = 0) -> Change:
    return nth(wanted, occurrence, lambda s: (new,))


WRITE = Write("W", var("w", HALF))
SYNCHRONISES = (WaitEmpty, Copy, Write, WaitFull, Release, IssueDot, WaitDots)


def neighbours(statements: Body) -> Iterator[tuple[str, Body]]:
    """The statements with one that synchronises dropped, doubled, or moved past what follows it."""
    for at, s in enumerate(statements):
        before, after = statements[:at], statements[at + 1 :]
        if isinstance(s, SYNCHRONISES):
            yield f"drop {s}", (*before, *after)
            if not isinstance(s, IssueDot):  # a name assigned twice is malformed
                yield f"double {s}", (*before, s, s, *after)
            if after:
                yield f"swap {s} and {after[0]}", (*before, after[0], s, *after[1:])
        if isinstance(s, Loop | If):
            for what, body in neighbours(s.body):
                yield what, (*before, replace(s, body=body), *after)
