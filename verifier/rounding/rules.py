"""The rule for each kind of expression: which error of `errors` it has, and which companion."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from ir import error_formula as f
from ir import float_model as model
from ir import program as core
from ir.error_formula import INFINITE, ONE, ZERO, Formula
from ir.program import DType
from verifier.places import is_minus_infinity, lanes_of, same
from verifier.rounding import recurrence
from verifier.rounding.choices import choice, sure
from verifier.rounding.errors import (
    ABSORBED,
    Error,
    Unbounded,
    absorbed,
    away_from_zero,
    difference,
    either,
    exactly,
    product,
    quotient,
    rounded,
    sum_of,
    total,
    within,
)  # fmt: skip
from verifier.rounding.extents import magnitude, not_negative, range_of

if TYPE_CHECKING:
    from verifier.rounding.walk import Scope, Walk

LN2 = math.log(2.0)


def error_of(w: Walk, e: core.Expr, scope: Scope) -> Error:
    out = _of(w, e, scope)
    return replace(out, companion=e) if out.positive else out


def _of(w: Walk, e: core.Expr, scope: Scope) -> Error:
    match e:
        case _ if is_minus_infinity(e):
            return exactly(ZERO, w.number(0, e))
        case core.Var():
            return scope.errors[e.name]
        case core.Literal():
            return _literal(w, e)
        case core.Constant():
            out = exactly(f.number({"log2e": 1.4427, "ln2": 0.6932}[e.name]), e, positive=True)
            return replace(out, relative=f.number(model.grown(model.CONSTANT)))
        case core.Param():
            return _parameter(w, e)
        case core.Random():
            sure(w, e.seed, scope)
            sure(w, e.counter, scope)
            return exactly(ONE, e, positive=True)
        case core.Broadcast() | core.Expand() | core.Transpose():
            inner = w.error(e.operand, scope)
            return replace(inner, companion=replace(e, operand=inner.companion))
        case core.Cast():
            return _cast(w, e, scope)
        case core.Unary():
            return _unary(w, e, scope)
        case core.Binary():
            return _binary(w, e, scope)
        case core.Select():
            return choice(w, e, scope)
        case core.Reduce():
            return _reduce(w, e, scope)
        case core.Dot():
            return _dot(w, e, scope)
        case core.Load():
            return _load(w, e, scope)
        case _:
            raise Unbounded(f"no rule for {type(e).__name__}")


def _literal(w: Walk, e: core.Literal) -> Error:
    size = float(abs(e.value)) * f.SLACK
    exact = Fraction(float(e.value)) == e.value and model.representable(float(e.value), e.type.dtype)
    out = exactly(f.number(float(abs(e.value)) if exact else size), w.number(abs(e.value), e), e.value >= 0)
    return out if exact else replace(out, relative=f.number(model.grown(model.UNIT[e.type.dtype])))


def _parameter(w: Walk, e: core.Param) -> Error:
    """A real parameter is the f32 number the kernel is given, for the spec too."""
    lower = next(p.lower for p in w.bound.spec.parameters if p.name == e.name)
    if lower >= 0:
        return exactly(f.leaf("parameter", e.name), e, positive=True)
    size = f.leaf("absolute", e.name)
    return exactly(size, w.range_parameter(size, e.type, e.name))


def _cast(w: Walk, e: core.Cast, scope: Scope) -> Error:
    source, target = e.operand.type.dtype, e.type.dtype
    if source is DType.BOOL:
        sure(w, e.operand, scope)
        return exactly(ONE, e, positive=True)
    if not source.is_float:
        sure(w, e.operand, scope)
        found = range_of(e.operand, scope.ranges)
        size = magnitude(found)
        if size is INFINITE:
            raise Unbounded("an integer made a float is not bounded by sizes")
        positive = found.low is not None and not_negative(found.low)
        exact = exactly(size, w.range_parameter(size, e.type, "integer"), positive)
        return replace(exact, relative=f.number(model.grown(model.UNIT[target])))
    inner = w.error(e.operand, scope)
    if model.UNIT[target] <= model.UNIT[source] and (source, target) != (DType.BF16, DType.F16):
        return inner  # exact: no digit is lost, and no small number, as to f16
    return replace(rounded(replace(inner, proviso=""), model.UNIT[target], target), proviso=inner.proviso)


def _unary(w: Walk, e: core.Unary, scope: Scope) -> Error:
    x = w.error(e.operand, scope)
    if x.proviso:
        raise Unbounded(x.proviso)
    dtype = e.type.dtype
    unit = model.UNIT[dtype]
    match e.op:
        case "neg":
            return replace(x, positive=False, before=None)
        case "abs":
            return replace(x, positive=x.positive or x.exact, before=None)
        case "exp" | "exp2":
            return _exponential(w, e, x, scope)
        case "log" | "log2":
            return _logarithm(w, e, x)
        case "sqrt":
            low = _floor(w, e)
            ratio = f.mul(f.number(0.5), away_from_zero(x, low, "an argument of sqrt"))
            out = Error(ratio, ZERO, f.maximum(ONE, x.magnitude), e, True, True, INFINITE)
            return rounded(out, max(unit, model.ROOT), dtype)
        case "tanh":
            out = within(f.minimum(x.total, f.number(2.0)), ONE, w.number(1, e), x.shift)
            return _off(out, max(unit, model.TANH))
        case "sigmoid":
            out = within(f.mul(f.number(0.25), x.total), ONE, w.number(1, e), x.shift)
            return _off(out, max(unit, model.TANH))
        case _:
            raise Unbounded(f"no rule for {e.op}")


def _off(e: Error, absolute: float) -> Error:
    return replace(e, absolute=f.add(e.absolute, f.number(absolute)))


def _floor(w: Walk, e: core.Unary | core.Binary) -> Formula:
    return w.known.floor(w.kernel, e.span, lambda name: w.pivots.get(re.sub(r"\.cut\d+@", ".cut@", name), INFINITE))


def _exponential(w: Walk, e: core.Unary, x: Error, scope: Scope) -> Error:
    """exp X against exp x: the error of the argument is what the ratio of the two is off by. Where X is below what
    f32 can show, 0 is computed (or something as small) and the exact value is no larger: `absolute`. Where it is not,
    X has at most `VISIBLE` of size, so that no more than that is rounded by the argument's last operation."""
    unit = f.number(LN2) if e.op == "exp2" else ONE
    seen = f.number(model.VISIBLE if e.op == "exp" else model.VISIBLE / LN2)
    options = [x.total]
    if x.own:
        options.append(f.add(f.mul(f.expm1(x.relative), f.exp(x.relative), f.add(seen, x.absolute)), x.absolute))
    if x.before is not None:
        error, growth = x.before
        options.append(f.add(error, f.mul(f.expm1(f.number(growth)), seen), f.number(model.TINY[DType.F32])))
    off = f.mul(unit, f.minimum(*options))
    scaling = 0.0 if e.op == "exp2" else model.SCALED * model.VISIBLE
    over = w.order(scope).gap(e.operand)
    limit = w.known.exponents.get(e.span)
    known = INFINITE if limit is None else f.add(f.number(float(limit)), f.mul(unit, x.shift))
    top = f.minimum(*(o for o in (known, None if over is None else f.mul(unit, over)) if o is not None))
    relative = f.add(off, f.number(scaling))
    lost = f.mul(f.number(2.0 * model.TINY[DType.F32]), f.exp(off))
    size = INFINITE if top is INFINITE else f.exp(top)
    out = Error(relative, lost, size, e, own=True, positive=True, shift=INFINITE)
    return rounded(out, max(model.UNIT[e.type.dtype], model.EXP), e.type.dtype)


def _logarithm(w: Walk, e: core.Unary, x: Error) -> Error:
    if not x.positive:
        raise Unbounded("the argument of a logarithm is not a sum of values that are not negative")
    low = _floor(w, e)
    ratio = away_from_zero(x, low, "an argument of log")
    size = f.maximum(f.log(x.magnitude), f.log(f.divide(ONE, low)))
    scale = f.number((1.0 if e.op == "log" else 1.0 / LN2) * f.SLACK)
    size, ratio = f.mul(scale, size), f.mul(scale, ratio)
    unit = max(model.LOG, model.UNIT[e.type.dtype])
    wrong = f.add(ratio, f.mul(f.number(unit), f.add(size, ratio)), f.number(model.LOG))
    return within(wrong, size, w.range_parameter(size, e.type, "log"))


def _binary(w: Walk, e: core.Binary, scope: Scope) -> Error:
    a, b = w.error(e.left, scope), w.error(e.right, scope)
    dtype = e.type.dtype
    proviso = a.proviso or b.proviso
    if proviso and (a.proviso or e.op != "div") and (e.op != "mul" or (a.proviso and b.proviso)):
        raise Unbounded(proviso)
    if is_minus_infinity(e.left) or is_minus_infinity(e.right):
        a, b = (b, b) if is_minus_infinity(e.left) else (a, a)  # the other side, wherever the result is finite
        return replace(_largest(w, e, a, b), shift=a.shift) if e.op in ("max", "min") else _unknown(e)
    unit = model.UNIT[dtype]
    match e.op:
        case "add":
            return rounded(sum_of(a, b, replace(e, left=a.companion, right=b.companion)), unit, dtype)
        case "sub":
            companion = replace(e, op="add", left=a.companion, right=b.companion)
            return rounded(difference(a, b, companion), unit, dtype)
        case "mul":
            a, b = (_weighed(w, x, y, e) for x, y in ((a, b), (b, a)))
            square = same((e.left, lanes_of(e)), (e.right, lanes_of(e)), scope.named)
            out = rounded(product(a, b, replace(e, left=a.companion, right=b.companion), square), unit, dtype)
            return replace(out, proviso=proviso)  # which a divisor that has it as a factor meets, too
        case "div":
            low = _floor(w, e)
            ratio = away_from_zero(b, low, "a divisor")
            companion = replace(e, left=a.companion)
            shift = ZERO if a.shift is ZERO and b.shift is ZERO else INFINITE
            return rounded(quotient(a, ratio, low, companion, shift), max(unit, model.DIVIDE), dtype)
        case "max" | "min":
            return _largest(w, e, a, b)
        case _:
            raise Unbounded(f"no rule for {e.op}")


def _weighed(w: Walk, x: Error, y: Error, e: core.Expr) -> Error:
    """x, about to be multiplied by y: with a weight, what is absolute in its error is best counted as relative."""
    if not x.sizeable or not y.positive or y.shift is not INFINITE or x.own:
        return x
    extra = f.mul(f.number(1.0 / ABSORBED), x.absolute)
    if recurrence.unknowns(extra):
        return x
    return absorbed(x, w.range_parameter(extra, e.type, "absolute"))


def _unknown(e: core.Binary) -> Error:
    raise Unbounded(f"-inf in {e.op}")


def _largest(w: Walk, e: core.Binary, a: Error, b: Error) -> Error:
    """A maximum is off by no more than the worse of its members. When cut, it stands for itself."""
    size = f.maximum(a.largest, b.largest)
    if w.known.cut:
        return w.pivot(e, size, f.maximum(f.add(a.total, a.shift), f.add(b.total, b.shift)))
    companion = replace(e, op="max", left=a.companion, right=b.companion)
    if a.positive and b.positive:
        return either(a, b, e)
    return within(f.maximum(a.total, b.total), f.maximum(a.magnitude, b.magnitude), companion, ZERO)


def _reduce(w: Walk, e: core.Reduce, scope: Scope) -> Error:
    x = w.error(e.operand, scope)
    if x.proviso:
        raise Unbounded(x.proviso)
    extent = e.operand.type.shape[e.axis]
    companion = replace(e, op="sum" if e.op == "sum" else "max", operand=x.companion)
    if e.op == "sum":
        terms = f.number(extent)
        return total(x, terms, companion, model.UNIT[e.type.dtype], e.type.dtype)
    if w.known.cut:
        return w.pivot(e, x.largest, f.add(x.total, x.shift))
    if x.positive:
        return replace(x, companion=e, before=None)
    return within(x.total, x.magnitude, companion, ZERO)


def _dot(w: Walk, e: core.Dot, scope: Scope) -> Error:
    a, b = w.error(e.left, scope), w.error(e.right, scope)
    a, b = _weighed(w, a, b, e.left), _weighed(w, b, a, e.right)
    acc = None if e.acc is None else w.error(e.acc, scope)
    if a.proviso or b.proviso or (acc is not None and acc.proviso):
        raise Unbounded(a.proviso or b.proviso)
    companion = replace(e, left=a.companion, right=b.companion, acc=None if acc is None else acc.companion)
    terms = f.number(e.left.type.shape[1])
    out = total(product(a, b, companion), terms, companion, model.DOT, DType.F32)
    return out if acc is None else rounded(sum_of(out, acc, companion), model.DOT, DType.F32, int(terms.args[0]))


def _load(w: Walk, e: core.Load, scope: Scope) -> Error:
    for x in (*e.index, *(() if e.mask is None else (e.mask,))):
        sure(w, x, scope)
    stored = _held(w, e)
    other = None if e.other is None else w.error(e.other, scope)
    if other is None:
        return stored
    if is_minus_infinity(e.other or e):
        return replace(stored, positive=False, companion=_with(e, stored, w.number(0, e)))
    return either(stored, other, _with(e, stored, other.companion))


def _with(e: core.Load, stored: Error, other: core.Expr) -> core.Expr:
    inner = stored.companion
    if isinstance(inner, core.Load):
        return replace(inner, other=other)
    return inner if e.mask is None else core.Select(e.mask, inner, other, inner.type)


def _held(w: Walk, e: core.Load) -> Error:
    from verifier.rounding.walk import MARK

    role = w.program.tensor(e.tensor).role
    if role != "input":
        held = w.held[e.tensor]
        companion = e if held.positive else replace(e, tensor=e.tensor + MARK)
        return replace(held, companion=companion)
    size = f.leaf("range", e.tensor)
    if any(t.name == e.tensor and t.saved for t, _ in w.bound.inputs):
        wrong = f.leaf("saved", e.tensor)
        size = f.add(size, wrong)
        return within(wrong, size, w.range_parameter(size, e.type, e.tensor), ZERO)
    return exactly(size, w.range_parameter(size, e.type, e.tensor))
