"""Upper bounds of real terms by linear arithmetic: is `x <= bound` wherever the context holds?

Z3 decides it over linear real arithmetic with every nonlinear monomial an unknown, given what rules say
of maxima: a maximum is at least each of its members (a member over a domain is instantiated at the index
the term itself reads), and a maximum is at most another that has all its members. What rounds to a float
(`verifier.machine`) keeps the sign of what it rounds and the order of two numbers, and the sum of a float and a number
is rounded by no more than that number, for the float itself is that near. The log of a sum of
exponentials is at least the exponent of each term, for the others only add (a term over a domain is
instantiated like a member). Guards and comparisons of reals keep their meaning. Only `unsat` counts.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import z3

from verifier import machine, reals
from verifier.binders import open_binder, substitute
from verifier.binders import reads as reads_in
from verifier.booleans import TRUE, Bool, negate
from verifier.constants import limits
from verifier.domains import coefficient
from verifier.integer_reals import spread
from verifier.integers import Atom, Int, polynomial
from verifier.inverse import solve
from verifier.reals import Member, Monomial, Real, RealAtom, number
from verifier.signs import never_negative
from verifier.simplify import Simplifier, open_guard
from verifier.smt import Context, Translator, background, solver_in
from verifier.terms import as_int, conditions, free

LN2_LOW, LN2_HIGH = Fraction(693147, 10**6), Fraction(693148, 10**6)
MAX_INSTANCES = 8
MAX_SPLITS = 2


def at_most(x: Real, bound: Fraction, context: Context, simplifier: Simplifier, splits: int = MAX_SPLITS) -> bool:
    """Whether x <= bound follows from the context; if not at once, case by case of a guard it leaves open."""
    x = simplifier.real(x, context)
    if context.impossible:
        return True
    ends = limits(x)
    if ends is not None:
        return ends[1] <= bound
    if bound >= 0 and never_negative(-x):
        return True
    query = _Query(context, simplifier, x)
    query.facts_for(x)
    if query.refutes(query.linear(x) > query.rational(bound)):
        return True
    split = open_guard(x, context) if splits else None
    if split is None:
        return False
    return all(at_most(x, bound, context.given(case), simplifier, splits - 1) for case in (split, negate(split)))


class _Query:
    """`asked`: the term in question; what it reads is where members of maxima are instantiated, besides the
    reads of the term a maximum stands in (a comparison the context holds)."""

    def __init__(self, context: Context, simplifier: Simplifier, asked: Real) -> None:
        self.asked = asked
        self.context = context
        self.simplifier = simplifier
        self.z3 = context.prover.context
        self.translate = Translator(self.z3, facts=context.prover.ledger.facts)
        self.reals: dict[Any, Any] = {}
        self.facts: list[Any] = []
        self.linked: set[Bool] = set()
        self.rounded: list[tuple[RealAtom, Real, Any, Any]] = []  # of c fl(x): the atom, c, and both as unknowns

    def rational(self, q: Fraction | int) -> Any:
        return z3.Q(q.numerator, q.denominator, self.z3)

    def linear(self, x: Real) -> Any:
        parts = []
        for mono, c in spread(x).terms:
            value = self.rational(c) * self._unknown(mono)
            self._link(mono.guard)
            here = value if mono.guard is TRUE else z3.If(self.translate.bool(mono.guard), value, self.rational(0))
            parts.append(here)
        return z3.Sum(parts) if len(parts) > 1 else parts[0] if parts else self.rational(0)

    def _unknown(self, mono: Monomial) -> Any:
        key = (mono.factors, mono.exponent)
        if not mono.factors and mono.exponent is None:
            return self.rational(1)
        found = self.reals.get(key)
        if found is None:
            found = z3.Real(f"r{len(self.reals)}", self.z3)
            self.reals[key] = found
            alone = reals.monomial(TRUE, dict(mono.factors), mono.exponent)
            self.facts += [found >= 0] if never_negative(alone) else []
            self._rounding(mono, found)
            if key == (reals.ln2().terms[0][0].factors, None):
                self.facts += [found > self.rational(LN2_LOW), found < self.rational(LN2_HIGH)]
        return found

    def _rounding(self, mono: Monomial, value: Any) -> None:
        """What is known of c fl(x), c > 0 a product of constants."""
        whole = reals.monomial(TRUE, dict(mono.factors), mono.exponent)
        last = machine.last_rounding(whole)
        if last is None:
            return
        a, c = last
        x = a.args[1] * c
        self.facts_for(x)
        exact, zero = self.linear(x), self.rational(0)
        self.facts += [z3.Implies(exact >= zero, value >= zero), z3.Implies(exact <= zero, value <= zero)]
        for other, d, at, before in self.rounded:
            if other.args[0] == a.args[0] and c is d:
                self.facts += [z3.Implies(exact <= before, value <= at), z3.Implies(before <= exact, at <= value)]
        self.rounded.append((a, c, value, exact))
        number_ = next((k for m, k in a.args[1].terms if not m.factors and m.exponent is None and m.guard is TRUE), 0)
        if number_ and a.args[0].endswith(machine.SUM):
            most = self.linear(c) * self.rational(abs(number_))
            self.facts += [value - exact <= most, exact - value <= most]

    def _link(self, condition: Bool) -> None:
        """Give the opaque comparisons in a condition their linear meaning, also scaled by ln 2."""
        for b in conditions(condition):
            if b in self.linked:
                continue
            self.linked.add(b)
            for scale in (number(1), reals.ln2(), reals.power(reals.ln2(), -1)):
                x = self.simplifier.real(b.args[1] * scale, self.context)
                self.facts_for(x)
                value = self.linear(x)
                self.facts.append(self.translate.bool(b) == (value > 0 if b.args[0] == "gt" else value == 0))

    def facts_for(self, x: Real) -> None:
        """What rules say of the maxima in x."""
        plain = [reals.monomial(TRUE, dict(mono.factors), mono.exponent) for mono, _ in x.terms]
        scaled = [found for found in map(reals.scaled_max, plain) if found is not None]
        for m, p in scaled:
            alone = self.linear(reals.of(m) * p)
            for member in m.args[0]:
                for guard, body in self._instances(member, x):
                    self._link(guard)
                    self.facts.append(z3.Implies(self.translate.bool(guard), alone >= self.linear(body * p)))
            for other, q in scaled:
                if other is not m and self._included(m, p, other, q):
                    self.facts.append(alone <= self.linear(reals.of(other) * q))
        for mono in plain:
            for member in exponents(mono):
                for guard, body in self._instances(member, x):
                    self._link(guard)
                    self.facts.append(z3.Implies(self.translate.bool(guard), self.linear(mono) >= self.linear(body)))

    def _instances(self, member: Member, x: Real) -> list[tuple[Bool, Real]]:
        variables, guard, body = member
        if not variables:
            return [(guard, self.simplifier.real(body, self.context.given(guard)))]
        if len(variables) != 1:
            return []
        out = []
        read = dict.fromkeys((*values_of(variables[0], body, x), *values_of(variables[0], body, self.asked)))
        for value in (list(read) or symbols_of(x, member))[:MAX_INSTANCES]:
            at = {variables[0]: value}
            here = self.simplifier.condition(substitute(guard, at), self.context)
            out.append((here, self.simplifier.real(substitute(body, at), self.context.given(here))))
        return out

    def _included(self, small: RealAtom, p: Real, large: RealAtom, q: Real) -> bool:
        """Every member of p * small is one of q * large."""
        for variables, guard, body in small.args[0]:
            same = [g for v, g, b in large.args[0] if v == variables and b * q is body * p]
            new, opening = open_binder(variables, guard)
            context = self.context.given(opening.bool(guard))
            if any(context.entails(opening.bool(g)) for g in same):
                continue
            wanted = self.simplifier.real(opening.real(body) * p, context)
            if not any(self._is_member(wanted, m, q, context) for m in large.args[0]):
                return False
        return True

    def _is_member(self, wanted: Real, member: Member, q: Real, context: Context) -> bool:
        """Whether a value is q times the member's body at some value of its one symbol, within its domain."""
        if len(member[0]) != 1:
            return False
        for value in values_of(member[0][0], member[2], wanted)[:MAX_INSTANCES]:
            at = {member[0][0]: value}
            if context.entails(substitute(member[1], at)):
                if self.simplifier.real(substitute(member[2], at) * q - wanted, context) is number(0):
                    return True
        return False

    def refutes(self, goal: Any) -> bool:
        said: dict[Bool, None] = {}
        seen: list[Atom] = []
        for fact in self.context.facts:
            self._link(fact)
            said.update(dict.fromkeys(background(fact, self.translate, seen)))
        asserted = [*map(self.translate.bool, said), *self.facts, goal]
        solver = solver_in(self.z3)
        solver.add(*asserted)
        held = bool(solver.check() == z3.unsat)
        if held:
            self.context.prover.ledger.reals.append(asserted)
        return held


def exponents(x: Real) -> list[Member]:
    """The members that x = log(sum of exponentials) is at least: exp(e) under a guard or over a domain. Every
    term must be a positive number times an exponential (then none is negative), at least 1 for a member."""
    atom = x.atom
    if atom is None or atom.kind != "log":
        return []
    out: list[Member] = []
    for mono, c in atom.args[0].terms:
        alone = mono.factors[0][0] if len(mono.factors) == 1 and mono.factors[0][1] == 1 else None
        if not mono.factors and mono.exponent is not None and c > 0:
            found: Member = ((), mono.guard, mono.exponent)
        elif alone is not None and alone.kind == "sum" and c > 0 and len(alone.args[2].terms) == 1:
            inner, k = alone.args[2].terms[0]
            if inner.factors or inner.exponent is None or k != 1:
                return []
            shift = number(0) if mono.exponent is None else mono.exponent
            found = (alone.args[0], mono.guard & alone.args[1] & inner.guard, inner.exponent + shift)
        else:
            return []
        if c >= 1:
            out.append(found)
    return out


def symbols_of(x: Real, member: Member) -> list[Int]:
    """The symbols x has and the member has not: where a member is a log of a sum over one split, say, the split
    that x is about. Only candidates."""
    return [as_int(a) for a in sorted(free(x) - free(member[1:]), key=lambda a: a.serial) if a.name[0] != "%"]


def values_of(v: Atom, body: Real, x: Real) -> list[Int]:
    """Values of the bound symbol v at which a read in the body is a read in x. Only candidates: an index that
    gives v alone, or all indices together where they give its digits (page and row, say)."""
    found: dict[Int, None] = {}
    for mine in reads_in(body):
        for theirs in reads_in(x):
            if mine.args[0] != theirs.args[0]:
                continue
            for i, j in zip(mine.args[1], theirs.args[1], strict=True):
                k = coefficient(i, v)
                if k in (1, -1) and v not in free(j):
                    found[(j - (i - polynomial({(v,): k}))) * k] = None
            pairs = [p for i, j in zip(mine.args[1], theirs.args[1], strict=True) for p in _alike(i, j)]
            value = solve((v,), [(i, j) for i, j in pairs if v not in free(j)]).get(v)
            if value is not None and v not in free(value):
                found[value] = None
    return [f for f in found if not any(a.name.startswith("%") for a in free(f))]


def _alike(i: Int, j: Int) -> list[tuple[Int, Int]]:
    """Equations that make two indices equal: of a cell of one integer input, those of its indices."""
    for a in _cells(i):
        for b in _cells(j):
            if a.args[0] == b.args[0]:
                return [p for k, m in zip(a.args[1], b.args[1], strict=True) for p in _alike(k, m)]
    return [(i, j)]


def _cells(x: Int) -> list[Atom]:
    """The cell that x is, or may be where a mask decides."""
    if x.atom is None or x.atom.kind not in ("cell", "ite"):
        return []
    return [x.atom] if x.atom.kind == "cell" else [a for branch in x.atom.args[1:] for a in _cells(branch)]
