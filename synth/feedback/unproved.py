"""An unproved candidate: what is left to show, where, and what would help."""

from __future__ import annotations

import re

from ir.program import Program
from synth.feedback.obligations import ADVICE
from synth.feedback.refuted import held, source_lines
from verifier.verdict import TITLES, Report, Verdict

RESIDUAL = 1200  # characters of a residual goal that are shown


def unproved(report: Report, program: Program | None, text: str) -> list[str]:
    lines = ["No counterexample was found either: it may be right, but it cannot be used as it is."]
    reasons: dict[str, list[str]] = {}
    for result in report.results:
        if result.verdict is not Verdict.PROVED:
            reasons.setdefault(result.residual, []).append(result.id)
    for residual, ids in reasons.items():
        first = report.result(ids[0])
        title = f" {TITLES[ids[0]]}" if len(ids) == 1 else ""
        lines.append(f"{', '.join(ids)}{title} not shown.")
        if len(ids) == 1:
            lines.append(f"  demands  {ADVICE[ids[0]].demand}")
        lines += [f"  left     {readable(residual)}", *source_lines(text, first.span)]
        if len(ids) == 1:
            lines += ["What usually helps:", *(f"  - {help}" for help in ADVICE[ids[0]].helps)]
    return [*lines, held(report)]


def readable(residual: str) -> str:
    """Solver names numbered by appearance, long goals cut."""
    names: dict[str, str] = {}

    def short(match: re.Match[str]) -> str:
        stem, number = match.group(1), match.group(2)
        if stem == "lane":
            return f"lane{number}"
        same = [n for n in names.values() if n.startswith(stem)]
        return names.setdefault(match.group(0), stem if not same else f"{stem}{len(same) + 1}")

    text = re.sub(r"\b([A-Za-z_]+)!(\d+)(?:of\d+)?", short, residual)
    return text if len(text) <= RESIDUAL else f"{text[:RESIDUAL]} ... ({len(text) - RESIDUAL} characters more)"
