"""Rewrites of the grid, of heads and of the key range: which program does what."""

from __future__ import annotations

import pytest
from rewriting import CAUSAL, NONE, golden, results, the, verdict

from ir.loader import bind, load_spec
from synth.search.identity import identity
from verifier.verdict import Verdict


def test_packed_heads_are_the_golden_ones_and_unpack_again() -> None:
    packed = the("pack-heads", golden("fa2_none"))
    assert identity(packed, NONE) == identity(golden("gqa_packed_rows"), NONE)
    apart = the("unpack-heads", golden("gqa_packed_rows_causal"), CAUSAL)
    assert "h < H, t < cdiv(M, BM)" in apart and "cdiv(min(N, t * BM + BM + N - M), BN)" in apart


def test_programs_take_turns_and_no_longer() -> None:
    text = the("take-turns", golden("two_pass"))
    assert "persistent = true" in text and verdict(text) is Verdict.PROVED
    assert identity(the("take-turns", text), NONE) == identity(golden("two_pass"), NONE) != identity(text, NONE)


def test_an_axis_becomes_a_loop_and_an_axis_again() -> None:
    looping = the("axis-to-loop", golden("fa2_none"))
    assert "kernel attention(b < B, h < H):\n    for t in range(cdiv(M, BM)):" in looping
    assert identity(the("loop-to-axis", looping), NONE) == identity(golden("fa2_none"), NONE)
    assert "program < B * H * cdiv(M, BM)" in the("linear-grid", golden("fa2_none"))


@pytest.mark.parametrize("rewrite", ["split-in-chunks", "split-interleaved"])
def test_keys_are_split_and_merged(rewrite: str) -> None:
    text = the(rewrite, golden("exp2_scale_at_use"))
    assert text.count("kernel ") == 2 and text.count("scratch ") == 3
    if rewrite == "split-interleaved":  # the other is of the form of a golden kernel
        assert verdict(text) is Verdict.PROVED, text


def test_plain_sums_are_split_without_weights() -> None:
    bound = bind(load_spec("attention_bwd"), {"causal": "none"})
    text = golden("../../../specs/attention_bwd/three_kernels_none")
    (split,) = results("split-interleaved", text, bound)
    combine = split[split.index("kernel dq_combine") :]
    assert "dq = dq + part_dq" in combine and "exp" not in combine


@pytest.mark.parametrize(
    ("rewrite", "name"),
    [
        ("pack-heads", "gqa_packed_rows"),
        ("unpack-heads", "fa2_none"),
        ("loop-to-axis", "fa2_none"),
        ("linear-grid", "linear_grid"),
        ("axis-to-loop", "linear_grid"),
        ("split-in-chunks", "two_pass"),
        ("split-interleaved", "carried_offset"),
    ],
)
def test_a_rewrite_that_does_not_fit_yields_nothing(rewrite: str, name: str) -> None:
    bound = CAUSAL if name == "linear_grid" else NONE
    assert results(rewrite, golden(name), bound) == []
