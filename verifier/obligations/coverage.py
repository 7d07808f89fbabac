"""C1: every cell of every output and scratch tensor is written, and set before it is read or added to.

For a generic cell of the tensor, some plain store's inverse map (see `verifier.inverse`) names a program,
iteration and lane that writes it. Where a later kernel reads the tensor or adds to it, these are stores of
launches before that one: a read always is of what was stored, and an atomic total starts from it. R1 says
that one launch stores a cell once; several launches are laid over each other in order (`verifier.contents`),
for which the inverse maps above the first have to be exact. That the total of atomic adds is complete is
then part of E1: what the cell holds in the end, with every execution's share, equals the spec.

Atomic adds into a half-precision tensor round once for each addition, in whatever order: refused.
"""

from __future__ import annotations

from verifier.binders import Substitution
from verifier.booleans import FALSE, disj
from verifier.contents import Layer, reason
from verifier.inverse import Writer, exact
from verifier.proof import Finding, Proof, in_bounds
from verifier.terms import as_int, fresh

STATEMENT = (
    "for every cell of every output and scratch tensor: some program stores it, in a launch before any that reads it "
    "or adds to it; atomic totals are over exactly the executions that hit the cell"
)


def check(proof: Proof) -> Finding:
    used = {a.tensor for t in proof.traces for a in t.accesses}
    for tensor in proof.program.tensors:
        if tensor.role == "input" or (tensor.role == "scratch" and tensor.name not in used):
            continue
        layers = proof.layers.get(tensor.name, ())
        if not layers:
            return Finding(False, STATEMENT, f"{tensor.name}: no kernel stores it")
        finding = _layered(proof, tensor.name, layers)
        finding = _covered(proof, tensor.name, layers) if finding is None else finding
        if not finding.ok:
            return finding
    return Finding(True, STATEMENT)


def _layered(proof: Proof, tensor: str, layers: tuple[Layer, ...]) -> Finding | None:
    """What stands in the way of laying the launches over each other, if anything."""
    for layer in layers:
        upper = layer is not layers[0]
        span = layer.writers[0].access.span
        if layer.mixed or (layer.adds and not upper):
            return Finding(False, STATEMENT, f"{tensor}: {reason(layer, upper)}", span)
        dtype = proof.program.tensor(tensor).dtype.value
        if layer.adds and dtype != "f32":
            what = f"{tensor}: atomic adds into {dtype} round at every addition; add into f32 and convert in a kernel"
            return Finding(False, STATEMENT, what, span)
        for w in layer.writers if upper else ():
            if not exact(w, proof.within(w.access)):
                what = f"{tensor}: the index is not shown to tell which execution of {layer.kernel} wrote a cell"
                return Finding(False, STATEMENT, what, w.access.span)
    return None


def _covered(proof: Proof, tensor: str, layers: tuple[Layer, ...]) -> Finding:
    """Stores before the first launch that reads or adds (all of them, if none does) hit every cell."""
    uses = [k for k, t in enumerate(proof.traces) for a in t.of_kind("load", "atomic") if a.tensor == tensor]
    first = min(uses, default=len(proof.traces))
    writers: list[Writer] = [w for layer in layers if layer.launch < first for w in layer.writers]
    if not writers:
        what = f"{tensor}: no kernel stores it before {proof.traces[first].kernel} uses it"
        return Finding(False, STATEMENT, what, layers[0].writers[0].access.span)
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
