"""tanh, which an emitted module computes by a series near 0 and a quotient elsewhere (`lowering.spelling`).

Neither is tanh; both are within 2^-20 of it, which is what the machine model allows tanh to be off by. So the whole
expression, and nothing less, is read as tanh, and listed among what is idealised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ir import program as core
from ir.program import DType
from lowering.ttir.text import Operation
from lowering.ttir.values import spread

if TYPE_CHECKING:
    from lowering.ttir.lift import Lift

SERIES = (1.0, -0.3333333333333333, 0.13333333333333333, -0.05396825396825397)
NEAR = 0.2


def tanh(state: Lift, op: Operation, chosen: core.Select) -> core.Expr | None:
    """tanh of x where `chosen` is exactly how an emitted module computes it, else None."""
    near = state.made_by.get(op.operands[0])
    size = state.made_by.get(near.operands[0]) if near is not None and near.name == "arith.cmpf" else None
    if size is None or size.name != "math.absf":
        return None
    x = state.expression(size.operands[0])
    if not _alike(state, chosen, _computed(state, x)):
        return None
    state.numbers.idealised.add("a series and a quotient are tanh")
    return core.Unary("tanh", x, x.type, op.span)


def _computed(state: Lift, x: core.Expr) -> core.Expr:
    def number(value: float) -> core.Expr:
        return spread(state.numbers.read(repr(value), DType.F32), x.type)

    def of(op: str, a: core.Expr, b: core.Expr) -> core.Expr:
        return core.Binary(op, a, b, x.type)

    def below(a: core.Expr, value: float) -> core.Expr:
        return core.Binary("lt", a, number(value), core.Type(DType.BOOL, x.type.shape))

    one, third, fifth, seventh = SERIES
    square, size = of("mul", x, x), core.Unary("abs", x, x.type)
    inner = of("sub", number(fifth), of("mul", square, number(-seventh)))
    inner = of("add", number(third), of("mul", square, inner))
    series = of("mul", x, of("add", number(one), of("mul", square, inner)))
    e = core.Unary("exp", of("mul", number(-2.0), size), x.type)
    quotient = of("div", of("sub", number(one), e), of("add", number(one), e))
    away = core.Select(below(x, 0.0), of("sub", number(0.0), quotient), quotient, x.type)
    return core.Select(below(size, NEAR), series, away, x.type)


def _alike(state: Lift, a: core.Expr, b: core.Expr) -> bool:
    """Whether a, with names written out, is b, but for the order of the operands of + and *."""
    if a == b:
        return True
    if isinstance(a, core.Var) and a.name in state.defined:
        return _alike(state, state.defined[a.name], b)
    match a, b:
        case core.Binary(), core.Binary() if a.op == b.op and a.type == b.type:
            straight = _alike(state, a.left, b.left) and _alike(state, a.right, b.right)
            turned = a.op in ("add", "mul")
            return straight or turned and _alike(state, a.left, b.right) and _alike(state, a.right, b.left)
        case core.Unary(), core.Unary() if a.op == b.op and a.type == b.type:
            return _alike(state, a.operand, b.operand)
        case core.Select(), core.Select() if a.type == b.type:
            pairs = (a.condition, b.condition), (a.then, b.then), (a.otherwise, b.otherwise)
            return all(_alike(state, x, y) for x, y in pairs)
        case _:
            return False
