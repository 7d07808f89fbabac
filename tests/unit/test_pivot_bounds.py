"""How far a pivot may lie from the scores, for S1: when it may be replaced by something larger in a term
(`verifier.underflow`), and which thresholds of a lazy pivot are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from verifier import reals
from verifier.binders import members
from verifier.booleans import TRUE, boolean
from verifier.integers import symbol
from verifier.prove import prove
from verifier.reals import Real, RealAtom, maximum_of, number, of, real_atom
from verifier.underflow import _grows_with
from verifier.verdict import Verdict

LAZY = (Path(__file__).parents[1] / "golden" / "proved" / "lazy_rescale.tile").read_text()
BOUND = bind(load_spec("attention"), {"causal": "none", "dtype": "bf16"})
PIVOT: RealAtom = real_atom("pivot", "k.m", (symbol("n"),))
P, Q = of(PIVOT), of(real_atom("read", "Q", (symbol("i"),)))


def larger(*bodies: Real, guard=TRUE) -> Real:  # type: ignore[no-untyped-def]
    return maximum_of(m for body in bodies for m in members((), guard, body))


GROWS = {
    "alone": P,
    "plus something else": P * number(3) + Q,
    "in units of ln 2": P * reals.ln2() - Q,
    "as a member of a maximum": larger(P, Q),
    "as a member of a scaled maximum": larger(P + Q, Q) * reals.ln2() - Q,
    "nowhere": Q,
}
MAY_FALL = {
    "with a minus": Q - P,
    "beside a maximum that takes it away again": P - larger(P, Q) * number(2),
    "times something of unknown sign": P * Q,
    "squared": P * P,
    "in an exponent": reals.monomial(TRUE, {}, P),
    "in the guard of a member": larger(Q, P, guard=boolean("real", "gt", P - Q)),
    "with a minus in a maximum": larger(Q - P, Q),
    "under a guard": reals.guarded(boolean("real", "gt", Q), P),
}


@pytest.mark.parametrize("where", GROWS)
def test_a_pivot_is_raised_where_the_term_grows_with_it(where: str) -> None:
    assert _grows_with(GROWS[where], PIVOT)


@pytest.mark.parametrize("where", MAY_FALL)
def test_a_pivot_is_not_raised_where_the_term_may_fall(where: str) -> None:
    assert not _grows_with(MAY_FALL[where], PIVOT)


def test_a_pivot_that_moves_too_late_is_refused() -> None:
    """exp(100) is more than float32 holds; the kernel itself, with 8, is proved in tests/golden."""
    text = LAZY.replace("top > m + 8.0", "top > m + 100.0")
    assert text != LAZY
    report = prove(check(parse(text), BOUND), BOUND, evidence=False, search=False)
    assert [r.id for r in report.results if r.verdict is not Verdict.PROVED] == ["S1"]
