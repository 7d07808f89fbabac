"""`require`: what may be required of sizes, that a program is run at no others, and that the gate says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_spec import RIGHT, SPEC

from ir.diagnostics import SourceError
from ir.evaluate import check_requires
from ir.inputs import generate
from ir.interpret import InterpretError, Mode, interpret
from ir.loader import bind, load_spec, parse_spec
from ir.nearby import admits, nearby
from ir.parser import MAX_REQUIRES, parse
from ir.printer import format_source, print_module
from ir.requirements import formula, narrowed, summary, texts, unfit
from ir.typing import check
from lowering.plan import plan
from lowering.shapes import many_tiles, ragged
from synth.certify import certify
from synth.propose import Candidate
from synth.propose.mutate import mutants
from synth.propose.rewrites import Subject
from synth.search.identity import identity
from verifier.certificate import Certificate
from verifier.prove import prove
from verifier.verdict import Verdict

BOUND = bind(parse_spec(SPEC), {})
ATTENTION = bind(load_spec("attention"), {"causal": "none", "dtype": "bf16"})
EVEN = RIGHT.replace("meta BC = 64\n", "meta BC = 64\n\nrequire C % BC == 0\n").replace(", mask=j < C, other=0", "")


def required(condition: str) -> str:
    return RIGHT.replace("meta BC = 64\n", f"meta BC = 64\nrequire {condition}\n")


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    found = certify(EVEN, BOUND)
    assert found.certificate is not None, found.report
    return found.certificate


# ---- the language ------------------------------------------------------------------------------------


def test_a_file_prints_as_it_was_written() -> None:
    module = parse(EVEN)
    assert print_module(module) == format_source(EVEN) == EVEN.replace("range(0, ", "range(")
    assert parse(print_module(module)) == module and len(module.requires) == 1


def test_metas_are_put_in() -> None:
    assert texts(check(parse(EVEN), BOUND)) == ("C % 64 == 0",)
    program = check(parse(required("min(R, 3 * C) // 4 < 1 - 5 and not (R == C) or cdiv(R, BC) <= R % C")), BOUND)
    assert texts(program) == ("min(R, 3 * C) // 4 < -4 and not R == C or (R + 63) // 64 <= R % C",)


def test_what_is_required_twice_is_said_once() -> None:
    lines = ("C % BC == 0", "C % (32 + 32) == 0", "C % 128 == 0", "R % 64 == 0", "C % 48 == 0")
    program = check(parse(required("\nrequire ".join(lines))), BOUND)
    assert texts(program) == ("C % 64 == 0", "C % 128 == 0", "R % 64 == 0", "C % 48 == 0")
    assert summary(program) == "C % 128 == 0 and R % 64 == 0 and C % 48 == 0"


@pytest.mark.parametrize(
    "condition",
    [
        "C",  # not a truth value
        "C % BC",
        "C / BC == 1.0",  # not of integers
        "C < 2.5",
        "X[0, 0] == 0",  # not of sizes
        "load(X[0, 0]) == 0",
        "X == 0",
        "acc == 0",
        "i < 3",
        "arange(4) < C",
        "where(C < 4, 1, 2) == 1",
        "cast(C, i32) == 64",
        "C % 0 == 0",  # may be undefined
        "C // (R - R) == 0",
        "C % (R - 1) == 0",
        "C % (0 - BC) == 0",
    ],
)
def test_what_does_not_belong_in_a_requirement(condition: str) -> None:
    with pytest.raises(SourceError):
        check(parse(required(condition)), BOUND)


def test_a_parameter_is_no_size() -> None:
    with pytest.raises(SourceError, match="K212"):
        check(parse("require scale == 0.125\n" + (GOLDEN / "fa2_none.tile").read_text()), ATTENTION)


GOLDEN = Path(__file__).parents[1] / "golden" / "proved"


def test_there_is_an_end_to_requirements() -> None:
    check(parse("require C == 64\n" * MAX_REQUIRES + RIGHT), BOUND)
    with pytest.raises(SourceError, match="K006"):
        parse("require C == 64\n" * (MAX_REQUIRES + 1) + RIGHT)


def test_a_requirement_is_part_of_what_a_program_is() -> None:
    marks = {identity(text, BOUND) for text in (RIGHT, required("C % 64 == 0"), required("C % 32 == 0"))}
    assert len(marks) == 3
    assert identity(required("C % BC == 0"), BOUND) == identity(required("C % 64 == 0"), BOUND)


def test_a_requirement_goes_over_to_the_spec_whole() -> None:
    program = check(parse(required("C % 64 == 0 and R < C")), BOUND)
    assert unfit(program.requires[0], {"R", "C"}) is None
    spec = narrowed(BOUND, program).spec
    assert spec.requires == (*BOUND.spec.requires, formula(program.requires[0]))
    assert narrowed(BOUND, check(parse(RIGHT), BOUND)) is BOUND


# ---- where it is run ---------------------------------------------------------------------------------


def test_no_interpreter_runs_it_elsewhere() -> None:
    program = check(parse(EVEN), BOUND)
    for sizes, fits in (({"R": 3, "C": 128}, True), ({"R": 3, "C": 96}, False)):
        assert admits(program, BOUND, sizes) is fits
        inputs = generate("normal", 0, BOUND, sizes, {})
        if fits:
            assert not interpret(program, BOUND, sizes, {}, inputs, Mode.EXACT).faults
        else:
            with pytest.raises(InterpretError, match="C % 64 == 0"):
                interpret(program, BOUND, sizes, {}, inputs, Mode.EXACT)


def test_a_launch_plan_holds_it() -> None:
    assert plan(check(parse(EVEN), BOUND), BOUND)["requires"] == [["eq", ["mod", "C", 64], 0]]


@pytest.mark.parametrize("condition", ["C % 64 == 0", "C == 320", "C == R", "R % 48 == 0 and C > R", "C % 64 != 0"])
def test_a_cross_check_finds_sizes_that_meet_it(condition: str) -> None:
    program = check(parse(required(condition)), BOUND)
    shapes = ragged(program, BOUND)
    assert shapes and all(check_requires(narrowed(BOUND, program), sizes) for sizes in shapes)


def test_a_cross_check_runs_even_sizes_for_several_tiles() -> None:
    """A loop whose bound has a name, and no mask: only the requirement says that C is a length."""
    named = EVEN.replace("    for n in range(0, cdiv(C, BC))", "    blocks = C // BC\n    for n in range(blocks)")
    program = check(parse(named), BOUND)
    assert {sizes["C"] for sizes in ragged(program, BOUND)} & {128, 192}
    long = many_tiles(program, BOUND, looped=True)
    assert long is not None and long["C"] % 64 == 0 and long["C"] >= 5 * 64  # rings of buffers come round


def test_sizes_that_meet_what_none_can_meet_are_not_found() -> None:
    program = check(parse(required("C < R and R < C")), BOUND)
    assert nearby(narrowed(BOUND, program), {"R": 5, "C": 7}) is None


# ---- what is proved ----------------------------------------------------------------------------------


def test_it_is_proved_for_these_sizes_and_says_so(certificate: Certificate) -> None:
    assert certificate.requires == ("C % 64 == 0",)
    ledger = [a["text"] for a in certificate.body["assumptions"] if a["id"] == "requires"]
    assert ledger == ["proved for sizes where C % 64 == 0, and for no others"]
    assert certificate.body["facts"]["witness shape"]
    report = certify(EVEN, BOUND).report
    assert report.verdict is Verdict.PROVED and not report.answers


@pytest.mark.parametrize("condition", ["false", "C == 0", "C % 64 == 0 and C % 64 == 1", "C > 65536", "R < 1"])
def test_nothing_is_proved_of_no_size(condition: str) -> None:
    """Everything follows from what cannot be; V1 asks for a size, within the spec's limits."""
    program = check(parse(required(condition)), BOUND)
    report = prove(program, BOUND)
    assert report.verdict is Verdict.UNPROVED and report.result("V1").verdict is Verdict.UNPROVED


ENOUGH = (
    "C % 128 == 0", "C % 192 == 0", "C == 192", "C % 64 == 0 and R < C", "C // 64 * 64 == C", "cdiv(C, 64) * 64 == C",
    "not (C % 64 > 0)", "C % 64 < 1", "(C + 64) % 64 == 0", "C == 64 or C == 128", "min(C % 64, 1) == 0",
)  # fmt: skip
TOO_LITTLE = (
    "C % 32 == 0", "C % 96 == 0", "R % 64 == 0", "C == R", "C >= 64", "C % 64 <= 1", "C % 64 == 0 or R == 1",
    "(C + 1) % 64 == 0", "C // 64 * 64 <= C", "not (C % 64 == 0)", "C % 64 != 1", "max(C, 64) % 64 == 0",
    "(C * R) % 64 == 0", "(C - R) % 64 == 0", "cdiv(C, 64) * 64 >= C", "C % 64 == 0 or C == 65", "true",
)  # fmt: skip


@pytest.mark.parametrize("condition", ENOUGH)
def test_what_makes_every_tile_whole_is_enough(condition: str) -> None:
    program = check(parse(EVEN.replace("C % BC == 0", condition)), BOUND)
    report = prove(program, BOUND)
    assert report.verdict is Verdict.PROVED, [r.residual for r in report.results]


@pytest.mark.parametrize("condition", TOO_LITTLE)
def test_what_leaves_a_ragged_tile_is_refuted(condition: str) -> None:
    program = check(parse(EVEN.replace("C % BC == 0", condition)), BOUND)
    report = prove(program, BOUND)
    assert report.verdict is Verdict.REFUTED
    examples = [r.counterexample for r in report.results if r.counterexample is not None]
    assert all(admits(program, BOUND, dict(e.sizes)) for e in examples)


def test_slips_in_a_kernel_for_even_sizes_are_stopped() -> None:
    found = list(mutants(Candidate("even", EVEN), every_place=True))
    assert {dict(m.choices)["broken"] for m in found} >= {"bound-rounded-down", "one-block-less", "tiles-overlap"}
    right = {m.name for m in found if prove(check(parse(m.text), BOUND), BOUND, search=False).verdict is Verdict.PROVED}
    assert right == {"even~bound-rounded-down"}  # where C % BC == 0 that is no slip


def test_without_its_requirement_it_is_refuted() -> None:
    program = replace(check(parse(EVEN), BOUND), requires=())
    assert prove(program, BOUND).verdict is Verdict.REFUTED


def test_a_rewrite_keeps_it() -> None:
    subject = Subject.of(EVEN, BOUND)
    changed = subject.with_kernel(0, subject.module.kernels[0])
    assert changed.requires == subject.module.requires
