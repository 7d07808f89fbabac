"""S1 of a combine by log-sum-exps: which differences are exempt from rounding, and which sums hold their part."""

from __future__ import annotations

import pytest

from ir import program as core
from ir.loader import bind, load_spec, packaged_specs
from ir.parser import parse
from ir.typing import check
from verifier import integers, reals
from verifier.binders import make_max, make_sum
from verifier.booleans import Bool, conj, ge0, lt
from verifier.integers import Int, symbol
from verifier.obligations.range import _below_own_maximum
from verifier.prove import prove
from verifier.reals import Real, number
from verifier.stored import _all, _within, stored_difference
from verifier.terms import atom_of
from verifier.verdict import Verdict

KERNEL = (packaged_specs() / "decode" / "even_splits_lse.tile").read_text()


def scores(z: Int) -> tuple[Bool, Real]:
    """The keys of split z, and the log-sum-exp of their scores."""
    j = symbol("j")
    inside = conj((ge0(j - 8 * z), lt(j, 8 * z + 8)))
    return inside, reals.log(make_sum((atom_of(j),), inside, reals.exp(reals.read("S", (j,)))))


def test_only_a_maximum_of_log_sum_exps_is_made_of_the_very_numbers() -> None:
    integers.reset()
    z, own = symbol("z"), symbol("own")
    four = conj((ge0(z), lt(z, integers.lift(4))))
    lse, top = scores(own)[1], make_max((atom_of(z),), four, scores(z)[1])
    score = reals.read("S", (own,))
    highest = make_max((atom_of(z),), four, reals.read("S", (z,)))
    assert _below_own_maximum(lse - top)
    assert not _below_own_maximum(lse - highest)  # scores computed again
    assert not _below_own_maximum(score - lse)
    assert not _below_own_maximum(top - lse)
    assert not _below_own_maximum(lse * number(2) - top)
    assert not _below_own_maximum(lse + score - top)


@pytest.mark.parametrize(
    ("old", "new"),
    [("z, D]: f32", "z, D]: f32"), ("mask=i < M, other=-inf) - top_safe", "mask=i < M, other=-inf) * 1.0 - top_safe")],
    ids=["as it was stored", "rounded again"],
)
def test_only_stored_numbers_are_exempt_from_rounding(old: str, new: str) -> None:
    text = KERNEL.replace(old, new)
    program = check(parse(text), bind(load_spec("decode"), {"causal": "bottom_right", "dtype": "bf16"}), text)
    line = next(k for k, row in enumerate(text.split("\n"), 1) if "w = exp(" in row)
    spans = {
        e.span for v in _all(program.kernels[1].body) for e in _within(v) if isinstance(e, core.Unary) and e.op == "exp"
    }
    (span,) = (s for s in spans if s.line == line)
    assert stored_difference(program.kernels[1], span) == (old == new)


@pytest.mark.parametrize(
    ("old", "new", "obligation"),
    [
        ("top = maximum(top, load(PLSE[b, h, i, z], mask=i < M, other=-inf))", "top = maximum(top, 0.0)", "S1"),
        ("for z in range(SPLITS) carry top", "for z in range(SPLITS - 1) carry top", "S1"),
        ("for y in range(SPLITS)", "for y in range(1, SPLITS)", "E1"),
        ("stop = min(length, start + share)", "stop = start + share", "B1"),
        ("mask=i < M, other=-inf) - top_safe", "mask=i < M, other=-inf) * 1.0 - top_safe", "S1"),
    ],
    ids=[
        "top is no maximum",
        "top misses a split",
        "sum misses a split",
        "a split runs past the sequence",
        "a weight of a number rounded again",
    ],
)
def test_a_broken_combine_is_not_proved(old: str, new: str, obligation: str) -> None:
    assert old in KERNEL
    text = KERNEL.replace(old, new)
    bound = bind(load_spec("decode"), {"causal": "bottom_right", "dtype": "bf16"})
    report = prove(check(parse(text), bound, text), bound, text)
    assert next(r for r in report.results if r.id == obligation).verdict is not Verdict.PROVED
