"""Square roots in the normal form. Rules applied on construction:

  sqrt-pow  sqrt(x)^2 = x, sqrt(x) x^-1 = sqrt(x)^-1; x >= 0 is the definedness condition of that sqrt, and x != 0
            that of the division where one occurs
  sqrt-mul  sqrt(c exp(a) y x) = sqrt(c) exp(a/2) sqrt(y) sqrt(x) for a number c > 0 and factors y known positive
            (then x >= 0 wherever the product is, which is the definedness condition of the sqrt). Of a sum,
            what all its terms share of these is moved out
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

from verifier.booleans import TRUE
from verifier.integers import positive
from verifier.reals import Real, RealAtom, exp, is_positive_constant, monomial, number, of, power, primitive, real_atom


def whole_powers(powers: dict[RealAtom, int]) -> tuple[dict[RealAtom, int], Real | None]:
    """sqrt-pow: every sqrt(x) to the power 0, 1 or -1, together with powers of x that are factors too: the
    number of halves in x^(halves / 2) says it all. Powers of x that are not one atom come as a factor apart."""
    out, extra = dict(powers), None
    roots = [a for a in powers if a.kind == "fn" and a.args[0] == "sqrt"]
    for a in sorted(roots, key=lambda a: -a.serial):  # sqrt(sqrt(x)) before sqrt(x)
        x: Real = a.args[1]
        inside = _inverted(x)
        halves = 2 * (out.pop(inside, 0) if inside is not None else 0) + out[a]
        out[a] = 0 if halves % 2 == 0 else 1 if halves > 0 else -1
        whole = (halves - out[a]) // 2
        if inside is not None and (whole < 0 or inside is x.atom):
            out[inside] = whole
        elif whole:
            extra = power(x, whole) if extra is None else extra * power(x, whole)
    return out, extra


def _inverted(x: Real) -> RealAtom | None:
    """The atom that x^-1 is a power of, if it is one."""
    terms = power(x, -1).terms
    mono, c = terms[0]
    plain = len(terms) == 1 and c == 1 and mono.guard is TRUE and mono.exponent is None and len(mono.factors) == 1
    return mono.factors[0][0] if plain and mono.factors[0][1] == -1 else None


def sqrt(x: Real) -> Real:
    """sqrt x; the caller owes x >= 0."""
    if not x.terms:
        return x
    if len(x.terms) > 1:
        shared, rest = primitive(x)
    elif x.terms[0][0].guard is TRUE:
        shared, rest = x, number(1)
    else:
        return _bare(x)
    ((mono, c),) = shared.terms
    sure = {a: k for a, k in mono.factors if _is_known_positive(a)}
    left = rest * monomial(TRUE, {a: k for a, k in mono.factors if a not in sure}, None) * number(1 if c > 0 else -1)
    out = _of_number(abs(Fraction(c)))
    for a, k in sure.items():
        out = out * power(_bare(of(a)), k)
    if mono.exponent is not None:
        out = out * exp(mono.exponent * number(Fraction(1, 2)))
    return out if left is number(1) else out * _bare(left)


def _bare(x: Real) -> Real:
    return of(real_atom("fn", "sqrt", x))


def _of_number(c: Fraction) -> Real:
    """sqrt(p / q) = sqrt(p q) / q, in lowest terms."""
    square = c.numerator * c.denominator
    whole = isqrt(square)
    if whole * whole == square:
        return number(Fraction(whole, c.denominator))
    return _bare(number(square)) * number(Fraction(1, c.denominator))


def _is_known_positive(a: RealAtom) -> bool:
    """A positive constant, or an integer that its static bounds make positive (a size)."""
    return is_positive_constant(a) or a.kind == "int" and positive(a.args[0])
