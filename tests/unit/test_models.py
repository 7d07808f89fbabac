"""A model seen before answers a query only when it makes every fact of it true."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verifier import smt
from verifier.booleans import boolean, conj, disj, equal, ge0, le, lt, negate
from verifier.integers import cell, div, lift, maximum, minimum, mod, reset, symbol
from verifier.models import Model
from verifier.smt import Context, Ledger, Prover


def test_values_are_put_into_terms() -> None:
    reset()
    x, y = symbol("x"), symbol("y", 3)
    model = Model({"x": 7, "y": 4})
    assert model.integer(x * y - 2) == 26
    assert [model.integer(f(x, y)) for f in (div, mod, minimum, maximum)] == [1, 3, 4, 7]
    assert model.truth(le(x, y)) is False and model.truth(equal(x, y + 3)) is True
    assert model.satisfies([ge0(x), lt(y, x)]) and not model.satisfies([ge0(x), lt(x, y)])


def test_what_has_no_value_here_satisfies_nothing() -> None:
    """A cell of an integer input, a division by what is not positive, a symbol outside its bounds."""
    reset()
    x, y = symbol("x"), symbol("y", 3)
    model = Model({"x": -1, "y": 2})
    for unknown in (cell("T", (x,)), div(lift(5), x), y):
        assert model.integer(unknown) is None
        fact = boolean("ge", unknown)
        assert not model.satisfies([fact]) and not model.satisfies([negate(fact)])
    unknown = boolean("ge", cell("T", (x,)))
    assert model.truth(disj((unknown, le(x, 0)))) is True and model.truth(conj((unknown, ge0(x)))) is False
    model = Model({})
    model.assume([unknown])  # as a solver said, which knows more
    assert model.satisfies([unknown])


def test_a_free_symbol_takes_a_value_its_bounds_admit() -> None:
    reset()
    named = [symbol("a", 5, 9), symbol("b", None, -2), symbol("c", -3, 3)]
    assert [Model({}).integer(x) for x in named] == [5, -2, 0]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(claims=st.lists(st.tuples(*[st.integers(-4, 4)] * 3, st.sampled_from("+/%*")), min_size=1, max_size=6))
def test_answers_are_those_of_a_solver_alone(claims: list[tuple[int, int, int, str]]) -> None:
    """The same questions of one context, with models kept and without."""
    reset()
    x, y, d = symbol("x", 0), symbol("y", -20, 20), symbol("d", 1, 9)
    made = []
    for a, b, c, op in claims:
        left = {"+": x + y, "/": div(x + y, d), "%": mod(x, d), "*": x * y}[op]
        made.append(boolean("ge", left * a + y * b + c))
    kept, alone = (Context(Prover(Ledger()), (lt(x, d), le(y, x))) for _ in range(2))
    expected = []
    for claim in made:
        alone.prover.models.kept.clear()
        expected.append(alone.entails(claim))
    assert [kept.entails(claim) for claim in made] == expected


def test_ctrl_c_ends_a_query_and_answers_nothing(interruptible: None) -> None:
    """Z3 would take it for a time limit: the verdict would be `unproved`, and the run would go on."""
    reset()
    x, y, z = symbol("x"), symbol("y"), symbol("z")
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    prover = Prover(Ledger())
    hard = [equal(x * x * x + y * y * y, z * z * z + 33), le(lift(10), x), le(lift(10), y)]
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in range(100):  # a query may end before the signal comes; nearly all of the time is Z3's
                prover.unsat(hard)
    finally:
        timer.cancel()


def test_a_known_model_spares_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    reset()
    x = symbol("x", 0)
    context = Context(Prover(Ledger()), (le(x, 100),))
    assert not context.entails(le(x, 3))  # some x above 3
    monkeypatch.setattr(smt._Stack, "check", lambda *_: pytest.fail("asked a solver"))
    assert not context.entails(le(x, 2)) and not context.entails(equal(x, 2))
