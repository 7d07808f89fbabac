"""The normal form of integers and conditions says what the term says: checked against enumeration."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from term_values import Values, number, truth

from verifier import booleans as logic
from verifier import integers as z
from verifier.booleans import Bool
from verifier.domains import merge_pair
from verifier.elimination import exists
from verifier.integers import Int
from verifier.smt import Context, Ledger, Prover
from verifier.terms import as_int, atom_of

Value = Callable[[Values], Any]
RANGES = {"x": (-7, 7), "y": (0, 5), "w": (1, 4)}  # y and w carry their bounds as static ones, x none


def everywhere() -> list[dict[str, int]]:
    spans = [range(low, high + 1) for low, high in RANGES.values()]
    return [dict(zip(RANGES, point, strict=True)) for point in product(*spans)]


def symbols() -> dict[str, Int]:
    return {n: z.symbol(n) if n == "x" else z.symbol(n, low, high) for n, (low, high) in RANGES.items()}


# A recipe builds the term with our constructors and computes its value with Python's integers.
Recipe = tuple[Callable[[], Int], Value]


def leaf(name: str) -> Recipe:
    return (lambda: symbols()[name]), (lambda at: at[name])


def literal(k: int) -> Recipe:
    return (lambda: z.lift(k)), (lambda at: k)


def combined(op: str, a: Recipe, b: Recipe) -> Recipe:
    build = {"+": lambda p, q: p + q, "-": lambda p, q: p - q, "*": lambda p, q: p * q}
    build |= {"min": z.minimum, "max": z.maximum}
    value = {"+": lambda p, q: p + q, "-": lambda p, q: p - q, "*": lambda p, q: p * q, "min": min, "max": max}
    return (lambda: build[op](a[0](), b[0]())), (lambda at: value[op](a[1](at), b[1](at)))


def divided(op: str, a: Recipe, d: Recipe) -> Recipe:
    build = z.div if op == "//" else z.mod
    return (lambda: build(a[0](), d[0]())), (lambda at: a[1](at) // d[1](at) if op == "//" else a[1](at) % d[1](at))


def chosen(c: Recipe, a: Recipe, b: Recipe) -> Recipe:
    term = lambda: logic.choose(logic.ge0(c[0]()), a[0](), b[0]())  # noqa: E731
    return term, (lambda at: a[1](at) if c[1](at) >= 0 else b[1](at))


DIVISORS = st.one_of(
    st.integers(1, 6).map(literal),
    st.just(leaf("w")),
    st.integers(2, 4).map(lambda k: combined("*", literal(k), leaf("w"))),
)
LEAVES = st.one_of(st.sampled_from(["x", "y", "w"]).map(leaf), st.integers(-9, 9).map(literal))
RECIPES: st.SearchStrategy[Recipe] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(combined, st.sampled_from(["+", "-", "*", "min", "max"]), inner, inner),
        st.builds(divided, st.sampled_from(["//", "%"]), inner, DIVISORS),
        st.builds(chosen, inner, inner, inner),
    ),
    max_leaves=8,
)
POINTS = everywhere()[::7]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(RECIPES)
def test_normal_form_keeps_the_value(recipe: Recipe) -> None:
    z.reset()
    term = recipe[0]()
    for at in POINTS:
        assert number(term, at) == recipe[1](at), (term, at)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(RECIPES)
def test_comparisons_keep_their_truth(recipe: Recipe) -> None:
    z.reset()
    term = recipe[0]()
    at_least, zero = logic.ge0(term), logic.eq0(term)
    for at in POINTS:
        value = recipe[1](at)
        assert truth(at_least, at) == (value >= 0), (at_least, at)
        assert truth(logic.negate(at_least), at) == (value < 0)
        assert truth(zero, at) == (value == 0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(RECIPES)
def test_static_interval_holds_every_value(recipe: Recipe) -> None:
    z.reset()
    low, high = z.interval(recipe[0]())
    for at in POINTS:
        value = recipe[1](at)
        assert (low is None or low <= value) and (high is None or value <= high)


# ---- quantifiers --------------------------------------------------------------------------------

# k*v + a*x + c >= 0, where v may stand inside a quotient by a literal
LITERALS = st.tuples(st.integers(-3, 3).filter(bool), st.integers(-2, 2), st.integers(-9, 9), st.integers(1, 4))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(LITERALS, min_size=1, max_size=3), st.lists(LITERALS, max_size=2), st.integers(0, 6))
def test_exists_agrees_with_enumeration(
    parts: list[tuple[int, int, int, int]], either: list[tuple[int, int, int, int]], high: int
) -> None:
    z.reset()
    x, v = z.symbol("x"), z.symbol("v", 0, high)

    def condition(part: tuple[int, int, int, int], x: Int, v: Int) -> Bool:
        k, a, c, d = part
        return logic.ge0(k * z.div(v, z.lift(d)) + a * x + c)

    guard = logic.conj(condition(p, x, v) for p in parts)
    if either:
        guard = guard & logic.disj(condition(p, x, v) for p in either)
    found = exists((atom_of(v),), guard)
    for value in range(-6, 7):
        values = range(high + 1)
        wanted = any(
            all(k * (n // d) + a * value + c >= 0 for k, a, c, d in parts)
            and (not either or any(k * (n // d) + a * value + c >= 0 for k, a, c, d in either))
            for n in values
        )
        assert truth(found, {"x": value}) == wanted, (found, value)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(-6, 6).filter(bool), st.sampled_from([1, -1]), st.integers(0, 5), st.integers(-4, 4))
def test_a_tiled_index_is_a_bijection(a: int, s: int, high: int, offset: int) -> None:
    z.reset()
    x, y, whole = z.symbol("x"), z.symbol("y", 0, high), z.symbol("whole")
    mapping = merge_pair(atom_of(x), atom_of(y), a * x + s * y + offset, whole)
    if high >= abs(a):
        assert mapping is None  # two pairs would have one index
        return
    assert mapping is not None
    for n, lane in product(range(-5, 6), range(high + 1)):
        at = {"whole": s * (a * n + s * lane + offset)}
        assert number(mapping[atom_of(x)], at) == n and number(mapping[atom_of(y)], at) == lane


def test_a_tiled_index_whose_lane_may_be_negative_is_left_alone() -> None:
    z.reset()
    x, y = z.symbol("x"), z.symbol("y", -1, 2)
    assert merge_pair(atom_of(x), atom_of(y), 4 * x + y, z.symbol("whole")) is None


# ---- the solver ---------------------------------------------------------------------------------


def context(*facts: Bool) -> Context:
    return Context(Prover(Ledger()), facts)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(RECIPES, RECIPES)
def test_what_is_entailed_holds_at_every_point(premise: Recipe, claim: Recipe) -> None:
    z.reset()
    inside = logic.conj(logic.le(low, symbols()["x"]) & logic.le(symbols()["x"], high) for low, high in [RANGES["x"]])
    if context(inside, logic.ge0(premise[0]())).entails(logic.ge0(claim[0]())):
        assert all(claim[1](at) >= 0 for at in POINTS if premise[1](at) >= 0)


def test_a_condition_on_a_bound_symbol_has_no_single_truth_value() -> None:
    """some X[v] > 0 among the first two cells does not make one positive among the others."""
    from verifier import reals
    from verifier.signs import compare

    z.reset()
    v = z.symbol("%0")
    positive = compare("gt", reals.read("X", (v,)))
    first = exists((atom_of(v),), logic.conj((logic.ge0(v), logic.ge0(1 - v), positive)))
    others = exists((atom_of(v),), logic.conj((logic.ge0(v - 2), logic.ge0(3 - v), positive)))
    assert not context(first).entails(others)
    assert context(first).entails(first)


def test_products_with_a_bound_symbol_have_no_single_value() -> None:
    """v*x >= 5 for some v in 1..9 is not v*x >= 5 for some v in 1..1."""
    z.reset()
    x, v = z.symbol("x", 1, None), z.symbol("v")
    wide = logic.boolean("exists", (v,), logic.conj((logic.ge0(v - 1), logic.ge0(9 - v), logic.ge0(v * x - 5))))
    narrow = logic.boolean("exists", (v,), logic.conj((logic.ge0(v - 1), logic.ge0(1 - v), logic.ge0(v * x - 5))))
    assert not context(wide).entails(narrow)


def test_an_empty_domain_proves_nothing_outside_it() -> None:
    """5 <= v <= 3 of a bound symbol is false inside its quantifier, not a fact."""
    from verifier import reals
    from verifier.binders import substitute
    from verifier.signs import compare

    z.reset()
    x, v = z.symbol("x"), z.symbol("v")
    body = logic.conj((logic.ge0(v - 5), logic.ge0(3 - v), compare("gt", reals.read("X", (v, x)))))
    nothing = substitute(logic.boolean("exists", (v,), body), {atom_of(x): z.symbol("y")})
    assert not context(logic.negate(nothing)).entails(logic.FALSE)
    assert not context(logic.disj((nothing, logic.ge0(x)))).entails(logic.FALSE)


def test_unknown_entails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """x*y*y == 7*w*w*w + 1 is left open under a tiny limit, whatever the answer."""
    from verifier import smt

    z.reset()
    monkeypatch.setattr(smt, "RESOURCE_LIMIT", 1)
    x, y, w = z.symbol("x", 1, None), z.symbol("y", 1, None), z.symbol("w", 1, None)
    hard = logic.equal(x * y * y, 7 * w * w * w + 1)
    assert not context(hard).entails(logic.FALSE)
    assert context(hard).decide(logic.ge0(x - 5)) is None
    assert as_int(atom_of(x)) is x
