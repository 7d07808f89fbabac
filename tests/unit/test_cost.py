"""The static cost model: what it counts is what the program does, and what should cost more does."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ir.loader import bind, load_spec, packaged_specs
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.versions import Version
from synth.bench.cost import Prediction, Turns, predict
from synth.bench.hardware import DEVICES, device_named, device_of
from synth.bench.predicted import best, predicted
from synth.bench.rank import of_results, ranks, tau
from synth.bench.roofline import work_flops
from synth.events import Measurement
from synth.jobs import Built, Checked, Prove, Timed, prove
from synth.propose import Candidate
from synth.propose.seeds import wanted_settings
from synth.search.tried import Tried
from synth.state.store import Store
from verifier.certificate import Certificate

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "tests" / "golden" / "feedback" / "online_d128"
LONG = {"B": 1, "H": 16, "G": 16, "M": 4096, "N": 4096}


@cache
def kernel(path: Path, replaced: tuple[tuple[str, str], ...] = (), spec: str = "") -> tuple[Program, Bound]:
    text = path.read_text()
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    bound = bind(load_spec(spec or text.split()[2]), wanted_settings(text))
    return check(parse(text), bound), bound


def golden(name: str, *replaced: tuple[str, str]) -> tuple[Program, Bound]:
    return kernel(ROOT / "tests" / "golden" / "proved" / f"{name}.tile", replaced)


def run(
    found: tuple[Program, Bound], sizes: dict[str, int] = LONG, target: str = "sm_90", **changed: Any
) -> Prediction:
    resources = [{**json.loads(COMPILED.with_suffix(".built.json").read_text())[0], **changed}] if changed else []
    return predict(*found, sizes, target, resources)


@pytest.mark.parametrize("spec", sorted(path.stem for path in packaged_specs().glob("*.toml")))
def test_every_spec_gets_a_prediction(spec: str) -> None:
    """The last kernel that ships with each spec, on its first shape: finite, positive, and no faster than its parts."""
    path = max((packaged_specs() / spec).glob("*.tile"))
    program, bound = kernel(path, (), spec)
    sizes = dict((bound.spec.search_shapes or bound.spec.heldout_shapes)[0].sizes)
    found = predict(program, bound, sizes, "sm_90")
    assert len(found.kernels) == len(program.kernels)
    assert math.isfinite(found.seconds) and found.seconds > 0.0
    for part in found.kernels:
        assert part.seconds >= max(part.tensor, part.exponential, part.memory) >= 0.0
        assert part.latency > 0.0 and part.programs > 0 and part.bytes > 0.0


def test_counted_work_is_the_specs_where_nothing_is_masked() -> None:
    """Two ways to the same number: walking the program, and counting the formula's pairs."""
    program, bound = golden("fa2_large_tiles")
    assert sum(k.flops for k in run((program, bound)).kernels) == work_flops(bound, LONG)


def test_causal_skipping_is_seen_program_by_program() -> None:
    """A loop that stops at the diagonal does half the work and the half blocks on it; one that masks does it all."""
    skipping, everything = run(golden("fa2_bottom_right")), run(golden("fa2_no_skip"))
    program, bound = golden("fa2_bottom_right")
    visible = work_flops(bound, LONG)
    assert 1.0 <= skipping.kernels[0].flops / visible < 1.05
    assert everything.kernels[0].flops / visible == pytest.approx(2.0, rel=0.01)
    assert skipping.seconds < everything.seconds


def test_smaller_row_tiles_read_the_keys_more_often() -> None:
    small, large = (run(golden("fa2_large_tiles", ("meta BM = 128", f"meta BM = {n}"))) for n in (32, 128))
    assert small.memory > 3.0 * large.memory


def test_spills_and_fewer_resident_programs_cost() -> None:
    found = golden("fa2_large_tiles")
    clean = run(found, occupancy=0.25, spills=0).seconds
    assert run(found, occupancy=0.25, spills=64).seconds > 1.05 * clean
    assert run(found, occupancy=0.125, spills=0).seconds > 1.05 * clean


def test_more_stages_hide_more_of_the_loads() -> None:
    program, bound = golden("fa2_large_tiles")
    times = []
    for stages in (1, 2, 4):
        (only,) = program.kernels
        changed = replace(program, kernels=(replace(only, schedule=replace(only.schedule, num_stages=stages)),))
        times.append(run((changed, bound), occupancy=0.25).seconds)
    assert times[0] > times[1] > times[2]


def test_a_device_with_more_of_everything_is_faster() -> None:
    found = golden("fa2_large_tiles")
    assert run(found, target="sm_80").seconds > run(found, target="sm_90").seconds > run(found, target="sm_100").seconds


def test_turns_are_dealt_out_as_the_kernel_takes_them() -> None:
    """Causal, 32 row tiles of 16 heads, 132 programs: by hand what the slowest one does, and that order matters."""
    kernel = golden("raw_maximum_longest_first")[0].kernels[0]
    turns = Turns.of(kernel, (1, 16, 32))
    lengths = 32.0 - np.arange(512) % 32  # by linear number: the last axis counts down
    dealt: dict[int, float] = defaultdict(float)
    for number, tile in enumerate(sorted(range(512), key=lambda n: n % 32)):
        turn, program = divmod(number, 132)
        dealt[131 - program if turn % 2 else program] += lengths[tile]
    assert turns.longest(lengths[turns.order], 132) == max(dealt.values()) < 1.04 * lengths.sum() / 132
    assert Turns(np.arange(512)).longest(lengths, 132) > 1.1 * lengths.sum() / 132  # tiles of a head together


def test_decoding_is_bound_by_memory() -> None:
    """Many sequences, one query each: the cache is read once and the prediction is near its bytes over bandwidth."""
    program, bound = kernel(packaged_specs() / "decode" / "packed_even_splits.tile", (), "decode")
    sizes = {"B": 256, "H": 32, "G": 8, "M": 1, "T": 8192}
    found = predict(program, bound, {d.name: sizes[d.name] for d in bound.dims}, "sm_90")
    assert found.bound == "memory"
    assert found.seconds < 2.0 * found.memory


@pytest.mark.parametrize(
    ("dim", "published", "registers", "occupancy"), [("128", 395, 173, 0.125), ("64", 403, 121, 0.25)]
)
def test_published_triton_forward_is_met_within_a_third(
    dim: str, published: float, registers: int, occupancy: float
) -> None:
    """TFLOP/s that FlashAttention-3's paper reports for Triton's forward on an H100 (bf16, 16k, not causal), which has
    the H200's processors. No constant of the model was fitted to it. Registers and occupancy as Triton 3.7.1 says."""
    bound = bind(load_spec("attention"), {"D": dim})
    program = check(parse(COMPILED.with_suffix(".tile").read_text()), bound)
    heads = 2048 // int(dim)
    sizes = {"B": 1, "H": heads, "G": heads, "M": 16384, "N": 16384}
    found = run((program, bound), sizes, registers=registers, occupancy=occupancy)
    assert found.flops / found.seconds / 1e12 == pytest.approx(published, rel=1 / 3)


def test_no_program_takes_no_time_but_the_launch() -> None:
    """An empty batch is no division by zero."""
    found = run(golden("fa2_large_tiles"), {**LONG, "M": 0})
    assert found.bound == "latency" and 0.0 < found.seconds < 1e-4


def test_rank_correlation_by_hand() -> None:
    """Kendall's tau-b: same order, opposite order, one swap of six pairs, no order at all."""
    assert tau(((1.0, 10.0), (2.0, 20.0), (3.0, 30.0))) == 1.0
    assert tau(((1.0, 3.0), (2.0, 2.0), (3.0, 1.0))) == -1.0
    assert tau(((1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 4.0))) == pytest.approx(4 / 6)
    assert tau(((1.0, 1.0), (1.0, 2.0))) is None


def test_runs_are_ranked_by_gpu_times_alone(tmp_path: Path) -> None:
    """Two certified kernels of one run: their times on an H200 are paired with predictions, those on a CPU are not."""
    path = packaged_specs() / "softmax"
    bound = bind(load_spec("softmax"), {})
    sizes = dict(bound.spec.search_shapes[0].sizes)
    with Store.open(str(tmp_path / "runs.db")) as store, store.begin(bound, {}, tmp_path) as run:
        for name, seconds in (("online", 4e-5), ("three_pass", 7e-5)):
            text = (path / f"{name}.tile").read_text()
            proof = prove(Prove(name, text), bound)
            assert proof.certificate is not None
            gpu, cpu = (
                Timed((Measurement(name, shape, tuple(sizes.items()), seconds, 1.0, None),), device)
                for shape, device in (("4k", "NVIDIA H200"), ("cpu", "CPU"))
            )
            checked = Checked(proof.certificate, 3, 0.0)
            run.put(
                Tried(Candidate(name, text), name, proof, Built(proof.certificate), checked, short=cpu, long=gpu), 0
            )
        (rank,) = ranks(run)
    program = check(parse((path / "online.tile").read_text()), bound)
    assert rank.device == "NVIDIA H200" and len(rank.pairs) == 2
    assert (predict(program, bound, sizes, "sm_90").seconds, 4e-5) in rank.pairs
    assert rank.tau == 1.0


@cache
def lowered() -> Certificate:
    """A proved kernel with two versions whose resources are a compiler's real ones; one is for even sizes only."""
    text = COMPILED.with_suffix(".tile").read_text()
    found = prove(Prove("online", text), bind(load_spec("attention"), wanted_settings(text)))
    assert found.certificate is not None
    resources = json.loads(COMPILED.with_suffix(".built.json").read_text())
    fast = [{**resources[0], "occupancy": 2 * resources[0]["occupancy"]}]
    even = [["size", ["eq", ["mod", "N", 128], 0]], ["target", "sm_90"], ["descriptor", "K"]]
    versions = [
        Version("even", "", "", [], even, {"sm_90": fast}),
        Version("pointers", "", "", [], [], {"sm_90": resources}),
    ]
    body = {"versions": [v.to_json() for v in versions], "narrower": {}}
    return found.certificate.with_section("lowered", body)


def test_every_version_that_may_run_is_predicted_and_the_fastest_found() -> None:
    ragged = {**LONG, "N": 4097}
    assert [p.version for p in predicted(lowered(), LONG, "sm_90")] == ["even", "pointers"]
    assert [p.version for p in predicted(lowered(), ragged, "sm_90")] == ["pointers"]
    assert predicted(lowered(), LONG, "sm_80") == ()
    found = best(lowered(), LONG, "sm_90")
    assert found is not None and found.version == "even"


def test_results_of_the_benchmark_are_ranked_by_the_version_that_ran() -> None:
    """One kernel was right on an H200; another was wrong, of a third the certificate is not here."""
    right = {"name": "certified a", "kind": "certified", "certificate": "a", "status": "ok", "version": "pointers"}
    right |= {"time": {"median": 2e-3}}
    other = {"name": "SDPA", "kind": "peer", "status": "ok", "time": {"median": 1e-3}}
    others = [{**right, "status": "wrong"}, {**right, "name": "certified b", "certificate": "b"}, other]
    row = {
        "spec": "attention", "settings": {"D": 128}, "contenders": [*others, right],
        "shape": {"name": "4k", "kind": "forward", "sizes": LONG},
    }  # fmt: skip
    body = {
        "machine": {"device": "NVIDIA H200"}, "rows": [row],
        "certificates": [{"id": lowered().id, "name": "a"}, {"id": "0" * 64, "name": "b"}],
    }  # fmt: skip
    (rank,) = of_results([body], {lowered().id: lowered()})
    (timed,) = rank.rows
    assert (rank.device, rank.shape, timed.name) == ("NVIDIA H200", "attention 128 4k", "certified a, pointers")
    assert timed.prediction == predicted(lowered(), LONG, "sm_90")[1].prediction
    assert timed.off == pytest.approx(2e-3 / timed.prediction.seconds)
    assert of_results([{**body, "machine": {"device": "CPU"}}], {lowered().id: lowered()}) == ()


def test_the_command_tells_predictions_from_measurements(tmp_path: Path) -> None:
    """Of a certificate every version's speeds, called predicted; of results a correlation and the worst misses, also
    of versions that were timed by name."""
    kernel, results = tmp_path / "a.cert.json", tmp_path / "results.json"
    lowered().save(kernel)
    entry = {"name": "version a: even", "kind": "version", "certificate": "a", "version": "even"}
    entry |= {"status": "ok", "time": {"median": 1e-3}}
    shape = {"name": "4k", "kind": "forward", "sizes": LONG}
    row = {"spec": "attention", "settings": {"D": 128}, "contenders": [entry], "shape": shape}
    device = {"machine": {"device": "NVIDIA H200"}, "certificates": [{"id": lowered().id, "name": "a"}]}
    results.write_text(json.dumps({"format": 1, **device, "rows": [row]}))
    predict = ["benchmarks/bench_cost.py", kernel]
    rank = ["-m", "synth.bench", "rank", results, "--certificates", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words, told in ((predict, "not measured"), (rank, "worst misses")):
        asked = [sys.executable, *map(str, words)]
        done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        assert told in done.stdout and "even" in done.stdout


def test_one_table_of_devices() -> None:
    """A driver's name finds its own row, every target has a device, and an unknown one is an error."""
    assert device_named("NVIDIA H100 PCIe") == next(d for d in DEVICES if d.name == "H100 PCIe")
    assert device_named("NVIDIA H100 80GB HBM3") == next(d for d in DEVICES if d.name == "H100")
    assert device_named("Some CPU") is None
    assert {device_of(t).target for t in ("sm_80", "sm_90", "sm_100", "gfx942")} == {d.target for d in DEVICES}
    with pytest.raises(KeyError):
        device_of("sm_75")
