"""The exact text a proposer is told, one page a candidate: feedback/NAME.txt.

Candidates come from refuted/, unproved/ and feedback/ and go through the real gate; resources are a compiler's real
answer, kept as a file. `PYTHONPATH=. python tests/golden/test_feedback.py` writes the pages again; read the difference.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from test_golden import Golden, read

from lowering.occupancy import PROCESSORS
from synth.bench.hardware import device_of
from synth.events import Measurement
from synth.feedback import MAX_LINES, MAX_WIDTH, feedback
from synth.feedback.hardware import sheet
from synth.jobs import Built, Checked, Proof, Prove, Timed, prove, unanswered
from synth.propose import Candidate
from synth.propose.model.prompt import system
from synth.search.tried import Tried
from verifier import prove as gate
from verifier.verdict import Verdict

HERE = Path(__file__).parent
PAGES = HERE / "feedback"
REFUTED = {
    "store_without_mask": "B1", "extra_grid_axis": "R1", "grid_rounded_down": "C1", "empty_rows_nan": "D1",
    "batch_0_keys": "E1", "bottom_right_for_top_left": "E1", "no_maximum": "S1",
}  # fmt: skip
UNPROVED = {"lazy_rescale_tile_wide": "unproved", "accumulator_not_rescaled": "refuted"}  # where they lie
REJECTED = {
    "syntax_error": ("    if N == 0:\n        l = l + 1.0\n", "    l_safe"),
    "type_error": ("    l_safe = where(l == 0, 1.0, l[:, None])\n", "    l_safe"),
}
ONLINE = PAGES / "online_d128.tile"
NAMES = (*REFUTED, *UNPROVED, *REJECTED, "proved", "proved_and_measured", "twin", "compiler_refuses")


@cache
def online() -> tuple[Golden, Proof]:
    golden = read(ONLINE)
    return golden, prove(Prove("online_d128", golden.text), golden.bound())


@cache
def tried(name: str) -> tuple[Tried, Golden]:
    if name in REFUTED:
        golden = read(HERE / "refuted" / f"{name}.tile")
        return Tried(Candidate(name, golden.text), name, prove(Prove(name, golden.text), golden.bound())), golden
    if name in UNPROVED:  # without the search for counterexamples
        golden = read(HERE / UNPROVED[name] / f"{name}.tile")
        report = gate.prove(golden.program(golden.bound()), golden.bound(), golden.text, search=False)
        return Tried(Candidate(name, golden.text), name, Proof(report)), golden
    golden, proof = online()
    if name in REJECTED:
        line, before = REJECTED[name]
        text = golden.text.replace(before, line + before, 1)
        return Tried(Candidate(name, text), name, prove(Prove(name, text), golden.bound())), golden
    assert proof.certificate is not None
    found = Tried(Candidate("online_d128", golden.text), "online", proof)
    built = Built(proof.certificate, tuple(json.loads(ONLINE.with_suffix(".built.json").read_text())))
    match name:
        case "twin":
            return replace(found, candidate=Candidate("renamed", golden.text), twin="online_d128"), golden
        case "compiler_refuses":
            refused = "compiling for sm_90 failed: out of resource: shared memory, Required: 262144, limit: 232448"
            return replace(found, built=Built(proof.certificate, problem=refused)), golden
        case "proved_and_measured":
            sizes = (("B", 4), ("H", 16), ("G", 16), ("M", 1024), ("N", 1024))
            times = Timed((Measurement(name, "1k", sizes, 9.5e-5, 361.7, 0.366),), "NVIDIA H200", "H200 data sheet")
            return replace(found, built=built, checked=Checked(proof.certificate, 6, 0.01), short=times), golden
    return replace(found, built=built), golden


@pytest.mark.parametrize("name", NAMES)
def test_page(name: str) -> None:
    found, golden = tried(name)
    if name in REFUTED:
        assert found.proof.report is not None
        assert found.proof.report.result(REFUTED[name]).verdict is Verdict.REFUTED
    told = feedback(found, golden.bound())
    assert told == (PAGES / f"{name}.txt").read_text()
    assert len(told.splitlines()) <= MAX_LINES


def test_hardware_sheet_follows_its_tables() -> None:
    """One page as it is; the others say what the tables of devices and processors say."""
    assert sheet("sm_90") == (PAGES / "hardware_sm_90.txt").read_text()
    for target, processor in PROCESSORS.items():
        device, page = device_of(target), sheet(target)
        assert f"{device.processors} processors" in page and f"{processor.shared // 1024} KiB" in page
        assert f"{device.memory / 1e12:.3g} TB/s" in page and f"{device.half / 1e12:.0f} TFLOP/s" in page
    with pytest.raises(KeyError):
        sheet("sm_75")


def test_a_model_is_told_of_the_machine() -> None:
    golden, _ = online()
    assert any(sheet("sm_90").strip() in block["text"] for block in system(golden.bound(), "sm_90", ()))


def test_nothing_depends_on_how_long_proofs_took() -> None:
    """A replayed run has the same words: proof times and compile times are not among them."""
    found, golden = tried("batch_0_keys")
    report = found.proof.report
    assert report is not None
    slow = replace(report, seconds=99.0, results=tuple(replace(r, seconds=9.0) for r in report.results))
    assert feedback(replace(found, proof=Proof(slow)), golden.bound()) == feedback(found, golden.bound())


def test_a_time_out_is_answered_with_what_makes_proofs_shorter() -> None:
    golden, _ = online()
    told = feedback(
        Tried(Candidate("slow", golden.text), "slow", unanswered("no answer within 45 s", 45.0)), golden.bound()
    )
    assert told.startswith("slow: unproved") and "simpler index arithmetic" in told
    assert told.count("no answer within 45 s") == 1


def test_however_long_the_goal_the_text_stays_short() -> None:
    found, golden = tried("accumulator_not_rescaled")
    report = found.proof.report
    assert report is not None
    long = tuple(
        replace(r, verdict=Verdict.UNPROVED, residual=f"{r.id} " + ("x + " * 900 + "\n") * 40) for r in report.results
    )
    told = feedback(replace(found, proof=Proof(replace(report, results=long))), golden.bound())
    assert len(told.splitlines()) == MAX_LINES and "characters more" in told
    assert max(map(len, told.splitlines())) < MAX_WIDTH + 50


if __name__ == "__main__":
    for page in NAMES:
        candidate, of = tried(page)
        (PAGES / f"{page}.txt").write_text(feedback(candidate, of.bound()))
    (PAGES / "hardware_sm_90.txt").write_text(sheet("sm_90"))
