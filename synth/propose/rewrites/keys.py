"""Loops over blocks of keys: which keys an iteration looks at, and which its masks let some row, or every row, see.

Keys of an iteration are `stride * n + offset + lane`. A condition that is linear in the key bounds it from one side;
with the least and greatest row of the tile in the other variables that is a bound some row, or every row, obeys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from ir.ast import Assign, Call, Element, Expand, Expr, For, Name, Number
from synth.propose.formula import children, conjuncts
from synth.propose.rewrites.affine import NotAffine, Poly, at_least_zero, ends, is_lane, lane, located
from synth.propose.rewrites.straight import Place, Scope, expressions
from synth.propose.rewrites.tiles import MINUS_INF
from synth.propose.tree import nodes

CONSTANT_ONE = Poly((((), 1),))


@dataclass(frozen=True)
class Keys:
    """`name` holds the keys of an iteration: `stride * counter + offset + lane`, `width` lanes of them."""

    at: int
    loop: For
    scope: Scope
    name: str
    form: Poly
    width: Expr
    stride: Poly
    offset: Poly

    @property
    def whole_blocks(self) -> bool:
        """Whether iterations look at adjoining blocks, by counting blocks or by stepping over keys."""
        return self.stride == Poly.of(self.width) or (self.stride == CONSTANT_ONE and self.loop.step == self.width)


@dataclass
class Bounds:
    """Inclusive bounds on the keys that some row of a tile, or that every row, may see. `flat` are upper bounds that
    no row or program id takes part in, `complete` is False when a condition gave no bound."""

    some_high: list[Expr] = field(default_factory=list)
    some_low: list[Expr] = field(default_factory=list)
    every_high: list[Expr] = field(default_factory=list)
    every_low: list[Expr] = field(default_factory=list)
    flat: list[Expr] = field(default_factory=list)
    complete: bool = True


def key_loops(place: Place) -> Iterator[Keys]:
    """Loops of a block whose body names the keys of an iteration."""
    for at, loop in enumerate(place.block):
        if not isinstance(loop, For):
            continue
        scope, counter = place.scope(loop), Name(loop.variable)
        for statement in loop.body:
            if not isinstance(statement, Assign) or not scope.rests_on(statement.value, loop.variable):
                continue
            form = Poly.of(located(statement.value, scope))
            lanes = [m[0] for m, n in form.parts if len(m) == 1 and is_lane(m[0]) and n == 1]
            try:
                stride = form.along(counter)
            except NotAffine:
                continue
            if len(lanes) == 1 and stride.parts and isinstance(lanes[0], Call):
                offset = form.without(counter).without(lanes[0])
                if not any(is_lane(n) for m, _ in offset.parts for a in m for n in nodes(a)):
                    yield Keys(at, loop, scope, statement.name, form, lanes[0].args[0], stride, offset)
                    break


def score_masks(keys: Keys) -> list[Expr]:
    """Conditions c of `where(c, score, -inf)` in a loop's body, taken apart at `and`, names looked up."""
    found: list[Expr] = []
    for expr in (e for s in keys.loop.body for e in expressions(s)):
        for node in nodes(expr):
            match node:
                case Call("where", (condition, _, low)) if low == MINUS_INF:
                    found += spread(condition, keys.scope)
    return list(dict.fromkeys(found))


def spread(condition: Expr, scope: Scope) -> list[Expr]:
    """A condition's conjuncts, with names for conjunctions looked up."""
    scope.fits(condition)
    found: list[Expr] = []
    for part in conjuncts(scope.see(condition)):
        inner = scope.see(part)
        found += spread(inner, scope) if inner != part or len(conjuncts(inner)) > 1 else [part]
    return found


def key_axis(condition: Expr, keys: Keys) -> int | None:
    """The axis of a condition's tile along which the keys lie."""
    for node in nodes(condition):
        match node:
            case Expand(operand, axes) if axes.count(False) == 1 and keys.scope.rests_on(operand, keys.name):
                return axes.index(False)
    return 0 if keys.scope.rests_on(condition, keys.name) else None


def bounds(keys: Keys, conditions: Iterable[Expr]) -> Bounds:
    found = Bounds()
    for condition in conditions:
        if not keys.scope.rests_on(condition, keys.name):
            continue
        axis = key_axis(condition, keys)
        form = at_least_zero(located(condition, keys.scope))
        read = None if form is None or axis is None else _read(form, keys, axis)
        if read is None:
            found.complete = False
            continue
        upper, low, high = read
        if upper:
            found.some_high.append(high)
            found.every_high.append(low)
            if low == high and not _varies(low, keys):
                found.flat.append(high)
        else:
            found.some_low.append(Poly.of(high).times(-1).expr())
            found.every_low.append(Poly.of(low).times(-1).expr())
    return found


def _read(form: Poly, keys: Keys, axis: int) -> tuple[bool, Expr, Expr] | None:
    """Whether the key is bounded from above, and the ends of what bounds it (or its negative)."""
    try:
        sign = form.along(lane(keys.width, axis))
        key = Poly.of(located(Expand(Name(keys.name), tuple(k != axis for k in range(2))), keys.scope))
        if sign not in (CONSTANT_ONE, CONSTANT_ONE.times(-1)):
            return None
        upper = sign != CONSTANT_ONE
        rest = form.plus(key, 1 if upper else -1)
        if rest.along(Name(keys.loop.variable)).parts or rest.along(lane(keys.width, axis)).parts:
            return None
        low, high = ends(rest.expr())
    except NotAffine:
        return None
    return upper, low, high


def _varies(expr: Expr, keys: Keys) -> bool:
    """Whether a bound depends on a program id or a counter, but for what is loaded there (a sequence's length)."""
    match expr:
        case Name(id) if id in keys.scope.values:
            return _varies(keys.scope.values[id], keys)
        case Name(id):
            return id in keys.scope.counters
        case Element():
            return False
        case _:
            return any(_varies(child, keys) for child in children(expr))


# ---- writing bounds -----------------------------------------------------------------------------


def nested(function: str, parts: list[Expr]) -> Expr:
    head, *tail = parts
    return Call(function, (head, nested(function, tail))) if tail else head


def plus(expr: Expr, by: int) -> Expr:
    return Poly.of(expr).plus(CONSTANT_ONE, by).expr()


def zero() -> Number:
    return Number(Fraction(0))


def minimands(expr: Expr, scope: Scope) -> list[Expr]:
    """`min(a, min(b, c))` as [a, b, c]."""
    scope.fits(expr)
    match scope.see(expr):
        case Call("min", (left, right)):
            return minimands(left, scope) + minimands(right, scope)
        case _:
            return [expr]
