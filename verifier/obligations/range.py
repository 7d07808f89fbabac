"""S1: exponentials and accumulators stay inside the accumulating dtype.

Every exponential argument met on the way to a store is shown to be at most a stated bound (0 when the
maximum is subtracted; `verifier.linear`). With these, a magnitude pass over the typed program bounds
every f32 value a sum, dot or carried name can reach under the spec's input and size limits: a carried
x' = a*x + b with |a| <= 1 grows by at most |b| an iteration; failing that, its closed form is bounded as
a weighted mean, |sum w v / sum w| <= max |v| for w >= 0. All must stay below the largest f32, and what is
cast to f16 below the largest f16, unless it is cast to be stored in an output that overflows to infinities and that
no kernel loads: there only f32 is the limit. Divisors and arguments of log must not underflow (`verifier.underflow`),
and rounding must not make an argument of sqrt negative: `verifier.floors` reads both off the program.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ir import program as core
from ir.ast import Span
from verifier import reals
from verifier.accumulators import LARGEST, LARGEST_F32, Magnitudes, stores
from verifier.binders import open_binder
from verifier.booleans import TRUE
from verifier.execute import Access, Trace
from verifier.linear import at_most
from verifier.magnitude import bound_of
from verifier.proof import Finding, Proof
from verifier.reals import Real
from verifier.smt import Context
from verifier.stored import expressions, stored_difference
from verifier.tiles import Duty
from verifier.underflow import at_least

STATEMENT = (
    "every exp argument stays below its bound; no f32 accumulator and no cast to f16 overflows under the input "
    "range; no divisor or argument of log is lost to underflow, no argument of sqrt negative by rounding"
)
LADDER = tuple(Fraction(n) for n in (0, 6, 9, 16, 32, 64))  # 8 * ln 2 < 6: lazy rescaling by 2^8
FITS_F16 = LARGEST[core.DType.F16] / 1.01  # what is computed from rounded values is a little larger


def check(proof: Proof) -> Finding:
    bounds: dict[Span, Fraction] = {}
    halves: list[tuple[Duty, Access, float]] = []
    quotients: dict[Span, list[tuple[Duty, Access]]] = {}
    seen: set[tuple[Duty, Context]] = set()
    roomy = False  # whether some argument of exp is bounded with room for rounding only
    for kernel, trace in zip(proof.program.kernels, proof.traces, strict=True):
        rounded = _rounded_to_infinity(proof, kernel, trace)
        for access in trace.of_kind("store", "atomic"):
            if access.value is None:
                continue
            for duty in sorted(access.value.owes, key=lambda d: (d.span.line, d.span.column)):
                if duty.kind == "half":
                    halves.append((duty, access, LARGEST_F32 if rounded.get(id(access)) == duty.span else FITS_F16))
                if duty.kind == "quotient":
                    quotients.setdefault(duty.span, []).append((duty, access))
                context = proof.within(access).given(duty.premise)
                if (duty, context) in seen:
                    continue  # shown for another store under the same premises
                seen.add((duty, context))
                if not _survives(proof, trace.kernel, duty, context):
                    what = f"{trace.kernel}: {duty.what}: not shown of {duty.argument!r}"
                    return Finding(False, STATEMENT, what, duty.span)
                if duty.kind != "exp" or duty.argument is None:
                    continue
                stored = stored_difference(kernel, duty.span)
                found = exp_bound(proof, duty.argument, context, stored)
                if found is None:
                    what = f"{trace.kernel}: the argument of exp is not shown to be <= {LADDER[-1]}: {duty.argument!r}"
                    return Finding(False, STATEMENT, what, duty.span)
                bounds[duty.span] = max(bounds.get(duty.span, found), found)
                roomy = roomy or rounding(proof, duty.argument, context, stored) > 0
    magnitudes = Magnitudes(proof, bounds, quotients)
    problem = magnitudes.overflow()
    if problem is not None:
        return Finding(False, STATEMENT, problem[0], problem[1])
    for duty, access, limit in halves:
        largest = magnitudes.cast(duty.span)  # of floats; a term is of reals, which say nothing where exp needed room
        if largest > limit and duty.argument is not None and not roomy:
            largest = bound_of(proof, duty.argument, proof.within(access).given(duty.premise))
        if largest > limit:
            return Finding(False, STATEMENT, f"a value cast to f16 is only known to be <= {largest:.3g}", duty.span)
    in_order = sorted(bounds.items(), key=lambda item: item[0].line)
    return Finding(True, STATEMENT, trace=tuple(f"line {s.line}: exp argument <= {b}" for s, b in in_order))


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


def rounding(proof: Proof, argument: Real, context: Context, stored: bool = False) -> Fraction:
    """By how much the f32 value of an argument `x - log(sum exp(x'))` may exceed the real one: each term t of x
    and of x' is within (n + 8) u |t| of its own for sums of n products, u = 2^-24 (Higham, Accuracy and Stability,
    3.1), and the rounding of sums, difference and log is within the 8. 0 where no log-sum-exp is subtracted, and
    where a maximum of log-sum-exps is subtracted from one of them, both as they were stored (`verifier.stored`)."""
    logs = [
        m for m, _ in argument.terms if any(a.kind == "log" and a.args[0].constant is None for a, _ in m.factors)
    ]
    if not logs or (stored and _below_own_maximum(argument)):
        return Fraction(0)
    plain = reals.total((m, c) for m, c in argument.terms if m not in logs)
    terms = [reals.total((term,)) for term in plain.terms]
    largest = sum(bound_of(proof, t, context) * (_products(t) + 8) for t in terms)
    if not math.isfinite(largest):
        return LADDER[-1] + 1
    return Fraction(largest * 2 * 2.0**-24).limit_denominator(1000) + Fraction(1, 1000)


def _below_own_maximum(argument: Real) -> bool:
    """Whether this is log x - max of logs, over whatever guards."""
    if len(argument.terms) != 2:
        return False
    (m, c), (n, d) = sorted(argument.terms, key=lambda term: -term[1])
    above, below = (reals.monomial(TRUE, dict(x.factors), x.exponent).atom for x in (m, n))
    if above is None or below is None or (c, d) != (1, -1) or above.kind != "log" or below.kind != "max":
        return False
    bodies = (body.atom for _, _, body in below.args[0])
    return all(body is not None and body.kind == "log" for body in bodies)


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


def _survives(proof: Proof, kernel: str, duty: Duty, context: Context) -> bool:
    """Neither underflow nor rounding takes away what the operation needs of its operand."""
    low = proof.floors.operand(kernel, duty.span)
    match duty.kind:
        case "root":
            return low >= 0.0
        case "least" if duty.argument is not None:
            return low > 0.0 or at_least(proof, duty.argument, context)
        case _:
            return True


def exp_bound(proof: Proof, argument: Real, context: Context, stored: bool = False) -> Fraction | None:
    """The smallest step of the ladder the argument is shown to stay below.

    A log-sum-exp is not subtracted from the very numbers it was made of, as a running maximum is: the scores
    are computed again, and rounded again. So what is shown of the reals is shown of floats up to `rounding`."""
    slack = rounding(proof, argument, context, stored)
    for step in LADDER:
        if step + slack <= LADDER[-1] and at_most(argument, step, context, proof.simplifier):
            return step + slack
    largest = bound_of(proof, argument, context)
    return Fraction(largest) if largest <= LADDER[-1] else None
