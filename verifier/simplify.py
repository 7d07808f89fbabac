"""Normal forms under premises: where the algebra meets Z3.

`Simplifier.real(x, context)` gives a term equal to x wherever the context holds. It drops guards the
context decides (inside a sum or maximum, the context grows by the domain), merges sums over disjoint
domains with one body (rule `union`), and replaces a sum or read by an earlier one that is provably the
same here (equal body, equivalent domain; equal indices). Every step that needs an integer fact asks
`Context.entails`, so an unknown answer leaves the term as it is: equality may then fail to be shown,
never be claimed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from verifier import reals
from verifier.binders import Substitution, make_sum, members
from verifier.booleans import FALSE, TRUE, Bool, choose, conj, conjuncts, disj, equal, ge0, le, lt, negate
from verifier.domains import coefficient
from verifier.elimination import at_most_one, bounds, exists
from verifier.integers import Atom, Int, cell, div, lift, maximum, minimum, mod, symbol
from verifier.reals import Member, Monomial, Real, RealAtom, guarded, maximum_of, number, of, real_atom, total
from verifier.signs import compare
from verifier.smt import Context
from verifier.squares import undominated
from verifier.terms import as_int, atom_of, children, conditions, free, states, unbounded_range


class Simplifier:
    """`trace` collects the names of rules applied, for the certificate."""

    def __init__(self) -> None:
        self.memo: dict[tuple[Any, Context], Any] = {}
        self.sums: dict[tuple[Any, Real], list[RealAtom]] = {}
        self.reads: dict[str, list[RealAtom]] = {}
        self.opened: dict[Any, tuple[tuple[Atom, ...], Bool, Real]] = {}
        self.maxima: dict[Any, list[RealAtom]] = {}
        self.depth = 0
        self.trace: dict[str, None] = {}

    # ---- integers and booleans -----------------------------------------------------------

    def integer(self, x: Int, context: Context) -> Int:
        """Resolve min, max and if-then-else that the context decides."""
        out = lift(0)
        for power, c in x.terms:
            part = lift(c)
            for a in power:
                part = part * self._int_atom(a, context)
            out = out + part
        return out

    def _int_atom(self, a: Atom, context: Context) -> Int:
        if a.kind == "sym":
            return as_int(a)
        if a.kind == "ite":
            decided = context.decide(a.args[0])
            if decided is not None:
                return self.integer(a.args[1 if decided else 2], context)
            return choose(a.args[0], self.integer(a.args[1], context), self.integer(a.args[2], context))
        if a.kind == "cell":
            return self._cell(a.args[0], tuple(self.integer(i, context) for i in a.args[1]), context)
        x, y = self.integer(a.args[0], context), self.integer(a.args[1], context)
        if a.kind in ("div", "mod"):
            small = y.constant is None and context.entails(conj((ge0(x), lt(x, y))))
            return (lift(0) if a.kind == "div" else x) if small else div(x, y) if a.kind == "div" else mod(x, y)
        if context.entails(le(x, y)):
            return x if a.kind == "min" else y
        if context.entails(le(y, x)):
            return y if a.kind == "min" else x
        return minimum(x, y) if a.kind == "min" else maximum(x, y)

    def _cell(self, tensor: str, index: tuple[Int, ...], context: Context) -> Int:
        facts = context.prover.ledger.facts
        table = facts.tables.get(tensor)
        if table is None or not table.part_of:
            return cell(tensor, index)
        found = facts.part(table.part_of, index[0], context)
        if found is not cell(tensor, index):
            self.trace["part"] = None
        return found

    def condition(self, b: Bool, context: Context) -> Bool:
        """Equivalent to b in the context, without the parts the context decides."""
        if b.kind in ("true", "false"):
            return b
        key = (b, context)
        found = self.memo.get(key)
        if found is None:
            if b.kind == "and":
                found = conj(self.condition(p, context) for p in b.args)
            else:
                decided = context.decide(b)
                if decided is None and b.kind == "or":
                    found = disj(self.condition(p, context) for p in b.args)
                else:
                    found = self._comparison(b, context) if decided is None else TRUE if decided else FALSE
            self.memo[key] = found
        return found

    def _comparison(self, b: Bool, context: Context) -> Bool:
        """A comparison of reals with its term simplified, so that it is the same condition however its integers
        are written; loop states are left to the scan rule."""
        if b.kind == "not":
            return negate(self._comparison(b.args[0], context))
        return compare(b.args[0], self.real(b.args[1], context)) if b.kind == "real" and not states(b) else b

    def _domain(self, guard: Bool, context: Context) -> Bool:
        """The guard with its comparisons of reals simplified, each under the other conditions alone: what is
        assumed of a comparison must not be used to rewrite it."""
        parts = conjuncts(guard)
        plain = conj(p for p in parts if not conditions(p))
        if plain is guard:
            return guard
        here = context.given(plain)
        self.depth += 1
        try:
            return conj((plain, *(self._comparison(p, here) for p in parts if conditions(p))))
        finally:
            self.depth -= 1

    # ---- reals ---------------------------------------------------------------------------

    def real(self, x: Real, context: Context) -> Real:
        key = (x, context)
        found = self.memo.get(key)
        if found is None:
            out = number(0)
            for mono, c in x.terms:
                guard = self.condition(mono.guard, context)
                if guard is not FALSE:
                    out = out + guarded(guard, self._product(mono, context.given(guard))) * number(c)
            found = self._union(out, context)
            self.memo[key] = found
        return found

    def _product(self, mono: Monomial, context: Context) -> Real:
        if context.impossible:
            return number(0)
        part = number(1)
        for a, k in mono.factors:
            part = part * reals.power(self._atom(a, context), k)
        if mono.exponent is not None:
            part = part * reals.exp(self.real(mono.exponent, context))
        return part

    def _atom(self, a: RealAtom, context: Context) -> Real:
        key = (a, context)
        found = self.memo.get(key)
        if found is None:
            found = self._simplify_atom(a, context)
            self.memo[key] = found
        return found

    def _simplify_atom(self, a: RealAtom, context: Context) -> Real:
        match a.kind:
            case "read" | "random":
                return of(self._read(a, context))
            case "fn":
                return reals.function(a.args[0], self.real(a.args[1], context))
            case "log":
                return reals.log(self.real(a.args[0], context))
            case "poly":
                return self.real(a.args[0], context)
            case "int":
                return reals.of_int(self.integer(a.args[0], context))
            case "sum":
                return self._sum(a, context)
            case "max":
                parts = tuple(m for part in a.args[0] for m in self._member(part, context))
                return self._known_max(maximum_of(undominated(parts, context, self)), context)
            case "state" | "new" | "pivot":
                return of(real_atom(a.kind, a.args[0], tuple(self.integer(i, context) for i in a.args[1])))
            case _:
                return of(a)

    def _read(self, a: RealAtom, context: Context) -> RealAtom:
        index = tuple(self.integer(i, context) for i in a.args[1])
        a = real_atom(a.kind, a.args[0], index)
        known = self.reads.setdefault(a.args[0], [])
        for other in known:
            if other is a:
                return a
            claim = conj(equal(i, k) for i, k in zip(index, other.args[1], strict=True))
            if claim is not FALSE and context.entails(claim):
                return other
        known.append(a)
        return a

    def _open(self, variables: tuple[Atom, ...], guard: Bool, body: Real) -> tuple[tuple[Atom, ...], Bool, Real]:
        """The binder with the symbols of this depth of nesting. Canonical names must not stay free inside:
        a sum rebuilt there would get another canonical name. Binders at one depth share their symbols, so
        that terms inside them can be compared; a context never speaks of two of them at once."""
        key = (variables, guard, body, self.depth)
        found = self.opened.get(key)
        if found is None:
            new = tuple(symbol(f"&{self.depth}.{k}") for k in range(len(variables)))
            opening = Substitution(dict(zip(variables, new, strict=True)))
            found = tuple(map(atom_of, new)), opening.bool(guard), opening.real(body)
            self.opened[key] = found
        return found

    def _inside(self, x: Real, context: Context) -> Real:
        self.depth += 1
        try:
            return self.real(x, context)
        finally:
            self.depth -= 1

    def _sum(self, a: RealAtom, context: Context) -> Real:
        variables, guard, body = self._open(*a.args)
        guard = self._domain(guard, context)
        inner = context.given(guard)
        if guard is FALSE or inner.impossible:
            self.trace["sum-empty"] = None
            return number(0)
        guard = conj(self.condition(p, context) if p.kind == "or" else p for p in conjuncts(guard))
        point = _point(variables, guard)
        if point is not None:
            self.trace["sum-point"] = None
            left = tuple(v for v in variables if v not in point)
            at = Substitution(point)
            ranges = conj(map(unbounded_range, point))
            return self.real(make_sum(left, at.bool(conj((guard, ranges))), at.real(body)), context)
        body = self._inside(body, inner)
        for v in [v for v in variables if v not in free(body)]:
            if self._unique(v, guard, inner):
                self.trace["sum-owner"] = None
                variables, guard = tuple(u for u in variables if u is not v), exists((v,), guard)
        if not variables:
            return self.real(guarded(guard, body), context)
        return self._each_sum(make_sum(variables, guard, body), context)

    def _unique(self, v: Atom, guard: Bool, inner: Context) -> bool:
        """sum-owner: a symbol only the domain mentions counts each point once if, the others fixed, at most
        one value of it is in the domain (the split a key belongs to, say)."""
        if at_most_one(v, guard):
            return True
        twin = symbol(f"{v.name}!twin")
        again = Substitution({v: twin}).bool(guard)
        return inner.given(again).entails(equal(as_int(v), twin))

    def _each_sum(self, x: Real, context: Context) -> Real:
        """Replace every sum factor of x by a known equal one."""
        out = number(0)
        for mono, c in x.terms:
            part = number(c)
            for a, k in mono.factors:
                count = self._count(a, context.given(mono.guard))
                same = self._known_sum(a, context.given(mono.guard)) if a.kind == "sum" and count is None else a
                part = part * (of(same, k) if count is None else reals.power(count, k))
            if mono.exponent is not None:
                part = part * reals.exp(mono.exponent)
            out = out + guarded(mono.guard, part)
        return out

    def _count(self, a: RealAtom, context: Context) -> Real | None:
        """sum-count: the sum of 1 over low <= v <= high is high - low + 1, if the context says that it is not
        negative. Of several bounds the context must say which is the tightest."""
        if a.kind != "sum" or len(a.args[0]) != 1 or a.args[2].constant != 1:
            return None
        (v,), guard, _ = a.args
        found = bounds(v, guard)
        if found is None or any(v not in free(part) for part in conjuncts(guard)):
            return None
        lows = [x for x in found[0] if all(context.entails(le(y, x)) for y in found[0])]
        highs = [x for x in found[1] if all(context.entails(le(x, y)) for y in found[1])]
        if not lows or not highs:
            return None
        count = min(highs, key=lambda x: len(x.terms)) - min(lows, key=lambda x: len(x.terms)) + 1
        if not context.entails(ge0(count)):
            return None
        self.trace["sum-count"] = None
        return reals.of_int(count)

    def _known_sum(self, a: RealAtom, context: Context) -> RealAtom:
        """An earlier sum with the same body and a domain equivalent in this context, or a itself."""
        variables, guard, body = a.args
        known = self.sums.setdefault((variables, body), [])
        for other in known:  # in order, so that all that are equal here become the first of them
            if other is a:
                return a
            if context.given(guard).entails(other.args[1]) and context.given(other.args[1]).entails(guard):
                self.trace["sum-domain"] = None
                return other
        known.append(a)
        return a

    def _known_max(self, x: Real, context: Context) -> Real:
        """An earlier maximum with the same bodies over domains equivalent here, or x itself."""
        a = x.atom
        if a is None or a.kind != "max":
            return x
        known = self.maxima.setdefault(tuple((v, body) for v, _, body in a.args[0]), [])
        for other in known:
            if other is a:
                return x
            pairs = [(m[1], o[1]) for m, o in zip(a.args[0], other.args[0], strict=True)]
            if all(context.given(g).entails(h) and context.given(h).entails(g) for g, h in pairs):
                self.trace["max-domain"] = None
                return of(other)
        known.append(a)
        return x

    def _member(self, part: Member, context: Context) -> Iterable[Member]:
        variables, guard, body = self._open(*part)
        inner = context.given(guard)
        if guard is FALSE or inner.impossible:
            return ()
        if not variables:
            guard = self.condition(guard, context)
        return members(variables, guard, self._inside(body, inner))

    # ---- union ---------------------------------------------------------------------------

    def _union(self, x: Real, context: Context) -> Real:
        """Merge two terms that differ only in a guard or in the domain of one sum, when disjoint."""
        terms = list(x.terms)
        merged = True
        while merged:
            merged = False
            for i in range(len(terms)):
                for k in range(i + 1, len(terms)):
                    joined = self._join(terms[i], terms[k], context)
                    if joined is not None:
                        rest = total(t for n, t in enumerate(terms) if n not in (i, k))
                        terms = list((rest + joined).terms)
                        merged = True
                        break
                if merged:
                    break
        return total(terms)

    def _join(self, first: tuple[Monomial, Any], second: tuple[Monomial, Any], context: Context) -> Real | None:
        (m, c), (n, d) = first, second
        if c != d or m.exponent is not n.exponent:
            return None
        if m.factors == n.factors:
            if not context.entails(~(m.guard & n.guard)):
                return None
            self.trace["guard-union"] = None
            body = reals.monomial(TRUE, dict(m.factors), m.exponent) * number(c)
            return guarded(self.condition(m.guard | n.guard, context), body)
        only_m = [f for f in m.factors if f not in n.factors]
        only_n = [f for f in n.factors if f not in m.factors]
        if m.guard is not n.guard or len(only_m) != 1 or len(only_n) != 1:
            return None
        (a, k), (b, p) = only_m[0], only_n[0]
        if not (a.kind == b.kind == "sum" and k == p == 1 and a.args[0] == b.args[0] and a.args[2] is b.args[2]):
            return None
        if not context.given(m.guard).entails(~(a.args[1] & b.args[1])):
            return None
        self.trace["sum-union"] = None
        domain = real_atom("sum", a.args[0], a.args[1] | b.args[1], a.args[2])
        same = self._known_sum(domain, context.given(m.guard))
        shared = {f: q for f, q in m.factors if f is not a}
        return guarded(m.guard, reals.monomial(TRUE, shared, m.exponent) * of(same)) * number(c)


def _point(variables: tuple[Atom, ...], guard: Bool) -> dict[Atom, Int] | None:
    """sum-point: a symbol v that the domain equates with a term t free of v has one value: the sum over v of f(v)
    where v = t and g(v) is f(t) where g(t)."""
    for p in conjuncts(guard):
        for v in variables:
            k = coefficient(p.args[0], v) if p.kind == "eq" else 0
            if k in (1, -1):
                return {v: (as_int(v) * k - p.args[0]) * k}
    return None


def open_guard(x: Real, context: Context) -> Bool | None:
    """A guard in x, outside every binder, that the context leaves open: something to split on."""
    seen: set[Any] = set()
    todo: list[Any] = [x]
    while todo:
        term = todo.pop()
        if term in seen or isinstance(term, (str, int)) or term is None:
            continue
        seen.add(term)
        if isinstance(term, Bool):
            if term.kind not in ("true", "false") and context.decide(term) is None:
                return term
        elif getattr(term, "kind", "") not in ("sum", "max", "read", "random", "sym"):
            todo.extend(children(term))
    return None
