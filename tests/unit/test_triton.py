"""Emitted Triton: readable, in the width that was proved, and equal to the reference interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
from lowering_cases import EVERY_OPERATION, attention, certificate_for, documented, typed, widths

from ir.program import DType, Let
from lowering.crosscheck import CrosscheckFailed, crosscheck, tolerance
from lowering.intervals import interval
from lowering.lower import NotCertified, require_certified
from lowering.shapes import ragged
from lowering.triton import emit, emit_program


def emitted(text: str, causal: str = "bottom_right", dtype: str = "bf16", bits: int = 64) -> str:
    bound = attention(causal, dtype)
    program = typed(text, bound)
    return emit_program(program, bound, widths(program, bits))


LOOP = """\
    m = tl.full([128], -float("inf"), tl.float32)
    l = tl.full([128], 0.0, tl.float32)
    acc = tl.full([128, 64], 0.0, tl.float32)
    for n in range(0, _floordiv(tl.minimum(N, t * 128 + 128 + N - M) + 63, 64)):
        j = n * 64 + tl.arange(0, 64).to(tl.int64)
        k = tl.load(K + b * K_s0 + g * K_s1 + j[:, None] * K_s2 + e[None, :] * K_s3, mask=j[:, None] < N, other=0.0)
        s = tl.dot(q, tl.trans(k)) * scale
        sees = (j[None, :] < N) & (j[None, :] <= i[:, None] + N - M)
        s_1 = tl.where(sees, s, -float("inf"))
        m_new = tl.maximum(m, tl.max(s_1, axis=1))
        m_safe = tl.where(m_new == -float("inf"), 0.0, m_new)  # a row that has seen no key yet
        p = tl.exp(s_1 - m_safe[:, None])
        alpha = tl.exp(m - m_safe)
        l = l * alpha + tl.sum(p, axis=1)
        v = tl.load(V + b * V_s0 + g * V_s1 + j[:, None] * V_s2 + e[None, :] * V_s3, mask=j[:, None] < N, other=0.0)
        acc = tl.dot(p.to(tl.bfloat16), v, acc * alpha[:, None])
        m = m_new
"""


def test_the_loop_reads_as_the_candidate_wrote_it() -> None:
    assert LOOP in emitted(documented())


def test_a_module_imports_only_triton() -> None:
    imports = [line for line in emitted(EVERY_OPERATION).splitlines() if line.startswith(("import", "from"))]
    assert imports == ["import triton", "import triton.language as tl"]


def test_integers_take_the_proved_width() -> None:
    wide, narrow = emitted(documented(), bits=64), emitted(documented(), bits=32)
    assert "pid = tl.program_id(0).to(tl.int64)" in wide
    assert "N = tl.cast(N, tl.int64)" in wide
    assert "int64" not in narrow


def test_indices_may_be_narrower_than_offsets() -> None:
    bound = attention()
    program = typed(documented(), bound)
    source = emit_program(program, bound, widths(program, 64), index_widths=widths(program, 32))
    assert "Q_s0, Q_s1 = tl.cast(Q_s0, tl.int64), tl.cast(Q_s1, tl.int64)" in source
    assert "j = n * 64 + tl.arange(0, 64)\n" in source  # lanes and counters stay 32 bits wide
    crosscheck(source, program, bound, shapes=({"B": 1, "G": 2, "H": 4, "M": 133, "N": 70},)).require()
    with pytest.raises(ValueError, match="32 or 64"):
        emit_program(program, bound, widths(program, 32), index_widths=widths(program, 64))


def test_the_last_grid_axis_varies_fastest() -> None:
    lines = [line.strip() for line in emitted(documented()).splitlines()]
    at = lines.index("t_count = (M + 127) // 128")
    decoded = ["t = pid % t_count", "pid = pid // t_count", "h = pid % H", "pid = pid // H", "b = pid"]
    assert lines[at + 1 : at + 6] == decoded


def test_division_truncates_only_where_nothing_is_negative() -> None:
    text = emitted(EVERY_OPERATION)
    assert "back = _floordiv(i - 20, 3) + 7" in text  # i - 20 may be negative
    assert "h // (H // G)" in emitted(documented())  # sizes and program ids are not


def test_float32_products_are_not_rounded_to_tf32() -> None:
    assert 'input_precision="ieee"' in emitted(documented(), dtype="fp32")
    assert "input_precision" not in emitted(documented(), dtype="bf16")


def test_a_sum_of_products_is_not_made_a_tf32_dot() -> None:
    """Triton's combine pass takes sum(a[:, :, None] * b[None, :, :], axis=1) for a dot that keeps 10 bits."""
    before = "acc = dot(cast(p, V.dtype), v, acc * alpha[:, None])"
    added = "acc = acc * alpha[:, None] + sum(p[:, :, None] * cast(v, f32)[None, :, :], axis=1)"
    text = documented().replace(before, added)
    assert "axis=1)" in emitted(text) and "+ 0.0, axis=1)" in emitted(text)


def test_a_quotient_of_halves_is_rounded_to_a_half() -> None:
    text = documented().replace(" s = dot(q, trans(k))", " s = dot(q / full([BM, D], 3.0, bf16), trans(k))")
    assert "tl.dot((q / 3.0).to(tl.bfloat16), tl.trans(k))" in emitted(text)  # Triton's own is f32: no dot takes that


def test_a_name_triton_needs_is_not_taken_by_the_candidate() -> None:
    text = documented().replace(" e = arange(D)", " pid = arange(D)").replace("e[None", "pid[None")
    source = emitted(text)
    assert "pid_ = tl.arange(0, 64)" in source
    bound = attention()
    assert crosscheck(source, typed(text, bound), bound, shapes=({"B": 1, "G": 1, "H": 1, "M": 5, "N": 9},)).ok


def test_warp_specialisation_is_asked_of_the_innermost_loop() -> None:
    text = documented().replace("num_stages = 3", "num_stages = 3, warp_specialize = true")
    assert "in tl.range(0, _floordiv(" in emitted(text)
    assert "warp_specialize=True" in emitted(text)


def test_a_kernel_without_a_proved_width_is_not_emitted() -> None:
    bound = attention()
    with pytest.raises(KeyError):
        emit_program(typed(documented(), bound), bound, {})


def test_emit_takes_widths_and_subject_from_the_certificate() -> None:
    bound = attention()
    certificate = certificate_for(documented(), bound, bits=32)
    source = emit(certificate, typed(documented(), bound), bound)
    assert certificate.body["subject"]["candidate"]["sha256"] in source
    assert "int64" not in source
    mixed = certificate_for(documented(), bound).with_section("index_widths", {"attention": 32})
    assert "pid = tl.program_id(0)\n" in emit(mixed, typed(documented(), bound), bound)


def test_only_the_certified_program_gets_through_the_door() -> None:
    bound = attention()
    certificate = certificate_for(documented(), bound)
    require_certified(certificate, typed(documented(), bound), bound)
    with pytest.raises(NotCertified, match="another candidate"):
        require_certified(certificate, typed(documented().replace("exp(m -", "exp(m_safe -"), bound), bound)
    other = attention("top_left")
    with pytest.raises(NotCertified, match="issued for"):
        require_certified(certificate, typed(documented(), other), other)


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_attention_agrees_with_the_reference_on_ragged_shapes(dtype: str) -> None:
    bound = attention(dtype=dtype)
    program = typed(documented(), bound)
    result = crosscheck(emit_program(program, bound, widths(program)), program, bound)
    shapes = [dict(case.sizes) for case in result.cases]
    assert any(s["M"] > s["N"] > 0 for s in shapes)  # rows that see no key
    assert any(s["M"] < s["N"] for s in shapes)
    assert any(s["N"] == 0 for s in shapes)
    assert result.require().ok
    # Tighter than what the gate tolerates: a float32 kernel agrees to float32 roundings.
    if dtype == "fp32":
        assert max(error for case in result.cases for _, error in case.errors) < 1e-5


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("bits", [32, 64])
def test_every_operation_agrees_with_the_reference(dtype: str, bits: int) -> None:
    bound = attention("none", dtype)
    program = typed(EVERY_OPERATION, bound)
    source = emit_program(program, bound, widths(program, bits))
    crosscheck(source, program, bound, shapes=({"B": 2, "G": 1, "H": 3, "M": 37, "N": 3},)).require()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("j[None, :] <= i[:, None] + N - M", "j[None, :] < i[:, None] + N - M"),
        ("h // (H // G)", "h % G"),
        ("tl.exp(m - m_safe)", "tl.exp(m - m_safe) * 1.25"),
        ("mask=i < M", "mask=i < M - 1"),
        ("b * V_s0", "b * K_s1"),
    ],
)
def test_the_crosscheck_sees_a_wrong_lowering(right: str, wrong: str) -> None:
    bound = attention()
    program = typed(documented(), bound)
    source = emit_program(program, bound, widths(program))
    assert right in source
    shape = {"B": 2, "G": 2, "H": 4, "M": 40, "N": 70}
    result = crosscheck(source.replace(right, wrong), program, bound, shapes=(shape,))
    assert not result.ok
    with pytest.raises(CrosscheckFailed, match="disagrees"):
        result.require()


def test_a_module_that_does_not_run_fails_the_crosscheck() -> None:
    bound = attention()
    program = typed(documented(), bound)
    source = emit_program(program, bound, widths(program)).replace("tl.exp(", "tl.no_such(")
    with pytest.raises(CrosscheckFailed, match="no_such"):
        crosscheck(source, program, bound)


def test_ragged_shapes_keep_to_limits_and_requirements() -> None:
    bound = attention()
    for sizes in ragged(typed(documented(), bound), bound):
        assert sizes["H"] % sizes["G"] == 0 and sizes["G"] > 1  # grouped heads, so that h % G shows
        assert all(d.minimum <= sizes[d.name] <= d.maximum for d in bound.dims)


def test_tolerance_is_set_by_the_coarsest_dtype() -> None:
    assert tolerance(typed(documented(), attention(dtype="fp32"))) < tolerance(typed(documented(), attention()))


def test_intervals_contain_every_value() -> None:
    shift = typed(EVERY_OPERATION, attention("none")).kernels[1]
    names: dict[str, tuple[int | None, int | None]] = {"t": (0, 9)}
    for statement in shift.body:
        if isinstance(statement, Let) and statement.value.type.dtype is DType.INT:
            names[statement.name] = interval(statement.value, {"M": (1, 160)}, names)
    assert names["i"] == (0, 159)
    low, high = names["back"]
    assert low is not None and low <= -20 // 3 + 7 and high == 139 // 3 + 7
    assert names["back_1"] == (0, 159)  # ... % max(M, 1)


def test_emitted_text_is_valid_python_no_wider_than_the_candidate_needs(tmp_path: Path) -> None:
    for text in (documented(), EVERY_OPERATION):
        compile(emitted(text), str(tmp_path / "kernel.py"), "exec")
    assert max(map(len, emitted(documented()).splitlines())) <= 120
