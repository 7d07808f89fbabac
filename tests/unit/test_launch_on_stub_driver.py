"""Launching, up to the driver call, without a GPU: our launcher, Triton's compiler and its launcher in C are real, the
driver is a stub that checks and writes down what it is asked (tests/unit/stub_driver).

What runs must be what was compiled ahead of time, with the arguments, the threads, the shared memory and the tensor
maps that were meant; and none of the proving code may be needed for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from lowering_cases import attention, certificate_for, documented, typed
from small_spec import RIGHT, SPEC
from stub_driver.device import compiler

from ir.loader import bind, parse_spec
from lowering.compile import child_environment
from lowering.lower import lower

HEADERS = Path(sysconfig.get_paths()["include"]) / "Python.h"
pytestmark = pytest.mark.skipif(
    compiler() is None or not HEADERS.exists(),
    reason="needs a C compiler and Python's headers, as Triton's launcher does",
)

# Runs where the proving code cannot be imported; arguments: certificates of attention and of sums of rows.
SCRIPT = """
import json, sys, tempfile, warnings
from dataclasses import replace
for name in ("z3", "lark", "msgspec", "sympy", "sqlalchemy", "ir", "verifier", "synth"):
    sys.modules[name] = None
from pathlib import Path
import torch
from lowering.launch import load
from stub_driver.device import CUDA, stub_device
from lowering.trial import tried
from stub_driver.rehearse import rehearse

launcher = load(sys.argv[1])
sizes = {"B": 2, "H": 4, "G": 2, "M": 272, "N": 208}
buffer = torch.randn(2, 272, 8, 64).bfloat16()
views = dict(zip("QKV", (x.transpose(1, 2) for x in (buffer[:, :, :4], buffer[:, :208, 4:6], buffer[:, :208, 6:]))))
whole = {name: x.contiguous() for name, x in views.items()}
odd = torch.randn(1 + 2 * 4 * 272 * 64).bfloat16()[1:].view(2, 4, 272, 64)
found = {}
with tempfile.TemporaryDirectory() as folder, stub_device(Path(folder)) as stub:
    for version in launcher.versions:
        found[version.name] = rehearse(launcher, version, whole, stub)
        found[version.name]["views"] = rehearse(launcher, version, views, stub)
        found[version.name]["ahead"] = [row["binary_sha256"] for row in version.resources["sm_90"]]
    first, *others = launcher.versions
    first = replace(first, when=[[*c[:2], [sizes]] if c[0] == "agrees" else c for c in first.when])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        chosen = replace(launcher, versions=(first, *others)).prepare(**whole).version
    found["trial"] = tried(launcher, first, CUDA, [sizes])
    found["call"] = {"chosen": chosen, "said": [str(w.message) for w in said]}
    rows = load(sys.argv[2])
    even, odd_rows = ({"X": torch.randn(8, columns)} for columns in (1024, 1000))
    found["multiples of 16"] = rehearse(rows, rows.versions[0], even, stub)
    found["rows"] = [rows.prepare(**given).version for given in (even, odd_rows)]
    found["rows ahead"] = [row["binary_sha256"] for row in rows.versions[0].resources["sm_90"]]
    found["misaligned"] = rehearse(launcher, launcher.versions[-1], {**whole, "Q": odd}, stub)
    found["asked for first"] = launcher.ready(*launcher.check(whole), order=["pointers"]).version
    found["chosen for misaligned"] = launcher.prepare(**{**whole, "Q": odd}).version
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = documented().replace("BM = 128", "BM = 64")
    text = text.replace("num_warps = 8, num_stages = 3", "num_warps = 4, warp_specialize = true")
    bound = attention("none")
    folder = tmp_path_factory.mktemp("stub")
    path = folder / "attention.cert.json"
    certificate = certificate_for(text, bound, bits=32)
    with pytest.MonkeyPatch.context() as patch:
        # Of its own: Triton keeps a kernel under its text, with the module's name in it, which another may share.
        patch.setenv("TRITON_CACHE_DIR", str(folder / "cache"))
        lower(certificate, typed(text, bound), bound, targets=("sm_90",)).save(path)
        sums = bind(parse_spec(SPEC), {})
        wide = RIGHT.replace("meta BC = 64", "meta BC = 512")
        made = lower(certificate_for(wide, sums, bits=32), typed(wide, sums), sums, targets=("sm_90",))
        made.save(folder / "rows.json")
        home = child_environment(interpret=False)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(folder / "rows.json")],
        capture_output=True, text=True, check=False, timeout=240,
        env={**home, "PYTHONPATH": f"{home['PYTHONPATH']}{os.pathsep}{Path(__file__).parent}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


VERSIONS = ("hopper", "descriptors", "pointers")


@pytest.mark.parametrize("name", VERSIONS)
def test_the_driver_is_given_what_was_meant(found: dict[str, Any], name: str) -> None:
    run = found[name]
    assert run["version"] == name and run["problems"] == []
    assert [k["grid"] for k in run["kernels"]] == [[2 * 4 * 5, 1, 1]]  # batch, heads, tiles of 64 rows


@pytest.mark.parametrize("name", VERSIONS)
def test_what_runs_is_what_was_compiled_ahead_of_time(found: dict[str, Any], name: str) -> None:
    """To the bit: the JIT asks Triton's cache for what compiling ahead of time left there."""
    assert found[name]["loaded"] == found[name]["ahead"]


@pytest.mark.parametrize("name", VERSIONS)
def test_views_into_one_buffer_run_the_same_binary(found: dict[str, Any], name: str) -> None:
    views = found[name]["views"]
    assert views["problems"] == [] and views["loaded"] == []  # loaded before


def test_a_version_whose_kernels_write_nothing_is_not_used(found: dict[str, Any]) -> None:
    """On the stub nothing is computed, so the comparison on the device must not let the version for Hopper run."""
    assert found["call"]["chosen"] == "descriptors"
    assert any("version hopper is not used" in line for line in found["call"]["said"])
    assert found["trial"][0] == "wrong" and "finite number" in found["trial"][1]


def test_a_version_asked_for_first_runs_where_it_may(found: dict[str, Any]) -> None:
    """As the fastest measured near a call's sizes is, though it was lowered last."""
    assert found["asked for first"] == "pointers"


def test_a_misaligned_tensor_is_read_through_pointers_alone(found: dict[str, Any]) -> None:
    assert found["chosen for misaligned"] == "pointers"
    assert found["misaligned"]["problems"] == []
    assert found["misaligned"]["loaded"] not in ([], found["pointers"]["loaded"])  # narrower reads: compiled anew


def test_rows_of_a_multiple_of_16_run_what_was_compiled_for_them(found: dict[str, Any]) -> None:
    """Triton sees at the launch what the compiler was told ahead of time."""
    assert found["rows"] == ["aligned", "pointers"]
    assert found["multiples of 16"]["problems"] == []
    assert found["multiples of 16"]["loaded"] == found["rows ahead"]
