"""Executes a typed program on the CPU: all program instances of a grid at once, with torch batched ops.

Every value carries a leading program axis: a tile [BM, BN] is a tensor [P, BM, BN], a scalar that
depends on the program id a vector [P], and a dot a batched matrix product. Programs whose loops end
earlier keep their carried values by masking. The grid is walked in chunks, so that a chunk's tiles
stay in cache. It means exactly what `ir.interpret` means in machine precision, up to the order and
width of accumulation in dots and sums (float32 here); tests hold the two together.

A certificate is the way in (`execute_certificate`); `execute` runs any typed program, for tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from ir import program as core
from ir.loader import bind, parse_spec
from ir.nearby import admits
from ir.parser import parse
from ir.random import random
from ir.requirements import texts
from ir.spec import Bound
from ir.typing import check
from lowering.lanes import Integer, Lanes, arange, arithmetic, compare, dense
from lowering.lower import require_certified
from lowering.memory import Block, read, write
from lowering.values import (
    COMPARISONS,
    CONSTANTS,
    FLOAT,
    FUNCTIONS,
    TORCH,
    Value,
    as_tensor,
    constant,
    covers,
    full,
    logic,
    zero,
)
from verifier.certificate import Certificate

CHUNK_BYTES = 1 << 20  # of the largest tile, over a chunk's programs: about what a core's cache holds


class ExecutionError(Exception):
    """An input is missing or has another shape or dtype than the program's tensors."""


def execute_certificate(
    certificate: Certificate,
    program: core.Program,
    bound: Bound,
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    inputs: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """`execute`, for a program the certificate was issued for. Raises NotCertified."""
    require_certified(certificate, program, bound)
    return execute(program, bound, sizes, parameters, inputs)


def execute_subject(
    subject: Mapping[str, Any],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    inputs: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """`execute`, for the candidate, spec and settings that are a certificate's subject, and nothing else."""
    settings = tuple(sorted(subject["settings"].items()))
    program, bound = _certified(subject["candidate"]["text"], subject["spec"]["text"], settings)
    return execute(program, bound, sizes, parameters, inputs)


@cache
def _certified(candidate: str, spec: str, settings: tuple[tuple[str, str | int], ...]) -> tuple[core.Program, Bound]:
    bound = bind(parse_spec(spec), dict(settings))
    return check(parse(candidate), bound, candidate), bound


def execute(
    program: core.Program,
    bound: Bound,
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    inputs: Mapping[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Outputs by name. `sizes`: every symbolic dimension of `bound`, as the program requires them; `inputs`: CPU
    tensors of the spec's dtypes.

    Output cells no program stores are NaN. Runs as many chunks at a time as torch has threads, each on
    one thread: torch's own threads would meet at a barrier after every small operation. Raises
    ExecutionError.
    """
    missing = [d.name for d in bound.dims if d.name not in sizes]
    missing += [p.name for p in bound.spec.parameters if p.name not in parameters]
    if missing:
        raise ExecutionError(f"no value given for {', '.join(missing)}")
    if program.requires and not admits(program, bound, sizes):
        raise ExecutionError(f"the program requires {' and '.join(texts(program))}, not so at {dict(sizes)}")
    integers = {p.name: int(parameters[p.name]) for p in bound.spec.parameters if p.integer}
    scalars = {k: torch.tensor(v, dtype=torch.float32) for k, v in parameters.items() if k not in integers}
    machine = _Machine({**sizes, **integers}, scalars, {})
    for tensor in program.tensors:
        shape = tuple(machine.number(extent) for extent in tensor.shape)
        if tensor.role == "input":
            machine.tensors[tensor.name] = _input(tensor.name, shape, TORCH[tensor.dtype], inputs)
        else:
            fill = math.nan if tensor.dtype.is_float else 0
            machine.tensors[tensor.name] = torch.full(shape, fill, dtype=TORCH[tensor.dtype])
    workers = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for kernel in program.kernels:
            machine.launch(kernel, workers)
    finally:
        torch.set_num_threads(workers)
    return {t.name: machine.tensors[t.name] for t in program.tensors if t.role == "output"}


def _input(name: str, shape: tuple[int, ...], dtype: torch.dtype, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    given = inputs.get(name)
    if given is None or tuple(given.shape) != shape or given.dtype is not dtype:
        found = "nothing" if given is None else f"{tuple(given.shape)} of {given.dtype}"
        raise ExecutionError(f"input {name}: expected {shape} of {dtype}, got {found}")
    return given.detach().contiguous()


@dataclass(slots=True)
class _Machine:
    """Runs one chunk of programs at a time. `active` is None while every program of the chunk runs."""

    sizes: dict[str, int]
    parameters: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]
    env: dict[str, Value] = field(default_factory=dict)
    active: torch.Tensor | None = None

    # ---- control -----------------------------------------------------------------------------

    def number(self, expr: core.Expr) -> int:
        value = self.value(expr)
        if not isinstance(value, Lanes) or value.uniform is None:
            raise ExecutionError("an extent depends on something else than sizes")
        return value.uniform

    def launch(self, kernel: core.Kernel, workers: int) -> None:
        """Every program of the grid, in chunks; `workers` chunks at a time."""
        extents = [self.number(axis.extent) for axis in kernel.grid]
        if any(extent <= 0 for extent in extents):
            return
        programs, rows = math.prod(extents), extents[-1] if extents else 1
        size = _chunk(kernel, rows)
        firsts = range(0, programs, size)

        def work(first: int) -> None:
            chunk = _Machine(self.sizes, self.parameters, self.tensors)
            with torch.no_grad(), torch.autocast("cpu", enabled=False):  # settings of the thread
                chunk.programs(kernel, extents, torch.arange(first, min(first + size, programs)))

        if workers == 1 or len(firsts) == 1 or any(_atomic(s) for s in kernel.body):
            for first in firsts:  # concurrent atomic additions would have to be locked
                work(first)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(work, firsts))

    def programs(self, kernel: core.Kernel, extents: list[int], ids: torch.Tensor) -> None:
        """The programs with these linear numbers, together."""
        for axis, extent in zip(reversed(kernel.grid), reversed(extents), strict=True):
            value = ids % extent
            ids = ids // extent
            same = bool((value == value[0]).all())
            self.env[axis.name] = Lanes(int(value[0]) if same else value)
        self.run(kernel.body)

    def run(self, statements: tuple[core.Statement, ...]) -> None:
        for statement in statements:
            match statement:
                case core.Let(name=name, value=value):
                    self.env[name] = self.value(value)
                case core.Store():
                    self.store(statement)
                case core.For():
                    self.loop(statement)

    def loop(self, loop: core.For) -> None:
        start, stop = self.integer(loop.start), self.integer(loop.stop)
        values = [(carry.name, self.value(carry.init)) for carry in loop.carries]
        self.env.update(values)
        if isinstance(start, int) and isinstance(stop, int):
            for counter in range(start, stop):
                self.iterate(loop, Lanes(counter))
            return
        trips = torch.as_tensor(stop) - torch.as_tensor(start)
        outer = self.active
        for k in range(max(int(trips.max()), 0)):
            running = trips > k
            if outer is not None:
                running = running & outer
            if not bool(running.any()):
                break
            self.active = None if bool(running.all()) else running
            self.iterate(loop, Lanes(start + k))
        self.active = outer

    def iterate(self, loop: core.For, counter: Lanes) -> None:
        self.env[loop.counter] = counter
        self.run(loop.body)
        following = [self.value(carry.next) for carry in loop.carries]
        for carry, value in zip(loop.carries, following, strict=True):
            self.env[carry.name] = self.kept(value, self.env[carry.name], len(carry.type.shape))

    def kept(self, new: Value, old: Value, rank: int) -> Value:
        """The new value in programs still running, the old one in those whose loop has ended."""
        if self.active is None or new is old:
            return new
        return torch.where(self.active.view(-1, *(1,) * rank), as_tensor(new), as_tensor(old))

    def store(self, store: core.Store) -> None:
        value = as_tensor(self.value(store.value))
        mask = True if store.mask is None else self.truth(store.mask)
        block = Block(tuple(self.index(k) for k in store.index), store.value.type.shape)
        write(self.tensors[store.tensor], block, value, self.masked(mask, block.shape), store.atomic)

    def masked(self, mask: bool | torch.Tensor, shape: tuple[int, ...]) -> bool | torch.Tensor:
        """The mask, and only programs that are still running."""
        if self.active is None or mask is False:
            return mask
        running = self.active.view(-1, *(1,) * len(shape))
        return running if mask is True else running & mask

    # ---- expressions -------------------------------------------------------------------------

    def integer(self, expr: core.Expr) -> int | torch.Tensor:
        """A scalar integer: an int when all programs agree, else [P]."""
        value = self.index(expr)
        return value.base if isinstance(value, Lanes) else value

    def index(self, expr: core.Expr) -> Integer:
        value = self.value(expr)
        if isinstance(value, bool):
            raise ExecutionError("a truth value is used as an integer")
        return value

    def truth(self, expr: core.Expr) -> bool | torch.Tensor:
        value = self.value(expr)
        if isinstance(value, Lanes):
            raise ExecutionError("an integer is used as a truth value")
        return value

    def value(self, expr: core.Expr) -> Value:
        match expr:
            case core.Var(name=name):  # the commonest first: a tile program is interpreted once per iteration
                return self.env[name]
            case core.Broadcast() | core.Expand() | core.Transpose() | core.Arange():
                return self.reshaped(expr)
            case core.Binary():
                return self.binary(expr)
            case core.Literal() if expr.type.dtype.is_int:
                return Lanes(int(expr.value))
            case core.Literal() if expr.type.dtype is core.DType.BOOL:
                return bool(expr.value)
            case core.Literal():
                return constant(float(expr.value), expr.type.dtype)
            case core.Constant(name=name):
                return constant(CONSTANTS[name], expr.type.dtype)
            case core.Unary():
                return self.unary(expr)
            case core.Size(name=name):
                return Lanes(self.sizes[name])
            case core.Param(name=name) if expr.type.dtype.is_int:
                return Lanes(self.sizes[name])
            case core.Select():
                return self.select(expr)
            case core.Reduce():
                return self.reduce(expr)
            case core.Cast():
                return self.cast(expr)
            case core.Load():
                return self.load(expr)
            case core.Dot():
                return self.dot(expr)
            case core.Random():
                return self.random(expr)
            case core.Param(name=name):
                return self.parameters[name]

    def random(self, expr: core.Random) -> torch.Tensor:
        seed, counter = dense(self.index(expr.seed)), dense(self.index(expr.counter))
        seed = seed.view(-1, *(1,) * len(expr.type.shape))
        return torch.from_numpy(random(seed.numpy(), counter.numpy()))

    def load(self, expr: core.Load) -> torch.Tensor:
        mask = True if expr.mask is None else self.truth(expr.mask)
        other = None if expr.other is None else as_tensor(self.value(expr.other))
        block = Block(tuple(self.index(k) for k in expr.index), expr.type.shape)
        loaded = read(self.tensors[expr.tensor], block, self.masked(mask, block.shape), other)
        return loaded.to(torch.int64) if expr.type.dtype.is_int else loaded

    def reshaped(self, expr: core.Arange | core.Broadcast | core.Expand | core.Transpose) -> Value:
        if isinstance(expr, core.Arange):
            return arange(expr.type.shape[0])
        value = self.value(expr.operand)
        if isinstance(value, bool):
            return value
        match expr:
            case core.Broadcast(operand=x):
                if isinstance(value, Lanes):
                    return value.broadcast(expr.type.shape)
                if x.type.shape or value.dim() == 0:
                    return value  # extents of 1 broadcast when they meet others
                return value.view(-1, *(1,) * len(expr.type.shape))
            case core.Expand(axis=axis):
                if isinstance(value, Lanes):
                    return value.expand(axis)
                return value if value.dim() == 0 else value.unsqueeze(axis + 1)
            case core.Transpose():
                if isinstance(value, Lanes):
                    return value.transpose()
                return value if value.dim() == 0 else value.transpose(1, 2)

    def unary(self, expr: core.Unary) -> Value:
        value = self.value(expr.operand)
        if expr.op == "not":
            return (not value) if isinstance(value, bool) else ~as_tensor(value)
        if expr.type.dtype.is_int and not isinstance(value, bool):
            negative = arithmetic("sub", zero(value), value)
            return negative if expr.op == "neg" else arithmetic("max", value, negative)
        x = as_tensor(value)
        return FUNCTIONS[expr.op](x, out=x if _fresh(expr.operand, x) else None)

    def binary(self, expr: core.Binary) -> Value:
        left, right = self.value(expr.left), self.value(expr.right)
        if expr.op in ("and", "or") or expr.left.type.dtype is core.DType.BOOL:
            return logic(expr.op, left, right)
        if expr.left.type.dtype.is_int:
            if isinstance(left, bool) or isinstance(right, bool):
                raise ExecutionError("a truth value is used as an integer")
            if expr.op in COMPARISONS:
                return compare(expr.op, left, right)
            return arithmetic(expr.op, left, right)
        x, y = as_tensor(left), as_tensor(right)
        if expr.op in COMPARISONS:
            return FLOAT[expr.op](x, y)
        if covers(x, y) and _fresh(expr.left, x):
            return FLOAT[expr.op](x, y, out=x)
        return FLOAT[expr.op](x, y, out=y if covers(y, x) and _fresh(expr.right, y) else None)

    def select(self, expr: core.Select) -> Value:
        condition = self.truth(expr.condition)
        if isinstance(condition, bool):
            return self.value(expr.then if condition else expr.otherwise)
        return torch.where(condition, as_tensor(self.value(expr.then)), as_tensor(self.value(expr.otherwise)))

    def cast(self, expr: core.Cast) -> Value:
        value, target = self.value(expr.operand), expr.type.dtype
        if target.is_int and expr.operand.type.dtype.is_int:
            return value  # a claim that it fits, proved elsewhere
        if target.is_int:
            return as_tensor(value).to(torch.int64)
        if target is core.DType.BOOL:
            return value if expr.operand.type.dtype is core.DType.BOOL else as_tensor(value) != 0
        return as_tensor(value).to(TORCH[target])

    def reduce(self, expr: core.Reduce) -> Value:
        operand = full(self.value(expr.operand), expr.operand.type.shape)
        axis = expr.axis + 1
        if expr.op != "sum":
            return operand.amax(axis) if expr.op == "max" else operand.amin(axis)
        half = expr.type.dtype in (core.DType.F16, core.DType.BF16)
        total = operand.sum(axis, dtype=torch.float32 if half else None)
        return total.to(TORCH[expr.type.dtype]) if half else total

    def dot(self, expr: core.Dot) -> torch.Tensor:
        left, right = (full(self.value(x), x.type.shape).to(torch.float32) for x in (expr.left, expr.right))
        acc = None if expr.acc is None else full(self.value(expr.acc), expr.acc.type.shape)
        if right.shape[0] == 1 and left.shape[0] > 1 and left.is_contiguous():
            product = torch.matmul(left.view(-1, left.shape[2]), right[0]).view(-1, *expr.type.shape)
            return product if acc is None else product.add_(acc)
        programs = max(left.shape[0], right.shape[0], 1 if acc is None else acc.shape[0])
        left, right = (x.expand(programs, -1, -1) for x in (left, right))
        return torch.bmm(left, right) if acc is None else torch.baddbmm(acc.expand(programs, -1, -1), left, right)


def _fresh(expr: core.Expr, value: torch.Tensor) -> bool:
    """Whether nothing else can hold this value, so that its memory may take the next result: it came
    straight from an operation, was not given a name, and is more than a constant."""
    return isinstance(expr, core.Dot | core.Unary | core.Binary) and value.dim() > 0


def _atomic(statement: core.Statement) -> bool:
    match statement:
        case core.Store(atomic=atomic):
            return atomic
        case core.For(body=body):
            return any(_atomic(s) for s in body)
        case _:
            return False


def _tiles(statements: tuple[core.Statement, ...]) -> Iterator[int]:
    """Elements of every tile that gets a name."""
    for statement in statements:
        match statement:
            case core.Let(value=value):
                yield math.prod(value.type.shape)
            case core.For(body=body):
                yield from _tiles(body)


def _chunk(kernel: core.Kernel, rows: int) -> int:
    """Programs run together: whole rows of the grid's last axis when they fit, else even parts of a row."""
    largest = max(_tiles(kernel.body), default=1)
    fitting = max(CHUNK_BYTES // (4 * largest), 1)
    if rows >= fitting:
        return math.ceil(rows / math.ceil(rows / fitting))
    return rows * max(fitting // (4 * rows), 1)  # rows share loads within themselves, so join only short ones
