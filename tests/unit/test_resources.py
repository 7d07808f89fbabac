"""What ships, compiled for every target: kernels and settings, which one is a target's default, what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ir.loader import load_spec
from synth.cli import main
from synth.resources import (
    TARGETS,
    Row,
    case_name,
    cases,
    clean,
    defaults,
    exceptions,
    left_out,
    load,
    save,
    subjects,
    without_tensor_cores,
)
from synth.resources_page import page_of
from synth.view_resources import show

ROOT = Path(__file__).parents[2]
ROWS, PAGE = ROOT / "benchmarks" / "results" / "resources.jsonl", ROOT / "docs" / "resources.md"
DECODE = load_spec("decode")


def row(kernel: str, spills: int = 0, **changed: Any) -> Row:
    """A row of `decode` at its defaults on sm_90."""
    of_kernel = {
        "name": "split", "registers": 100, "spills": spills, "shared": 2048, "warps": 4, "tensor_core": 8,
        "dots": "half", "exponentials": 4, "occupancy": 0.25, "warp_specialized": False, "tensor_memory": 0,
        "scalar_spills": 0,
    }  # fmt: skip
    return {
        "spec": "decode", "kernel": kernel, "settings": {"causal": "none"}, "case": "", "target": "sm_90",
        "version": "pointers",
        "subject": kernel, "problem": "", "kernels": [of_kernel], "predicted": 1e-3, "triton": "3.7.1", **changed,
    }  # fmt: skip


def test_a_spec_is_asked_at_every_head_dim_and_at_fp32() -> None:
    spec = load_spec("attention_bwd")
    assert [case_name(spec, c) for c in cases(spec)] == ["", "D=128", "D=256", "dtype=fp32 o_dtype=fp32"]
    assert [case_name(s, c) for s in [load_spec("softmax")] for c in cases(s)] == ["", "dtype=fp32"]


def test_a_kernel_is_compiled_for_what_its_header_leaves_open_in_the_sizes_it_gives() -> None:
    found = {(s.kernel, s.case) for s in subjects(load_spec("attention_bwd"))}
    assert {c for k, c in found if k == "diagonal_and_body"} == {"", "D=128", "D=256", "dtype=fp32 o_dtype=fp32"}
    assert {case for kernel, case in found if kernel == "fused_atomic_none"} == {"dtype=fp32 o_dtype=fp32"}
    assert "D=128" not in {c for k, c in found if k == "three_kernels_none"}  # others are in its place there
    assert {"", "D=128"} <= {c for k, c in found if k == "three_kernels_none-32x64"}


def test_a_header_sizes_schedules_and_excludes() -> None:
    found = list(subjects(load_spec("mla_bwd")))
    assert {case_name(load_spec("mla_bwd"), c) for c in cases(load_spec("mla_bwd"))} <= {s.case for s in found}
    (single,) = [s for s in found if s.kernel == "three_kernels-16x16x168"]
    assert single.text.count("maxnreg = 168") == single.text.count("\nkernel ") == 3  # also where there was no schedule
    assert single.text.count("maxnreg = 168, num_warps = 8") == 2 and "meta BM = 16\n" in single.text
    assert {s.kernel for s in found if s.case == "D=64"} >= {"three_kernels-32x32x64", "three_kernels-16x32x64"}
    recomputed = {s.case for s in subjects(load_spec("attention_bwd")) if s.kernel.startswith("delta_recomputed")}
    assert "D=128" in recomputed and "D=256" not in recomputed


def test_what_no_file_answers_is_composed() -> None:
    spec = load_spec("alibi")
    composed, smaller = [s for s in subjects(spec) if s.case == "dtype=fp32"]
    assert dict(composed.settings)["dtype"] == "fp32" and "kernel " in composed.text and smaller.text != composed.text


def test_the_default_of_a_target_is_the_fastest_predicted_that_spills_nothing() -> None:
    rows = [row("slow", predicted=3e-3), row("fast", predicted=2e-3), row("spilling", spills=8, predicted=1e-3)]
    rows.append(row("refused", problem="out of shared memory", kernels=[], predicted=1e-4))
    assert [clean(r) for r in rows] == [True, True, False, False]
    ((_, default),) = defaults(rows).items()
    assert default["kernel"] == "fast"


def test_a_version_no_certificate_keeps_is_no_default_and_no_reason_against_one() -> None:
    worse = [row("a", version="descriptors", spills=8, predicted=1e-4), row("a", predicted=2e-3)]
    refused = [row("b", version="specialised", problem="no", kernels=[]), row("b", predicted=3e-3)]
    assert (
        {d["version"] for d in defaults(worse).values()}
        == {d["version"] for d in defaults(refused).values()}
        == {"pointers"}
    )
    assert left_out([*worse, *refused]) == [worse[0], refused[0]]
    assert not defaults([row("a", version="descriptors"), row("a", spills=8)])  # the one that runs everywhere spills
    assert "`split` spills 8 B; left out" in page_of([DECODE], worse)


def test_what_is_missing_is_told_target_by_target() -> None:
    rows = [row("a", target=t) for t in TARGETS if t != "sm_80"] + [row("b", spills=4, target="sm_80")]
    missing = exceptions([DECODE], rows, TARGETS)
    assert ("decode", "", "sm_80") in missing and ("decode", "", "sm_90") not in missing
    assert ("decode", "D=128", "sm_90") not in missing  # nothing was compiled for it at all


def test_a_product_without_matrix_instructions_is_a_finding() -> None:
    scalar = row("a")
    scalar["kernels"][0]["tensor_core"] = 0
    single = row("b")
    single["kernels"][0] |= {"tensor_core": 0, "dots": "single"}  # f32 products are not rounded to tf32
    assert without_tensor_cores([scalar, single, row("c")]) == [("decode", "a", "split", "sm_90")]


def test_the_page_has_defaults_exceptions_and_what_spills() -> None:
    page = page_of([DECODE], [row("chunks"), row("even", spills=12)])
    assert "| causal=none | sm_90 | `chunks`, pointers | `split` | 100 | 2 KiB | 4 | 8 | 4 | 25% | 1 ms |" in page
    assert "not compiled yet (`make resources` goes on where it was stopped): decode" in page
    assert "`split` spills 12 B" in page


def test_rows_come_back_as_they_were_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert load(path) == []
    save(path, [row("b"), row("a")])
    assert [r["kernel"] for r in load(path)] == ["a", "b"] and list(tmp_path.iterdir()) == [path]


def test_new_rows_take_the_place_of_a_kernels_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions stay in their order; what no longer ships of the specs asked for is forgotten, other specs stay."""
    first = next(subjects(DECODE))
    about = {"settings": dict(first.settings), "subject": first.key}
    other = row("other", spec="varlen", subject="another")
    before = [row(first.kernel, **about, target=t) for t in ("sm_80", "sm_90")]
    save(tmp_path / "rows", [*before, row("gone"), other])
    made = [row(first.kernel, **about, version=version) for version in ("aligned", "pointers")]
    monkeypatch.setattr("synth.view_resources.survey", lambda *_: [(first, made)])
    assert show(["decode"], ["sm_90"], 1, tmp_path / "rows", None, False, True) == 0
    kept = [(r["spec"], r["target"], r["version"]) for r in load(tmp_path / "rows")]
    ours = [("decode", "sm_80", "pointers"), ("decode", "sm_90", "aligned"), ("decode", "sm_90", "pointers")]
    assert kept == [*ours, ("varlen", "sm_90", "pointers")]


def test_an_unknown_target_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resources", "decode", "--target", "sm_75"]) == 64
    assert "gfx942" in capsys.readouterr().err


def test_the_page_has_every_default_that_the_kept_rows_name() -> None:
    rows = load(ROWS)
    page = PAGE.read_text()
    assert rows and len(defaults(rows)) > 20
    for default in defaults(rows).values():
        heaviest = max(default["kernels"], key=lambda k: k["registers"])
        cells = f"| {default['target']} | `{default['kernel']}`, {default['version']} | `{heaviest['name']}` |"
        assert cells in page, "run make resources"
