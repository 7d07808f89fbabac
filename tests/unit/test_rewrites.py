"""Rewrites of structure and schedule: where they fit, what they give, and that the gate judges them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ir.diagnostics import SourceError
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.printer import print_module
from ir.spec import Bound
from synth.certify import certify
from synth.propose.rewrites import REWRITES, Rewrite, Subject
from verifier.verdict import Verdict

GOLDEN = Path(__file__).parents[1] / "golden" / "proved"
SOFTMAX = bind(load_spec("softmax"))
RMSNORM = bind(load_spec("rmsnorm"))
CAUSAL = bind(load_spec("attention"), {"causal": "bottom_right"})
ROWS = """\
meta BR = 4
meta BC = 32

kernel softmax(t < cdiv(R, BR)):
    schedule num_warps = 4, num_stages = 1
    i = t * BR + arange(BR)
    m = full([BR], -inf, f32)
    l = zeros([BR], f32)
    for n in range(cdiv(C, BC)) carry m, l:
        j = n * BC + arange(BC)
        x = load(X[i[:, None], j[None, :]], mask=(i[:, None] < R) and (j[None, :] < C), other=0)
        x = where(j[None, :] < C, cast(x, f32), -inf)
        m_new = maximum(m, max(x, axis=1))
        l = l * exp(m - m_new) + sum(exp(x - m_new[:, None]), axis=1)
        m = m_new
    for n in range(cdiv(C, BC)):
        j = n * BC + arange(BC)
        here = (i[:, None] < R) and (j[None, :] < C)
        x = cast(load(X[i[:, None], j[None, :]], mask=here, other=0), f32)
        store(Y[i[:, None], j[None, :]], cast(exp(x - m[:, None]) / l[:, None], Y.dtype), mask=here)
"""


NEST = """\
meta BR = 4
meta BC = 32

kernel rmsnorm(t < cdiv(R, BR)):
    i = t * BR + arange(BR)
    q = zeros([BR], f32)
    for a in range(2) carry q:
        for n in range(cdiv(C, 2 * BC)) carry q:
            j = (2 * n + a) * BC + arange(BC)
            rows = i[:, None] < R
            x = cast(load(X[i[:, None], j[None, :]], mask=rows and j[None, :] < C, other=0), f32)
            q = q + sum(x * x, axis=1)
    for n in range(cdiv(C, BC)):
        j = n * BC + arange(BC)
        here = i[:, None] < R and j[None, :] < C
        x = cast(load(X[i[:, None], j[None, :]], mask=here, other=0), f32)
        w = cast(load(W[j], mask=j < C, other=0), f32)
        y = x * (1.0 / sqrt(q / cast(C, f32) + eps))[:, None] * w[None, :]
        store(Y[i[:, None], j[None, :]], cast(y, Y.dtype), mask=here)
    store(RSTD[i], 1.0 / sqrt(q / cast(C, f32) + eps), mask=i < R)
"""


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.tile").read_text()


def rewrite(name: str) -> Rewrite:
    return next(r for r in REWRITES if r.name == name)


def results(name: str, text: str = ROWS, bound: Bound = SOFTMAX) -> list[str]:
    return list(rewrite(name).texts(Subject.of(text, bound)))


def verdict(text: str, bound: Bound) -> Verdict:
    return certify(text, bound).report.verdict


def test_every_rewrite_has_a_name_of_its_own_and_says_what_it_does() -> None:
    names = [r.name for r in REWRITES]
    assert len(set(names)) == len(names)
    assert all(len(r.doc.split()) > 10 for r in REWRITES)


def test_tiles_go_to_their_neighbours_within_limits() -> None:
    assert ["meta BC = 16" in text for text in results("halve-tile")] == [True]  # BR = 4 stays: below 16
    assert [text.splitlines()[:2] for text in results("double-tile")] == [
        ["meta BR = 8", "meta BC = 32"],
        ["meta BR = 4", "meta BC = 64"],
    ]
    large = ROWS.replace("BC = 32", "BC = 8192")
    assert results("double-tile", large) == []  # 4 x 8192 elements are what registers hold


def test_schedules_go_to_their_neighbours_within_limits() -> None:
    assert "num_warps = 8, num_stages = 1" in results("more-warps")[0]
    assert "num_warps = 2, num_stages = 1" in results("fewer-warps")[0]
    assert "num_warps = 4, num_stages = 2" in results("more-stages")[0]
    assert results("fewer-stages") == []
    assert ["maxnreg = 255" in t or "maxnreg = 224" in t for t in results("cap-registers")] == [True, True]
    capped = ROWS.replace("num_stages = 1", "num_stages = 1, maxnreg = 96")
    assert any("maxnreg" not in text for text in results("cap-registers", capped))


def test_multiplications_by_one_are_skipped_where_a_carried_tile_has_factors() -> None:
    (skipping,) = results("skip-ones", golden("lazy_rescale_causal"), CAUSAL)
    assert "schedule skip_ones = true" in skipping
    (again,) = results("skip-ones", skipping, CAUSAL)
    assert "skip_ones" not in again
    assert results("skip-ones") == []  # rows that are read, no tile that is carried


def test_what_is_no_kernel_of_the_spec_is_dropped() -> None:
    broken = Rewrite("rename", lambda subject: iter([parse(print_module(subject.module).replace("Y[", "Z["))]))
    same = Rewrite("nothing", lambda subject: iter([subject.module]))
    assert list(broken.texts(Subject.of(ROWS, SOFTMAX))) == list(same.texts(Subject.of(ROWS, SOFTMAX))) == []
    with pytest.raises(SourceError):
        Subject.of(ROWS.replace("Y[", "Z["), SOFTMAX)


def test_a_loop_is_split_where_its_mask_ends() -> None:
    first, second = results("split-loop")
    assert "whole_stop = C // BC\n    for n in range(whole_stop) carry m, l:" in first
    body = first.split("for n in range(whole_stop) carry m, l:")[1].split("for n in")[0]
    assert "mask=i[:, None] < R," in body and "x = cast(x, f32)" in body  # no comparison with C is left
    assert "for n in range(whole_stop, cdiv(C, BC)) carry m, l:" in first
    assert verdict(first, SOFTMAX) is Verdict.PROVED
    assert results("split-loop", golden("body_and_diagonal"), CAUSAL) == []  # is split already


def test_a_condition_on_later_keys_splits_off_the_first_blocks() -> None:
    window = bind(load_spec("window"), {"align": "bottom_right"})
    text = (Path(__file__).parents[2] / "specs" / "window" / "skip_both_sides.tile").read_text()
    first = results("split-loop", text, window)[0]
    assert "whole = max(max(0, t * BM + N - M - L) // BN, min(" in first
    assert "whole_stop = max(whole, min(" in first  # after the first part, however short the range is
    assert first.count("carry m, l, acc:") == 3


def test_blocks_that_no_row_sees_are_skipped() -> None:
    (skipping,) = results("skip-blocks", golden("fa2_no_skip"), CAUSAL)
    assert "for n in range(cdiv(min(N, t * BM + BM + N - M), BN)) carry m, l, acc:" in skipping
    assert verdict(skipping, CAUSAL) is Verdict.PROVED
    assert results("skip-blocks", skipping, CAUSAL) == []  # nothing is left to skip


def test_the_gate_stops_blocks_that_were_skipped_wrongly() -> None:
    """A mask that is only an alternative bounds nothing; under a name the rewrite does not see that."""
    prefix = bind(load_spec("prefix"))
    text = (Path(__file__).parents[2] / "specs" / "prefix" / "skip_unseen.tile").read_text()
    sees = "(j[None, :] < P) or (j[None, :] <= i[:, None] + N - M)"
    named = text.replace("        sees =", "        early = j[None, :] < P\n        sees =")
    named = named.replace(sees, sees.replace("(j[None, :] < P)", "early"))
    assert results("skip-blocks", text, prefix) == []
    (wrong,) = results("skip-blocks", named, prefix)
    assert "min(min(N, max(P, t * BM + BM + N - M)), P)" in wrong
    assert verdict(wrong, prefix) is Verdict.REFUTED


def test_what_no_iteration_changes_is_computed_before_the_loop() -> None:
    part, whole = results("hoist", NEST, RMSNORM)
    assert "    fixed = 1.0 / sqrt(q / cast(C, f32) + eps)\n    for n in" in part
    assert "        rows = i[:, None] < R\n        for n in range(cdiv(C, 2 * BC))" in whole
    assert verdict(part, RMSNORM) is Verdict.PROVED
    assert results("hoist") == []  # every statement of the softmax depends on its block


def test_a_load_moves_into_the_only_loop_that_reads_it() -> None:
    (reloading,) = results("reload", golden("fa2_none"), bind(load_spec("attention")))
    assert "        q = load(Q" in reloading and "\n    q = load(Q" not in reloading
    assert results("reload") == []


def test_the_loops_of_a_nest_change_places() -> None:
    (changed,) = results("interchange", NEST, RMSNORM)
    assert "    for n in range(cdiv(C, 2 * BC)) carry q:\n        rows = i[:, None] < R\n        for a in" in changed
    assert verdict(changed, RMSNORM) is Verdict.PROVED
    assert results("interchange", NEST.replace("2 * BC)) carry", "(2 + a) * BC)) carry"), RMSNORM) == []
    assert results("interchange") == []


def test_loops_over_adjacent_ranges_become_one_again() -> None:
    split = results("split-loop")[0]
    assert results("fuse-loops", split) == [print_module(parse(ROWS))]
    assert results("fuse-loops") == []  # the second loop of the softmax reads what the first one carries


def test_a_loop_with_independent_sums_is_distributed_and_fused_again() -> None:
    layernorm = bind(load_spec("layernorm"))
    text = (Path(__file__).parents[2] / "specs" / "layernorm" / "shifted.tile").read_text()
    (apart,) = results("distribute-loop", text, layernorm)
    assert [line for line in apart.splitlines() if "carry" in line] == [
        "    for n in range(cdiv(C, BC)) carry s:",
        "    for n in range(cdiv(C, BC)) carry q:",
    ]
    assert verdict(apart, layernorm) is Verdict.PROVED
    (together,) = results("fuse-loops", apart, layernorm)
    assert together == print_module(parse(text))
    assert results("distribute-loop") == []  # the sum of the softmax depends on its pivot


def test_grids_are_reordered_and_turned_round() -> None:
    text = golden("fa2_bottom_right")
    heads = [line for t in results("grid-order", text, CAUSAL) for line in t.splitlines() if line.startswith("kernel")]
    assert heads == [
        "kernel attention(h < H, t < cdiv(M, BM), b < B):",
        "kernel attention(b < B, t < cdiv(M, BM), h < H):",
    ]
    (turned,) = results("last-first")
    assert "kernel softmax(part < cdiv(R, BR)):" in turned and "t = cdiv(R, BR) - 1 - part" in turned
    assert verdict(turned, SOFTMAX) is Verdict.PROVED
    assert results("grid-order") == []  # a single axis
    assert results("last-first", NEST.replace("t < cdiv(R, BR)", "t < (R + BR - 1) // BR"), RMSNORM) == []


def test_one_kernel_of_several_gets_tiles_of_its_own() -> None:
    layernorm = bind(load_spec("layernorm"))
    text = (Path(__file__).parents[2] / "specs" / "layernorm" / "shifted.tile").read_text()
    found = results("own-tile", text, layernorm)
    assert [t.split("\n\n")[0].splitlines()[-1] for t in found] == [
        "meta BR_moments = 8", "meta BC_moments = 256", "meta BC_moments = 1024",
        "meta BR_write = 8", "meta BC_write = 256", "meta BC_write = 1024",
    ]  # fmt: skip
    assert verdict(found[1], layernorm) is Verdict.PROVED
    assert results("own-tile") == []
