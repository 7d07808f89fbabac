"""Triton's intermediate text, read back: what it means is proved again, and a text that means something else is not."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import shipped
from rounding_cases import ROOT, case

from ir import program as core
from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.program import DType
from ir.spec import Bound
from ir.typing import check
from lowering.boxes import with_boxes
from lowering.compile import CompileError
from lowering.emitted import emitted_module
from lowering.plan import launches_of, walk
from lowering.spelling import HELPERS
from lowering.triton import emit_program
from lowering.ttir.again import ReadBack, again, judged, overflow
from lowering.ttir.front import text
from lowering.ttir.lift import Lifted, lift, precisions
from lowering.ttir.text import NotLifted
from lowering.versions import Version
from synth.cli import main
from verifier.certificate import Certificate
from verifier.verdict import Report, Verdict

SPECIALISED = core.Schedule(num_warps=4, num_stages=2, warp_specialize=True)
HALVES = "_floordiv(t - 7, 2) + _floordiv(8 - t, 2)"
ATTENTION = "tests/golden/proved/fa2_bottom_right.tile"


@cache
def _square() -> tuple[core.Program, Bound]:
    bound = bind(parse_spec(shipped.SQUARE), {"sign": "plus"})
    return check(parse(shipped.SQUARED), bound), bound


def _emitted(program: core.Program, bound: Bound) -> str:
    names = [k.name for k in program.kernels]
    return emit_program(program, bound, dict.fromkeys(names, 64), "", dict.fromkeys(names, 32))


def _texts(program: core.Program, source: str) -> tuple[str, ...]:
    module = emitted_module(source)
    return tuple(text(module, launch, "sm_90") for launch in launches_of(program))


def _again(
    program: core.Program, bound: Bound, source: str, found: tuple[str, ...], form: core.Program | None = None
) -> ReadBack:
    version = Version("pointers", source, "", launches_of(form or program))
    return judged(version, found, program, bound, search=False)


@cache
def _square_text() -> str:
    program, bound = _square()
    return _texts(program, _emitted(program, bound))[0]


# ---- emitted modules ---------------------------------------------------------------------------


def test_tanh_is_told_by_all_of_it() -> None:
    program, bound = case("specs/softcap/two_pass.tile")
    source = _emitted(program, bound)
    found = _again(program, bound, source, _texts(program, source))
    assert found.proved and "a series and a quotient are tanh" in found.idealised
    for right, wrong in (("0.13333333333333333", "0.13333"), ("tl.abs(x) < 0.2", "tl.abs(x) < 2.0"), ("+ e)", "- e)")):
        assert right in source
        text = _texts(program, source.replace(right, wrong))[0]
        lifted = lift(text, launches_of(program)[0], program.kernels[0], program, bound)
        assert not lifted.idealised


@pytest.mark.parametrize("path", [ATTENTION, "specs/decode/packed_chunks.tile", "specs/rmsnorm/rows.tile"])
def test_what_is_emitted_is_proved_again(path: str) -> None:
    program, bound = case(path)
    source = _emitted(program, bound)
    found = _again(program, bound, source, _texts(program, source))
    assert found.proved, found.why
    assert set(found.idealised) <= {"1.4426950216293335 is log2e", "0.6931471824645996 is ln2"}


SHIPPED = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "specs").glob("*/*.tile"))


@pytest.mark.thorough
@pytest.mark.parametrize("path", SHIPPED)
def test_all_that_ships_is_proved_again(path: str) -> None:
    """But what draws random numbers: their integers are not lifted."""
    program, bound = case(path)
    widths = {k.name: 64 for k in program.kernels}
    source = emit_program(program, bound, widths, "", widths)
    found = _again(program, bound, source, _texts(program, source))
    random = any(isinstance(node, core.Random) for node in walk(program.kernels))
    assert found.proved != random, found.why


BOXES = [
    ("", "", True),
    ("Q_128x128.load([b, h, ", "Q_128x128.load([b, h, 128 + ", False),
    ("O_128x128.store([b, h, ", "O_128x128.store([b, g, ", False),
]


@pytest.mark.parametrize(("right", "wrong", "proved"), BOXES, ids=["as it is", "another corner", "another head"])
def test_boxes_are_read_back(right: str, wrong: str, proved: bool) -> None:
    """A box is a load or a store with a mask: what TMA leaves out at the edges is in the proof."""
    program, bound = case("tests/golden/proved/fa2_large_tiles.tile")
    form = with_boxes(program, {k.name: 32 for k in program.kernels})
    source = _emitted(form, bound)
    assert right in source and ".load([" in source and ".store([" in source
    source = source.replace(right, wrong)
    assert _again(program, bound, source, _texts(form, source), form).proved == proved


MADE = [
    ("", "", True),
    ("[M, 128], [Q_s2", "[M + 1, 128], [Q_s2", False),
    ("[Q_s2, 1]", "[Q_s1, 1]", False),
]


@pytest.mark.parametrize(("right", "wrong", "proved"), MADE, ids=["as it is", "an extent too large", "another stride"])
def test_descriptors_that_a_kernel_makes_are_read_back(right: str, wrong: str, proved: bool) -> None:
    program, bound = case("tests/golden/proved/fa2_large_tiles.tile")
    asked = replace(program, kernels=tuple(replace(k, schedule=SPECIALISED) for k in program.kernels))
    form = with_boxes(asked, {k.name: 32 for k in program.kernels}, specialised=True)
    source = _emitted(form, bound)
    assert right in source and "tl.make_tensor_descriptor(" in source
    source = source.replace(right, wrong)
    assert _again(asked, bound, source, _texts(form, source), form).proved == proved


# Each is a mistake that a code generator, or somebody who edits a certificate's module, could make.
SQUARED = [
    ("mask=inside, other=0.0", "mask=inside, other=1.0", None),  # never seen: lanes outside are not stored
    ("(j[None, :] < C)", "(j[None, :] <= C)", "B1"),
    ("i[:, None] * X_s0 + j[None, :] * X_s1", "j[None, :] * X_s0 + i[:, None] * X_s1", "B1"),
    ("u_count = (C + 31) // 32", "u_count = C // 32", "the extent of axis u"),
    ("tl.cast(X_s0, tl.int64)", "tl.cast(X_s0, tl.int32)", "32 bits what is not shown to fit"),
    ("x * x * scale", "x * x + scale", "E1"),
    ("x * x * scale", "x * x * 1.0", "E1"),
    ("x * x * scale, mask=inside", "x * x * scale", "B1"),
    ("t * 16", "t * 8", "R1"),
    ("tl.store(", "tl.atomic_add(", "C1"),
    ("x * x * scale", "tl.flip(x * x * scale, 1)", "line"),
]


@pytest.mark.parametrize(("right", "wrong", "why"), SQUARED, ids=[f"{k}: {c[1]}" for k, c in enumerate(SQUARED)])
def test_a_module_that_was_changed_is_told(right: str, wrong: str, why: str | None) -> None:
    program, bound = _square()
    source = _emitted(program, bound)
    assert source.count(right) == 1
    try:
        source = source.replace(right, wrong)
        found = _again(program, bound, source, _texts(program, source))
    except (CompileError, TypeError) as problem:
        pytest.fail(str(problem))
    assert found.proved == (why is None)
    assert why is None or why in found.why


ATTENTIONS = [
    ("acc * alpha[:, None]", "acc", "E1"),
    ("<=", "<", "E1"),
    ("tl.exp(m - m_safe)", "tl.exp(m_safe - m)", "E1"),
    ("l * alpha", "l", "E1"),
]


@pytest.mark.parametrize(("right", "wrong", "why"), ATTENTIONS, ids=[c[1] for c in ATTENTIONS])
def test_attention_that_was_changed_is_told(right: str, wrong: str, why: str) -> None:
    program, bound = case(ATTENTION)
    source = _emitted(program, bound)
    assert right in source
    source = source.replace(right, wrong)
    found = _again(program, bound, source, _texts(program, source))
    assert not found.proved and why in found.why


# ---- texts --------------------------------------------------------------------------------------

TEXTS = [
    ("arith.addi %13, %12 :", "arith.addi %13, %12 overflow<nsw> :", "overflow"),
    ("arith.cmpi slt, %15", "arith.cmpi ult, %15", "ult"),
    ("tt.load %32, %23, %cst :", "tt.load %32, %23 :", "masked lanes undefined"),
    ("tt.load %32, %23, %cst :", "tt.load %32, %23, %cst evictionPolicy = evict_first :", "evictionPolicy"),
    ("arith.mulf %40, %41", "arith.remf %40, %41", "arith.remf"),
    ("get_program_id x", "get_program_id y", "more than one dimension"),
    ("%11 = arith.muli %5, %c32_i32", "%11 = arith.muli %2, %c32_i32", "Digits"),
    ("%25 = tt.splat %0", "%25 = tt.splat %1", "Offset"),  # X by a stride of Y
    ("end = 32 : i32, start = 0 : i32", "end = 33 : i32, start = 1 : i32", "make_range"),
    ("dense<0.000000e+00>", "dense<0x7FC00000>", "0x7FC00000"),
    ("    tt.return\n", "    tt.print \"x\" : %42 : tensor<16x32xf32>\n    tt.return\n", "tt.print"),
    ("    tt.return\n", "    scf.if %23 {\n    }\n    tt.return\n", "a region of scf.if"),
    ("    tt.return\n  }\n", "    tt.return\n  }\n  tt.func private @other() {\n  }\n", "something follows"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "why"), TEXTS, ids=[c[2] for c in TEXTS])
def test_a_text_without_a_meaning_here_is_not_lifted(before: str, after: str, why: str) -> None:
    program, bound = _square()
    source = _square_text()
    assert before in source
    with pytest.raises(NotLifted, match="line|follows"):
        try:
            lift(source.replace(before, after), launches_of(program)[0], program.kernels[0], program, bound)
        except NotLifted as problem:
            assert why in str(problem)
            raise


SHIFTS = [("(t - 7) // 2 + (7 - t) // 2", True), ("(t - 7) // 2 - (t - 8) // 2", False)]


@pytest.mark.parametrize(("shift", "nothing"), SHIFTS)
def test_tritons_division_rounds_to_zero(shift: str, nothing: bool) -> None:
    """Rounded down, the first would be -1 for every even t."""
    program, bound = _square()
    source = _emitted(program, bound)
    source = source.replace("    j = u * 32 + ", f"    j = {shift} + u * 32 + ")
    assert _again(program, bound, source, _texts(program, source)).proved == nothing


FLOORS = [
    ("q - 1", "q - 1", True),
    ("q - 1", "q - 2", False),
    ("(r < 0) !=", "(r > 0) !=", False),
    ("a - q * b", "a + q * b", False),
    ("a - q * b", "(a + b) - q * b", False),
]


@pytest.mark.parametrize(("right", "wrong", "floor"), FLOORS)
def test_a_division_is_a_floor_by_all_of_what_corrects_it(right: str, wrong: str, floor: bool) -> None:
    """floor(y / 2) + floor((1 - y) / 2) is 0 for every y."""
    program, bound = _square()
    assert right in HELPERS["_floordiv"]
    source = _emitted(program, bound).replace("    j = u * 32 + ", f"    j = {HALVES} + u * 32 + ")
    head, kernel, rest = source.partition("\n@triton.jit(do_not")
    source = head + HELPERS["_floordiv"].replace(right, wrong) + kernel + rest
    assert _again(program, bound, source, _texts(program, source)).proved == floor


def test_a_launch_on_another_grid_is_not_this_kernel() -> None:
    program, bound = _square()
    (launch,) = launches_of(program)
    for other in ({"grid": launch["grid"][::-1]}, {"kernel": "another"}, {"args": launch["args"][:-1]}):
        with pytest.raises(NotLifted, match="another one|arguments"):
            lift(_square_text(), {**launch, **other}, program.kernels[0], program, bound)


NARROW = [(True, False, True), (False, True, True), (False, False, False)]


@pytest.mark.parametrize(("narrow", "offsets", "why"), NARROW)
def test_thirty_two_bits_have_to_be_enough_where_they_are_used(narrow: bool, offsets: bool, why: bool) -> None:
    kernel = _square()[0].kernels[0]
    wide = Report((), 0.0, ((kernel.name, 64),), ((kernel.name, 64),))
    assert bool(overflow(wide, [Lifted(kernel, narrow, offsets, ())])) == why
    fits = Report((), 0.0, ((kernel.name, 32),), ((kernel.name, 32),))
    assert not overflow(fits, [Lifted(kernel, narrow, offsets, ())])
    assert overflow(Report((), 0.0), [Lifted(kernel, True, True, ())])  # a kernel that the gate says nothing of


def test_f32_is_not_multiplied_in_tf32() -> None:
    tf32 = "inputPrecision = tf32"
    assert tf32 in precisions(DType.BF16) and tf32 in precisions(DType.F16) and tf32 not in precisions(DType.F32)


def test_numbers_are_the_candidates() -> None:
    from fractions import Fraction

    from lowering.ttir.numbers import Numbers

    numbers = Numbers(frozenset({Fraction(1, 10)}))
    assert numbers.read("1.000000e-01", DType.F32) == core.Literal(Fraction(1, 10), core.Type(DType.F32))
    assert numbers.idealised == {"0.10000000149011612 is 1/10"}
    assert numbers.read("1.100000e-01", DType.F32).value == Fraction(float.fromhex("0x1.c28f5cp-4"))  # type: ignore[union-attr]


def test_check_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shipped.square()[0]
    assert main(["check", str(path), "--read-back", "--json", "--second-solver", "none"]) == 0
    rows = [r for r in json.loads(capsys.readouterr().out)["rows"] if r["section"] == "read back"]
    names = [v["name"] for v in Certificate.load(path).body["lowered"]["versions"]]
    assert [r["text"].partition(":")[0] for r in rows] == names and {r["standing"] for r in rows} == {"confirmed"}


def test_a_certificate_without_a_version_is_not_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = Certificate.load(shipped.square()[0]).body
    path = tmp_path / "bare.json"
    Certificate({k: v for k, v in body.items() if k != "lowered"}).save(path)
    assert main(["check", str(path), "--read-back", "--strict", "--json", "--second-solver", "cvc5"]) == 2
    rows = {r["section"]: r["standing"] for r in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["read back"] == "not confirmed"


def test_a_wrong_module_is_refuted_with_a_counterexample() -> None:
    program, bound = _square()
    source = _emitted(program, bound).replace("x * x * scale", "x * x + scale")
    version = Version("pointers", source, "", launches_of(program))
    found = again(version, program, bound)
    assert found.verdict is Verdict.REFUTED and not found.proved
    assert replace(found, verdict=Verdict.PROVED, why="").proved
