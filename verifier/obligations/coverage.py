"""C1: every cell of every output is written, by exactly one kernel (R1: exactly once in it).

For a generic cell of the tensor, some store's inverse map (see `verifier.inverse`) names a program,
iteration and lane that writes it. Scratch tensors are held to the same: what a later kernel reads then
always is what was stored.
"""

from __future__ import annotations

from verifier.binders import Substitution
from verifier.booleans import FALSE, disj
from verifier.proof import Finding, Proof, in_bounds
from verifier.terms import as_int, fresh

STATEMENT = "for every cell of every output and scratch tensor: some program writes it, and only one kernel does"


def check(proof: Proof) -> Finding:
    used = {a.tensor for t in proof.traces for a in t.accesses}
    for tensor in proof.program.tensors:
        if tensor.role == "input" or (tensor.role == "scratch" and tensor.name not in used):
            continue
        kernels = {t.kernel for t in proof.traces for a in t.of_kind("store", "atomic") if a.tensor == tensor.name}
        if len(kernels) != 1:
            what = "no kernel stores it" if not kernels else f"kernels {', '.join(sorted(kernels))} all store it"
            return Finding(False, STATEMENT, f"{tensor.name}: {what}")
        finding = _covered(proof, tensor.name)
        if not finding.ok:
            return finding
    return Finding(True, STATEMENT)


def _covered(proof: Proof, tensor: str) -> Finding:
    writers = proof.writers[tensor]
    if any(w.access.kind == "atomic" for w in writers):
        span = writers[0].access.span
        return Finding(False, STATEMENT, f"{tensor}: atomic adds need memory that an earlier kernel set to zero", span)
    extents = proof.extents(tensor)
    cell = tuple(as_int(fresh("cell")) for _ in extents)
    context = proof.context.given(in_bounds(cell, extents))
    claim = disj(Substitution(dict(zip(w.cell, cell, strict=True))).bool(w.covers) for w in writers)
    if context.entails(claim):
        return Finding(True, STATEMENT)
    missing = "; ".join(w.why for w in writers if w.inverse is None)
    what = f"{tensor}{list(cell)}: no store is shown to write every such cell" + (f" ({missing})" if missing else "")
    model = None if claim is FALSE else context.model(~claim)
    return Finding(False, STATEMENT, what, writers[0].access.span, model=model)
