"""D1: no stored value depends on a NaN or an undefined operation.

Every store carries the duties met on the way to its value (divisor not zero, no -inf - -inf, no 0 * inf,
log of a non-negative number, no sum over -inf). They must hold where the store's mask does. What the mask
of a store or load owes must hold everywhere, and what its index owes where the mask does: a comparison
with a NaN is neither true nor false of a real, so nothing shown of that access would hold. An integer
divisor that is not known to be positive never gets this far (`execute` refuses it). That a divisor is
not zero, or an argument of log or sqrt not negative, may also be read off how it is computed (`floors`).
"""

from __future__ import annotations

from verifier.booleans import Bool, conj, conjuncts
from verifier.proof import Finding, Proof
from verifier.simplify import Simplifier
from verifier.smt import Context
from verifier.squares import nonnegative, positive
from verifier.tiles import Duty

STATEMENT = (
    "for every access: no operation that the value stored, the index or the mask depends on is undefined "
    "(x/0, -inf - -inf, 0*inf, log of a negative)"
)


def check(proof: Proof) -> Finding:
    count = 0
    for trace in proof.traces:
        for access in trace.accesses:
            placed = proof.context.given(conj(access.premises))
            duties = [(d, placed) for d in access.place.owes]
            duties += [(d, proof.within(access)) for d in (access.value.owes if access.value else ())]
            for duty, context in sorted(duties, key=lambda d: (d[0].span.line, d[0].span.column, d[0].what)):
                if duty.kind != "defined":
                    continue
                count += 1
                here = context.given(duty.premise)
                shown = here.entails(duty.claim) or _by_sign(proof, trace.kernel, duty) or _compared(proof, here, duty)
                if not shown:
                    place = f"{trace.kernel}, {access.kind} of {access.tensor}"
                    what = f"{place}: {duty.what}; left to show: {duty.claim!r}"
                    return Finding(False, STATEMENT, what, duty.span, model=here.model(~duty.claim))
    return Finding(True, STATEMENT, trace=(f"{count} conditions",))


def _by_sign(proof: Proof, kernel: str, duty: Duty) -> bool:
    low = proof.floors.operand(kernel, duty.span)
    return low > 0.0 if duty.sign == "positive" else low >= 0.0 if duty.sign == "nonnegative" else False


def _compared(proof: Proof, here: Context, duty: Duty) -> bool:
    """Whether each part of the claim holds, comparisons by their sign in normal form: what a spec divides by (eps
    plus a variance, of a saved input) has no place in the program where floats compute it."""
    return all(here.entails(part) or _sign_shown(proof.simplifier, here, part) for part in conjuncts(duty.claim))


def _sign_shown(simplifier: Simplifier, here: Context, claim: Bool) -> bool:
    match claim.kind, claim.args:
        case "real", ("gt", x):
            return positive(simplifier.real(x, here), here, simplifier)
        case "not", (Bool(kind="real", args=("eq", x)),):
            return positive(simplifier.real(x, here), here, simplifier)
        case "not", (Bool(kind="real", args=("gt", x)),):
            return nonnegative(simplifier.real(-x, here), here, simplifier)
        case _:
            return False
