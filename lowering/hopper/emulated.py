"""Gluon on the CPU: just enough of it to run what `lowering.hopper.gluon` emits, on Triton's interpreter.

Triton's interpreter runs no Gluon. Here its modules are replaced, in a process of its own (`lowering.interpreted`), by
ones that leave layouts out, take arithmetic from the interpreter, and act out the rest: shared memory, barriers with
a phase, pending arrivals and a transaction count, copies that land and dots that retire when an adversary says
(`lowering.hopper.simulate.Adversary`). The partitions run as threads of which one at a time goes on.

So the emitted text itself is cross-checked: slots, parities, arrival counts and bytes expected are the text's
own. What is not: layouts, registers, fences, and what the compiler makes of the text.
"""

from __future__ import annotations

import inspect
import math
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from numpy.typing import NDArray
from triton import experimental
from triton.runtime import interpreter

from lowering.emitted import emitted_module
from lowering.hopper.simulate import Adversary

Array = NDArray[Any]
STORED = {tl.bfloat16: np.uint16, tl.float16: np.float16, tl.float32: np.float32}
BF16_NAN = 0x7FC0
GLUON = "triton.experimental.gluon"
PATIENCE = 120.0  # seconds that one step of a partition may take


class EmulationError(Exception):
    """The emitted text does what the hardware leaves undefined, or waits for ever."""


def tensor(cells: Array, dtype: Any) -> Any:
    """An interpreter's tensor of these cells (bfloat16 as its bits)."""
    handle = interpreter.TensorHandle(np.ascontiguousarray(cells), dtype)
    return tl.tensor(handle, tl.block_type(dtype, list(cells.shape)))


def number(x: Any) -> int:
    return int(x.handle.data.reshape(-1)[0]) if isinstance(x, tl.tensor) else int(x)


def wide(cells: Array) -> Array:
    """Numbers of a buffer as float32."""
    return (cells.astype(np.uint32) << 16).view(np.float32) if cells.dtype == np.uint16 else cells.astype(np.float32)


# ---- a thread block --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Memory:
    """A buffer in shared memory, or a part of one seen in another shape: `cells` is always a view."""

    cells: Array
    dtype: Any

    def index(self, k: Any) -> Memory:
        return Memory(self.cells[number(k)], self.dtype)

    def reshape(self, shape: Sequence[int]) -> Memory:
        return Memory(self.cells.reshape(shape), self.dtype)

    def slice(self, start: Any, length: Any, axis: int = 0) -> Memory:
        first = number(start)
        parts = [slice(None)] * self.cells.ndim
        parts[axis] = slice(first, first + number(length))
        return Memory(self.cells[tuple(parts)], self.dtype)

    def permute(self, order: Sequence[int]) -> Memory:
        return Memory(self.cells.transpose(order), self.dtype)

    def load(self, layout: object = None) -> Any:
        return tensor(self.cells.copy(), self.dtype)

    def store(self, value: Any) -> None:
        self.cells[...] = value.handle.data


class Barrier:
    """An mbarrier: completions so far, and what the phase under way still waits for."""

    def __init__(self) -> None:
        self.completed = 0
        self.count = self.pending = self.bytes = 0

    def arrive(self, count: int, more: int = 0) -> None:
        if self.count == 0:
            raise EmulationError("an arrival at a barrier that is not initialised")
        if self.pending < count:
            raise EmulationError("more arrivals at a barrier than its phase expects")
        self.pending -= count
        self.transact(more)

    def transact(self, more: int) -> None:
        self.bytes += more
        if self.pending == 0 and self.bytes == 0:
            self.completed += 1
            self.pending = self.count


@dataclass(frozen=True, slots=True)
class Barriers:
    all: tuple[Barrier, ...]

    def index(self, k: Any) -> Barrier:
        return self.all[number(k)]


@dataclass(slots=True)
class Dot:
    """A dot in flight; `result` reads its operands."""

    result: Callable[[], Any]
    value: Any = None


class Block:
    """What runs on a thread block besides its partitions, and which of these goes on."""

    def __init__(self, adversary: Adversary) -> None:
        self.adversary = adversary
        self.chance = random.Random(adversary.seed)
        self.copies: list[tuple[Barrier, Callable[[], None]]] = []  # running: whom they tell, and how they land
        self.partitions: list[Partition] = []

    def rest(self, barrier: Barrier | None = None, test: Callable[[], bool] = lambda: True) -> None:
        """Called by a partition: returns when it is its turn and `test`, about `barrier`, holds."""
        mine = self.mine()
        mine.test, mine.barrier = test, barrier
        mine.resting.set()
        if not mine.turn.wait(PATIENCE):
            raise EmulationError("a partition was never resumed")
        mine.turn.clear()
        if mine.stopped:
            raise SystemExit

    def mine(self) -> Partition:
        """The partition that calls."""
        return next(p for p in self.partitions if p.thread is threading.current_thread())

    def run(self, functions: Sequence[tuple[Any, Sequence[Any]]]) -> None:
        """All partitions to their ends. Raises EmulationError."""
        self.partitions = [Partition(self, function, arguments) for function, arguments in functions]
        try:
            while running := [p for p in self.partitions if not p.ended]:
                able = [p for p in running if p.test()]
                chosen = self.chosen(able)
                if chosen is not None:
                    chosen.step()
                elif self.copies:
                    self.land([p.barrier for p in running])
                else:
                    raise EmulationError("the partitions wait for ever")
        finally:
            for p in self.partitions:
                p.stop()
        if self.copies or any(p.dots for p in self.partitions):
            raise EmulationError("the kernel ends with a copy or a dot in flight")

    def chosen(self, able: list[Partition]) -> Partition | None:
        """Who goes on; None to let a copy land. The consumer is the first of the partitions."""
        drawn = self.chance.randrange(len(able) + len(self.copies) or 1)
        landing = {"early": bool(self.copies), "late": not able, "any": drawn >= len(able)}[self.adversary.landing]
        if landing or not able:
            return None
        return {"consumer": able[0], "producer": able[-1], "any": self.chance.choice(able)}[self.adversary.first]

    def land(self, wanted: Sequence[Barrier | None]) -> None:
        """One copy; where they land late, one that somebody waits for, so that the others land later."""
        urgent = [c for c in self.copies if c[0] in wanted] if self.adversary.landing == "late" else []
        chosen = self.chance.choice(urgent or self.copies)
        self.copies.remove(chosen)
        chosen[1]()

    def retire(self, pending: int) -> None:
        dots = self.mine().dots
        while len(dots) > pending:
            dot = dots.pop(0)
            dot.value = dot.result()


class Partition:
    """A function on a thread of its own, which rests wherever another partition could go on instead."""

    def __init__(self, block: Block, function: Any, arguments: Sequence[Any]) -> None:
        self.test: Callable[[], bool] = lambda: True
        self.barrier: Barrier | None = None
        self.turn, self.resting = threading.Event(), threading.Event()
        self.ended = self.stopped = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.main, args=(block, function, arguments), daemon=True)
        self.block = block
        self.started = False
        self.dots: list[Dot] = []

    def main(self, block: Block, function: Any, arguments: Sequence[Any]) -> None:
        try:
            function(*arguments)
        except BaseException as error:  # handed to the thread that runs the block
            self.error = error
        self.ended = True
        self.resting.set()

    def step(self) -> None:
        """Go on until the next rest or the end."""
        self.resting.clear()
        if self.started:
            self.turn.set()
        else:
            self.started = True
            self.thread.start()
        if not self.resting.wait(PATIENCE):
            raise EmulationError("a partition takes too long")
        if self.error is not None and not self.stopped:
            raise self.error

    def stop(self) -> None:
        self.stopped = True
        if self.started and not self.ended:
            self.turn.set()
            self.thread.join(PATIENCE)


# ---- the modules the emitted text imports ----------------------------------------------------


class Emulator:
    """The functions of Gluon's modules. `block` is what the partitions at hand run on, under `adversary`."""

    def __init__(self) -> None:
        self.adversary = Adversary()
        self.block = Block(self.adversary)

    # language

    def jit(self, fn: Any = None, **options: Any) -> Any:
        return Jit if fn is None else Jit(fn)

    def allocate_shared_memory(self, dtype: Any, shape: Sequence[int], layout: object = None) -> Any:
        if dtype == tl.int64:
            return Barriers(tuple(Barrier() for _ in range(shape[0])))
        cells = np.empty(list(shape), STORED[dtype])
        poison(cells)
        return Memory(cells, dtype)

    def warp_specialize(self, functions: Sequence[Any], worker_num_warps: object, worker_num_regs: object) -> None:
        self.block = Block(self.adversary)
        self.block.run(functions)

    # barriers and copies

    def init(self, barrier: Barrier, count: int) -> None:
        barrier.count = barrier.pending = number(count)

    def expect(self, barrier: Barrier, bytes_per_cta: Any, pred: bool = True) -> None:
        barrier.arrive(1, number(bytes_per_cta))

    def arrive(self, barrier: Barrier, *, count: int = 1, pred: bool = True) -> None:
        self.block.rest()
        barrier.arrive(count)

    def wait(self, barrier: Barrier, phase: Any, pred: bool = True, deps: object = ()) -> None:
        parity = number(phase)
        self.block.rest(barrier, lambda: barrier.completed % 2 != parity)

    def async_copy_global_to_shared(
        self, source: Any, corner: Sequence[Any], barrier: Barrier, result: Memory, pred: bool = True
    ) -> None:
        self.block.rest()
        poison(result.cells)
        box = box_of(source, [number(k) for k in corner])

        def land() -> None:
            result.cells[...] = box.reshape(result.cells.shape)
            barrier.transact(-box.nbytes)

        self.block.copies.append((barrier, land))

    # dots

    def warpgroup_mma(
        self, a: Any, b: Memory, acc: Any, *, use_acc: bool = True, is_async: bool = False, **options: Any
    ) -> Any:
        if isinstance(acc, Dot) or isinstance(a, Dot):
            raise EmulationError("an operand of a dot is the result of one that may be running")
        start = acc.handle.data if use_acc else None
        reading = self.block.adversary.reading
        early = reading == "early" or (reading == "any" and self.block.chance.random() < 0.5)

        def operands() -> tuple[Array, Array]:
            return wide(a.cells if isinstance(a, Memory) else a.handle.data), wide(b.cells)

        now = operands() if early else None

        def result() -> Any:
            left, right = now or operands()
            product = np.matmul(left, right)
            return tensor((product if start is None else product + start).astype(np.float32), tl.float32)

        dot = Dot(result)
        self.block.mine().dots.append(dot)
        if is_async:
            return dot
        self.block.retire(0)
        return dot.value

    def warpgroup_mma_wait(self, num_outstanding: int = 0, deps: Sequence[Any] = ()) -> Any:
        self.block.retire(num_outstanding)
        values = tuple(d.value if isinstance(d, Dot) and d.value is not None else d for d in deps)
        return values[0] if len(values) == 1 else values


def poison(cells: Array) -> None:
    cells[...] = BF16_NAN if cells.dtype == np.uint16 else math.nan


class Jit:
    """A function of the module: called by another, or launched on a grid."""

    def __init__(self, function: Any) -> None:
        self.function = function
        function.__globals__["_language"] = tl  # where the interpreter looks for what to replace

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            names = list(inspect.signature(self.function).parameters)
            interpreter.GridExecutor(self.function, names, grid)(*arguments)

        return launch


def box_of(source: Any, corner: list[int]) -> Array:
    """The box of a tensor that a host-side descriptor (Gluon's `TensorDescriptor`) gives from `corner` on; zero
    outside the tensor."""
    base: torch.Tensor = source.base
    whole = (base.view(torch.uint16) if base.dtype is torch.bfloat16 else base).numpy()
    box = np.zeros(source.block_shape, whole.dtype)
    low = [max(c, 0) for c in corner]
    high = [min(c + n, extent) for c, n, extent in zip(corner, box.shape, whole.shape, strict=True)]
    if all(a < b for a, b in zip(low, high, strict=True)):
        inside = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))
        box[inside] = whole[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return box


class _Layout:
    """Stands for any layout; nothing here depends on one."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Whatever it is made of."""


class _Language(ModuleType):
    """`triton.experimental.gluon.language`: Triton's own functions where nothing else is said."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("Layout"):
            return _Layout
        return getattr(tl, name)


def emulated_module(source: str) -> tuple[ModuleType, Emulator]:
    """The emitted module, with the functions of an `Emulator` in place of Gluon's; its `adversary` decides launches."""
    e = Emulator()
    replaced = dict(_modules(e))
    with mock.patch.dict(sys.modules, replaced), mock.patch.object(experimental, "gluon", replaced[GLUON], create=True):
        return emitted_module(source), e


def _modules(e: Emulator) -> Iterator[tuple[str, ModuleType]]:
    language = _Language("language")
    for name, value in {
        "allocate_shared_memory": e.allocate_shared_memory,
        "warp_specialize": e.warp_specialize,
        "constexpr": lambda value: value,
        "convert_layout": lambda value, layout: value,
        "arange": lambda start, end, layout=None: tl.arange(start, end),
        "full": lambda shape, value, dtype, layout=None: tl.full(shape, value, dtype),
        "static_range": range,
    }.items():
        setattr(language, name, value)
    mbarrier = _module("mbarrier", MBarrierLayout=_Layout, init=e.init, expect=e.expect, arrive=e.arrive, wait=e.wait)
    tma = _module("tma", async_copy_global_to_shared=e.async_copy_global_to_shared)
    dots = {"warpgroup_mma": e.warpgroup_mma, "warpgroup_mma_wait": e.warpgroup_mma_wait}
    hopper = _module("hopper", mbarrier=mbarrier, tma=tma, fence_async_shared=lambda cluster=False: None, **dots)
    yield GLUON, _module("gluon", jit=e.jit, language=language)
    yield f"{GLUON}.language", language
    yield f"{GLUON}.language.nvidia", _module("nvidia", hopper=hopper)
    yield f"{GLUON}.language.nvidia.hopper", hopper


def _module(name: str, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(members)
    return module
