"""Every node of the surface syntax, on one page: read this first.

Two languages share the expression nodes. A *kernel file* (`.tile`) is a `Module`; a *spec formula*
is a tuple of `Definition`s. The parser builds these nodes, the printer prints them, and
`parse(print(x)) == x`. Spans never take part in equality, so two programs that differ in layout
only are the same program. Nothing here has a meaning yet: `typing.py` turns a `Module` into the
typed core of `program.py`, and that is what everything downstream reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Span:
    """A source range; lines and columns count from 1, the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


NOWHERE = Span(0, 0, 0, 0)


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


# ---- expressions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """An exact literal. `is_float` records a '.' or exponent: 2.0 is a float, 2 is an integer."""

    value: Fraction
    is_float: bool = False
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted string, only ever compared with a spec option: causal == "none"."""

    value: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Name:
    """A variable, size, parameter, or one of the constants log2e, ln2, inf, true, false."""

    id: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    """op: '-' or 'not'."""

    op: str
    operand: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    """op: + - * / // % < <= > >= == != and or."""

    op: str
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Call:
    """A built-in operation: exp(x), sum(x, axis=1), cast(p, V.dtype), load(Q[...], mask=..., other=0)."""

    function: str
    args: tuple[Expr, ...]
    keywords: tuple[tuple[str, Expr], ...] = ()
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Element:
    """A tensor cell addressed by named dimension, `K[b, g, j, e]`; in a spec also a definition."""

    name: str
    index: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Expand:
    """`x[:, None]`: axes is (False, True), True where a new axis of extent 1 is put in."""

    operand: Expr
    axes: tuple[bool, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Shape:
    """A static tile shape, `[BM, D]`."""

    extents: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class DTypeOf:
    """`V.dtype`: the element type the spec gives a tensor."""

    tensor: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class If:
    """Spec formulas only: if C then A else B."""

    condition: Expr
    then: Expr
    otherwise: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Big:
    """Spec formulas only: `sum[j < N, sees[i, j]](body)`; op: sum, max. j runs over 0 <= j < bound
    where every condition holds."""

    op: str
    variable: str
    bound: Expr
    conditions: tuple[Expr, ...]
    body: Expr
    span: Span = _span()


Expr = Number | Text | Name | Unary | Binary | Call | Element | Expand | Shape | DTypeOf | If | Big


# ---- statements of a kernel ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Assign:
    name: str
    value: Expr
    comment: str = field(default="", compare=False)
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Store:
    """`store(O[...], value, mask=...)`, or `atomic_add(...)` when `atomic`."""

    target: Element
    value: Expr
    mask: Expr | None
    atomic: bool = False
    comment: str = field(default="", compare=False)
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class For:
    """`for t in range(start, stop, step) carry m, l, acc:`; the step is a positive constant."""

    variable: str
    start: Expr
    stop: Expr
    step: Expr
    carried: tuple[str, ...]
    body: tuple[Statement, ...]
    comment: str = field(default="", compare=False)
    span: Span = _span()


Statement = Assign | Store | For


@dataclass(frozen=True, slots=True)
class Axis:
    """One grid axis, `t < cdiv(M, BM)`: the program id t runs over 0 <= t < extent."""

    name: str
    extent: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Kernel:
    name: str
    grid: tuple[Axis, ...]
    schedule: tuple[tuple[str, Expr], ...]
    body: tuple[Statement, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Meta:
    """`meta BM = 128`: a compile-time integer."""

    name: str
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Require:
    """`require N % BN == 0`: the file is for sizes where this holds, and is run at no others."""

    condition: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Scratch:
    """`scratch P[B, H, M, N]: f32`: a tensor that lives between the kernels of one file."""

    name: str
    shape: tuple[Expr, ...]
    dtype: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Module:
    """A whole `.tile` file: kernels run in order, each seeing what the ones before it stored."""

    metas: tuple[Meta, ...]
    requires: tuple[Require, ...]
    scratch: tuple[Scratch, ...]
    kernels: tuple[Kernel, ...]
    span: Span = _span()


# ---- spec formulas ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Definition:
    """`S[b, h, i, j] = ...` or `r = H // G`."""

    name: str
    parameters: tuple[str, ...]
    value: Expr
    span: Span = _span()
