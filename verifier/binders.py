"""Sums and maxima in canonical form, and substitution under binders.

`make_sum` keeps a sum over guarded integers as a polynomial of *connected* sum atoms, by rules that
hold for every finite domain: linearity; factors (and exponents, and guards) free of the bound symbols
move out; a sum inside is merged (Fubini); a (iteration, lane) pair is re-indexed to one integer by the
bijection of `domains.merge_pair`; independent groups of symbols separate. Bound symbols get canonical
names, so sums that differ only in names are one object. `make_max` does the same for maxima.

All domains here are finite: they come from lanes, loops and grid axes, and from spec bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import permutations, product
from math import factorial, prod
from typing import Any

from verifier import domains, elimination, reals, signs
from verifier.booleans import TRUE, Bool, boolean, choose, conj, conjuncts, disj, eq0, ge0, negate
from verifier.integer_reals import spread
from verifier.integers import Atom, Int, cell, div, lift, maximum, minimum, mod, term_cache
from verifier.reals import Factors, Member, Real, RealAtom, guarded, maximum_of, monomial, number, of, real_atom
from verifier.terms import as_int, children, conditions, free, fresh, level, states, unbounded_range

MAX_ORDERS = 24
_READS = term_cache()
_SUBSTITUTED = term_cache()  # by a sum or maximum and what stands for its free symbols


class Substitution:
    """Replaces symbols by integers, and atoms by what the hooks return, everywhere in a term.

    Binders are opened with fresh symbols, so nothing is captured. Each result is normalised again. Hooks
    are offered loop states and opaque comparisons, and what contains them; with `everywhere` all atoms.
    """

    def __init__(
        self,
        symbols: Mapping[Atom, Int],
        on_real: Callable[[RealAtom], Real | None] | None = None,
        on_bool: Callable[[Bool], Bool | None] | None = None,
        everywhere: bool = False,
    ) -> None:
        self.everywhere = everywhere
        self.symbols = symbols
        self.on_real = on_real
        self.on_bool = on_bool
        self.memo: dict[Any, Any] = {}

    def _untouched(self, term: Any) -> bool:
        if self.on_real is not None or self.on_bool is not None:
            if self.everywhere or states(term) or conditions(term):
                return False
        return free(term).isdisjoint(self.symbols)

    def int(self, x: Int) -> Int:
        found = self.memo.get(x)
        if found is None:
            found = x
            if not self._untouched(x):
                found = lift(0)
                for power, c in x.terms:
                    part = lift(c)
                    for a in power:
                        part = part * self._atom(a)
                    found = found + part
            self.memo[x] = found
        return found

    def _atom(self, a: Atom) -> Int:
        match a.kind:
            case "sym":
                return self.symbols.get(a) or as_int(a)
            case "div":
                return div(self.int(a.args[0]), self.int(a.args[1]))
            case "mod":
                return mod(self.int(a.args[0]), self.int(a.args[1]))
            case "min":
                return minimum(self.int(a.args[0]), self.int(a.args[1]))
            case "max":
                return maximum(self.int(a.args[0]), self.int(a.args[1]))
            case "cell":
                return cell(a.args[0], tuple(map(self.int, a.args[1])))
            case _:
                return choose(self.bool(a.args[0]), self.int(a.args[1]), self.int(a.args[2]))

    def bool(self, b: Bool) -> Bool:
        found = self.memo.get(b)
        if found is None:
            found = self.on_bool(b) if self.on_bool else None
            if found is None:
                found = b if self._untouched(b) else self._bool(b)
            self.memo[b] = found
        return found

    def _bool(self, b: Bool) -> Bool:
        match b.kind:
            case "ge":
                return ge0(self.int(b.args[0]))
            case "eq":
                return eq0(self.int(b.args[0]))
            case "not":
                return negate(self.bool(b.args[0]))
            case "and":
                return conj(map(self.bool, b.args))
            case "or":
                return disj(map(self.bool, b.args))
            case "real":
                return signs.compare(b.args[0], self.real(b.args[1]))
            case "exists":
                old = [v for x in b.args[0] for v in free(x)]
                new, opened = open_binder(tuple(old), b.args[1])
                return elimination.exists(new, self.bool(opened.bool(b.args[1])))
            case "state" | "unknown":
                places = (tuple(map(self.int, part)) for part in b.args[1:])
                return boolean(b.kind, b.args[0], *places)
            case _:
                return b

    def real(self, x: Real) -> Real:
        found = self.memo.get(x)
        if found is None:
            found = x
            if not self._untouched(x):
                found = number(0)
                for mono, c in x.terms:
                    part = number(c)
                    for a, k in mono.factors:
                        part = part * reals.power(self.atom(a), k)
                    if mono.exponent is not None:
                        part = part * reals.exp(self.real(mono.exponent))
                    found = found + guarded(self.bool(mono.guard), part)
            self.memo[x] = found
        return found

    def atom(self, a: RealAtom) -> Real:
        found = self.memo.get(a)
        if found is None:
            hooked = self.on_real(a) if self.on_real else None
            found = hooked if hooked is not None else of(a) if self._untouched(a) else self._replaced(a)
            self.memo[a] = found
        return found

    def _replaced(self, a: RealAtom) -> Real:
        """Sums and maxima, which take long, are remembered over substitutions as far as these say the same of them."""
        if a.kind not in ("sum", "max") or self.on_real is not None or self.on_bool is not None:
            return self._real_atom(a)
        key = (a, *[(v, value) for v, value in self.symbols.items() if v in free(a)])
        found = _SUBSTITUTED.get(key)
        if found is None:
            found = _SUBSTITUTED[key] = self._real_atom(a)
        return found

    def _real_atom(self, a: RealAtom) -> Real:
        match a.kind:
            case "read" | "random" | "state" | "new" | "pivot":
                return of(real_atom(a.kind, a.args[0], tuple(map(self.int, a.args[1]))))
            case "int":
                return reals.of_int(self.int(a.args[0]))
            case "fn":
                return reals.function(a.args[0], self.real(a.args[1]))
            case "log":
                return reals.log(self.real(a.args[0]))
            case "poly":
                return self.real(a.args[0])
            case "sum":
                new, opened = open_binder(a.args[0], a.args[1])
                return make_sum(new, self.bool(opened.bool(a.args[1])), self.real(opened.real(a.args[2])))
            case "max":
                return maximum_of(m for part in a.args[0] for m in self._member(part))
            case _:
                return of(a)

    def _member(self, part: Member) -> tuple[Member, ...]:
        new, opened = open_binder(part[0], part[1])
        return members(new, self.bool(opened.bool(part[1])), self.real(opened.real(part[2])))


def substitute(term: Any, symbols: Mapping[Atom, Int]) -> Any:
    s = Substitution(symbols)
    return s.int(term) if isinstance(term, Int) else s.bool(term) if isinstance(term, Bool) else s.real(term)


def open_binder(variables: tuple[Atom, ...], guard: Bool) -> tuple[tuple[Atom, ...], Substitution]:
    """Fresh symbols for bound ones; literal bounds found in the guard become their static bounds, which are
    never empty: a symbol without values would make every fact about it true."""
    new = []
    for v in variables:
        low, high = _literal_bounds(v, guard)
        new.append(fresh("~", low, high))
    return tuple(new), Substitution({v: as_int(n) for v, n in zip(variables, new, strict=True)})


def _literal_bounds(v: Atom, guard: Bool) -> tuple[int | None, int | None]:
    low: int | None = v.low
    high: int | None = v.high
    for part in conjuncts(guard):
        if part.kind == "ge" and free(part) == {v}:
            k = domains.coefficient(part.args[0], v)
            rest = None if k is None else (part.args[0] - as_int(v) * k).constant
            if rest is not None and k == 1:
                low = -rest if low is None else max(low, -rest)
            elif rest is not None and k == -1:
                high = rest if high is None else min(high, rest)
    empty = low is not None and high is not None and low > high
    return (v.low, v.high) if empty else (low, high)


def make_sum(variables: tuple[Atom, ...], guard: Bool, body: Real) -> Real:
    """Sum of body over all values of the variables (in their static bounds) where the guard holds."""
    out = number(0)
    for mono, c in body.terms:
        out = out + _sum_term(variables, conj((guard, mono.guard)), mono.factors, mono.exponent) * number(c)
    return out


def _sum_term(variables: tuple[Atom, ...], guard: Bool, factors: Factors, exponent: Real | None) -> Real:
    if guard.kind == "false":
        return number(0)
    bound = frozenset(variables)
    for a, k in factors:
        if a.kind == "sum" and k == 1 and not bound.isdisjoint(free(a)):
            rest = monomial(TRUE, {f: p for f, p in factors if f is not a}, exponent)
            new, opened = open_binder(a.args[0], a.args[1])
            inner = conj((guard, opened.bool(a.args[1])))
            return make_sum(variables + new, inner, rest * opened.real(a.args[2]))
    fixed = domains.fixed_quotient(variables, guard)
    if fixed is not None:
        v, remainder, value, others = fixed
        at = Substitution({v: value})
        body = at.real(monomial(TRUE, dict(factors), exponent))
        left = tuple(remainder if u is v else u for u in variables)
        return make_sum(left, conj((at.bool(others), at.bool(unbounded_range(v)))), body)
    found = merged(variables, (guard, factors, exponent))
    if found is not None:
        left, mapping = found
        gone = [v for v in variables if v not in left]
        at = Substitution(mapping)
        ranges = conj(at.bool(unbounded_range(v)) for v in gone)
        body = at.real(monomial(TRUE, dict(factors), exponent))
        return make_sum(left, conj((at.bool(guard), ranges)), body)
    return _separate(variables, guard, factors, exponent)


def merged(variables: tuple[Atom, ...], body: Any) -> tuple[tuple[Atom, ...], dict[Atom, Int]] | None:
    """A pair of bound symbols that an index treats as quotient and remainder, re-indexed to one."""
    if len(variables) < 2:
        return None
    read, others = indices(body)
    for index, whole in [(i, True) for i in read] + [(i, False) for i in others]:
        inside = [v for v in variables if v in free(index)]
        for y in inside:
            for x in inside:
                if x is y:
                    continue
                # An index of a tensor is taken as it is; of a guard only the part that is bound, so that
                # the new symbol runs forwards from 0 as a spec's does.
                shown = index if whole else _bound_part(index, x, y)
                mapping = None if shown is None else domains.merge_pair(x, y, shown, as_int(new := fresh("~")))
                if mapping is not None:
                    return tuple(v for v in variables if v not in (x, y)) + (new,), mapping
    return None


def _bound_part(index: Int, x: Atom, y: Atom) -> Int | None:
    a, s = domains.coefficient(index, x), domains.coefficient(index, y)
    return (as_int(x) * a + as_int(y) * s) * s if a and s in (1, -1) else None


def indices(term: Any) -> tuple[list[Int], list[Int]]:
    """Integer terms inside: tensor indices (of integer tensors too), and those of guards."""
    inside: dict[Int, None] = {}
    others: dict[Int, None] = {}
    seen: set[Any] = set()

    def visit(t: Any, into: dict[Int, None]) -> None:
        if isinstance(t, (str, int)) or t is None or t in seen:
            return
        seen.add(t)
        if isinstance(t, Int):
            into[t] = None
            for a in (a for power, _ in t.terms for a in power if a.kind in ("cell", "ite")):
                visit(a.args, inside if a.kind == "cell" else others)
            return
        if not isinstance(t, tuple):
            into = inside if isinstance(t, RealAtom) and t.kind == "read" else others
        for child in children(t):
            visit(child, into)

    visit(term, others)
    return list(inside), list(others)


def _separate(variables: tuple[Atom, ...], guard: Bool, factors: Factors, exponent: Real | None) -> Real:
    """Split into groups of symbols that share no guard, factor or exponent term."""
    items: list[tuple[frozenset[Atom], str, Any]] = []
    bound = frozenset(variables)
    for g in conjuncts(guard):
        items.append((free(g) & bound, "guard", g))
    for f in factors:
        items.append((free(f[0]) & bound, "factor", f))
    for term in exponent.terms if exponent is not None else ():
        items.append((free(term[0]) & bound, "exponent", term))
    groups: list[frozenset[Atom]] = []
    for mentioned in [frozenset((v,)) for v in variables] + [m for m, _, _ in items if m]:
        joined = [g for g in groups if not g.isdisjoint(mentioned)]
        groups = [g for g in groups if g.isdisjoint(mentioned)] + [mentioned.union(*joined)]
    out = _assemble([i for i in items if not i[0]])
    for group in groups:
        order = tuple(v for v in variables if v in group)
        out = out * _connected(order, [i for i in items if i[0] and i[0] <= group])
    return out


def _assemble(items: Iterable[tuple[frozenset[Atom], str, Any]]) -> Real:
    guards, powers, exponent = [], {}, []
    for _, kind, value in items:
        if kind == "guard":
            guards.append(value)
        elif kind == "factor":
            powers[value[0]] = value[1]
        else:
            exponent.append(value)
    body = monomial(TRUE, powers, reals.total(exponent) if exponent else None)
    return guarded(conj(guards), body)


def _connected(variables: tuple[Atom, ...], items: list[tuple[frozenset[Atom], str, Any]]) -> Real:
    """One sum atom, or a literal count when nothing depends on the symbol."""
    if not items and len(variables) == 1 and variables[0].low is not None and variables[0].high is not None:
        return number(max(0, variables[0].high - variables[0].low + 1))
    guard = conj(v for _, kind, v in items if kind == "guard")
    body = _assemble(i for i in items if i[1] != "guard")
    shifted = _shift(variables, body)
    if shifted is not None:
        v, w, value = shifted
        at = Substitution({v: value})
        ranges = at.bool(unbounded_range(v))
        left = tuple(w if u is v else u for u in variables)
        return make_sum(left, conj((at.bool(guard), ranges)), at.real(body))
    candidates = []
    for order in _orders(variables, body):
        new, mapping, ranges = domains.rename(order, max(level(body), level(guard)))
        at = Substitution(mapping)
        candidates.append((new, conj((at.bool(guard), ranges)), at.real(body)))
    best = candidates[0] if len(candidates) == 1 else min(candidates, key=lambda c: (repr(c[2]), repr(c[1])))
    return of(real_atom("sum", *best))


def _orders(variables: tuple[Atom, ...], body: Real) -> list[tuple[Atom, ...]]:
    """The orders of bound symbols among which the canonical one is chosen: by the tensor dimensions a symbol
    addresses, which does not depend on names; symbols alike in that are tried in every order."""
    if len(variables) < 2:
        return [variables]
    groups: dict[tuple[tuple[str, int, int], ...], list[Atom]] = {}
    for v in variables:
        groups.setdefault(_addresses(v, body), []).append(v)
    if prod(factorial(len(alike)) for alike in groups.values()) > MAX_ORDERS:
        return [tuple(v for key in sorted(groups) for v in groups[key])]
    choices = product(*(permutations(groups[key]) for key in sorted(groups)))
    return [tuple(v for part in choice for v in part) for choice in choices]


def _addresses(v: Atom, body: Real) -> tuple[tuple[str, int, int], ...]:
    """(tensor, dimension, coefficient) of each index v occurs in; 0 for one that is not linear in v."""
    places = [
        (read.args[0], position, domains.coefficient(index, v) or 0)
        for read in reads(body)
        for position, index in enumerate(read.args[1])
        if v in free(index)
    ]
    return tuple(sorted(places))


def _shift(variables: tuple[Atom, ...], body: Real) -> tuple[Atom, Atom, Int] | None:
    """(v, w, v as a term in w), so that the first dimension v addresses is read at w itself: sums whose
    symbols differ by a literal offset or a sign are then equal. None when every symbol is so already."""
    for v in variables:
        places: dict[tuple[str, int], set[tuple[int, Int]]] = {}
        for read in reads(body):
            for position, index in enumerate(read.args[1]):
                k = domains.coefficient(index, v)
                if k in (1, -1):
                    places.setdefault((read.args[0], position), set()).add((k, index - as_int(v) * k))
        if not places:
            continue
        first = places[min(places)]
        k, rest = next(iter(first))
        if len(first) == 1 and (k != 1 or rest.terms) and rest.constant is not None:
            w = fresh("~")
            return v, w, (as_int(w) - rest) * k
    return None


def reads(term: Any) -> tuple[RealAtom, ...]:
    """The tensor reads in a term, without repetition."""
    found = _READS.get(term)
    if found is None:
        inside: dict[RealAtom, None] = {}
        for child in children(term):
            if not isinstance(child, (str, int)):
                inside.update(dict.fromkeys(reads(child)))
        if isinstance(term, RealAtom) and term.kind == "read":
            inside[term] = None
        found = tuple(inside)
        if not isinstance(term, tuple):
            _READS[term] = found
    return found


def members(variables: tuple[Atom, ...], guard: Bool, body: Real) -> tuple[Member, ...]:
    """One member of a maximum in canonical form; a maximum inside is flattened."""
    body = spread(body)
    inner = reals.scaled_max(body)
    if inner is not None:
        out: list[Member] = []
        for part in inner[0].args[0]:
            new, opened = open_binder(part[0], part[1])
            out.extend(members(variables + new, conj((guard, opened.bool(part[1]))), opened.real(part[2]) * inner[1]))
        return tuple(out)
    found = merged(variables, (body, guard))
    if found is not None:
        left, mapping = found
        ranges = conj(substitute(unbounded_range(v), mapping) for v in variables if v not in left)
        return members(left, conj((substitute(guard, mapping), ranges)), substitute(body, mapping))
    shifted = _shift(variables, body)
    if shifted is not None:
        v, w, value = shifted
        ranges = substitute(unbounded_range(v), {v: value})
        left = tuple(w if u is v else u for u in variables)
        return members(left, conj((substitute(guard, {v: value}), ranges)), substitute(body, {v: value}))
    used = tuple(v for v in variables if v in free(body))
    guard = elimination.exists([v for v in variables if v not in used], guard)
    new, mapping, ranges = domains.rename(used, max(level(body), level(guard)))
    return ((new, conj((substitute(guard, mapping), ranges)), substitute(body, mapping)),)


def make_max(variables: tuple[Atom, ...], guard: Bool, body: Real) -> Real:
    """Maximum of body over the variables where the guard holds (arbitrary when nowhere)."""
    return maximum_of(members(variables, guard, body))
