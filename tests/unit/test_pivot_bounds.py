"""How far a pivot may lie from the scores, for S1: when it may be replaced by something larger in a term
(`verifier.underflow`), and which thresholds of a lazy pivot are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from verifier import reals
from verifier.binders import members
from verifier.booleans import TRUE, boolean
from verifier.integers import reset, symbol
from verifier.prove import prove
from verifier.reals import Real, maximum_of, number, of, real_atom
from verifier.underflow import _grows_with
from verifier.verdict import Verdict

LAZY = (Path(__file__).parents[1] / "golden" / "proved" / "lazy_rescale.tile").read_text()
BOUND = bind(load_spec("attention"), {"causal": "none", "dtype": "bf16"})
GROWS = (
    "alone", "plus something else", "in units of ln 2", "as a member of a maximum", "as a member of a scaled maximum",
    "nowhere",
)  # fmt: skip
MAY_FALL = (
    "with a minus", "beside a maximum that takes it away again", "times something of unknown sign", "squared",
    "in an exponent", "beside its own exponential", "in the guard of a member", "with a minus in a maximum",
    "under a guard",
)  # fmt: skip


def larger(*bodies: Real, guard=TRUE) -> Real:  # type: ignore[no-untyped-def]
    return maximum_of(m for body in bodies for m in members((), guard, body))


def grows(where: str) -> bool:
    """Of a term with a pivot in it; terms are of one proof, so they are made anew."""
    reset()
    pivot = real_atom("pivot", "k.m", (symbol("n"),))
    P, Q = of(pivot), of(real_atom("read", "Q", (symbol("i"),)))
    terms: dict[str, Callable[[], Real]] = {
        "alone": lambda: P,
        "plus something else": lambda: P * number(3) + Q,
        "in units of ln 2": lambda: P * reals.ln2() - Q,
        "as a member of a maximum": lambda: larger(P, Q),
        "as a member of a scaled maximum": lambda: larger(P + Q, Q) * reals.ln2() - Q,
        "nowhere": lambda: Q,
        "with a minus": lambda: Q - P,
        "beside a maximum that takes it away again": lambda: P - larger(P, Q) * number(2),
        "times something of unknown sign": lambda: P * Q,
        "squared": lambda: P * P,
        "in an exponent": lambda: reals.monomial(TRUE, {}, P),
        "beside its own exponential": lambda: reals.monomial(TRUE, {pivot: 1}, P),
        "in the guard of a member": lambda: larger(Q, P, guard=boolean("real", "gt", P - Q)),
        "with a minus in a maximum": lambda: larger(Q - P, Q),
        "under a guard": lambda: reals.guarded(boolean("real", "gt", Q), P),
    }
    return _grows_with(terms[where](), pivot)


@pytest.mark.parametrize("where", GROWS)
def test_a_pivot_is_raised_where_the_term_grows_with_it(where: str) -> None:
    assert grows(where)


@pytest.mark.parametrize("where", MAY_FALL)
def test_a_pivot_is_not_raised_where_the_term_may_fall(where: str) -> None:
    assert not grows(where)


def test_a_pivot_that_moves_too_late_is_refused() -> None:
    """exp(100) is more than float32 holds; the kernel itself, with 8, is proved in tests/golden."""
    text = LAZY.replace("top > m + 8.0", "top > m + 100.0")
    assert text != LAZY
    report = prove(check(parse(text), BOUND), BOUND, evidence=False, search=False)
    assert [r.id for r in report.results if r.verdict is not Verdict.PROVED] == ["S1"]
