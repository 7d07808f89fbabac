"""Lower bounds of values as machine floats compute them, read off the typed program.

Normal forms forget how a value is computed: sum((x - mean)^2) / C and sum(x^2) / C - mean^2 are one term,
but rounding can make only the second one negative. Here each expression gets a bound that is 0 or a
positive number, or none, by rules that hold for correctly rounded operations and over the reals alike:
a square (both factors one expression) is not negative; sums, products, quotients, maxima and roots of
values that are not negative are not; a + b >= low(a) + low(b) less a hair for rounding. A carried name
keeps a bound that its start has and its update preserves (a greatest fixed point, so an induction). What
a tensor holds is bounded by everything stored to it. A NaN is no business of this module: D1 excludes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ir import program as core
from ir.ast import NOWHERE, Span
from ir.spec import Bound

NONE = -math.inf
# What rounding, or an approximate root or quotient, takes away at most, relative to the value.
SLACK = {core.DType.F32: 2.0**-16, core.DType.BF16: 2.0**-7, core.DType.F16: 2.0**-9}
# Results below the smallest normal number may be flushed to 0.
TINY = {core.DType.F32: 2.0**-126, core.DType.BF16: 2.0**-126, core.DType.F16: 2.0**-14}
Env = dict[str, float]


class Floors:
    """`operand(kernel, span)`: the least value that the divisor, or the argument of sqrt or log, of the
    operation at `span` can take; NONE where nothing is known. Two operations at one span count as one.
    Without `clamps`, max(x, 0) and abs(x) are no better than x: what cancellation did to x is not undone."""

    def __init__(self, program: core.Program, bound: Bound, clamps: bool = True) -> None:
        self.clamps = clamps
        self.roots: set[tuple[str, Span]] = set()
        self.minimum = {d.name: d.minimum for d in bound.dims}
        self.parameters = {p.name: p.lower for p in bound.spec.parameters}
        self.held: dict[str, float] = {}
        self.operands: dict[tuple[str, Span], float] = {}
        self.kernel = ""
        for kernel in program.kernels:
            self.kernel, self.stored = kernel.name, dict[str, float]()
            self._block(kernel.body, {})
            for tensor, low in self.stored.items():
                self.held[tensor] = min(low, self.held.get(tensor, math.inf))

    def operand(self, kernel: str, span: Span) -> float:
        return NONE if span == NOWHERE else self.operands.get((kernel, span), NONE)

    def roots_are_safe(self) -> bool:
        """Whether no argument of sqrt can be negative."""
        return all(self.operand(*place) >= 0.0 for place in self.roots)

    def _block(self, body: tuple[core.Statement, ...], env: Env) -> None:
        for s in body:
            match s:
                case core.Let():
                    env[s.name] = self._of(s.value, env)
                case core.Store():
                    self._visit((*s.index, *(() if s.mask is None else (s.mask,))), env)
                    value = self._of(s.value, env)
                    value = NONE if s.atomic else value
                    self.stored[s.tensor] = min(self.stored.get(s.tensor, math.inf), value)
                case core.For():
                    self._loop(s, env)

    def _loop(self, loop: core.For, env: Env) -> None:
        """Bounds that hold before every iteration: assumed of the names carried, lowered until preserved."""
        held = {c.name: self._of(c.init, env) for c in loop.carries}
        while True:
            inner = {**env, **held}
            self._block(loop.body, inner)
            after = {c.name: self._of(c.next, inner) for c in loop.carries}
            fallen = [name for name, low in after.items() if low < held[name]]
            if not fallen:
                break
            held |= {name: 0.0 if held[name] > 0.0 <= after[name] else NONE for name in fallen}
        env.update(held)

    def _of(self, e: core.Expr, env: Mapping[str, float]) -> float:
        low = self._bound(e, env)
        if _exact(e) or low <= 0.0:
            return low if low >= 0.0 else NONE
        low *= 1.0 - SLACK[e.type.dtype]
        return low if low >= TINY[e.type.dtype] else 0.0

    def _bound(self, e: core.Expr, env: Mapping[str, float]) -> float:
        match e:
            case core.Var():
                return env.get(e.name, NONE)  # program ids and counters: not needed so far
            case core.Literal():
                return float(e.value)
            case core.Constant():
                return {"log2e": 1.4426, "ln2": 0.6931}.get(e.name, NONE)
            case core.Size():
                return float(self.minimum[e.name])
            case core.Param():
                return self.parameters[e.name]
            case core.Unary():
                return self._unary(e, self._of(e.operand, env))
            case core.Binary():
                return self._binary(e, self._of(e.left, env), self._of(e.right, env))
            case core.Select():
                self._visit((e.condition,), env)
                return min(self._of(e.then, env), self._of(e.otherwise, env))
            case core.Cast() if e.operand.type.dtype is core.DType.BOOL:
                return 0.0
            case core.Random():
                return 0.0
            case core.Cast() | core.Broadcast() | core.Expand() | core.Transpose():
                return self._of(e.operand, env)
            case core.Reduce():  # a sum of values that are not negative is at least any of them
                return self._of(e.operand, env)
            case core.Dot():
                left, right = self._of(e.left, env), self._of(e.right, env)
                acc = 0.0 if e.acc is None else self._of(e.acc, env)
                return acc if min(left, right, acc) >= 0.0 else NONE
            case core.Load():
                self._visit((*e.index, *(() if e.mask is None else (e.mask,))), env)
                low = self.held.get(e.tensor, NONE)
                return low if e.other is None else min(low, self._of(e.other, env))
            case _:
                return NONE

    def _visit(self, expressions: tuple[core.Expr, ...], env: Mapping[str, float]) -> None:
        for e in expressions:
            self._of(e, env)

    def _unary(self, e: core.Unary, low: float) -> float:
        match e.op:
            case "sqrt" | "log" | "log2":
                self._record(e.span, low)
                self.roots |= {(self.kernel, e.span)} if e.op == "sqrt" else set()
                return math.sqrt(low) if e.op == "sqrt" and low >= 0.0 else NONE
            case "abs":
                return max(low, 0.0) if self.clamps else low
            case "exp" | "exp2" | "sigmoid":
                return 0.0
            case "tanh":
                return 0.0 if low >= 0.0 else NONE
            case _:
                return NONE

    def _binary(self, e: core.Binary, left: float, right: float) -> float:
        both = min(left, right)
        match e.op:
            case "add":
                return left + right if both >= 0.0 else NONE
            case "mul":
                return left * right if both >= 0.0 else 0.0 if e.left == e.right else NONE
            case "div":
                self._record(e.span, right)
                return 0.0 if both >= 0.0 else NONE
            case "max":
                return max(left, right) if self.clamps else both
            case "min":
                return both
            case _:
                return NONE

    def _record(self, span: Span, low: float) -> None:
        key = self.kernel, span
        self.operands[key] = min(low, self.operands.get(key, math.inf))


def _exact(e: core.Expr) -> bool:
    """Whether e gives one of the values it takes, so that nothing is lost to rounding."""
    match e:
        case core.Unary() | core.Dot() | core.Literal() | core.Constant() | core.Param() | core.Cast():
            return not e.type.dtype.is_float
        case core.Binary():
            return not e.type.dtype.is_float or e.op in ("max", "min")
        case _:  # a sum of values that are not negative included: adding one never lowers the rest
            return True
