"""What the spec's facts say of the cells of integer inputs that occur in a query.

A cell is a function application for the solver: equal indices, equal values, and nothing else. A fact
("every cell of `table` is in 0..NB-1") is a universal statement about all cells inside the tensor; it is
instantiated here, at the indices that occur. Every instance has the form `index inside the tensor => ...`, so
nothing is said of an index outside, and every instance is true of every input that keeps the facts, which
the launcher checks at each call. Adding true statements to the premises of a query is sound; leaving some
out can only make a query fail.

A cell below a quantifier whose index mentions the symbol bound there gets its instances inside the
quantifier: `exists v: P(v)` and `exists v: P(v) and F(v)` are equivalent where F is true.

**Splits.** An input T of n+1 cells that `splits` 0..E-1 into n parts has T[0] = 0, T[n] = E, and T[i] <= T[i+1]
for i < n (what the launcher checks), so T[i] <= T[k] for 0 <= i <= k <= n, by induction on k - i. For each x in
0..E-1 there is exactly one p in 0..n-1 with T[p] <= x < T[p+1], empty parts or not: the largest p < n with
T[p] <= x exists, for T[0] = 0 <= x; if p = n-1 then T[p+1] = E > x, else T[p+1] > x because p is the largest;
and for two such p < q, x < T[p+1] <= T[q] <= x is impossible. `part(T)` is that function of x, arbitrary
elsewhere. The solver gets both ends, order for each pair of cells that occurs, and what `part(T)` means where
it occurs; uniqueness follows from order. `longest` bounds T[i+1] - T[i] where both cells occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from verifier.booleans import TRUE, Bool, conj, disj, equal, ge0, le, lt, negate
from verifier.integers import Atom, Int, cell, lift, part_name, polynomial, term_cache
from verifier.terms import children, free

_CELLS = term_cache()


class Context(Protocol):
    """What answers whether premises make a claim true (`verifier.smt.Context`)."""

    def entails(self, claim: Bool) -> bool: ...


@dataclass(frozen=True, slots=True)
class Table:
    """An integer input, or the part function of one that splits: its extents, the bits of its dtype, and its
    facts; None where nothing is promised. `part_of`: the tensor whose part function this is."""

    extents: tuple[Int, ...]
    bits: int
    least: Int | None = None
    most: Int | None = None
    splits: Int | None = None
    longest: Int | None = None
    part_of: str = ""


class CellFacts:
    """The facts of one bound spec, by tensor."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.tables = tables

    def about(self, found: Iterable[Atom], seen: list[Atom]) -> tuple[Bool, ...]:
        """Everything the facts say of these cells, alone and with those seen before. `seen` grows by them, and by
        the cells that the facts themselves mention."""
        out: dict[Bool, None] = {}
        todo = list(found)
        while todo:
            a = todo.pop(0)
            if a in seen or a.args[0] not in self.tables:
                continue
            new = [*self._alone(a), *(p for b in seen if b.args[0] == a.args[0] for p in self._pair(a, b))]
            seen.append(a)
            todo += [b for fact in new for b in cells(fact) if b not in seen]
            out.update(dict.fromkeys(new))
        out.pop(TRUE, None)
        return tuple(out)

    def _alone(self, a: Atom) -> tuple[Bool, ...]:
        table, value = self.tables[a.args[0]], polynomial({(a,): 1})
        inside = _inside(a.args[1], table.extents)
        claims = [] if table.least is None else [ge0(value - table.least)]
        claims += [] if table.most is None else [ge0(table.most - value)]
        i = a.args[1][0]
        if table.splits is not None:
            last = table.extents[0] - 1
            claims += [ge0(value), ge0(table.splits - value)]
            claims += [_implies(equal(i, lift(0)), equal(value, lift(0)))]
            claims += [_implies(equal(i, last), equal(value, table.splits))]
        if table.part_of:
            claims += [le(cell(table.part_of, (value,)), i), lt(i, cell(table.part_of, (value + 1,)))]
        return tuple(_implies(inside, claim) for claim in claims)

    def _pair(self, a: Atom, b: Atom) -> tuple[Bool, ...]:
        """Order of two cells of a tensor that splits, and the length of a part between neighbours."""
        table = self.tables[a.args[0]]
        if table.splits is None:
            return ()
        inside = _inside(a.args[1], table.extents) & _inside(b.args[1], table.extents)
        out = []
        for x, y in ((a, b), (b, a)):
            i, k = x.args[1][0], y.args[1][0]
            growth = polynomial({(y,): 1, (x,): -1})
            out.append(_implies(inside & le(i, k), ge0(growth)))
            if table.longest is not None:
                out.append(_implies(inside & equal(i + 1, k), ge0(table.longest - growth)))
        return tuple(out)

    def part(self, tensor: str, x: Int, context: Context) -> Int:
        """The part of `tensor` that x lies in: an index i of a cell of the tensor that stands in x, where the
        context shows that i is a part and T[i] <= x < T[i+1], which makes i the one; else `part(T)` of x."""
        table = self.tables[tensor]
        for i in [a.args[1][0] for power, _ in x.terms for a in power if a.kind == "cell" and a.args[0] == tensor]:
            held = (ge0(i), lt(i, table.extents[0] - 1), le(cell(tensor, (i,)), x), lt(x, cell(tensor, (i + 1,))))
            if context.entails(conj(held)):
                return i  # type: ignore[no-any-return]
        return cell(part_name(tensor), (x,))


NO_CELLS = CellFacts({})


def cells(term: Any) -> tuple[Atom, ...]:
    """The cells in an integer term or condition, inner ones first, without those whose index mentions a symbol
    that a quantifier of the term binds."""
    found = _CELLS.get(term)
    if found is None:
        inside: dict[Atom, None] = {}
        for child in children(term):
            if isinstance(child, (Int, Bool, Atom, tuple)):  # comparisons of reals are opaque to the solver
                inside.update(dict.fromkeys(cells(child)))
        if isinstance(term, Bool) and term.kind == "exists":
            bound = free(term.args[0])
            inside = {a: None for a in inside if free(a).isdisjoint(bound)}
        if isinstance(term, Atom) and term.kind == "cell":
            inside[term] = None
        found = tuple(inside)
        if not isinstance(term, tuple):
            _CELLS[term] = found
    return found


def bound_cells(term: Bool) -> tuple[Atom, ...]:
    """The cells in the body of a quantifier that mention what it binds."""
    bound = free(term.args[0])
    return tuple(a for a in cells(term.args[1]) if not free(a).isdisjoint(bound))


def _inside(index: tuple[Int, ...], extents: tuple[Int, ...]) -> Bool:
    return conj(part for i, n in zip(index, extents, strict=True) for part in (ge0(i), ge0(n - i - 1)))


def _implies(condition: Bool, claim: Bool) -> Bool:
    return disj((negate(condition), claim))
