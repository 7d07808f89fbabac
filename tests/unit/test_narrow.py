"""Even sizes get a version of their own: proposed by a rewrite, proved, kept with its certificate, chosen by sizes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_spec import RIGHT, SPEC

from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.typing import check
from lowering.assumptions import AssumptionViolated, LaunchError
from lowering.choose import choose
from lowering.compile import CompileError
from lowering.crosscheck import CrosscheckFailed, crosscheck_versions
from lowering.launch import load
from lowering.lower import NotCertified, lower
from lowering.narrow import NotNarrower, narrower_in, pays
from lowering.versions import Version, left_out, version_on, versions_in
from synth.bench.suite.subject import read
from synth.certify import certify, narrower
from synth.propose.specialise import specialised
from verifier.certificate import Certificate, CertificateError

BOUND = bind(parse_spec(SPEC), {})
PROGRAM = check(parse(RIGHT), BOUND)
GOLDEN = Path(__file__).parents[1] / "golden" / "proved"


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    found = certify(RIGHT, BOUND).certificate
    assert found is not None
    return found


@pytest.fixture(scope="module")
def even(certificate: Certificate) -> Certificate:
    (found,) = narrower(certificate, BOUND)
    return found


@pytest.fixture(scope="module")
def both(certificate: Certificate, even: Certificate) -> Certificate:
    return lower(certificate, PROGRAM, BOUND, (), (even,))


# ---- the rewrite -------------------------------------------------------------------------------------


def test_masks_that_even_sizes_do_not_need_go() -> None:
    bound = bind(load_spec("attention"), {"causal": "bottom_right", "dtype": "bf16"})
    text = (GOLDEN / "fa2_bottom_right.tile").read_text()
    whole, keys = specialised(text, bound)  # rows alone would change nothing in the loop
    assert "require M % BM == 0\nrequire N % BN == 0" in whole and "mask=" not in whole
    assert "sees = j[None, :] <= i[:, None] + N - M" in whole  # the diagonal stays
    assert keys.count("mask=") == 3 and "M % BM" not in keys


def test_a_tail_that_even_sizes_do_not_have_goes() -> None:
    loop = RIGHT[RIGHT.index("    for n in") : RIGHT.index("    store")]
    body = loop.replace("range(0, cdiv(C, BC))", "range(0, C // BC)").replace(", mask=j < C, other=0", "")
    tail = loop.replace("range(0, cdiv(C, BC))", "range(C // BC, cdiv(C, BC))")
    named = "    whole = C // BC\n" + body.replace("C // BC", "whole") + tail.replace("(C // BC", "(whole")
    for split in (body + tail, named):
        (text,) = specialised(RIGHT.replace(loop, split), BOUND)
        assert text.count("for ") == 1 and "require C % BC == 0" in text


def test_a_name_given_over_and_over_is_looked_up_once() -> None:
    many = RIGHT.replace("        x = load", "        j = j + 0\n" * 60 + "        x = load")
    (text,) = specialised(many, BOUND)
    assert "mask" not in text and "require C % BC == 0" in text


def test_nothing_to_gain_is_nothing_proposed() -> None:
    (text,) = specialised(RIGHT, BOUND)
    assert not list(specialised(text, BOUND))  # it requires something already
    assert not list(specialised(RIGHT.replace(", mask=j < C, other=0", ""), BOUND))  # wrong, and without a mask


# ---- both in one certificate -------------------------------------------------------------------------


def test_the_narrower_one_is_proved_and_kept_whole(both: Certificate, even: Certificate, tmp_path: Path) -> None:
    assert even.requires == ("C % 64 == 0",) and "mask" not in even.candidate
    both.save(tmp_path / "both.json")
    lowered = Certificate.load(tmp_path / "both.json").body["lowered"]
    assert narrower_in(lowered) == {even.id: even}
    first, last = versions_in(lowered)
    assert first.name == "pointers where C % 64 == 0" and first.certificate == even.id
    assert first.when == [["size", ["eq", ["mod", "C", 64], 0]]] and not last.when and not last.certificate
    assert lowered["plan"]["requires"] == []  # the kernel as a whole runs at every size
    assert version_on(lowered, "sm_90") == last


@pytest.mark.parametrize(("columns", "name"), [(128, "pointers where C % 64 == 0"), (100, "pointers"), (1, "pointers")])
def test_sizes_choose(both: Certificate, columns: int, name: str) -> None:
    found = choose(versions_in(both.body["lowered"]), "sm_90", {}, {"R": 3, "C": columns})
    assert found.name == name


def test_the_narrower_one_goes_where_it_spills(
    certificate: Certificate, even: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(versions: list[Version], target: str) -> Iterator[list[dict[str, Any]]]:
        for version in versions:
            spilled = 8 if version.certificate and target == "sm_80" else 0
            yield [{"spills": spilled, "registers": 10 if version.certificate else 20}]

    monkeypatch.setattr("lowering.lower.rows_of_each", compiled)
    first, last = versions_in(lower(certificate, PROGRAM, BOUND, ("sm_80", "sm_90"), (even,)).body["lowered"])
    assert first.when[0] == ["target", "sm_90"] and list(last.resources) == ["sm_80", "sm_90"]
    lowered = lower(certificate, PROGRAM, BOUND, ("sm_80",), (even,)).body["lowered"]
    assert [v.name for v in versions_in(lowered)] == ["pointers"] and lowered["narrower"] == {}
    told = [str(m) for m in left_out(lowered)]
    assert "no version pointers where C % 64 == 0 on sm_80: 8 spills, more than the 0 of the one for every call" in told


def test_where_the_kernel_for_every_size_is_refused_the_others_are_not_compiled(
    certificate: Certificate, even: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refusing(versions: list[Version], target: str) -> Iterator[CompileError]:
        for version in versions:
            asked.append(version.name)
            yield CompileError("too large")

    monkeypatch.setattr("lowering.lower.rows_of_each", refusing)
    with pytest.raises(CompileError, match="too large"):
        lower(certificate, PROGRAM, BOUND, ("sm_80",), (even,))
    assert asked == ["pointers"]


def test_each_is_cross_checked_where_it_may_run(both: Certificate) -> None:
    pytest.importorskip("triton", reason="Triton is not installed on this platform")
    cases = crosscheck_versions(both.body["lowered"], PROGRAM, BOUND)
    assert {c["version"] for c in cases} == {"pointers", "pointers where C % 64 == 0"}
    assert not any(dict(c["sizes"])["C"] % 64 for c in cases if c["version"] != "pointers")
    assert any(dict(c["sizes"])["C"] % 64 for c in cases if c["version"] == "pointers")


def test_the_narrower_one_alone_is_refused_elsewhere(even: Certificate, tmp_path: Path) -> None:
    program = check(parse(even.candidate), BOUND)
    lower(even, program, BOUND, ()).save(tmp_path / "even.json")
    launcher = load(tmp_path / "even.json")
    assert launcher.requires == ("C % 64 == 0",)
    with pytest.raises(LaunchError, match="proved for sizes where C % 64 == 0 only"):
        read([tmp_path / "even.json"])  # and no benchmark compares it with kernels for every size
    launcher.check({"X": torch.zeros(3, 128)})
    with pytest.raises(AssumptionViolated, match=r"\[sizes\] C % 64 == 0 does not hold"):
        launcher.check({"X": torch.zeros(3, 100)})


def taking(registers: int, instructions: int) -> Version:
    """A version that the compiler made this much of."""
    row = {"registers": registers, "code": {"loops": [{"ops": {"FFMA": instructions}}]}}
    return Version("pointers", "", "", [], resources={"sm_90": [row]})


def test_a_version_that_takes_no_less_is_left_out(both: Certificate) -> None:
    general = [taking(100, 500)]
    assert pays([taking(100, 499)], general) and pays([taking(99, 510)], general)
    assert not pays([taking(100, 500)], general) and not pays([taking(120, 520)], general)
    assert not pays([taking(120, 520), taking(90, 400)], general)  # it is the first that would run
    assert pays(versions_in(both.body["lowered"])[:1], versions_in(both.body["lowered"])[1:])  # none is compiled


# ---- what must not join ------------------------------------------------------------------------------


def broken(both: Certificate, change: Any) -> dict[str, Any]:
    lowered = copy.deepcopy(both.body["lowered"])
    change(lowered)
    return dict(lowered)


def test_a_version_without_its_conditions_does_not_run(both: Certificate) -> None:
    lowered = broken(both, lambda lowered: lowered["versions"][0].update(when=[["size", ["lt", 0, "C"]]]))
    with pytest.raises(CrosscheckFailed, match="sizes it is not proved for"):
        crosscheck_versions(lowered, PROGRAM, BOUND)


def test_a_version_whose_certificate_was_changed_or_is_gone_does_not_run(both: Certificate, even: Certificate) -> None:
    lowered = broken(both, lambda lowered: lowered["narrower"][even.id].update(requires=[]))
    with pytest.raises(CertificateError, match="does not match its id"):
        narrower_in(lowered)
    for change in (lowered, broken(both, lambda lowered: lowered["narrower"].clear())):
        with pytest.raises(CrosscheckFailed, match="match its id|is not there"):
            crosscheck_versions(change, PROGRAM, BOUND)


def test_only_what_is_the_same_launch_at_fewer_sizes_joins(certificate: Certificate, even: Certificate) -> None:
    with pytest.raises(NotNarrower):
        lower(certificate, PROGRAM, BOUND, (), (certificate,))
    other = bind(parse_spec(SPEC.replace("max_stride = 1048576", "max_stride = 1048577")), {})
    with pytest.raises(NotCertified):
        lower(certificate, PROGRAM, BOUND, (), (certify(even.candidate, other).certificate or certificate,))
    scratch = even.candidate.replace("\n\nkernel", "\nscratch W[R]: f32\n\nkernel")
    with pytest.raises(NotNarrower):
        lower(certificate, PROGRAM, BOUND, (), (replace(even, body=certified(even, scratch)),))


def certified(even: Certificate, text: str) -> dict[str, Any]:
    """The body of a certificate that says it is of another text."""
    return {**even.body, "subject": {**even.body["subject"], "candidate": {"text": text}}}


def test_a_narrower_certificate_of_another_spec_is_none(both: Certificate, even: Certificate) -> None:
    other = copy.deepcopy(even.body)
    other["subject"]["spec"]["text"] = other["subject"]["spec"]["text"].replace("X[i, j] * X[i, j]", "X[i, j]")
    lowered = copy.deepcopy(both.body["lowered"])
    foreign = Certificate(other)
    lowered["narrower"] = {foreign.id: foreign.body}
    for version in lowered["versions"]:
        version["certificate"] = version["certificate"] and foreign.id
    with pytest.raises(CrosscheckFailed, match="of another spec"):
        crosscheck_versions(lowered, PROGRAM, BOUND)


def test_a_plan_that_asks_less_of_the_caller_is_refused(both: Certificate) -> None:
    lowered = copy.deepcopy(both.body["lowered"])
    lowered["plan"]["sizes"]["C"][1] *= 2
    with pytest.raises(CrosscheckFailed, match="what a launcher would check"):
        crosscheck_versions(lowered, PROGRAM, BOUND)
