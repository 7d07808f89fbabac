"""The certificate: one JSON document, addressed by the hash of its content.

`issue` is the only way to make one, and it refuses anything but a complete, all-proved report.
`lowering` and `synth.bench` take a `Certificate`, never a program: "prove before run" is a type.
A certificate file holds the candidate and spec text, so everything can be re-derived from it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ir.spec import Bound
from verifier.verdict import Report, Verdict

FORMAT = 1


class NotProved(Exception):
    """A certificate was asked for a candidate that is not proved."""


class CertificateError(Exception):
    """A certificate file is damaged, was changed after it was issued, or has another format."""


def digest(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Certificate:
    """`body` is the JSON object less its own id. Keys: format, subject, claim, assumptions, evidence,
    witness, facts, widths, tests, benchmarks, trusted; and `lowered` once Triton was emitted."""

    body: dict[str, Any]

    @property
    def id(self) -> str:
        return digest(json.dumps(self.body, sort_keys=True, separators=(",", ":")))

    @property
    def candidate(self) -> str:
        return str(self.body["subject"]["candidate"]["text"])

    @property
    def spec_source(self) -> str:
        return str(self.body["subject"]["spec"]["text"])

    @property
    def settings(self) -> dict[str, str | int]:
        return dict(self.body["subject"]["settings"])

    @property
    def widths(self) -> dict[str, int]:
        """Proved address width in bits, per kernel."""
        return dict(self.body["widths"])

    def with_section(self, name: str, value: Any) -> Certificate:
        """A new certificate (and id) with one more section: lowered, tests, benchmarks, controls."""
        return Certificate({**self.body, name: value})

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"id": self.id, **self.body}, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(path: Path) -> Certificate:
        """Raises CertificateError when the content does not hash to the id it carries."""
        try:
            body = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CertificateError(f"{path}: cannot be read as a certificate: {error}") from error
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise CertificateError(f"{path}: not a certificate of format {FORMAT}")
        claimed = body.pop("id", None)
        certificate = Certificate(body)
        if certificate.id != claimed:
            raise CertificateError(f"{path}: content does not match its id; it was changed after it was issued")
        return certificate


def issue(report: Report, candidate: str, bound: Bound) -> Certificate:
    """Turn a complete, all-proved report into a certificate; NotProved otherwise."""
    if report.verdict is not Verdict.PROVED:
        raise NotProved(f"the report says {report.verdict.value}; only proved candidates are certified")
    raise NotProved("certificates are not issued yet")
