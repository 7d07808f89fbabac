"""When is a real term positive: comparisons with zero as integer conditions.

A sum of monomials with positive coefficients (numbers, or terms in parameters that their limits keep
positive) whose factors are never negative is positive exactly when one monomial has its guard true and
every factor positive; a sum over a domain of positive bodies is positive exactly when the domain is not
empty (`elimination.exists`). exp is positive. Whatever is not decided this way becomes an opaque boolean: the
prover then has to hold for both of its values.
"""

from __future__ import annotations

from verifier.booleans import FALSE, TRUE, Bool, boolean, conj, conjuncts, disj, eq0, ge0, lt, negate
from verifier.constants import by_constants, limits
from verifier.elimination import exists
from verifier.integer_reals import as_integer
from verifier.integers import lift
from verifier.reals import ROUNDED, Member, Monomial, Real, RealAtom, is_positive_constant, of


def positive_when(x: Real, known: Bool = TRUE) -> Bool | None:
    """A condition equivalent to x > 0, for an x that is never negative where `known` holds; None if that is unknown."""
    parts = []
    for q, mono in by_constants(x):
        ends, condition = limits(q), _monomial_positive_when(mono, known)
        if ends is None or ends[0] <= 0 or condition is None:
            return None
        parts.append(condition)
    return disj(parts)


def never_negative(x: Real) -> bool:
    """Whether x >= 0 by the signs of its terms."""
    parts = [(limits(q), mono) for q, mono in by_constants(x)]
    return all(e is not None and e[0] >= 0 and _monomial_positive_when(m, TRUE) is not None for e, m in parts)


def _monomial_positive_when(mono: Monomial, known: Bool) -> Bool | None:
    parts = [mono.guard]
    known = known & mono.guard
    for atom, k in mono.factors:
        condition = _atom_positive_when(atom, known)
        if condition is None:
            if (k % 2 or k < 0) and not (k > 0 and _not_negative(atom, known)):
                return None
            condition = boolean("not", boolean("real", "eq", of(atom)))
        parts.append(condition)
    return conj(parts)


def _not_negative(atom: RealAtom, known: Bool) -> bool:
    """Whether a comparison says so (what is left of a number where it is not below 0, say), or a member of a maximum
    that is always there and no negative number; rounding keeps the sign."""
    x = of(atom)
    if atom.kind == "max" and any(map(_floor, atom.args[0])):
        return True
    if atom.kind == "fn" and atom.args[0].startswith(ROUNDED) and never_negative(atom.args[1]):
        return True
    return any(p in (boolean("real", "gt", x), negate(boolean("real", "gt", -x))) for p in conjuncts(known))


def _floor(member: Member) -> bool:
    variables, guard, body = member
    return not variables and guard is TRUE and body.constant is not None and body.constant >= 0


def _atom_positive_when(atom: RealAtom, known: Bool = TRUE) -> Bool | None:
    if is_positive_constant(atom):
        return TRUE
    match atom.kind:
        case "sum":
            variables, guard, body = atom.args
            inner = positive_when(body, known & guard)
            return None if inner is None else exists(variables, conj((guard, inner)))
        case "poly":
            return positive_when(atom.args[0], known)
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


def sign(op: str, x: Real) -> Bool:
    """x op 0 for what an operation needs of its operand, gt, ge or ne: of an integer, a condition on integers. A
    comparison that a kernel makes stays opaque: it is of floats, which integers beyond 2^24 are not."""
    whole = as_integer(x)
    if whole is None:
        return compare(op, x)
    return ~eq0(whole) if op == "ne" else ge0(whole - 1) if op == "gt" else ge0(whole)
