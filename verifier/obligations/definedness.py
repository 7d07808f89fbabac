"""D1: no stored value depends on a NaN or an undefined operation.

Every store carries the duties met on the way to its value (divisor not zero, no -inf - -inf, no 0 * inf,
log of a non-negative number, no sum over -inf). They must hold where the store's mask does. An integer
divisor that is not known to be positive never gets this far (`execute` refuses it).
"""

from __future__ import annotations

from verifier.proof import Finding, Proof

STATEMENT = (
    "for every stored cell: no operation its value depends on is undefined "
    "(x/0, -inf - -inf, 0*inf, log of a negative)"
)


def check(proof: Proof) -> Finding:
    count = 0
    for trace in proof.traces:
        for access in trace.of_kind("store", "atomic"):
            if access.value is None:
                continue
            context = proof.within(access)
            for duty in sorted(access.value.owes, key=lambda d: (d.span.line, d.span.column, d.what)):
                if duty.kind != "defined":
                    continue
                count += 1
                here = context.given(duty.premise)
                if not here.entails(duty.claim):
                    what = f"{trace.kernel}, store to {access.tensor}: {duty.what}; left to show: {duty.claim!r}"
                    return Finding(False, STATEMENT, what, duty.span, model=here.model(~duty.claim))
    return Finding(True, STATEMENT, trace=(f"{count} conditions",))
