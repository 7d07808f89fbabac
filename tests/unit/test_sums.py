"""Rules of reals and of sums: each has a case where it applies and one where it must not, and what the
constructors build is worth what it was built from, by enumeration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from term_values import PARAMETER, cell, real, truth

from verifier import booleans as logic
from verifier import integers as z
from verifier import reals
from verifier.binders import make_max, make_sum, substitute
from verifier.booleans import Bool
from verifier.domains import fixed_quotient
from verifier.elimination import exists
from verifier.integer_reals import spread
from verifier.integers import Int
from verifier.reals import Real, number, of, real_atom
from verifier.signs import compare
from verifier.simplify import Simplifier
from verifier.smt import Context, Ledger, Prover
from verifier.terms import atom_of


@pytest.fixture(autouse=True)
def fresh_terms() -> None:
    z.reset()


def context(*facts: Bool) -> Context:
    return Context(Prover(Ledger()), facts)


def read(*index: Int | int) -> Real:
    return reals.read("X", tuple(map(z.lift, index)))


X, Y, S = (lambda: read(0)), (lambda: read(1)), (lambda: reals.parameter("scale", 0.5, 2))


# ---- reals --------------------------------------------------------------------------------------


def test_ring() -> None:
    x, y = X(), Y()
    assert (x + y) * (x - y) is x * x - y * y
    assert x * y is not x + y and x - y is not y - x


def test_exp_mul() -> None:
    x, y = X(), Y()
    assert reals.exp(x) * reals.exp(y) is reals.exp(x + y)
    assert reals.exp(x) * reals.exp(-x) is number(1)
    assert reals.exp(x) + reals.exp(y) is not reals.exp(x + y)


def test_exp_log() -> None:
    x = X()
    assert reals.exp(reals.log(x) * number(2)) is x * x
    assert reals.exp(reals.log(x) * number(Fraction(1, 2))) is not x
    assert reals.exp(reals.log(x) * S()) is not x


def test_int_ring() -> None:
    i, j, s = z.symbol("i"), z.symbol("j"), read(3)
    apart = s * reals.of_int(i) - s * reals.of_int(j) * number(2)
    assert reals.exp(s * reals.of_int(i - j * 2)) is reals.exp(apart)
    assert spread(reals.of_int(z.div(j, z.lift(32))) * number(32) + reals.of_int(z.mod(j, z.lift(32)))) is (
        reals.of_int(j)
    )
    assert spread(reals.of_int(i * j)) is reals.of_int(i) * reals.of_int(j)
    assert reals.exp(s * reals.of_int(z.maximum(i, j))) is not reals.exp(s * reals.of_int(i))
    assert spread(reals.power(reals.of_int(i + j), -1)) is not (
        reals.power(reals.of_int(i), -1) + reals.power(reals.of_int(j), -1)
    )
    half = reals.of_int(z.div(j, z.lift(32))) * number(16) + reals.of_int(z.mod(j, z.lift(32)))
    assert spread(half) is half  # not the quotient times its divisor


def test_int_abs() -> None:
    i, j = z.symbol("i"), z.symbol("j")
    apart = reals.of_int(i) - reals.of_int(j)
    assert reals.function("abs", apart) is reals.of_int(z.maximum(i - j, j - i))
    for x in (apart * number(Fraction(1, 2)), apart + X(), reals.guarded(logic.ge0(i), apart)):
        found = reals.function("abs", x).atom
        assert found is not None and found.kind == "fn"


def test_log_mul() -> None:
    x, y = X(), Y()
    assert reals.log(reals.exp(y) * x) is y + reals.log(x)
    assert reals.log(x * y) is not reals.log(x) + reals.log(y)  # both may be negative
    assert reals.log(x * x) is not reals.log(x) * number(2)  # x may be negative
    assert reals.log(x * number(-3)).atom is not None  # no log of a negative literal is split off


def test_inv() -> None:
    x, y = X(), Y()
    assert x * reals.power(x, -1) is number(1)  # the division it came from owes x != 0
    assert reals.power(x + y, -1) * x is not number(1)
    guarded = reals.guarded(logic.ge0(z.symbol("n")), x)
    assert guarded * reals.power(guarded, -1) is not number(1)  # it is 0 where the guard fails


def test_inv_of_a_sum_moves_out_what_its_terms_share() -> None:
    x, y, m = X(), Y(), read(2)
    plain = reals.power(x + reals.exp(y), -1)
    assert reals.power(x * reals.exp(-m) + reals.exp(y - m), -1) is plain * reals.exp(m)
    assert reals.power(number(3) * x * m + reals.exp(y) * number(3) * m, -1) is plain * reals.power(m, -1) * number(
        Fraction(1, 3)
    )
    assert reals.power(x * reals.exp(-m) + reals.exp(y), -1) is not plain * reals.exp(m)  # one term lacks exp(-m)
    seen = reals.guarded(logic.ge0(z.symbol("n")), m)
    assert reals.power(seen * x + seen * y, -1) is not reals.power(seen, -1) * reals.power(x + y, -1)


def test_log_of_a_sum_moves_out_exponentials_and_positive_constants_only() -> None:
    x, y, m = X(), Y(), read(2)
    plain = reals.log(x + reals.exp(y))
    assert reals.log(x * reals.exp(-m) + reals.exp(y - m)) is plain - m
    assert reals.log((x + reals.exp(y)) * S()) is plain + reals.log(S())
    assert reals.log((x + reals.exp(y)) * m) is not plain + reals.log(m)  # both may be negative
    assert reals.log((x + reals.exp(y)) * number(-2)) is not plain + reals.log(number(-2))
    assert reals.log(x * reals.exp(-m) + reals.exp(y)) is not plain - m


def test_max_pos() -> None:
    x, y = X(), Y()
    both = reals.maximum_of((((), logic.TRUE, x), ((), logic.TRUE, y)))
    scaled = reals.maximum_of((((), logic.TRUE, x * S()), ((), logic.TRUE, y * S())))
    assert scaled is both * S()
    unsigned = reals.parameter("bias", -1, 2)
    assert reals.maximum_of((((), logic.TRUE, x * unsigned), ((), logic.TRUE, y * unsigned))) is not both * unsigned


def test_a_maximum_of_a_negated_maximum_is_not_flattened() -> None:
    both = reals.maximum_of((((), logic.TRUE, X()), ((), logic.TRUE, Y())))
    assert make_max((), logic.TRUE, both * S()) is both * S()
    assert reals.scaled_max(-both) is None
    assert reals.scaled_max(both * reals.parameter("bias", -1, 2)) is None


def test_signs() -> None:
    n = z.symbol("n", 0, 3)
    assert compare("gt", reals.exp(X())) is logic.TRUE
    assert compare("gt", reals.guarded(logic.ge0(n - 1), reals.exp(X()))) is logic.ge0(n - 1)
    assert compare("gt", X()).kind == "real"
    assert compare("gt", reals.exp(X()) - reals.exp(Y())).kind == "real"
    assert compare("gt", of(reals.parameter("bias", -1, 2).terms[0][0].factors[0][0])).kind == "real"
    assert compare("ne", X() * X()) is ~compare("eq", X())


def test_a_sum_of_positives_is_positive_where_its_domain_is_not_empty() -> None:
    n, v = z.symbol("n"), z.symbol("v")
    total = make_sum((atom_of(v),), logic.conj((logic.ge0(v), logic.lt(v, n))), reals.exp(read(v)))
    assert compare("gt", total) is logic.ge0(n - 1)
    signed = make_sum((atom_of(v),), logic.conj((logic.ge0(v), logic.lt(v, n))), read(v))
    assert compare("gt", signed).kind == "real"


# ---- sums and maxima, by enumeration --------------------------------------------------------------

TERMS = st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(-3, 3))  # a*t + b*lane + c >= 0


def pairs(lanes: int) -> Iterator[tuple[int, int]]:
    return ((t, lane) for t in range(-3, 4) for lane in range(lanes))


def built(
    lanes: int, index: tuple[int, int, int], guards: list[tuple[int, int, int]]
) -> tuple[tuple[z.Atom, z.Atom], Bool, Int, list[tuple[int, int]]]:
    """A domain over an iteration t in -3..3 and a lane, the index read there, and its points."""
    t, lane = z.symbol("t"), z.symbol("lane", 0, lanes - 1)
    guard = logic.conj((logic.ge0(t + 3), logic.ge0(3 - t), *(logic.ge0(a * t + b * lane + c) for a, b, c in guards)))
    inside = [(n, k) for n, k in pairs(lanes) if all(a * n + b * k + c >= 0 for a, b, c in guards)]
    a, b, c = index
    return (atom_of(t), atom_of(lane)), guard, a * t + b * lane + c, inside


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.tuples(*[st.integers(-5, 5)] * 3), st.lists(TERMS, max_size=2), st.booleans())
def test_sums_are_worth_what_they_add_up(
    lanes: int, index: tuple[int, int, int], guards: list[tuple[int, int, int]], weighted: bool
) -> None:
    z.reset()
    variables, guard, place, inside = built(lanes, index, guards)
    body = read(place) * (reals.exp(read(place) * S()) if weighted else number(1))
    total = make_sum(variables, guard, body)
    a, b, c = index
    cells = [cell("X", (a * n + b * k + c,)) for n, k in inside]
    wanted = math.fsum(x * math.exp(PARAMETER * x) if weighted else x for x in cells)
    assert real(total, {}) == pytest.approx(wanted, abs=1e-9)
    assert real(Simplifier().real(total, context()), {}) == pytest.approx(wanted, abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(2, 5), st.tuples(*[st.integers(-5, 5)] * 3), st.lists(TERMS, max_size=2))
def test_maxima_are_the_largest(lanes: int, index: tuple[int, int, int], guards: list[tuple[int, int, int]]) -> None:
    z.reset()
    variables, guard, place, inside = built(lanes, index, guards)
    largest = make_max(variables, guard, read(place) * S())
    a, b, c = index
    wanted = max((cell("X", (a * n + b * k + c,)) * PARAMETER for n, k in inside), default=-math.inf)
    assert truth(exists(variables, guard), {}) == bool(inside)
    if inside:
        assert real(largest, {}) == pytest.approx(wanted)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(-4, 4), st.integers(-4, 4), st.integers(-4, 4), st.integers(-4, 4))
def test_disjoint_domains_are_joined_and_others_are_not(a: int, b: int, c: int, d: int) -> None:
    z.reset()
    v = z.symbol("v")

    def over(low: int, high: int) -> Real:
        return make_sum((atom_of(v),), logic.conj((logic.ge0(v - low), logic.ge0(high - v))), read(v))

    both = Simplifier().real(over(a, b) + over(c, d), context())
    wanted = math.fsum(cell("X", (k,)) for k in (*range(a, b + 1), *range(c, d + 1)))
    assert real(both, {}) == pytest.approx(wanted, abs=1e-9)


def test_a_sum_over_the_product_of_two_bound_symbols_separates() -> None:
    i, j = z.symbol("i", 0, 3), z.symbol("j", 0, 2)
    apart = make_sum((atom_of(i), atom_of(j)), logic.TRUE, read(i) * reals.read("Y", (j,)))
    first = make_sum((atom_of(i),), logic.TRUE, read(i))
    assert apart is first * make_sum((atom_of(j),), logic.TRUE, reals.read("Y", (j,)))
    together = make_sum((atom_of(i), atom_of(j)), logic.ge0(i - j), read(i) * reals.read("Y", (j,)))
    wanted = math.fsum(cell("X", (p,)) * cell("Y", (q,)) for p in range(4) for q in range(3) if p >= q)
    assert real(together, {}) == pytest.approx(wanted)


def test_a_domain_that_depends_on_another_symbol_stays_with_it() -> None:
    """sum over i < 3, j < i: not 3 times anything."""
    i, j = z.symbol("i", 0, 2), z.symbol("j")
    inner = make_sum((atom_of(j),), logic.conj((logic.ge0(j), logic.lt(j, i))), read(j))
    total = make_sum((atom_of(i),), logic.TRUE, inner)
    assert real(total, {}) == pytest.approx(2 * cell("X", (0,)) + cell("X", (1,)))


def test_substitution_captures_nothing() -> None:
    """n := v in sum over v < 3 of X[v + n], where v is also the name of the bound symbol."""
    v, n = z.symbol("v", 0, 2), z.symbol("n")
    total = make_sum((atom_of(v),), logic.TRUE, read(v + n) * reals.exp(reals.of_int(n) * read(v)))
    for name in ("v", "%0", "%1"):
        moved = substitute(total, {atom_of(n): z.symbol(name)})
        wanted = math.fsum(cell("X", (k + 2,)) * math.exp(2 * cell("X", (k,))) for k in range(3))
        assert real(moved, {name: 2}) == pytest.approx(wanted)


# ---- simplification under premises ----------------------------------------------------------------


def test_equal_sums_need_equivalent_domains() -> None:
    n, m, v = z.symbol("n", 0, None), z.symbol("m", 0, None), z.symbol("v")

    def upto(stop: Int) -> Real:
        return make_sum((atom_of(v),), logic.conj((logic.ge0(v), logic.lt(v, stop))), read(v))

    one, other = upto(n), upto(m)
    for facts, same in (((logic.equal(n, m),), True), ((logic.le(n, m),), False), ((), False)):
        simplify, where = Simplifier(), context(*facts)
        assert (simplify.real(one - other, where) is number(0)) == same


def test_reads_are_equal_only_where_their_indices_are() -> None:
    n, m = z.symbol("n"), z.symbol("m")
    simplify = Simplifier()
    assert simplify.real(read(n) - read(m), context(logic.equal(n, m))) is number(0)
    assert simplify.real(read(n) - read(m), context(logic.le(n, m))) is not number(0)
    assert Simplifier().real(read(n) - reals.read("Y", (n,)), context()) is not number(0)


def test_a_bound_symbol_of_one_sum_is_not_that_of_another() -> None:
    """sum X[v]*Y[v] is not sum X[v] * sum Y[v], under simplification too."""
    v = z.symbol("v", 0, 2)
    product = make_sum((atom_of(v),), logic.TRUE, read(v) * reals.read("Y", (v,)))
    apart = make_sum((atom_of(v),), logic.TRUE, read(v)) * make_sum((atom_of(v),), logic.TRUE, reals.read("Y", (v,)))
    assert Simplifier().real(product - apart, context()) is not number(0)


def test_an_empty_maximum_says_nothing_of_its_value() -> None:
    n, v = z.symbol("n", 0, None), z.symbol("v")
    seen = logic.conj((logic.ge0(v), logic.lt(v, n)))
    largest = make_max((atom_of(v),), seen, read(v))
    assert Simplifier().real(largest - read(0), context()) is not number(0)
    assert exists((atom_of(v),), seen) is logic.ge0(n - 1)


def test_opaque_values_stay_apart() -> None:
    before, after = of(real_atom("pivot", "k.m", (z.lift(0),))), of(real_atom("pivot", "k.m", (z.lift(1),)))
    assert Simplifier().real(before - after, context()) is not number(0)


# ---- a fixed quotient ------------------------------------------------------------------------------


def grouped(quotient: Int, divisor: Int) -> Real:
    """The sum of X[h] over 0 <= h < G*4 with h div divisor = quotient."""
    h = z.symbol("h")
    groups = z.symbol("G", 1)
    inside = logic.conj((logic.ge0(h), logic.lt(h, groups * 4), logic.equal(z.div(h, divisor), quotient)))
    return make_sum((atom_of(h),), inside, read(h))


def test_heads_of_a_group_are_counted_from_its_first() -> None:
    g, r, ratio = z.symbol("g", 0), z.symbol("r", 0), z.symbol("ratio", 1)
    direct = make_sum((atom_of(r),), logic.conj((logic.lt(r, ratio), logic.lt(ratio * g + r, z.symbol("G", 1) * 4))),
                      read(ratio * g + r))  # fmt: skip
    given = context(logic.le(ratio * g + ratio, z.symbol("G", 1) * 4))
    assert Simplifier().real(grouped(g, ratio) - direct, given) is number(0)
    shifted = grouped(g + 1, ratio)
    assert Simplifier().real(shifted - direct, given) is not number(0)


def test_a_quotient_that_depends_on_the_symbol_itself_is_left_alone() -> None:
    h = z.symbol("h")
    assert fixed_quotient((atom_of(h),), logic.equal(z.div(h, z.lift(4)), h - 3)) is None
    assert fixed_quotient((atom_of(h),), logic.ge0(z.div(h, z.symbol("ratio", 1)) - 2)) is None
    assert fixed_quotient((atom_of(h),), logic.equal(z.div(h * 2, z.lift(4)), z.lift(3))) is None
