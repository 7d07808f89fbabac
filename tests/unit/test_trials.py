"""Versions are tried in processes that may be lost: what each verdict is, whatever such a process does."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lowering import trial
from lowering.launch import Launcher
from lowering.versions import Version
from synth.bench.suite import run
from synth.bench.suite.contenders import Wrong, trusted
from synth.bench.suite.subject import Subject
from synth.bench.suite.trials import refused, trials, tried

NAMES = ("hopper", "descriptors", "pointers")
PLAN: dict[str, Any] = {}
LAUNCHER = Launcher("id", {}, PLAN, {}, {}, None, tuple(Version(n, "", "", []) for n in NAMES))
SUBJECT = Subject("x", Path("x.cert.json"), LAUNCHER)

# Stands in for `python -m lowering.trial`: the last version first, in order, without those asked for.
TRIAL = """
import json, os, sys, time
without = sys.argv[3::2]
for name in ("pointers", "descriptors", "hopper"):
    if name in without:
        continue
    print(json.dumps({"version": name, "begun": True}), flush=True)
    if name == "descriptors":
        DOES
    print(json.dumps({"version": name, "verdict": "same", "reason": "", "seconds": 0.1}), flush=True)
"""
# A fault it noticed itself: the verdict, then an end of the process, for nothing more would run in it.
FAULT = """
        told = {"version": name, "verdict": "wrong", "reason": "illegal address", "seconds": 0.1}
        print(json.dumps(told), flush=True)
        os._exit(3)"""


def verdicts(does: str, patience: float = 20.0) -> dict[str, tuple[str, str]]:
    found = tried(SUBJECT, (sys.executable, "-c", TRIAL.replace("DOES", does)), patience)
    assert {line["certificate"] for line in found} == {"id"}
    return {line["version"]: (line["verdict"], line["reason"]) for line in found}


def test_all_of_them_are_tried() -> None:
    assert verdicts("pass") == dict.fromkeys(NAMES, ("same", ""))


@pytest.mark.parametrize(
    ("does", "patience", "reason"),
    [
        ("os.abort()", 20.0, "ended with signal 6"),
        ("time.sleep(60)", 1.0, "did not end in 1 s"),
        ("sys.stderr.write('no such instruction'); os._exit(9)", 20.0, "exit code 9: no such instruction"),
        (FAULT, 20.0, "illegal address"),
    ],
)
def test_a_lost_process_costs_only_the_version_on_trial(does: str, patience: float, reason: str) -> None:
    found = verdicts(does, patience)
    assert found["descriptors"][0] == "wrong" and reason in found["descriptors"][1]
    assert found["pointers"] == found["hopper"] == ("same", "")


def test_a_file_that_is_no_certificate_is_said_before_a_gpu_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trial.main([str(tmp_path / "absent.json")]) == 64
    assert "absent.json: cannot be read as a certificate" in capsys.readouterr().err


def test_where_none_can_be_tried_none_is_used() -> None:
    found = tried(SUBJECT, (sys.executable, "-c", "import sys; sys.exit(4)"))
    assert [line["verdict"] for line in found] == ["wrong"] * 3 and "exit code 4" in found[0]["reason"]


def test_what_is_wrong_is_told_and_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"certificate": "id", "version": "hopper", "verdict": "wrong", "reason": "is off", "seconds": 1.0}
    other = {**one, "version": "pointers", "verdict": "same"}
    monkeypatch.setattr("synth.bench.suite.trials.tried", lambda subject: [one, other])
    said: list[str] = []
    assert refused(trials([SUBJECT], said.append)) == {"id": {"hopper": "is off"}}
    assert said == ["tried 1/1 x: hopper is not used: is off"]


def test_a_refused_version_never_runs_and_the_last_takes_its_place() -> None:
    left = trusted(LAUNCHER, {"hopper": "is off"}, None)
    assert [v.name for v in left.versions] == ["descriptors", "pointers"]
    for refused_names, asked in (({"hopper": "is off"}, "hopper"), ({"pointers": "is off"}, None)):
        with pytest.raises(Wrong, match="is off"):
            trusted(LAUNCHER, refused_names, asked)


def test_each_certificate_is_tried_once_and_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(run, "trials", lambda subjects, _: asked.append([s.name for s in subjects]) or [])
    item: Any = SimpleNamespace(group=SimpleNamespace(subjects=(SUBJECT,)))
    for device, body in (("cuda", {}), ("cuda", {"trials": [{"certificate": "id"}]}), ("cpu", {})):
        assert run._untried(item, body, run.Options(torch.device(device), tmp_path), print) == []
    assert asked == [["x"], []]
