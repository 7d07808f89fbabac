"""Is there an integer v with G(v), said without v: exact elimination of bound symbols.

One integer symbol whose bounds are `a*v >= l` and `b*v <= u` with a, b > 0 has a value exactly when, for every
pair of them, ceil(l/a) <= floor(u/b) (Fourier-Motzkin with rounded bounds: the largest of the lower bounds and
the smallest of the upper ones are integers). Here a and b may be symbolic (the length of a split, say):

  a = 1 or b = 1        l*b <= u, or l <= u*a
  a and b are the same  true when u - l + 1 >= a whatever the sizes: some multiple of a is among a consecutive
                        integers; so z*L <= x < (z+1)*L with 0 <= z < S comes to 0 <= x < S*L
  otherwise             the rounded quotients are written out

The sign of a symbolic factor k decides which side a bound is on. Where its static bounds leave it open, k >= 1, k = 0
(the literal then says nothing of v) and k <= -1 are cases, and a quotient by k is written as one by max(1, k), since
the logic divides by positive numbers only.

Literals are first brought to that form. For d > 0 free of v, `x div d >= t` is x >= d*t and `x div d <= t` is
x <= d*t + d-1; min, max and if-then-else open into cases. `digit`: for literals a > 0 and w > 0, if 0 <= v < w,
and 0 <= t < a, then (x - a*v) mod (a*w) <= t says that v is the digit (x div a) mod w of x and x mod a <= t. (Let
x = a*u + r, 0 <= r < a. The left side is a*((u-v) mod w) + r, which is at most t < a only where u - v is a
multiple of w.) Likewise with + a*v and the digit of -(x div a). There x - a*v >= 0 says x >= 0, for it is
a*w*(u div w) + r. Without v < w the values are that digit plus multiples of w, and one of them meets what bounds
v from above exactly when the digit does.

What does not fit stays a quantifier for Z3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import gcd

from verifier.booleans import FALSE, TRUE, Bool, boolean, conj, conjuncts, disj, ge0, negate
from verifier.integers import Atom, Int, div, interval, lift, maximum, mod, polynomial, positive
from verifier.terms import as_int, atom_of, free, unbounded_range

MAX_CASES = 16
MAX_UNSURE = 2


@dataclass(frozen=True, slots=True)
class _Linear:
    """The literal factor * v + rest >= 0, with v in neither."""

    factor: Int
    rest: Int


@dataclass(frozen=True, slots=True)
class _Bound:
    """factor * v >= limit (a lower bound) or factor * v <= limit (an upper one), factor > 0."""

    factor: Int
    limit: Int


def exists(variables: Iterable[Atom], guard: Bool) -> Bool:
    """Whether some integer values of the variables satisfy the guard, as a formula without them."""
    out = guard
    for v in variables:
        out = _exists_one(v, conj((out, unbounded_range(v))))
    return out


def _quantified(v: Atom, parts: Iterable[Bool]) -> Bool:
    """The quantifier itself, for what is not eliminated; what is free of v stands outside."""
    sides: tuple[list[Bool], list[Bool]] = ([], [])
    for p in parts:
        sides[v in free(p)].append(p)
    return conj((*sides[0], boolean("exists", (as_int(v),), conj(sides[1]))))


def _exists_one(v: Atom, guard: Bool) -> Bool:
    without = [p for p in conjuncts(guard) if v not in free(p)]
    about = [p for p in conjuncts(guard) if v in free(p)]
    if guard is FALSE or not about:
        return guard
    cases = _cases([_opened(v, p) for p in about])
    if cases is None:
        return _quantified(v, conjuncts(guard))
    return conj((*without, disj(_exists_conjunction(v, case, without) for case in cases)))


def _cases(parts: Iterable[Bool]) -> list[tuple[Bool, ...]] | None:
    """Disjunctive normal form, or None when it has too many cases."""
    cases: list[tuple[Bool, ...]] = [()]
    for part in parts:
        options = _options(part)
        if options is None or len(cases) * len(options) > MAX_CASES:
            return None
        cases = [c + o for c in cases for o in options]
    return cases


def _options(part: Bool) -> list[tuple[Bool, ...]] | None:
    if part.kind == "or":
        each = [_options(p) for p in part.args]
        return None if any(e is None for e in each) else [o for e in each if e is not None for o in e]
    return _cases(part.args) if part.kind == "and" else [(part,)]


def _exists_conjunction(v: Atom, parts: tuple[Bool, ...], premises: list[Bool]) -> Bool:
    """For one case; what it says may use the premises, which are free of v."""
    whole = conj(parts)
    parts = conjuncts(whole)
    if whole is FALSE or v not in free(whole):
        return whole
    parts = _needed(v, parts, premises)
    digit = _digit(v, parts)
    if digit is not None:
        return digit
    found = _literals(v, [p for p in parts if v in free(p)])
    if found is None:
        joined = _joined(v, parts)
        return _quantified(v, parts) if joined is None else joined
    found = _commensurate([found])[0]
    unsure: dict[Int, tuple[int, ...]] = {}
    for k in (f.factor for f in found):
        if not positive(k) and not positive(-k) and -k not in unsure:
            unsure[k] = _possible_signs(k)
    if len(unsure) > MAX_UNSURE:
        return _quantified(v, parts)
    rest = [p for p in parts if v not in free(p)]
    cases = (dict(zip(unsure, signs, strict=True)) for signs in product(*unsure.values()))
    return conj((*rest, disj(_meeting(case, found) for case in cases)))


def _possible_signs(k: Int) -> tuple[int, ...]:
    low, high = interval(k)
    return (1, 0) if low is not None and low >= 0 else (0, -1) if high is not None and high <= 0 else (1, 0, -1)


def at_most_one(v: Atom, guard: Bool) -> bool:
    """Whether rule `digit`, or the bounds on v alone, show that at most one value of it satisfies the guard. In
    whatever cases two values v and w are found, one has k*v + r >= 0 and the other -k*w + s >= 0 with r + s < k, so
    k*(w-v) <= r + s < k, and likewise k*(v-w) < k. Where k > 0 that leaves v = w. Where k <= 0 nothing satisfies the
    guard: one of the two products is not negative, and both are below k."""
    cases = _cases(_opened(v, p) for p in conjuncts(guard) if v in free(p))
    if cases is None:
        return False
    each = [conjuncts(whole) for c in cases if (whole := conj(c)) is not FALSE]
    if len(each) == 1 and _digit(v, each[0], alone=True) is not None:
        return True
    found = _commensurate([_fitting(v, case) for case in each])
    return all(any(_closer(p, q) for p in a for q in b) for a in found for b in found)


def _fitting(v: Atom, parts: Iterable[Bool]) -> list[_Linear]:
    """The linear ones among the literals about v."""
    return [x for p in parts if v in free(p) for x in _literals(v, (p,)) or ()]


def _commensurate(cases: list[list[_Linear]]) -> list[list[_Linear]]:
    """Symbolic factors c*k and d*k brought to gcd(c, d)*k: c*k*v + r >= 0 says k*v + floor(r/c) >= 0, for c > 0."""
    contents: dict[Int, int] = {}
    for x in (x for case in cases for x in case):
        c, k = _content(x.factor)
        contents[k] = gcd(c, contents.get(k, contents.get(-k, 0)))

    def reduced(x: _Linear) -> _Linear:
        c, k = _content(x.factor)
        d = c // gcd(c, *(contents[i] for i in (k, -k) if i in contents))
        return x if d == 1 or x.factor.constant is not None else _Linear(k * (c // d), div(x.rest, lift(d)))

    return [[reduced(x) for x in case] for case in cases]


def _content(k: Int) -> tuple[int, Int]:
    """(c, p) with k = c*p, c > 0 the largest such number."""
    c = gcd(*(n for _, n in k.terms))
    return c, polynomial({power: n // c for power, n in k.terms})


def _closer(p: _Linear, q: _Linear) -> bool:
    return p.factor is -q.factor and _below(p.rest + q.rest, p.factor)


def _below(x: Int, y: Int) -> bool:
    low = interval(y - x - 1)[0]
    return low is not None and low >= 0


def _needed(v: Atom, parts: tuple[Bool, ...], premises: list[Bool]) -> tuple[Bool, ...]:
    """Without the literals about v that follow from one or two of the others and the premises, whatever v is: its
    static bounds are among the literals, and must not be what makes them superfluous."""
    kept = list(parts)
    for p in parts:
        others = [q for q in (*premises, *kept) if q is not p]
        if v in free(p) and any(_follows(c, others, v) for c in (p, _rounded_away(p, v), _rounded_away(p))):
            kept.remove(p)
    return tuple(kept)


def _follows(claim: Bool, facts: list[Bool], v: Atom) -> bool:
    """Whether the claim is a fact or the sum of two, give or take what is free of v and never negative."""
    match claim.kind:
        case "and" | "or":
            return (all if claim.kind == "and" else any)(_follows(c, facts, v) for c in claim.args)
        case "ge":
            known = [lift(0), *(f.args[0] for f in facts if f.kind == "ge")]
            gaps = (claim.args[0] - x - y for k, x in enumerate(known) for y in known[:k])
            return any(v not in free(gap) and _below(lift(-1), gap) for gap in gaps)
        case _:
            return claim in facts


def _rounded_away(part: Bool, v: Atom | None = None) -> Bool:
    """Something stronger without quotients (of v): d*(x div d) is between x - d + 1 and x. (A loop over blocks
    that cover a range says less than the mask which ends the range.)"""
    if part.kind != "ge":
        return part
    for power, c in part.args[0].terms:
        atom = power[0] if len(power) == 1 else None
        if atom is not None and atom.kind == "div" and (v is None or v in free(atom)):
            inner, d = atom.args
            rest = part.args[0] - polynomial({power: c})
            return _rounded_away(ge0(rest * d + (inner - d + 1 if c > 0 else inner) * c), v)
    return part


# ---- bounds ----------------------------------------------------------------------------------


def _literals(v: Atom, parts: Iterable[Bool]) -> list[_Linear] | None:
    """The linear literals that these parts come to together, or None."""
    out: list[_Linear] = []
    for part in parts:
        sides = {"ge": (1,), "eq": (1, -1)}.get(part.kind)
        if sides is None:
            return None
        for side in sides:
            x = part.args[0] * side
            factor = _factor(x, v)
            if factor is None:
                return None
            out.append(_Linear(factor, x - factor * as_int(v)))
    return out


def _factor(x: Int, v: Atom) -> Int | None:
    """k with x = k*v + something free of v, k free of v; None where x is not of that form."""
    out: dict[tuple[Atom, ...], int] = {}
    for power, c in x.terms:
        if not any(v in free(a) for a in power):
            continue
        others = list(power)
        if v not in others:
            return None
        others.remove(v)
        if any(v in free(a) for a in others):
            return None
        out[tuple(others)] = c
    return polynomial(out)


def _sided(found: Iterable[_Linear], signs: Mapping[Int, int]) -> tuple[list[_Bound], list[_Bound], list[Bool]]:
    """Lower and upper bounds where the factors have these signs (or the ones their static bounds show), and what
    the literals with factor 0 say."""
    lowers: list[_Bound] = []
    uppers: list[_Bound] = []
    others: list[Bool] = []
    for x in found:
        k = x.factor
        sign = 1 if positive(k) else -1 if positive(-k) else signs[k] if k in signs else -signs[-k]
        if sign > 0:
            lowers.append(_Bound(k, -x.rest))
        elif sign < 0:
            uppers.append(_Bound(-k, x.rest))
        else:
            others.append(ge0(x.rest))
    return lowers, uppers, others


def _meeting(signs: Mapping[Int, int], found: Iterable[_Linear]) -> Bool:
    """The case that the factors have these signs, and that some v is between the bounds then."""
    each = {1: lambda k: ge0(k - 1), 0: lambda k: conj((ge0(k), ge0(-k))), -1: lambda k: ge0(-k - 1)}
    lowers, uppers, others = _sided(found, signs)
    when = [each[sign](k) for k, sign in signs.items()]
    return conj((*when, *others, *(_meets(a, b) for a in lowers for b in uppers)))


def _meets(low: _Bound, high: _Bound) -> Bool:
    """ceil(l/a) <= floor(u/b), for a, b > 0."""
    a, b, least, most = low.factor, high.factor, low.limit, high.limit
    room = interval(most - least + 1 - a)[0] if a is b else None
    if room is not None and room >= 0 and a is not lift(1):
        return TRUE
    if b is lift(1):
        return ge0(most * a - least)
    if a is lift(1):
        return ge0(most - least * b)
    if b.constant is not None:
        return ge0(_floor(most, b) + _floor(-least, a))
    return ge0(most + _floor(-least, a) * b)


def _floor(x: Int, k: Int) -> Int:
    """floor(x/k) where k > 0, which the static bounds need not show."""
    return x if k is lift(1) else div(x, k if positive(k) else maximum(lift(1), k))


def bounds(v: Atom, guard: Bool) -> tuple[list[Int], list[Int]] | None:
    """Lower and upper bounds on v that a conjunction is equivalent to, or None."""
    found = _literals(v, (p for part in conjuncts(guard) for p in conjuncts(_opened(v, part)) if v in free(p)))
    if found is None or any(not positive(x.factor) and not positive(-x.factor) for x in found):
        return None
    lowers, uppers, _ = _sided(found, {})
    return [-_floor(-b.limit, b.factor) for b in lowers], [_floor(b.limit, b.factor) for b in uppers]


# ---- literals --------------------------------------------------------------------------------


def _opened(v: Atom, part: Bool) -> Bool:
    """An equivalent condition in which v stands outside of quotients, minima, maxima and choices, as far as the
    rules above go."""
    if v not in free(part):
        return part
    match part.kind:
        case "and":
            return conj(_opened(v, p) for p in part.args)
        case "or":
            return disj(_opened(v, p) for p in part.args)
        case "ge":
            return _opened_ge(v, part)
        case "eq" if _factor(part.args[0], v) is None:
            sides = (ge0(part.args[0]), ge0(-part.args[0]))
            opened = tuple(_opened(v, side) for side in sides)
            return part if opened == sides else conj(opened)
        case "not" if part.args[0].kind == "eq":
            x = part.args[0].args[0]
            return disj((_opened(v, ge0(x - 1)), _opened(v, ge0(-x - 1))))
        case _:
            return part


def _opened_ge(v: Atom, part: Bool) -> Bool:
    x = part.args[0]
    inside = [(p, c) for p, c in x.terms if any(v in free(a) and a is not v for a in p)]
    if len(inside) != 1 or len(inside[0][0]) != 1:
        return part
    power, c = inside[0]
    atom, rest = power[0], x - polynomial({power: c})
    match atom.kind:
        case "div" if v not in free(atom.args[1]) and (v not in free(rest) or c in (1, -1)):
            inner, d = atom.args
            t = _floor(rest, lift(abs(c)))  # c*atom + rest >= 0: atom >= -t if c > 0, else atom <= t
            return _opened(v, ge0(inner + d * t if c > 0 else d * t + d - 1 - inner))
        case "min" | "max":
            both = tuple(_opened(v, ge0(a * c + rest)) for a in atom.args)
            return conj(both) if (atom.kind == "min") == (c > 0) else disj(both)
        case "ite":
            condition, a, b = atom.args
            cases = ((condition, a), (negate(condition), b))
            return disj(conj((_opened(v, when), _opened(v, ge0(chosen * c + rest)))) for when, chosen in cases)
        case _:
            return part


def _digit(v: Atom, parts: tuple[Bool, ...], alone: bool = False) -> Bool | None:
    """Rule `digit`: what is left of the conjunction when v is put in for the digit it must be, or, unless it must
    be `alone`, for the least value it may have, which is as good where all other bounds are from above."""
    from verifier.binders import substitute

    low, high = _literal_range(v, parts)
    if low is None or low < 0:
        return None
    for part in parts:
        for inner, d, t in _remainders(v, part):
            a = _factor(inner, v)
            k = None if a is None else a.constant
            if k is None or a is None or k == 0 or d % abs(k) or not 0 <= t < abs(k):
                continue
            others = [p for p in parts if p is not part]
            if not (high is not None and high < d // abs(k)) and (alone or not _only_above(v, others)):
                continue
            x, width = inner - a * as_int(v), lift(abs(k))
            value = mod(div(x, width) * (1 if k < 0 else -1), lift(d // abs(k)))
            before = [p for p in others if k < 0 and p.kind == "ge" and p.args[0] is inner]
            rest = conj(p for p in others if p not in before)
            signs = [ge0(x)] if before else []
            return conj((substitute(rest, {v: value}), *signs, ge0(t - mod(x, width))))
    return None


def _only_above(v: Atom, parts: Iterable[Bool]) -> bool:
    """Whether v >= 0 is all that bounds v from below."""
    about = [p for p in parts if v in free(p) and not (p.kind == "ge" and p.args[0] is as_int(v))]
    found = _literals(v, about)
    return found is not None and all(1 not in _possible_signs(x.factor) for x in found)


def _literal_range(v: Atom, parts: Iterable[Bool]) -> tuple[int | None, int | None]:
    """The largest and smallest literal among the bounds on v."""
    lows, highs, _ = _sided((x for x in _fitting(v, parts) if x.factor in (lift(1), lift(-1))), {})
    low = max((x for b in lows if (x := b.limit.constant) is not None), default=None)
    return low, min((x for b in highs if (x := b.limit.constant) is not None), default=None)


def _remainders(v: Atom, part: Bool) -> Iterator[tuple[Int, int, int]]:
    """(x, d, t) where the literal is x mod d <= t, with v in x and d and t numbers."""
    if part.kind == "ge":
        for power, c in part.args[0].terms:
            atom = power[0] if len(power) == 1 else None
            t = (part.args[0] - polynomial({power: c})).constant
            if atom is not None and atom.kind == "mod" and c == -1 and t is not None and v in free(atom):
                d = atom.args[1].constant
                if d is not None:
                    yield atom.args[0], d, t


def _joined(v: Atom, parts: tuple[Bool, ...]) -> Bool | None:
    """exists v: A and (exists w: B), w not in A, is exists v, w: A and B; and where an index makes v and w
    quotient and remainder of one integer (`merge_pair`), it is `exists` of that one. None where none does."""
    from verifier.binders import merged, substitute

    for part in parts:
        if part.kind != "exists" or v not in free(part):
            continue
        others = [p for p in parts if p is not part]
        (w,) = map(atom_of, part.args[0])
        both = conj((part.args[1], *others))
        found = None if any(w in free(p) for p in others) else merged((v, w), both)
        if found is not None:
            (one,), mapping = found
            ranges = conj(map(unbounded_range, (v, w)))
            return exists((one,), substitute(conj((both, ranges)), mapping))
    return None
