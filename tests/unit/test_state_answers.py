"""Answers of jobs go to JSON and come back the same; what was damaged or edited is noticed."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ir.loader import bind, load_spec, packaged_specs
from synth.events import Measurement
from synth.jobs import Answer, Built, Checked, Proof, Prove, Timed, prove, unanswered
from synth.state.answers import Damaged, decode, encode, pack, unpack
from verifier.verdict import Counterexample, Verdict

SOFTMAX = (packaged_specs() / "softmax" / "online.tile").read_text()
TEXTS = {
    Verdict.PROVED: SOFTMAX,
    Verdict.REFUTED: SOFTMAX.replace(" / l[:, None]", ""),
    Verdict.UNPROVED: SOFTMAX.replace("l * exp(m - m_new)", "l"),  # wrong for rows of several tiles only
    None: "kernel nothing",
}


@pytest.fixture(scope="module")
def proofs() -> dict[Verdict | None, Proof]:
    """A real answer of each kind."""
    bound = bind(load_spec("softmax"), {})
    return {verdict: prove(Prove("k", text), bound) for verdict, text in TEXTS.items()}


def there_and_back(kind: str, answer: Answer) -> Answer:
    return decode(kind, unpack(pack(encode(answer))))


def test_proofs_come_back_equal(proofs: dict[Verdict | None, Proof]) -> None:
    assert {verdict: proof.verdict for verdict, proof in proofs.items()} == {v: v for v in proofs}
    for verdict, proof in proofs.items():
        back = there_and_back("prove", proof)
        assert back == proof and repr(back) == repr(proof), verdict
    assert any(r.counterexample is not None for r in proofs[Verdict.REFUTED].report.results)  # type: ignore[union-attr]


def test_certificates_keep_their_id_through_every_stage(proofs: dict[Verdict | None, Proof]) -> None:
    certificate = proofs[Verdict.PROVED].certificate
    assert certificate is not None
    lowered = certificate.with_section("lowered", {"resources": {"sm_90": ({"registers": 12, "occupancy": 0.25},)}})
    for kind, answer in (("build", Built(lowered, ({"registers": 12},))), ("check", Checked(lowered, 3, 1e-9))):
        back = there_and_back(kind, answer)
        assert isinstance(back, Built | Checked) and back.certificate.id == lowered.id
        assert json.dumps(encode(back)) == json.dumps(encode(answer))


@settings(max_examples=30)
@given(st.floats(), st.none() | st.floats(), st.integers(0, 2**62), st.text())
def test_every_number_and_text_survives(seconds: float, share: float | None, size: int, text: str) -> None:
    timed = Timed((Measurement(text, "1k", (("B", size),), seconds, 0.1 + 0.2, share),), text, problem=text)
    assert repr(there_and_back("time", timed)) == repr(timed)  # repr, for NaN differs from itself


def test_integer_parameters_stay_integers() -> None:
    proof = unanswered("", 0.0)
    found = Counterexample((("N", 3),), (("seed", 7), ("scale", 7.0)), "", "k", (), "O", (1, 2), "1", "2", "")
    assert proof.report is not None
    result = replace(proof.report.results[0], verdict=Verdict.REFUTED, counterexample=found)
    refuted = Proof(replace(proof.report, results=(result,)))
    assert repr(there_and_back("prove", refuted)) == repr(refuted)


def test_numbers_of_numpy_become_plain() -> None:
    timed = Timed((Measurement("k", "1k", (), np.float64(0.5), float(np.float32(2)), None),))  # type: ignore[arg-type]
    assert json.dumps(encode(timed)) == json.dumps(encode(there_and_back("time", timed)))


def test_what_was_changed_is_noticed(proofs: dict[Verdict | None, Proof]) -> None:
    kept = encode(proofs[Verdict.PROVED])
    edited = copy.deepcopy(kept)
    edited["certificate"]["body"]["subject"]["candidate"]["text"] += "# another"
    with pytest.raises(Damaged, match="does not match its id"):
        decode("prove", edited)
    with pytest.raises(Damaged, match="does not match its id"):
        decode("prove", {**kept, "certificate": {"body": kept["certificate"]["body"]}})
    with pytest.raises(Damaged, match="exactly when"):
        decode("prove", {**kept, "certificate": None})
    with pytest.raises(Damaged, match="exactly when"):
        decode("prove", {**encode(proofs[Verdict.REFUTED]), "certificate": kept["certificate"]})
    with pytest.raises(Damaged, match="not an answer"):
        decode("prove", {"report": {"results": "all proved", "seconds": 0.1}})
    with pytest.raises(Damaged, match="no kind"):
        decode("exchange", {})
    with pytest.raises(Damaged, match="cannot be read"):
        unpack(pack(kept)[:-20])
