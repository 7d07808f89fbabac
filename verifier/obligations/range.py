"""S1: exponentials and accumulators stay inside the accumulating dtype.

Every exponential argument met on the way to a store is shown to be at most a stated bound (0 when the
maximum is subtracted; `verifier.linear`), of the floats it is computed from (`verifier.recipes`,
`verifier.argument_errors`). With these, a magnitude pass over the typed program bounds
every f32 value a sum, dot or carried name can reach under the spec's input and size limits: a carried
x' = a*x + b with |a| <= 1 grows by at most |b| an iteration; failing that, its closed form is bounded as
a weighted mean, |sum w v / sum w| <= max |v| for w >= 0. All must stay below the largest f32, and what is
cast to f16 below the largest f16, unless it is cast to be stored in an output that overflows to infinities and that
no kernel loads: there only f32 is the limit. Divisors and arguments of log must not underflow (`verifier.underflow`),
and rounding must not make an argument of sqrt negative: `verifier.floors` reads both off the program.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from ir import program as core
from ir.ast import Span
from verifier import reals
from verifier.accumulators import LARGEST, LARGEST_F32, Magnitudes, held_by_inputs
from verifier.argument_errors import ArgumentErrors
from verifier.binders import Substitution, open_binder
from verifier.cancellation import Cancellation
from verifier.execute import Access, Trace
from verifier.linear import at_most
from verifier.machine import Floats
from verifier.magnitude import bound_of
from verifier.proof import Finding, Proof, in_floats
from verifier.reals import Monomial, Real, RealAtom
from verifier.recipes import Recipes
from verifier.smt import Context
from verifier.stored import expressions, stores
from verifier.tiles import Duty
from verifier.underflow import SMALL_EXPONENT, at_least

STATEMENT = (
    "every exp argument stays below its bound; no f32 accumulator and no cast to f16 overflows under the input "
    "range; no divisor or argument of log is lost to underflow, no argument of sqrt negative by rounding"
)
LADDER = tuple(Fraction(n) for n in (0, 6, 9, 16, 32, 64))  # 8 * ln 2 < 6: lazy rescaling by 2^8
NEGLIGIBLE = Fraction(1, 100)
FITS_F16 = LARGEST[core.DType.F16] / 1.01  # what is computed from rounded values is a little larger


@dataclass(frozen=True, slots=True)
class _Owed:
    """A duty of a value that is stored, and where."""

    kernel: core.Kernel
    access: Access
    duty: Duty
    context: Context


def check(proof: Proof) -> Finding:
    owed = list(_owed(proof))
    quotients: dict[Span, list[tuple[Duty, Access]]] = {}
    for o in owed:
        if o.duty.kind == "quotient":
            quotients.setdefault(o.duty.span, []).append((o.duty, o.access))
    distinct = list({(o.duty, o.context): o for o in owed}.values())  # another store may owe it under the same premises
    exponents = _Exponents(proof)
    for o in distinct:
        if o.duty.kind == "exp" and o.duty.argument is not None and not exponents.bounded(o.kernel, o.duty, o.context):
            what = f"the argument of exp is not shown to be <= {LADDER[-1]}: {exponents.shown(o)!r}"
            return Finding(False, STATEMENT, f"{o.kernel.name}: {what}", o.duty.span)
    for o in (*distinct, *exponents.divisors(distinct)):
        if not exponents.survives(o):
            what = f"{o.kernel.name}: {o.duty.what}: not shown of {o.duty.argument!r}"
            return Finding(False, STATEMENT, what, o.duty.span)
    magnitudes = Magnitudes(proof, exponents.bounds, quotients, exponents.inputs)
    problem = magnitudes.overflow()
    if problem is not None:
        return Finding(False, STATEMENT, problem[0], problem[1])
    kernels = zip(proof.program.kernels, proof.traces, strict=True)
    rounded = {k.name: _rounded_to_infinity(proof, k, t) for k, t in kernels}
    for o in (o for o in owed if o.duty.kind == "half"):
        limit = LARGEST_F32 if rounded[o.kernel.name].get(id(o.access)) == o.duty.span else FITS_F16
        largest = magnitudes.cast(o.duty.span)  # of floats; a term is of reals, which say nothing where exp needed room
        plain = not any(exponents.rooms.values()) and exponents.cancellation.none_at(o.kernel.name, o.duty.span)
        if largest > limit and o.duty.argument is not None and plain:
            largest = bound_of(proof, o.duty.argument, o.context)
        if largest > limit:
            return Finding(False, STATEMENT, f"a value cast to f16 is only known to be <= {largest:.3g}", o.duty.span)
    in_order = sorted(exponents.bounds.items(), key=lambda item: item[0].line)
    return Finding(True, STATEMENT, trace=tuple(f"line {s.line}: exp argument <= {b}" for s, b in in_order))


def _owed(proof: Proof) -> Iterator[_Owed]:
    """Every duty of every stored value, in the order of the text."""
    for kernel, trace in zip(proof.program.kernels, proof.traces, strict=True):
        for access in trace.of_kind("store", "atomic"):
            owes = access.value.owes if access.value is not None else ()
            for duty in sorted(owes, key=lambda d: (d.span.line, d.span.column)):
                yield _Owed(kernel, access, duty, proof.within(access).given(duty.premise))


class _Exponents:
    """What is shown of the arguments of exp: `bounds` by place, and of those the `rooms` for rounding.

    Where an argument is made of floats, it is bounded as machines compute it (`verifier.machine`) and needs no room.
    Where it is not shown so (a score less a saved log-sum-exp, which is not made of these floats), or depends on other
    exponentials, it is bounded over the reals, with room for what rounding may add."""

    def __init__(self, proof: Proof) -> None:
        self.proof = proof
        self.inputs = held_by_inputs(proof)
        self.recipes = Recipes(proof.program, proof.bound)
        self.cancellation = Cancellation(self.recipes)
        self.bounds: dict[Span, Fraction] = {}
        self.rooms: dict[tuple[str, Span], Fraction] = {}
        self.places: dict[tuple[str, Span], Fraction | None] = {}

    @property
    def exact(self) -> set[tuple[str, Span]]:
        """Places of exponentials that rounding of their argument changes by next to nothing."""
        return {place for place, room in self.rooms.items() if room <= NEGLIGIBLE}

    @cached_property
    def floats(self) -> Proof:
        return in_floats(self.proof)

    @cached_property
    def owed(self) -> dict[tuple[str, Span, str], list[_Owed]]:
        """The duties of the execution in floats."""
        out: dict[tuple[str, Span, str], list[_Owed]] = {}
        for o in {(o.duty, o.context): o for o in _owed(self.floats)}.values():
            out.setdefault((o.kernel.name, o.duty.span, o.duty.kind), []).append(o)
        return out

    def _in_floats(self, kernel: core.Kernel, span: Span) -> Fraction | None:
        """The step of the ladder that every argument of exp at this place stays below, as floats are computed."""
        place = kernel.name, span
        if place not in self.places:
            owed = self.owed.get((*place, "exp"), ()) if self._of_floats(kernel, span) else None
            steps = [None] if owed is None else [self._step(o) for o in owed]
            self.places[place] = max((s for s in steps if s is not None), default=None) if None not in steps else None
        return self.places[place]

    def _of_floats(self, kernel: core.Kernel, span: Span) -> bool:
        """Whether what is an argument of exp here depends on no other exponential, nor on a saved input."""
        weights, found = Floats(kernel), [e.operand for e in self.recipes.exponentials(kernel.name, span)]
        saved = {t.name for t, _ in self.proof.bound.inputs if t.saved}
        made = self.recipes.made_of([(kernel.name, x) for x in found], functions=True)
        return not any(map(weights.weight, found)) and not any(
            isinstance(x, core.Load) and x.tensor in saved for _, x in made
        )

    def _step(self, o: _Owed) -> Fraction | None:
        if o.duty.argument is None:
            return None
        return exp_bound(self.floats, o.duty.argument, o.context, Fraction(0))

    def bounded(self, kernel: core.Kernel, duty: Duty, context: Context) -> bool:
        """Whether the argument of exp that a duty holds is shown to stay below some step of the ladder."""
        if duty.argument is None:
            return False
        place = kernel.name, duty.span
        room, found = Fraction(0), self._in_floats(kernel, duty.span)
        if found is None:
            room = self._room(kernel, duty.span, duty.argument, context)
            found = exp_bound(self.proof, duty.argument, context, room)
        if found is None and (size := self._size(*place)) <= SMALL_EXPONENT:
            room, found = Fraction(0), Fraction(size)  # of the float: whatever rounding did to it, it is small
        if found is None:
            return False
        self.rooms[place] = max(self.rooms.get(place, room), room)
        self.bounds[duty.span] = max(self.bounds.get(duty.span, found), found)
        return True

    def _room(self, kernel: core.Kernel, span: Span, argument: Real, context: Context) -> Fraction:
        """By how much the float may exceed the real argument."""
        found = [
            self.errors.of(kernel.name, e.operand) * (math.log(2.0) if e.op == "exp2" else 1.0)
            for e in self.recipes.exponentials(kernel.name, span)
        ]
        # What is subtracted may be a saved log-sum-exp, which was rounded as much when it was made.
        sides = 2 if any(t.saved for t, _ in self.proof.bound.inputs) else 1
        return max(rounding(self.proof, argument, context), _fraction(sides * max(found, default=math.inf)))

    def shown(self, o: _Owed) -> Real | None:
        """The argument of exp as it is to be bounded."""
        floats = self.owed.get((o.kernel.name, o.duty.span, "exp"), [])
        return next((x.duty.argument for x in floats if self._step(x) is None), o.duty.argument)

    def divisors(self, owed: Sequence[_Owed]) -> Iterator[_Owed]:
        """Divisors and arguments of log that are made of exponentials, as the execution in floats has them."""
        for place in dict.fromkeys((o.kernel.name, o.duty.span) for o in owed if o.duty.kind == "least"):
            if self._of_weights(*place):
                yield from self.owed.get((*place, "least"), ())

    def _of_weights(self, kernel: str, span: Span) -> bool:
        made = self.recipes.made_of(list(self.recipes.operands_of(kernel, span)))
        return any(isinstance(e, core.Unary) and e.op in ("exp", "exp2") for _, e in made)

    def survives(self, o: _Owed) -> bool:
        """Neither underflow nor rounding takes away what the operation needs of its operand."""
        low = self.proof.floors.operand(o.kernel.name, o.duty.span)
        match o.duty.kind:
            case "root":
                return low >= 0.0
            case "least" if o.duty.argument is not None:
                return low > 0.0 or self.recipes.steady(o.kernel.name, o.duty.span, self.exact) and self._least(o)
            case _:
                return True

    def _least(self, o: _Owed) -> bool:
        """A divisor made of exponentials has to be large as floats are computed; over the reals too if some argument
        of exp was bounded there."""
        if o.duty.argument is None:
            return False
        place = o.kernel.name, o.duty.span
        if not self._of_weights(*place):
            return at_least(self.proof, o.duty.argument, o.context)
        if o in self.owed.get((*place, "least"), ()):
            return at_least(self.floats, o.duty.argument, o.context) or self._least_inside(o, o.duty.argument)
        by_floats = all(found is not None for found in self.places.values())
        return by_floats or at_least(self.proof, o.duty.argument, o.context)

    def _least_inside(self, o: _Owed, argument: Real) -> bool:
        """The same, with what is held by tensors that are read like inputs."""
        known = self.floats.contents

        def held(a: RealAtom) -> Real | None:
            return known[a.args[0]](a.args[1]) if a.kind == "read" and a.args[0] in known else None

        inside = Substitution({}, held, everywhere=True)
        context = self.floats.within(o.access).given(inside.bool(o.duty.premise))
        return at_least(self.floats, inside.real(argument), context)

    def _size(self, kernel: str, span: Span) -> float:
        """The largest float that an argument of exp at this place can be."""
        operands = (e.operand for e in self.recipes.exponentials(kernel, span))
        return max(map(self.errors.size, operands), default=math.inf)

    @cached_property
    def errors(self) -> ArgumentErrors:
        walk = Magnitudes(self.proof, {}, {}, self.inputs, terms=False)
        walk.overflow()  # for what it finds on the way
        return ArgumentErrors(self.recipes, walk)


def _rounded_to_infinity(proof: Proof, kernel: core.Kernel, trace: Trace) -> dict[int, Span]:
    """Stores of a value that is cast to f16 right there, into an output whose cells beyond f16 are infinities by the
    spec, and the place of that cast, which no other cast has. The value is the spec's (E1), so its rounding is what
    the spec asks for; nothing computes with it, as no kernel loads that output."""
    infinite = {t.name for t, _ in proof.bound.outputs if t.overflows}
    infinite -= {access.tensor for t in proof.traces for access in t.of_kind("load")}
    casts = [e.span for e in expressions(kernel.body) if _to_f16(e)]
    return {
        id(access): store.value.span
        for store, access in zip(stores(kernel.body), trace.of_kind("store", "atomic"), strict=True)
        if store.tensor in infinite and _to_f16(store.value) and casts.count(store.value.span) == 1
    }


def _to_f16(e: core.Expr) -> bool:
    return isinstance(e, core.Cast) and e.type.dtype is core.DType.F16 and e.operand.type.dtype is core.DType.F32


def rounding(proof: Proof, argument: Real, context: Context) -> Fraction:
    """By how much the float of an argument `x - log(sum exp(x'))` may exceed the real one: each term t of x
    and of x' is within (n + 8) u |t| of its own for sums of n products, u = 2^-24 (Higham, Accuracy and Stability,
    3.1), and the rounding of sums, difference and log is within the 8."""
    logs = _logs(argument)
    plain = reals.total((m, c) for m, c in argument.terms if m not in logs)
    terms = [reals.total((term,)) for term in plain.terms]
    return _fraction(sum(bound_of(proof, t, context) * (_products(t) + 8) for t in terms) * 2 * 2.0**-24)


def _logs(argument: Real) -> list[Monomial]:
    """The log-sum-exps among the terms."""
    return [m for m, _ in argument.terms if any(a.kind == "log" and a.args[0].constant is None for a, _ in m.factors)]


def _fraction(x: float) -> Fraction:
    return Fraction(x).limit_denominator(1000) + Fraction(1, 1000) if x < LADDER[-1] else LADDER[-1] + 1


def _products(x: Real) -> int:
    """The most terms a sum in x has, over static extents."""
    most = 1
    for mono, _ in x.terms:
        for a, _k in mono.factors:
            if a.kind == "sum":
                new, _ = open_binder(a.args[0], a.args[1])
                sizes = [v.high - v.low + 1 for v in new if v.high is not None and v.low is not None]
                most = max(most, math.prod(sizes) * _products(a.args[2]) if len(sizes) == len(new) else 2**24)
    return most


def exp_bound(proof: Proof, argument: Real, context: Context, room: Fraction | None = None) -> Fraction | None:
    """The smallest step of the ladder the argument is shown to stay below.

    A log-sum-exp is not subtracted from the very numbers it was made of, as a running maximum is: the scores
    are computed again, and rounded again. So what is shown of the reals is shown of floats up to `room`, where it is
    not given up to `rounding` of a log-sum-exp."""
    if room is None:
        room = rounding(proof, argument, context) if _logs(argument) else Fraction(0)
    if room > LADDER[-1]:
        return None
    for step in LADDER:
        if step + room <= LADDER[-1] and at_most(argument, step, context, proof.simplifier):
            return step + room
    largest = bound_of(proof, argument, context)
    return Fraction(largest) + room if largest + room <= LADDER[-1] else None
