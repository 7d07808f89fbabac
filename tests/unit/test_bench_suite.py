"""The benchmark as a command, on a CPU: real rows, a run cut short and resumed, results, table and plots."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped import attention, square

from synth.bench.suite import clock, grid, plot, results, run, table
from synth.bench.suite.clock import Ready, measure
from synth.bench.suite.command import NO_GPU, UNFINISHED, USAGE, WRONG, main
from synth.bench.suite.contenders import Contender, Refused
from synth.bench.suite.subject import read

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
ONE_ROW = ["--device", "cpu", "--seconds", "0.002", "--only", "*, 512"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates: causal attention in bf16, and a square."""
    found = tmp_path_factory.mktemp("certificates")
    shutil.copy(attention("bottom_right", "bf16"), found / "attention.cert.json")
    shutil.copy(square()[0], found / "square.cert.json")
    return found


@pytest.fixture(scope="module")
def body(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One row of attention, all its contenders, every version of the certificate among them."""
    out = tmp_path_factory.mktemp("results") / "one.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "ROUNDS", 3)
        assert main([str(folder), *ONE_ROW, "--versions", "--out", str(out)]) == 0
    return results.read(out)


def test_a_row_holds_every_contender_with_its_error_and_time(body: dict[str, Any]) -> None:
    (row,) = body["rows"]
    entries = {c["name"]: c for c in row["contenders"]}
    right = {"certified attention", "SDPA math", "SDPA flash", "PyTorch formula"}
    assert {name for name, c in entries.items() if c["status"] == "ok"} == right
    assert all(c["reason"] for name, c in entries.items() if name not in right)
    assert "not installed" in entries["flash-attn 3"]["reason"] and "time" not in entries["flash-attn 3"]
    for name in right:
        time = entries[name]["time"]
        assert 0 < time["least"] <= time["q25"] <= time["median"] <= time["q95"] and time["how"] == "cpu"
        assert entries[name]["error"]["O"] <= row["reference"]["O"]["allowed"]
    assert row["computes"] == "scaled_dot_product_attention (bottom-right causal)" and row["work"]["flops"] > 0
    assert row["reference"]["O"]["cells"] == row["reference"]["O"]["of"]
    assert body["complete"] and body["machine"]["device"] == "CPU" and body["ceilings"]["copy"] > 1e8


def test_no_target_is_judged_on_a_cpu(body: dict[str, Any]) -> None:
    assert results.summary(body) == [] and "say nothing of a GPU" in table.text(body)


def test_where_only_torch_and_numpy_are_installed(folder: Path, tmp_path: Path) -> None:
    blocked = ("z3", "lark", "msgspec", "sqlalchemy", "typer", "rich", "matplotlib", "optuna", "verifier")
    block = f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"  # PyTorch itself needs sympy and jinja2
    block += "from synth.bench.suite.command import main\n"
    out = tmp_path / "bare.json"
    words = [str(folder / "attention.cert.json"), *ONE_ROW, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"{block}raise SystemExit(main({words!r}))"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    entries = {c["name"]: c for c in results.read(out)["rows"][0]["contenders"]}
    assert entries["SDPA math"]["status"] == "ok"
    assert "lark" in entries["certified attention"]["reason"]  # its emitted Triton needs a GPU, the executor a parser


def test_a_run_cut_short_says_what_is_left_and_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clock, "ROUNDS", 1)
    out = tmp_path / "some.json"
    words = [str(folder / "square.cert.json"), "--device", "cpu", "--seconds", "0.001"]
    assert main([*words, "--out", str(out), "--budget-minutes", "0"]) == UNFINISHED
    assert results.read(out)["not_run"] and not results.read(out)["rows"]
    assert "--resume" in capsys.readouterr().err
    assert main([*words, "--resume", str(out)]) == 0
    finished = results.read(out)
    assert finished["complete"] and len(finished["rows"]) == 1
    assert main([*words, "--resume", str(out)]) == 0 and results.read(out)["rows"] == finished["rows"]
    results.write(out, {**finished, "machine": {**finished["machine"], "device": "another"}})
    assert main([*words, "--resume", str(out)]) == USAGE


def test_every_row_measured_before_an_interrupt_is_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = run.small(grid.plan(read([folder])))[:2]
    calls: list[str] = []

    def twice(item: Any, *rest: Any) -> Any:
        calls.append(item.title)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {**real_row, "certificates": [s.launcher.certificate for s in item.group.subjects]}

    real_row = {"shape": {"sizes": {}}, "contenders": []}
    monkeypatch.setattr(run, "one", twice)
    options = run.Options(CPU, tmp_path / "kept.json", seconds=0.001)
    with pytest.raises(KeyboardInterrupt):
        run.run(items, options, lambda line: None)
    kept = results.read(tmp_path / "kept.json")
    assert len(kept["rows"]) == 1 and kept["not_run"] == [items[1].title] and not kept["complete"]


# ---- wrong, refused and failing contenders -----------------------------------------------------------


def test_whatever_a_contender_does_is_its_result() -> None:
    cells = torch.ones(4)
    wanted = {"Y": run.Expected((torch.arange(4),), cells.double(), 4, 0.0, 1e-3, torch.float32, 1.0)}
    calls = {"right": 0, "later": 0}

    def right() -> dict[str, torch.Tensor]:
        calls["right"] += 1
        return {"Y": cells}

    def later() -> dict[str, torch.Tensor]:  # right at first: a race
        calls["later"] += 1
        return {"Y": cells if calls["later"] < 4 else cells + 1}

    def refuse() -> Any:
        raise Refused("not for this shape")

    def exhaust() -> Any:
        raise torch.OutOfMemoryError("no")

    def fail() -> Any:
        raise ValueError("a compiler's words\nand more")

    makes = {"right": lambda: right, "later": lambda: later, "wrong": lambda: lambda: {"Y": cells + 1},
             "refused": refuse, "full": exhaust, "broken": fail}  # fmt: skip
    entered = [Contender(name, "peer", make) for name, make in makes.items()]
    for name, share in (("inside", 1e-3), ("beyond", 1e-4)):  # a bound that is a share of the largest |Y|
        bounds = lambda results, share=share: {"Y": share * results["Y"]}  # noqa: E731
        entered.append(Contender(name, "certified", lambda: lambda: {"Y": cells + 5e-4}, bounds=bounds))
    entries = run.compete(entered, wanted, run.Options(CPU, Path("unused"), seconds=0.001), lambda line: None)
    found = {e["name"]: (e["status"], e["reason"], "time" in e) for e in entries}
    assert found["right"] == ("ok", "", True)
    assert found["later"][0] == "wrong" and found["later"][1].startswith("after many runs")
    assert found["wrong"] == ("wrong", "Y is off by 1; 0.001 is allowed", False)
    assert found["inside"][0] == "ok"
    assert found["beyond"][0] == "wrong" and "its certificate proves 0.0001 under the" in found["beyond"][1]
    assert found["refused"] == ("refused", "not for this shape", False)
    assert found["full"][0] == "out of memory" and found["broken"][1] == "ValueError: a compiler's words"


def test_a_fault_while_all_are_timed_keeps_what_was_found_before() -> None:
    cells = torch.ones(4)
    wanted = {"Y": run.Expected((torch.arange(4),), cells.double(), 4, 0.0, 1e-3, torch.float32, 1.0)}
    calls = []

    def faulty() -> dict[str, torch.Tensor]:
        calls.append(1)
        if len(calls) > 3:  # judged, warmed up, asked once more, and then
            raise RuntimeError("an illegal memory access was encountered")
        return {"Y": cells}

    entered = [Contender("wrong", "peer", lambda: lambda: {"Y": cells + 1}), Contender("x", "peer", lambda: faulty)]
    entries = run.compete(entered, wanted, run.Options(CPU, Path("unused"), seconds=0.001), lambda line: None)
    assert [e["status"] for e in entries] == ["wrong", "failed"]
    assert "while all were timed: RuntimeError: an illegal memory access" in entries[1]["reason"]


def test_a_wrong_certificate_is_an_exit_code(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from synth.bench.suite import contenders

    monkeypatch.setattr(clock, "ROUNDS", 1)
    monkeypatch.setattr(contenders, "_executed", lambda subject, call: lambda: {"Y": call.inputs["X"]})
    out = tmp_path / "wrong.json"
    words = [str(folder / "square.cert.json"), "--device", "cpu", "--seconds", "0.001", "--out", str(out)]
    assert main(words) == WRONG


def test_rounds_are_shuffled_and_everyone_runs_in_each() -> None:
    log: list[str] = []
    names = ("a", "b", "c", "d")
    ready = {name: Ready(lambda n=name: log.append(n), "cpu") for name in names}  # type: ignore[misc]

    def rounds(seed: int) -> list[str]:
        log.clear()
        times = measure(ready, CPU, seed, 0.0)
        assert all(t.runs == clock.ROUNDS for t in times.values())
        return ["".join(log[12 + k : 16 + k]) for k in range(0, 4 * clock.ROUNDS, 4)]

    first = rounds(1)
    assert all(sorted(order) == list(names) for order in first) and len(set(first)) > 3
    assert rounds(1) == first != rounds(2)


# ---- the grid ----------------------------------------------------------------------------------------


def test_attention_runs_on_flash_attentions_settings_most_telling_first(folder: Path) -> None:
    items = grid.plan(read([folder]))
    of = [dict(i.shape.sizes) for i in items if i.shape.kind == "forward"]
    assert of[0] == {"B": 1, "H": 32, "G": 32, "M": 16384, "N": 16384}
    assert {s["B"] * s["M"] for s in of} == {16384} and {s["M"] for s in of} == set(grid.LENGTHS)
    assert {s["H"] // s["G"] for s in of} == {1, 8} and {s["H"] * 64 for s in of} == {2048}
    assert any(i.group.bound.spec.name == "square" for i in items)


def test_every_version_of_a_certificate_may_be_timed_and_none_is_an_answer(
    folder: Path, body: dict[str, Any]
) -> None:
    """By name, beside what a call of the certificate runs; without a GPU each says why it was not."""
    (row,) = body["rows"]
    asked = [c for c in row["contenders"] if c["kind"] == "version"]
    held = next(s for g in read([folder]) for s in g.subjects if s.name == "attention").launcher.versions
    assert [c["name"] for c in asked] == [f"version attention: {v.name}" for v in held] and len(held) > 1
    assert all(c["status"] == "refused" and c["certificate"] == "attention" for c in asked)
    assert not {c["name"] for c in asked} & set(results.peers_of([row]))
    assert "the CPU executor runs the certified program" in table.text(body)


def test_without_a_gpu_it_says_so_and_a_dry_run_shows_the_plan(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([str(folder)]) == NO_GPU and "--dry-run" in capsys.readouterr().err
    assert main([str(folder), "--dry-run", "--json", "--only", "attention*1k"]) == 0
    (planned,) = json.loads(capsys.readouterr().out)["rows"]
    assert planned["sizes"]["M"] == 1024 and "SDPA cuDNN" in planned["contenders"]
    assert planned["flops"] == 4 * 16 * 32 * 64 * 1024 * 1025 / 2 and planned["seconds"] > 1
    assert main([str(folder / "nothing")]) == USAGE and main(["--no-such"]) == USAGE
    assert main([str(folder), "--only", "nothing", "--dry-run"]) == USAGE


def test_make_bench_gpu_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the script goes to the repository; put back afterwards
    found = importlib.util.spec_from_file_location("bench_gpu", ROOT / "benchmarks" / "bench_gpu.py")
    assert found and found.loader
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main([]) == NO_GPU and "make bench-gpu ARGS=--dry-run" in capsys.readouterr().err
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert script.main(["--dry-run"]) == USAGE and "without lark, z3" in capsys.readouterr().err


# ---- results -----------------------------------------------------------------------------------------


def made_up(ours: float, flash: float, status: str = "ok") -> dict[str, Any]:
    """Results as a GPU's would be, with two rows."""
    time = {"spread": 0.01, "how": "graph"}
    rows = [
        {
            "spec": "attention", "settings": {"causal": "none", "dtype": "bf16", "D": 128},
            "computes": "scaled_dot_product_attention (full)", "problem": "", "certificates": ["x"],
            "shape": {"name": name, "kind": "forward", "sizes": {}}, "work": {"flops": 1e12, "bytes": 1e9},
            "contenders": [
                {"name": "certified a", "kind": "certified", "status": status, "reason": "off",
                 "time": {**time, "median": ours * scale}},
                {"name": "SDPA flash", "kind": "peer", "status": "ok", "reason": "",
                 "time": {**time, "median": flash}},
                {"name": "SDPA cuDNN", "kind": "peer", "status": "refused", "reason": "no"},
            ],
        }
        for name, scale in (("16k", 1.0), ("1k", 4.0))
    ]  # fmt: skip
    return {
        "format": results.FORMAT, "started": "2026-01-01T00:00:00+00:00", "complete": True, "not_run": [],
        "machine": {"device": "NVIDIA H200", "torch": "2.11", "triton": "3.6"}, "ceilings": {"copy": 4e12},
        "rows": rows,
    }  # fmt: skip


def test_targets_are_geometric_means_of_ratios_of_what_was_right() -> None:
    reached = {s["target"]: s for s in results.summary(made_up(1e-3, 4e-3))}
    flash = reached["forward over SDPA flash"]
    assert flash["reached"] == pytest.approx(2.0) and flash["met"] and flash["rows"] == 2  # of 4 and 1
    assert reached["forward over SDPA cuDNN"]["met"] is None
    fast = reached["forward, head dim 128, 16k, not causal, TFLOP/s"]
    assert fast["reached"] == pytest.approx(1000.0) and fast["rows"] == 1
    wrong = {s["target"]: s for s in results.summary(made_up(1e-3, 4e-3, "wrong"))}
    assert wrong["forward over SDPA flash"]["met"] is None


def test_a_page_is_made_from_results(tmp_path: Path) -> None:
    path, page = tmp_path / "gpu-x.json", tmp_path / "page.md"
    results.write(path, made_up(1e-3, 4e-3))
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    assert main(["table", str(path), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| attention (none, bf16, 128) | 500 | 250 | - | 2.00 |" in text and "NVIDIA H200" in text
    assert table.update(page, path) is False
    assert table.latest(tmp_path) == path
    page.write_text("no markers")
    assert main(["table", str(path), "--page", str(page)]) == USAGE


def test_the_readme_says_what_the_newest_results_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    newest = table.latest(ROOT / "benchmarks" / "results")
    shown = text.partition(table.BEGIN)[2].partition(table.END)[0].strip()
    assert shown == table.page(None if newest is None else results.read(newest)).strip(), "run: synth bench table"


def test_plots_show_who_was_right(tmp_path: Path) -> None:
    (picture,) = plot.draw(made_up(1e-3, 4e-3), tmp_path)
    assert picture.name == "attention-forward-none-bf16-128.png" and picture.read_bytes().startswith(b"\x89PNG")
    nothing = made_up(1e-3, 4e-3)
    nothing["rows"] = []
    assert plot.draw(nothing, tmp_path) == []


def test_measured_times_are_held_against_predictions(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu-x.json"
    body = made_up(1e-3, 4e-3)
    certificate = next(s for g in read([folder]) for s in g.subjects if s.name == "attention").launcher.certificate
    body["certificates"] = [{"name": "a", "id": certificate}]
    results.write(path, body)
    words = ["rank", str(path), "--certificates", str(folder)]
    assert main(words) == USAGE and "no time" in capsys.readouterr().err  # compiled for no target: no prediction
    assert main([*words[:3], str(tmp_path / "nothing")]) == USAGE


def test_damaged_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(results.NotResults, match="cannot be read"):
        results.read(path)
    path.write_text('{"format": 99, "rows": []}')
    with pytest.raises(results.NotResults, match="format 1"):
        results.read(path)
