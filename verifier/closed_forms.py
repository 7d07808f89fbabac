"""Closed forms of carried floats: maximum folds, scans, and arbitrary pivots.

What is solved here, for a carried x with update x' (all at generic lanes):

finiteness   x is always finite if it starts so and x' is whenever all such names are. Otherwise, if
             finite(x') is `finite(x) or V(n)` with V free of state, then finite(x) before iteration n is
             `finite(x0) or V held in some earlier iteration`: by induction, no guess is involved.
max fold     x' = max(x, items), items free of state: x is the maximum of x0 and all items so far.
scan         x' = a*x + b, linear in x, where a = phi(s)/phi(s') for a monomial phi in the pivot state s
             (and the counter), phi(s') != 0. Then y = phi(s)*x obeys y' = y + phi(s')*b; if
             beta(n) = phi(s')*b is free of state, x(n) = (phi(s0)*x0 + sum of beta over earlier iterations)/phi(s_n).
             Pivots are arbitrary finite numbers here. Where a pivot may be -inf there are three phases:
             finite before and after (as above); -inf before, finite after, where x = 0 and x' must equal
             beta/phi(s'); -inf before and after, where x' and beta must be 0. x0 must then be 0.
pivot        any other x: an arbitrary sequence of reals.

An update that branches on a comparison of reals is solved case by case, with one phi and one beta.
A name that fits nothing stays arbitrary, which can only make equivalence fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product

from verifier import machine, reals
from verifier.binders import Substitution, make_sum, members, open_binder
from verifier.booleans import FALSE, TRUE, Bool, conj, disj, eq0, negate
from verifier.finiteness import Finiteness
from verifier.linear import at_most
from verifier.reals import Monomial, Real, RealAtom, maximum_of, number, of, real_atom
from verifier.scan import Carried, Closed, Loop
from verifier.signs import compare
from verifier.simplify import open_guard
from verifier.smt import Context
from verifier.sympy_view import ScanIdentity
from verifier.terms import as_int, conditions, free, fresh, states

MAX_CONDITIONS = 3
MAX_SPLITS = 3


def solve(loop: Loop) -> None:
    """Fill `loop.closed` for every carried name."""
    finite = Finiteness(loop)
    finite.solve()
    remaining = dict(loop.carried)
    for name in [n for n in remaining if loop.asked is not None and n not in loop.asked]:
        _pivot(loop, finite, remaining.pop(name))
    while remaining:
        solved = [name for name, x in remaining.items() if _solved(loop, finite, x)]
        if not solved:
            solved = [_choose_pivot(remaining)]
            _pivot(loop, finite, remaining[solved[0]])
        for name in solved:
            del remaining[name]


def _solved(loop: Loop, finite: Finiteness, x: Carried) -> bool:
    if _fold(loop, finite, x):
        return True
    return loop.asked is not None and machine.iterate(loop, finite, x) or _Scan(loop, finite, x).solve()


def _bound(condition: Bool) -> bool:
    """Whether a condition speaks of a bound symbol: it then has many truth values, not one to split on."""
    return any(a.name.startswith("%") for a in free(condition))


def _choose_pivot(remaining: dict[str, Carried]) -> str:
    """The unsolved name with the fewest unsolved dependencies: what the others hang on."""

    def dependencies(name: str) -> int:
        x = remaining[name]
        return len({a.args[0] for a in states((x.next.value, x.next.finite))} & (remaining.keys() - {name}))

    return min(remaining, key=dependencies)


def _fold(loop: Loop, finite: Finiteness, x: Carried) -> bool:
    """x' = max(x, items): solved as one maximum over all iterations so far."""
    value = finite.assuming({}).real(x.next.real)
    if value is of(x.state):
        return _unchanged(loop, finite, x)
    atom = value.atom  # a factor common to x and the items would have been moved out: x has none
    if atom is None or atom.kind != "max" or x.name not in finite.before:
        return False
    counts = TRUE if x.name in finite.always else x.finite
    own = [m for m in atom.args[0] if not m[0] and m[2] is of(x.state) and m[1] is counts]
    items = [m for m in atom.args[0] if m not in own]
    if len(own) != 1 or any(states(m[1:]) for m in items):
        return False
    earlier = fresh("earlier")
    moved = Substitution({loop.counter: as_int(earlier)})
    parts = list(members((), x.init.finite, x.init.real))
    for m in items:
        variables, opening = open_binder(m[0], m[1])
        guard = conj((moved.bool(opening.bool(m[1])), loop.before(as_int(earlier), loop.n)))
        parts += members((earlier, *variables), guard, moved.real(opening.real(m[2])))
    loop.closed[x.name] = Closed(maximum_of(parts), finite.of(x.name))
    loop.notes.append(f"max-fold: {x.name} is the running maximum of {atom!r}")
    return True


def _unchanged(loop: Loop, finite: Finiteness, x: Carried) -> bool:
    same = finite.assuming({}).bool(x.next.finite)
    if same not in (TRUE, x.finite):
        return False
    loop.closed[x.name] = Closed(x.init.real, x.init.finite)
    return True


def _pivot(loop: Loop, finite: Finiteness, x: Carried) -> None:
    value = of(real_atom("pivot", x.name, (loop.n, *x.lanes, *(s for s in loop.scope if s is not loop.n))))
    loop.closed[x.name] = Closed(value, finite.of(x.name))
    _bound_pivot(loop, finite, x)
    loop.notes.append(f"pivot: {x.name} is taken as an arbitrary sequence")


def _bound_pivot(loop: Loop, finite: Finiteness, x: Carried) -> None:
    """If x' <= max(x, items) for the state-free parts of x', and x' <= max(items) where x was -inf, then x
    never exceeds the maximum of x0 and all items so far, by induction. Only S1 uses this; for E1 the pivot
    stays arbitrary."""
    value = finite.assuming({x.name: TRUE}).real(x.next.real)
    parts = [reals.total(((_unguarded(m), c),)) for m, c in value.terms]
    items = [i for p in parts if (i := _without_state(p)) is not None]
    if not items:
        return
    for own, allowed in ((TRUE, (of(x.state), *items)), (FALSE, tuple(items))):
        assume = finite.assuming({x.name: own})
        now = maximum_of(m for item in allowed for m in members((), TRUE, item))
        context = loop.context.given(assume.bool(x.next.finite))
        if not at_most(assume.real(x.next.real) - now, Fraction(0), context, loop.simplifier):
            return
    earlier = fresh("earlier")
    moved = Substitution({loop.counter: as_int(earlier)})
    sofar = list(members((), x.init.finite, x.init.real))
    for item in items:
        sofar += members((earlier,), loop.before(as_int(earlier), loop.n), moved.real(item))
    scope = tuple(s for s in loop.scope if s is not loop.n)
    loop.pivot_bounds[x.name] = (x, loop.n, scope, maximum_of(sofar))


def _without_state(x: Real) -> Real | None:
    """x if it is free of loop state; of a maximum, the members that are. Only a candidate for an item."""
    if not states(x):
        return x
    found = reals.scaled_max(x)
    free_members = [m for m in found[0].args[0] if not states(m[1:])] if found is not None else []
    return maximum_of(free_members) * found[1] if found is not None and free_members else None


def _unguarded(m: Monomial) -> Monomial:
    return reals.monomial(TRUE, dict(m.factors), m.exponent).terms[0][0]


@dataclass(slots=True)
class _Scan:
    """One attempt to solve `x` by the scan rule."""

    loop: Loop
    finite: Finiteness
    x: Carried
    phi: Real | None = None
    beta: Real | None = None
    pivots: tuple[RealAtom, ...] = ()
    unsure: tuple[RealAtom, ...] = ()
    memo: dict[tuple[object, ...], Real] = field(default_factory=dict)

    def solve(self) -> bool:
        x, loop = self.x, self.loop
        if not self.finite.throughout(x.name):  # what is found holds where x0 is finite; elsewhere x never is
            return False
        mentioned = states((x.next.value,))
        self.pivots = tuple(
            dict.fromkeys(real_atom("state", a.args[0], a.args[1]) for a in mentioned if a.args[0] != x.name)
        )
        if any(p.args[0] in loop.carried and p.args[0] not in loop.closed for p in self.pivots):
            return False
        self.pivots = tuple(p for p in self.pivots if p.args[0] in loop.carried)
        self.unsure = tuple(p for p in self.pivots if p.args[0] not in self.finite.always)
        if any(p.args[0] not in self.finite.visible for p in self.unsure):
            return False
        if not all(self._phase(*phase) for phase in self._phases()):
            if not self.unsure or self.beta is None:
                return False
            # The summand found may stand for its value only where something is visible: say so, and check again.
            p = self.unsure[0]
            self.beta = reals.guarded(self._at(p, self.finite.visible[p.args[0]]), self.beta)
            if not all(self._phase(*phase) for phase in self._phases()):
                return False
        return self._close()

    def _phases(self) -> list[tuple[str, Context]]:
        context = self.loop.context
        if not self.unsure:
            return [("finite", context)]
        seen = [self._at(p, self.finite.before[p.args[0]]) for p in self.unsure]
        grows = [self._at(p, self.finite.visible[p.args[0]]) for p in self.unsure]
        for s, g in zip(seen[1:], grows[1:], strict=True):  # several pivots must become finite together
            same = [disj((negate(a), b)) for a, b in ((s, seen[0]), (seen[0], s), (g, grows[0]), (grows[0], g))]
            if not all(map(context.entails, same)):
                return [("mixed", context)]
        before, now = seen[0], grows[0]
        return [
            ("finite", context.given(before)),
            ("first", context.given(conj((negate(before), now)))),
            ("none", context.given(conj((negate(before), negate(now))))),
        ]

    def _at(self, p: RealAtom, condition: Bool) -> Bool:
        return self.loop.carried[p.args[0]].at(p.args[1]).bool(condition)

    def _phase(self, phase: str, context: Context) -> bool:
        if phase == "mixed":
            return False
        if context.impossible:
            if phase == "finite":  # a loop that runs once, say: what it would be is as good a guess as any
                self.phi = self._guess()
            return True
        resolve = self._resolving(phase, {})
        terms = [resolve.real(self.x.next.real)] + [resolve.real(self._update(p)) for p in self.pivots]
        open_conditions = [c for c in conditions(tuple(terms)) if states(c)]
        if len(open_conditions) > MAX_CONDITIONS or any(map(_bound, open_conditions)):
            return False
        values = product((TRUE, FALSE), repeat=len(open_conditions))
        cases = [dict(zip(open_conditions, v, strict=True)) for v in values]
        pairs = [(case, part) for part in self._split(phase, cases, context, MAX_SPLITS) for case in cases]
        # A case that moves a pivot fixes phi; one that leaves it unchanged says nothing about it.
        pairs.sort(key=lambda pair: -sum(self._moves(p, phase, *pair) for p in self.pivots))
        return all(self._case(phase, case, part) for case, part in pairs)

    def _split(self, phase: str, cases: list[dict[Bool, Bool]], context: Context, depth: int) -> list[Context]:
        """The context, split until the guards of every pivot's update are decided in it."""
        if context.impossible:
            return []
        for case in cases:
            for p in self.pivots:
                found = open_guard(self._updated(p, phase, case, context), context)
                if found is not None and depth:
                    parts = (context.given(found), context.given(negate(found)))
                    return [c for part in parts for c in self._split(phase, cases, part, depth - 1)]
        return [context]

    def _moves(self, p: RealAtom, phase: str, case: dict[Bool, Bool], context: Context) -> bool:
        return self._updated(p, phase, case, context) is not of(p)

    def _update(self, p: RealAtom) -> Real:
        x = self.loop.carried[p.args[0]]
        return x.at(p.args[1]).real(x.next.real)

    def _updated(self, p: RealAtom, phase: str, case: dict[Bool, Bool], context: Context) -> Real:
        key = (p, phase, tuple(case.values()), context)
        if key not in self.memo:
            self.memo[key] = self.loop.simplifier.real(self._resolving(phase, case).real(self._update(p)), context)
        return self.memo[key]

    def _resolving(self, phase: str, case: dict[Bool, Bool]) -> Substitution:
        """Finiteness of pivots as the phase says; comparisons by closed forms, else as the case says.
        Accumulators are 0 before the first finite pivot."""
        loop, pending = self.loop, phase != "finite"
        closed = loop.states_at(loop.n)
        unsure = {p.args[0] for p in self.unsure}

        def condition(b: Bool) -> Bool | None:
            if b.kind == "state" and b.args[0] in loop.carried:
                name = b.args[0]
                if name in self.finite.always or name == self.x.name:
                    return TRUE
                return (FALSE if pending else TRUE) if name in unsure else None
            if b.kind == "real" and b not in case:
                settled = compare(b.args[0], closed.real(b.args[1]))
                return settled if settled.kind != "real" else None
            return case.get(b)

        def value(a: RealAtom) -> Real | None:
            if pending and a.kind == "state" and a.args[0] in self.finite.always and self._vanishes(a.args[0]):
                return number(0)
            return None

        return Substitution({}, value, condition)

    def _vanishes(self, name: str) -> bool:
        """x itself (by the induction of the scan), and sums of the same kind solved before it."""
        if name == self.x.name:
            return True
        form = self.loop.closed.get(name)
        if form is None or not self.unsure:
            return False
        p = self.unsure[0]
        empty = self.loop.context.given(negate(self._at(p, self.finite.before[p.args[0]])))
        return self.loop.simplifier.real(form.value, empty) is number(0)

    def _case(self, phase: str, case: dict[Bool, Bool], context: Context) -> bool:
        simplify = self.loop.simplifier
        value = simplify.real(self._resolving(phase, case).real(self.x.next.real), context)
        if phase == "none":
            return value is number(0) and self.beta is not None and simplify.real(self.beta, context) is number(0)
        kept = {p for p in self.pivots if not self._moves(p, phase, case, context)}
        if phase == "finite":
            value = self._name_new(phase, case, context, kept).real(value)
        linear = self._linear(value)
        if linear is None:
            return False
        a, b = linear
        if self.phi is None:
            self.phi = self._potential(a)
        if self.phi is None:
            return False
        if phase == "finite":
            after = self._after(self.phi, lambda p: of(p) if p in kept else of(real_atom("new", p.args[0], p.args[1])))
            if (a * after) is not self.phi:
                return False
            self.loop.identities.append(ScanIdentity(self.x.name, a, self.phi, after))
        else:  # nothing cancels against a here, so the new pivots are written out
            after = self._after(self.phi, lambda p: self._updated(p, phase, case, context))
        if not self._nonzero(context):
            return False
        beta = simplify.real(after * b, context)
        if states(beta):
            return False
        if self.beta is None:
            self.beta = beta
        return simplify.real(beta - self.beta, context) is number(0)

    def _guess(self) -> Real | None:
        """phi as the update between finite states has it, whether or not there is one."""
        value = self.loop.simplifier.real(self._resolving("finite", {}).real(self.x.next.real), self.loop.context)
        linear = self._linear(self._name_new("finite", {}, self.loop.context, set()).real(value))
        return None if linear is None else self._potential(linear[0])

    def _name_new(self, phase: str, case: dict[Bool, Bool], context: Context, kept: set[RealAtom]) -> Substitution:
        """Where the update of a pivot occurs as an atom (or a reciprocal), write `new` for it."""
        names: dict[RealAtom, Real] = {}
        moved = {p: self._updated(p, phase, case, context) for p in self.pivots if p not in kept}
        for p, updated in moved.items():
            new = of(real_atom("new", p.args[0], p.args[1]))
            atom, scaled = updated.atom, reals.scaled_max(updated)
            if atom is not None:
                names[atom] = new
            elif scaled is not None:
                names[scaled[0]] = new * reals.power(scaled[1], -1)
        atoms = Substitution({}, lambda a: names.get(a), everywhere=True)
        sums: dict[RealAtom, Real] = {}
        for p, updated in moved.items():  # a reciprocal is kept of what is left of the sum (`reals.primitive`)
            shared, rest = reals.primitive(updated)
            sums[real_atom("poly", rest)] = of(real_atom("new", p.args[0], p.args[1])) * atoms.real(
                reals.power(shared, -1)
            )
        return Substitution({}, lambda a: sums.get(a) or names.get(a), everywhere=True)

    def _linear(self, value: Real) -> tuple[Real, Real] | None:
        """(a, b) with value = a*x + b and neither mentioning x; a is one monomial without guard (or 0)."""
        own = self.x.state
        a: list[Real] = []
        b = number(0)
        for mono, c in value.terms:
            powers = dict(mono.factors)
            if powers.pop(own, 0) == 1:
                if mono.guard is not TRUE:
                    return None
                a.append(reals.monomial(TRUE, powers, mono.exponent) * number(c))
            else:
                b = b + reals.total(((mono, c),))
        parts = (*a, b)
        if len(a) > 1 or any(s.args[0] == self.x.name for part in parts for s in states(part)):
            return None
        return (a[0] if a else number(0)), b

    def _potential(self, a: Real) -> Real | None:
        """phi: the part of `a` that speaks of the state before, or of the counter before; for a factor exp(e) that is
        the same in every iteration (a decay), exp(-n e)."""
        if len(a.terms) != 1:
            return None
        mono: Monomial = a.terms[0][0]
        powers = {f: k for f, k in mono.factors if self._is_old(f, k)}
        exponent = None
        if mono.exponent is not None:
            old = reals.total(t for t in mono.exponent.terms if self._is_old(t[0], 1))
            fixed = (t for t in mono.exponent.terms if not states(t[0]) and self.loop.counter not in free(t[0]))
            old = old - reals.total(fixed) * reals.of_int(self.loop.n)
            exponent = old if old.terms else None
        return reals.monomial(TRUE, powers, exponent)

    def _is_old(self, part: RealAtom | Monomial, k: int) -> bool:
        kinds = {s.kind for s in states(part)}
        if kinds:
            return kinds == {"state"}
        return self.loop.counter in free(part) and k > 0

    def _after(self, phi: Real, update: Callable[[RealAtom], Real]) -> Real:
        """phi of the next state: counters move on, pivots take their new values."""
        on_real = lambda a: update(a) if a.kind == "state" else None  # noqa: E731
        return Substitution({self.loop.counter: self.loop.n + 1}, on_real).real(phi)

    def _nonzero(self, context: Context) -> bool:
        """phi(s') != 0: each factor, at the start of the next iteration, under the premises here."""
        if self.phi is None or len(self.phi.terms) != 1:
            return False
        closed = self.loop.states_at(self.loop.n)
        step = Substitution({self.loop.counter: self.loop.n + 1})
        for a, _ in self.phi.terms[0][0].factors:
            if a.kind == "int":
                claim = negate(eq0(step.int(a.args[0])))
            else:
                claim = compare("ne", step.real(closed.real(of(a))))
            if not context.entails(claim):
                return False
        return True

    def _close(self) -> bool:
        if self.beta is None or self.phi is None:
            return False
        loop, x = self.loop, self.x
        starts = x.init.real
        earlier = fresh("earlier")
        summand = Substitution({loop.counter: as_int(earlier)}).real(self.beta)
        summed = make_sum((earlier,), loop.before(as_int(earlier), loop.n), summand)
        if starts is not number(0):
            first = self._initially(self.phi)
            if first is None:
                return False
            summed = summed + first * starts
        value = summed * loop.states_at(loop.n).real(reals.power(self.phi, -1))
        loop.closed[x.name] = Closed(value, self.finite.of(x.name))
        loop.notes.append(f"scan: {x.name} with phi = {self.phi!r}, beta(n) = {self.beta!r}")
        return True

    def _initially(self, phi: Real) -> Real | None:
        """phi of the state before the loop, where x0 is not 0. Then x0 = phi(s0)*x0 / phi(s0) needs
        phi(s0) != 0 where the pivots start finite, and x0 = 0 where one starts at -inf."""
        loop = self.loop
        starts_finite: list[Bool] = []
        for p in self.unsure:
            start = loop.carried[p.args[0]].at(p.args[1]).bool(loop.carried[p.args[0]].init.finite)
            starts_finite.append(start)
            if loop.simplifier.real(self.x.init.real, loop.context.given(negate(start))) is not number(0):
                return None

        def value(a: RealAtom) -> Real | None:
            x = loop.carried.get(a.args[0]) if a.kind == "state" else None
            return None if x is None else x.at(a.args[1]).real(x.init.real)

        change = Substitution({loop.counter: loop.start}, value)
        for a, _ in phi.terms[0][0].factors:
            if not loop.context.given(conj(starts_finite)).entails(compare("ne", change.real(of(a)))):
                return None
        return change.real(phi)
