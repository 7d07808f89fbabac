"""N1 of a proved program: for each output, |computed - exact| <= a formula, under the machine model.

The steps, each of which may end with a reason why there is no bound:

1. The program is executed once more with every maximum of floats an arbitrary number (`cut`), and E1 and D1 are
   checked again. So the exact program gives the spec's value whatever its pivots are, and in particular with those
   that floats compute: a pivot then has no error, and the errors of online softmax do not multiply up. Where that
   fails (a maximum that is part of the result) maxima are ordinary operations.
2. The walk gives each value its error (`rules`), and each output a companion C with
   |computed - exact| <= (exp(relative) - 1) C + absolute.
3. The companions are executed symbolically, and their normal form, where everything cancels but ranges, parameters
   and numbers, is the bound of C; else the walk's own bound of its size is.

A lower bound of a divisor over the reals (S1) holds for the true maxima. A divisor with other pivots in its exponents
only, as exp(-m) sum exp(s), is less by a factor exp(k d), where d is how far pivots are from maxima and k how often
they occur.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

from ir import error_formula as f
from ir import program as core
from ir.ast import NOWHERE, Span
from ir.error_formula import INFINITE, ZERO, Formula
from verifier.booleans import TRUE
from verifier.execute import Access, Trace
from verifier.magnitude import least_parts, share
from verifier.obligations import definedness, equivalence
from verifier.obligations.range import exp_bound
from verifier.operations import Unsupported
from verifier.proof import Proof, analyse
from verifier.reals import Monomial, Real, RealAtom, monomial, total
from verifier.rounding.errors import Error, Unbounded
from verifier.rounding.prune import pruned
from verifier.rounding.walk import MARK, Known, Walk
from verifier.signs import positive_when
from verifier.simplify import open_guard
from verifier.smt import Context
from verifier.stored import expressions
from verifier.terms import pivots
from verifier.tiles import Duty
from verifier.underflow import LEAST, at_least
from verifier.verdict import Rounding, RoundingBound

STEPS = (0.999, 2.0**-7, 2.0**-14, LEAST)  # lower bounds of a divisor that are tried


Bounds = tuple[tuple[str, Formula], ...]


def rounding(proof: Proof) -> Rounding:
    """N1 of a program of which every obligation was shown on `proof`."""
    try:
        found = bounds(proof)
    except (Unbounded, Unsupported) as problem:
        return Rounding(reason=str(problem))
    except Exception as error:  # a bound is not worth a proof: what fails here says so and claims nothing
        return Rounding(reason=f"the prover failed: {type(error).__name__}: {error}")
    return Rounding(tuple(RoundingBound(n, "\n".join(f.lines(x, n)), json.dumps(f.to_json(x))) for n, x in found))


def bounds(proof: Proof) -> Bounds:
    """A bound of |computed - exact| for each output. Raises Unbounded, Unsupported."""
    try:
        return _bounds(proof, _with_cuts(proof))
    except Unbounded as problem:
        if not _has_maximum(proof.program):
            raise
        try:
            return _bounds(proof, None)
        except Unbounded:
            raise problem from None


def _has_maximum(program: core.Program) -> bool:
    return any(
        isinstance(e, (core.Binary, core.Reduce)) and e.op in ("max", "min") and e.type.dtype.is_float
        for kernel in program.kernels
        for e in expressions(kernel.body)
    )


def _with_cuts(proof: Proof) -> Proof | None:
    """The program with arbitrary pivots, if it gives the spec's values all the same."""
    if not _has_maximum(proof.program):
        return None
    other = analyse(proof.program, proof.bound, cut=True)
    return other if equivalence.check(other).ok and definedness.check(other).ok else None


def _bounds(proof: Proof, free: Proof | None) -> Bounds:
    executed = proof if free is None else free
    floors, settled, summed = _floors(proof, executed), _settled(executed), _summed(proof)
    known = Known(_exponents(proof), floors, settled, summed, cut=free is not None)
    walk = Walk(proof.program, proof.bound, known)
    companions = walk.run()
    outputs = [t.name for t in proof.program.tensors if t.role == "output"]
    sizes: dict[str, Formula] = {}
    wanted = frozenset(name + MARK for name in outputs)
    shown = analyse(pruned(companions, wanted), walk.bound_with_ranges(), cut=free is not None)
    for name in outputs:
        sizes[name] = _size(shown, name + MARK, walk.ranges)
    return tuple((name, _bound(name, walk.held[name], sizes[name])) for name in outputs)


def _bound(name: str, e: Error, companion: Formula) -> Formula:
    """An error relative to the value itself is no more than that share of the largest value there is."""
    size = companion if companion is not INFINITE else e.magnitude
    size = f.minimum(size, f.leaf("result", name)) if e.own else size
    return f.add(f.mul(f.expm1(e.relative), size), e.absolute)


def _size(proof: Proof, tensor: str, ranges: dict[str, Formula]) -> Formula:
    """A bound of what the companion can be, infinite where its normal form, or no place at all, says anything."""
    found = [_value(proof, p.stored.real, p.context, ranges, 6) for p in equivalence.places(proof, tensor)]
    return f.maximum(*found) if found else INFINITE


def _value(proof: Proof, x: Real, context: Context, ranges: dict[str, Formula], splits: int) -> Formula:
    if context.impossible:
        return ZERO
    x = proof.simplifier.real(x, context)
    split = open_guard(x, context) if splits else None
    if split is not None:
        cases = (context.given(split), context.given(~split))
        return f.maximum(*(_value(proof, x, case, ranges, splits - 1) for case in cases))
    sizes = (_monomial(proof, m, context.given(m.guard), ranges) for m, _ in x.terms)
    return f.add(*(f.mul(f.number(abs(float(c))), size) for size, (_, c) in zip(sizes, x.terms, strict=True)))


def _monomial(proof: Proof, m: Monomial, context: Context, ranges: dict[str, Formula]) -> Formula:
    """A product of parameters, after what is a share of a sum: at most 1."""
    while (rest := share(proof, m, context) or _part(proof, m, context)) is not None:
        m = rest
    return INFINITE if m.exponent is not None else _product(m.factors, ranges)


def _part(proof: Proof, m: Monomial, context: Context) -> Monomial | None:
    """sum over D' of w, over a divisor that has sum over D of w among its terms, all positive and D' within D: at
    most 1. What is left of the monomial without the two."""
    for a, k in m.factors:
        for b, p in m.factors:
            if (a.kind, k, p) != ("sum", 1, -1) or positive_when(a.args[2]) is None:
                continue
            for part in least_parts(b):
                whole = part.factors[0][0] if len(part.factors) == 1 and part.factors[0][1] == 1 else None
                if whole is None or whole.kind != "sum" or part.exponent is not m.exponent:
                    continue
                same = whole.args[0] == a.args[0] and whole.args[2] is a.args[2]
                if same and (whole.args[1] is a.args[1] or context.given(a.args[1]).entails(whole.args[1])):
                    rest = {x: n for x, n in m.factors if x is not a and x is not b}
                    return monomial(TRUE, rest, None).terms[0][0]
    return None


def _product(factors: Iterable[tuple[RealAtom, int]], ranges: dict[str, Formula]) -> Formula:
    """Numbers and parameters; those that stand for bounds are bounds only to positive powers."""
    out = f.ONE
    for atom, k in factors:
        factor = _atom(atom, k, ranges)
        if factor is INFINITE:
            return INFINITE
        for _ in range(abs(k)):
            out = f.mul(out, factor) if k > 0 else f.divide(out, factor)
    return out


def _atom(atom: RealAtom, k: int, ranges: dict[str, Formula]) -> Formula:
    if atom.kind == "log" and atom.args[0].constant == 2:
        return f.number(math.log(2.0) * (f.SLACK if k > 0 else 1.0 / f.SLACK))
    name = str(atom.args[0])
    if atom.kind != "param" or (k < 0 and name in ranges):
        return INFINITE
    return ranges[name] if name in ranges else f.leaf("absolute", name)


# ---- what the other obligations showed -----------------------------------------------------


def _owed(proof: Proof) -> Iterator[tuple[Trace, Access]]:
    for trace in proof.traces:
        for access in trace.of_kind("store", "atomic"):
            if access.value is not None:
                yield trace, access


def _exponents(proof: Proof) -> dict[Span, Fraction]:
    """A bound of the real argument of every exponential, by place; none where S1 found only floats to be small."""
    found: dict[Span, Fraction] = {}
    missing: set[Span] = set()
    for _, access in _owed(proof):
        for duty in access.value.owes if access.value else ():
            if duty.kind == "exp" and duty.argument is not None:
                context = proof.within(access).given(duty.premise)
                limit = exp_bound(proof, duty.argument, context, Fraction(0))
                missing |= {duty.span} if limit is None else set()
                found[duty.span] = max(found.get(duty.span, Fraction(0)), limit or Fraction(0))
    return {span: limit for span, limit in found.items() if span not in missing}


def _floors(proof: Proof, executed: Proof) -> Callable[[str, Span, Callable[[str], Formula]], Formula]:
    """A lower bound of the divisor, or argument of log or sqrt, of the operation at a place."""
    true: dict[tuple[str, Span], float] = {}
    moved: dict[tuple[str, Span], list[Real]] = {}
    for trace, access in _owed(proof):
        for key, argument, duty in _divisors(trace, access):
            context = proof.within(access).given(duty.premise)
            low = next((x for x in STEPS if at_least(proof, argument, context, least=x)), 0.0)
            true[key] = min(true.get(key, 1.0), low)
    for trace, access in _owed(executed):
        for key, argument, duty in _divisors(trace, access):
            context = executed.within(access).given(duty.premise)
            moved.setdefault(key, []).extend(_cases(executed, argument, context, 4))

    def floor(kernel: str, span: Span, shift: Callable[[str], Formula]) -> Formula:
        low = proof.floors.operand(kernel, span)
        if low > 0.0:
            return f.number(low)
        if (kernel, span) not in true:
            return ZERO
        slip = ZERO
        for argument in moved.get((kernel, span), ()):
            slip = f.maximum(slip, _slip(argument, shift))
        return f.divide(f.number(true[kernel, span]), f.exp(slip))

    return floor


def _cases(proof: Proof, x: Real, context: Context, splits: int) -> list[Real]:
    """The terms x is, case by case of what the context leaves open."""
    if context.impossible:
        return []
    x = proof.simplifier.real(x, context)
    split = open_guard(x, context) if splits else None
    if split is None:
        return [x]
    return [y for case in (split, ~split) for y in _cases(proof, x, context.given(case), splits - 1)]


def _divisors(trace: Trace, access: Access) -> Iterator[tuple[tuple[str, Span], Real, Duty]]:
    for duty in access.value.owes if access.value else ():
        if duty.kind == "least" and duty.argument is not None and duty.span != NOWHERE:
            yield (trace.kernel, duty.span), duty.argument, duty


def _slip(x: Real, shift: Callable[[str], Formula]) -> Formula:
    """By how much log x, of a sum of positive terms, may be less for pivots that are `shift` from the true maxima;
    infinite where pivots stand elsewhere than in exponents."""
    worst = ZERO
    if not pivots(x):
        return ZERO
    for mono, c in x.terms:
        here = _in_exponent(mono.exponent, shift)
        if pivots(mono.guard) or c <= 0 or positive_when(total(((mono, 1),))) is None:
            return INFINITE
        for atom, k in mono.factors:
            if not pivots(atom):
                continue
            if k != 1 or atom.kind not in ("sum", "poly"):
                return INFINITE
            if atom.kind == "sum" and pivots(atom.args[1]):
                return INFINITE
            here = f.add(here, _slip(atom.args[2] if atom.kind == "sum" else atom.args[0], shift))
        worst = f.maximum(worst, here)
    return worst


def _in_exponent(exponent: Real | None, shift: Callable[[str], Formula]) -> Formula:
    out = ZERO
    for mono, c in exponent.terms if exponent is not None else ():
        found = pivots(mono)
        if not found:
            continue
        others = [(a, k) for a, k in mono.factors if a is not found[0]]
        scale = _product(others, {})
        if mono.exponent is not None or mono.guard is not TRUE or len(mono.factors) != len(others) + 1:
            return INFINITE
        if (found[0], 1) not in mono.factors or pivots(tuple(a for a, _ in others)):
            return INFINITE
        out = f.add(out, f.mul(f.number(abs(float(c))), scale, shift(found[0].args[0])))
    return out


def _settled(executed: Proof) -> frozenset[str]:
    """Tensors in whose values no pivot is left."""
    names = {t.name for t in executed.program.tensors if t.role != "input"}
    for _, access in _owed(executed):
        if access.value is not None and pivots((access.value.real, access.value.finite)):
            names.discard(access.tensor)
    return frozenset(names)


def _summed(proof: Proof) -> Callable[[str, str], tuple[str, ...]]:
    def names(kernel: str, tensor: str) -> tuple[str, ...]:
        layers = (layer for layer in proof.layers.get(tensor, ()) if layer.kernel == kernel)
        return tuple(a.name for layer in layers for w in layer.writers for a in w.summed)

    return names


