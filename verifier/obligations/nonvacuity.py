"""V1: the premises can be met.

A proof from contradictory premises proves nothing. For every store there is a concrete size within the
spec's limits, a program, an iteration and a lane at which its premises and its mask hold; the first of
these shapes is the witness a certificate shows.
"""

from __future__ import annotations

from collections.abc import Iterator

from verifier.booleans import TRUE, Bool, conj, ge0, le
from verifier.integers import lift
from verifier.proof import Finding, Proof

STATEMENT = "the premises of every obligation hold together for a concrete shape within the limits"


def _kept(proof: Proof) -> Iterator[Bool]:
    """Sizes at which some integer inputs keep the facts: a value in every range, parts enough for what is split.
    (Equal parts, the rest in the first ones, then keep them.) Without this a model would speak of cells only."""
    for table in proof.formula.tables.values():
        if table.least is not None and table.most is not None and not table.part_of:
            yield le(table.least, table.most)
        if table.splits is not None:
            parts = table.extents[0] - 1
            yield ge0(table.splits) & (ge0(parts - 1) | le(table.splits, 0))
            yield TRUE if table.longest is None else le(table.splits, parts * table.longest)


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
            witness = witness or proof.sizes.concrete(model, proof.bound.dims)
    if witness is None:
        return Finding(False, STATEMENT, "the candidate stores nothing")
    shown = ", ".join(f"{name}={value}" for name, value in witness.items())
    return Finding(True, STATEMENT, trace=(shown,))
