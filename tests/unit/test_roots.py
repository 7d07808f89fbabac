"""Square roots and counts in the normal form, and lower bounds of values as floats compute them: each rule
where it applies and where it must not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from term_values import real as value

from ir.ast import Span
from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.parser import parse
from ir.program import Binary, For, Let, Program, Unary
from ir.typing import check
from verifier import integers as z
from verifier import reals
from verifier.binders import make_sum
from verifier.booleans import TRUE, Bool, conj, equal, ge0, le, lt
from verifier.floors import NONE, Floors
from verifier.integers import Int
from verifier.obligations import definedness
from verifier.obligations import range as range_
from verifier.proof import analyse
from verifier.reals import Member, Real, number, power
from verifier.signs import compare
from verifier.simplify import Simplifier
from verifier.smt import Context, Ledger, Prover
from verifier.squares import nonnegative, positive, undominated
from verifier.terms import atom_of


@pytest.fixture(autouse=True)
def fresh_terms() -> None:
    z.reset()


def read(k: int) -> Real:
    return reals.read("X", (z.lift(k),))


def sqrt(x: Real) -> Real:
    return reals.function("sqrt", x)


def test_powers_of_a_root() -> None:
    for x in (read(0), read(0) * read(1), read(0) * read(0) + read(1), number(2)):
        s = sqrt(x)
        assert s * s is x
        assert power(s, 3) is s * x
        assert s * power(s, -1) is number(1)
        assert power(s, -2) is power(x, -1)
        assert power(s, -3) is power(s, -1) * power(x, -1)
    for x in (read(0), read(0) * read(0) + read(1)):
        assert sqrt(x) * power(x, -1) is power(sqrt(x), -1)
    assert power(read(0), -2) * power(sqrt(read(0)), 3) is power(sqrt(read(0)), -1)


@pytest.mark.parametrize("k", range(7))
def test_products_of_roots_are_worth_what_their_factors_are(k: int) -> None:
    y, size = read(1), reals.of_int(z.symbol("C", 1))
    scale = reals.parameter("scale", 1.0, 2.0)
    several = y * y + size * scale * number(3)
    x = (
        reals.exp(y), size, several, size * number(Fraction(2, 3)), scale * reals.exp(y) * power(size, -1),
        several * power(size, -2) * reals.exp(y), sqrt(several),
    )[k]  # fmt: skip
    at, other = {"C": 5}, sqrt(size)
    for roots in range(-3, 4):
        for whole in range(-2, 3):
            product = power(sqrt(x), roots) * power(x, whole) * power(other, roots)
            wanted = value(x, at) ** (roots / 2 + whole) * value(size, at) ** (roots / 2)
            assert value(product, at) == pytest.approx(wanted)


def test_a_root_is_not_what_it_is_the_root_of() -> None:
    x, y = read(0), read(1)
    assert sqrt(x) * sqrt(y) is not x
    assert sqrt(x * x) is not x  # x may be negative
    assert sqrt(x) is not power(sqrt(x), -1) and sqrt(x + y) is not sqrt(x) + sqrt(y)
    assert reals.function("tanh", x) * reals.function("tanh", x) is not x


def test_nested_roots() -> None:
    x = read(0)
    inner = sqrt(x)
    outer = sqrt(inner)
    assert power(outer, 4) is x and power(outer, 2) is inner
    assert power(outer, 2) * inner is x
    assert power(outer, 3) * power(inner, -1) is outer


def test_a_root_of_a_product_is_split_only_when_all_but_one_factor_are_positive() -> None:
    x, y, scale = read(0), read(1), reals.parameter("scale", 1e-6, 1e3)
    size = reals.of_int(z.symbol("C", 1))
    assert sqrt(scale * x) is sqrt(scale) * sqrt(x)
    assert sqrt(x * power(size, -1)) is sqrt(x) * power(sqrt(size), -1)
    assert sqrt(reals.exp(y) * x) is reals.exp(y * number(Fraction(1, 2))) * sqrt(x)
    assert sqrt(x * y) is not sqrt(x) * sqrt(y)  # both may be negative
    assert sqrt(-x) is not number(-1) * sqrt(x)
    free_sign, count = reals.parameter("shift", -1.0, 1.0), reals.of_int(z.symbol("n", 0))
    assert sqrt(free_sign * x) is not sqrt(free_sign) * sqrt(x)
    assert sqrt(count * x) is not sqrt(count) * sqrt(x)  # 0 times a negative number has a root


def test_roots_of_numbers() -> None:
    assert sqrt(number(Fraction(9, 4))) is number(Fraction(3, 2))
    assert sqrt(number(Fraction(1, 2))) * number(2) is sqrt(number(2))
    assert sqrt(number(0)) is number(0)
    assert sqrt(number(2)) is not number(Fraction(14142, 10000))
    assert sqrt(number(-4)) is not number(2)


def test_a_root_is_positive_where_its_argument_is() -> None:
    scale, x = reals.parameter("scale", 1e-6, 1e3), read(0)
    assert compare("gt", sqrt(scale + x * x)) is TRUE
    assert compare("gt", sqrt(x)) is compare("gt", x)
    assert compare("gt", sqrt(x)) is not TRUE and compare("gt", -sqrt(x)).kind == "false"


# ---- counts -------------------------------------------------------------------------------------

C, N = (lambda: z.symbol("C", 1)), (lambda: z.symbol("N"))


def counted(*domain: Bool, given: tuple[Bool, ...] = ()) -> Real:
    v = z.symbol("v")
    return Simplifier().real(make_sum((atom_of(v),), conj(domain), number(1)), Context(Prover(Ledger()), given))


def is_count(x: Real, n: Int) -> bool:
    return x is reals.of_int(n)


def test_a_sum_of_ones_is_a_count() -> None:
    v, c = z.symbol("v"), C()
    assert is_count(counted(ge0(v), lt(v, c)), c)
    assert is_count(counted(le(z.lift(3), v), lt(v, c), given=(le(z.lift(3), c),)), c - 3)
    padded = (z.div(c + 31, z.lift(32))) * 32
    assert is_count(counted(ge0(v), lt(v, c), lt(v, padded)), c)
    assert counted(ge0(v), lt(v, c)) * power(reals.of_int(c), -1) is number(1)


def test_a_count_is_not_taken_where_it_is_not_known() -> None:
    v, c, n = z.symbol("v"), C(), N()
    assert not is_count(counted(ge0(v), lt(v, n)), n)  # n may be negative, then the sum is 0
    assert is_count(counted(ge0(v), lt(v, n), given=(ge0(n),)), n)
    either = counted(ge0(v), lt(v, c), lt(v, n))  # the tighter bound is not known
    assert not is_count(either, c) and not is_count(either, n)
    padded = (z.div(c + 31, z.lift(32))) * 32
    assert not is_count(counted(ge0(v), lt(v, padded)), c)  # padding is counted too
    even = z.mod(v, z.lift(2))
    assert not is_count(counted(ge0(v), lt(v, c), le(even, z.lift(0))), c)
    x = make_sum((atom_of(v),), conj((ge0(v), lt(v, c))), reals.read("X", (v,)))
    assert Simplifier().real(x, Context(Prover(Ledger()), ())) is not reals.of_int(c)


def test_a_sum_over_one_point_is_its_value_there() -> None:
    v, c, t = z.symbol("v"), C(), z.symbol("t")

    def summed(*domain: Bool) -> Real:
        x = make_sum((atom_of(v),), conj((ge0(v), lt(v, c), *domain)), reals.read("X", (v,)))
        return Simplifier().real(x, Context(Prover(Ledger()), (ge0(t), lt(t, c))))

    at = reals.read("X", (t,))
    assert summed(equal(v, t)) is at
    assert summed(equal(t - v, z.lift(0))) is at
    assert summed(equal(v, t + c)) is number(0)  # outside the range
    assert summed(equal(v * 2, t)) is not reals.read("X", (z.div(t, z.lift(2)),))  # t may be odd
    assert summed(le(v, t)) is not at
    assert summed(equal(z.div(v, z.lift(2)), t)) is not at


# ---- floors -------------------------------------------------------------------------------------

HEAD = """meta BC = 32
kernel k(i < R):
    s = zeros([BC], f32)
    t = zeros([BC], f32)
    for n in range(0, cdiv(C, BC)) carry s, t:
        j = n * BC + arange(BC)
        x = cast(load(X[i, j], mask=j < C, other=0), f32)
        s = s + x * x
        t = t + x
    m = sum(t, axis=0) / cast(C, f32)
"""


def typed(line: str) -> tuple[Program, Floors]:
    bound = bind(load_spec("rmsnorm"), {"dtype": "fp32"})
    text = HEAD + f"    y = {line}\n    store(RSTD[i], y)\n"
    program = check(parse(text), bound)
    return program, Floors(program, bound)


def spans(program: Program, op: str) -> list[Span]:
    """Where `op` stands in the last statement but one."""
    let = program.kernels[0].body[-2]
    assert isinstance(let, Let) and not isinstance(let, For)
    found, todo = [], [let.value]
    while todo:
        e = todo.pop()
        if isinstance(e, (Unary, Binary)) and e.op == op:
            found.append(e.span)
        todo += [getattr(e, f) for f in ("operand", "left", "right", "then", "otherwise") if hasattr(e, f)]
    return found


@pytest.mark.parametrize(
    "argument, low",
    [
        ("sum(s, axis=0) / cast(C, f32) + eps", 1e-12),
        ("sum(s, axis=0) / cast(C, f32)", 0.0),
        ("m * m + eps", 1e-12),
        ("abs(m) + 2.0", 2.0),
        ("maximum(m, 0.25)", 0.25),
        ("where(m > 0.0, 1.0, exp(m))", 0.0),
        ("sum(s, axis=0) / cast(C, f32) - m * m + eps", NONE),  # rounding makes it negative
        ("sum(s, axis=0) / cast(C, f32) * m", NONE),
        ("sum(t, axis=0) + eps", NONE),
        ("minimum(m, 1.0)", NONE),
        ("where(m > 0.0, 1.0, m)", NONE),
        ("m * (m + 1.0)", NONE),
        ("-abs(m)", NONE),
    ],
)
def test_floors_of_roots(argument: str, low: float) -> None:
    program, floors = typed(f"sqrt({argument})")
    (span,) = spans(program, "sqrt")
    found = floors.operand("k", span)
    assert found == low if low in (0.0, NONE) else low * 0.98 < found <= low


def test_a_floor_of_one_kernel_is_not_that_of_another_and_no_place_has_none() -> None:
    program, floors = typed("sqrt(m * m)")
    (span,) = spans(program, "sqrt")
    assert floors.operand("other", span) == NONE
    assert floors.operand("k", Span(0, 0, 0, 0)) == NONE


def test_a_carried_value_that_may_fall_has_no_floor() -> None:
    bound = bind(load_spec("rmsnorm"), {"dtype": "fp32"})
    for update, low in (("s * 0.5 + abs(x)", 0.0), ("s - abs(x)", NONE), ("maximum(s, x)", 1.0)):
        text = (
            "meta BC = 32\nkernel k(i < R):\n    s = full([BC], 1.0, f32)\n"
            "    for n in range(0, cdiv(C, BC)) carry s:\n        j = n * BC + arange(BC)\n"
            "        x = cast(load(X[i, j], mask=j < C, other=0), f32)\n"
            f"        s = {update}\n    y = sqrt(sum(s, axis=0))\n    store(RSTD[i], y)\n"
        )
        program = check(parse(text), bound)
        found = Floors(program, bound).operand("k", spans(program, "sqrt")[0])
        assert found == low if low in (0.0, NONE) else 0.98 * low < found <= low, update


# ---- squares ------------------------------------------------------------------------------------


def row_sum(body: Real, v: Int) -> Real:
    return make_sum((atom_of(v),), conj((ge0(v), lt(v, C()))), body)


def not_negative(x: Real) -> bool:
    simplifier, here = Simplifier(), Context(Prover(Ledger()), ())
    return nonnegative(simplifier.real(x, here), here, simplifier)


def surely_positive(x: Real) -> bool:
    simplifier, here = Simplifier(), Context(Prover(Ledger()), ())
    return positive(simplifier.real(x, here), here, simplifier)


def test_eps_and_a_variance_are_positive_and_the_variance_alone_is_not() -> None:
    v, inverse = z.symbol("v"), power(reals.of_int(C()), -1)
    x = reals.read("X", (v,))
    first, second = row_sum(x, v), row_sum(x * x, v)
    variance = second * inverse - first * first * inverse * inverse
    eps, delta = reals.parameter("eps", 1e-6, 1), reals.parameter("delta", 0, 1)
    assert surely_positive(variance + eps)
    assert not surely_positive(variance)  # of a constant row it is 0
    assert not surely_positive(variance + delta)  # a parameter that may be 0
    assert not surely_positive(variance - eps)
    assert not surely_positive(second * inverse * number(Fraction(1, 2)) - first * first * inverse * inverse + eps)


def test_the_square_of_a_sum_is_at_most_its_length_times_the_sum_of_squares() -> None:
    v, c = z.symbol("v"), reals.of_int(C())
    x = reals.read("X", (v,))
    first, second, inverse = row_sum(x, v), row_sum(x * x, v), power(c, -1)
    assert not_negative(second * inverse - first * first * inverse * inverse)
    assert not_negative(second * c - first * first)
    assert not_negative(second * c - first * first + number(1))
    assert not not_negative(second - first * first)  # the length is missing
    assert not not_negative(second * inverse * number(Fraction(1, 2)) - first * first * inverse * inverse)
    assert not not_negative(second * c - first * first - number(1))
    assert not not_negative(first * first * number(-1))
    other = reals.read("Y", (v,))
    assert not not_negative(row_sum(other * other, v) * c - first * first)
    assert not not_negative(row_sum(x * x, v) * c - row_sum(x, v) * number(2))


def test_what_squares_make_positive() -> None:
    v, c, eps = z.symbol("v"), reals.of_int(C()), reals.parameter("eps", 1e-12, 1.0)
    x = reals.read("X", (v,))
    spread = row_sum(x * x, v) * c - row_sum(x, v) * row_sum(x, v)

    def above_0(value: Real) -> bool:
        simplifier, here = Simplifier(), Context(Prover(Ledger()), ())
        return positive(simplifier.real(value, here), here, simplifier)

    assert above_0(spread + eps) and above_0(spread * number(2) + number(1))
    assert not above_0(spread)  # 0 where all values are equal
    assert not above_0(spread - eps) and not above_0(eps - spread)


def test_a_member_that_another_dominates_leaves_a_maximum() -> None:
    here = Context(Prover(Ledger()), ())
    x, n = read(0), z.symbol("n")
    square: Member = ((), TRUE, x * x)
    zero: Member = ((), TRUE, number(0))
    assert undominated((square, zero), here, Simplifier()) == (square,)
    plain: Member = ((), TRUE, x)
    assert undominated((plain, zero), here, Simplifier()) == (plain, zero)
    sometimes: Member = ((), ge0(n), x * x)
    assert undominated((sometimes, zero), here, Simplifier()) == (sometimes, zero)
    assert undominated((sometimes, zero), here.given(ge0(n)), Simplifier()) == (sometimes,)
    bound: Member = ((atom_of(n),), ge0(n), reals.read("X", (n,)))
    assert undominated((bound, zero), here, Simplifier()) == (bound, zero)
    assert len(undominated((zero, ((), TRUE, number(0))), here, Simplifier())) == 1


# ---- shares -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, changes, shown",
    [
        ("rmsnorm/row", (), True),
        ("rmsnorm/row", (("x * rstd * w", "x * x * rstd * w"),), False),  # not a share of the root
        ("rmsnorm/row", (("x * rstd * w", "x * rstd * w * w"),), False),  # 256 * 100 * 100
        ("layernorm/two_pass", (), True),
        ("layernorm/two_pass", (("(x - mean) * rstd", "x * rstd"),), False),  # the mean may be far from 0
        ("layernorm/shifted", (), False),  # cancellation makes the divisor anything
    ],
)
def test_a_value_over_the_root_of_its_squares_fits_fp16(
    name: str, changes: tuple[tuple[str, str], ...], shown: bool
) -> None:
    text = (packaged_specs() / f"{name}.tile").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    bound = bind(load_spec(name.split("/")[0]), {"dtype": "fp16"})
    assert range_.check(analyse(check(parse(text), bound), bound)).ok == shown


# ---- duties of saved inputs ---------------------------------------------------------------------

QUOTIENT = """name = "quotient"
doc = "A saved quotient, copied."
[dims]
R = { min = 1, max = 1024 }
[inputs]
A = { shape = ["R"], dtype = "f32", abs_max = 1 }
B = { shape = ["R"], dtype = "f32", abs_max = 1 }
QQ = { shape = ["R"], dtype = "f32", saved = true }
[outputs]
Y = { shape = ["R"], dtype = "f32" }
[formula]
empty_row = "undefined"
define = \"\"\"
QQ[i] = A[i] / B[i]
Y[i] = if B[i] > 0 then QQ[i] else 0.0
\"\"\"
[layout]
max_stride = 1024
"""


def test_what_a_kernel_divides_by_says_nothing_of_a_division_at_the_same_place_of_the_spec() -> None:
    bound = bind(parse_spec(QUOTIENT), {})
    line = QUOTIENT[: QUOTIENT.index("QQ[i] =")].count("\n")
    body = "    y = 1.00 / 2.00\n    store(Y[i], load(QQ[i]) * (y + y))\n"
    text = "# \n" * (line - 1) + "kernel copy(i < R):\n" + body
    proof = analyse(check(parse(text), bound), bound)
    (load,) = (d for d in proof.formula.output("QQ", (z.lift(0),)).owes if d.kind == "defined")
    assert proof.floors.operand("copy", load.span) > 0.0, "the two divisions stand at one line and column"
    assert not definedness.check(proof).ok
