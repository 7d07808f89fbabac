"""Facts about terms that need no solver: free symbols and binding depth, memoised per term."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from verifier.booleans import Bool, boolean, conj
from verifier.integers import Atom, Int, interned, polynomial, symbol, term_cache
from verifier.reals import Monomial, Real, RealAtom

EMPTY: frozenset[Atom] = frozenset()
_FREE, _LEVEL, _STATES, _PIVOTS, _CONDITIONS = (term_cache() for _ in range(5))


def children(term: Any) -> tuple[Any, ...]:
    """Direct subterms, binders included as plain tuples."""
    kind = type(term)  # asked hundreds of thousands of times in a proof, where a match on classes is slow
    if kind is Atom or kind is Bool or kind is RealAtom:
        return term.args  # type: ignore[no-any-return]
    if kind is Int:
        return tuple([a for power, _ in term.terms for a in power])
    if kind is Real:
        return tuple([m for m, _ in term.terms])
    if kind is Monomial:
        exponent = () if term.exponent is None else (term.exponent,)
        return (term.guard, *[a for a, _ in term.factors], *exponent)
    return term if kind is tuple else ()


def free(term: Any) -> frozenset[Atom]:
    """The symbols a term depends on, bound ones excluded."""
    found = _FREE.get(term)
    if found is None:
        found = _free(term)
        if not isinstance(term, tuple):
            _FREE[term] = found
    return found


def _free(term: Any) -> frozenset[Atom]:
    kind = type(term)
    if kind is Atom and term.kind == "sym":
        return frozenset((term,))
    if kind is RealAtom and term.kind == "sum":
        return free(term.args[1:]) - frozenset(term.args[0])
    if kind is RealAtom and term.kind == "max":
        return EMPTY.union(*[free(m[1:]) - frozenset(m[0]) for m in term.args[0]])
    if kind is Bool and term.kind == "exists":
        return free(term.args[1]) - free(term.args[0])
    return EMPTY.union(*[free(c) for c in children(term) if not isinstance(c, (str, int))])


def level(term: Any) -> int:
    """One more than the deepest canonical bound symbol inside (0 when nothing is bound)."""
    if isinstance(term, tuple):
        return max(map(level, term), default=0)
    if isinstance(term, Atom) and term.kind == "sym":
        return int(term.name[1:].split(".")[0]) + 1 if term.name.startswith("%") else 0
    if not isinstance(term, (Int, Bool, Real, RealAtom, Monomial, Atom)):
        return 0
    found = _LEVEL.get(term)
    if found is None:
        found = _LEVEL[term] = level(children(term))
    return found


def fresh(stem: str = "~", low: int | None = None, high: int | None = None) -> Atom:
    """A symbol used nowhere else: no name of a candidate or spec has a '!' in it."""
    number = interned(("fresh", object()), lambda serial: serial)
    return atom_of(symbol(f"{stem}!{number}", low, high))


def atom_of(x: Int) -> Atom:
    atom = x.atom
    if atom is None:
        raise ValueError(f"{x!r} is not a single symbol")
    return atom


def as_int(v: Atom) -> Int:
    return polynomial({(v,): 1})


def unbounded_range(v: Atom) -> Bool:
    """The static bounds of v as explicit literals (built so that they do not fold to true)."""
    parts = []
    if v.low is not None:
        parts.append(boolean("ge", as_int(v) - v.low))
    if v.high is not None:
        parts.append(boolean("ge", -as_int(v) + v.high))
    return conj(parts)


def states(term: Any) -> tuple[Any, ...]:
    """The loop-state atoms in a term: reals of kind state or new, booleans of kind state. By serial."""
    found = _STATES.get(term)
    if found is None:
        own = isinstance(term, (RealAtom, Bool)) and term.kind in ("state", "new")
        found = _gathered(states, term, own)
        if not isinstance(term, tuple):
            _STATES[term] = found
    return found


def pivots(term: Any) -> tuple[RealAtom, ...]:
    """The pivots of solved loops in a term, by serial."""
    found = _PIVOTS.get(term)
    if found is None:
        found = _gathered(pivots, term, isinstance(term, RealAtom) and term.kind == "pivot")
        if not isinstance(term, tuple):
            _PIVOTS[term] = found
    return found


def conditions(term: Any) -> tuple[Bool, ...]:
    """The opaque comparisons of reals in a term, the outermost ones, by serial."""
    found = _CONDITIONS.get(term)
    if found is None:
        own = isinstance(term, Bool) and term.kind == "real"
        found = (term,) if own else _gathered(conditions, term, False)
        if not isinstance(term, tuple):
            _CONDITIONS[term] = found
    return found


def _gathered(collect: Callable[[Any], tuple[Any, ...]], term: Any, own: bool) -> tuple[Any, ...]:
    """In the order of serials, not of a set, so that what is built from it is the same in every process."""
    parts = [found for c in children(term) if not isinstance(c, (str, int)) and (found := collect(c))]
    if own:
        parts.append((term,))
    return parts[0] if len(parts) == 1 else tuple(sorted(dict.fromkeys(chain(*parts)), key=lambda x: x.serial))
