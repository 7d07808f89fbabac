"""Loops: running the body once, and the closed form of every carried value.

For a loop over n in [lo, hi) each carried name x gets a value at the start of iteration n, as a term in n
(n = hi gives the value after the loop). Integers must move by a loop-invariant step. Floats are solved by
`closed_forms`. Accesses and duties recorded inside the body then have carried values replaced by those
terms, so what is proved of iteration n holds for every iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ir import program as core
from verifier.binders import Substitution
from verifier.booleans import TRUE, Bool, boolean, conj, le, lt
from verifier.integers import Atom, Int, symbol
from verifier.operations import Unsupported
from verifier.reals import Real, RealAtom, of, real_atom
from verifier.simplify import Simplifier
from verifier.smt import Context
from verifier.sympy_view import ScanIdentity
from verifier.terms import as_int, atom_of, free, fresh, states
from verifier.tiles import Duties, Duty, Lanes, Scalar, Tile, lane_symbols, tile

if TYPE_CHECKING:
    from verifier.execute import Instance


@dataclass(frozen=True, slots=True)
class Carried:
    """One float carried name at generic lanes: its value before the loop and after one iteration."""

    name: str
    lanes: Lanes
    init: Scalar
    next: Scalar

    @property
    def state(self) -> RealAtom:
        return real_atom("state", self.name, self.lanes)

    @property
    def finite(self) -> Bool:
        return boolean("state", self.name, self.lanes)

    def at(self, lanes: Lanes) -> Substitution:
        """The substitution of these lanes for the generic ones."""
        pairs = zip(self.lanes, lanes, strict=True)
        return Substitution({atom_of(mine): theirs for mine, theirs in pairs if mine.atom is not None})


@dataclass(frozen=True, slots=True)
class Closed:
    """Value and finiteness at the start of iteration `counter`, at the generic lanes."""

    value: Real
    finite: Bool


# The pivot, its counter, the symbols in scope, and a maximum it never exceeds at the start of iteration n.
PivotBound = tuple[Carried, Int, tuple[Int, ...], Real]


@dataclass(slots=True)
class Loop:
    """One loop being summarised. `context` holds inside the body (for a generic iteration n)."""

    counter: Atom
    start: Int
    stop: Int
    context: Context
    simplifier: Simplifier
    carried: dict[str, Carried]
    closed: dict[str, Closed]
    notes: list[str]
    identities: list[ScanIdentity]
    scope: tuple[Int, ...]
    pivot_bounds: dict[str, PivotBound]
    depth: int  # how many loops are around its body, this one included
    asked: frozenset[str] | None  # values are floats, and these names alone are asked for (`verifier.machine`)

    @property
    def n(self) -> Int:
        return as_int(self.counter)

    def before(self, k: Int, n: Int) -> Bool:
        """k is an iteration before n."""
        return conj((le(self.start, k), lt(k, n)))

    def value_at(self, name: str, n: Int, lanes: Lanes) -> tuple[Real, Bool]:
        form, x = self.closed[name], self.carried[name]
        mapping = {**x.at(lanes).symbols, self.counter: n}
        change = Substitution(mapping)
        return change.real(form.value), change.bool(form.finite)

    def states_at(self, n: Int) -> Substitution:
        """Replaces the state atoms that are solved by their values at the start of iteration n."""

        def real(a: RealAtom) -> Real | None:
            return self.value_at(a.args[0], n, a.args[1])[0] if a.kind == "state" and a.args[0] in self.closed else None

        def condition(b: Bool) -> Bool | None:
            return self.value_at(b.args[0], n, b.args[1])[1] if b.kind == "state" and b.args[0] in self.closed else None

        return Substitution({}, real, condition)


def run_loop(run: Instance, loop: core.For, env: dict[str, Tile]) -> None:
    """Execute a `For` symbolically; binds the carried names to their values after the loop."""
    begin, end = run.expression(loop.start, env).scalar(), run.expression(loop.stop, env).scalar()
    if begin.owes or end.owes:
        raise Unsupported("a loop bound that depends on floats which may be undefined", loop.span)
    start, stop = begin.int, end.int
    run.integers += [(start, loop.span), (stop, loop.span)]
    n = symbol(f"{run.kernel.name}.{loop.counter}")
    inside = (le(start, n), lt(n, stop))
    saved = run.context, run.premises, run.counters
    run.context = run.context.given(conj(inside))
    run.premises, run.counters = run.premises + inside, run.counters + (n,)
    run.loops.append((n, run.premises))
    inner = dict(env)
    inner[loop.counter] = Tile((), lambda lanes: Scalar(n))
    steps = _integer_steps(run, loop, inner, env, n - start)
    for carry in loop.carries:
        if carry.type.dtype.is_int:
            inner[carry.name] = _stepped(run.expression(carry.init, env), steps[carry.name], n - start)
        elif carry.type.dtype.is_float:
            inner[carry.name] = _state_tile(f"{run.kernel.name}.{carry.name}", carry.type.shape)
        else:
            raise Unsupported(f"a carried {carry.type.dtype.value}", loop.span)
    first = len(run.accesses)
    run.block(loop.body, inner)
    for carry in loop.carries:
        if carry.type.dtype.is_int:  # B2: what it is before an iteration, and after the last
            lanes = lane_symbols(carry.type.shape)
            for place in (inner[carry.name], run.expression(carry.next, inner)):
                run.integers.append((place.at(lanes).int, loop.span))
    carried = {c.name: c for c in (_carried(run, c, env, inner) for c in loop.carries if c.type.dtype.is_float)}
    scope = (*(as_int(s) for s in scope_of(run)),)
    summary = Loop(
        atom_of(n), start, stop, run.context, run.simplifier, carried, {},
        run.notes, run.identities, scope, run.pivot_bounds, len(run.counters),
        None if run.floats is None else run.floats.asked,
    )  # fmt: skip
    from verifier.closed_forms import solve

    solve(summary)
    for name, form in summary.closed.items():
        run.closed[name] = form.value, run.context
    duties = _DutyCollector(summary)
    run.rewrite_since(first, summary.states_at(n), lambda s: duties.resolve(s, n))
    run.context, run.premises, run.counters = saved
    final = _count_up_to(start, stop, run.context)
    for carry in loop.carries:
        if carry.type.dtype.is_int:
            env[carry.name] = _stepped(run.expression(carry.init, env), steps[carry.name], final - start)
        else:
            env[carry.name] = _final(summary, duties, f"{run.kernel.name}.{carry.name}", carry.type.shape, final)


def scope_of(run: Instance) -> list[Atom]:
    """The program ids, counters and sizes that what the program is doing may depend on."""
    symbols: set[Atom] = set()
    for premise in run.premises:
        symbols |= free(premise)
    return sorted(symbols, key=lambda a: a.serial)


def _count_up_to(start: Int, stop: Int, context: Context) -> Int:
    """The counter's value after the loop: stop, or start when there is no iteration."""
    from verifier.integers import maximum

    return stop if context.entails(le(start, stop)) else maximum(start, stop)


def _state_tile(name: str, shape: tuple[int, ...]) -> Tile:
    def at(lanes: Lanes) -> Scalar:
        return Scalar(of(real_atom("state", name, lanes)), boolean("state", name, lanes))

    return tile(shape, at)


def _carried(run: Instance, carry: core.Carry, env: dict[str, Tile], inner: dict[str, Tile]) -> Carried:
    lanes = lane_symbols(carry.type.shape)
    init = run.expression(carry.init, env).at(lanes)
    return Carried(f"{run.kernel.name}.{carry.name}", lanes, init, run.expression(carry.next, inner).at(lanes))


def _stepped(init: Tile, step: Int, count: Int) -> Tile:
    return tile(init.shape, lambda lanes: Scalar(init.at(lanes).int + count * step, TRUE, init.at(lanes).owes))


def _integer_steps(
    run: Instance, loop: core.For, inner: dict[str, Tile], env: dict[str, Tile], count: Int
) -> dict[str, Int]:
    """The loop-invariant amount by which each carried integer grows in an iteration. Found by executing
    the body with init + t for an arbitrary t: the next value must be init + t + step."""
    names = [c for c in loop.carries if c.type.dtype.is_int]
    if not names:
        return {}
    trial_env = dict(inner)
    moved = {c.name: as_int(fresh("moved")) for c in names}
    for carry in loop.carries:
        if carry.type.dtype.is_int:
            trial_env[carry.name] = _stepped(run.expression(carry.init, env), moved[carry.name], count * 0 + 1)
        else:
            trial_env[carry.name] = _state_tile(f"{run.kernel.name}.{carry.name}", carry.type.shape)
    trial = replace(run, accesses=[], casts=[], integers=[], notes=[], closed={}, identities=[], pivot_bounds={})
    trial.block(loop.body, trial_env)
    steps = {}
    for carry in names:
        lanes = lane_symbols(carry.type.shape)
        before = trial_env_value(trial, carry, env, lanes) + moved[carry.name]
        after = trial.expression(carry.next, trial_env).at(lanes)
        if after.owes or states(after.int - before):
            raise Unsupported(f"the carried integer '{carry.name}' depends on floats", loop.span)
        step = after.int - before
        varying = {atom_of(m) for m in moved.values()} | {atom_of(x) for x in lanes if x.atom} | free(run.counters[-1])
        if not free(step).isdisjoint(varying):
            raise Unsupported(f"the carried integer '{carry.name}' does not grow by a fixed amount", loop.span)
        steps[carry.name] = step
    return steps


def trial_env_value(run: Instance, carry: core.Carry, env: dict[str, Tile], lanes: Lanes) -> Int:
    return run.expression(carry.init, env).at(lanes).int


def _final(summary: Loop, duties: _DutyCollector, name: str, shape: tuple[int, ...], end: Int) -> Tile:
    def at(lanes: Lanes) -> Scalar:
        value, finite = summary.value_at(name, end, lanes)
        return Scalar(value, finite, duties.of(name, lanes, end))

    return tile(shape, at)


class _DutyCollector:
    """Duties of carried values: those of every iteration so far, for the value and all it depends on."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.iteration = fresh("iteration")
        self.memo: dict[tuple[str, Lanes], tuple[tuple[bool, Duty], ...]] = {}

    def resolve(self, s: Scalar, n: Int) -> Scalar:
        """A scalar of the body of iteration n, with carried values replaced and their duties added."""
        change = self.loop.states_at(n)
        owes = Duties(_change(d, change) for d in s.owes)
        owes = owes.union(*(self.of(name, lanes, n) for name, lanes in self._dependencies(s)))
        value = s.value if isinstance(s.value, Int) else (
            change.bool(s.value) if isinstance(s.value, Bool) else change.real(s.value)
        )  # fmt: skip
        return Scalar(value, change.bool(s.finite), owes)

    def of(self, name: str, lanes: Lanes, end: Int) -> Duties:
        """Duties of all iterations before `end` for carried `name` at `lanes`."""
        earlier = self.loop.before(as_int(self.iteration), end)
        return Duties(
            replace(d, premise=conj((d.premise, earlier))) if looped else d for looped, d in self._all(name, lanes)
        )

    def _all(self, name: str, lanes: Lanes) -> tuple[tuple[bool, Duty], ...]:
        found = self.memo.get((name, lanes))
        if found is not None:
            return found
        out: dict[tuple[bool, Duty], None] = {}
        seen: set[tuple[str, Lanes]] = set()
        todo = [(name, lanes)]
        k = as_int(self.iteration)
        while todo:
            here = todo.pop()
            if here in seen or here[0] not in self.loop.carried:
                continue
            seen.add(here)
            x = self.loop.carried[here[0]]
            place = x.at(here[1])
            moved = Substitution({**place.symbols, self.loop.counter: k})
            values = self.loop.states_at(k)
            out |= dict.fromkeys((False, _change(d, place)) for d in x.init.owes)
            out |= dict.fromkeys((True, _change(_change(d, moved), values)) for d in x.next.owes)
            todo += [(a, tuple(map(place.int, ls))) for a, ls in self._dependencies(x.next)]
        self.memo[(name, lanes)] = tuple(out)
        return self.memo[(name, lanes)]

    def _dependencies(self, s: Scalar) -> Iterator[tuple[str, Lanes]]:
        duties = ((d.premise, d.claim) if d.argument is None else (d.premise, d.claim, d.argument) for d in s.owes)
        for part in ((s.value, s.finite), *duties):
            yield from ((a.args[0], a.args[1]) for a in states(part) if a.args[0] in self.loop.carried)


def _change(d: Duty, change: Substitution) -> Duty:
    argument = None if d.argument is None else change.real(d.argument)
    return replace(d, premise=change.bool(d.premise), claim=change.bool(d.claim), argument=argument)


