"""The only file by which a proof talks to a solver.

`Context` holds premises and answers `entails(claim)`: True only if Z3 says `unsat` to premises plus
the negated claim. Unknown, time-out and memory limits are all False: the gate closes. Every query that
was answered True is kept in the `Ledger`, from which self-contained SMT-LIB 2 files are written for
the certificate (expected answer: unsat).

Limits are Z3's deterministic resource counter, not wall time, so that a verdict does not depend on
how busy the machine is. Each proof has a Z3 context of its own: the order in which Z3 takes terms follows
their numbers, which in a shared one depend on what the process did before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import z3

from verifier.booleans import FALSE, TRUE, Bool, boolean, conj, conjuncts, negate
from verifier.cells import NO_CELLS, CellFacts, bound_cells, cells
from verifier.integers import Atom, Int, ProofTooLarge, division_meaning, polynomial, positive, term_cache
from verifier.models import Models, model_of
from verifier.terms import children, free

RESOURCE_LIMIT = 1_500_000  # about a second of Z3
LONGEST = 20_000  # milliseconds; only for what runs on without counting, as nonlinear arithmetic once did
MAX_QUERIES = 5_000  # flash attention needs about 400


@dataclass(frozen=True, slots=True)
class Query:
    """premises entail claim; answered unsat by Z3 when asked for a counterexample."""

    premises: tuple[Bool, ...]
    claim: Bool
    linear: bool = False  # answered with products of unknowns opaque


@dataclass(slots=True)
class Ledger:
    """What was asked during one proof: the queries that held, and the count of those that did not. `facts`: what
    the spec promises of its integer inputs, a premise of every query."""

    facts: CellFacts = NO_CELLS
    held: list[Query] = field(default_factory=list)
    reals: list[list[Any]] = field(default_factory=list)  # Z3 terms that `verifier.linear` refuted, over the reals
    failed: int = 0
    context: z3.Context = field(default_factory=z3.Context)  # for writing; not the one queries were put in
    translators: dict[bool, Translator] = field(default_factory=dict)  # for writing, by whether a query is linear

    def smtlib(self, query: Query) -> str:
        """The query as an SMT-LIB 2 script whose answer must be unsat."""
        translate = self.translators.get(query.linear)
        if translate is None:
            translate = self.translators[query.linear] = Translator(self.context, query.linear, self.facts)
        seen: list[Atom] = []
        said: dict[Bool, None] = {}
        for fact in (*query.premises, negate(query.claim)):
            said.update(dict.fromkeys(background(fact, translate, seen)))
        return script([translate.bool(b) for b in said])


def solver_in(context: z3.Context) -> z3.Solver:
    """A solver under the limits. Ctrl-C is for Python: Z3 would take it as a time limit and answer `unknown`."""
    solver = z3.Solver(ctx=context)
    solver.set(rlimit=RESOURCE_LIMIT, timeout=LONGEST, ctrl_c=False)
    return solver


def script(assertions: Sequence[Any]) -> str:
    """One Z3 term or more as an SMT-LIB 2 script that asserts them: what `Solver.to_smt2` writes, without a solver."""
    context = assertions[0].ctx.ref()
    *others, last = (a.as_ast() for a in assertions)
    array = (z3.Ast * len(others))(*others)
    written = z3.Z3_benchmark_to_smtlib_string(context, "", "", "unknown", "", len(others), array, last)
    return f"; expected: unsat\n(set-logic ALL)\n{written}"


class Translator:
    """Our terms as Z3 terms. Opaque atoms (comparisons of reals, finiteness) become free booleans,
    which only makes a query harder to prove. With `linear`, so do products of unknowns and division by
    them become free integers, constrained only by what division means: weaker, but decidable. A cell of an
    integer input is an uninterpreted function of its indices; `facts` about cells join the bodies of
    quantifiers here, and whole queries in `background`."""

    def __init__(self, context: z3.Context, linear: bool = False, facts: CellFacts = NO_CELLS) -> None:
        self.context = context
        self.linear = linear
        self.facts = facts
        self.memo: dict[Any, Any] = {}

    def integer(self, x: Int) -> Any:
        found = self.memo.get(x)
        if found is None:
            parts = [self._product(power, c) for power, c in x.terms]
            found = z3.Sum(parts) if len(parts) > 1 else parts[0] if parts else z3.IntVal(0, self.context)
            self.memo[x] = found
        return found

    def _product(self, power: tuple[Atom, ...], c: int) -> Any:
        out: Any = None
        if self.linear and len(power) > 1:
            out = z3.Int("product!" + "!".join(str(a.serial) for a in power), self.context)
            return out if c == 1 else c * out
        for atom in power:
            out = self.atom(atom) if out is None else out * self.atom(atom)
        return z3.IntVal(c, self.context) if out is None else out if c == 1 else c * out

    def atom(self, a: Atom) -> Any:
        found = self.memo.get(a)
        if found is None:
            match a.kind:
                case "sym":
                    found = z3.Int(a.name, self.context)
                case "div" | "mod" if self.linear and a.args[1].constant is None:
                    found = z3.Int(f"{a.kind}!{a.serial}", self.context)
                case "div":
                    found = self.integer(a.args[0]) / self.integer(a.args[1])
                case "mod":
                    found = self.integer(a.args[0]) % self.integer(a.args[1])
                case "min" | "max":
                    x, y = self.integer(a.args[0]), self.integer(a.args[1])
                    found = z3.If(x <= y, x, y) if a.kind == "min" else z3.If(x <= y, y, x)
                case "cell":
                    index = tuple(map(self.integer, a.args[1]))
                    sorts = [z3.IntSort(self.context)] * (len(index) + 1)
                    found = z3.Function(f"cell!{a.args[0]}", *sorts)(*index)
                case "ite":
                    found = z3.If(self.bool(a.args[0]), self.integer(a.args[1]), self.integer(a.args[2]))
            self.memo[a] = found
        return found

    def _exists(self, b: Bool) -> Any:
        if self._varies(b):
            return z3.Bool(f"exists!{b.serial}", self.context)
        return z3.Exists([self.integer(v) for v in b.args[0]], self.bool(self._body(b)))

    def _body(self, b: Bool) -> Bool:
        """What a quantifier says of its symbol, and what the facts say of cells there."""
        outside = [a for a in cells(b.args[1]) if free(a).isdisjoint(free(b.args[0]))]
        return conj((b.args[1], *self.facts.about(bound_cells(b), outside)))

    def _varies(self, b: Bool) -> bool:
        """Whether a free constant would stand for something that depends on a symbol this quantifier binds. It
        has not one value for all of them, so the quantifier as a whole becomes a free boolean instead."""
        return any(not free(inside).isdisjoint(free(b.args[0])) for inside in self._opaque(self._body(b)))

    def _opaque(self, term: Any) -> Iterator[Any]:
        """The outermost parts of a term that are translated as free constants."""
        if isinstance(term, Bool) and term.kind == "exists":
            if self._varies(term):
                yield term
            else:
                yield from self._opaque(self._body(term))
            return
        if isinstance(term, Bool) and term.kind in ("real", "state", "unknown"):
            yield term
            return
        if self.linear and isinstance(term, Int):
            yield from (power for power, _ in term.terms if len(power) > 1)
        if self.linear and isinstance(term, Atom) and term.kind in ("div", "mod") and term.args[1].constant is None:
            yield term
        for child in children(term):
            if not isinstance(child, (str, int)):
                yield from self._opaque(child)

    def bool(self, b: Bool) -> Any:
        found = self.memo.get(b)
        if found is None:
            match b.kind:
                case "true" | "false":
                    found = z3.BoolVal(b is TRUE, self.context)
                case "ge":
                    found = self.integer(b.args[0]) >= 0
                case "eq":
                    found = self.integer(b.args[0]) == 0
                case "not":
                    found = z3.Not(self.bool(b.args[0]))
                case "and":
                    found = z3.And(*map(self.bool, b.args))
                case "or":
                    found = z3.Or(*map(self.bool, b.args))
                case "exists":
                    found = self._exists(b)
                case _:
                    found = z3.Bool(f"{b.kind}!{b.serial}", self.context)
            self.memo[b] = found
        return found


def background(fact: Bool, translate: Translator, seen: list[Atom]) -> tuple[Bool, ...]:
    """A fact with all that comes with it: the static bounds of its symbols, what its divisions mean, and what
    the spec promises of its cells. `seen`: the cells of the facts before it; this one's are added."""
    promised = translate.facts.about(cells(fact), seen)
    divisions = division_facts(fact) if translate.linear else ()
    return (fact, *static_bounds(fact), *divisions, *promised)


class _Stack:
    """A Z3 solver whose assertions are kept as far as the next query shares them; none is made twice."""

    def __init__(self, context: z3.Context, linear: bool, facts: CellFacts) -> None:
        self.translate = Translator(context, linear, facts)
        self.solver = solver_in(context)
        self.loaded: list[Bool] = []
        self.cells: list[int] = []  # how many cells were seen before each of these
        self.seen: list[Atom] = []
        self.new: list[list[Bool]] = []  # what each of these asserts that those before it do not
        self.asserted: set[Bool] = set()

    def check(self, wanted: Sequence[Bool]) -> Any:
        common = 0
        while common < min(len(wanted), len(self.loaded)) and wanted[common] is self.loaded[common]:
            common += 1
        if len(self.loaded) > common:
            self.solver.pop(len(self.loaded) - common)
            self.asserted.difference_update(*self.new[common:])
            del self.seen[self.cells[common] :], self.cells[common:], self.new[common:]
        del self.loaded[common:]
        for fact in wanted[common:]:
            self.solver.push()
            self.cells.append(len(self.seen))
            said = background(fact, self.translate, self.seen)
            new = [b for b in dict.fromkeys(said) if b not in self.asserted]
            self.asserted.update(new)
            self.new.append(new)
            self.assert_all(new)
            self.loaded.append(fact)
        return self.solver.check()

    def assert_all(self, new: Sequence[Bool]) -> None:
        """What `Solver.add` does, whose looking at the sort of every term takes longer than Z3 does."""
        context = self.translate.context.ref()
        for b in new:
            z3.Z3_solver_assert(context, self.solver.solver, self.translate.bool(b).as_ast())


class Prover:
    """The solvers of one proof, used through `Context`s. A query with products of unknowns is first put
    to linear arithmetic with those products opaque: `unsat` there is `unsat` for good."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.context = z3.Context()
        self.plain = _Stack(self.context, linear=False, facts=ledger.facts)
        self.linear = _Stack(self.context, linear=True, facts=ledger.facts)
        self.models = Models()
        self.asked = 0
        self.by_linear = False  # whether linear arithmetic gave the last answer

    def unsat(self, facts: Sequence[Bool]) -> bool:
        """Whether the facts, with the static bounds of every symbol in them, have no model."""
        self._count()
        self.by_linear = False
        if self.models.satisfy(facts):
            return False
        if any(map(nonlinear, facts)):
            answer = self.linear.check(facts)
            if answer == z3.unsat:
                self.by_linear = True
                return True
            if answer == z3.sat and (found := model_of(self.linear.solver)).satisfies(facts):
                self.models.add(found)
                return False
        answer = self.plain.check(facts)
        if answer == z3.sat:
            found = model_of(self.plain.solver)
            found.assume(facts)
            self.models.add(found)
        return bool(answer == z3.unsat)

    def _count(self) -> None:
        self.asked += 1
        if self.asked > MAX_QUERIES:
            raise ProofTooLarge(f"the proof needs more than {MAX_QUERIES} solver queries")

    def model(self, facts: Sequence[Bool]) -> dict[str, int] | None:
        """Values of the integer symbols in some model of the facts, if Z3 finds one."""
        self._count()
        if self.plain.check(facts) != z3.sat:
            return None
        model = self.plain.solver.model()
        return {str(d): model[d].as_long() for d in model.decls() if isinstance(model[d], z3.IntNumRef)}


def static_bounds(fact: Bool) -> tuple[Bool, ...]:
    """low <= symbol <= high for the free symbols of a fact that carry bounds. Those of a bound symbol are
    part of its quantifier, and may contradict each other where its domain is empty."""
    found = _BOUNDS.get(fact)
    if found is None:
        found = _BOUNDS[fact] = tuple(_bounds(fact))
    return found


def _bounds(fact: Bool) -> dict[Bool, None]:
    out: dict[Bool, None] = {}
    unbound = free(fact)
    for a in (a for a in symbols(fact) if a in unbound):
        value = _plain(a)
        # Built without ge0(): that would fold the bound to `true` because of the bound itself.
        if a.low is not None:
            out[boolean("ge", value - a.low)] = None
        if a.high is not None:
            out[boolean("ge", -value + a.high)] = None
    return out


_BOUNDS = term_cache()
_NONLINEAR = term_cache()
_DIVISIONS = term_cache()


def nonlinear(term: Any) -> bool:
    """Whether a term has a product of unknowns or a division by one."""
    found = _NONLINEAR.get(term)
    if found is None:
        if isinstance(term, Int):
            found = any(len(power) > 1 for power, _ in term.terms)
        if isinstance(term, Atom) and term.kind in ("div", "mod"):
            found = term.args[1].constant is None
        found = found or any(nonlinear(c) for c in children(term) if not isinstance(c, (str, int)))
        _NONLINEAR[term] = found
    return bool(found)


def division_facts(term: Any) -> tuple[Bool, ...]:
    """What x div d and x mod d mean for each d in a term that is positive by its static bounds, whatever
    the context: x = d*q + r, 0 <= r < d. (Were d only positive here, this would say so elsewhere too.)"""
    found = _DIVISIONS.get(term)
    if found is None:
        facts: dict[Bool, None] = {}
        if isinstance(term, Atom) and term.kind in ("div", "mod") and positive(term.args[1]):
            facts.update(dict.fromkeys(boolean("ge", part) for part in division_meaning(term)))
        for child in children(term):
            if not isinstance(child, (str, int)):
                facts.update(dict.fromkeys(division_facts(child)))
        found = _DIVISIONS[term] = tuple(facts)
    return found


def _plain(a: Atom) -> Int:
    return polynomial({(a,): 1})


def symbols(term: Bool | Int) -> tuple[Atom, ...]:
    """The symbols of a term, bound ones included, without repetition."""
    seen: dict[Any, None] = {}
    found: dict[Atom, None] = {}

    def visit(t: Any) -> None:
        if t in seen:
            return
        if isinstance(t, Int):
            seen[t] = None
            for power, _ in t.terms:
                for a in power:
                    visit(a)
        elif isinstance(t, Atom):
            seen[t] = None
            if t.kind == "sym":
                found[t] = None
            else:
                for x in t.args:
                    visit(x)
        elif isinstance(t, Bool):
            seen[t] = None
            for x in t.args:
                visit(x)
        elif isinstance(t, tuple):
            for x in t:
                visit(x)

    visit(term)
    return tuple(found)


class Context:
    """A set of premises, grown by `given`. Answers are memoised per context."""

    __slots__ = ("prover", "facts", "known", "memo", "children", "dead")

    def __init__(self, prover: Prover, facts: tuple[Bool, ...] = ()) -> None:
        self.prover = prover
        self.facts = facts
        self.known = frozenset(facts)
        self.memo: dict[Bool, bool] = {}
        self.children: dict[Bool, Context] = {}
        self.dead: bool | None = None

    def given(self, extra: Bool) -> Context:
        """This context and one more premise (a conjunction is split)."""
        found = self.children.get(extra)
        if found is None:
            new = tuple(c for c in conjuncts(extra) if c not in self.known)
            found = self if not new else Context(self.prover, self.facts + new)
            self.children[extra] = found
        return found

    def entails(self, claim: Bool) -> bool:
        """True only if the premises make the claim true in every model."""
        if claim is TRUE or claim in self.known:
            return True
        found = self.memo.get(claim)
        if found is None:
            found = self._ask(claim)
            self.memo[claim] = found
        return found

    def _ask(self, claim: Bool) -> bool:
        if claim.kind == "and":
            return all(self.entails(c) for c in claim.args)
        if claim.kind == "or" and any(c in self.known for c in claim.args):
            return True
        if negate(claim) in self.known:
            return self.impossible
        held = self.prover.unsat((*self.facts, negate(claim)))
        if held:
            self.prover.ledger.held.append(Query(self.facts, claim, self.prover.by_linear))
        else:
            self.prover.ledger.failed += 1
        return held

    @property
    def impossible(self) -> bool:
        """Whether the premises contradict each other (then everything holds, vacuously)."""
        if self.dead is None:
            self.dead = FALSE in self.known or self.prover.unsat(self.facts)
            if self.dead:
                self.prover.ledger.held.append(Query(self.facts, FALSE, self.prover.by_linear))
        return self.dead

    def decide(self, claim: Bool) -> bool | None:
        """True or False when the premises settle the claim, None otherwise."""
        if self.entails(claim):
            return True
        return False if self.entails(negate(claim)) else None

    def model(self, extra: Bool = TRUE) -> dict[str, int] | None:
        return self.prover.model((*self.facts, *conjuncts(extra)))

    def premises(self) -> Iterator[Bool]:
        yield from self.facts

    def formula(self) -> Bool:
        return conj(self.facts)
