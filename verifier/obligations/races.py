"""R1 and R2: no two executions of a launch meet in one cell.

R1 takes two copies of the symbolic program. Two executions of stores (other program, iteration, lane or
statement) may not hit one cell, unless both are atomic adds. R2: no load of a launch hits a cell that
launch stores, by whatever program; so what a load sees is what earlier kernels stored.
"""

from __future__ import annotations

from verifier.binders import Substitution
from verifier.booleans import Bool, conj, equal, negate
from verifier.execute import Access, Trace
from verifier.integers import Int
from verifier.inverse import exact, unknowns_of
from verifier.proof import Finding, Proof
from verifier.terms import as_int, fresh

WRITES = "for every two executions of stores in one launch: no common cell, unless both are atomic adds"
READS = "for every load and every store of one launch: no common cell"


def _copy(trace: Trace, access: Access) -> tuple[Bool, tuple[Int, ...], Bool]:
    """The access with its unknowns renamed: its premises and mask, its index, and the condition that all
    unknowns have the values of the original."""
    unknowns = unknowns_of(trace, access)
    renamed = {a: as_int(fresh(a.name + "_other", a.low, a.high)) for a in unknowns}
    change = Substitution(renamed)
    here = conj((*map(change.bool, access.premises), change.bool(access.mask)))
    same = tuple(equal(as_int(a), renamed[a]) for a in unknowns)
    index = tuple(map(change.int, access.index))
    return here, index, conj(same)


def _invertible(proof: Proof, access: Access) -> bool:
    """Whether the inverse of the index map gives every execution back from its cell: then no two
    executions share one. Cheaper than two copies, and linear where those are not."""
    writers = (w for layer in proof.layers[access.tensor] for w in layer.writers)
    return any(w.access is access and exact(w, proof.within(access)) for w in writers)


def write_write(proof: Proof) -> Finding:
    for trace in proof.traces:
        stores = trace.of_kind("store", "atomic")
        for k, first in enumerate(stores):
            for second in stores[k:]:
                if first.tensor != second.tensor or first.kind == second.kind == "atomic":
                    continue
                if first is second and _invertible(proof, first):
                    continue
                here, index, same = _copy(trace, second)
                meet = conj(equal(i, j) for i, j in zip(first.index, index, strict=True))
                context = proof.within(first).given(here)
                claim = negate(meet) if first is not second else negate(meet) | same
                if not context.entails(claim):
                    what = f"{trace.kernel}: two stores to {first.tensor} may hit one cell"
                    return Finding(False, WRITES, what, second.span, model=context.model(~claim))
    return Finding(True, WRITES)


def read_write(proof: Proof) -> Finding:
    for trace in proof.traces:
        for load in trace.of_kind("load"):
            for store in trace.of_kind("store", "atomic"):
                if load.tensor != store.tensor:
                    continue
                here, index, _ = _copy(trace, store)
                meet = conj(equal(i, j) for i, j in zip(load.index, index, strict=True))
                context = proof.within(load).given(here)
                if not context.entails(negate(meet)):
                    what = f"{trace.kernel}: a load of {load.tensor} may hit a cell this launch stores"
                    return Finding(False, READS, what, load.span, model=context.model(meet))
    return Finding(True, READS)
