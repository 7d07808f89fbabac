"""A combine by log-sum-exps: each is below their maximum as they were stored, and a sum holds its part."""

from __future__ import annotations

import pytest

from ir.loader import bind, load_spec, packaged_specs
from ir.parser import parse
from ir.typing import check
from verifier.prove import prove
from verifier.verdict import Verdict

KERNEL = (packaged_specs() / "decode" / "even_splits_lse.tile").read_text()


@pytest.mark.parametrize(
    ("old", "new", "obligation"),
    [
        ("top = maximum(top, load(PLSE[b, h, i, z], mask=i < M, other=-inf))", "top = maximum(top, 0.0)", "S1"),
        ("for z in range(SPLITS) carry top", "for z in range(SPLITS - 1) carry top", "S1"),
        ("for y in range(SPLITS)", "for y in range(1, SPLITS)", "E1"),
        ("stop = min(length, start + share)", "stop = start + share", "B1"),
        ("mask=i < M, other=-inf) - top_safe", "mask=i < M, other=-inf) + 1e30 - 1e30 - top_safe", "S1"),
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
