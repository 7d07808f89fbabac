"""The spec: the mathematics a kernel is proved against, stated once.

A `Spec` is what the TOML file says; `bind` fixes its options and static dimensions and gives a
`Bound`, the only thing kernels are ever checked against. Formulas are kept as the AST of `ir.ast`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ir import ast
from ir.program import DType


@dataclass(frozen=True, slots=True)
class Dim:
    """A size. Symbolic over minimum..maximum, or static (one of `choices`) when it may shape tiles."""

    name: str
    minimum: int
    maximum: int
    choices: tuple[int, ...] = ()
    default: int | None = None


@dataclass(frozen=True, slots=True)
class Option:
    """A named choice that changes the formula or a dtype, e.g. causal = "bottom_right"."""

    name: str
    choices: tuple[str, ...]
    default: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A real scalar the caller passes, or an integer one (its limits are then ints), with
    lower <= value <= upper; `default` is a formula over dims."""

    name: str
    lower: float
    upper: float
    default: ast.Expr
    integer: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about an integer input, each over sizes: least <= cell <= most in every cell.

    With `splits` its n+1 cells cut 0..splits-1 into n parts, empty ones allowed: the first cell is 0, none is
    less than the one before, the last is `splits`. No part is longer than `longest`. In formulas, `part`[x] is
    the part that x lies in: the one p with cell[p] <= x < cell[p+1]."""

    least: ast.Expr | None = None
    most: ast.Expr | None = None
    splits: ast.Expr | None = None
    longest: ast.Expr | None = None
    part: str = ""


NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """shape: expressions over dims; dtype: a DType name or an option's name; abs_max: |x| <= abs_max
    (float inputs only, assumed of the caller and used by S1); facts: what every cell of an integer input is
    promised to be (checked by the launcher). overflows: a cell of this output whose value is beyond its dtype's
    largest number is to be an infinity of its sign, as IEEE 754 rounds it; otherwise no value may be.

    An input that is `saved` is what an earlier kernel made of the other inputs, such as the O and LSE that
    attention saves for its backward: the definition of its name is its contract, which the certificate of
    that earlier kernel discharges. In formulas the name means the definition."""

    name: str
    shape: tuple[ast.Expr, ...]
    dtype: str
    abs_max: float | None = None
    saved: bool = False
    facts: Facts = NO_FACTS
    overflows: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that settings decide: `key` of the tensor or parameter `name` ("abs_max", "min" or "max") is the value
    of a formula over options and static dimensions."""

    name: str
    key: str
    value: ast.Expr


@dataclass(frozen=True, slots=True)
class Shapes:
    """Benchmark shapes: a name and a value for every symbolic dimension."""

    name: str
    sizes: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """`empty_row`: "zero" makes a quotient with zero denominator 0 and log(0) = -inf (rows with no
    visible key); "undefined" leaves such cells to the kernel. `max_stride` bounds every stride of
    every tensor, in elements, over all layouts the spec admits (views into a fused buffer too). `derived`
    names the definitions that `grad` was written out in (ir/gradient.py); `source` has the text as it was. Of what
    `limits` names, inputs and parameters have the widest limit over all settings; in a `Bound`, that of its own."""

    name: str
    doc: str
    source: str
    path: str
    dims: tuple[Dim, ...]
    options: tuple[Option, ...]
    parameters: tuple[Parameter, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    requires: tuple[ast.Expr, ...]
    definitions: tuple[ast.Definition, ...]
    derived: tuple[str, ...]
    empty_row: str
    max_stride: int
    search_shapes: tuple[Shapes, ...]
    heldout_shapes: tuple[Shapes, ...]
    target: str
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """A spec with every option and static dimension fixed. `settings` maps their names to values.

    `dims` keeps only the symbolic sizes. Formulas still mention options by name (a comparison with
    a string) and static dimensions by name; look them up in `settings`.
    """

    spec: Spec
    settings: tuple[tuple[str, str | int], ...]
    dims: tuple[Dim, ...]
    inputs: tuple[tuple[TensorSpec, DType], ...]
    outputs: tuple[tuple[TensorSpec, DType], ...]

    def setting(self, name: str) -> str | int | None:
        return dict(self.settings).get(name)

    def definition(self, name: str) -> ast.Definition:
        return next(d for d in self.spec.definitions if d.name == name)
