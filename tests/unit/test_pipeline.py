"""Prove-and-run as a whole, on this machine: what it yields, what it leaves behind, and what it never lets through."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from ir.diagnostics import SourceError
from ir.evaluate import check_requires, evaluate, parameters_default
from ir.inputs import generate
from ir.loader import bind, load_spec, parse_spec
from ir.spec import Bound, Shapes
from lowering.assumptions import LaunchError
from lowering.launch import load
from synth import runfolder
from synth.bench import peers, roofline, timing
from synth.certify import certify
from synth.cli import main
from synth.events import Benchmarked, CrossChecked, Finished, Judged, Lowered, PeersMeasured, Proposed, Started
from synth.pipeline import Plan, judge, prove_and_run
from synth.propose import Candidate
from synth.propose.choices import Choices
from synth.propose.compose import compose
from synth.propose.embedded import propose
from synth.propose.mutate import mutants
from synth.prover import Prover
from verifier.certificate import Certificate
from verifier.verdict import Verdict


def attention(**settings: str) -> Bound:
    return bind(load_spec("attention"), settings)


def plan(tmp_path: Path, bound: Bound, **changes: object) -> Plan:
    values = {"budget": 100.0, "target": "sm_90", "out": tmp_path, "mutate": False, "max_candidates": 1, "seed": 0}
    return Plan(bound, **(values | changes))  # type: ignore[arg-type]


# ---- a whole run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """One candidate of causal attention, through every stage."""
    return list(prove_and_run(plan(tmp_path_factory.mktemp("runs"), attention(causal="bottom_right"))))


def test_the_stages_come_in_order(run: list[object]) -> None:
    order = [Started, Proposed, Judged, Lowered, CrossChecked, PeersMeasured, Benchmarked, Finished]
    assert [type(event) for event in run] == order
    assert run[-1].status == "finished" and run[-1].certified == 1


def test_the_run_folder_holds_everything(run: list[object]) -> None:
    folder = run[0].folder
    name = run[1].candidate.name
    results = json.loads((folder / "results.json").read_text())
    (row,) = results["candidates"]
    assert results["status"] == "finished"
    assert row["verdict"] == "proved" and set(row["obligations"].values()) == {"proved"}
    assert row["compiled"]["resources"][0]["tensor_core"] > 0
    assert row["crosscheck"]["cases"] >= 2
    assert row["benchmarks"][0]["seconds"] > 0
    assert (folder / "candidates" / f"{name}.tile").read_text() == run[1].candidate.text
    assert "@triton.jit" in (folder / "triton" / f"{name}.py").read_text()
    assert json.loads((folder / "verdicts" / f"{name}.json").read_text())["verdict"] == "proved"
    certificate = Certificate.load(folder / "certificates" / f"{name}.json")
    assert certificate.candidate == run[1].candidate.text
    assert {"lowered", "controls", "tests", "benchmarks"} <= set(certificate.body)
    assert "refuted" in {control["verdict"] for control in certificate.body["controls"]}


def test_torch_attention_is_a_peer_because_it_agrees(run: list[object]) -> None:
    (measured,) = [e for e in run if isinstance(e, PeersMeasured)]
    assert "torch scaled_dot_product_attention (bottom-right causal)" in [m.name for m in measured.measurements]
    assert "standard PyTorch (the formula, unfused)" in [m.name for m in measured.measurements]


def test_a_run_that_is_stopped_leaves_a_valid_folder(tmp_path: Path) -> None:
    events = prove_and_run(plan(tmp_path, attention()))
    seen = list(islice(events, 3))
    assert isinstance(seen[-1], Judged)
    assert json.loads((seen[0].folder / "results.json").read_text())["status"] == "running"
    events.close()  # what an interrupt does
    results = json.loads((seen[0].folder / "results.json").read_text())
    assert results["status"] == "interrupted"
    assert results["candidates"][0]["verdict"] == "proved"


def test_the_command_prints_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    arguments = ["prove-and-run", "attention", "--out", str(out), "--max-candidates", "1", "--json"]
    assert main([*arguments, "--target", "sm_80"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events][0] == "Started"
    assert events[-1]["status"] == "finished"
    assert next(e for e in events if e["event"] == "Lowered")["target"] == "sm_80"


# ---- the gate ----------------------------------------------------------------------------------------


def test_only_a_proved_candidate_is_certified() -> None:
    bound = attention(causal="bottom_right")
    right = Candidate("right", compose(bound, Choices()))
    rule = {"no-rescale", "strict-comparison", "last-row-unwritten", "mask-dropped", "wrong-corner"}
    broken = [m for m in mutants(right) if dict(m.choices)["broken"] in rule]
    assert len(broken) == len(rule)
    with Prover(bound, 100.0) as prover:
        certified, judged = judge(right, prover)
        assert certified is not None and judged.report.verdict is Verdict.PROVED
        for mutant in broken:
            certified, judged = judge(mutant, prover)
            assert certified is None, mutant.name
            fallen = {r.id for r in judged.report.results if r.verdict is Verdict.REFUTED}
            assert fallen & set(mutant.expected), mutant.name


def test_a_proof_that_takes_too_long_is_unproved_and_the_next_one_still_runs() -> None:
    bound = attention()
    candidate = next(propose(bound))
    with Prover(bound, 0.01) as prover:
        certified, judged = judge(candidate, prover)
        assert certified is None and judged.report.verdict is Verdict.UNPROVED
        assert "no answer within" in judged.report.results[0].residual
        prover.seconds = 100.0
        certified, judged = judge(candidate, prover)
        assert certified is not None


def test_a_prover_that_dies_is_unproved() -> None:
    bound = attention()
    candidate = next(propose(bound))
    with Prover(bound, 100.0) as prover:
        assert judge(candidate, prover)[0] is not None
        assert prover.process is not None
        prover.process.kill()
        certified, judged = judge(candidate, prover)
        assert certified is None and "ended unasked" in judged.report.results[0].residual
        assert judge(candidate, prover)[0] is not None


def test_a_text_that_is_no_kernel_is_an_error_with_its_place() -> None:
    with Prover(attention(), 100.0) as prover, pytest.raises(SourceError, match="nonsense.tile:1"):
        prover.certify("nonsense", "nonsense.tile")


def test_a_certificate_without_emitted_code_cannot_be_launched(tmp_path: Path) -> None:
    bound = attention()
    certified = certify(next(propose(bound)).text, bound)
    assert certified.certificate is not None
    certified.certificate.save(tmp_path / "c.json")
    with pytest.raises(LaunchError, match="lower"):
        load(tmp_path / "c.json")


# ---- figures -----------------------------------------------------------------------------------------


def test_work_is_the_customary_count_less_what_the_mask_hides() -> None:
    sizes = {"B": 2, "H": 4, "G": 2, "M": 128, "N": 128}
    full = 2 * 4 * 4 * 128 * 128 * 64
    assert roofline.work_flops(attention(), sizes) == full
    assert roofline.work_flops(attention(causal="top_left"), sizes) == full * 129 / 256


def test_shares_never_exceed_what_the_device_could_do() -> None:
    peak = roofline.Peak(1e12, 1e11, "made up")
    assert roofline.share(2e12, 1e9, 2.0, peak) == pytest.approx(1.0)  # limited by arithmetic
    assert roofline.share(1e9, 2e11, 4.0, peak) == pytest.approx(0.5)  # limited by memory


def test_a_shape_is_shrunk_until_a_cpu_can_run_it() -> None:
    bound = attention()
    shape = Shapes("large", (("B", 4), ("H", 16), ("G", 4), ("M", 4096), ("N", 4096)))
    small = timing.shrunk(shape, bound)
    assert roofline.work_flops(bound, dict(small.sizes)) <= timing.CPU_WORK
    assert check_requires(bound, dict(small.sizes))
    assert "shrunk" in small.name


def test_a_spec_without_shapes_is_timed_at_a_default_one() -> None:
    source = load_spec("attention").source
    bound = bind(parse_spec(source[: source.index("[bench]")]), {})
    (shape,) = timing.default_shapes(bound)
    assert dict(shape.sizes) == {"B": 8, "H": 8, "G": 8, "M": 1024, "N": 1024}


@pytest.mark.parametrize("causal", ["none", "bottom_right", "top_left"])
def test_standard_pytorch_computes_the_formula(causal: str) -> None:
    bound = attention(causal=causal, dtype="fp32")
    sizes = {"B": 2, "H": 4, "G": 2, "M": 9, "N": 13}
    parameters = parameters_default(bound, sizes)
    arrays = generate("normal", 3, bound, sizes, parameters)
    got = peers.standard(bound, sizes, {n: torch.from_numpy(a).float() for n, a in arrays.items()})
    for name, wanted in evaluate(bound, sizes, parameters, arrays).items():
        torch.testing.assert_close(got[name].double(), torch.from_numpy(wanted), rtol=1e-5, atol=1e-5)


def test_torch_attention_is_no_peer_of_another_formula() -> None:
    assert peers.attention_variant(attention()) == "full"
    source = load_spec("attention").source
    capped = source.replace("scale * sum[e < D]", "tanh(scale) * sum[e < D]")
    assert peers.attention_variant(bind(parse_spec(capped), {})) is None


# ---- the folder --------------------------------------------------------------------------------------


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    assert runfolder.create(tmp_path, "attention") != runfolder.create(tmp_path, "attention")
