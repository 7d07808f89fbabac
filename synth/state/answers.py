"""Answers of jobs as plain JSON values and back, exactly: what the journal keeps and a resumed run reads.

`decode(kind, encode(answer))` equals the answer, certificates included (as JSON values: a tuple inside a body comes
back as a list, and the id is the same). Everything read is checked against the types it should have, and a
certificate against the hash of its content, so that a damaged or edited row raises `Damaged` and is never half an
answer. That a certificate has its right id does not make it true: whoever can write to the database can forge one. No
run takes another run's proof for that reason (`synth.state.cache`); a resumed run takes its own, of the same checker.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec

from synth.errors import Unavailable
from synth.jobs import Answer, Built, Checked, Proof, Timed
from verifier.certificate import Certificate
from verifier.verdict import Verdict

KINDS: dict[str, type[Answer]] = {"prove": Proof, "build": Built, "check": Checked, "time": Timed}


class Damaged(Unavailable):
    """What was read is not an answer of its kind, or was changed after it was written."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the run's record is damaged: {what}; begin another run")


def encode(answer: Answer) -> dict[str, Any]:
    """A JSON value. Numbers of numpy become Python's."""
    found: dict[str, Any] = msgspec.to_builtins(answer, enc_hook=_number)
    certificate = None if isinstance(answer, Timed) else answer.certificate
    if certificate is not None:
        found["certificate"] = {"id": certificate.id, **found["certificate"]}
    return found


def decode(kind: str, value: dict[str, Any]) -> Answer:
    """Raises Damaged."""
    if kind not in KINDS:
        raise Damaged(f"no kind of answer is called {kind!r}")
    try:
        answer: Answer = msgspec.convert(value, KINDS[kind])
    except msgspec.ValidationError as error:
        raise Damaged(f"not an answer of the kind {kind!r}: {error}") from error
    if not isinstance(answer, Timed) and answer.certificate is not None:
        verified(value["certificate"].get("id", ""), answer.certificate)
    if isinstance(answer, Proof) and (answer.verdict is Verdict.PROVED) != (answer.certificate is not None):
        raise Damaged("a report says proved exactly when there is a certificate")
    return answer


def verified(claimed: str, certificate: Certificate) -> Certificate:
    """The certificate, if its content hashes to the id it was kept under. Raises Damaged."""
    if certificate.id != claimed:
        raise Damaged(f"certificate {claimed[:12]}: its content does not match its id")
    return certificate


def pack(value: Any) -> bytes:
    """JSON, compressed: evidence is long and repeats itself. Infinities and NaN are kept, as Python's JSON has them."""
    return zlib.compress(json.dumps(value, separators=(",", ":"), default=_number).encode(), 6)


def unpack(packed: bytes) -> Any:
    """Raises Damaged."""
    try:
        return json.loads(zlib.decompress(packed))
    except (zlib.error, ValueError) as error:
        raise Damaged(f"cannot be read: {error}") from error


def _number(value: Any) -> Any:
    """numpy's numbers; anything else has no place in an answer."""
    if hasattr(value, "item"):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")
