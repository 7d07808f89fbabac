"""Rewrites of how values are scaled, masked, guarded, accumulated, divided and kept between kernels."""

from __future__ import annotations

import pytest
from rewriting import CAUSAL, NONE, golden, results, the, verdict

from ir.loader import bind, load_spec
from synth.search.identity import identity
from verifier.verdict import Verdict

FP32 = bind(load_spec("attention"), {"causal": "bottom_right", "dtype": "fp32"})
BACKWARD = bind(load_spec("attention_bwd"), {"causal": "none"})
THREE_KERNELS = golden("../../../specs/attention_bwd/three_kernels_none")


@pytest.mark.parametrize(
    ("rewrite", "before", "after", "bound"),
    [
        ("mask-by-addition", "fa2_bottom_right", "additive_mask", CAUSAL),
        ("mask-by-choice", "additive_mask", "fa2_bottom_right", CAUSAL),
        ("reciprocal", "fa2_none", "reciprocal", NONE),
        ("divide", "reciprocal", "fa2_none", NONE),
        ("scale-scores", "scaled_query", "fa2_bottom_right", FP32),
    ],
)
def test_a_rewrite_leads_from_one_golden_kernel_to_another(rewrite: str, before: str, after: str, bound) -> None:  # type: ignore[no-untyped-def]
    assert identity(golden(after), bound) in {identity(text, bound) for text in results(rewrite, golden(before), bound)}


def test_queries_are_scaled_in_f32_and_rounded_back_or_not() -> None:
    exact, rounded = results("scale-query", golden("fa2_none"))
    assert "scaled = cast(q, f32) * scale" in exact and "dot(scaled, trans(cast(k, f32))), -inf)" in exact
    assert "cast(cast(q, f32) * scale, Q.dtype)" in rounded
    assert verdict(exact) is Verdict.PROVED, exact
    assert identity(the("scale-scores", rounded), NONE) == identity(golden("fa2_none"), NONE)


def test_an_output_normalised_in_every_block_is_divided_once() -> None:
    text = the("divide-once", golden("fa1_normalised"))
    assert "acc = dot(cast(p, V.dtype), v, acc * alpha[:, None])" in text
    assert verdict(text) is Verdict.PROVED, text


def test_products_accumulate_inside_or_beside() -> None:
    outside = the("accumulate-outside", golden("fa2_none"))
    assert "acc = acc * alpha[:, None] + dot(cast(p, V.dtype), v)" in outside
    assert identity(the("accumulate-inside", outside), NONE) == identity(golden("fa2_none"), NONE)


def test_loads_are_clamped_and_scores_stay_masked() -> None:
    text = the("clamp-loads", golden("fa2_none"))
    assert "load(K[b, g, minimum(j, N - 1)[:, None], e[None, :]])" in text and "where(j[None, :] < N" in text
    assert verdict(text) is Verdict.PROVED, text


def test_the_gate_stops_a_guard_that_is_missed() -> None:
    dropped = results("drop-guard", golden("fa2_bottom_right"), CAUSAL)
    assert len(dropped) == 2  # of the pivot, and of the denominator
    assert verdict(dropped[0], CAUSAL) is Verdict.REFUTED
    guarded = the("guard-pivot", golden("fa2_none"))
    assert "m_safe = where(m_new == -inf, 0.0, m_new)" in guarded


def test_row_sums_are_computed_again_instead_of_stored() -> None:
    text = the("recompute", THREE_KERNELS, BACKWARD)
    assert "scratch" not in text and text.count("kernel ") == 2
    assert text.count("load(dO") == 2 and text.count("load(O[") == 2  # what was there already is not loaded again


@pytest.mark.parametrize(
    ("rewrite", "name"),
    [
        ("scale-query", "scaled_query_exp2"),
        ("scale-scores", "fa2_none"),
        ("divide-once", "fa2_none"),
        ("accumulate-inside", "fa2_none"),
        ("mask-by-choice", "fa2_none"),
        ("divide", "fa2_none"),
        ("clamp-loads", "clamped_loads"),
        ("guard-pivot", "lazy_rescale_running_top"),
        ("recompute", "split_in_chunks"),
    ],
)
def test_a_rewrite_that_does_not_fit_yields_nothing(rewrite: str, name: str) -> None:
    assert results(rewrite, golden(name)) == []
