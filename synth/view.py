"""What a person sees of one kernel: verdict by obligation, the counterexample or the residual goal, a certificate.

Rich lays it out; into a pipe the same text goes without colours. `--json` prints the plain value instead.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ir.ast import NOWHERE, Span
from lowering.versions import left_out
from verifier.certificate import Certificate
from verifier.verdict import OBLIGATIONS, TITLES, Counterexample, Report, Result, Rounding, Verdict

COLOURS = {Verdict.PROVED: "green", Verdict.REFUTED: "red", Verdict.UNPROVED: "yellow"}
MARKS = {Verdict.PROVED: "✓", Verdict.REFUTED: "✗", Verdict.UNPROVED: "?"}


def show_report(
    report: Report, text: str, name: str, as_json: bool, lowered: Mapping[str, Any] | None = None
) -> None:
    """A table of obligations; then for each that did not hold, why. `lowered`: a certificate's section, where one was
    made; what it holds and what is left out is told."""
    if as_json:
        made = {} if lowered is None else {"lowered": lowered_facts(lowered)}
        print(json.dumps({"kernel": name, **report.to_json(), **made}))
        return
    console = Console(highlight=False)
    console.print(obligations(report))
    for result in report.results:
        if result.verdict is not Verdict.PROVED:
            console.print(f"\n[bold]{result.id} {TITLES.get(result.id, '')}[/]: {result.verdict.value}", style="bold")
            console.print("\n".join(explanation(result, text, name)), markup=False, soft_wrap=True)
    colour = COLOURS[report.verdict]
    console.print(f"\n{name}: [{colour}]{verdict_of(report)}[/] in {report.seconds:.2f} s", soft_wrap=True)
    for key, value in report.facts:
        console.print(f"  {key}: {value}", markup=False, soft_wrap=True)
    for line in (*_rounding_lines(report.rounding), *_lowered_lines(lowered or {})):
        console.print(line, markup=False, soft_wrap=True)


def _rounding_lines(found: Rounding | None) -> list[str]:
    if found is None:
        return []
    if not found.outputs:
        return [f"  rounding: not bounded: {shortened(found.reason)}"]
    names = ", ".join(b.output for b in found.outputs)
    return [f"  rounding: bounded by a formula for {names}; `synth rounding CERTIFICATE` evaluates it"]


def lowered_facts(lowered: Mapping[str, Any]) -> dict[str, Any]:
    """The names of a certificate's versions, best first, and what is left out, as plain values."""
    missing = [m.to_json() for m in left_out(lowered)]
    return {"versions": [v["name"] for v in lowered["versions"]], "left_out": missing}


def _lowered_lines(lowered: Mapping[str, Any]) -> list[str]:
    lines = []
    for version in lowered.get("versions", ()):
        own = version.get("certificate", "")
        by = f", proved by the certificate {own[:12]} kept in lowered.narrower" if own else ""
        lines.append(f"  version {version['name']}{by}")
    return [*lines, *(f"  {shortened(str(missing))}" for missing in left_out(lowered))]


def shortened(text: str) -> str:
    """One line of at most 300 characters."""
    return textwrap.shorten(text, 300, placeholder=" …")


def verdict_of(report: Report) -> str:
    """The verdict in words; what it is a verdict on, where that is some sizes only."""
    if not report.requires:
        return report.verdict.value
    where = f"{report.verdict.value} for sizes where {' and '.join(report.requires)}"
    return f"{where}, and for no others" if report.verdict is Verdict.PROVED else where


def show_specs(as_json: bool) -> None:
    """Every packaged spec and its kernels."""
    from synth.family import families

    found = families()
    if as_json:
        print(json.dumps([f.to_json() for f in found]))
        return
    console = Console(highlight=False)
    for f in found:
        console.print(f"[bold]{f.spec.name}[/]  {escape(f.spec.doc)}", soft_wrap=True)
        for k in f.kernels:
            settings = " ".join(f"{name}={value}" for name, value in k.settings)
            console.print(f"    {k.name} [dim]{settings}[/]", soft_wrap=True)


def obligations(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "", "verdict", "time", "statement"):
        table.add_column(title, justify="right" if title == "time" else "left")
    found = {r.id: r for r in report.results}
    for obligation in OBLIGATIONS:
        if (result := found.get(obligation)) is None:
            table.add_row(obligation, TITLES[obligation], "[yellow]not attempted[/]", "", "")
            continue
        verdict = f"[{COLOURS[result.verdict]}]{result.verdict.value}[/]"
        table.add_row(obligation, TITLES[obligation], verdict, f"{result.seconds * 1e3:.0f} ms", result.statement)
    return table


def explanation(result: Result, text: str, name: str) -> list[str]:
    """Lines that say why an obligation does not hold, or what is left to show."""
    if result.counterexample is not None:
        return counterexample(result.counterexample, text, name)
    from synth.feedback.unproved import helps, readable

    residual = result.residual or "no residual goal was recorded"
    lines = [*excerpt(text, name, result.span), *textwrap.indent("\n".join(readable(residual)), "  ").splitlines()]
    return [*lines, *(f"  help: {help}" for help in helps(residual, result.id))]


def counterexample(found: Counterexample, text: str, name: str) -> list[str]:
    sizes = ", ".join(f"{k} = {v}" for k, v in (*found.sizes, *found.parameters))
    program = ", ".join(f"{k} = {v}" for k, v in found.program)
    cell = ", ".join(map(str, found.cell))
    return [
        f"  {found.message}",
        f"  at       {sizes}; inputs {found.inputs}",
        *([f"  program  {found.kernel}({program})"] if found.program else []),
        f"  cell     {found.tensor}[{cell}]",
        f"  expected {found.expected}",
        f"  actual   {found.actual}",
        *excerpt(text, name, found.span),
    ]


def excerpt(text: str, name: str, span: Span) -> list[str]:
    """The source line with a caret under the place; nothing for a place that is not known."""
    lines = text.splitlines()
    if span == NOWHERE or not 0 < span.line <= len(lines):
        return []
    line = "".join(c if c.isprintable() else " " for c in lines[span.line - 1])
    end = span.end_column if span.end_line == span.line else len(line) + 1
    gutter = " " * len(str(span.line))
    return [
        f"  --> {name}:{span.line}:{span.column}",
        f"  {gutter} |",
        f"  {span.line} | {line}",
        f"  {gutter} | {' ' * (span.column - 1)}{'^' * max(1, end - span.column)}",
    ]


def show_certificate(certificate: Certificate, as_json: bool) -> None:
    """Subject, claim, assumptions, evidence, and what was tested and measured."""
    if as_json:
        print(json.dumps({"id": certificate.id, **certificate.body}))
        return
    console = Console(highlight=False)
    body = certificate.body
    console.print(f"[bold]certificate[/] {certificate.id}")
    settings = ", ".join(f"{k} = {v}" for k, v in certificate.settings.items())
    console.print(f"[bold]settings[/]    {settings}")
    if certificate.requires:
        console.print(f"[bold]proved for sizes where {' and '.join(certificate.requires)}, and for no others[/]")
    for section in ("claim", "assumptions", "facts", "widths", "witness"):
        console.print(f"\n[bold]{section}[/]")
        console.print("\n".join(_lines(body.get(section))), markup=False, soft_wrap=True)
    console.print("\n[bold]rounding[/]")
    for bound in body.get("rounding", {}).get("bounds", {}).values():
        console.print(textwrap.indent("\n".join(bound["text"]), "  "), markup=False, soft_wrap=True)
    if none := body.get("rounding", {}).get("none"):
        console.print(f"  no bound: {none}", markup=False, soft_wrap=True)
    if derived := body.get("derived"):
        console.print("\n[bold]derived from the spec's `grad`[/]")
        console.print(textwrap.indent(derived, "  "), markup=False, soft_wrap=True)
    console.print("\n[bold]evidence[/]")
    console.print(f"  {len(_leaves(body.get('evidence')))} items; `synth show --json` prints them")
    for section in ("lowered", "tests", "benchmarks"):
        if section in body:
            console.print(f"[bold]{section}[/]: recorded (evidence, not proof)")
    for line in _lowered_lines(body.get("lowered", {})):
        console.print(line, markup=False, soft_wrap=True)
    console.print("\n[bold]candidate[/]")
    console.print(textwrap.indent(certificate.candidate, "  "), markup=False, soft_wrap=True)


def _lines(value: object, depth: int = 1) -> list[str]:
    indent = "  " * depth
    match value:
        case dict():
            found = []
            for key, item in value.items():
                if isinstance(item, dict | list):
                    found += [f"{indent}{key}", *_lines(item, depth + 1)]
                else:
                    found.append(f"{indent}{key}: {item}")
            return found
        case list() | tuple():
            if value and all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
                return [f"{indent}{key}: {item}" for key, item in value]
            return [line for item in value for line in _lines(item, depth)]
        case None:
            return [f"{indent}none"]
        case _:
            return [f"{indent}{value}"]


def _leaves(value: object) -> list[object]:
    match value:
        case dict():
            return [leaf for item in value.values() for leaf in _leaves(item)] if "body" not in value else [value]
        case list() | tuple():
            return [leaf for item in value for leaf in _leaves(item)]
        case None:
            return []
        case _:
            return [value]
