"""Prove-and-run as a whole, on this machine: what it yields, what it leaves behind, and what it never lets through."""

from __future__ import annotations

import itertools
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from small_spec import SPEC

from ir.evaluate import check_requires, evaluate, parameters_default
from ir.inputs import generate
from ir.loader import bind, load_spec, parse_spec
from ir.spec import Bound, Shapes
from lowering.assumptions import LaunchError
from lowering.launch import load
from synth import runfolder
from synth.bench import peers, roofline, timing
from synth.bench.recognise import recognised
from synth.certify import certify
from synth.cli import main
from synth.events import Benchmarked, CrossChecked, Finished, Judged, Lowered, PeersMeasured, Proposed, Replay, Started
from synth.jobs import Proof, Prove, do
from synth.pipeline import prove_and_run, replay, resume
from synth.plan import Place, Plan
from synth.propose import Candidate
from synth.propose.choices import Choices
from synth.propose.compose import compose
from synth.propose.embedded import propose
from synth.propose.mutate import mutants
from synth.search.budget import Limits
from synth.state.store import Store
from verifier.certificate import Certificate
from verifier.verdict import Verdict


def attention(**settings: str) -> Bound:
    return bind(load_spec("attention"), settings)


def plan(bound: Bound, **changes: Any) -> Plan:
    return Plan(bound, "sm_90", Limits(minutes=2.0), **({"max_candidates": 1} | changes))


def place(tmp_path: Path) -> Place:
    return Place(tmp_path, f"sqlite:///{tmp_path}/synth.db")


# ---- a whole run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """One candidate of causal attention, through every stage."""
    return list(prove_and_run(plan(attention(causal="bottom_right")), place(tmp_path_factory.mktemp("runs"))))


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
    events = prove_and_run(plan(attention()), place(tmp_path))
    seen = list(islice(events, 3))
    assert isinstance(seen[-1], Judged)
    assert json.loads((seen[0].folder / "results.json").read_text())["status"] == "running"
    events.close()  # what an interrupt does
    results = json.loads((seen[0].folder / "results.json").read_text())
    assert results["status"] == "interrupted"
    assert results["candidates"][0]["verdict"] == "proved"


def test_the_command_prints_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "runs"
    (tmp_path / "rowsum.toml").write_text(SPEC)
    arguments = ["prove-and-run", str(tmp_path / "rowsum.toml"), "--out", str(out), "--max-candidates", "1", "--json"]
    assert main([*arguments, "--target", "sm_80"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events][0] == "Started"
    assert events[-1]["status"] == "finished"
    assert next(e for e in events if e["event"] == "Lowered")["target"] == "sm_80"


# ---- again ---------------------------------------------------------------------------------------------


def test_a_stopped_run_is_resumed_and_asks_nothing_twice(tmp_path: Path) -> None:
    here = place(tmp_path)
    bound = bind(parse_spec(SPEC), {})
    events = prove_and_run(plan(bound, max_candidates=2), here)
    seen = list(itertools.takewhile(lambda event: not isinstance(event, CrossChecked), events))
    events.close()
    folder = seen[0].folder
    asked = [e.certificate.id for e in seen if isinstance(e, Judged)]
    again = list(resume(folder.name, here, {}))
    assert [e.certificate.id for e in again if isinstance(e, Judged)][:1] == asked  # the very proof that was kept
    assert again[-1].status == "finished" and again[-1].certified == 2 and again[-1].folder == folder
    assert json.loads((folder / "results.json").read_text())["status"] == "finished"
    with Store.open(here.db) as store:
        recorded = store.load("last")
        assert list(recorded.verdicts().values()) == ["proved", "proved"]
    repeated = list(replay("last", here))
    (compared,) = [e for e in repeated if isinstance(e, Replay)]
    assert compared.candidates == 2 and compared.differences == ()
    times = [[e.measurements for e in run if isinstance(e, Benchmarked)] for run in (again, repeated)]
    assert times[0] == times[1]  # of the record: nothing is timed in a replay


# ---- the gate ----------------------------------------------------------------------------------------


def test_only_a_proved_candidate_gets_a_certificate() -> None:
    bound = attention(causal="bottom_right")
    right = Candidate("right", compose(bound, Choices()))
    rule = {"no-rescale", "strict-comparison", "last-row-unwritten", "mask-dropped", "wrong-corner"}
    broken = [m for m in mutants(right) if dict(m.choices)["broken"] in rule]
    assert len(broken) == len(rule)
    proof = do(Prove(right.name, right.text), bound)
    assert isinstance(proof, Proof) and proof.verdict is Verdict.PROVED and proof.certificate is not None
    for mutant in broken:
        proof = do(Prove(mutant.name, mutant.text), bound)
        assert isinstance(proof, Proof) and proof.certificate is None and proof.report is not None, mutant.name
        fallen = {r.id for r in proof.report.results if r.verdict is Verdict.REFUTED}
        assert fallen & set(mutant.expected), mutant.name


def test_a_text_that_is_no_kernel_is_an_answer_with_its_place() -> None:
    proof = do(Prove("nonsense", "nonsense"), attention())
    assert isinstance(proof, Proof) and proof.report is None and "nonsense.tile:1" in proof.problem


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
    meaning = recognised(attention())
    assert meaning is not None and meaning.title == "scaled_dot_product_attention (full)"
    source = load_spec("attention").source
    capped = source.replace("scale * sum[e < D]", "tanh(scale) * sum[e < D]")
    assert recognised(bind(parse_spec(capped), {})) is None


# ---- the folder --------------------------------------------------------------------------------------


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path) -> None:
    assert runfolder.create(tmp_path, "attention") != runfolder.create(tmp_path, "attention")
