"""The typed core: what a kernel file means once names, shapes and dtypes are settled.

`typing.check(module, bound_spec)` produces a `Program`. Every consumer (interpreter, prover, Triton,
CPU) reads only these nodes. They are small on purpose:

- meta-parameters and static dimensions (head dim) are already numbers; sizes stay symbols;
- broadcasting is explicit (`Broadcast`), so both operands of a `Binary` have one shape and dtype;
- names are assigned once (a re-assigned `m` becomes `m_1`); a `For` owns its carried names;
- integers have dtype INT, unbounded in the logic; I32/I64 appear only where the candidate casts,
  and then claim that the value fits (obligation B2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from fractions import Fraction

from ir.ast import NOWHERE, Span


class DType(Enum):
    INT = "int"
    I32 = "i32"
    I64 = "i64"
    BOOL = "bool"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F16, DType.BF16)

    @property
    def is_int(self) -> bool:
        return self in (DType.INT, DType.I32, DType.I64)

    @property
    def bits(self) -> int:
        """Storage width; INT counts as 64."""
        return {"int": 64, "i32": 32, "i64": 64, "bool": 8, "f32": 32, "f16": 16, "bf16": 16}[self.value]


@dataclass(frozen=True, slots=True)
class Type:
    dtype: DType
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.dtype.value + (str(list(self.shape)) if self.shape else "")


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Literal:
    """An exact scalar: an integer (INT), a rational (float dtype) or 0/1 (BOOL)."""

    value: Fraction
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Constant:
    """name: 'log2e', 'ln2' or 'inf'; exact in the logic, rounded only by machine floats."""

    name: str
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Var:
    """A let-bound or carried name, a program id, or a loop counter."""

    name: str
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Size:
    """A symbolic size of the spec, e.g. N (INT scalar)."""

    name: str
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of the spec: a real one, e.g. scale (F32 scalar), or an integer one, e.g. seed (INT)."""

    name: str
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    """op: neg, not, exp, exp2, log, log2, abs, sqrt, tanh, sigmoid."""

    op: str
    operand: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    """op: add sub mul div floordiv mod min max lt le gt ge eq ne and or. 'div' is real division;
    floordiv and mod round towards minus infinity. Operands have equal type."""

    op: str
    left: Expr
    right: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Select:
    """where(condition, then, otherwise); all three have one shape."""

    condition: Expr
    then: Expr
    otherwise: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Cast:
    operand: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Arange:
    """0 .. type.shape[0]-1 as an INT tile of rank 1."""

    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Broadcast:
    """A scalar to any shape, or extents of 1 to larger ones; the rank is kept unless scalar."""

    operand: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Expand:
    """Insert an axis of extent 1 at `axis` (position in the result)."""

    operand: Expr
    axis: int
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Transpose:
    """Swap the two axes of a rank-2 tile."""

    operand: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Reduce:
    """op: sum, max, min; removes `axis`."""

    op: str
    operand: Expr
    axis: int
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Dot:
    """left [m, k] times right [k, n] (one float dtype) plus acc [m, n] (F32) if given; result F32."""

    left: Expr
    right: Expr
    acc: Expr | None
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Random:
    """ir.random.random(seed, counter): seed an INT scalar, counter INT of the result's shape; F32."""

    seed: Expr
    counter: Expr
    type: Type
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Load:
    """tensor[index] where mask holds, `other` elsewhere. Each index is an INT scalar, or has the
    rank of the result with extents equal to it or 1. mask and other have the result's shape."""

    tensor: str
    index: tuple[Expr, ...]
    mask: Expr | None
    other: Expr | None
    type: Type
    span: Span = _span()


Expr = (
    Literal | Constant | Var | Size | Param | Unary | Binary | Select | Cast | Arange | Broadcast
    | Expand | Transpose | Reduce | Dot | Random | Load
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Let:
    name: str
    value: Expr
    comment: str = field(default="", compare=False)
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Store:
    """tensor[index] = value where mask holds; += when atomic. `shape` is the tile stored; index as
    in `Load`, value and mask have that shape, value has the tensor's dtype."""

    tensor: str
    index: tuple[Expr, ...]
    value: Expr
    mask: Expr | None
    atomic: bool = False
    comment: str = field(default="", compare=False)
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Carry:
    """One carried name: before the loop it is `init`, after each iteration `next` (evaluated in the
    body's scope, all at once), after the loop its last value under the same name."""

    name: str
    init: Expr
    next: Expr
    type: Type


@dataclass(frozen=True, slots=True)
class For:
    """counter = start, start+1, ..., stop-1 (no iteration when stop <= start)."""

    counter: str
    start: Expr
    stop: Expr
    carries: tuple[Carry, ...]
    body: tuple[Statement, ...]
    comment: str = field(default="", compare=False)
    span: Span = _span()


Statement = Let | Store | For


@dataclass(frozen=True, slots=True)
class Tensor:
    """role: input, output or scratch. Each extent is an INT scalar expression over sizes."""

    name: str
    shape: tuple[Expr, ...]
    dtype: DType
    role: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to run, never what: nothing here may change a result. `offset_bits=32` asks for 32-bit
    addresses, which B2 must then prove. `persistent`: fewer programs take the grid's points in turns
    (`lowering.persistent`). `skip_ones`: where a loop multiplies a tile it carries by a factor for each row or
    column and all factors are exactly 1, leave the multiplication out (x * 1.0 is x, in every bit)."""

    num_warps: int = 4
    num_stages: int = 2
    warp_specialize: bool = False
    maxnreg: int | None = None
    offset_bits: int | None = None
    persistent: bool = False
    skip_ones: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    name: str
    extent: Expr


@dataclass(frozen=True, slots=True)
class Kernel:
    name: str
    grid: tuple[Axis, ...]
    schedule: Schedule
    body: tuple[Statement, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Program:
    """A candidate bound to a spec: `tensors` lists every tensor the kernels may name. `requires` are BOOL
    scalars over sizes: the program is run only at sizes where all hold (`ir.requirements`)."""

    kernels: tuple[Kernel, ...]
    tensors: tuple[Tensor, ...]
    metas: tuple[tuple[str, int], ...]
    requires: tuple[Expr, ...] = ()

    def tensor(self, name: str) -> Tensor:
        return next(t for t in self.tensors if t.name == name)
