"""Bounds of x - log(sum exp(x')): where the rule applies, and for each side condition a term that breaks it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.typing import check
from verifier import booleans as logic
from verifier import integers as z
from verifier import reals
from verifier.binders import make_sum
from verifier.booleans import Bool
from verifier.linear import at_most
from verifier.obligations.range import rounding
from verifier.proof import Proof, analyse
from verifier.reals import Real, number
from verifier.simplify import Simplifier
from verifier.smt import Context, Ledger, Prover
from verifier.terms import atom_of


@pytest.fixture(autouse=True)
def fresh_terms() -> None:
    z.reset()


def context(*facts: Bool) -> Context:
    return Context(Prover(Ledger()), facts)


def x(index: z.Int) -> Real:
    return reals.read("X", (index,))


def within(index: z.Int) -> Bool:
    return logic.conj((logic.ge0(index), logic.lt(index, z.symbol("N"))))


def summed(body: Real) -> Real:
    return make_sum((atom_of(z.symbol("j")),), within(z.symbol("j")), body)


def bounded(log_of: Real, *facts: Bool) -> bool:
    """Whether X[k] - log(log_of) <= 0 is shown."""
    return at_most(x(z.symbol("k")) - reals.log(log_of), Fraction(0), context(*facts), Simplifier())


def test_a_term_of_the_sum_is_at_most_its_log() -> None:
    weights = summed(reals.exp(x(z.symbol("j"))))
    assert bounded(weights, within(z.symbol("k")))
    assert bounded(weights + reals.exp(reals.read("sink", ())), within(z.symbol("k")))
    assert bounded(weights * number(2), within(z.symbol("k")))


def test_an_index_outside_the_domain_is_not_a_term() -> None:
    weights = summed(reals.exp(x(z.symbol("j"))))
    assert not bounded(weights)
    assert not bounded(weights, logic.ge0(z.symbol("k")))


def test_a_sum_with_a_negative_or_a_smaller_term_is_not_above_its_members() -> None:
    j, here = z.symbol("j"), within(z.symbol("k"))
    weights = summed(reals.exp(x(j)))
    assert not bounded(weights - reals.exp(reals.read("sink", ())), here)
    assert not bounded(weights * number(Fraction(1, 2)), here)
    assert not bounded(summed(reals.exp(x(j)) * reals.read("W", (j,))), here)
    assert not bounded(summed(reals.exp(x(j) * number(2))), here)


STATISTICS = """
kernel rows(b < B, h < H, t < cdiv(M, 32)):
    i = t * 32 + arange(32)
    e = arange(D)
    store(O[b, h, i[:, None], e[None, :]], cast(zeros([32, D], f32), O.dtype), mask=i[:, None] < M)
    store(LSE[b, h, i], zeros([32], f32), mask=i < M)
"""


def proof_of(scale: str) -> Proof:
    text = load_spec("attention").source.replace("max = 1e3", f"max = {scale}").replace("abs_max = 1e4", "abs_max = 64")
    bound = bind(parse_spec(text))
    return analyse(check(parse(STATISTICS), bound, STATISTICS), bound)


def test_the_room_for_rounding_grows_with_the_scores() -> None:
    small, large = (rounding_of(scale) for scale in ("1.0", "100.0"))
    assert 0 < small < 16 < large


def rounding_of(scale: str) -> Fraction:
    z.reset()
    proof = proof_of(scale)
    cell = tuple(z.symbol(name) for name in "bhi")
    score = proof.formula.define("S", (*cell, z.symbol("j"))).real
    return rounding(proof, score - proof.formula.output("LSE", cell).real, proof.context)
