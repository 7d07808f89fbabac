"""Several certificates of one thing: the one measured fastest near a call's sizes runs, with and without a backward."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from shipped import SQUARE, SQUARE_GRADIENT, SQUARED, SQUARED_GRADIENT, attention, shipped

import synth
from lowering.assumptions import LaunchError
from lowering.launch import Launcher
from lowering.launch import load as load_launcher
from lowering.operator import Operator
from lowering.portfolio import Portfolio, portfolios, read_times
from synth.bench.suite.results import certified

Entry = tuple[str, str, str, float]  # name, kind, version, seconds


def kernels(text: str, spec: str) -> list[Path]:
    """The same computed with tiles of 16 and of 64 rows."""
    return [shipped(text, spec), shipped(text.replace("meta BR = 16", "meta BR = 64"), spec)]


def row(entries: list[Entry], **sizes: int) -> dict[str, Any]:
    found = [
        {"name": f"{kind} {name}: {version}", "kind": kind, "status": "ok", "certificate": name, "version": version,
         "time": {"median": seconds}}
        for name, kind, version, seconds in entries
    ]  # fmt: skip
    wrong = {**found[0], "status": "wrong", "time": {"median": 0.0}}
    peer = {"name": "torch", "kind": "peer", "status": "ok", "time": {"median": 1e-9}}
    return {"shape": {"name": "s", "kind": "other", "sizes": sizes}, "contenders": [*found, wrong, peer]}


def results(folder: Path, ids: Mapping[str, str], *rows: dict[str, Any]) -> Path:
    path = folder / "gpu.json"
    body = {"format": 1, "certificates": [{"id": v, "name": k} for k, v in ids.items()], "rows": list(rows)}
    path.write_text(json.dumps(body))
    return path


def measured(folder: Path, small: Launcher, large: Launcher) -> Path:
    """`small` is faster at 64 rows, `large` at 4096, there in its second version."""
    ids = {"small": small.certificate, "large": large.certificate}
    last = small.versions[-1].name
    short = row([("small", "certified", last, 1.0), ("large", "certified", last, 2.0)], R=64, C=64)
    long = row(
        [("small", "certified", last, 9.0), ("large", "certified", "even", 8.0), ("large", "version", last, 7.0)],
        R=4096, C=64,
    )  # fmt: skip
    return results(folder, ids, short, long)


def test_the_certificate_measured_fastest_near_the_sizes_runs(tmp_path: Path) -> None:
    small, large = map(load_launcher, kernels(SQUARED, SQUARE))
    [found] = portfolios([small, large], read_times(measured(tmp_path, small, large)))
    assert isinstance(found, Portfolio)
    last = small.versions[-1].name
    assert found.pick({"R": 100, "C": 64}) == (small, (last,))
    assert found.pick({"R": 3000, "C": 8}) == (large, (last, "even"))  # versions by time, not as lowered
    assert found.pick({"R": 511, "C": 64})[0] is small and found.pick({"R": 513, "C": 64})[0] is large
    assert found.pick({"R": 0, "C": 64})[0] is small


def test_what_runs_is_what_the_benchmark_reports_as_certified(tmp_path: Path) -> None:
    small, large = map(load_launcher, kernels(SQUARED, SQUARE))
    path = measured(tmp_path, small, large)
    [found] = portfolios([small, large], read_times(path))
    for line in json.loads(path.read_text())["rows"]:
        fastest = certified(line)
        assert fastest is not None and isinstance(found, Portfolio)
        name = "small" if found.pick(line["shape"]["sizes"])[0] is small else "large"
        assert fastest["certificate"] == name


def test_a_call_runs_the_one_picked_and_its_gradient_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards, backwards = kernels(SQUARED, SQUARE), kernels(SQUARED_GRADIENT, SQUARE_GRADIENT)
    small, large = map(load_launcher, forwards)
    loaded = synth.load(*forwards, backward=backwards, times=measured(tmp_path, small, large))
    assert isinstance(loaded, Operator)
    ran: list[str] = []
    import lowering.cpu as cpu

    real = cpu.execute_subject

    def noted(subject: Mapping[str, Any], *rest: Any) -> Any:
        ran.append(subject["candidate"]["text"])
        return real(subject, *rest)

    monkeypatch.setattr(cpu, "execute_subject", noted)
    for rows, text in ((50, small), (2000, large)):
        x = torch.randn(rows, 40, generator=torch.Generator().manual_seed(rows)).requires_grad_()
        y = loaded(X=x, scale=2.0)["Y"]
        assert ran[-1] == text.subject["candidate"]["text"]
        y.sum().backward()
        torch.testing.assert_close(y, 2 * x * x)
        torch.testing.assert_close(x.grad, 4 * x)
    assert pickle.loads(pickle.dumps(loaded)).launcher.certificate == loaded.launcher.certificate


def test_without_times_the_first_given_runs() -> None:
    small, large = map(load_launcher, kernels(SQUARED, SQUARE))
    [found] = portfolios([large, small])
    assert isinstance(found, Portfolio) and found.pick({"R": 5, "C": 5}) == (large, ())
    assert portfolios([small]) == [small]


def test_only_certificates_of_one_thing_are_put_together(tmp_path: Path) -> None:
    small, large = map(load_launcher, kernels(SQUARED, SQUARE))
    minus = load_launcher(shipped(SQUARED, SQUARE, ("sign", "minus")))
    other = load_launcher(attention("none"))
    found = portfolios([small, minus, other, large], read_times(measured(tmp_path, small, large)))
    assert [p.members if isinstance(p, Portfolio) else p for p in found] == [(small, large), minus, other]


def test_a_certificate_for_some_sizes_only_stays_apart_from_one_for_all() -> None:
    """A call picks by time, and must not come to a kernel that is not proved at its sizes."""
    small, large = map(load_launcher, kernels(SQUARED, SQUARE))
    narrow = load_launcher(shipped(SQUARED.replace("meta BC = 32\n", "meta BC = 32\nrequire C % BC == 0\n"), SQUARE))
    assert narrow.requires == ("C % 32 == 0",)
    found = portfolios([small, narrow, large])
    assert [p.members if isinstance(p, Portfolio) else p for p in found] == [(small, large), narrow]


def test_times_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    small, large = kernels(SQUARED, SQUARE)
    path = tmp_path / "times.json"
    for text in ("", "[]", '{"format": 1}', '{"format": 2}', '{"format": 1, "certificates": [], "rows": [{}]}'):
        path.write_text(text)
        with pytest.raises(LaunchError, match=r"times\.json.*synth bench"):
            synth.load(small, large, times=path)
    with pytest.raises(LaunchError, match="absent"):
        synth.load(small, large, times=tmp_path / "absent.json")
