"""The reference interpreter: what the kernel language means, in code.

Runs a typed `Program` at concrete sizes: kernels in order, the programs of a grid one after another
in row-major order of their ids, each tile operation once on the whole tile. Two meanings of floats:

- `Mode.EXACT`: float64 stands for the reals; a cast between float dtypes is the identity;
- `Mode.MACHINE`: each operation is rounded to the dtype of its result. A dot and a sum are
  accumulated in float64 and rounded once to f32; real hardware rounds oftener and in an order it
  does not state, so machine results are a sample of what a device may give, not a bound.

Integers are exact in both: a scalar is a Python int, and a tile falls back to Python ints where
int64 would overflow. A run ends with the tensors and a list of faults, and never hangs: it counts
the work and raises `BudgetExceeded`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np

from ir import program as core
from ir.arithmetic import (
    ARITHMETIC,
    COMPARE,
    CONSTANTS,
    EXACT_IN_FLOATS,
    REDUCE,
    UNARY,
    Array,
    Value,
    divides_by_zero,
    integer_array,
    integer_binary,
    integer_reduce,
    magnitude,
    misfit,
)
from ir.ast import Span
from ir.facts import far_cell
from ir.memory import Access, ArrayMemory, Fault, FaultLog, Layout, Memory, Site, VirtualMemory
from ir.random import random
from ir.requirements import text
from ir.rounding import round_to
from ir.spec import Bound

FUEL = 2**31  # tile elements computed; a replay at small sizes takes about 2^25
CELLS = 2**27  # of all tensors together
INTEGER_LIMIT = 2**512  # far beyond any size, index or offset
_STEP = 2048  # what a statement costs whatever its size


class Mode(Enum):
    EXACT = "exact"  # floats stand for reals
    MACHINE = "machine"  # every float operation is rounded to the dtype of its result


class InterpretError(Exception):
    """The run cannot start: a size, parameter or input is missing or has the wrong shape, or the program is not for
    these sizes."""


class BudgetExceeded(InterpretError):
    """The run did more work than it was given fuel for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`tensors`: outputs and scratch by name, floats as float64, NaN where never written."""

    tensors: dict[str, Array]
    faults: tuple[Fault, ...]

    def fault(self, kind: str) -> Fault | None:
        """The first fault of a kind."""
        return next((f for f in self.faults if f.kind == kind), None)


class _Unknown(Exception):
    """Iterations were skipped that an integer carried value depends on."""


def _float(value: Fraction) -> Any:
    try:
        return np.float64(float(value))
    except OverflowError:
        return np.float64(math.inf if value > 0 else -math.inf)


class Machine:
    """Runs kernels on a memory. `iterations`: how many of a loop to run, None for all of them."""

    def __init__(
        self,
        sizes: Mapping[str, int],
        parameters: Mapping[str, float],
        mode: Mode,
        memory: Memory,
        log: FaultLog,
        fuel: int,
        iterations: int | None = None,
    ) -> None:
        self.sizes = sizes
        self.parameters = parameters
        self.mode = mode
        self.memory = memory
        self.log = log
        self.fuel = fuel
        self.iterations = iterations
        self.site = Site("", (), 0)
        self.env: dict[str, Value] = {}

    # ---- control -----------------------------------------------------------------------------

    def launch(self, kernel: core.Kernel) -> None:
        extents = [self.integer(axis.extent) for axis in kernel.grid]
        self.memory.begin_launch()
        for number in range(math.prod(max(extent, 0) for extent in extents)):
            ids, rest = [], number
            for axis, extent in reversed(list(zip(kernel.grid, extents, strict=True))):
                rest, k = divmod(rest, extent)
                ids.append((axis.name, k))
            self.instance(kernel, tuple(reversed(ids)), number)

    def instance(self, kernel: core.Kernel, ids: tuple[tuple[str, int], ...], number: int) -> None:
        self.site = Site(kernel.name, ids, number, kernel.schedule.offset_bits)
        self.env = dict(ids)
        self.spend(0)
        self.run(kernel.body)

    def run(self, statements: tuple[core.Statement, ...]) -> None:
        for statement in statements:
            match statement:
                case core.Let():
                    value = self.value(statement.value)
                    self.spend(math.prod(statement.value.type.shape))
                    self.env[statement.name] = value
                case core.Store():
                    self.store(statement)
                case core.For():
                    self.loop(statement)

    def spend(self, elements: int) -> None:
        self.fuel -= _STEP + elements
        if self.fuel < 0:
            raise BudgetExceeded("the run takes too much work; use smaller sizes")

    def loop(self, loop: core.For) -> None:
        start, stop = self.integer(loop.start), self.integer(loop.stop)
        carries = [(carry.name, self.value(carry.init)) for carry in loop.carries]
        self.env.update(carries)
        for counter in self.trips(loop, start, stop):
            self.spend(0)
            self.env[loop.counter] = counter
            self.run(loop.body)
            self.env.update([(carry.name, self.value(carry.next)) for carry in loop.carries])

    def trips(self, loop: core.For, start: int, stop: int) -> Iterator[int]:
        if self.iterations is None or stop - start <= self.iterations:
            yield from range(start, stop)
            return
        if all(carry.type.dtype.is_float for carry in loop.carries):
            last = self.iterations // 2
            yield from range(start, start + self.iterations - last)
            yield from range(stop - last, stop)
            return
        yield from range(start, start + self.iterations)
        raise _Unknown

    def store(self, store: core.Store) -> None:
        index = tuple(self.value(k) for k in store.index)
        value = self.value(store.value)
        mask = None if store.mask is None else self.value(store.mask)
        shape = store.value.type.shape
        self.spend(math.prod(shape))
        self.memory.store(Access(store.tensor, index, shape, mask, self.site, store.span), value, store.atomic)

    # ---- expressions -------------------------------------------------------------------------

    def integer(self, expr: core.Expr) -> int:
        return int(self.value(expr))

    def value(self, expr: core.Expr) -> Value:
        """An INT scalar as a Python int, anything else as an array of the expression's shape."""
        result = self.evaluate(expr)
        return int(result) if expr.type.dtype.is_int and not expr.type.shape else result

    def evaluate(self, expr: core.Expr) -> Value:
        match expr:
            case core.Var(name=name):
                return self.env[name]
            case core.Literal(value=value, type=type_):
                if type_.dtype.is_float:
                    return self.rounded(_float(value), type_.dtype)
                return int(value) if type_.dtype.is_int else np.bool_(value)
            case core.Size(name=name):
                return self.sizes[name]
            case core.Constant(name=name, type=type_):
                return self.rounded(np.float64(CONSTANTS[name]), type_.dtype)
            case core.Param(name=name) if expr.type.dtype.is_int:
                return int(self.parameters[name])
            case core.Param(name=name, type=type_):
                return self.rounded(np.float64(self.parameters[name]), type_.dtype)
            case core.Binary():
                return self.binary(expr)
            case core.Unary():
                return self.unary(expr)
            case core.Select():
                condition = self.value(expr.condition)
                return np.where(condition, self.array(expr.then), self.array(expr.otherwise))
            case core.Cast():
                return self.cast(self.value(expr.operand), expr.operand.type.dtype, expr.type, expr.span)
            case core.Reduce():
                return self.reduce(expr)
            case core.Dot():
                return self.dot(expr)
            case core.Random():
                return random(self.integer(expr.seed), self.value(expr.counter)).astype(np.float64)
            case core.Load():
                return self.load(expr)
            case _:
                return self.reshaped(expr)

    def reshaped(self, expr: core.Arange | core.Broadcast | core.Expand | core.Transpose) -> Array:
        match expr:
            case core.Arange():
                return np.arange(expr.type.shape[0], dtype=np.int64)
            case core.Broadcast():
                return np.broadcast_to(self.array(expr.operand), expr.type.shape)
            case core.Expand():
                return np.expand_dims(self.array(expr.operand), expr.axis)
            case core.Transpose():
                return np.transpose(self.array(expr.operand))

    def array(self, expr: core.Expr) -> Array:
        value = self.value(expr)
        return integer_array(value) if expr.type.dtype.is_int else np.asarray(value)

    def rounded(self, x: Any, dtype: core.DType) -> Any:
        return round_to(x, dtype) if self.mode is Mode.MACHINE else x

    def unary(self, expr: core.Unary) -> Value:
        operand = self.value(expr.operand)
        if expr.type.dtype.is_int:
            value = -operand if expr.op == "neg" else abs(operand)
            return self.fitting(value, expr.type, expr.span)
        result = UNARY[expr.op](operand)
        if expr.op in EXACT_IN_FLOATS or not expr.type.dtype.is_float:
            return result
        return self.rounded(result, expr.type.dtype)

    def binary(self, expr: core.Binary) -> Value:
        left, right = self.value(expr.left), self.value(expr.right)
        if expr.op in COMPARE:
            return COMPARE[expr.op](left, right)
        if expr.type.dtype.is_int:
            return self.fitting(self.integer_op(expr, left, right), expr.type, expr.span)
        result = ARITHMETIC[expr.op](left, right)
        return result if expr.op in EXACT_IN_FLOATS else self.rounded(result, expr.type.dtype)

    def integer_op(self, expr: core.Binary, left: Value, right: Value) -> Value:
        if divides_by_zero(expr.op, right):
            self.log.add("undefined", f"integer {expr.op} by zero", self.site, "", (), expr.span)
        result = integer_binary(expr.op, left, right)
        if (isinstance(result, int) or result.dtype == object) and magnitude(result) >= INTEGER_LIMIT:
            raise BudgetExceeded("an integer grows without end")
        return result

    def fitting(self, value: Value, type_: core.Type, span: Span) -> Value:
        """A value of dtype i32 or i64 must fit; one that does not is a fault, and kept as it is."""
        worst = misfit(value, type_.dtype)
        if worst is not None:
            self.log.add("width", f"{worst} does not fit {type_.dtype.value}", self.site, "", (), span)
        return value

    def cast(self, value: Value, source: core.DType, target: core.Type, span: Span) -> Value:
        if target.dtype.is_float:
            if isinstance(value, int):
                value = np.float64(value)
            return self.rounded(np.asarray(value, dtype=np.float64), target.dtype)
        if target.dtype is core.DType.BOOL:
            return np.asarray(value != 0)
        if source is core.DType.BOOL:
            return np.asarray(value, dtype=np.int64)
        if source.is_float:
            raise InterpretError("no float turns into an integer in this language")
        return self.fitting(value, target, span)

    def reduce(self, expr: core.Reduce) -> Value:
        operand = self.value(expr.operand)
        if expr.type.dtype.is_int:
            return self.fitting(integer_reduce(expr.op, operand, expr.axis), expr.type, expr.span)
        result = REDUCE[expr.op](operand, axis=expr.axis)
        return self.rounded(result, expr.type.dtype) if expr.op == "sum" else result

    def dot(self, expr: core.Dot) -> Array:
        left, right = self.value(expr.left), self.value(expr.right)
        self.spend(left.shape[0] * left.shape[1] * right.shape[1] // 16)
        result = np.matmul(left, right)
        if expr.acc is not None:
            result = result + self.value(expr.acc)
        return np.asarray(self.rounded(result, expr.type.dtype))

    def load(self, expr: core.Load) -> Array:
        index = tuple(self.value(k) for k in expr.index)
        mask = None if expr.mask is None else self.value(expr.mask)
        other = None if expr.other is None else self.value(expr.other)
        self.spend(math.prod(expr.type.shape))
        return self.memory.load(Access(expr.tensor, index, expr.type.shape, mask, self.site, expr.span), other)


def _layouts(
    program: core.Program,
    bound: Bound,
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    strides: Mapping[str, tuple[int, ...]],
) -> dict[str, Layout]:
    """Concrete extents and strides (contiguous unless given) of every tensor. Raises InterpretError."""
    missing = [d.name for d in bound.dims if d.name not in sizes]
    missing += [p.name for p in bound.spec.parameters if p.name not in parameters]
    if missing:
        raise InterpretError(f"no value given for {', '.join(missing)}")
    layouts = {}
    machine = Machine(sizes, {}, Mode.EXACT, VirtualMemory({}, FaultLog()), FaultLog(), FUEL)
    for requirement in program.requires:
        if not machine.value(requirement):
            raise InterpretError(f"the program requires {text(requirement)}, which does not hold at {dict(sizes)}")
    for tensor in program.tensors:
        layout = Layout.contiguous(tensor, tuple(max(0, machine.integer(e)) for e in tensor.shape))
        given = strides.get(tensor.name, layout.strides)
        if len(given) != len(layout.extents):
            raise InterpretError(f"{tensor.name} has {len(layout.extents)} dimensions; {len(given)} strides given")
        layouts[tensor.name] = Layout(tensor, layout.extents, given)
    return layouts


def interpret(
    program: core.Program,
    bound: Bound,
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    inputs: Mapping[str, Array],
    mode: Mode,
    *,
    strides: Mapping[str, tuple[int, ...]] | None = None,
    fuel: int = FUEL,
    watch: Callable[[Memory], Memory] = lambda memory: memory,
    machine: Callable[..., Machine] = Machine,
) -> Outcome:
    """Run every kernel of `program`, in order, and report the tensors and what went wrong.

    `sizes` has a value for each symbolic dimension, `parameters` for each parameter, `inputs` an array
    for each input tensor (rounded to its dtype in machine mode). `strides` (elements, per dimension)
    replaces the contiguous layout of a tensor where address width is checked; values do not depend on
    it. `watch` may put something between kernels and memory that sees every access, e.g. to draw them;
    `machine` makes the `Machine`, e.g. one that runs kernels by other steps.
    Raises InterpretError, BudgetExceeded.
    """
    log = FaultLog()
    layouts = _layouts(program, bound, sizes, parameters, strides or {})
    for name, layout in layouts.items():
        if layout.tensor.role == "input":
            got = inputs[name].shape if name in inputs else None
            if got != layout.extents:
                raise InterpretError(f"input {name}: expected shape {layout.extents}, got {got}")
    if sum(math.prod(layout.extents) for layout in layouts.values()) > CELLS:
        raise BudgetExceeded(f"the tensors have more than {CELLS} cells; use smaller sizes")
    given = {name: inputs[name] for name, layout in layouts.items() if layout.tensor.role == "input"}
    with np.errstate(all="ignore"):
        rounded = round_to if mode is Mode.MACHINE else lambda x, _: x
        floats = {t.name: t.dtype for t in program.tensors if t.dtype.is_float}
        given = {name: rounded(x, floats[name]) if name in floats else x for name, x in given.items()}
        infinite = {t.name for t, _ in bound.outputs if t.overflows and mode is Mode.MACHINE}
        memory = ArrayMemory(layouts, given, log, rounded, infinite)
        runner = machine(sizes, parameters, mode, watch(memory), log, fuel)
        for kernel in program.kernels:
            runner.launch(kernel)
        memory.unwritten()
    return Outcome(memory.tensors(), tuple(log.faults))


def interpret_program_instance(
    program: core.Program,
    bound: Bound,
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    kernel: str,
    ids: Mapping[str, int],
    *,
    max_iterations: int = 4,
    strides: Mapping[str, tuple[int, ...]] | None = None,
    fuel: int = FUEL,
) -> tuple[Fault, ...]:
    """Run one program instance at sizes of any magnitude, looking for "bounds" and "width" faults.

    Tensors are virtual: loads give 0 or `other`, so faults that depend on float data are faults for
    tensors of zeros; integer inputs hold what `ir.facts.far_cell` says. Of a loop longer than
    `max_iterations` only the first and the last iterations run; where it carries an integer (whose last
    value is then unknown) only the first ones do, and the run ends there. So a fault found is real, and
    none found proves nothing. Raises InterpretError when the kernel or an id is not there.
    """
    chosen = next((k for k in program.kernels if k.name == kernel), None)
    if chosen is None:
        raise InterpretError(f"no kernel named {kernel}")
    log = FaultLog()
    layouts = _layouts(program, bound, sizes, parameters, strides or {})
    memory = VirtualMemory(layouts, log, lambda name, index: far_cell(bound, name, sizes, index))
    machine = Machine(sizes, parameters, Mode.EXACT, memory, log, fuel, max_iterations)
    for axis in chosen.grid:
        if not 0 <= ids.get(axis.name, -1) < machine.integer(axis.extent):
            raise InterpretError(f"{axis.name} = {ids.get(axis.name)} is not a program id of kernel {kernel}")
    # _Unknown: what follows the loop depends on a value nobody computed
    with np.errstate(all="ignore"), contextlib.suppress(_Unknown):
        machine.instance(chosen, tuple((a.name, ids[a.name]) for a in chosen.grid), 0)
    return tuple(f for f in log.faults if f.kind in ("bounds", "width"))


def grid_extents(kernel: core.Kernel, sizes: Mapping[str, int]) -> dict[str, int]:
    """The concrete extent of every grid axis of a kernel."""
    machine = Machine(sizes, {}, Mode.EXACT, VirtualMemory({}, FaultLog()), FaultLog(), FUEL)
    return {axis.name: machine.integer(axis.extent) for axis in kernel.grid}
