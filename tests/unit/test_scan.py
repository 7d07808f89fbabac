"""The scan rule: loops it solves, and for each of its side conditions a loop that breaks just that one.

Only E1 and D1 are asked: S1 would refuse some of these loops for reasons of its own.
"""

from __future__ import annotations

import pytest

from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.typing import check
from verifier import integers
from verifier.obligations import definedness, equivalence
from verifier.operations import Unsupported
from verifier.proof import analyse

SPEC = """
name = "rows"
[dims]
M = {{ min = 1, max = 1048576 }}
N = {{ min = 0, max = 1048576 }}
[inputs]
X = {{ shape = ["M", "N"], dtype = "f32", abs_max = 1e4 }}
[outputs]
O = {{ shape = ["M"], dtype = "f32" }}
[formula]
empty_row = "zero"
define = "O[i] = {formula}"
[layout]
max_stride = 1099511627776
"""
LSE = "log(sum[j < N](exp(X[i, j])))"
SUM = "sum[j < N](X[i, j])"
MAX = "max[j < N](X[i, j])"
LOW, ZERO, ONE = "max(full([2], -inf, f32), axis=0)", "max(zeros([2], f32), axis=0)", "max(full([2], 1.0, f32), axis=0)"


def holds(formula: str, start: dict[str, str], body: str, out: str, loop: str = "cdiv(N, 32)") -> bool:
    """Whether D1 and E1 of this loop over the blocks x of one row are shown."""
    bound = bind(parse_spec(SPEC.format(formula=formula)))
    lines = [f"{name} = {value}" for name, value in start.items()]
    lines += [f"for n in range({loop}) carry {', '.join(start)}:"]
    lines += ["    j = n * 32 + arange(32)", "    x = load(X[i, j], mask=(j >= 0) and (j < N), other=0)"]
    lines += ["    s = where((j >= 0) and (j < N), x, -inf)", *("    " + line.strip() for line in body.split(";"))]
    text = "kernel rows(i < M):\n" + "\n".join(f"    {line}" for line in [*lines, f"store(O[i], {out})"]) + "\n"
    program = check(parse(text), bound, text)
    integers.reset()
    try:
        proof = analyse(program, bound)
    except Unsupported:
        return False
    return equivalence.check(proof).ok and definedness.check(proof).ok


ONLINE = "t = maximum(m, max(s, axis=0)); p = exp(s - t); l = l * exp(m - t) + sum(p, axis=0); m = t"
RESULT = "m + log(l)"


def online(body: str = ONLINE, m: str = LOW, l: str = ZERO, out: str = RESULT) -> bool:  # noqa: E741
    return holds(LSE, {"m": m, "l": l}, body, out)


# ---- what it solves -------------------------------------------------------------------------------


def test_plain_sum() -> None:
    assert holds(SUM, {"l": ZERO}, "l = l + sum(x, axis=0)", "l")


def test_running_maximum() -> None:
    assert holds(MAX, {"m": LOW}, "m = maximum(m, max(s, axis=0))", "m")


def test_online_softmax() -> None:
    assert online()


def test_a_pivot_may_be_any_number() -> None:
    assert online(m=ZERO)
    assert online(ONLINE.replace("maximum(m, max(s, axis=0))", "maximum(m + 1.0, max(s, axis=0) * 0.5)"), m=ZERO)


def test_an_accumulator_may_start_from_a_value() -> None:
    assert online(m=ZERO, l=ONE, out="m + log(l - exp(-m))")
    assert not online(m=ZERO, l=ONE, out="m + log(l - 1.0)")
    assert not online(m=ZERO, l=ONE)


def test_lazy_rescaling() -> None:
    lazy = "t = maximum(m, max(s, axis=0)); c = t > m + 8.0; w = where(c, t, m); p = exp(s - w); "
    assert online(lazy + "l = l * exp(m - w) + sum(p, axis=0); m = w", m=ZERO)
    assert online(lazy + "l = where(c, l * exp(m - w), l) + sum(p, axis=0); m = w", m=ZERO)
    assert not online(lazy + "l = where(c, l, l * exp(m - w)) + sum(p, axis=0); m = w", m=ZERO)
    assert not online(lazy + "l = where(t > m + 9.0, l * exp(m - w), l) + sum(p, axis=0); m = w", m=ZERO)
    assert not online(lazy + "l = l * exp(m - w) + sum(p, axis=0); m = t", m=ZERO)


# ---- one side condition at a time -----------------------------------------------------------------

BROKEN = {
    "the factor is no cocycle: no rescaling": ONLINE.replace(" * exp(m - t)", ""),
    "the factor is no cocycle: twice": ONLINE.replace(" * exp(m - t)", " * exp(m - t) * exp(m - t)"),
    "the factor is no cocycle: sign": ONLINE.replace("exp(m - t)", "exp(t - m)"),
    "the factor is no cocycle: a literal": ONLINE.replace("exp(m - t)", "exp(m - t) * 0.5"),
    "the summand has the old pivot": ONLINE.replace("exp(s - t)", "exp(s - m)"),
    "the summand is rescaled too": ONLINE.replace("+ sum(p, axis=0)", "+ exp(m - t) * sum(p, axis=0)"),
    "another pivot is carried on": ONLINE.replace("m = t", "m = max(s, axis=0)"),
    "the pivot is not carried on": ONLINE.replace("m = t", "m = m + 0.0"),
    "not linear": ONLINE.replace("l * exp(m - t)", "l * l * exp(m - t)"),
    "the branch looks at the accumulator": ONLINE.replace("l * exp(m - t)", "where(l > 5.0, l, l * exp(m - t))"),
}


@pytest.mark.parametrize("why", BROKEN)
@pytest.mark.parametrize("m", [LOW, ZERO], ids=["pivot from -inf", "pivot from 0"])
def test_a_broken_loop_is_not_solved(why: str, m: str) -> None:
    assert BROKEN[why] != ONLINE
    assert not online(BROKEN[why], m=m)


def test_the_first_finite_pivot_is_a_case_of_its_own() -> None:
    start = "t = maximum(m, max(s, axis=0)); p = {p}; l = l * {a} + sum(p, axis=0); m = t"
    assert online(start.format(p="exp(s - t)", a="where(m == -inf, 1.0, exp(m - t))"))
    assert not online(start.format(p="exp(s - t)", a="where(m == -inf, 1.0, exp(m - t))"), l=ONE)
    assert not online(start.format(p="where(m == -inf, 2.0, 1.0) * exp(s - t)", a="exp(m - t)"))


def test_rows_without_keys_need_a_guard() -> None:
    """Under a mask a block may have no key while the pivot is still -inf: exp(-inf - -inf)."""
    formula = "log(sum[j < N, j > i](exp(X[i, j])))"
    masked = "z = where(j > i, s, -inf); t = maximum(m, max(z, axis=0)); {safe}; "
    masked += "l = l * exp(m - u) + sum(exp(z - u), axis=0); m = t"
    start = {"m": LOW, "l": ZERO}
    assert holds(formula, start, masked.format(safe="u = where(t == -inf, 0.0, t)"), RESULT)
    assert not holds(formula, start, masked.format(safe="u = t"), RESULT)
    assert not holds(formula, start, masked.format(safe="u = where(m == -inf, 0.0, t)"), RESULT)


def test_phi_must_not_vanish() -> None:
    """a' = a*(n-2)/(n-1) + x/(n-1): phi = n-1 is 0 on the way."""
    body = "a = a * (cast(n - {k}, f32) / cast(n - {k} + 1, f32)) + sum(x, axis=0) / cast(n - {k} + 1, f32)"
    assert not holds(SUM, {"a": ZERO}, body.format(k=2), "a * cast(cdiv(N, 32) - 2, f32)")


def test_no_iteration_leaves_the_start() -> None:
    assert holds(SUM, {"l": ZERO}, "l = l + sum(x, axis=0)", "l", "0, cdiv(N, 32)")
    assert not holds(SUM, {"l": ONE}, "l = l + sum(x, axis=0)", "where(N > 0, l - 1.0, l)")
    assert holds(SUM, {"l": ONE}, "l = l + sum(x, axis=0)", "l - 1.0")


@pytest.mark.parametrize("loop", ["1, cdiv(N, 32)", "cdiv(N, 32) - 1", "N // 32", "cdiv(N, 33)", "min(cdiv(N, 32), 3)"])
def test_blocks_left_out(loop: str) -> None:
    assert not holds(SUM, {"l": ZERO}, "l = l + sum(x, axis=0)", "l", loop)


@pytest.mark.parametrize("loop", ["-3, cdiv(N, 32) + 5", "(N + 63) // 32"])
def test_blocks_that_are_masked_do_no_harm(loop: str) -> None:
    assert holds(SUM, {"l": ZERO}, "l = l + sum(x, axis=0)", "l", loop)


def test_a_maximum_that_is_reset() -> None:
    assert not holds(MAX, {"m": LOW}, "m = where(n == 1, max(s, axis=0), maximum(m, max(s, axis=0)))", "m")
    assert not holds(MAX, {"m": LOW}, "m = where(n == 1, -inf, maximum(m, max(s, axis=0)))", "m")
    assert not holds(MAX, {"m": ZERO}, "m = maximum(m, max(s, axis=0))", "m")


def test_finiteness_that_changes_is_not_one_unknown() -> None:
    """m is finite before the loop and -inf after: the comparison below differs between the two."""
    body = "l = l + sum(x, axis=0) + where(m == -inf, 1.0, 0.0); m = where(n < 0, m, -inf)"
    out = "where(m == -inf, l - cast(cdiv(N, 32), f32), l)"
    assert not holds(SUM, {"m": ZERO, "l": ZERO}, body, out)


def test_a_carried_integer_does_not_follow_floats() -> None:
    body = "l = l + sum(x, axis=0) + 0.0 * cast(c, f32); m = m + 1.0; c = c + where(m > 1.5, 1, 0)"
    out = "l + cast(c, f32) - cast(max(cdiv(N, 32) - 1, 0), f32)"
    assert not holds(SUM, {"l": ZERO, "m": ZERO, "c": "0"}, body, out)


def test_a_carried_integer_is_its_steps() -> None:
    body = "l = l + sum(x, axis=0); c = c + 2"
    assert holds(SUM, {"l": ZERO, "c": "5"}, body, "l + cast(c - 5 - 2 * cdiv(N, 32), f32)")
    assert not holds(SUM, {"l": ZERO, "c": "5"}, body, "l + cast(c - 5 - 2 * N, f32)")
    assert not holds(SUM, {"l": ZERO, "c": "5"}, body.replace("c + 2", "c + n"), "l + cast(c - 5, f32)")
    assert not holds(SUM, {"l": ZERO, "c": "5"}, body.replace("c + 2", "c * 2"), "l + cast(c - 5, f32)")


def test_two_loops_have_pivots_of_their_own() -> None:
    """Two lazily rescaled loops over the same range: their pivots are equal in nothing but the name."""
    loop = "for n in range(cdiv(N, 32)) carry m, l:"
    body = """        j = n * 32 + arange(32)
        x = load(X[i, j], mask=j < N, other=0)
        s = where(j < N, x, -inf)
        t = maximum(m, max(s, axis=0))
        w = where(t > m + {k}, t, m)
        l = l * exp(m - w) + sum(exp(s - w), axis=0)
        m = w
"""
    text = f"kernel rows(i < M):\n    m = {ZERO}\n    l = {ZERO}\n    {loop}\n" + body.format(k="8.0")
    text += f"    first = m\n    m = {ZERO}\n    l = {ZERO}\n    {loop}\n" + body.format(k="4.0")
    text += "    store(O[i], first + log(l))\n"
    bound = bind(parse_spec(SPEC.format(formula=LSE)))
    for source, shown in ((text, False), (text.replace("first + log(l)", "m + log(l)"), True)):
        integers.reset()
        assert equivalence.check(analyse(check(parse(source), bound, source), bound)).ok == shown


# ---- accumulating through two loops --------------------------------------------------------------


def nested(inner: str, outer: str = "", start: str = "zeros([2], f32)") -> bool:
    """Whether a sum over blocks, four lanes at a time in an inner loop, is shown to be the sum of the row."""
    body = f"a = max({start}, axis=0)\nfor n in range(cdiv(N, 32)) carry a:\n    for q in range(8) carry a:\n"
    body += "        j = n * 32 + q * 4 + arange(4)\n        x = load(X[i, j], mask=j < N, other=0)\n"
    body += f"        a = {inner}\n" + (f"    a = {outer}\n" if outer else "") + "store(O[i], a)"
    lines = [f"    {line}" for line in body.split("\n")]
    text = "kernel rows(i < M):\n" + "\n".join(lines) + "\n"
    bound = bind(parse_spec(SPEC.format(formula=SUM)))
    program = check(parse(text), bound, text)
    integers.reset()
    proof = analyse(program, bound)
    return equivalence.check(proof).ok and definedness.check(proof).ok


def test_what_an_inner_loop_adds_to_the_sum_of_the_outer_one() -> None:
    assert nested("a + sum(x, axis=0)")
    assert not nested("a * 0.5 + sum(x, axis=0)")
    assert not nested("a + sum(x, axis=0)", outer="a * 2.0")
    assert not nested("a + sum(x, axis=0)", start="full([2], -inf, f32)")
