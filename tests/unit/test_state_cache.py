"""Proofs of earlier runs: served again for the same text, spec, settings and checker, and for nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from ir.loader import bind, load_spec, packaged_specs
from synth.jobs import Proof, Prove, prove, unanswered
from synth.state import InMemory, Journal, cache
from synth.state.answers import decode, encode
from synth.state.cache import Cached
from synth.state.store import Store
from synth.state.tables import ProofRow
from verifier.certificate import Certificate, digest
from verifier.verdict import Verdict

BOUND = bind(load_spec("softmax"), {})
TEXT = (packaged_specs() / "softmax" / "online.tile").read_text()
KEY = digest(TEXT)


@pytest.fixture(scope="module")
def proof() -> Proof:
    return prove(Prove("online", TEXT), BOUND)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "synth.db")) as opened:
        yield opened


def cached(store: Store, journal: Journal | None = None) -> Cached:
    return Cached(journal or InMemory(), store, BOUND)


def replaced(store: Store, answer: dict[str, Any]) -> None:
    with store.write() as session:
        session.execute(update(ProofRow).values(answer=answer))


def test_another_run_gets_the_same_answer_and_keeps_it(store: Store, proof: Proof) -> None:
    cached(store).record("prove", KEY, encode(proof))
    own = InMemory()
    again = cached(store, own).answer("prove", KEY)
    assert again is not None and decode("prove", again) == proof
    assert own.answer("prove", KEY) == again  # so that this run resumes without the cache
    assert cached(store).answer("check", KEY) is None
    assert cached(store).answer("prove", digest(TEXT + "\n")) is None


def test_refuted_kernels_are_served_too(store: Store) -> None:
    wrong = TEXT.replace(" / l[:, None]", "")
    refuted = prove(Prove("k", wrong), BOUND)
    assert refuted.verdict is Verdict.REFUTED
    cached(store).record("prove", digest(wrong), encode(refuted))
    assert decode("prove", cached(store).answer("prove", digest(wrong)) or {}) == refuted


def test_nothing_is_served_to_another_spec_setting_or_checker(
    store: Store, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(store).record("prove", KEY, encode(proof))
    other_setting = bind(load_spec("softmax"), {"dtype": "fp16"})
    assert Cached(InMemory(), store, other_setting).answer("prove", KEY) is None
    other_spec = replace(BOUND, spec=replace(BOUND.spec, source=BOUND.spec.source + "# another\n"))
    assert Cached(InMemory(), store, other_spec).answer("prove", KEY) is None
    monkeypatch.setattr(cache, "checker", lambda: "another")
    assert cached(store).answer("prove", KEY) is None


def test_a_certificate_of_another_kernel_is_not_served(store: Store, proof: Proof) -> None:
    """Rows that were edited, however well: each would make a kernel `proved` that was never proved."""
    journal = cached(store)
    journal.record("prove", KEY, encode(proof))
    body = copy.deepcopy(proof.certificate.body)  # type: ignore[union-attr]
    body["subject"]["candidate"]["text"] = TEXT.replace("exp(m - m_new)", "1")
    moved = encode(Proof(proof.report, Certificate(body)))  # its hash fits, its subject is another text
    settings = copy.deepcopy(proof.certificate.body)  # type: ignore[union-attr]
    settings["subject"]["settings"] = {"dtype": "fp32"}
    edited = copy.deepcopy(encode(proof))
    edited["certificate"]["body"]["claim"] = []  # its subject is right, its hash is not
    bare = {**encode(proof), "certificate": None}
    for forged in (moved, encode(Proof(proof.report, Certificate(settings))), edited, bare, {"report": 1}):
        replaced(store, forged)
        assert cached(store).answer("prove", KEY) is None
    with store.write() as session:
        session.execute(text("UPDATE proofs SET answer = x'0001'"))
    assert cached(store).answer("prove", KEY) is None
    replaced(store, encode(proof))
    assert cached(store).answer("prove", KEY) is not None


def test_proofs_that_were_cut_off_are_not_kept(store: Store) -> None:
    given_up = encode(unanswered("no answer within 45 s", 45.0))
    own = InMemory()
    cached(store, own).record("prove", KEY, given_up)
    cached(store, own).record("prove", "text that is no kernel", encode(Proof(None, problem="error[K001]")))
    assert own.answer("prove", KEY) == given_up
    assert cached(store).answer("prove", KEY) is None
    assert cached(store).answer("prove", "text that is no kernel") is None
