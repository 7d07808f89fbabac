"""The errors of all values of a program, and the program of their companions.

Each expression gets an `Error` by the rules of `errors`; of a loop, `recurrence` solves what an iteration does to
the errors carried. The walk also writes the program anew: what each output's bound is relative to (its companion) is
stored to a scratch tensor of its own, so that the prover's algebra, which knows that sum(p) / sum(p) is 1, can say
how large it is (`cells`). Maxima of floats are exact when `cut`: what is computed there stands for itself, an
arbitrary pivot, which E1 was shown to hold for. Everything the walk does not know raises `Unbounded`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from ir import error_formula as f
from ir import float_model as model
from ir import program as core
from ir.ast import Span
from ir.error_formula import INFINITE, ZERO, Formula
from ir.program import DType, Type
from ir.spec import Bound, Parameter
from verifier.places import Cuts, cuts
from verifier.rounding.errors import Error, Unbounded, either, exactly
from verifier.rounding.extents import UNKNOWN, Range, counter_range, facts_of, index_range, range_of, trips
from verifier.rounding.recurrence import Update, solved, unknown
from verifier.rounding.shapes import Order

MARK = "~"  # no name of a candidate has it
KINDS = ("relative", "magnitude", "shift", "absolute")


@dataclass(slots=True)
class Scope:
    """What names mean at a place of a kernel."""

    errors: dict[str, Error] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    named: dict[str, core.Expr] = field(default_factory=dict)

    def inner(self) -> Scope:
        return Scope(dict(self.errors), dict(self.ranges), dict(self.named))


@dataclass(frozen=True, slots=True)
class Known:
    """What the obligations showed before: `exponents`, a bound of each argument of exp over the reals, by place (S1);
    `floor(kernel, span, shift)`, a lower bound of the divisor, or argument of log or sqrt, there, where `shift(name)`
    bounds how far a pivot is from its maximum; `settled`: scratch tensors whose cells no pivot has a part in;
    `summed(kernel, tensor)`: the program ids, counters and lanes whose atomic adds one cell takes in; `cut`: whether
    maxima are arbitrary numbers."""

    exponents: Mapping[Span, Fraction]
    floor: Callable[[str, Span, Callable[[str], Formula]], Formula]
    settled: frozenset[str]
    summed: Callable[[str, str], tuple[str, ...]]
    cut: bool


@dataclass(slots=True)
class Walk:
    program: core.Program
    bound: Bound
    known: Known
    ranges: dict[str, Formula] = field(default_factory=dict)  # parameters made here: what each bounds
    held: dict[str, Error] = field(default_factory=dict)  # what tensors hold
    pivots: dict[str, Formula] = field(default_factory=dict)  # how far each pivot may be from its maximum
    counts: dict[str, Formula | None] = field(default_factory=dict)  # of each program id, counter and lane
    stores: list[core.Store] = field(default_factory=list)
    kernel: str = ""
    cuts: Cuts = field(default_factory=Cuts)
    emitted: list[core.Statement] = field(default_factory=list)

    def run(self) -> core.Program:
        """The program with its companions. Raises Unbounded."""
        kernels = []
        for kernel in self.program.kernels:
            self.kernel, self.cuts, self.emitted = kernel.name, cuts(kernel), []
            scope = Scope(ranges={f".{name}": cells for name, cells in facts_of(self.bound).items()})
            for axis in kernel.grid:
                extent = range_of(axis.extent, {})
                scope.ranges[axis.name] = index_range(extent)
                self.counts[axis.name] = extent.high
            self.block(kernel.body, scope)
            kernels.append(replace(kernel, body=tuple(self.emitted)))
        added = [replace(t, name=t.name + MARK, dtype=DType.F32, role="scratch") for t in self.program.tensors]
        written = {s.tensor for s in self.stores}
        tensors = (*self.program.tensors, *(t for t in added if t.name in written))
        return replace(self.program, kernels=tuple(kernels), tensors=tensors)

    def bound_with_ranges(self) -> Bound:
        """The spec with a parameter for each bound that companions are written in."""
        default = self.bound.spec.parameters[0].default if self.bound.spec.parameters else None
        made = tuple(Parameter(name, 0.0, 1e30, default) for name in self.ranges)  # type: ignore[arg-type]
        return replace(self.bound, spec=replace(self.bound.spec, parameters=(*self.bound.spec.parameters, *made)))

    # ---- statements ----------------------------------------------------------------------

    def block(self, body: tuple[core.Statement, ...], scope: Scope) -> None:
        for s in body:
            match s:
                case core.Let():
                    self.let(s, scope)
                case core.Store():
                    self.store(s, scope)
                case core.For():
                    self.loop(s, scope)

    def let(self, s: core.Let, scope: Scope) -> None:
        self.emitted.append(s)
        scope.named[s.name] = s.value
        if s.value.type.dtype.is_int:
            scope.ranges[s.name] = range_of(s.value, scope.ranges)
        if s.value.type.dtype.is_float:
            scope.errors[s.name] = self.bind(s.name, self.error(s.value, scope), s.value.type)

    def bind(self, name: str, e: Error, type_: Type) -> Error:
        """The error of a name: its companion has a name too, where it is not the value itself."""
        if e.positive:
            return replace(e, companion=core.Var(name, type_))
        self.emitted.append(core.Let(name + MARK, e.companion))
        return replace(e, companion=core.Var(name + MARK, type_))

    def store(self, s: core.Store, scope: Scope) -> None:
        e = self.error(s.value, scope)
        if e.proviso:
            raise Unbounded(e.proviso)
        for x in (*s.index, *(() if s.mask is None else (s.mask,))):
            self.sure(x, scope)
        companion = core.Store(s.tensor + MARK, s.index, e.companion, s.mask, s.atomic, span=s.span)
        self.emitted += [s, companion]
        self.stores.append(companion)
        self.put(s, replace(e, before=None))

    def put(self, s: core.Store, e: Error) -> None:
        """What the tensor holds now. Plain stores of one launch lie beside each other, atomic adds add up."""
        held = self.held.get(s.tensor)
        if s.atomic:
            names = self.known.summed(self.kernel, s.tensor)
            counts = [f.number(int(n.split('of')[1])) if n.startswith('lane!') else self.counts.get(n) for n in names]
            if held is None or any(c is None for c in counts):
                raise Unbounded(f"how often {s.tensor} is added to is not bounded by sizes")
            times = f.mul(*(c for c in counts if c is not None))
            unit = f.number(model.grown(model.UNIT[s.value.type.dtype]))
            growth = f.mul(f.add(times, f.ONE), unit)
            grown = f.add(f.maximum(held.relative, e.relative), growth)
            tiny = f.number(model.TINY[s.value.type.dtype])
            absolute = f.mul(f.exp(growth), f.add(held.absolute, f.mul(times, f.add(e.absolute, tiny))))
            largest = f.add(held.magnitude, f.mul(times, e.magnitude))
            positive = held.positive and e.positive
            shift = ZERO if held.shift is ZERO and e.shift is ZERO else INFINITE
            e = Error(grown, absolute, largest, e.companion, positive, positive, shift)
        elif held is not None:
            e = either(held, e, e.companion)
        if s.tensor in self.known.settled:
            e = replace(e, shift=ZERO)
        self.held[s.tensor] = e

    def loop(self, s: core.For, scope: Scope) -> None:
        start, stop = range_of(s.start, scope.ranges), range_of(s.stop, scope.ranges)
        count = self.counts[f"{self.kernel}.{s.counter}"] = trips(start, stop)
        floats = [c for c in s.carries if c.type.dtype.is_float]
        first = {c.name: self.error(c.init, scope) for c in floats}
        for x in (s.start, s.stop):
            self.sure(x, scope)
        flags = {c.name: (first[c.name].own, first[c.name].positive) for c in floats}
        zeros = {(kind, c.name) for c in floats for kind in KINDS if getattr(first[c.name], kind) is ZERO}
        kept = self.emitted, self.stores, self.held, self.ranges, self.pivots
        while True:  # what is assumed of every iteration: it only falls, so this ends
            self.emitted, self.stores = list(kept[0]), list(kept[1])
            self.held, self.ranges, self.pivots = dict(kept[2]), dict(kept[3]), dict(kept[4])
            carried = {c.name: self.open(c, flags[c.name], zeros) for c in floats}
            after = self.iteration(s, scope, counter_range(start, stop), carried, floats)
            fallen = {n: (flags[n][0] and after[n].own, flags[n][1] and after[n].positive) for n in flags}
            still = {(kind, n) for kind, n in zeros if getattr(after[n], kind) is ZERO}
            if fallen == flags and still == zeros:
                break
            flags, zeros = fallen, still
        self.emitted, self.stores, self.held, self.ranges, self.pivots = kept
        found = self.solve(floats, first, after, count, zeros)
        held = {c.name: self.closed(c, flags[c.name], zeros, found) for c in floats}
        for c in floats:
            self.pivots[f"{self.kernel}.{c.name}"] = held[c.name].shift
        outside, self.emitted = self.emitted, []
        after = self.iteration(s, scope, counter_range(start, stop), held, floats)
        carries: list[core.Carry] = []
        for c in s.carries:
            carries.append(c)
            if c.name in held and not held[c.name].positive:
                companions = first[c.name].companion, after[c.name].companion
                carries.append(core.Carry(c.name + MARK, *companions, c.type))
        self.emitted = [*outside, replace(s, carries=tuple(carries), body=tuple(self.emitted))]
        scope.errors |= held
        for c in s.carries:
            if c.type.dtype.is_int:
                scope.ranges[c.name] = UNKNOWN

    def open(self, c: core.Carry, flags: tuple[bool, bool], zeros: set[tuple[str, str]]) -> Error:
        """A carried value at the start of any iteration: unknown, but for what is assumed of it."""
        parts = (ZERO if (kind, c.name) in zeros else unknown(kind, c.name) for kind in KINDS)
        relative, size, shift, absolute = parts
        own, positive = flags
        name = c.name if positive else c.name + MARK
        return Error(relative, absolute, size, core.Var(name, c.type), own, positive, shift)

    def closed(
        self, c: core.Carry, flags: tuple[bool, bool], zeros: set[tuple[str, str]], found: Mapping[Formula, Formula]
    ) -> Error:
        e = self.open(c, flags, zeros)
        relative, size, shift, absolute = (found.get(x, x) for x in (getattr(e, kind) for kind in KINDS))
        return replace(e, relative=relative, magnitude=size, shift=shift, absolute=absolute)

    def solve(
        self,
        floats: list[core.Carry],
        first: Mapping[str, Error],
        after: Mapping[str, Error],
        count: Formula | None,
        zeros: set[tuple[str, str]],
    ) -> dict[Formula, Formula]:
        updates = {
            unknown(kind, c.name): Update(
                c.name, getattr(first[c.name], kind), getattr(after[c.name], kind), kind in ("relative", "shift")
            )
            for kind in KINDS
            for c in floats
            if (kind, c.name) not in zeros
        }
        return solved(updates, count)

    def iteration(
        self, s: core.For, scope: Scope, counter: Range, carried: Mapping[str, Error], floats: list[core.Carry]
    ) -> dict[str, Error]:
        """The errors of carried values after an iteration that begins with these."""
        inner = scope.inner()
        inner.errors |= carried
        inner.ranges[s.counter] = counter
        for c in s.carries:
            inner.named.pop(c.name, None)
            if c.type.dtype.is_int:
                inner.ranges[c.name] = UNKNOWN
        self.block(s.body, inner)
        return {c.name: self.error(c.next, inner) for c in floats}

    # ---- expressions ---------------------------------------------------------------------

    def error(self, e: core.Expr, scope: Scope) -> Error:
        from verifier.rounding.rules import error_of

        return error_of(self, e, scope)

    def sure(self, e: core.Expr, scope: Scope) -> None:
        from verifier.rounding.choices import sure

        sure(self, e, scope)

    def order(self, scope: Scope) -> Order:
        return Order(scope.named, lambda e: self.error(e, scope), self.cuts.lazy)

    def pivot(self, e: core.Binary | core.Reduce | core.Select, size: Formula, shift: Formula) -> Error:
        """An arbitrary number of at most `size`, no further than `shift` from what true maxima make of e."""
        name = f"{self.kernel}.cut@{e.span.line}:{e.span.column}"  # as `execute` calls it, but for its number
        self.pivots[name] = f.maximum(shift, self.pivots.get(name, ZERO))
        return exactly(size, self.range_parameter(size, e.type, "pivot"), shift=shift)

    def number(self, value: int | Fraction, e: core.Expr) -> core.Expr:
        """A number in the companion of e."""
        return constant(Fraction(value), e.type)

    def range_parameter(self, bounds: Formula, type_: Type, stem: str) -> core.Expr:
        """An expression of the companion program that stands for a bound."""
        if f.constant(bounds) is not None and bounds is not INFINITE:
            return constant(Fraction(f.constant(bounds) or 0.0), type_)
        name = next((n for n, x in self.ranges.items() if x is bounds), f"{stem}{MARK}{len(self.ranges)}")
        self.ranges[name] = bounds
        return spread(core.Param(name, Type(DType.F32)), type_)


def spread(e: core.Expr, type_: Type) -> core.Expr:
    return core.Broadcast(e, Type(DType.F32, type_.shape)) if type_.shape else e


def constant(value: Fraction, type_: Type) -> core.Expr:
    return spread(core.Literal(value, Type(DType.F32)), type_)
