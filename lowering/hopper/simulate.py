"""Runs asynchronous kernels on arrays, with everything that may happen at any time happening at a bad time.

The off-device cross-check of the Hopper lowering: what `interpret` says a program means is compared with what its
asynchronous kernels compute here, for all programs of the grid, under several adversaries. The machine is that of the
hardware, not that of the contract: barriers count arrivals and have a parity, slots are memory. A slot is NaN
from its release until the next copy has landed; a copy lands when the adversary says, between its issue and the moment
nobody could go on without it, and so does what the consumer writes itself, as other teams' rows do; a dot reads its
shared operands when it is issued or when it is retired, and its result is NaN until then. Arithmetic is the reference
interpreter's own (`ir.interpret.Machine`).

There is one consumer. So a team that reads a written tile before the others have written theirs shows here; one that
overwrites what others still read does not: `lowering.hopper.emulated` runs every team.

A run decides nothing: the checker (`lowering.hopper.protocol`) does. A fault here of a kernel it verified is a bug of
one of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ir.arithmetic import Array, Value
from ir.ast import NOWHERE
from ir.interpret import Machine, Mode, Outcome, interpret
from ir.memory import Access, poison
from ir.program import Expr, Kernel, Let, Program, Store
from ir.spec import Bound
from lowering.hopper import async_program as ap


@dataclass(frozen=True, slots=True)
class Adversary:
    """`first`: who goes on when both partitions can. `landing`: when copies land. `reading`: when a dot reads its
    operands. Each one end of what the hardware may do, or "any": a new choice each time, from `seed`."""

    first: str = "any"  # producer, consumer, any
    landing: str = "any"  # early, late, any
    reading: str = "any"  # early, late, any
    seed: int = 0


def adversaries(count: int) -> tuple[Adversary, ...]:
    """`count` of them, the extremes first."""
    extremes = [
        Adversary(first, landing, reading)
        for reading in ("late", "early")
        for first, landing in (("producer", "early"), ("consumer", "late"), ("producer", "late"), ("consumer", "early"))
    ]
    return tuple([*extremes, *(Adversary(seed=seed) for seed in range(count))][:count])


def simulate(
    kernels: Mapping[str, ap.AsyncKernel],
    program: Program,
    bound: Bound,
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    inputs: Mapping[str, Array],
    adversary: Adversary,
) -> Outcome:
    """Run `program` as `interpret` does in machine mode, the kernels named in `kernels` by their asynchronous form.

    Besides the interpreter's faults there are "deadlock" (the instance stops there), "protocol" (something the
    hardware leaves undefined) and "in flight" (a copy or a dot running when its partition ended).
    """

    def machine(*args: Any) -> Machine:
        return _AsyncMachine(kernels, program, adversary, *args)

    return interpret(program, bound, sizes, parameters, inputs, Mode.MACHINE, machine=machine)


class _Slot:
    """One buffer and its two barriers: completions of each since the start. `landing`: copies that run."""

    def __init__(self, ring: ap.Ring) -> None:
        self.cells = np.full(ring.shape, poison(ring.dtype))
        self.full = 0
        self.empty = 0
        self.landing: list[Array] = []

    def land(self) -> None:
        self.cells = self.landing.pop(0)
        self.full += 1


@dataclass(frozen=True, slots=True)
class Rest:
    """Where a partition rests: it may go on when `test` holds, which is about `slot` if it is a wait."""

    test: Callable[[], bool] = lambda: True
    slot: _Slot | None = None


class _Block:
    """Shared memory of one thread block, and what runs on it."""

    def __init__(self, rings: tuple[ap.Ring, ...]) -> None:
        self.rings = {ring.name: ring for ring in rings}
        self.slots = {ring.name: [_Slot(ring) for _ in range(ring.stages)] for ring in rings}
        self.copied = dict.fromkeys(self.rings, 0)
        self.waited = dict.fromkeys(self.rings, 0)
        self.released = dict.fromkeys(self.rings, 0)
        self.dots: list[tuple[str, Callable[[], Array]]] = []  # running: name, and what computes its result

    def at(self, ring: str, number: int) -> _Slot:
        return self.slots[ring][number % self.rings[ring].stages]

    def passes(self, ring: str, number: int, full: bool) -> bool:
        """mbarrier.try_wait.parity for completion `number` div stages of the slot's barrier: true unless the phase
        under way has that parity."""
        slot = self.at(ring, number)
        parity = (number // self.rings[ring].stages - (0 if full else 1)) % 2
        return (slot.full if full else slot.empty) % 2 != parity

    def landing(self) -> list[_Slot]:
        return [slot for slots in self.slots.values() for slot in slots if slot.landing]


class _AsyncMachine(Machine):
    def __init__(
        self, kernels: Mapping[str, ap.AsyncKernel], program: Program, adversary: Adversary, *args: Any
    ) -> None:
        super().__init__(*args)
        self.kernels = kernels
        self.program = program
        self.adversary = adversary
        self.chance = random.Random(adversary.seed)

    # ---- control -----------------------------------------------------------------------------

    def instance(self, kernel: Kernel, ids: tuple[tuple[str, int], ...], number: int) -> None:
        chosen = self.kernels.get(kernel.name)
        super().instance(kernel if chosen is None else Kernel(kernel.name, (), kernel.schedule, ()), ids, number)
        if chosen is None:
            return
        block = _Block(chosen.rings)
        envs: list[dict[str, Value]] = [dict(ids), dict(ids)]
        running = [self.steps(block, chosen.producer), self.steps(block, chosen.consumer)]
        rests: list[Rest | None] = [Rest(), Rest()]
        while any(rest is not None for rest in rests):
            able = [who for who, rest in enumerate(rests) if rest is not None and rest.test()]
            copies = block.landing()
            who = self.next_step(able, len(copies))
            if who is None and not copies:
                self.log.add("deadlock", "both partitions wait for ever", self.site, "", (), NOWHERE)
                return
            if who is None:
                wanted = [rest.slot for rest in rests if rest is not None]
                urgent = [slot for slot in copies if slot in wanted] if self.adversary.landing == "late" else []
                self.chance.choice(urgent or copies).land()  # late: one that somebody waits for, the others later still
                continue
            self.env = envs[who]
            rests[who] = next(running[who], None)
        if block.landing() or block.dots:
            self.log.add("in flight", "the kernel ends with a copy or a dot running", self.site, "", (), NOWHERE)

    def next_step(self, able: list[int], copies: int) -> int | None:
        """Which partition goes on; None to let a copy land."""
        policy = self.adversary
        drawn = self.chance.randrange(len(able) + copies or 1)
        if {"early": copies > 0, "late": not able, "any": drawn >= len(able)}[policy.landing]:
            return None
        if policy.first == "any":
            return self.chance.choice(able) if able else None
        return (min if policy.first == "producer" else max)(able, default=None)

    def steps(self, block: _Block, statements: tuple[ap.Statement, ...]) -> Iterator[Rest]:
        """Executes the statements of a partition; before each that must wait or is seen outside, yields when it may."""
        for statement in statements:
            self.spend(0)
            match statement:
                case Let() | Store():
                    self.run((statement,))
                case ap.Loop():
                    yield from self.turns(block, statement, self.integer(statement.start), self.integer(statement.stop))
                case ap.If():
                    yield from self.turns(block, statement, 0, int(bool(self.value(statement.condition))))
                case ap.WaitEmpty(ring=ring):
                    yield self.when(block, ring, full=False)
                case ap.WaitFull(ring=ring):
                    yield self.when(block, ring, full=True)
                    block.waited[ring] += 1
                case ap.Copy():
                    yield Rest()
                    self.copy(block, statement)
                case ap.Write(ring=ring, value=value):
                    yield Rest()
                    self.fill(block, ring, np.asarray(self.value(value)))
                case ap.Release(ring=ring):
                    yield Rest()
                    self.release(block, ring)
                case ap.Read(name=name, tile=tile):
                    self.env[name] = oriented(self.held(block, tile).cells, tile)
                case ap.IssueDot():
                    self.issue(block, statement)
                case ap.WaitDots(pending=pending):
                    while len(block.dots) > pending:
                        self.retire(block)

    def turns(self, block: _Block, loop: ap.Loop | ap.If, start: int, stop: int) -> Iterator[Rest]:
        self.env.update([(carry.name, self.value(carry.init)) for carry in loop.carries])
        for counter in range(start, stop):
            if isinstance(loop, ap.Loop):
                self.env[loop.counter] = counter
            yield Rest()
            yield from self.steps(block, loop.body)
            self.env.update([(carry.name, self.value(carry.next)) for carry in loop.carries])

    def when(self, block: _Block, ring: str, full: bool) -> Rest:
        number = (block.waited if full else block.copied)[ring]
        return Rest(lambda: block.passes(ring, number, full), block.at(ring, number))

    # ---- what the hardware does --------------------------------------------------------------

    def copy(self, block: _Block, copy: ap.Copy) -> None:
        ring = block.rings[copy.ring]
        assert ring.tensor is not None
        box = self.box(ring.tensor, copy.index, ring.box)
        self.fill(block, copy.ring, self.memory.load(box, 0).reshape(ring.shape))

    def fill(self, block: _Block, name: str, tile: Array) -> None:
        ring = block.rings[name]
        slot = block.at(name, block.copied[name])
        block.copied[name] += 1
        if slot.landing:
            self.log.add("protocol", f"two copies run into one slot of {name}", self.site, "", (), NOWHERE)
        slot.cells = np.full(ring.shape, poison(ring.dtype))
        slot.landing.append(tile)

    def box(self, tensor: str, corner: tuple[Expr, ...], shape: tuple[int, ...]) -> Access:
        """The cells of a box of `tensor` from `corner` on, those outside masked."""
        index = [
            np.arange(first, first + n, dtype=np.int64).reshape([n if d == axis else 1 for d in range(len(shape))])
            for axis, (first, n) in enumerate(zip([self.integer(k) for k in corner], shape, strict=True))
        ]
        inside = np.ones(shape, dtype=bool)
        for k, extent in zip(index, self.program.tensor(tensor).shape, strict=True):
            inside &= (k >= 0) & (k < self.integer(extent))
        self.spend(math.prod(shape))
        return Access(tensor, tuple(index), shape, inside, self.site, NOWHERE)

    def release(self, block: _Block, ring: str) -> None:
        slot = block.at(ring, block.released[ring])
        block.released[ring] += 1
        slot.cells = np.full(block.rings[ring].shape, poison(block.rings[ring].dtype))
        slot.empty += 1

    def held(self, block: _Block, tile: ap.Tile) -> _Slot:
        return block.at(tile.ring, block.waited[tile.ring] - 1 - tile.age)

    def issue(self, block: _Block, dot: ap.IssueDot) -> None:
        operands = [dot.left, dot.right]
        slots = {k: self.held(block, t) for k, t in enumerate(operands) if isinstance(t, ap.Tile)}
        given = {k: np.asarray(self.value(e)) for k, e in enumerate(operands) if not isinstance(e, ap.Tile)}
        acc = None if dot.acc is None else self.value(dot.acc)
        reading = self.adversary.reading
        early = reading == "early" or (reading == "any" and self.chance.random() < 0.5)

        def operand(k: int) -> Array:
            tile = operands[k]
            return oriented(slots[k].cells, tile) if isinstance(tile, ap.Tile) else given[k]

        now = [operand(0), operand(1)] if early else []

        def result() -> Array:
            left, right = now or (operand(0), operand(1))
            product = np.matmul(left, right)
            return np.asarray(self.rounded(product if acc is None else product + acc, dot.type.dtype))

        self.env[dot.name] = np.full(dot.type.shape, math.nan)
        block.dots.append((dot.name, result))

    def retire(self, block: _Block) -> None:
        name, result = block.dots.pop(0)
        self.env[name] = result()


def oriented(cells: Array, tile: ap.Tile) -> Array:
    return cells.T if tile.transposed else cells
