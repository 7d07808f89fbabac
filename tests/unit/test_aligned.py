"""A version for lengths that are multiples of 16: the same text, and 16 bytes moved at a time."""

from __future__ import annotations

from typing import Any

import pytest
from lowering_cases import attention, certificate_for, documented, typed
from small_spec import RIGHT, SPEC

from ir.loader import bind, load_spec, parse_spec
from lowering.aligned import aligned_sizes
from lowering.choose import choose
from lowering.crosscheck import crosscheck_versions
from lowering.lower import lower
from lowering.versions import Version, versions_in
from synth.propose.seeds import seeds

BOUND = bind(parse_spec(SPEC), {})
WIDE = RIGHT.replace("meta BC = 64", "meta BC = 512")
MASK = "mask=j < C"


def sizes(text: str) -> list[str]:
    return aligned_sizes(typed(text, BOUND))


def test_a_length_that_masks_neighbours_of_one_thread_counts() -> None:
    assert sizes(WIDE) == ["C"]
    assert sizes(WIDE.replace(MASK, "mask=C > j and j >= 0")) == ["C"]
    assert sizes(WIDE.replace("        x =", "        here = j < C\n        x =").replace(MASK, "mask=here")) == ["C"]
    assert sizes(WIDE.replace("kernel rowsum(i < R):", "kernel rowsum(i < R):\n    schedule num_warps = 8")) == ["C"]


@pytest.mark.parametrize(
    "text",
    [
        RIGHT,  # a lane each
        WIDE.replace("kernel rowsum(i < R):", "kernel rowsum(i < R):\n    schedule num_warps = 16"),
        WIDE.replace(MASK, "mask=j <= j + C"),  # holds nothing against the lanes
        WIDE.replace("X[i, j]", "X[j, i]"),  # neighbouring lanes are not neighbouring cells
        WIDE.replace("X[i, j]", "X[i, 2 * j]"),
        WIDE.replace(f", {MASK}, other=0", ""),
        WIDE.replace(MASK, "mask=j < 4096"),
    ],
)
def test_others_do_not(text: str) -> None:
    assert sizes(text) == []


def test_rows_of_any_spec_have_them_and_tiles_of_a_static_head_dim_need_none() -> None:
    for name, size in (("softmax", "C"), ("layernorm", "C"), ("rmsnorm_bwd", "C"), ("bias_bwd", "N")):
        bound = bind(load_spec(name), {})
        assert aligned_sizes(typed(next(seeds(bound)).text, bound)) == [size], name
    assert aligned_sizes(typed(documented(), attention())) == []


@pytest.fixture(scope="module")
def lowered() -> dict[str, Any]:
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    made = lower(certificate_for(WIDE, BOUND, bits=32), typed(WIDE, BOUND), BOUND, ("sm_90", "gfx942"))
    section: dict[str, Any] = made.body["lowered"]
    return section


def test_only_what_the_compiler_is_told_is_different(lowered: dict[str, Any]) -> None:
    first, last = versions_in(lowered)
    assert (first.name, last.name) == ("aligned", "pointers")
    assert first.source == last.source.replace('@triton.jit(do_not_specialize=["C"])', "@triton.jit") != last.source


@pytest.mark.parametrize(("columns", "name"), [(1024, "aligned"), (48, "aligned"), (1032, "pointers"), (1, "pointers")])
def test_sizes_choose(lowered: dict[str, Any], columns: int, name: str) -> None:
    assert choose(versions_in(lowered), "sm_80", {}, {"R": 3, "C": columns}).name == name


def test_four_floats_are_loaded_at_a_time(lowered: dict[str, Any]) -> None:
    def loads(version: Version, target: str, op: str) -> int:
        code = version.resources[target][0]["code"]
        return sum(n for loop in code["loops"] for name, n in loop["ops"].items() if name.startswith(op))

    first, last = versions_in(lowered)
    for target, op in (("sm_90", "LDG"), ("gfx942", "global_load")):
        assert 4 * loads(first, target, op) == loads(last, target, op) > 0


def test_it_is_cross_checked_at_multiples_alone(lowered: dict[str, Any]) -> None:
    cases = crosscheck_versions(lowered, typed(WIDE, BOUND), BOUND)
    even, all_sizes = ([dict(c["sizes"])["C"] for c in cases if c["version"] == v] for v in ("aligned", "pointers"))
    assert even and not any(c % 16 for c in even) and any(c % 16 for c in all_sizes)
