"""What a language model, or a person, is told of a candidate: the gate's verdict as text that can be acted on.

Facts and advice are kept apart. A fact is read off the report, or recomputed from a counterexample's own fields, and
holds of this candidate; advice says what usually helps and is labelled so. The text is a function of the `Tried`
alone: no proof times, no clock, no order that depends on who worked when, so a replayed run sees the same words.
"""

from __future__ import annotations

import re

from ir.diagnostics import SourceError
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from synth.feedback.obligations import rule
from synth.feedback.proved import proved
from synth.feedback.refuted import refuted
from synth.feedback.unproved import unproved
from synth.search.tried import Tried
from verifier.verdict import Verdict

MAX_LINES = 60
MAX_WIDTH = 400  # of a line, in characters


def feedback(tried: Tried, bound: Bound) -> str:
    """At most MAX_LINES lines: verdict first, then why, then what to do next."""
    candidate = tried.candidate
    head = f"{candidate.name}: {tried.verdict.value if tried.verdict else 'not a kernel of this spec'}"
    lines = [head]
    if tried.twin:
        lines.append(
            f"The same program as {tried.twin}, tried before: they differ only in names, comments and layout. "
            "What follows is what became of that one; change the algorithm, the tiles or the schedule."
        )
    report = tried.proof.report
    if report is None:
        lines += _rejected(tried.proof.problem)
    elif report.verdict is Verdict.PROVED:
        lines += proved(tried, _program(tried, bound), bound)
    elif report.verdict is Verdict.REFUTED:
        lines += refuted(report, _program(tried, bound), candidate.text, bound)
    else:
        lines += unproved(report, _program(tried, bound), candidate.text)
    return _cut(lines)


def _program(tried: Tried, bound: Bound) -> Program | None:
    try:
        return check(parse(tried.candidate.text), bound)
    except SourceError:
        return None  # a report without a kernel: whoever made it has nothing more to show


def _rejected(problem: str) -> list[str]:
    found = re.search(r"error\[(\w+)\]", problem)
    lines = [problem.rstrip()]
    if found and (known := rule(found.group(1))):
        lines.append(f"Rule: {known}.")
    return [*lines, "Nothing was proved. Correct this place and submit the whole file again."]


def _cut(lines: list[str]) -> str:
    """At most MAX_LINES lines of MAX_WIDTH characters, with a note where something was left out."""
    split = [part for line in lines for part in line.split("\n")]
    short = [p if len(p) <= MAX_WIDTH else f"{p[:MAX_WIDTH]} ... ({len(p) - MAX_WIDTH} characters more)" for p in split]
    if len(short) > MAX_LINES:
        short = [*short[: MAX_LINES - 1], f"({len(short) - MAX_LINES + 1} lines more)"]
    return "\n".join(short) + "\n"
