"""When do two loops run equally often? Loop bounds as linear forms that both partitions can be compared by.

A loop bound is an integer expression over sizes, program ids, names of its partition and counters of the loops
around it. `Scope` writes it as a constant plus multiples of atoms: names are replaced by what they were given, a
counter by its depth, and whatever is not linear (a `cdiv`, a `min`, a `load`) becomes one atom made of the linear
forms of its parts. Equal forms then mean equal integers wherever the counters at the same depths are equal, whichever
partition evaluates them. Unequal forms may still be equal integers: the checker then treats the loops as unrelated,
and refuses the kernel if that matters.

A loop of trip count T asks, before iteration i, whether i < T. With T = L + c, L a form without constant, that is the
question "L > i - c" about an integer L nobody knows; two loops that ask about the same L get answers that agree. A
bound `min(x, y)` where one of the two is a constant number of iterations away (the first iteration of a loop, peeled)
asks both questions. An `If` is a loop of at most one iteration: `a < b` asks about b - a as a loop from a to b does,
any other condition about an integer of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass

from ir.ast import Span
from ir.program import Binary, Cast, DType, Expr, Let, Literal, Type, Unary, Var
from lowering.hopper.async_program import If, Loop

Atom = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Linear:
    """constant + sum of coefficient * atom; `terms` sorted, no coefficient 0."""

    constant: int
    terms: tuple[tuple[Atom, int], ...] = ()

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        total = dict(self.terms)
        for atom, k in other.terms:
            total[atom] = total.get(atom, 0) + factor * k
        kept = sorted(((a, k) for a, k in total.items() if k), key=repr)
        return Linear(self.constant + factor * other.constant, tuple(kept))

    def times(self, factor: int) -> Linear:
        return Linear(0).plus(self, factor)

    @property
    def unknown(self) -> Linear:
        """Without the constant."""
        return Linear(0, self.terms)


@dataclass(frozen=True, slots=True)
class Trip:
    """What a loop is to the checker. Its counter in iteration i is `origin` + `first` + i; iteration i is run if for
    each (L, c) of `limits` L + c > i. `bounded`: one of them has no unknown, so it runs a few times at most."""

    origin: Linear
    first: int
    limits: tuple[tuple[Linear, int], ...]

    @property
    def bounded(self) -> bool:
        return any(not form.terms for form, _ in self.limits)

    @property
    def constants(self) -> tuple[int, ...]:
        return (self.first, *(c for _, c in self.limits))


class Scope:
    """The names of one partition as it is read from top to bottom; `shared` names mean the same in both."""

    def __init__(self, partition: str, shared: frozenset[str]) -> None:
        self.partition = partition
        self.shared = shared
        self.lets: dict[str, Expr] = {}
        self.counters: dict[str, int] = {}

    def enter(self, loop: Loop | If, depth: int) -> None:
        if isinstance(loop, Loop):
            self.counters[loop.counter] = depth

    def let(self, statement: Let) -> None:
        self.lets[statement.name] = statement.value

    def trip(self, loop: Loop | If) -> Trip:
        """How often `loop` runs, its bounds read in the scope around it."""
        if isinstance(loop, If):
            count = self.condition(loop.condition)
            return Trip(Linear(0), 0, ((Linear(0), 1), (count.unknown, count.constant)))
        start, stop = self.linear(loop.start), self.linear(loop.stop)
        pairs = [(a, b) for a in _alternatives(start, "max") for b in _alternatives(stop, "min")]
        counts = [b.plus(a, -1) for a, b in pairs]
        if not any(not c.terms for c in counts):
            counts = [stop.plus(start, -1)]
        limits = tuple((c.unknown, c.constant) for c in sorted(set(counts), key=repr))
        return Trip(start.unknown, start.constant, limits)

    def condition(self, expr: Expr) -> Linear:
        """A form that is positive just when the condition holds."""
        match expr:
            case Binary(op="lt" | "gt" | "le" | "ge") if expr.left.type.dtype.is_int:
                low, high = (expr.left, expr.right) if expr.op in ("lt", "le") else (expr.right, expr.left)
                more = self.linear(high).plus(self.linear(low), -1)
                return more if expr.op in ("lt", "gt") else more.plus(Linear(1))
            case Var(name=name) if name in self.lets:
                return self.condition(self.lets[name])
            case Literal(value=value):
                return Linear(int(value))
        return _single(("condition", self.part(expr)))

    def linear(self, expr: Expr) -> Linear:
        """The form of an INT scalar."""
        match expr:
            case Literal(value=value) if value.denominator == 1:
                return Linear(int(value))
            case Var(name=name) if name in self.lets:
                return self.linear(self.lets[name])
            case Var(name=name) if name in self.counters:
                return _single(("counter", self.counters[name]))
            case Var(name=name) if name not in self.shared:  # e.g. carried: the other partition cannot know it
                return _single(("name", self.partition, name))
            case Unary(op="neg"):
                return self.linear(expr.operand).times(-1)
            case Cast() if expr.type.dtype.is_int and expr.operand.type.dtype.is_int:
                return self.linear(expr.operand)
            case Binary(op="add" | "sub"):
                return self.linear(expr.left).plus(self.linear(expr.right), 1 if expr.op == "add" else -1)
            case Binary(op="mul"):
                left, right = self.linear(expr.left), self.linear(expr.right)
                for a, b in ((left, right), (right, left)):
                    if not a.terms:
                        return b.times(a.constant)
            case Binary(op="min" | "max"):
                parts = sorted((self.linear(expr.left), self.linear(expr.right)), key=repr)
                return _single((expr.op, *parts))
        return _single(self.atom(expr))

    def atom(self, node: object) -> Atom:
        """Any other node: its kind and its parts, integers among them as linear forms, positions left out."""
        parts = (self.part(getattr(node, f.name)) for f in fields(node) if f.name != "span")  # type: ignore[arg-type]
        return (type(node).__name__, *parts)

    def part(self, value: object) -> object:
        if isinstance(value, Var) and value.name in self.lets:
            return self.part(self.lets[value.name])
        if isinstance(value, Var) and value.name not in self.shared and value.name not in self.counters:
            return ("name", self.partition, value.name)
        kind = getattr(value, "type", None)
        if isinstance(kind, Type) and kind.dtype is DType.INT and not kind.shape:
            return self.linear(value)  # type: ignore[arg-type]
        if isinstance(value, tuple):
            return tuple(self.part(v) for v in value)
        if is_dataclass(value) and not isinstance(value, Type | Span):
            return self.atom(value)
        return value


def _single(atom: Atom) -> Linear:
    return Linear(0, ((atom, 1),))


def _alternatives(form: Linear, op: str) -> list[Linear]:
    """The forms whose smallest (op min) or largest (op max) this one is."""
    for atom, k in form.terms:
        if k == 1 and atom[0] == op:
            rest = form.plus(_single(atom), -1)
            return [rest.plus(part) for part in atom[1:] if isinstance(part, Linear)]
    return [form]


def largest_constant(trips: Iterable[Trip]) -> int:
    return max((abs(c) for trip in trips for c in trip.constants), default=0)
