"""Proofs of earlier runs: only a no is served again, for the same text, spec, settings and checker."""

from __future__ import annotations

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
from verifier.certificate import digest
from verifier.verdict import Verdict

BOUND = bind(load_spec("softmax"), {})
RIGHT = (packaged_specs() / "softmax" / "online.tile").read_text()
WRONG = RIGHT.replace(" / l[:, None]", "")
KEY = digest(WRONG)


@pytest.fixture(scope="module")
def refuted() -> Proof:
    return prove(Prove("wrong", WRONG), BOUND)


@pytest.fixture(scope="module")
def proved() -> Proof:
    return prove(Prove("right", RIGHT), BOUND)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "synth.db")) as opened:
        yield opened


def cached(store: Store, journal: Journal | None = None) -> Cached:
    return Cached(journal or InMemory(), store, BOUND)


def test_another_run_gets_the_same_answer_and_keeps_it(store: Store, refuted: Proof) -> None:
    assert refuted.verdict is Verdict.REFUTED
    cached(store).record("prove", KEY, encode(refuted))
    own = InMemory()
    again = cached(store, own).answer("prove", KEY)
    assert again is not None and decode("prove", again) == refuted
    assert own.answer("prove", KEY) == again  # so that this run resumes without the cache
    assert cached(store).answer("check", KEY) is None
    assert cached(store).answer("prove", digest(WRONG + "\n")) is None


def test_nothing_is_served_to_another_spec_setting_or_checker(
    store: Store, refuted: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(store).record("prove", KEY, encode(refuted))
    other_setting = bind(load_spec("softmax"), {"dtype": "fp16"})
    assert Cached(InMemory(), store, other_setting).answer("prove", KEY) is None
    other_spec = replace(BOUND, spec=replace(BOUND.spec, source=BOUND.spec.source + "# another\n"))
    assert Cached(InMemory(), store, other_spec).answer("prove", KEY) is None
    monkeypatch.setattr(cache, "checker", lambda: "another")
    assert cached(store).answer("prove", KEY) is None


def test_proved_is_never_kept_and_never_served(store: Store, refuted: Proof, proved: Proof) -> None:
    """Also not from a row that somebody wrote: whatever it holds, the kernel is proved or refuted again."""
    own = InMemory()
    cached(store, own).record("prove", digest(RIGHT), encode(proved))
    assert own.answer("prove", digest(RIGHT)) is not None
    assert cached(store).answer("prove", digest(RIGHT)) is None

    cached(store).record("prove", KEY, encode(refuted))
    bare: dict[str, Any] = {**encode(proved), "certificate": None}
    for forged in (encode(proved), bare, {"report": 1}, {**encode(refuted), "report": None}):
        with store.write() as session:
            session.execute(update(ProofRow).values(answer=forged))
        assert cached(store).answer("prove", KEY) is None
    with store.write() as session:
        session.execute(text("UPDATE proofs SET answer = x'0001'"))
    assert cached(store).answer("prove", KEY) is None


def test_proofs_that_were_cut_off_are_not_kept(store: Store) -> None:
    given_up = encode(unanswered("no answer within 45 s", 45.0))
    own = InMemory()
    cached(store, own).record("prove", KEY, given_up)
    cached(store, own).record("prove", "text that is no kernel", encode(Proof(None, problem="error[K001]")))
    assert own.answer("prove", KEY) == given_up
    assert cached(store).answer("prove", KEY) is None
    assert cached(store).answer("prove", "text that is no kernel") is None
