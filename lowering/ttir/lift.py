"""From Triton's own intermediate text (TTIR) back to the typed core.

Decides what each operation of TTIR means, as nodes of `ir.program`; the result is proved like any candidate
(`lowering.ttir.again`), so nothing of what emitted the Triton module or of Triton's front end is believed. What must be
believed instead is here:

- Integers are unbounded in the core. That no 32-bit operation overflows is B2's business, of the lifted kernel:
  `Lifted.narrow` says whether there are any, `Lifted.narrow_offsets` whether offsets are among them.
- A pointer is a tensor and an index for each of its strides: base + sum of index times stride is the address of the
  cell with these indices, whatever they are. B1 then shows that there is one.
- The program id is a number in mixed radix whose digits are the axes of the kernel's grid, as the launcher counts
  programs: x % n is its last digit and x // n the rest, where n is that digit's radix, and nothing else is read off it.
- Signed division is the core's where the dividend is not negative (`lowering.intervals`), or where what follows
  corrects the result (`integers.floored`).
- An f32 constant is the number of the candidate's text that rounds to it, log2(e) and ln 2 among them; how far that is
  off is N1's business. `Lifted.idealised` lists those that are no machine number.

Any operation, attribute or use that is not described here raises `NotLifted`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from ir import program as core
from ir.program import DType
from ir.spec import Bound
from lowering.intervals import UNKNOWN, Interval, interval
from lowering.plan import expression, walk
from lowering.ttir import text as ttir
from lowering.ttir.addresses import STORED, address, index
from lowering.ttir.boxes import box_store, in_front, whole
from lowering.ttir.functions import tanh
from lowering.ttir.integers import division, floored
from lowering.ttir.numbers import Numbers
from lowering.ttir.text import NotLifted, Operation
from lowering.ttir.values import PARTS, Descriptor, Pointer, Stride, Value, digits, integer

DTYPES = {
    "i1": DType.BOOL, "i32": DType.INT, "i64": DType.INT, "f32": DType.F32, "f16": DType.F16, "bf16": DType.BF16,
}  # fmt: skip
BINARY = {
    "arith.addi": "add", "arith.subi": "sub", "arith.muli": "mul", "arith.minsi": "min", "arith.maxsi": "max",
    "arith.addf": "add", "arith.subf": "sub", "arith.mulf": "mul", "arith.divf": "div", "arith.maxnumf": "max",
    "arith.minnumf": "min", "arith.andi": "and", "arith.ori": "or",
}  # fmt: skip
UNARY = {
    "arith.negf": "neg", "math.exp": "exp", "math.exp2": "exp2", "math.log": "log", "math.log2": "log2",
    "math.absf": "abs", "math.sqrt": "sqrt",
}  # fmt: skip
COMPARED = {
    "slt": "lt", "sle": "le", "sgt": "gt", "sge": "ge", "eq": "eq", "ne": "ne",
    "olt": "lt", "ole": "le", "ogt": "gt", "oge": "ge", "oeq": "eq", "one": "ne", "une": "ne",
}  # fmt: skip
ARITHMETIC = {
    "arith.addi", "arith.subi", "arith.muli", "arith.divsi", "arith.remsi", "arith.minsi", "arith.maxsi",
    "tt.get_program_id",
}  # fmt: skip
ATTRIBUTED = {
    "arith.constant", "tt.get_program_id", "tt.make_range", "tt.expand_dims", "tt.trans", "arith.cmpi", "arith.cmpf",
    "tt.reduce", "tt.dot",
}  # fmt: skip
FOLDED = {"arith.addf": "sum", "arith.maxnumf": "max", "arith.minnumf": "min"}


Limits = Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Lifted:
    """`narrow`: some integers are computed in 32 bits; `narrow_offsets`: offsets are."""

    kernel: core.Kernel
    narrow: bool
    narrow_offsets: bool
    idealised: tuple[str, ...]


def lift(source: str, launch: Mapping[str, Any], kernel: core.Kernel, program: core.Program, bound: Bound) -> Lifted:
    """The kernel that a module's text is, launched as `launch` says: its arguments in order, its grid that of `kernel`.
    Raises NotLifted."""
    limits: Limits = {d.name: (d.minimum, d.maximum) for d in bound.dims} | {
        p.name: (int(p.lower), int(p.upper)) for p in bound.spec.parameters if p.integer
    }
    function = ttir.function(source)
    if function.name != launch["kernel"] or launch["grid"] != [expression(axis.extent) for axis in kernel.grid]:
        raise NotLifted(f"the launch is of {launch['kernel']} on a grid of {launch['grid']}, which is another one")
    found = Lift(kernel, program, limits, Numbers(frozenset(e.value for e in _literals(program))))
    found.arguments(function.arguments, launch)
    found.block(function.operations)
    lifted = core.Kernel(kernel.name, kernel.grid, core.Schedule(), _used(found.statements, set()))
    return Lifted(lifted, found.narrow, found.narrow_offsets, tuple(sorted(found.numbers.idealised)))


def _literals(program: core.Program) -> Iterable[core.Literal]:
    return (e for e in walk(program.kernels) if isinstance(e, core.Literal) and e.type.dtype.is_float)


@dataclass(slots=True)
class Lift:
    kernel: core.Kernel
    program: core.Program
    limits: Limits
    numbers: Numbers
    made_by: dict[str, Operation] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    defined: dict[str, core.Expr] = field(default_factory=dict)
    ranges: dict[str, Interval] = field(default_factory=dict)
    unit: dict[str, int] = field(default_factory=dict)  # the axis of a tensor whose stride is 1
    statements: list[core.Statement] = field(default_factory=list)
    narrow: bool = False
    narrow_offsets: bool = False

    # ---- arguments and statements --------------------------------------------------------------

    def arguments(self, given: Sequence[tuple[str, ttir.Type]], launch: Mapping[str, Any]) -> None:
        """The launch's arguments are the function's, but for strides that are 1, which are no arguments."""
        wanted = [a for a in launch["args"] if not self._is_unit(a, launch["args"])]
        given = self._descriptors(given, wanted)
        wanted = [a for a in wanted if a[0] != "descriptor"]
        if len(wanted) != len(given):
            raise NotLifted(f"the function has {len(given)} arguments, the launch {len(wanted)}")
        for (name, kind), argument in zip(given, wanted, strict=True):
            match argument:
                case ["tensor", tensor, dtype] if kind.pointer and STORED.get(kind.element) == DType(dtype):
                    self.values[name] = Pointer(tensor, {})
                case ["stride" | "box_stride", tensor, axis] if not kind.pointer:
                    self.values[name] = Stride(tensor, axis)
                case ["size", size] if not kind.pointer:
                    self.values[name] = core.Size(size, core.Type(DType.INT))
                case ["parameter", parameter] if kind.element == "f32":
                    self.values[name] = core.Param(parameter, core.Type(DType.F32))
                case ["integer", parameter] if kind.element == "i64":
                    self.values[name] = core.Param(parameter, core.Type(DType.INT))
                case _:
                    raise NotLifted(f"the argument {argument} is not what the function takes, {kind}")
        for axis in self.kernel.grid:
            self.ranges[axis.name] = (0, None)

    def _descriptors(
        self, given: Sequence[tuple[str, ttir.Type]], wanted: Sequence[Sequence[Any]]
    ) -> Sequence[tuple[str, ttir.Type]]:
        """The arguments without descriptors, which come first, each followed by its tensor's extents and strides."""
        for _, tensor, dtype, box in (a for a in wanted if a[0] == "descriptor"):
            name, kind = given[0]
            if not kind.box or list(kind.shape) != box or STORED.get(kind.element) != DType(dtype):
                raise NotLifted(f"the descriptor of {tensor} is not what the function takes, {kind}")
            self.values[name] = whole(self.program.tensor(tensor), tuple(box))
            given = given[1 + 2 * len(box) :]
        return given

    def _is_unit(self, argument: Sequence[Any], every: Sequence[Sequence[Any]]) -> bool:
        """Modules are compiled for tensors whose last axis has stride 1."""
        if not argument[0].endswith("stride"):
            return False
        last = max(a[2] for a in every if a[0].endswith("stride") and a[1] == argument[1])
        if argument[2] == last:
            self.unit[argument[1]] = last
        return bool(argument[2] == last)

    def block(self, operations: Sequence[Operation]) -> None:
        for op in operations:
            try:
                self.operation(op)
            except (KeyError, ValueError, IndexError) as problem:
                why = f"{type(problem).__name__} {problem}"
                raise NotLifted(f"line {op.line}: {op.name} on operands without a meaning ({why})") from problem

    def operation(self, op: Operation) -> None:
        match op.name:
            case "scf.for":
                self.loop(op)
            case "tt.store" | "tt.atomic_rmw":
                self.store(op)
            case "tt.descriptor_store" if isinstance(box := self.values[op.operands[0]], Descriptor):
                self.statements.append(box_store(self, op, box))
            case "tt.return":
                return
            case _:
                if len(op.results) != 1:
                    raise NotLifted(f"line {op.line}: {op.name}")
                self.made_by[op.results[0]] = op
                self.values[op.results[0]] = self.named(op, self.value(op))

    def named(self, op: Operation, value: Value) -> Value:
        """A value that later ones may use: computed once, under a name of its line, which no candidate's name is."""
        if isinstance(value, (*PARTS, core.Var)) or _is_constant(value):
            return value
        name = f"%{op.line}"
        self.statements.append(core.Let(name, value, span=op.span))
        self.defined[name] = value
        if value.type.dtype.is_int:
            self.ranges[name] = interval(value, self.limits, self.ranges)
        return core.Var(name, value.type)

    def loop(self, op: Operation) -> None:
        """What is defined inside is not seen outside; names are made of lines, as numbers may be used again."""
        assert op.body is not None
        start, stop, step, *firsts = (self.expression(name) for name in op.operands)
        if step != integer(1):
            raise NotLifted(f"line {op.line}: a loop whose step is not 1")
        counter, *carried = op.body.arguments
        body, yielded = _ending(op.body, len(carried))
        outside, inside = self.values, dict(self.values)
        counting = core.Var(f"%{op.line}.n", core.Type(DType.INT))
        self.ranges[counting.name] = (interval(start, self.limits, self.ranges)[0], None)
        names = [core.Var(f"%{op.line}.{k}", first.type) for k, first in enumerate(firsts)]
        self.ranges |= {v.name: UNKNOWN for v in names}
        self.values = inside | dict(zip([counter, *carried], [counting, *names], strict=True))
        before, self.statements = self.statements, []
        self.block(body)
        nexts = [self.expression(name) for name in yielded]
        if any(after.type != v.type for v, after in zip(names, nexts, strict=True)):
            raise NotLifted(f"line {op.line}: what is carried changes its type")
        carries = tuple(core.Carry(v.name, a, b, v.type) for v, a, b in zip(names, firsts, nexts, strict=True))
        loop = core.For(counting.name, start, stop, carries, tuple(self.statements), span=op.span)
        self.statements = [*before, loop]
        self.values = outside | dict(zip(op.results, names, strict=True))

    def store(self, op: Operation) -> None:
        atomic = op.name == "tt.atomic_rmw"
        if not re.fullmatch(r"fadd \w+ gpu" if atomic else "", op.words):
            raise NotLifted(f"line {op.line}: {op.name} with {op.words}")
        pointer, value = self.pointer(op.operands[0]), self.expression(op.operands[1])
        mask = self.expression(op.operands[2]) if len(op.operands) > 2 else None
        cell = index(self, pointer, value.type.shape)
        self.statements.append(core.Store(pointer.tensor, cell, value, mask, atomic, span=op.span))

    # ---- values --------------------------------------------------------------------------------

    def expression(self, name: str) -> core.Expr:
        value = self.values[name]
        if isinstance(value, PARTS):
            raise ValueError(f"{name} is no number of the core but a {type(value).__name__}")
        return value

    def pointer(self, name: str) -> Pointer:
        value = self.values[name]
        if not isinstance(value, Pointer):
            raise ValueError(f"{name} is no pointer")
        return value

    def value(self, op: Operation) -> Value:
        name = op.name
        if any(isinstance(self.values.get(o), PARTS) for o in op.operands):
            return address(self, op)
        type_ = core.Type(DTYPES[op.types[-1].element], op.types[-1].shape) if op.types else core.Type(DType.INT)
        given = [self.expression(o) for o in op.operands]
        if op.words and name not in ATTRIBUTED:
            raise NotLifted(f"line {op.line}: {name} with {op.words}")
        if type_.dtype is DType.INT and op.types[-1].element == "i32" and name in ARITHMETIC:
            self.narrow = True
        span = op.span
        match name:
            case "arith.constant":
                return self.constant(op, type_)
            case "tt.get_program_id":
                return self.program_id(op)
            case "tt.make_range" if "start = 0 " in op.attributes and f"end = {type_.shape[0]} " in op.attributes:
                return core.Arange(type_, span)
            case "tt.reshape":
                return in_front(op, given[0])
            case "tt.splat" | "tt.broadcast":
                return core.Broadcast(given[0], type_, span)
            case "tt.expand_dims":
                return core.Expand(given[0], op.attribute("axis"), type_, span)
            case "tt.trans" if "array<i32: 1, 0>" in op.attributes:
                return core.Transpose(given[0], type_, span)
            case "arith.divsi" | "arith.remsi":
                return division(self, op, given, type_)
            case "arith.xori" if type_.dtype is DType.BOOL and _is_true(given[1]):
                return core.Unary("not", given[0], type_, span)
            case "arith.andi" | "arith.ori" if type_.dtype is not DType.BOOL:
                raise NotLifted(f"line {op.line}: {name} of integers")
            case "arith.cmpi" | "arith.cmpf":
                said = COMPARED[op.words]
                return core.Binary(said, given[0], given[1], core.Type(DType.BOOL, type_.shape), span)
            case "arith.select":
                chosen = core.Select(given[0], given[1], given[2], type_, span)
                known = tanh(self, op, chosen) if type_.dtype.is_float else floored(self, op)
                return known or chosen
            case "arith.extsi" if given[0].type.dtype is DType.INT:
                return given[0]
            case "arith.trunci" if given[0].type.dtype is DType.INT and op.types[-1].element == "i32":
                return core.Cast(core.Cast(given[0], core.Type(DType.I32, type_.shape), span), type_, span)
            case "arith.extf" | "arith.truncf" | "arith.sitofp":
                return core.Cast(given[0], type_, span)
            case "arith.extui" | "arith.uitofp" if given[0].type.dtype is DType.BOOL:
                return core.Cast(given[0], type_, span)
            case "tt.reduce":
                return core.Reduce(_folded(op), given[0], op.attribute("axis"), type_, span)
            case "tt.dot" if op.words in precisions(given[0].type.dtype):
                acc = None if _is_zero(given[2]) else given[2]
                return core.Dot(given[0], given[1], acc, type_, span)
            case _ if name in BINARY:
                return core.Binary(BINARY[name], given[0], given[1], type_, span)
            case _ if name in UNARY:
                return core.Unary(UNARY[name], given[0], type_, span)
            case _:
                raise NotLifted(f"line {op.line}: {name} {op.words}")

    def constant(self, op: Operation, type_: core.Type) -> core.Expr:
        said = op.words
        said = said.removeprefix("dense<").removesuffix(">") if type_.shape else said
        scalar = core.Type(type_.dtype)
        e: core.Expr
        if type_.dtype is DType.BOOL:
            e = core.Literal(Fraction({"true": 1, "false": 0}[said]), scalar)
        elif type_.dtype is DType.INT:
            e = core.Literal(Fraction(int(said)), scalar)
        else:
            e = self.numbers.read(said, type_.dtype)
        return core.Broadcast(e, type_) if type_.shape else e

    # ---- integers ------------------------------------------------------------------------------

    def program_id(self, op: Operation) -> Value:
        if op.words != "x":
            raise NotLifted(f"line {op.line}: a grid of more than one dimension")
        return digits(self.kernel.grid)


def _used(body: Sequence[core.Statement], names: set[str]) -> tuple[core.Statement, ...]:
    """Statements without values that nothing uses (what `tanh` is computed by); loads stay. `names`: used later on."""
    kept: list[core.Statement] = []
    for s in reversed(body):
        if isinstance(s, core.For):
            names |= {e.name for c in s.carries for e in walk((c.init, c.next)) if isinstance(e, core.Var)}
            s = replace(s, body=_used(s.body, names))
        nodes = list(walk(s))
        if isinstance(s, core.Let) and s.name not in names and not any(isinstance(e, core.Load) for e in nodes):
            continue
        names |= {e.name for e in nodes if isinstance(e, core.Var)}
        kept.append(s)
    return tuple(reversed(kept))


def _ending(body: ttir.Block, carried: int) -> tuple[Sequence[Operation], tuple[str, ...]]:
    """A loop's operations, and what it yields at their end; a loop that carries nothing may leave that out."""
    last = body.operations[-1] if body.operations else None
    if last is not None and last.name == "scf.yield":
        return body.operations[:-1], last.operands
    if carried:
        raise NotLifted("a loop that does not end by yielding what it carries")
    return body.operations, ()


def precisions(dtype: DType) -> tuple[str, ...]:
    """How a dot may say it multiplies: what is shorter than tf32 is multiplied exactly either way."""
    ieee = ("", "inputPrecision = ieee")
    return ieee if dtype is DType.F32 else (*ieee, "inputPrecision = tf32")


def _is_constant(e: core.Expr) -> bool:
    """Whether nothing is computed: a number, a size or a parameter, everywhere in a tile; or -inf."""
    while isinstance(e, core.Broadcast) or isinstance(e, core.Unary) and e.op == "neg":
        e = e.operand
    return isinstance(e, (core.Literal, core.Size, core.Param, core.Constant))


def _is_zero(e: core.Expr) -> bool:
    return isinstance(e, core.Broadcast) and isinstance(e.operand, core.Literal) and e.operand.value == 0


def _is_true(e: core.Expr) -> bool:
    e = e.operand if isinstance(e, core.Broadcast) else e
    return isinstance(e, core.Literal) and e.value == 1


def _folded(op: Operation) -> str:
    """What a reduction's block says: one operation on its two arguments."""
    assert op.body is not None
    inner, last = op.body.operations
    alike = sorted(inner.operands) == sorted(op.body.arguments) and last.operands == inner.results
    if last.name != "tt.reduce.return" or not alike or inner.name not in FOLDED:
        raise ValueError(f"a reduction by {inner.name}")
    return FOLDED[inner.name]
