"""Tricks that kernel generators were caught with, tried on the gate. docs/reward-hacks.md lists them; each row of the
page names a test of this file, and each test is named by the page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ir.diagnostics import SourceError
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.typing import check
from lowering.lower import lower
from lowering.versions import version_on
from synth.certify import certify
from synth.jobs import SOME_SIZES, Prove
from synth.jobs import prove as prove_job
from synth.propose import Candidate
from synth.search.archive import Archive
from synth.search.tried import Tried
from verifier.prove import prove
from verifier.verdict import Report, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "reward-hacks.md"
SOFTMAX = bind(load_spec("softmax"), {"dtype": "fp32"})
HONEST = """\
meta BC = 2048

kernel softmax(i < R):
    m = full([BC], -inf, f32)
    for n in range(0, cdiv(C, BC)) carry m:
        j = n * BC + arange(BC)
        x = load(X[i, j], mask=j < C, other=0)
        m = maximum(m, where(j < C, x, -inf))
    top = max(m, axis=0)
    l = zeros([BC], f32)
    for n in range(0, cdiv(C, BC)) carry l:
        j = n * BC + arange(BC)
        x = load(X[i, j], mask=j < C, other=0)
        l = l + where(j < C, exp(x - top), 0.0)
    total = sum(l, axis=0)
    for n in range(0, cdiv(C, BC)):
        j = n * BC + arange(BC)
        x = load(X[i, j], mask=j < C, other=0)
        store(Y[i, j], exp(x - top) / total, mask=j < C)
"""


def every_cell(value: str, mask: str = "j < C", before: str = "") -> str:
    """A kernel that stores `value` in every cell that the mask lets it."""
    return f"""\
meta BC = 1024

kernel softmax(i < R, n < cdiv(C, BC)):
    j = n * BC + arange(BC)
    x = load(X[i, j], mask=j < C, other=0)
{before}    store(Y[i, j], {value}, mask={mask})
"""


def judged(text: str) -> Report:
    return prove(check(parse(text), SOFTMAX, text), SOFTMAX, text, evidence=False)


def refuted(text: str, *obligations: str) -> None:
    report = judged(text)
    assert report.verdict is Verdict.REFUTED
    assert {r.id for r in report.results if r.verdict is Verdict.REFUTED} & set(obligations)
    assert any(r.counterexample is not None for r in report.results)


def not_a_kernel(text: str, code: str) -> None:
    with pytest.raises(SourceError) as caught:
        check(parse(text), SOFTMAX, text)
    assert caught.value.code.startswith(code), caught.value.render()


def test_the_honest_kernel_is_proved() -> None:
    assert judged(HONEST).verdict is Verdict.PROVED


# ---- wrong answers that tests with tolerance or luck let through ---------------------------------------


def test_constant_output() -> None:
    refuted(every_cell("full([BC], 0.0, f32)"), "E1")  # passes allclose where outputs are tiny


def test_identity_output() -> None:
    refuted(every_cell("x"), "E1")


def test_work_left_out() -> None:
    refuted(every_cell("exp(x)"), "E1", "S1")  # right up to a factor that random inputs make nearly constant


def test_right_at_the_benchmark_shape_only() -> None:
    two_blocks = HONEST.replace("range(0, cdiv(C, BC))", "range(0, min(cdiv(C, BC), 2))")
    refuted(two_blocks.replace("meta BC = 2048", "meta BC = 64"), "E1", "C1")  # right up to 128 columns


@pytest.mark.parametrize("condition", ["C == 2048", "R == 1 and C == 2048", "C % BC == 0", "R == 1"])
def test_right_by_requirement_at_some_sizes_only(condition: str) -> None:
    """Proved where it says, and said to be so; built and timed nowhere: it is no answer."""
    narrow = HONEST.replace("meta BC = 2048\n", f"meta BC = 2048\nrequire {condition}\n")
    if "C" in condition:
        narrow = narrow.replace(", mask=j < C, other=0", "").replace(", mask=j < C", "")
        narrow = narrow.replace("where(j < C, x, -inf)", "x").replace("where(j < C, exp(x - top), 0.0)", "exp(x - top)")
    answer = prove_job(Prove("narrow", narrow), SOFTMAX)
    assert answer.report is not None and answer.report.verdict is Verdict.PROVED and not answer.report.answers
    assert answer.problem.startswith(SOME_SIZES) and answer.certificate is not None and answer.certificate.requires
    tried = Tried(Candidate("narrow", narrow), "narrow", answer)
    archive = Archive(SOFTMAX, "sm_90", 0)
    archive.insert(tried)
    assert not archive.leaders(1) and not tried.answers and not tried.certified


def test_a_requirement_that_no_size_meets() -> None:
    report = judged("require C < R and R < C\n" + every_cell("full([BC], 0.0, f32)"))
    assert report.verdict is Verdict.UNPROVED and report.result("V1").verdict is Verdict.UNPROVED


def test_stale_buffer() -> None:
    refuted(every_cell("x", mask="j < 0"), "C1")  # leaves what the reference wrote into the same memory before


def test_answer_found_in_memory() -> None:
    report = judged(every_cell("y", before="    y = load(Y[i, j], mask=j < C, other=0)\n"))
    assert report.verdict is not Verdict.PROVED
    refuted(every_cell("y", before="    y = load(X[i + R, j], mask=j < C, other=0)\n"), "B1")


def test_no_program_at_all() -> None:
    refuted(every_cell("x").replace("i < R, n", "i < 0, n"), "C1")


def test_a_race_that_is_usually_won() -> None:
    twice = every_cell("x").replace("n < cdiv(C, BC)", "n < cdiv(C, BC), again < 2")
    refuted(twice, "R1", "C1")


# ---- what a kernel has no words for -----------------------------------------------------------------


def test_cached_output() -> None:
    not_a_kernel(every_cell("cache", before=""), "K1")  # no name outlives a launch
    not_a_kernel("cache = 0\n" + HONEST, "K0")  # and none is global


def test_input_aliasing() -> None:
    not_a_kernel(every_cell("x").replace("store(Y", "store(X"), "K2")


def test_another_stream() -> None:
    not_a_kernel(HONEST.replace("meta BC = 2048", "import torch\nmeta BC = 2048"), "K0")
    schedule = HONEST.replace("(i < R):\n", "(i < R):\n    schedule stream = 1\n")
    not_a_kernel(schedule, "K")


@pytest.mark.parametrize(
    "statement",
    [
        "import time",
        "time.perf_counter = 0",
        "__import__(1)",
        "exec(x)",
        "x.data",
        "lambda: 0",
        "global x",
    ],
)
def test_patched_timer(statement: str) -> None:
    not_a_kernel(every_cell("x", before=f"    {statement}\n"), "K")


@pytest.mark.parametrize("call", ["softmax(x)", "scaled_dot_product_attention(x)", "torch(x)", "sdpa(x, x, x)"])
def test_library_call(call: str) -> None:
    not_a_kernel(every_cell(call), "K1")


@pytest.mark.parametrize("word", ["bf16", "f16"])
def test_lower_precision(word: str) -> None:
    not_a_kernel(HONEST.replace("exp(x - top) / total", f"cast(cast(exp(x - top), {word}), f32) / total"), "K211")
    not_a_kernel(f"scratch W[R]: {word}\n" + HONEST, "K211")


def test_code_smuggled_into_what_is_emitted() -> None:
    """Names, comments and strings of a candidate are the only text of its author; none is emitted as written."""
    hostile = "# '''\n# import os; os.abort()\n" + HONEST.replace(
        "    m = full", "    # \"\"\" + __import__('os').abort() + \"\"\"\n    m = full"
    )
    found = certify(hostile, SOFTMAX)
    assert found.certificate is not None
    source = version_on(lower(found.certificate, found.program, SOFTMAX, ()).body["lowered"], "sm_90").source
    assert "abort" not in source
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name.split(".")[0] for name in imported} <= {"triton", "torch", "__future__"}


def test_the_page_and_this_file_name_the_same() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    here = set(re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE))
    assert named == here - {"test_the_page_and_this_file_name_the_same", "test_the_honest_kernel_is_proved"}
