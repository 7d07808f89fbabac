"""B1: every load and store touches only cells of its tensor.

For each access, for all sizes, programs, iterations and lanes where its mask holds, each index lies in
its extent. Sound because the access list of `execute` is complete: one entry per load and store, under
exactly the premises of its place.
"""

from __future__ import annotations

from verifier.proof import Finding, Proof, in_bounds

STATEMENT = "for every size, program, iteration and lane whose mask holds: 0 <= index < extent in each dimension"


def check(proof: Proof) -> Finding:
    for trace in proof.traces:
        for access in trace.accesses:
            extents = proof.extents(access.tensor)
            claim = in_bounds(access.index, extents)
            context = proof.within(access)
            if not context.entails(claim):
                cell = f"{access.tensor}{list(access.index)} with extents {list(extents)}"
                what = f"{trace.kernel}: the {access.kind} of {cell} is not shown to be in bounds"
                return Finding(False, STATEMENT, what, access.span, model=context.model(~claim))
    count = sum(len(t.accesses) for t in proof.traces)
    return Finding(True, STATEMENT, trace=(f"{count} accesses",))
