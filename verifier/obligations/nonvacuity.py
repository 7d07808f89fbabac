"""V1: the premises can be met.

A proof from contradictory premises proves nothing. For every store there is a concrete size within the
spec's limits, a program, an iteration and a lane at which its premises and its mask hold; the first of
these shapes is the witness a certificate shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from ir.evaluate import check_requires
from verifier.booleans import Bool, conj, ge0, le
from verifier.integers import lift
from verifier.proof import Finding, Proof

STATEMENT = "the premises of every obligation hold together for a concrete shape within the limits"


def _kept(proof: Proof) -> Iterator[Bool]:
    """What sizes are asked to be so that some integer inputs keep the facts: a value in every range, parts enough
    for what is split. Only the search for a witness uses it."""
    for table in proof.formula.tables.values():
        if table.least is not None and table.most is not None:
            yield le(table.least, table.most)
        if table.splits is not None and table.longest is not None:
            yield le(table.splits, (table.extents[0] - 1) * table.longest)


def check(proof: Proof) -> Finding:
    values = proof.sizes.values
    limits = conj((*(ge0(lift(d.maximum) - values[d.name]) for d in proof.bound.dims), *_kept(proof)))
    ample = conj(ge0(values[d.name] - min(d.maximum, max(d.minimum, 2))) for d in proof.bound.dims)
    witness: dict[str, int] | None = None
    for trace in proof.traces:
        for access in trace.of_kind("store", "atomic"):
            context = proof.within(access).given(limits)
            model = context.given(ample).model() or context.model()
            if model is None:
                what = f"{trace.kernel}: no shape within the limits reaches the store to {access.tensor}"
                return Finding(False, STATEMENT, what, access.span)
            shape = proof.sizes.concrete(model, proof.bound.dims)
            witness = witness or shape
            if not check_requires(proof.bound, shape):
                what = f"{trace.kernel}: no integer input keeps the spec's facts at {shape}"
                return Finding(False, STATEMENT, what, access.span)
    if witness is None:
        return Finding(False, STATEMENT, "the candidate stores nothing")
    shown = ", ".join(f"{name}={value}" for name, value in witness.items())
    return Finding(True, STATEMENT, trace=(shown,))
