"""E1: what is stored equals the spec, over the reals.

For each store to an output, the stored term and the spec's term at the same cell are brought to normal
form under the store's premises and must be the same object; where one is -inf the other must be too.
Conditions that the premises leave open (a row that sees no key) are split: each case is proved. The
comparison is of whole normal forms; nothing is sampled.
"""

from __future__ import annotations

from verifier.execute import Access
from verifier.integers import Bool, conj, disj, negate
from verifier.proof import Finding, Proof
from verifier.simplify import open_guard
from verifier.smt import Context
from verifier.tiles import Scalar

STATEMENT = (
    "for every output cell: the stored value equals the spec's formula over the reals, and is -inf exactly where it is"
)
MAX_SPLITS = 6


def check(proof: Proof) -> Finding:
    shown = []
    for trace in proof.traces:
        for access in trace.of_kind("store"):
            if proof.role(access.tensor) != "output" or access.value is None:
                continue
            wanted = proof.formula.output(access.tensor, access.index)
            context = proof.within(access)
            duties = [d for d in wanted.owes if d.kind == "defined"]
            context = context.given(conj(disj((negate(d.premise), d.claim)) for d in duties))
            if context.impossible:
                what = f"{access.tensor}: the spec is defined at no cell this store writes, so nothing would be shown"
                return Finding(False, STATEMENT, what, access.span)
            residual = _compare(proof, context, access.value, wanted, MAX_SPLITS)
            if residual:
                return Finding(False, STATEMENT, f"{access.tensor}{list(access.index)}: {residual}", access.span)
            shown.append(_shown(proof, access, context, wanted))
    return Finding(True, STATEMENT, trace=tuple(shown))


def _compare(proof: Proof, context: Context, stored: Scalar, wanted: Scalar, splits: int) -> str:
    """Empty when equal in every case; else what is left to show."""
    if context.impossible:
        return ""
    simplify = proof.simplifier
    finite, should = simplify.condition(stored.finite, context), simplify.condition(wanted.finite, context)
    same = disj((conj((finite, should)), conj((negate(finite), negate(should)))))
    undecided = _undecided(context, should) or _undecided(context, finite)
    if undecided is None and not context.entails(same):
        return f"stored is finite when {finite!r}, the spec when {should!r}"
    if undecided is None and context.entails(negate(should)):
        return ""
    a, b = simplify.real(stored.real, context), simplify.real(wanted.real, context)
    if undecided is None and simplify.real(a - b, context) is simplify.real(a - a, context):
        return ""
    undecided = undecided or open_guard(b, context) or open_guard(a, context)
    if undecided is None or splits == 0:
        return f"stored {a!r}\n  spec   {b!r}"
    for case in (undecided, negate(undecided)):
        residual = _compare(proof, context.given(case), stored, wanted, splits - 1)
        if residual:
            return f"when {case!r}: {residual}"
    return ""


def _undecided(context: Context, condition: Bool) -> Bool | None:
    """A part of the condition the context leaves open, to split on."""
    if context.decide(condition) is not None:
        return None
    return condition


def _shown(proof: Proof, access: Access, context: Context, wanted: Scalar) -> str:
    return f"{access.tensor}{list(access.index)} = {proof.simplifier.real(wanted.real, context)!r}"
