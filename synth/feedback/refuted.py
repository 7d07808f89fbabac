"""A refuted candidate: the obligation, the counterexample, what can be worked out of it, and the usual causes."""

from __future__ import annotations

from collections.abc import Mapping

from ir.ast import NOWHERE
from ir.diagnostics import Source, excerpt
from ir.program import Program
from ir.spec import Bound
from synth.feedback.obligations import ADVICE
from verifier.verdict import TITLES, Counterexample, Report, Result, Verdict

KINDS = {
    "bounds": "outside the tensor",
    "width": "does not fit the width",
    "write-write": "stored twice in one launch",
    "read-write": "read in the launch that stores it",
    "unwritten": "never written",
    "uninitialised": "read or added to before it is written",
    "undefined": "undefined (NaN)",
    "overflow": "infinite (overflow)",
}


def refuted(report: Report, program: Program | None, text: str, bound: Bound) -> list[str]:
    """Every counterexample of the report, the obligations that held, and the usual causes."""
    lines = []
    for result in report.results:
        if result.verdict is Verdict.REFUTED and result.counterexample is not None:
            lines += _refutation(result, result.counterexample, program, text, bound)
    left = [r.id for r in report.results if r.verdict is Verdict.UNPROVED]
    if left:
        lines.append(f"Not shown either (look again when the above is repaired): {', '.join(left)}.")
    return [*lines, held(report)]


def held(report: Report) -> str:
    shown = [r.id for r in report.results if r.verdict is Verdict.PROVED]
    return f"Proved for all sizes: {', '.join(shown)}." if shown else "No obligation was proved."


def _refutation(result: Result, found: Counterexample, program: Program | None, text: str, bound: Bound) -> list[str]:
    advice = ADVICE[result.id]
    return [
        f"{result.id} {TITLES[result.id]} is broken. It demands: {advice.demand}.",
        f"  what     {found.message}",
        f"  shape    {_assignments(found.sizes)}",
        *([f"  values   {_assignments(found.parameters)}; inputs {found.inputs}"] if found.parameters else []),
        *([f"  program  {found.kernel}({_assignments(found.program)})"] if found.program else []),
        *([f"  cell     {cell_text(found, program, bound)}"] if found.tensor else []),
        f"  expected {found.expected}",
        f"  actual   {KINDS.get(found.actual, found.actual)}",
        *source_lines(text, found.span),
        "Usual causes:",
        *(f"  - {cause}" for cause in advice.causes),
    ]


def _assignments(pairs: tuple[tuple[str, int], ...] | tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in pairs)


def cell_text(found: Counterexample, program: Program | None, bound: Bound) -> str:
    """A cell with the names its index has in the spec's definition."""
    names: Mapping[str, tuple[str, ...]] = {d.name: d.parameters for d in bound.spec.definitions}
    parameters = names.get(found.tensor, ())
    if len(parameters) != len(found.cell):
        return f"{found.tensor}[{', '.join(map(str, found.cell))}]"
    return f"{found.tensor}[{', '.join(f'{n} = {k}' for n, k in zip(parameters, found.cell, strict=True))}]"


def source_lines(text: str, span: object) -> list[str]:
    """The line of the candidate with a caret; nothing where the place is not known."""
    from ir.ast import Span

    if not isinstance(span, Span) or span == NOWHERE:
        return []
    return [f"  line {span.line}:", *(f"  {line}" for line in excerpt(Source(text, ""), span)[1:])]
