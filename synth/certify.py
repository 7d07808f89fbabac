"""From kernel text to a report, and to a certificate when everything is proved. Needs neither torch nor triton."""

from __future__ import annotations

from dataclasses import dataclass

from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from verifier.certificate import Certificate, issue
from verifier.prove import prove
from verifier.verdict import Report, Verdict


@dataclass(frozen=True, slots=True)
class Judgement:
    """`certificate` is there exactly when the report says proved."""

    program: Program
    report: Report
    certificate: Certificate | None


def certify(text: str, bound: Bound, filename: str = "<candidate>") -> Judgement:
    """Prove or refute a kernel. Raises SourceError for a text that is not a kernel of this spec."""
    program = check(parse(text, filename), bound, text, filename)
    report = prove(program, bound, text)
    certificate = issue(report, text, bound) if report.verdict is Verdict.PROVED else None
    return Judgement(program, report, certificate)
