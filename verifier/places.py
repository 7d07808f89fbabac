"""Which value an expression holds, behind names and changes of shape; and maxima that follow with a delay.

A lazy maximum is `where(a > m + c, a, m)`: it moves from m to a only when a is more than c above. Which way a
comparison of rounded values goes, floats decide; what is shown of a lazy maximum for either choice and for any number
in place of a holds of what they decided (`execute`, cut; `verifier.rounding`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ir import program as core
from verifier.stored import expressions, values_of_names

ANY = "any"  # a lane over which something is maximal
Lanes = tuple[object, ...]
Place = tuple[core.Expr, Lanes]
Definitions = Mapping[str, core.Expr]


def lanes_of(e: core.Expr) -> Lanes:
    """The lanes an expression is read at by who names it."""
    return tuple(range(len(e.type.shape)))


def unfolded(e: core.Expr, lanes: Lanes, named: Definitions) -> Place:
    """e behind names and changes of shape, and the lanes it is read at."""
    while True:
        match e:
            case core.Var() if e.name in named:
                e = named[e.name]
            case core.Broadcast():
                shape = e.operand.type.shape
                lanes = tuple(0 if n == 1 else k for n, k in zip(shape, lanes, strict=True)) if shape else ()
                e = e.operand
            case core.Expand():
                lanes = lanes[: e.axis] + lanes[e.axis + 1 :]
                e = e.operand
            case core.Transpose():
                lanes = (lanes[1], lanes[0])
                e = e.operand
            case _:
                return e, tuple(_lane(n, k) for n, k in zip(e.type.shape, lanes, strict=True))


def _lane(extent: int, lane: object) -> object:
    return 0 if extent == 1 else lane


def same(a: Place, b: Place, named: Definitions) -> bool:
    """Whether two places hold one value."""
    x, at = unfolded(*a, named)
    y, where = unfolded(*b, named)
    return x == y and all(i == j or ANY in (i, j) for i, j in zip(at, where, strict=True))


def factors(e: core.Expr, lanes: Lanes, named: Definitions) -> list[tuple[Place, Place]]:
    """The two factors of a product, in both orders."""
    e, lanes = unfolded(e, lanes, named)
    if not isinstance(e, core.Binary) or e.op != "mul":
        return []
    return [((e.left, lanes), (e.right, lanes)), ((e.right, lanes), (e.left, lanes))]


def is_minus_infinity(e: core.Expr) -> bool:
    while isinstance(e, (core.Broadcast, core.Cast)):
        e = e.operand
    if not isinstance(e, core.Unary) or e.op != "neg":
        return False
    e = e.operand
    while isinstance(e, (core.Broadcast, core.Cast)):
        e = e.operand
    return isinstance(e, core.Constant) and e.name == "inf"


# ---- lazy maxima ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lazy:
    """A choice of `value` where `comparison` finds it more than `slack` (None: 0) above `kept`, which else stays."""

    comparison: core.Binary
    value: core.Expr
    kept: core.Expr
    slack: core.Expr | None


@dataclass(frozen=True, slots=True)
class Cuts:
    """`lazy`: the lazy maxima of floats in a kernel, by the `id` of the choice; `undecided`: of their comparisons."""

    lazy: Mapping[int, Lazy] = field(default_factory=dict)
    undecided: frozenset[int] = frozenset()


def cuts(kernel: core.Kernel) -> Cuts:
    named = {name: values[0] for name, values in values_of_names(kernel.body).items() if len(values) == 1}
    choices = [e for e in expressions(kernel.body) if isinstance(e, core.Select) and e.type.dtype.is_float]
    lazy = {id(e): found for e in choices if (found := _lazy(e, named)) is not None}
    return Cuts(lazy, frozenset(id(x.comparison) for x in lazy.values()))


def _lazy(e: core.Select, named: Definitions) -> Lazy | None:
    test, at = unfolded(e.condition, lanes_of(e), named)
    if not isinstance(test, core.Binary) or not test.left.type.dtype.is_float:
        return None
    sides = (test.left, at), (test.right, at)
    if test.op in ("lt", "le"):
        sides = sides[1], sides[0]
    elif test.op not in ("gt", "ge"):
        return None
    high, low = sides  # where it holds, `high` is no less than `low`; where it fails, no more
    for value, kept, (above, below) in ((e.then, e.otherwise, (high, low)), (e.otherwise, e.then, (low, high))):
        found = _slack((value, lanes_of(e)), (kept, lanes_of(e)), above, below, named)
        if found is not None:
            return Lazy(test, value, kept, *found)
    return None


def _slack(
    value: Place, kept: Place, above: Place, below: Place, named: Definitions
) -> tuple[core.Expr | None] | None:
    """The c of which `above >= below` says that value >= kept + c."""
    if same(above, value, named):
        if same(below, kept, named):
            return (None,)
        e, at = unfolded(*below, named)
        if isinstance(e, core.Binary) and e.op == "add":
            for x, c in ((e.left, e.right), (e.right, e.left)):
                if same((x, at), kept, named):
                    return (c,)
    e, at = unfolded(*above, named)
    if isinstance(e, core.Binary) and e.op == "sub" and same((e.left, at), value, named):
        if same((e.right, at), kept, named):
            return (below[0],)
        if same(below, kept, named):
            return (e.right,)
    return None
