"""From a cell back to its writer: the inverse of a store's index map.

A store maps (program ids, loop counters, lanes) to a cell. `invert` proposes values of those unknowns in
terms of the cell by solving the index equations: mixed-radix digits (a*x + y with 0 <= y < a), pairs of
quotient and remainder, single linear unknowns, and the part of an input that splits (row T[s] + i lies in part
s). The proposal is only a proposal: `covers` is the
condition, in terms of the cell, under which substituting it meets every premise, the mask, the lane
bounds and the index equations, so whatever satisfies `covers` really is written by that instance.
That nobody else writes the cell is the other direction, `exact`.

An atomic add may leave unknowns open (the key block, when a query row is added to): `summed`. `total` is
the sum of what all executions add to a cell. Let u = (d, s) be the unknowns, s those summed, and G(u) the
premises, mask and lane bounds. By definition total(c) = sum over u with G(u) and index(u) = c of value(u).
If every u with G(u) has d = inverse(index(u)) (`exact`), the sum over d has the one term d = inverse(c),
and total(c) = sum over s with covers(c, s) of value(inverse(c), s), which is what `make_sum` is given. The
domain is finite: program ids and counters have their ranges among the premises, lanes their extents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from verifier.binders import Substitution, make_sum, substitute
from verifier.booleans import FALSE, Bool, conj, equal, ge0
from verifier.execute import Access, Trace
from verifier.integers import Atom, Int, cell, div, lift, mod, part_name, polynomial, split_multiple
from verifier.reals import Real
from verifier.smt import Context
from verifier.terms import as_int, atom_of, free, fresh


@dataclass(frozen=True, slots=True)
class Writer:
    """`cell`: symbols of a generic cell. `inverse`: unknowns as terms in the cell, None if not found
    (`why`). `summed`: unknowns of an atomic add that are not in it. `covers`: the cell is written by that
    instance (for these values of `summed`)."""

    access: Access
    cell: tuple[Atom, ...]
    inverse: Mapping[Atom, Int] | None
    covers: Bool
    why: str = ""
    summed: tuple[Atom, ...] = ()


def writer(trace: Trace, access: Access) -> Writer:
    cell = tuple(fresh("cell") for _ in access.index)
    ranges = {atom_of(pid): extent for pid, extent in trace.grid}
    unknowns = unknowns_of(trace, access)
    found = solve(unknowns, [(i, as_int(c)) for i, c in zip(access.index, cell, strict=True)], ranges)
    if access.kind == "atomic":
        found |= {a: lift(0) for a in unknowns if a not in found and ranges.get(a) is lift(1)}
        summed = tuple(a for a in unknowns if a not in found)
        return Writer(access, cell, found, _covers(access, cell, found), summed=summed)
    for atom in unknowns:
        if atom not in found:
            if any(atom in free(i) for i in access.index):
                return Writer(access, cell, None, FALSE, f"its index does not determine {atom!r}")
            found[atom] = lift(0)  # a program id or lane the index does not use: checked by `covers`
    return Writer(access, cell, found, _covers(access, cell, found))


def solve(
    unknowns: tuple[Atom, ...], equations: list[tuple[Int, Int]], extents: Mapping[Atom, Int] | None = None
) -> dict[Atom, Int]:
    """Proposals for unknowns that make the left sides equal the right ones, which mention none of them.
    `extents`: what is known to bound an unknown, 0 <= u < extent."""
    solver = _Solver(unknowns, extents or {})
    solver.equations += equations
    return solver.solve()


def unknowns_of(trace: Trace, access: Access) -> tuple[Atom, ...]:
    """Program ids, loop counters and lanes: what tells one execution of the access from another."""
    out = [atom_of(pid) for pid, _ in trace.grid]
    out += [atom_of(c) for c in access.counters]
    out += [atom_of(lane) for lane in access.lanes if lane.atom is not None]
    return tuple(out)


def exact(w: Writer, within: Context) -> bool:
    """Whether every execution whose mask holds is the one the inverse names at the cell it writes; `within`
    is the context of the access. No two executions of a store then share a cell, and a cell outside
    `covers` is written by none."""
    if w.inverse is None:
        return False
    at = Substitution(dict(zip(w.cell, w.access.index, strict=True)))
    return within.entails(conj(equal(as_int(a), at.int(v)) for a, v in w.inverse.items()))


def total(w: Writer) -> Real:
    """What all executions of an atomic add leave in the generic cell together; needs `exact`."""
    if w.access.value is None or w.inverse is None:
        raise ValueError("only an atomic add has a total")
    bound = {a: as_int(fresh("~", a.low, a.high)) for a in w.summed}
    place = Substitution({**w.inverse, **bound})
    symbols = tuple(map(atom_of, bound.values()))
    return make_sum(symbols, substitute(w.covers, bound), place.real(w.access.value.real))


def _covers(access: Access, cell: tuple[Atom, ...], inverse: Mapping[Atom, Int]) -> Bool:
    parts = [*access.premises, access.mask]
    parts += [equal(i, as_int(c)) for i, c in zip(access.index, cell, strict=True)]
    out = [substitute(p, inverse) for p in parts]
    for atom, value in inverse.items():
        if atom.low is not None:
            out.append(ge0(value - atom.low))
        if atom.high is not None:
            out.append(ge0(atom.high - value))
    return conj(out)


class _Solver:
    def __init__(self, unknowns: tuple[Atom, ...], extents: Mapping[Atom, Int]) -> None:
        self.unknowns = frozenset(unknowns)
        self.extents = extents
        self.equations: list[tuple[Int, Int]] = []
        self.solved: dict[Atom, Int] = {}
        self.digits: dict[tuple[Int, Int], dict[str, Int]] = {}
        self.parts: set[Atom] = set()

    def solve(self) -> dict[Atom, Int]:
        progress = True
        while progress and self.equations:
            progress = False
            pending, self.equations = self.equations, []
            for left, right in pending:
                if not self._step(substitute(left, self.solved), right):
                    self.equations.append((left, right))
                else:
                    progress = True
            progress = self._pairs() or progress
        return self.solved

    def _mentions(self, term: Int | Atom) -> bool:
        return not free(term).isdisjoint(self.unknowns - self.solved.keys())

    def _step(self, left: Int, right: Int) -> bool:
        """Use up one equation left = right, possibly adding simpler ones."""
        terms = [(p, c) for p, c in left.terms if any(self._mentions(a) for a in p)]
        if not terms:
            return True  # nothing to learn; `covers` checks it
        rest = left - polynomial(dict(terms))
        target = right - rest
        for power, c in terms:
            atom, lone = power[0], len(power) == 1 and c == 1
            if lone and atom.kind == "cell" and len(atom.args[1]) == 1 and atom not in self.parts:
                self.parts.add(atom)
                self.equations += [(atom.args[1][0], cell(part_name(atom.args[0]), (target,))), (left, right)]
                return True
        if len(terms) == 1:
            return self._single(terms[0], target)
        for power, c in terms:
            others = polynomial({p: k for p, k in terms if p != power}) * c
            width = (self._width(power) or self._guess(others)) if abs(c) == 1 else None
            if width is None:
                continue
            quotient, remainder = split_multiple(others, width)
            if remainder is lift(0):
                self.equations.append((polynomial({power: 1}), mod(target * c, width)))
                self.equations.append((quotient, div(target * c, width)))
                return True
        return False

    def _single(self, term: tuple[tuple[Atom, ...], int], target: Int) -> bool:
        power, c = term
        inner = [a for a in power if self._mentions(a)]
        scale = polynomial({tuple(a for a in power if a is not inner[0]): c}) if len(inner) == 1 else None
        if scale is None:
            return False
        if scale is not lift(1):
            value = -target if scale is lift(-1) else div(target, scale)
            self.equations.append((as_int(inner[0]), value))
            return True
        atom = inner[0]
        if atom.kind == "sym":
            self.solved[atom] = target
            return True
        if atom.kind in ("div", "mod"):
            self.digits.setdefault((atom.args[0], atom.args[1]), {})[atom.kind] = target
            return True
        return False

    def _width(self, power: tuple[Atom, ...]) -> Int | None:
        """W with 0 <= the atom < W, for a lone atom."""
        if len(power) != 1:
            return None
        atom = power[0]
        if atom.kind == "mod":
            return atom.args[1]  # type: ignore[no-any-return]
        if atom.kind == "sym" and atom.low == 0 and atom.high is not None:
            return lift(atom.high + 1)
        return self.extents.get(atom)

    def _guess(self, others: Int) -> Int | None:
        """The known factor of a lone other term: what the remaining digit should stay below."""
        if len(others.terms) != 1:
            return None
        power, c = others.terms[0]
        known = tuple(a for a in power if not self._mentions(a))
        return polynomial({known: abs(c)}) if known or abs(c) > 1 else None

    def _pairs(self) -> bool:
        """x div d = u and x mod d = v give x = u*d + v; also with (y div e) for x and y div (e*d) for u."""
        found = False
        for (x, d), parts in list(self.digits.items()):
            if "mod" not in parts:
                continue
            high = parts.get("div")
            inner = x.atom
            if high is None and inner is not None and inner.kind == "div":
                high = self.digits.get((inner.args[0], inner.args[1] * d), {}).get("div")
            if high is not None and "done" not in parts:
                parts["done"] = lift(1)
                self.equations.append((x, high * d + parts["mod"]))
                found = True
        return found


