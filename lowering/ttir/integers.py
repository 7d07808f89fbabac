"""Signed division of TTIR, which rounds to zero, in terms of the core's, which rounds down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ir import program as core
from ir.program import DType
from lowering.intervals import interval
from lowering.ttir.text import NotLifted, Operation
from lowering.ttir.values import integer, spread

if TYPE_CHECKING:
    from lowering.ttir.lift import Lift


def division(state: Lift, op: Operation, given: Sequence[core.Expr], type_: core.Type) -> core.Expr:
    """a / b or a % b: the core's, where nothing is negative; elsewhere written out."""
    a, b = given
    said = "floordiv" if op.name == "arith.divsi" else "mod"
    span = op.span
    low_a, low_b = (interval(e, state.limits, state.ranges)[0] for e in (a, b))
    if low_b is None or low_b < 0:
        raise NotLifted(f"line {op.line}: a divisor that may be negative")
    plain = core.Binary(said, a, b, type_, span)
    if low_a is not None and low_a >= 0:
        return plain
    zero = spread(integer(0), type_)
    minus = core.Binary("sub", zero, a, type_, span)
    turned = core.Binary("sub", zero, core.Binary(said, minus, b, type_, span), type_, span)
    below = core.Binary("lt", a, zero, core.Type(DType.BOOL, type_.shape), span)
    return core.Select(below, turned, plain, type_, span)


def floored(state: Lift, op: Operation) -> core.Expr | None:
    """where(r != 0 and r < 0, q - 1, q), with q = a / b rounded to zero, r = a - q b and b > 0, is a // b: q is one too
    large exactly where the rest is negative."""
    chosen, lower, upper = (state.made_by.get(o) for o in op.operands)
    if chosen is None or lower is None or upper is None or upper.name != "arith.divsi":
        return None
    q, (a, b) = op.operands[2], upper.operands
    lows = _is(state, lower, "arith.subi", q, 1) or _is(state, lower, "arith.addi", q, -1)
    if not lows or chosen.name != "arith.andi":
        return None
    tests = [state.made_by.get(o) for o in chosen.operands]
    rests = {t.operands[0] for t in tests if t is not None}
    kinds = {t.words for t in tests if t is not None and _is(state, t, "arith.cmpi", None, 0)}
    if len(rests) != 1 or kinds != {"ne", "slt"}:
        return None
    rest = state.made_by.get(rests.pop())
    times = state.made_by.get(rest.operands[1]) if rest is not None and rest.name == "arith.subi" else None
    if rest is None or times is None or rest.operands[0] != a or times.name != "arith.muli":
        return None
    if sorted(times.operands) != sorted((q, b)):
        return None
    x, y = state.expression(a), state.expression(b)
    low = interval(y, state.limits, state.ranges)[0]
    type_ = core.Type(DType.INT, op.types[-1].shape)
    return core.Binary("floordiv", x, y, type_, op.span) if low is not None and low > 0 else None


def _is(state: Lift, op: Operation, name: str, left: str | None, right: int) -> bool:
    """Whether an operation has this name, left operand and constant right one."""
    if op.name != name or left not in (None, op.operands[0]):
        return False
    value = state.values.get(op.operands[1])
    return value in (integer(right), spread(integer(right), core.Type(DType.INT, op.types[-1].shape)))
