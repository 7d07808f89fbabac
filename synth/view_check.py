"""What a person sees while certificates are checked: a row for each part as it is done, then the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

from synth.check.certificate import Checked, How, check
from synth.check.derive import Row, Standing

COLOURS = {
    Standing.DERIVED: "green", Standing.CONFIRMED: "green", Standing.OPEN: "yellow", Standing.EVIDENCE: "dim",
    Standing.REFUSED: "bold red",
}  # fmt: skip
REFUSED, INCOMPLETE, UNREADABLE = 1, 2, 64  # exit codes, as everywhere: refuted, unproved, a text not accepted
WIDE = 20  # columns of a section's name


def show_checks(files: Sequence[Path], how: How, strict: bool, as_json: bool) -> int:
    """Check every file and show what came of it; the exit code."""
    console = Console(highlight=False)
    found = []
    for path in files:
        checked = _quietly(path, how) if as_json else _watched(path, how, console)
        found.append(checked)
        if as_json:
            print(json.dumps(checked.to_json()), flush=True)
    if len(found) > 1 and not as_json:
        refused, unreadable = sum(c.refused for c in found), sum(bool(c.problem) for c in found)
        counts = f"{len(found) - refused - unreadable} checked, {refused} refused, {unreadable} unreadable"
        console.print(f"{len(found)} certificates: {counts}", style="bold")
    return exit_code(found, strict)


def exit_code(found: Sequence[Checked], strict: bool) -> int:
    """The gravest of all: refused, then unreadable, then, if asked for, left unconfirmed."""
    if any(c.refused for c in found):
        return REFUSED
    if any(c.problem for c in found):
        return UNREADABLE
    return INCOMPLETE if strict and not all(c.complete for c in found) else 0


def _quietly(path: Path, how: How) -> Checked:
    steps = check(path, how)
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def _watched(path: Path, how: How, console: Console) -> Checked:
    """A file checked to the end: its rows as they come, and on a terminal what is being done."""
    console.print(str(path), style="bold", markup=False, soft_wrap=True)
    with console.status("") if console.is_terminal else nullcontext() as status:
        found = _rows(path, how, console, status)
    _verdict(found, console)
    return found


def _rows(path: Path, how: How, console: Console, status: Status | None) -> Checked:
    steps = check(path, how)
    inside = ""
    plain: list[str] = []  # parts of which there is nothing to say but that they were derived again
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            _also(plain, console)
            return done.value  # type: ignore[no-any-return]
        if isinstance(step, str):
            if status is not None:
                status.update(step)
            continue
        if step.inside != inside:
            _also(plain, console)
            inside, plain = step.inside, []
            console.print(f"  of the certificate for some sizes inside it, {inside}:" if inside else "  of all:")
        if step.standing is Standing.DERIVED and not step.text:
            plain.append(step.section)
        else:
            _row(step, console)


def _also(plain: Sequence[str], console: Console) -> None:
    if plain:
        _row(Row("also", Standing.DERIVED, ", ".join(plain)), console)


def _row(row: Row, console: Console) -> None:
    line = Text(f"  {row.section:{WIDE}}")
    line.append(f"{row.standing.value:14}", style=COLOURS[row.standing])
    line.append(row.text)
    console.print(line, soft_wrap=True)
    for detail in row.details:
        console.print(Text(f"  {'':{WIDE}}  {detail}"), soft_wrap=True)


def _verdict(found: Checked, console: Console) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    if found.problem:
        say(f"no certificate: {found.problem}\n", "yellow")
    elif found.refused:
        say(f"{found.path}: REFUSED: {_places(found, Standing.REFUSED)}", "bold red")
        say("  = hint: do not run it; `synth prove` makes a certificate of its kernel, if that is right\n")
    else:
        where = f", for sizes where {' and '.join(map(str, found.requires))} only" if found.requires else ""
        say(f"{found.path}: checked: it says what follows from its spec and candidate{where}", "green")
        left = _places(found, Standing.OPEN)
        say(f"  left unconfirmed: {left}\n" if left else "", "yellow")


def _places(found: Checked, standing: Standing) -> str:
    inside = "for some sizes: "
    return ", ".join(f"{inside if row.inside else ''}{row.section}" for row in found.of(standing))
