"""The benchmark for real: a short run on the device there is, certified kernels against PyTorch's backends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from shipped import attention, gradient

from synth.bench.suite import clock, results
from synth.bench.suite.command import main

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here"),
]


def test_forward_and_backward_beside_every_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "ROUNDS", 3)
    shutil.copy(attention("none", "bf16"), tmp_path / "forward.cert.json")
    shutil.copy(gradient("none", "bf16"), tmp_path / "backward.cert.json")
    out = tmp_path / "gpu-x.json"
    assert main([str(tmp_path), "--only", "*, 1k", "--seconds", "0.02", "--out", str(out)]) == 0
    body = results.read(out)
    assert len(body["rows"]) == 2 and body["machine"]["device"] == torch.cuda.get_device_name()
    for row in body["rows"]:
        entries = {c["name"]: c for c in row["contenders"]}
        ours = next(c for c in entries.values() if c["kind"] == "certified")
        assert ours["status"] == "ok" and ours["version"] and ours["time"]["how"] == "graph"
        assert entries["SDPA math"]["status"] == "ok"
        assert entries["SDPA flash"]["status"] == "ok", entries["SDPA flash"]["reason"]
        assert 0 < ours["time"]["median"] < 0.1
    assert all(found["met"] is not None for found in results.summary(body) if found["rows"])
