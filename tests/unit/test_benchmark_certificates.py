"""The certificates that the GPU benchmark runs: what the set is, and one of it made, kept and refused."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.small_spec import RIGHT, SPEC, WRONG
from verifier.certificate import Certificate

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def certify(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("certify")


def test_the_set_covers_every_head_dim_mask_and_dtype_with_more_than_one_kernel(certify: Any) -> None:
    found = list(certify.entries())
    assert len({e.name for e in found}) == len(found) == len({e.text + str(e.settings) for e in found})
    forward = [dict(e.settings) for e in found if e.spec == "attention"]
    for d in ("64", "128", "256"):
        for causal in ("none", "bottom_right"):
            for dtype in ("bf16", "fp16"):
                assert forward.count({"causal": causal, "dtype": dtype, "D": d}) >= 2
    backward = [dict(e.settings) for e in found if e.spec == "attention_bwd"]
    assert len({(s["D"], s["causal"], s["dtype"]) for s in backward}) == 12  # the same rows as forward
    assert {e.spec for e in found} >= {"attention", "attention_bwd", "decode"}
    assert {e.spec for e in found if e.controls} == {e.spec for e in found}


def test_what_is_proved_is_kept_and_what_is_not_says_why(certify: Any, tmp_path: Path) -> None:
    spec = tmp_path / "rowsum.toml"
    spec.write_text(SPEC)
    right, wrong = (certify.Entry(name, str(spec), (), text) for name, text in (("right", RIGHT), ("wrong", WRONG)))
    done = certify.run([right, wrong], tmp_path / "out", "sm_90", 1)
    made, refused = done["kernels"]
    assert Certificate.load(tmp_path / "out" / made["file"]).id == made["id"]
    assert made["versions"][-1]["resources"][0]["spills"] == 0
    assert made["versions"][-1]["predicted_seconds"]["small"] > 0
    assert "file" not in refused and "refuted" in refused["problem"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == done

    there = certify.kept(tmp_path / "out")
    assert set(there) == {right.key}  # not made again; what failed is tried again
    (tmp_path / "out" / made["file"]).write_text("{}")
    assert certify.kept(tmp_path / "out") == {}


def test_a_wrong_call_says_what_to_do(certify: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert certify.main(["--only", "no-such-kernel"]) == 64
    assert "--list shows all" in capsys.readouterr().err
