"""From kernel text to a report, and to a certificate when everything is proved. Needs neither torch nor triton."""

from __future__ import annotations

from dataclasses import dataclass

from ir.nearby import admits
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from synth.propose.specialise import specialised
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
    report = prove(program, bound, text, rounding=True)
    certificate = issue(report, text, bound) if report.verdict is Verdict.PROVED else None
    return Judgement(program, report, certificate)


def narrower(certificate: Certificate, bound: Bound) -> tuple[Certificate, ...]:
    """Certificates of the same kernel without the masks that even sizes do not need, one at most. Proposed by a rewrite
    and proved like any kernel, for these sizes only. None where nothing is proved, nothing would go away, or none of
    the shapes the spec names for measuring is even."""
    shapes = [dict(s.sizes) for s in (*bound.spec.search_shapes, *bound.spec.heldout_shapes)]
    for text in specialised(certificate.candidate, bound):
        program = check(parse(text), bound, text)
        if shapes and not any(admits(program, bound, sizes) for sizes in shapes):
            continue
        report = prove(program, bound, text, search=False, rounding=True)
        if report.verdict is Verdict.PROVED:
            return (issue(report, text, bound),)
    return ()
