"""An unproved candidate: what is left to show, where, and what would help.

The residual goal is the prover's, in its words, with its symbols numbered by appearance and long terms cut. What helps
is read off it where it names its reason (a construct that is not supported, loop state without a closed form, a limit
that was reached); else it is what helps that obligation in general.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ir.ast import NOWHERE, Span
from ir.program import For, Program
from synth.feedback.obligations import ADVICE, REASONS
from synth.feedback.refuted import held, source_lines, statements
from verifier.verdict import TITLES, Report, Verdict

WIDTH = 500  # characters of one side of a residual goal
LINES = 8  # of one residual goal


def unproved(report: Report, program: Program | None, text: str) -> list[str]:
    """Each residual goal once, with the obligations it keeps open."""
    lines = ["No counterexample was found: it may well be right, but only what is proved is run."]
    reasons: dict[str, list[str]] = {}
    for result in report.results:
        if result.verdict is Verdict.UNPROVED:
            reasons.setdefault(result.residual or "no residual goal was recorded", []).append(result.id)
    for residual, ids in reasons.items():
        lines += _open(residual, ids, report, program, text)
    return [*lines, held(report)]


def _open(residual: str, ids: list[str], report: Report, program: Program | None, text: str) -> Iterator[str]:
    alone = ids[0] if len(ids) == 1 else ""
    yield f"{', '.join(ids)} {TITLES[alone] + ' ' if alone else ''}left unproved."
    if alone:
        yield f"  demands  {ADVICE[alone].demand}"
    span = report.result(ids[0]).span
    at = re.search(r"\(line (\d+)\)", residual)
    if span == NOWHERE and at:
        span = _whole_line(text, int(at.group(1)))
    goal = residual.split("\n  that is, as formulas:")[0]
    shown = readable(goal)
    yield f"  left     {shown[0]}"
    yield from (f"           {line}" for line in shown[1:])
    yield from source_lines(text, span)
    state = list(_state(goal, program, text)) if program is not None else []
    known = _known(residual)
    if state:
        yield "Facts:"
        yield from (f"  - {fact}" for fact in state)
    yield "What helps here:" if known else "What usually helps:"
    yield from (f"  - {help}" for help in helps(residual, alone))


def helps(residual: str, obligation: str = "") -> tuple[str, ...]:
    """What helps where the residual goal names its reason, else what usually helps that obligation."""
    return _known(residual) or (ADVICE[obligation].helps if obligation else ())


def _known(residual: str) -> tuple[str, ...]:
    return tuple(help for pattern, help in REASONS if re.search(pattern, residual))


def _whole_line(text: str, number: int) -> Span:
    lines = text.splitlines()
    if not 0 < number <= len(lines):
        return NOWHERE
    line = lines[number - 1]
    return Span(number, len(line) - len(line.lstrip()) + 1, number, len(line) + 1)


def readable(goal: str) -> list[str]:
    """A residual goal in lines of at most WIDTH characters: lanes as lane0, bound symbols as k1, others by their stem,
    loop state without the arguments it depends on."""
    goal = re.sub(r"\blane!(\d+)(?:of\d+)?", r"lane\1", goal)
    goal = re.sub(r"%(\d+)(?:\.(\d+))?", lambda m: f"k{m[1]}" + (f"_{m[2]}" if m[2] else ""), goal)
    names: dict[str, str] = {}
    for match in re.finditer(r"\b([A-Za-z_]+)!\d+", goal):
        same = sum(n == match[1] or n.startswith(f"{match[1]}_") for n in names.values())
        names.setdefault(match[0], f"{match[1]}_{same + 1}" if same else match[1])
    goal = re.sub(r"\b[A-Za-z_]+!\d+", lambda m: names[m[0]], goal)
    lines = [_without_arguments(line.strip()) for line in goal.split("\n")]
    cut = [x if len(x) <= WIDTH else f"{x[:WIDTH]} ... ({len(x) - WIDTH} characters more)" for x in lines if x]
    return cut if len(cut) <= LINES else [*cut[:LINES], f"({len(cut) - LINES} lines more)"]


def _without_arguments(line: str) -> str:
    """`attention.acc_1[n, lane0, B, ..]` as `acc_1[..]`."""
    out, at = "", 0
    for match in re.finditer(r"\b\w+\.(\w+)\[", line):
        if match.start() < at:
            continue
        depth, end = 1, match.end()
        while end < len(line) and depth:
            depth += {"[": 1, "]": -1}.get(line[end], 0)
            end += 1
        out, at = out + line[at : match.start()] + f"{match[1]}[..]", end
    return out + line[at:]


def _state(goal: str, program: Program, text: str) -> Iterator[str]:
    """Carried names that the goal still mentions, by the names they have in the text."""
    lines = text.splitlines()
    for kernel in program.kernels:
        for s in statements(kernel.body):
            for carry in s.carries if isinstance(s, For) else ():
                if not re.search(rf"\b{re.escape(kernel.name)}\.{re.escape(carry.name)}\[", goal):
                    continue
                stem = re.sub(r"_\d+$", "", carry.name)
                written = stem if re.search(rf"\b{stem}\b", lines[s.span.line - 1]) else carry.name
                yield (
                    f"the goal still has {carry.name}[..], that is `{written}` of the loop at line {s.span.line}, as "
                    "an arbitrary sequence: it has no closed form, or should have cancelled"
                )
