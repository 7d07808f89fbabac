"""Which comparisons of floats decide as those of reals do.

A comparison is as good as the numbers compared: `(x + 1e30) - 1e30 == x` holds of all reals and of nearly no floats,
and what it chooses is as large as it likes. So E1 takes a comparison for what it says of reals only where it says
the same of floats:

  numbers as they are  both sides are numbers of memory, parameters or literals, or chosen among such
  -inf                 whether a value is -inf, which rounding makes of no number
  maxima               where(a > b, a, b), a choice between what is compared: rounded or not, it is the larger one
  zero                 whether a sum of exponentials is 0: S1 then owes that none which is not comes near it (`least`)

Any other may come out either way (`Decisions.undecided`): a lazy rescaling is right whenever it moves.
"""

from __future__ import annotations

from dataclasses import dataclass

from ir import program as core
from verifier.booleans import TRUE, conj
from verifier.places import Definitions, is_minus_infinity, lanes_of, same
from verifier.recipes import COMPARISONS, Recipes
from verifier.signs import compare
from verifier.stored import expressions, shape_aside
from verifier.tiles import Duties, Duty, Scalar


@dataclass(frozen=True, slots=True)
class Decisions:
    """Comparisons of one kernel by the `id` of the expression."""

    undecided: frozenset[int] = frozenset()
    zero: frozenset[int] = frozenset()


def decisions(kernel: core.Kernel, recipes: Recipes) -> Decisions:
    undecided, zero = set(), set()
    for e in expressions(kernel.body):
        if not isinstance(e, core.Binary) or e.op not in COMPARISONS or not e.left.type.dtype.is_float:
            continue
        sides = [recipes.meant(kernel.name, x) for x in (e.left, e.right)]
        if any(map(is_minus_infinity, sides)) or recipes.as_they_are(kernel.name, sides):
            continue
        if any(isinstance(x, core.Literal) and not x.value for x in sides) and recipes.of_weights(kernel.name, sides):
            zero.add(id(e))
        elif not _chooses_between_sides(kernel, e, recipes):
            undecided.add(id(e))
    return Decisions(frozenset(undecided), frozenset(zero))


def _chooses_between_sides(kernel: core.Kernel, e: core.Binary, recipes: Recipes) -> bool:
    """Whether all that this comparison decides is a choice between the values compared."""
    values = recipes.values[kernel.name]
    named: Definitions = {name: known[0] for name, known in values.items() if len(known) == 1}
    names = {name for name, known in named.items() if shape_aside(known) is e}
    conditions: set[int] = set()
    for x in expressions(kernel.body):
        if isinstance(x, core.Select) and (x.condition is e or _names(x.condition, names)):
            sides, branches = (e.left, e.right), (x.then, x.otherwise)
            straight = all(_same(a, b, named) for a, b in zip(sides, branches, strict=True))
            crossed = all(_same(a, b, named) for a, b in zip(sides, reversed(branches), strict=True))
            if e.op in ("eq", "ne") or not straight and not crossed:
                return False
            conditions.add(id(x.condition))
    used = [x for x in expressions(kernel.body) if isinstance(x, core.Var) and x.name in names]
    return bool(conditions) and all(id(x) in conditions for x in used)


def _names(e: core.Expr, names: set[str]) -> bool:
    return isinstance(e, core.Var) and e.name in names


def _same(a: core.Expr, b: core.Expr, named: Definitions) -> bool:
    return same((a, lanes_of(a)), (b, lanes_of(b)), named)


def apart_from_zero(e: core.Binary, a: Scalar, b: Scalar) -> Duties:
    """What is compared with 0 is not near it where it is above."""
    x = a if a.real.constant is None else b
    what = "what is compared with 0 is not lost to underflow"
    return Duties((Duty("least", conj((x.finite, compare("gt", x.real))), TRUE, x.real, what, e.span),))
