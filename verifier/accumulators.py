"""How large the values of a program can get: an upper bound on |x| in float arithmetic for every expression of
the typed program, where a carried name is an affine function of itself per iteration. Values a term bounds
better (quotients, what is stored) are looked up there (`verifier.magnitude`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ir import program as core
from ir.ast import Span
from ir.spec import TensorSpec
from verifier.booleans import conj
from verifier.execute import Access
from verifier.integers import Atom, symbol
from verifier.magnitude import HAIR, bound_of, parameter_limit, times
from verifier.obligations.width import Intervals
from verifier.proof import Proof, in_bounds
from verifier.reals import Real
from verifier.stored import stores
from verifier.terms import as_int, atom_of, fresh
from verifier.tiles import Duty
from verifier.underflow import LEAST

LARGEST_F32 = 3.4028234e38
LARGEST = {core.DType.F32: LARGEST_F32, core.DType.BF16: 3.3895313e38, core.DType.F16: 65504.0}


@dataclass(frozen=True, slots=True)
class Affine:
    """|x| <= constant + sum of factor * |carried name|; where it is `chosen`, the larger of the two will do."""

    constant: float
    factors: Mapping[str, float]
    chosen: bool = False

    def scaled(self, k: float) -> Affine:
        return Affine(times(self.constant, k), {n: times(f, k) for n, f in self.factors.items()})

    def plus(self, other: Affine) -> Affine:
        names = {**self.factors, **other.factors}
        total = {n: self.factors.get(n, 0.0) + other.factors.get(n, 0.0) for n in names}
        return Affine((self.constant + other.constant) * HAIR, total)

    def either(self, other: Affine) -> Affine:
        names = {**self.factors, **other.factors}
        larger = {n: max(self.factors.get(n, 0.0), other.factors.get(n, 0.0)) for n in names}
        chosen = all(x.chosen or not x.factors or x.constant == 0.0 for x in (self, other)) and len(names) == 1
        return Affine(max(self.constant, other.constant), larger, chosen)


UNKNOWN = Affine(math.inf, {})


class Magnitudes:
    """Walks the typed program; `overflow` names the first value that may leave f32."""

    def __init__(
        self,
        proof: Proof,
        exponents: Mapping[Span, Fraction],
        quotients: Mapping[Span, Sequence[tuple[Duty, Access]]],
        inputs: Mapping[str, float],
        terms: bool = True,
    ) -> None:
        """`inputs`: what they hold (`held_by_inputs`). Without `terms`, what the walk does not bound has no bound."""
        self.proof = proof
        self.terms = terms
        self.exponents = exponents
        self.quotients = quotients
        self.quotient_bounds: dict[Span, float] = {}
        self.tensors = dict(inputs)
        self.problem: tuple[str, Span] | None = None
        self.intervals = Intervals(proof, proof.traces[0])
        self.written: dict[int, float] = {}  # of each store of the running kernel, the bound found last
        self.largest: dict[int, float] = {}  # of each float by node, the bound found last
        self.narrowed: dict[int, tuple[Span, float]] = {}  # of each cast to f16, by node: the operand's, found last

    def overflow(self) -> tuple[str, Span] | None:
        for kernel, trace in zip(self.proof.program.kernels, self.proof.traces, strict=True):
            self.intervals = Intervals(self.proof, trace)
            self.kernel = kernel.name
            self.stores = dict(zip(map(id, stores(kernel.body)), trace.of_kind("store", "atomic"), strict=True))
            self.written = {}
            self._block(kernel.body, {})
            self._settle(kernel)
        return self.problem

    def cast(self, span: Span) -> float:
        """The bound of what is cast to f16 there; inf where the walk found none."""
        return max((bound for at, bound in self.narrowed.values() if at == span), default=math.inf)

    def _settle(self, kernel: core.Kernel) -> None:
        """What tensors may hold after the launch. Atomic adds come in any order, so on the way to their total
        a cell holds at most what it held before and the absolute values of everything added to it."""
        for s in stores(kernel.body):
            largest = self.written[id(s)]
            if not s.atomic:
                self.tensors[s.tensor] = max(self.tensors.get(s.tensor, 0.0), largest)
                continue
            total = self.tensors.get(s.tensor, math.inf) + times(largest, self._executions(self.stores[id(s)]))
            self._checked(Affine(total * HAIR, {}), f"the total of atomic adds into {s.tensor}", core.DType.F32, s.span)
            self.tensors[s.tensor] = total * HAIR

    def _executions(self, access: Access) -> float:
        """How many executions of an atomic add one cell can see."""
        writers = [w for layer in self.proof.layers[access.tensor] for w in layer.writers if w.access is access]
        count = 1.0
        for atom in writers[0].summed:
            low, high = self.intervals.symbols.get(atom, (atom.low, atom.high))
            count *= math.inf if low is None or high is None else float(max(0, high - low + 1))
        return count

    def _block(self, body: tuple[core.Statement, ...], env: dict[str, Affine]) -> None:
        for s in body:
            match s:
                case core.Let():
                    env[s.name] = self._of(s.value, env)
                case core.Store():
                    value = self._of(s.value, env)
                    largest = value.constant if not value.factors else math.inf
                    if largest > LARGEST_F32:
                        largest = self._stored(s)
                    self.written[id(s)] = largest
                case core.For():
                    self._loop(s, env)

    def _stored(self, s: core.Store) -> float:
        """The bound of a stored value as a term, where the walk over the program found none."""
        access = self.stores[id(s)]
        if not self.terms or access.value is None or not isinstance(access.value.value, Real):
            return math.inf
        return bound_of(self.proof, access.value.value, self.proof.within(access))

    def _loop(self, loop: core.For, env: dict[str, Affine]) -> None:
        """One pass with carried names as unknowns, solved in the order given, then one with the bounds."""
        names = [c.name for c in loop.carries if c.type.dtype.is_float]
        saved = self.problem
        inner = dict(env)
        for c in loop.carries:
            inner[c.name] = Affine(0.0, {c.name: 1.0}) if c.name in names else UNKNOWN
        self._block(loop.body, inner)
        steps = {c.name: self._of(c.next, inner) for c in loop.carries if c.name in names}
        starts = {c.name: self._of(c.init, env) for c in loop.carries if c.name in names}
        self.problem = saved
        count = self._iterations(loop)
        solved: dict[str, Affine] = {}
        for _ in names:
            for name in names:
                if name not in solved:
                    value = self._solve(name, steps[name], starts[name], count, names, solved)
                    if value is not None:
                        solved[name] = value
        for c in loop.carries:
            if c.name in names and c.name not in solved:
                solved[c.name] = Affine(self._closed(c.name), {})
            bound = solved.get(c.name, UNKNOWN)
            if c.name in names:
                self._checked(bound, f"the carried '{c.name}'", c.type.dtype, loop.span)
            env[c.name] = inner[c.name] = bound
        self._block(loop.body, inner)
        for c in loop.carries:
            self._of(c.next, inner)  # for `largest`

    def _solve(
        self, name: str, step: Affine, start: Affine, count: float, names: list[str], solved: Mapping[str, Affine]
    ) -> Affine | None:
        """The largest value over all iterations, in terms of what an enclosing loop carries."""
        if step.factors.get(name, 0.0) > HAIR**8:
            return None
        if step.chosen and step.factors.get(name, 2.0) <= 1.0:  # the largest of what it starts with and is given
            return start.either(Affine(step.constant, {}))
        grows = Affine(step.constant, {})
        for other, factor in step.factors.items():
            if other in names and other != name and factor:
                grows = grows.plus(solved.get(other, UNKNOWN).scaled(factor))
            elif other not in names:
                grows = grows.plus(Affine(0.0, {other: factor}))
        out = start.plus(grows.scaled(count))
        return out if out.constant < math.inf and all(f < math.inf for f in out.factors.values()) else None

    def _closed(self, name: str) -> float:
        found = self.proof.closed.get(f"{self.kernel}.{name}")
        return math.inf if found is None or not self.terms else bound_of(self.proof, found[0], found[1])

    def _iterations(self, loop: core.For) -> float:
        low, high = self.intervals.symbols.get(self._counter(loop), (None, None))
        return math.inf if low is None or high is None else max(0.0, float(high - low + 1))

    def _counter(self, loop: core.For) -> Atom:
        return atom_of(symbol(f"{self.kernel}.{loop.counter}"))

    def _symbol(self, name: str) -> Affine:
        """The magnitude of a program id or a loop's counter."""
        for atom in (atom_of(symbol(name)), atom_of(symbol(f"{self.kernel}.{name}"))):
            low, high = self.intervals.symbols.get(atom, (None, None))
            if low is not None and high is not None:
                return Affine(float(max(abs(low), abs(high))), {})
        return UNKNOWN

    def _report(self, what: str, span: Span) -> None:
        self.problem = self.problem or (what, span)

    def _checked(self, value: Affine, what: str, dtype: core.DType, span: Span) -> Affine:
        if not value.factors and not value.constant <= LARGEST[dtype]:
            self._report(f"{self.kernel}: {what} may leave {dtype.value} (bound {value.constant:.3g})", span)
        return value

    def _computed(self, value: Affine, e: core.Expr) -> Affine:
        """A result that overflows, or is not known to stay in range. (An exponential that no store depends on has no
        bound, and needs none unless something is computed from it.)"""
        return self._checked(value, "a value", e.type.dtype, e.span) if e.type.dtype.is_float else value

    def _of(self, e: core.Expr, env: Mapping[str, Affine]) -> Affine:
        out = self._bound(e, env)
        self.largest[id(e)] = math.inf if out.factors else out.constant
        return out

    def _bound(self, e: core.Expr, env: Mapping[str, Affine]) -> Affine:
        match e:
            case core.Var():
                return env.get(e.name) or self._symbol(e.name)
            case core.Size():
                return Affine(float(self.intervals.arguments[e.name][1]), {})
            case core.Arange():
                return Affine(float(e.type.shape[0]), {})
            case core.Literal():
                return self._computed(Affine(abs(float(e.value)), {}), e)
            case core.Constant():
                return Affine({"log2e": 1.4426951, "ln2": 0.6931472}.get(e.name, 0.0), {})
            case core.Param():
                return self._computed(Affine(parameter_limit(self.proof, e.name), {}), e)
            case core.Unary():
                return self._unary(e, env)
            case core.Binary():
                left, right = self._of(e.left, env), self._of(e.right, env)
                return self._computed(self._binary(e, left, right), e)
            case core.Select():
                return self._of(e.then, env).either(self._of(e.otherwise, env))
            case core.Cast() if not e.operand.type.dtype.is_float:
                truth = e.operand.type.dtype is core.DType.BOOL
                known = self._of(e.operand, env).constant  # an integer fits 64 bits (B2)
                return self._computed(Affine(1.0 if truth else min(known, 9.3e18), {}), e)
            case core.Cast() if e.type.dtype is core.DType.F16 and e.operand.type.dtype is core.DType.F32:
                inner = self._of(e.operand, env)  # `range` shows of each such cast that it fits
                self.narrowed[id(e)] = e.span, math.inf if inner.factors else inner.constant
                return inner if inner.factors else Affine(min(inner.constant, LARGEST[core.DType.F16]), {})
            case core.Cast():
                return self._computed(self._of(e.operand, env), e)
            case core.Broadcast() | core.Expand() | core.Transpose():
                return self._of(e.operand, env)
            case core.Reduce():
                inner = self._of(e.operand, env)
                extent = e.operand.type.shape[e.axis]
                return self._checked(inner.scaled(extent), "a sum", e.type.dtype, e.span) if e.op == "sum" else inner
            case core.Dot():
                left, right = self._of(e.left, env), self._of(e.right, env)
                out = _product(left, right).scaled(e.left.type.shape[1])
                out = self._checked(out, "a dot", e.type.dtype, e.span)
                if e.acc is None:
                    return out
                acc = self._of(e.acc, env)
                return self._computed(out.plus(acc), e)
            case core.Random():
                return Affine(1.0, {})
            case core.Load():
                held = self.tensors.get(e.tensor, math.inf)  # what is in memory was cast to its dtype, and fits
                stored = Affine(min(held, LARGEST[core.DType.F16]) if e.type.dtype is core.DType.F16 else held, {})
                return stored if e.other is None else stored.either(self._of(e.other, env))
            case _:
                return UNKNOWN

    def _unary(self, e: core.Unary, env: Mapping[str, Affine]) -> Affine:
        inner = UNKNOWN if e.type.dtype is core.DType.BOOL else self._of(e.operand, env)
        match e.op:
            case "neg" | "abs":
                return inner
            case "exp" | "exp2":
                limit = self.exponents.get(e.span)  # an exp no store depends on has no bound and needs none
                return UNKNOWN if limit is None else Affine(math.exp(limit), {})
            case "log" | "log2":
                return Affine(150.0, {})  # of any f32: between 2^-149 and 2^128
            case "tanh" | "sigmoid":
                return Affine(1.0, {})
            case "sqrt":
                return Affine(max(1.0, inner.constant) if not inner.factors else math.inf, {})
            case _:
                return UNKNOWN

    def _binary(self, e: core.Binary, left: Affine, right: Affine) -> Affine:
        match e.op:
            case "add" | "sub":
                return left.plus(right)
            case "mul":
                return _product(left, right)
            case "max" | "min":
                return left.either(right)
            case "floordiv":  # by a positive integer
                return left
            case "mod":
                return right
            case "div":
                low = self.proof.floors.operand(self.kernel, e.span)
                if low <= 0.0 and e.span in self.quotients:
                    low = LEAST / 1.01  # what `range` has shown of this divisor, of reals
                by_divisor = left.scaled(1.0 / low) if low > 0.0 else UNKNOWN
                by_term = Affine(self._quotient(e.span), {})
                return by_divisor if by_divisor.factors or by_divisor.constant < by_term.constant else by_term
            case _:
                return UNKNOWN

    def _quotient(self, span: Span) -> float:
        """The bound of a quotient as a term, over everything stored that depends on it."""
        found = self.quotient_bounds.get(span)
        if found is None:
            found = math.inf if span not in self.quotients else 0.0
            for duty, access in self.quotients.get(span, ()):
                if duty.argument is not None and found < math.inf:
                    context = self.proof.within(access).given(duty.premise)
                    found = max(found, bound_of(self.proof, duty.argument, context))
            self.quotient_bounds[span] = found
        return found


def held_by_inputs(proof: Proof) -> dict[str, float]:
    """The largest |x| of each input; without a promise of the caller it holds whatever its dtype can."""
    return {
        t.name: min(t.abs_max or math.inf, _saved(proof, t), LARGEST.get(dtype, math.inf))
        for t, dtype in proof.bound.inputs
    }


def _saved(proof: Proof, tensor: TensorSpec) -> float:
    """The bound of a saved input by its definition, with room for its rounding."""
    if not tensor.saved:
        return math.inf
    extents = proof.formula.extents(tensor)
    cell = tuple(as_int(fresh("cell")) for _ in extents)
    value = proof.formula.output(tensor.name, cell)
    context = proof.context.given(conj((in_bounds(cell, extents), value.finite)))
    return 1.01 * bound_of(proof, value.real, context)


def _product(a: Affine, b: Affine) -> Affine:
    if not b.factors:
        return a.scaled(b.constant)
    if not a.factors:
        return b.scaled(a.constant)
    return UNKNOWN
