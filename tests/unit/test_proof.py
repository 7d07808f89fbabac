"""The prover tells loops apart by name: a program that repeats one, which typing never makes, is not proved."""

from dataclasses import replace
from pathlib import Path

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import For
from ir.typing import check
from verifier.prove import prove
from verifier.verdict import Verdict

TWO_LOOPS = Path(__file__).parents[1] / "golden" / "proved" / "two_pass.tile"


def test_one_name_for_two_loops_is_not_proved() -> None:
    bound = bind(load_spec("attention"), {"causal": "none"})
    program = check(parse(TWO_LOOPS.read_text()), bound)
    (kernel,) = program.kernels
    assert prove(program, bound).verdict is Verdict.PROVED
    first = next(s for s in kernel.body if isinstance(s, For))
    body = tuple(s for statement in kernel.body for s in [statement] * (2 if statement is first else 1))
    report = prove(replace(program, kernels=(replace(kernel, body=body),)), bound)
    assert report.verdict is Verdict.UNPROVED
    assert "one name for two loops" in report.result("E1").residual
