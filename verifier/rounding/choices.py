"""Choices, and comparisons that decide them: where floats go the way that reals go, or E1 was shown of every way."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ir import error_formula as f
from ir import program as core
from ir.error_formula import ZERO
from verifier.places import Lazy, Place, is_minus_infinity, lanes_of, same, unfolded
from verifier.rounding.errors import Error, Unbounded, either, exactly

if TYPE_CHECKING:
    from verifier.rounding.walk import Scope, Walk


def choice(w: Walk, e: core.Select, scope: Scope) -> Error:
    if w.known.cut and (lazy := w.cuts.lazy.get(id(e))):
        return _lazy(w, e, lazy, scope)
    tested = _tested(w, e, scope)
    if tested is None:
        sure(w, e.condition, scope, w.cuts.undecided if w.known.cut else frozenset())
    a, b = w.error(e.then, scope), w.error(e.otherwise, scope)
    proviso = a.proviso or b.proviso
    if tested is not None and not _divides(tested, e, scope):
        # where(l == 0, 1, l): alike while l keeps away from 0, which who divides by it shows
        if not any(same(tested, (branch, lanes_of(e)), scope.named) for branch in (e.then, e.otherwise)):
            raise Unbounded("a choice by whether a rounded value is 0, of something else than that value")
        proviso = "a value replaced where it is 0 is used other than as a divisor"
    if is_minus_infinity(e.then) or is_minus_infinity(e.otherwise):
        kept, companion = (b, replace(e, then=w.number(0, e), otherwise=b.companion))
        if is_minus_infinity(e.otherwise):
            kept, companion = (a, replace(e, then=a.companion, otherwise=w.number(0, e)))
        return replace(kept, companion=companion, positive=False, proviso=proviso)
    out = either(a, b, replace(e, then=a.companion, otherwise=b.companion))
    return replace(out, proviso=proviso)


def _divides(tested: Place, e: core.Select, scope: Scope) -> bool:
    """where(l == 0, 0, x / l), where(l > 0, m + log(l), -inf): the branch's own error has it that l keeps away from
    0."""
    return any(_kept(tested, (branch, lanes_of(e)), scope) for branch in (e.then, e.otherwise))


def _kept(tested: Place, place: Place, scope: Scope) -> bool:
    x, at = unfolded(*place, scope.named)
    match x:
        case core.Binary(op="add" | "sub" | "mul" | "div", left=left, right=right):  # a maximum would forget it
            divides = x.op == "div" and same(tested, (right, at), scope.named)
            return divides or _kept(tested, (left, at), scope) or _kept(tested, (right, at), scope)
        case core.Unary(operand=operand):
            taken = x.op in ("log", "log2") and same(tested, (operand, at), scope.named)
            return taken or _kept(tested, (operand, at), scope)
        case core.Cast(operand=operand):
            return _kept(tested, (operand, at), scope)
        case _:
            return False


def _lazy(w: Walk, e: core.Select, lazy: Lazy, scope: Scope) -> Error:
    """A lazy maximum stands for itself where it moved, and is what it kept elsewhere. It is as far from that of the
    true maxima as the value or the kept one where floats and reals decide alike. Where only one of them moves, the
    two are apart by no more than the slack and the error of the comparison besides, as what did not move to the value
    is not much below it; of a value that is itself a maximum with the kept one, only the rest can have moved it."""
    found = w.order(scope).slack(lazy)
    value, kept = w.error(lazy.value, scope), w.error(lazy.kept, scope)
    proviso = value.proviso or kept.proviso
    if proviso or found is None:
        raise Unbounded(proviso or "the slack of a lazy maximum is not known to be positive")
    c, wrong = found
    new = [f.add(x.total, x.shift) for x in (w.error(x, scope) for x in _members(lazy, scope))]
    alike = f.maximum(f.add(kept.shift, wrong), f.add(value.total, value.shift))
    shift = f.maximum(alike, *(f.add(x, c, wrong) for x in new))
    moved = w.pivot(e, value.largest, shift)
    if kept.exact:
        size = f.maximum(value.largest, kept.magnitude)
        return exactly(size, w.range_parameter(size, e.type, "pivot"), shift=shift)
    sides = (moved.companion, kept.companion)
    then, otherwise = sides if lazy.value is e.then else sides[::-1]
    return replace(either(moved, kept, replace(e, then=then, otherwise=otherwise)), shift=shift)


def _members(lazy: Lazy, scope: Scope) -> list[core.Expr]:
    """What a lazy maximum moves to, without what it kept."""
    e, at = unfolded(lazy.value, lanes_of(lazy.value), scope.named)
    if isinstance(e, core.Binary) and e.op == "max" and at == lanes_of(lazy.value):
        for x, other in ((e.left, e.right), (e.right, e.left)):
            if same((x, at), (lazy.kept, lanes_of(lazy.kept)), scope.named):
                return [other]
    return [lazy.value]


def sure(w: Walk, e: core.Expr, scope: Scope, either_way: frozenset[int] = frozenset()) -> None:
    """Raises Unbounded unless a boolean or integer is the same in floats: what it compares are integers, exact numbers,
    or anything with -inf, as what is -inf is so exactly. `either_way`: comparisons, by `id`, that may come out either
    way: E1 was shown of both."""
    match e:
        case core.Var():
            if e.name in scope.named:
                sure(w, scope.named[e.name], scope, either_way)
        case core.Binary(left=left, right=right) if id(e) in either_way:
            for side in (left, right):
                if proviso := w.error(side, scope).proviso:
                    raise Unbounded(proviso)
        case core.Binary(left=left, right=right) if left.type.dtype.is_float:
            if not (is_minus_infinity(left) or is_minus_infinity(right)):
                a, b = w.error(left, scope), w.error(right, scope)
                if not (a.exact and b.exact and _settled(a, b)) or a.proviso or b.proviso:
                    raise Unbounded("a choice by comparing rounded values")
        case _:
            for part in _parts(e):
                sure(w, part, scope, either_way)


def _tested(w: Walk, e: core.Select, scope: Scope) -> Place | None:
    """The value, made of positive terms, whose being 0 decides a choice: floats choose as reals do while it keeps away
    from 0 where it is not 0."""
    c, at = unfolded(e.condition, lanes_of(e), scope.named)
    if not isinstance(c, core.Binary) or not c.left.type.dtype.is_float or c.op not in ("eq", "ne", "gt", "lt"):
        return None
    for x, other in ((c.left, c.right), (c.right, c.left)):
        rest, _ = unfolded(other, lanes_of(other), scope.named)
        if isinstance(rest, core.Literal) and rest.value == 0:
            error = w.error(x, scope)
            return (x, at) if error.positive and not error.exact and not error.proviso else None
    return None


def _parts(e: core.Expr) -> list[core.Expr]:
    """The operands of an expression that is no float."""
    found = []
    for name in e.__dataclass_fields__:
        inner = getattr(e, name)
        found += [x for x in (inner if isinstance(inner, tuple) else (inner,)) if isinstance(x, core.Expr)]
    return found


def _settled(a: Error, b: Error) -> bool:
    """Whether neither hangs on a pivot: which numbers pivots are, E1 was shown for any, but by one choice for each."""
    return a.shift is ZERO and b.shift is ZERO
