"""A slice of `make resources`: kernels of every group, compiled for every target, spill nothing and fit.

The whole table takes much longer and is docs/resources.md. Emitted as the gate proves these kernels: integers in 32
bits, address offsets in 64.
"""

from __future__ import annotations

import pytest

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import Dot, DType
from ir.typing import check
from lowering.compile import compile_kernels
from lowering.plan import launches_of, walk
from lowering.triton import emit_program
from synth.propose.seeds import seeds

pytest.importorskip("triton", reason="Triton is not installed on this platform")

SLICE = (
    ("attention_bwd", "own_tiles_none-32x128x128x64", {"D": 128}, "sm_90"),  # the heaviest of Hopper's
    ("attention_bwd", "head_dim_256_bottom_right", {"causal": "bottom_right", "D": 256}, "sm_90"),
    ("attention_bwd", "three_kernels_none-32x64", {}, "sm_80"),
    ("attention_bwd", "wide_heads-16x16", {"causal": "bottom_right", "D": 256}, "gfx942"),
    ("softcap_bwd", "three_kernels_none-16x32x168", {"dtype": "fp32", "o_dtype": "fp32"}, "sm_100"),
    ("bias", "online", {"causal": "none"}, "sm_80"),
    ("softcap", "online_causal", {"causal": "bottom_right"}, "sm_100"),
    ("sinks", "sink_first-32x32", {"causal": "bottom_right", "dtype": "fp32"}, "sm_90"),
    ("paged", "page_by_page", {"causal": "bottom_right"}, "gfx942"),
    ("rmsnorm_bwd", "saved", {}, "gfx942"),
    ("cross_entropy", "gather", {}, "sm_100"),
)


@pytest.mark.parametrize("spec, kernel, settings, target", SLICE, ids=lambda x: x if isinstance(x, str) else "")
def test_what_ships_compiles_without_spills(
    spec: str, kernel: str, settings: dict[str, str | int], target: str
) -> None:
    bound = bind(load_spec(spec), settings)
    (candidate,) = [c for c in seeds(bound) if c.name == kernel]
    program = check(parse(candidate.text), bound)
    offsets, integers = ({k.name: bits for k in program.kernels} for bits in (64, 32))
    source = emit_program(program, bound, offsets, "", integers)
    rows = compile_kernels(source, launches_of(program), target)
    assert [r.spills for r in rows] == [0] * len(rows)
    for kernel_of, row in zip(program.kernels, rows, strict=True):
        halves = any(isinstance(n, Dot) and n.left.type.dtype is not DType.F32 for n in walk(kernel_of))
        assert row.tensor_core > 0 or not halves, f"{row.kernel} multiplies without matrix instructions"
        assert row.tensor_memory <= 512
