"""E1: what is stored equals the spec, over the reals.

For each store to an output, the stored term and the spec's term at the same cell are brought to normal
form under the store's premises and must be the same object; where one is -inf the other must be too. An
output that several launches write, by atomic adds say, is compared at a generic cell, with what the last
launch leaves there (`verifier.contents`).
Conditions that the premises leave open (a row that sees no key) are split: each case is proved. The
comparison is of whole normal forms; nothing is sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ir import ast
from ir.ast import Span
from ir.binding import walk
from ir.spec import Bound
from verifier.booleans import Bool, conj, disj, negate
from verifier.contents import held
from verifier.integer_reals import spread
from verifier.integers import Int
from verifier.proof import Finding, Proof, in_bounds
from verifier.reals import Real
from verifier.recipes import Recipes
from verifier.residue import vanishes
from verifier.simplify import open_guard
from verifier.smt import Context
from verifier.terms import as_int, fresh
from verifier.tiles import Scalar

STATEMENT = (
    "for every output cell: the stored value equals the spec's formula over the reals, and is -inf exactly where it is"
)
MAX_SPLITS = 6
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


def check(proof: Proof) -> Finding:
    rounded = Recipes(proof.program, proof.bound).rounded_comparison(_compared(proof.bound))
    if rounded is not None:
        what = "the spec decides by a comparison of numbers as they are; here they are rounded before they are compared"
        return Finding(False, STATEMENT, what, rounded)
    shown = []
    outputs = [t.name for t in proof.program.tensors if t.role == "output"]
    for place in (place for tensor in outputs for place in places(proof, tensor)):
        wanted = proof.formula.within(place.context).output(place.tensor, place.index)
        context = place.context
        duties = [d for d in wanted.owes if d.kind == "defined"]
        defined = conj(disj((negate(d.premise), d.claim)) for d in duties)
        if proof.bound.spec.empty_row == "zero" and not context.entails(defined):
            what = f"{place.tensor}: the spec is not shown to be defined at every cell: {duties[0].what}"
            return Finding(False, STATEMENT, what, place.span)
        context = context.given(defined)
        if context.impossible:
            what = f"{place.tensor}: the spec is defined at no cell this store writes, so nothing would be shown"
            return Finding(False, STATEMENT, what, place.span)
        gap = _compare(proof, context, place.stored, wanted, MAX_SPLITS)
        if gap is not None:
            what = f"{place.tensor}{list(place.index)}: {gap.text}"
            return Finding(False, STATEMENT, what, place.span, goal=gap.goal)
        formula = proof.simplifier.real(wanted.real, context)
        shown.append(f"{place.tensor}{list(place.index)} = {formula!r}")
    return Finding(True, STATEMENT, trace=tuple(shown))


def _compared(bound: Bound) -> set[str]:
    """The inputs, and "random", that comparisons of reals in the spec are of."""
    definitions = {d.name: d.value for d in bound.spec.definitions}
    floats = {t.name for t, dtype in bound.inputs if dtype.is_float}
    sides = [
        side
        for value in definitions.values()
        for e in walk(value)
        if isinstance(e, ast.Binary) and e.op in COMPARISONS
        for side in (e.left, e.right)
    ]
    found: set[str] = set()
    seen: set[str] = set()
    while sides:
        for e in walk(sides.pop()):
            name = e.name if isinstance(e, ast.Element) else e.id if isinstance(e, ast.Name) else ""
            found |= {name} & floats
            found |= {"random"} if isinstance(e, ast.Call) and e.function == "random" else set()
            if name in definitions and name not in seen:
                seen.add(name)
                sides.append(definitions[name])
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where what is stored to a tensor is looked at."""

    tensor: str
    index: tuple[Int, ...]
    context: Context
    stored: Scalar
    span: Span


def places(proof: Proof, tensor: str) -> Iterator[Place]:
    """Every store of a tensor that one launch alone writes, under its own premises; what a tensor that several
    write holds in the end, at a generic cell."""
    layers = proof.layers.get(tensor, ())
    if len(layers) == 1 and not layers[0].adds and not layers[0].mixed:
        for access in (w.access for w in layers[0].writers):
            if access.value is not None:
                yield Place(tensor, access.index, proof.within(access), access.value, access.span)
    elif layers:
        extents = proof.extents(tensor)
        cell = tuple(as_int(fresh("cell")) for _ in extents)
        span = layers[-1].writers[-1].access.span
        stored = held(layers, cell, proof.within, span)
        yield Place(tensor, cell, proof.context.given(in_bounds(cell, extents)), stored, span)


@dataclass(frozen=True, slots=True)
class _Gap:
    """What is left to show: in words, and as the two terms that should be equal."""

    text: str
    goal: tuple[Real, Real] | None = None


def _compare(proof: Proof, context: Context, stored: Scalar, wanted: Scalar, splits: int) -> _Gap | None:
    """None when equal in every case."""
    if context.impossible:
        return None
    simplify = proof.simplifier
    finite, should = simplify.condition(stored.finite, context), simplify.condition(wanted.finite, context)
    same = disj((conj((finite, should)), conj((negate(finite), negate(should)))))
    undecided = _undecided(context, should) or _undecided(context, finite)
    if undecided is None and not context.entails(same):
        return _Gap(f"stored is finite when {finite!r}, the spec when {should!r}")
    if undecided is None and context.entails(negate(should)):
        return None
    a, b = spread(simplify.real(stored.real, context)), spread(simplify.real(wanted.real, context))
    left = simplify.real(a - b, context)
    if undecided is None and (left is simplify.real(a - a, context) or vanishes(left, context, simplify)):
        return None
    undecided = undecided or open_guard(b, context) or open_guard(a, context)
    if undecided is None or splits == 0:
        return _Gap(f"stored {a!r}\n  spec   {b!r}", (a, b))
    for case in (undecided, negate(undecided)):
        gap = _compare(proof, context.given(case), stored, wanted, splits - 1)
        if gap is not None:
            return _Gap(f"when {case!r}: {gap.text}", gap.goal)
    return None


def _undecided(context: Context, condition: Bool) -> Bool | None:
    """A part of the condition the context leaves open, to split on."""
    if context.decide(condition) is not None:
        return None
    return condition
