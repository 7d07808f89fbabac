"""The version for Hopper: offered where a schedule asks for it, compared on the device before its first use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hopper_kernels import ROOT
from lowering_cases import attention, certificate_for
from lowering_cases import typed as typed_text

from ir.inputs import generate
from lowering import crosscheck as crosschecking
from lowering.agreement import Question, agrees
from lowering.assumptions import LaunchError
from lowering.choose import choose
from lowering.crosscheck import CrosscheckFailed, Run, crosscheck_versions, simulated
from lowering.hopper.flatten import NotForHopper
from lowering.hopper.version import hopper_version
from lowering.lower import lower, versions_of
from lowering.plan import plan
from lowering.versions import LeftOut, Version, left_out, versions_in

BOUND = attention()


def asking() -> str:
    text = (ROOT / "tests/golden/proved/body_and_diagonal.tile").read_text().replace("= 32", "= 64")
    head, _, body = text.partition("cdiv(M, BM)):\n")
    return f"{head}cdiv(M, BM)):\n    schedule warp_specialize = true\n{body}"


def test_it_comes_first_and_says_what_it_needs() -> None:
    text = asking()
    certificate = certificate_for(text, BOUND, bits=32)
    versions = versions_of(certificate, typed_text(text, BOUND), BOUND)
    assert (versions[0].name, versions[-1].name) == ("hopper", "pointers")
    *plain, (kind, reference, shapes) = versions[0].when
    assert plain == [["target", "sm_90"], ["descriptor", "Q"], ["descriptor", "K"], ["descriptor", "V"]]
    assert (kind, reference) == ("agrees", "pointers")
    assert any(s["N"] >= 8 * 64 for s in shapes) and any(s["N"] % 16 for s in shapes)


def test_without_the_wish_there_is_none() -> None:
    text = asking().replace("    schedule warp_specialize = true\n", "")
    certificate = certificate_for(text, BOUND, bits=32)
    with pytest.raises(NotForHopper, match="warp_specialize"):
        hopper_version(certificate, typed_text(text, BOUND), BOUND, "pointers")


def test_where_it_is_asked_for_and_cannot_be_made_the_reason_is_told() -> None:
    """In the certificate, where every view of it finds the reason."""
    fp32 = attention(dtype="fp32")
    certificate = certificate_for(asking(), fp32, bits=32)
    with pytest.raises(NotForHopper) as reason:
        hopper_version(certificate, typed_text(asking(), fp32), fp32, "pointers")
    lowered = lower(certificate, typed_text(asking(), fp32), fp32, targets=()).body["lowered"]
    assert "hopper" not in [v.name for v in versions_in(lowered)]
    assert left_out(lowered)[0] == LeftOut("hopper", str(reason.value), "sm_90")
    assert str(left_out(lowered)[0]).startswith("no version hopper on sm_90: attention: ")
    plain = asking().replace("    schedule warp_specialize = true\n", "")
    unasked = lower(certificate_for(plain, fp32, bits=32), typed_text(plain, fp32), fp32, targets=()).body["lowered"]
    assert "hopper" not in [m.version for m in left_out(unasked)]


def test_its_asynchronous_programs_are_part_of_the_cross_check() -> None:
    text = asking()
    program = typed_text(text, BOUND)
    version = hopper_version(certificate_for(text, BOUND, bits=32), program, BOUND, "pointers")
    sizes = {"B": 1, "H": 2, "G": 1, "M": 70, "N": 72}
    runs = [Run(sizes, {"scale": 0.125}, generate("normal", 0, BOUND, sizes, {"scale": 0.125}))]
    cases = simulated(program, BOUND, runs, version).require().cases
    assert [case.inputs.rpartition(", ")[2] for case in cases] == ["copies early", "copies late"]
    without = typed_text(text.replace("    schedule warp_specialize = true\n", ""), BOUND)
    with pytest.raises(CrosscheckFailed, match="without an asynchronous program"):
        simulated(without, BOUND, runs, version)


def test_its_text_is_part_of_the_cross_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the one shape left, a long one: the others, and more heads, take longer."""
    monkeypatch.setattr(crosschecking, "shapes_for", lambda *_: ())
    monkeypatch.setattr(crosschecking, "many_tiles", lambda *_, **__: {"B": 1, "H": 1, "G": 1, "M": 40, "N": 300})
    text = asking()
    program = typed_text(text, BOUND)
    version, *_, last = versions_of(certificate_for(text, BOUND, bits=32), program, BOUND)
    wrong = replace(version, source=version.source.replace("k_fills >> 1 & 1)", "k_fills >> 2 & 1)"))
    lowered = {"plan": plan(program, BOUND), "versions": [wrong.to_json(), last.to_json()], "narrower": {}}
    with pytest.raises(CrosscheckFailed, match="EmulationError"):
        crosscheck_versions(lowered, program, BOUND)


# ---- the comparison on the device, here on the CPU with Python in place of kernels ---------------

PLAN: dict[str, Any] = {
    "tensors": [
        {"name": "X", "shape": ["N"], "dtype": "f32", "role": "input", "abs_max": 4.0, "facts": None},
        {"name": "Y", "shape": ["N"], "dtype": "f32", "role": "output", "abs_max": None, "facts": None},
    ],
    "parameters": {"scale": {"integer": False, "default": 2.0, "min": 0.5, "max": 4.0}},
}
REFERENCE = Version("pointers", "", "reference", [])


def asked(behaviour: str, fits: bool = True) -> Question:
    def run(
        version: Version, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int], parameters: Mapping[str, float]
    ) -> None:
        wrong = version.name == "hopper"
        if wrong and behaviour == "raises":
            raise RuntimeError("no such instruction")
        if behaviour == "neither writes":
            return
        tensors["Y"].copy_(tensors["X"] * parameters["scale"])
        if wrong and behaviour == "skips the tail" and sizes["N"] % 16:
            tensors["Y"][-1] = float("nan")
        if wrong and behaviour == "is off":
            tensors["Y"][0] += 0.1

    version = Version("hopper", "", behaviour + str(fits), [])
    device, shapes = torch.device("cpu"), [{"N": 64}, {"N": 69}]
    return Question(version.source_sha256, "reference", device, version, REFERENCE, PLAN, shapes, lambda *_: fits, run)


def test_a_version_that_agrees_may_run() -> None:
    assert agrees(asked("is right"))


@pytest.mark.parametrize(
    ("behaviour", "fits", "reason"),
    [
        ("raises", True, "no such instruction"),
        ("skips the tail", True, r"differs from pointers's by inf .* {'N': 69}"),
        ("is off", True, "differs"),
        ("neither writes", True, "a finite number"),
        ("is right", False, "no shape"),
    ],
)
def test_one_that_does_not_is_named_and_never_runs(behaviour: str, fits: bool, reason: str) -> None:
    with pytest.warns(UserWarning, match=reason):
        assert not agrees(asked(behaviour, fits))
    assert not agrees(asked(behaviour, fits))  # asked once, answered from then on


def test_where_nobody_compares_it_does_not_run() -> None:
    versions = (Version("hopper", "", "", [], [["agrees", "pointers", []]]), REFERENCE)
    assert choose(versions, "sm_90", {}, {}) is REFERENCE
    assert choose(versions, "sm_90", {}, {}, lambda *_: True) is versions[0]
    with pytest.raises(LaunchError, match="cannot read"):
        choose((Version("x", "", "", [], [["unheard of"]]), REFERENCE), "sm_90", {}, {})
