"""Asynchronous protocols that must be verified, and a numbered taxonomy of those that must never be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hopper_cases import (
    HALF,
    INT,
    STORE,
    WRITE,
    ZEROS,
    Body,
    T,
    changed,
    consumer,
    dot,
    dropped,
    fill,
    instead,
    kernel,
    least,
    let,
    loop,
    meeting,
    neighbours,
    number,
    pipelined,
    plain,
    plus,
    producer,
    ring,
    twice,
    var,
)
from hopper_kernels import asynchronous, typed

from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.program import Binary, Cast, DType, Size, Type
from lowering.accesses import BoxLoad
from lowering.hopper.async_program import (
    AsyncKernel,
    If,
    Loop,
    Release,
    Tile,
    WaitDots,
    WaitEmpty,
    WaitFull,
    Write,
)
from lowering.hopper.explore import Order
from lowering.hopper.protocol import ProtocolViolated, require, verify
from lowering.hopper.simulate import adversaries, simulate
from lowering.hopper.verdict import Rule, Source, Use, Verified, Violation

N, M = var("n", INT), Size("M", INT)


def head(change: Callable[[Loop], Loop], counter: str) -> Callable[[object], Body | None]:
    return lambda s: (change(s),) if isinstance(s, Loop) and s.counter == counter else None


def unrolled(counter: str) -> Callable[[object], Body | None]:
    return lambda s: s.body if isinstance(s, Loop) and s.counter == counter else None


def persistent(inner: Body = (), stages: int = 2) -> AsyncKernel:
    """A loop over tiles of queries around the loop over keys, which is as long as the outer counter says."""
    keys = Binary("add", var("q", INT), T, INT)
    copies = (loop("q", (*fill("Q", var("q", INT)), loop("n", fill("K", N), stop=keys)), stop=M),)
    body: Body = inner or (WaitFull("K"), dot("s", Tile("Q"), "K"), WaitDots(0), Release("K"))
    mine = Binary("add", var("r", INT), T, INT)
    work = (loop("r", (WaitFull("Q"), loop("m", body, stop=mine), Release("Q")), stop=M),)
    k = kernel(copies, work, stages)
    return replace(k, rings=k.rings[:2])


def two_sweeps(second: Body = ()) -> AsyncKernel:
    """The keys twice, over one ring: the second sweep starts at whatever slot the first one ended at."""
    body: Body = (WaitFull("K"), dot("s", Tile("Q"), "K"), WaitDots(0), Release("K"))
    again: Body = second or (WaitFull("K"), dot("s2", Tile("Q"), "K"), WaitDots(0), Release("K"))
    copies = (*fill("Q", number(0)), loop("n", fill("K", N)), loop("n2", fill("K", var("n2", INT))))
    k = kernel(copies, (WaitFull("Q"), loop("m", body), loop("m2", again), Release("Q")), 3)
    return replace(k, rings=k.rings[:2])


def overlapping(stages: int) -> AsyncKernel:
    """Holds a tile until the next one has been read: needs two slots."""
    first: Body = (WaitFull("K"),)
    body: Body = (WaitFull("K"), dot("s", Tile("K", 1), "K"), WaitDots(0), Release("K"))
    k = kernel((*fill("K", number(0)), loop("n", fill("K", N))), (*first, loop("m", body), Release("K")), stages)
    return replace(k, rings=k.rings[1:2])


def guarded(mine: int, theirs: int) -> AsyncKernel:
    """A tile that is used only where there are more than so many keys."""
    copies = If(Binary("lt", number(theirs), T, Type(DType.BOOL)), (), fill("K", number(0)))
    work = If(Binary("lt", number(mine), T, Type(DType.BOOL)), (), (WaitFull("K"), Release("K")))
    k = kernel((copies,), (work,))
    return replace(k, rings=k.rings[1:2])


RIGHT = {
    "one slot": plain(1, 1),
    "two and three slots": plain(2, 3),
    "four slots": plain(4, 4),
    "pipelined, one slot": pipelined(1, 1),
    "pipelined": pipelined(2, 2),
    "pipelined, unequal slots": pipelined(3, 2),
    "persistent": persistent(),
    "two sweeps": two_sweeps(),
    "two tiles held, two slots": overlapping(2),
    "two tiles held, three slots": overlapping(3),
    "guarded": guarded(0, 0),
    "guarded by more": guarded(2, 2),
    "teams meet, one slot": meeting(1),
    "teams meet": meeting(2),
    "teams meet, three slots": meeting(3),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_protocols_are_verified_with_few_states(name: str) -> None:
    verdict = verify(RIGHT[name])
    assert isinstance(verdict, Verified), verdict
    assert verdict.states < 300


def swapped(s: object) -> Body | None:
    return (V_DONE,) if s == K_DONE else (K_DONE,) if s == V_DONE else None


S_DOT, ACC_DOT = dot("s", Tile("Q"), "K"), dot("acc_next", var("p16", HALF), "V", var("acc"))
K_FULL, V_FULL, Q_FULL = WaitFull("K"), WaitFull("V"), WaitFull("Q")
K_DONE, V_DONE = Release("K"), Release("V")
COPY_K, COPY_V = fill("K", N)[1], fill("V", N)[1]
MEETING_DOT = dot("acc_next", Tile("K", transposed=True), "W", var("acc"))
NEXT = dot("s_more", Tile("Q"), "K")
W_FULL, W_EMPTY, W_DONE = WaitFull("W"), WaitEmpty("W"), Release("W")
BOX = BoxLoad("O", (number(0),), None, None, HALF)

# number: what is wrong, the program, the rules that may be named
WRONG: dict[str, tuple[AsyncKernel, set[Rule]]] = {
    "01 released before the dot is retired": (
        consumer(consumer(plain(), dropped(K_DONE)), lambda s: (s, K_DONE) if s == S_DOT else None),
        {Rule.RELEASED_EARLY},
    ),
    "02 never released": (consumer(plain(), dropped(K_DONE)), {Rule.ACROSS_EDGE}),
    "03 released twice": (consumer(plain(), twice(K_DONE)), {Rule.RELEASED_AGAIN}),
    "04 full not waited for": (consumer(plain(), dropped(K_FULL)), {Rule.NOT_HELD}),
    "05 waits on the wrong ring": (consumer(plain(), instead(K_FULL, V_FULL)), {Rule.NOT_HELD}),
    "06 empty not waited for": (producer(plain(), dropped(WaitEmpty("K"))), {Rule.OVERWRITTEN}),
    "07 waits for the wrong ring to be empty": (
        producer(plain(1, 2), instead(WaitEmpty("K"), WaitEmpty("V"))), {Rule.OVERWRITTEN},
    ),
    "08 peeled first iteration missing": (
        consumer(pipelined(), lambda s: () if isinstance(s, Loop) and s.counter == "first" else None),
        {Rule.LEFT_OVER, Rule.DEADLOCK, Rule.NOT_HELD},
    ),
    "09 first iteration run even if there is none": (consumer(pipelined(), unrolled("first")), {Rule.DEADLOCK}),
    "10 end consumes one too many": (
        consumer(pipelined(), head(lambda s: replace(s, stop=least(number(2), T)), "last")), {Rule.DEADLOCK},
    ),
    "11 end missing": (consumer(pipelined(), head(lambda s: replace(s, stop=number(0)), "last")), {Rule.LEFT_OVER}),
    "12 producer runs one longer": (
        producer(plain(), head(lambda s: replace(s, stop=plus(T, 1)), "n")), {Rule.LEFT_OVER},
    ),
    "13 producer runs one shorter": (
        producer(plain(), head(lambda s: replace(s, stop=plus(T, -1)), "n")), {Rule.DEADLOCK},
    ),
    "14 loops of unrelated lengths": (
        producer(plain(), head(lambda s: replace(s, stop=M), "n")), {Rule.LEFT_OVER, Rule.DEADLOCK},
    ),
    "15 one slot for a reader of two tiles": (overlapping(1), {Rule.DEADLOCK}),
    "16 waits for one dot too few": (
        consumer(pipelined(), instead(WaitDots(1), WaitDots(2))), {Rule.RELEASED_EARLY},
    ),
    "17 result used before the dot is retired": (
        consumer(plain(), dropped(WaitDots(0))), {Rule.NOT_RETIRED, Rule.RELEASED_EARLY},
    ),
    "18 accumulator read while the dot runs": (
        consumer(plain(), lambda s: (s, let("x", var("acc_next"))) if s == ACC_DOT else None), {Rule.NOT_RETIRED},
    ),
    "19 register operand overwritten": (
        consumer(plain(), lambda s: (s, let("p16", ZEROS)) if s == ACC_DOT else None), {Rule.MALFORMED},
    ),
    "20 query tile not waited for": (consumer(plain(), dropped(Q_FULL)), {Rule.NOT_HELD, Rule.RELEASED_AGAIN}),
    "21 releases swapped": (
        consumer(pipelined(), head(lambda s: replace(s, body=changed(s.body, swapped)), "m")), {Rule.RELEASED_EARLY},
    ),
    "22 dot in flight across the edge of a loop": (
        consumer(plain(), lambda s: (s, NEXT) if s == V_FULL else None), set(Rule),
    ),
    "23 an older tile than is held": (
        consumer(plain(), instead(S_DOT, replace(S_DOT, right=Tile("K", 1)))), {Rule.NOT_HELD},
    ),
    "24 tile of another shape": (
        replace(plain(), rings=tuple(replace(r, shape=(32, 128), box=(1, 1, 32, 128)) for r in plain().rings)),
        {Rule.MALFORMED},
    ),
    "25 copied twice": (producer(plain(), twice(COPY_K)), {Rule.OVERWRITTEN, Rule.LEFT_OVER}),
    "26 second sweep one shorter": (
        consumer(two_sweeps(), head(lambda s: replace(s, stop=plus(T, -1)), "m2")), {Rule.LEFT_OVER},
    ),
    "27 second sweep keeps its tiles": (consumer(two_sweeps(), dropped(K_DONE, 1)), {Rule.ACROSS_EDGE}),
    "28 conditions differ": (guarded(0, 1), {Rule.DEADLOCK}),
    "29 conditions differ the other way": (guarded(1, 0), {Rule.LEFT_OVER}),
    "30 copies in another order than they are waited for": (
        replace(consumer(plain(1, 1), lambda s: (K_FULL, s) if s == K_FULL else None), rings=plain().rings),
        {Rule.DEADLOCK, Rule.ACROSS_EDGE},
    ),
    "31 inner loop as long as the wrong outer counter says": (
        producer(persistent(), head(lambda s: replace(s, stop=plus(s.stop, 1)), "n")), {Rule.LEFT_OVER, Rule.DEADLOCK},
    ),
    "32 query slot released before the keys are done": (
        consumer(consumer(persistent(), dropped(Release("Q"))), lambda s: (s, Release("Q")) if s == Q_FULL else None),
        {Rule.NOT_HELD, Rule.ACROSS_EDGE},
    ),
    "33 a copy nobody waits for": (
        producer(plain(), lambda s: None if s != WaitEmpty("Q") else (*fill("V", number(0)), s)),
        {Rule.LEFT_OVER, Rule.DEADLOCK},
    ),
    "34 held tiles differ after an iteration": (consumer(plain(), twice(V_FULL)), {Rule.DEADLOCK, Rule.ACROSS_EDGE}),
    "35 a slot less than none": (replace(plain(), rings=(ring("Q", 0), *plain().rings[1:])), {Rule.MALFORMED}),
    "36 the consumer copies": (consumer(plain(), lambda s: (COPY_V, s) if s == Q_FULL else None), {Rule.MALFORMED}),
    "37 an unknown ring": (consumer(plain(), instead(K_FULL, WaitFull("X"))), {Rule.MALFORMED}),
    "39 a box in an expression": (
        consumer(plain(), lambda s: (let("x", BOX), s) if s == STORE else None),
        {Rule.MALFORMED},
    ),
    "40 more teams than warps": (replace(plain(), teams=8), {Rule.MALFORMED}),
    "38 stores with the last dot in flight": (
        consumer(plain(), lambda s: (dot("o", var("acc"), "V"), s) if s == STORE else None), set(Rule),
    ),
    "41 a team does not wait for the others' rows": (consumer(meeting(), dropped(W_FULL)), {Rule.NOT_HELD}),
    "42 a team overwrites what others may read": (consumer(meeting(), dropped(W_EMPTY)), {Rule.OVERWRITTEN}),
    "43 the same, one slot": (consumer(meeting(1), dropped(W_EMPTY)), {Rule.OVERWRITTEN}),
    "44 asks for the next slot while it holds the only one": (
        consumer(consumer(meeting(1), dropped(W_EMPTY)), lambda s: (s, W_EMPTY) if s == WRITE else None),
        {Rule.DEADLOCK},
    ),
    "45 let go under the dot": (
        consumer(consumer(meeting(), dropped(W_DONE)), lambda s: (s, W_DONE) if s == MEETING_DOT else None),
        {Rule.RELEASED_EARLY},
    ),
    "46 let go before it is read": (
        consumer(consumer(meeting(), dropped(W_DONE)), lambda s: (s, W_DONE) if s == W_FULL else None),
        {Rule.NOT_HELD},
    ),
    "47 written twice": (consumer(meeting(), twice(WRITE)), {Rule.ACROSS_EDGE, Rule.OVERWRITTEN}),
    "48 never written": (consumer(meeting(), dropped(WRITE)), {Rule.DEADLOCK}),
    "49 waits before it has written": (
        consumer(consumer(meeting(), dropped(W_FULL)), lambda s: (W_FULL, s) if s == WRITE else None),
        {Rule.DEADLOCK, Rule.NOT_HELD},
    ),
    "50 written with the dot it comes from in flight": (
        consumer(meeting(), instead(WRITE, Write("W", Cast(var("acc_next"), HALF)))), {Rule.MALFORMED},
    ),
    "51 written in one iteration, waited for in the next": (
        consumer(consumer(meeting(), dropped(W_FULL)), lambda s: (W_FULL, s) if s == K_FULL else None),
        {Rule.DEADLOCK, Rule.ACROSS_EDGE},
    ),
    "52 the producer writes": (producer(meeting(), lambda s: (s, WRITE) if s == COPY_K else None), {Rule.MALFORMED}),
    "53 the producer waits for it": (
        producer(meeting(), lambda s: (W_EMPTY, s) if s == COPY_K else None), {Rule.MALFORMED},
    ),
    "54 a copied ring written": (consumer(meeting(), instead(WRITE, replace(WRITE, ring="K"))), {Rule.MALFORMED}),
    "55 another shape": (consumer(meeting(), instead(WRITE, Write("W", ZEROS))), {Rule.MALFORMED}),
    "56 the dot that it is written from": (
        consumer(consumer(meeting(), dropped(WaitDots(0))), instead(WRITE, Write("W", Cast(var("s"), HALF)))),
        {Rule.NOT_RETIRED},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_protocols_are_never_verified(name: str) -> None:
    wrong, rules = WRONG[name]
    verdict = verify(wrong)
    assert isinstance(verdict, Violation), name
    assert verdict.rule in rules, str(verdict)


@pytest.mark.parametrize("name", [*RIGHT, *WRONG])
def test_one_order_of_steps_says_what_all_orders_say(name: str) -> None:
    subject = RIGHT[name] if name in RIGHT else WRONG[name][0]
    one, every = verify(subject), verify(subject, Order.EVERY)
    if isinstance(every, Verified):
        assert isinstance(one, Verified) and one.sources == every.sources and one.states <= every.states
    else:
        assert isinstance(one, Violation) and one.rule is every.rule


def test_a_copy_needs_a_wait_of_its_own_ring() -> None:
    """The consumer releases K before V and both rings have two slots, so V's being empty says that K is: no order of
    steps goes wrong. The contract still wants the wait."""
    other = producer(plain(2, 2), instead(WaitEmpty("K"), WaitEmpty("V")))
    assert isinstance(verify(other, Order.EVERY), Verified)
    assert isinstance(verify(other), Violation)


def test_the_trace_says_who_did_what() -> None:
    late = verify(producer(plain(), dropped(WaitEmpty("K"))))
    assert isinstance(late, Violation)
    assert late.message == "producer fills K slot 0 (fill 2) while fill 0, in the same slot, has not been consumed"
    assert late.trace[-1] == "producer starts iteration 2 of the loop over n"
    with pytest.raises(ProtocolViolated, match="toy: producer fills K slot 0"):
        require(producer(plain(), dropped(WaitEmpty("K"))))


def test_each_use_has_one_source() -> None:
    """Iteration n of the consumer reads what iteration n of the producer copied; a pipelined one V of n - 1."""
    verdict = require(plain(3, 3))
    k_copy, v_copy = 5, 7  # running numbers of the producer's statements
    assert verdict.sources[Use(4, 1)] == {Source(k_copy, (0,))}
    assert verdict.sources[Use(10, 0)] == {Source(v_copy, (0,))}
    assert Source(v_copy, (-1,)) in {source for found in require(pipelined()).sources.values() for source in found}


# ---- every small change of a scheduled kernel ------------------------------------------------

SIZES = {"B": 1, "H": 1, "G": 1, "M": 40, "N": 300}  # five tiles of keys in rings of two and three slots


@pytest.fixture(scope="module")
def scheduled() -> tuple[AsyncKernel, Callable[[AsyncKernel], bool]]:
    """A kernel as it is scheduled, and whether a change of it still computes what the program means."""
    program, bound = typed("tests/golden/proved/exp2_folded_scale.tile", {"BM": 64, "BN": 64}, D=64)
    kernel_ = asynchronous(program)["attention"]
    parameters = {"scale": 0.125}
    inputs = generate("normal", 0, bound, SIZES, parameters)
    wanted = interpret(program, bound, SIZES, parameters, inputs, Mode.MACHINE).tensors

    def computes(changed_: AsyncKernel) -> bool:
        for adversary in adversaries(4):
            got = simulate({"attention": changed_}, program, bound, SIZES, parameters, inputs, adversary)
            if got.faults or not all(np.array_equal(got.tensors[n], x) for n, x in wanted.items()):
                return False
        return True

    return kernel_, computes


def test_a_change_is_refused_or_harmless(scheduled: tuple[AsyncKernel, Callable[[AsyncKernel], bool]]) -> None:
    kernel_, computes = scheduled
    assert isinstance(verify(kernel_), Verified) and computes(kernel_)
    refused, harmless = 0, []
    for side in ("producer", "consumer"):
        for what, body in neighbours(getattr(kernel_, side)):
            changed_ = replace(kernel_, **{side: body})
            if isinstance(verify(changed_), Violation):
                refused += 1
            else:
                assert computes(changed_), what
                harmless.append(what)
    assert refused > 40
    left_out = [what for what in harmless if what.startswith("drop")]
    assert left_out and all("WaitEmpty" in what for what in left_out)  # before the first copy into a slot
