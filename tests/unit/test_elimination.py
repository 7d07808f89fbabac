"""Elimination of bound symbols says what the quantifier says: against enumeration, and where a rule must not fire."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from term_values import truth

from verifier import integers as z
from verifier.booleans import Bool, conj, eq0, ge0, lt
from verifier.elimination import at_most_one, exists
from verifier.integers import Int, interval
from verifier.terms import atom_of

Symbols = Mapping[str, Int]
Literal = Callable[[Symbols], Bool]
VALUES = range(0, 25)  # of v, which every guard here keeps at 0 or above
SMALL = st.integers(-3, 3)


def symbols() -> dict[str, Int]:
    """v is bound, x any integer, L a length that may be 0, n a number of blocks."""
    return {"v": z.symbol("v"), "x": z.symbol("x"), "L": z.symbol("L", 0), "n": z.symbol("n", 0)}


def points() -> Iterator[dict[str, int]]:
    yield from ({"x": x, "L": length, "n": n} for x, length, n in product(range(-6, 22), range(4), (0, 1, 3)))


def linear(k: int, a: int, c: int) -> Literal:
    return lambda s: ge0(k * s["v"] + a * s["x"] + c)


def scaled(k: int, b: int, a: int, c: int) -> Literal:
    """k*L*v + b*L + a*x + c >= 0."""
    return lambda s: ge0(k * s["L"] * s["v"] + b * s["L"] + a * s["x"] + c)


def blocked(k: int, a: int, c: int, d: int, e: int) -> Literal:
    """k * ((a*v + min(x, L*v + c)) div d) + e*v + x >= 0: v in a quotient, and beside it."""

    def at(s: Symbols) -> Bool:
        inner = a * s["v"] + z.minimum(s["x"], s["L"] * s["v"] + c)
        return ge0(k * z.div(inner, z.lift(d)) + e * s["v"] + s["x"])

    return at


def digit(a: int, w: int, t: int, sign: int) -> Literal:
    """(x - sign*a*v) mod (a*w) <= t."""
    return lambda s: ge0(t - z.mod(s["x"] - sign * a * s["v"], z.lift(a * w)))


def started(a: int, w: int) -> Literal:
    """(x - a*v) div (a*w) >= 0: the first block of residue v is not before it."""
    return lambda s: ge0(z.div(s["x"] - a * s["v"], z.lift(a * w)))


def turned(k: int, c: int) -> Literal:
    """k*x*v + L + c >= 0: x may have either sign, or be 0."""
    return lambda s: ge0(k * s["x"] * s["v"] + s["L"] + c)


def below_n(k: int) -> Literal:
    return lambda s: lt(k * s["v"], s["n"])


LITERALS = st.one_of(
    st.builds(linear, SMALL.filter(bool), SMALL, st.integers(-9, 9)),
    st.builds(scaled, st.sampled_from([-2, -1, 1, 2]), SMALL, SMALL, st.integers(-6, 6)),
    st.builds(blocked, SMALL.filter(bool), SMALL, SMALL, st.integers(1, 4), st.integers(-2, 2)),
    st.builds(digit, st.integers(1, 4), st.integers(1, 4), st.integers(0, 4), st.sampled_from([1, -1])),
    st.builds(started, st.integers(1, 4), st.integers(1, 4)),
    st.builds(turned, st.sampled_from([-1, 1]), st.integers(-6, 6)),
    st.builds(below_n, st.integers(1, 3)),
)


def guard_of(parts: list[Literal], high: int | None) -> Bool:
    s = symbols()
    limits = (ge0(s["v"]), *(() if high is None else (ge0(high - s["v"]),)))
    return conj((*limits, *(p(s) for p in parts)))


def holds(guard: Bool, at: Mapping[str, int]) -> list[int]:
    return [v for v in VALUES if truth(guard, {**at, "v": v})]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(LITERALS, min_size=1, max_size=4), st.integers(0, 9))
def test_exists_says_what_the_quantifier_says(parts: list[Literal], high: int) -> None:
    z.reset()
    guard = guard_of(parts, high)
    found = exists((atom_of(symbols()["v"]),), guard)
    for at in points():
        assert truth(found, at) == bool(holds(guard, at)), (guard, found, at)


@settings(max_examples=70, deadline=None, derandomize=True)
@given(st.lists(LITERALS, min_size=1, max_size=3), st.integers(0, 9))
def test_at_most_one_is_never_wrong(parts: list[Literal], high: int) -> None:
    z.reset()
    guard = guard_of(parts, high)
    if at_most_one(atom_of(symbols()["v"]), guard):
        for at in points():
            assert len(holds(guard, at)) <= 1, (guard, at)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 3), st.sampled_from([1, -1]), st.booleans())
def test_the_least_digit_below_a_symbolic_bound(a: int, w: int, t: int, sign: int, starts: bool) -> None:
    """v < n only: more than one v may have the digit, and the least decides."""
    z.reset()
    guard = guard_of([digit(a, w, t, sign), below_n(1), *([started(a, w)] if starts else [])], None)
    found = exists((atom_of(symbols()["v"]),), guard)
    assert t >= a or found.kind != "exists"
    for at in points():
        assert truth(found, at) == bool(holds(guard, at)), (guard, found, at)


# ---- splits of a range ----------------------------------------------------------------------------


def split(first: Callable[[Symbols], Int], end: Callable[[Symbols], Int], count: int = 4) -> tuple[Bool, Bool, bool]:
    """first(v) <= x < end(v) for a split 0 <= v < count: the guard, the union, and whether splits are disjoint."""
    z.reset()
    s = symbols()
    v = atom_of(s["v"])
    guard = conj((ge0(s["v"]), lt(s["v"], z.lift(count)), ge0(s["x"] - first(s)), lt(s["x"], end(s))))
    return guard, exists((v,), guard), at_most_one(v, guard)


def test_splits_of_a_symbolic_length_tile_the_range() -> None:
    _, union, disjoint = split(lambda s: s["L"] * s["v"], lambda s: s["L"] * s["v"] + s["L"])
    assert disjoint and "exists" not in repr(union)
    for at in points():
        assert truth(union, at) == (0 <= at["x"] < 4 * at["L"])


def test_splits_of_rounded_blocks_tile_the_range() -> None:
    """Chunks of n blocks of 2, the last block of a chunk cut by its end; n = 0 leaves nothing."""
    _, union, disjoint = split(
        lambda s: 2 * s["n"] * s["v"], lambda s: 2 * z.minimum(s["n"] * s["v"] + s["n"], s["n"] + 5)
    )
    assert disjoint and "exists" not in repr(union)
    for at in points():
        assert truth(union, at) == (0 <= at["x"] < min(8 * at["n"], 2 * at["n"] + 10 if at["n"] else 0))


OVERLAP = (lambda s: s["L"] * s["v"], lambda s: s["L"] * s["v"] + s["L"] + 1)
GAP = (lambda s: s["L"] * s["v"] + 1, lambda s: s["L"] * s["v"] + s["L"])
UNKNOWN = (lambda s: s["x"] * s["v"], lambda s: s["x"] * s["v"] + s["x"])  # x may be negative


def test_overlapping_splits_are_not_disjoint() -> None:
    guard, union, disjoint = split(*OVERLAP)
    assert not disjoint
    assert all(truth(union, at) == bool(holds(guard, at)) for at in points())


def test_splits_with_a_gap_do_not_tile_the_range() -> None:
    guard, union, _ = split(*GAP)
    assert all(truth(union, at) == bool(holds(guard, at)) for at in points())
    assert not truth(union, {"x": 3, "L": 3, "n": 0}) and truth(union, {"x": 4, "L": 3, "n": 0})


def test_a_factor_of_unknown_sign_gives_a_case_for_each_sign() -> None:
    guard, union, disjoint = split(*UNKNOWN)
    assert disjoint and "exists" not in repr(union)
    assert all(truth(union, at) == bool(holds(guard, at)) for at in points())


def test_a_square_of_the_symbol_is_left_to_the_solver() -> None:
    guard, union, disjoint = split(lambda s: s["v"] * s["v"], lambda s: s["v"] * s["v"] + 2)
    assert not disjoint and "exists" in repr(union)
    assert all(truth(union, at) == bool(holds(guard, at)) for at in points())


@pytest.mark.parametrize(("t", "high"), [(4, 3), (3, 4)], ids=["two digits fit", "the digit may be 0 or 4"])
def test_no_digit_where_two_values_may_have_it(t: int, high: int) -> None:
    z.reset()
    guard = guard_of([digit(4, 4, t, 1), started(4, 4)], high)
    assert not at_most_one(atom_of(symbols()["v"]), guard)
    assert any(len(holds(guard, at)) > 1 for at in points())


# ---- bounds that a symbol carries itself ---------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_elimination_of_a_bounded_symbol_agrees_with_enumeration(seed: int) -> None:
    """Also where the symbol has one value only, and where others carry bounds from which its own seem to follow."""
    rng = random.Random(seed)
    for _ in range(60):
        z.reset()
        low, high = rng.choice([(0, 0), (0, 1), (0, 3), (1, 2), (0, 5)])
        v, x = z.symbol("v", low, high), z.symbol("x")
        w, k = z.symbol("w", 0, rng.choice([0, 1, 3])), z.symbol("k", rng.choice([None, 0, 1]), None)
        guard = conj(_literal(rng, v, x, w, k) for _ in range(rng.randint(1, 4)))
        found = exists((atom_of(v),), guard)
        for value, inside, factor in product((-3, -1, 0, 1, 2, 5), range(interval(w)[1] + 1), (-2, 0, 1, 3)):
            if factor < (-9 if interval(k)[0] is None else interval(k)[0]) or "exists" in repr(found):
                continue
            at = {"x": value, "w": inside, "k": factor}
            wanted = any(truth(guard, {**at, "v": n}) for n in range(low, high + 1))
            assert truth(found, at) == wanted, (guard, found, at)


def _literal(rng: random.Random, v: Int, x: Int, w: Int, k: Int) -> Bool:
    halves = (z.div(v, z.lift(2)), z.mod(v, z.lift(4)), z.minimum(v, x), z.maximum(v, w), v * k, v, v)
    term = rng.choice(halves) * rng.choice([-3, -1, 1, 2]) + x * rng.choice([0, 1, -1]) + w * rng.choice([0, 0, 1, -1])
    term = term + k * rng.choice([0, 0, 1, -1]) + rng.randint(-3, 3)
    return eq0(term) if rng.random() < 0.2 else ge0(term)
