"""When is a real term positive: comparisons with zero as integer conditions.

A sum of monomials with positive coefficients (numbers, or terms in parameters that their limits keep
positive) whose factors are never negative is positive exactly when one monomial has its guard true and
every factor positive; a sum over a domain of positive bodies is positive exactly when the domain is not
empty (`elimination.exists`). exp is positive. Whatever is not decided this way becomes an opaque boolean: the
prover then has to hold for both of its values.
"""

from __future__ import annotations

from verifier.booleans import FALSE, TRUE, Bool, boolean, conj, disj, ge0, lt
from verifier.constants import by_constants, limits
from verifier.elimination import exists
from verifier.integers import lift
from verifier.reals import Monomial, Real, RealAtom, is_positive_constant


def positive_when(x: Real) -> Bool | None:
    """A condition equivalent to x > 0, for an x that is never negative; None if that is not known."""
    parts = []
    for q, mono in by_constants(x):
        ends, condition = limits(q), _monomial_positive_when(mono)
        if ends is None or ends[0] <= 0 or condition is None:
            return None
        parts.append(condition)
    return disj(parts)


def _monomial_positive_when(mono: Monomial) -> Bool | None:
    parts = [mono.guard]
    for atom, k in mono.factors:
        condition = _atom_positive_when(atom)
        if condition is None:
            if k % 2 or k < 0:
                return None
            condition = boolean("not", boolean("real", "eq", _real(atom)))
        parts.append(condition)
    return conj(parts)


def _real(atom: RealAtom) -> Real:
    from verifier.reals import of

    return of(atom)


def _atom_positive_when(atom: RealAtom) -> Bool | None:
    if is_positive_constant(atom):
        return TRUE
    match atom.kind:
        case "sum":
            variables, guard, body = atom.args
            inner = positive_when(body)
            return None if inner is None else exists(variables, conj((guard, inner)))
        case "poly":
            return positive_when(atom.args[0])
        case "int":
            low = ge0(atom.args[0])
            return lt(lift(0), atom.args[0]) if low is TRUE else None
        case "fn" if atom.args[0] in ("sigmoid",):
            return TRUE
        case "fn" if atom.args[0] == "sqrt":  # its argument is not negative where it is defined
            return compare("gt", atom.args[1])
        case _:
            return None


def compare(op: str, x: Real) -> Bool:
    """x op 0 for op in lt, le, gt, ge, eq, ne; decided by signs where possible, else opaque."""
    match op:
        case "lt":
            return compare("gt", -x)
        case "le":
            return ~compare("gt", x)
        case "ge":
            return ~compare("gt", -x)
        case "ne":
            return ~compare("eq", x)
    ends = limits(x)
    if ends is not None and (ends[0] > 0 or ends[1] < 0 or ends[0] == ends[1]):
        return TRUE if (ends[0] > 0 if op == "gt" else ends[0] == ends[1] == 0) else FALSE
    up, down = positive_when(x), positive_when(-x)
    if op == "gt":
        if up is not None:
            return up
        return FALSE if down is not None else boolean("real", "gt", x)
    if up is not None or down is not None:
        return ~(up if up is not None else down)  # type: ignore[operator]
    if x.terms and x.terms[0][1] < 0:
        x = -x
    return boolean("real", "eq", x)
