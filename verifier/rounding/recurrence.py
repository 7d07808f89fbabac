"""What a bound of a carried value becomes after any number of iterations.

One iteration turns a bound u into next(u), a formula monotone in u. Two shapes are solved, by induction over the
iterations, of which there are at most n:

    next(u) <= max(u + g, h)    gives    max(start, h) + n g
    next(u) <= f u + c          gives    (start + n c) max(1, f)^n
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ir import error_formula as f
from ir.error_formula import Formula
from verifier.rounding.errors import Unbounded


def unknown(kind: str, name: str) -> Formula:
    return f.leaf("unknown", f"{kind} {name}")


def unknowns(x: Formula) -> set[Formula]:
    return {f.leaf(kind, name) for kind, name in f.leaves(x) if kind == "unknown"}


@dataclass(frozen=True, slots=True)
class Update:
    """`start`: a bound before the loop; `after`: one after an iteration, in unknowns. `adds`: growth by a summand is
    looked for before growth by a factor."""

    name: str
    start: Formula
    after: Formula
    adds: bool


def solved(updates: Mapping[Formula, Update], trips: Formula | None) -> dict[Formula, Formula]:
    """A bound for each unknown that holds before and after every iteration. Raises Unbounded when unknowns hang on
    each other, when there is no bound of the number of iterations and one is needed, or when an update has neither
    shape."""
    found: dict[Formula, Formula] = {}
    left = dict(updates)
    while left:
        after = {u: f.substituted(x.after, found) for u, x in left.items()}
        ready = [u for u in left if unknowns(after[u]) & left.keys() <= {u}]
        if not ready:
            names = sorted({x.name for x in left.values()})
            raise Unbounded(f"the errors of {', '.join(names)} grow with each other")
        for u in ready:
            found[u] = _closed(left.pop(u), u, after[u], trips)
    return found


def _closed(x: Update, u: Formula, after: Formula, trips: Formula | None) -> Formula:
    name, start = x.name, x.start
    shape = _largest_sum(after, u)
    if shape is not None and (x.adds or shape[0] is f.ZERO):
        grows, level = shape
        return f.add(f.maximum(start, level), f.mul(_count(name, trips), grows) if grows is not f.ZERO else f.ZERO)
    line = _affine(after, u)
    if line is None:
        raise Unbounded(f"how the error of {name} grows in an iteration has no closed form")
    factor, summand = line
    value = f.constant(factor)
    if value is not None and value <= 1.0:
        return start if summand is f.ZERO else f.add(start, f.mul(_count(name, trips), summand))
    n = _count(name, trips)
    return f.mul(f.add(start, f.mul(n, summand)), f.power(f.maximum(f.ONE, factor), n))


def _count(name: str, trips: Formula | None) -> Formula:
    if trips is None:
        raise Unbounded(f"the number of iterations that add to the error of {name} is not bounded by sizes")
    return trips


def _largest_sum(x: Formula, u: Formula) -> tuple[Formula, Formula] | None:
    """(g, h) with x <= max(u + g, h); g is 0 and h is x where x is free of u."""
    if x is u:
        return f.ZERO, f.ZERO
    if u not in unknowns(x):
        return f.ZERO, x
    if x.op == "max":
        parts = [_largest_sum(a, u) for a in x.args]
        if any(p is None for p in parts):
            return None
        return f.maximum(*(p[0] for p in parts if p)), f.maximum(*(p[1] for p in parts if p))
    if x.op == "add":
        having = [a for a in x.args if u in unknowns(a)]
        rest = f.add(*(a for a in x.args if a not in having))
        inner = _largest_sum(having[0], u) if len(having) == 1 else None
        return None if inner is None else (f.add(inner[0], rest), f.add(inner[1], rest))
    return None


def _affine(x: Formula, u: Formula) -> tuple[Formula, Formula] | None:
    """(a, c) with x <= a u + c."""
    if x is u:
        return f.ONE, f.ZERO
    if u not in unknowns(x):
        return f.ZERO, x
    if x.op in ("max", "add"):
        parts = [_affine(a, u) for a in x.args]
        if any(p is None for p in parts):
            return None
        join = f.maximum if x.op == "max" else f.add
        return join(*(p[0] for p in parts if p)), join(*(p[1] for p in parts if p))
    if x.op == "mul":
        having = [a for a in x.args if u in unknowns(a)]
        rest = f.mul(*(a for a in x.args if a not in having))
        inner = _affine(having[0], u) if len(having) == 1 else None
        return None if inner is None else (f.mul(inner[0], rest), f.mul(inner[1], rest))
    return None
