"""Rewrites of attention's algorithm: where they fit whatever names are used, and what the gate makes of them.

Where a golden kernel is the very program a rewrite should give, that kernel's own test holds the proof.
"""

from __future__ import annotations

import pytest
from rewriting import CAUSAL, GOLDEN, NONE, golden, results, the, verdict

from ir.loader import bind, load_spec
from ir.spec import Bound
from synth.search.identity import identity
from verifier.verdict import Verdict

# FlashAttention-2 as another hand would write it: other names, the pivot rebound, no names for what is used once.
OTHER_HAND = """\
meta ROWS = 32
meta KEYS = 32

kernel forward(u < B, w < H, x < cdiv(M, ROWS)):
    r = x * ROWS + arange(ROWS)
    c = arange(D)
    a = load(Q[u, w, r[:, None], c[None, :]], mask=r[:, None] < M, other=0)
    top = full([ROWS], -inf, f32)
    den = zeros([ROWS], f32)
    num = zeros([ROWS, D], f32)
    for y in range(cdiv(N, KEYS)) carry top, den, num:
        z = y * KEYS + arange(KEYS)
        f = load(K[u, w // (H // G), z[:, None], c[None, :]], mask=z[:, None] < N, other=0)
        x_ = dot(a, trans(f)) * scale
        x_ = where(z[None, :] < N, x_, -inf)
        old = top
        top = maximum(max(x_, axis=1), top)
        fix = exp(old - top)
        x_ = exp(x_ - top[:, None])
        den = sum(x_, axis=1) + fix * den
        d = load(V[u, w // (H // G), z[:, None], c[None, :]], mask=z[:, None] < N, other=0)
        num = num * fix[:, None] + dot(cast(x_, V.dtype), d)
    den = where(den == 0.0, 1.0, den)
    store(O[u, w, r[:, None], c[None, :]], cast(num / den[:, None], O.dtype), mask=r[:, None] < M)
    store(LSE[u, w, r], where(top == -inf, -inf, top + log(den)), mask=r < M)
"""


@pytest.mark.parametrize(
    ("rewrite", "before", "after", "bound"),
    [
        ("lazy-pivot", "fa2_none", "lazy_rescale", NONE),
        ("lazy-pivot", "fa2_bottom_right", "lazy_rescale_causal", CAUSAL),
        ("base-e", "exp2_folded_scale", "fa2_none", NONE),
        ("scale-at-use", "fa2_none", "exp2_scale_at_use", NONE),
        ("scale-at-use", "exp2_folded_scale", "exp2_scale_at_use", NONE),
        ("reverse-keys", "fa2_bottom_right", "reversed_keys_causal", CAUSAL),
        ("reverse-keys", "reversed_keys", "fa2_none", NONE),
        ("visit-all", "fa2_bottom_right", "fa2_no_skip", CAUSAL),
    ],
)
def test_a_rewrite_leads_from_one_golden_kernel_to_another(rewrite: str, before: str, after: str, bound: Bound) -> None:
    found = {identity(text, bound) for text in results(rewrite, golden(before), bound)}
    assert identity(golden(after), bound) in found


@pytest.mark.parametrize("rewrite", ["two-passes", "scale-at-use"])
def test_names_and_layout_of_the_kernel_do_not_matter(rewrite: str) -> None:
    text = the(rewrite, OTHER_HAND)
    assert verdict(text) is Verdict.PROVED, text


def test_a_rewrite_and_its_inverse_give_the_kernel_back() -> None:
    for there, back in [("two-passes", "one-pass"), ("base-two", "base-e"), ("scale-at-use", "base-e")]:
        text = the(there, golden("fa2_none"))
        again = results(back, text) or results("scale-folded", text)
        assert again, there
    assert identity(the("running-pivot", golden("lazy_rescale")), NONE) != identity(golden("lazy_rescale"), NONE)


def test_two_passes_become_one_with_a_running_maximum() -> None:
    text = the("one-pass", golden("two_pass_causal"), CAUSAL)
    assert text.count("load(K") == 1 and "carry m, l, acc" in text
    assert verdict(text, CAUSAL) is Verdict.PROVED, text


@pytest.mark.parametrize(
    ("rewrite", "name"),
    [
        ("lazy-pivot", "lazy_rescale"),
        ("running-pivot", "fa2_none"),
        ("one-pass", "fa2_none"),
        ("two-passes", "two_pass"),
        ("base-two", "exp2_folded_scale"),
        ("base-e", "fa2_none"),
        ("scale-folded", "fa2_none"),
        ("scale-at-use", "exp2_scale_at_use"),
        ("visit-all", "fa2_none"),
        ("diagonal-first", "fa2_none"),
    ],
)
def test_a_rewrite_that_has_nothing_to_do_yields_nothing(rewrite: str, name: str) -> None:
    assert results(rewrite, golden(name)) == []


def test_the_gate_stops_weights_without_a_pivot_where_scores_are_large() -> None:
    text = the("fixed-pivot", golden("fa2_none"))
    assert "p = exp(s)" in text and "maximum" not in text
    assert verdict(text) is Verdict.REFUTED


def test_weights_need_no_pivot_where_a_cap_keeps_scores_small() -> None:
    small = bind(load_spec(GOLDEN.parent / "specs" / "softcap_small.toml"))
    online = the("one-pass", golden("../../../specs/softcap/two_pass"), small)
    assert identity(the("fixed-pivot", online, small), small) == identity(golden("no_pivot_small_cap"), small)
