"""What the spec's facts say of the cells of integer inputs that occur in a query.

A cell is a function application for the solver: equal indices, equal values, and nothing else. A fact
("every cell of `table` is in 0..NB-1") is a universal statement about all cells inside the tensor; it is
instantiated here, at the indices that occur. Every instance has the form `index inside the tensor => ...`, so
nothing is said of an index outside, and every instance is true of every input that keeps the facts, which
the launcher checks at each call. Adding true statements to the premises of a query is sound; leaving some
out can only make a query fail.

A cell below a quantifier whose index mentions the symbol bound there gets its instances inside the
quantifier: `exists v: P(v)` and `exists v: P(v) and F(v)` are equivalent where F is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from verifier.booleans import TRUE, Bool, conj, disj, ge0, negate
from verifier.integers import Atom, Int, polynomial, term_cache
from verifier.terms import children, free

_CELLS = term_cache()


@dataclass(frozen=True, slots=True)
class Table:
    """An integer input: its extents, the bits of its dtype, and its facts; None where nothing is promised."""

    extents: tuple[Int, ...]
    bits: int
    least: Int | None = None
    most: Int | None = None


class CellFacts:
    """The facts of one bound spec, by tensor."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.tables = tables

    def about(self, cells: Iterable[Atom]) -> tuple[Bool, ...]:
        """Everything the facts say of these cells."""
        found = dict.fromkeys(part for a in cells for part in self._range(a))
        return tuple(part for part in found if part is not TRUE)

    def _range(self, a: Atom) -> tuple[Bool, ...]:
        table, value = self.tables[a.args[0]], polynomial({(a,): 1})
        inside = _inside(a.args[1], table.extents)
        low = () if table.least is None else (_implies(inside, ge0(value - table.least)),)
        high = () if table.most is None else (_implies(inside, ge0(table.most - value)),)
        return low + high


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
