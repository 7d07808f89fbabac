"""The command that checks certificates made by somebody else. Arguments in, exit codes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verifier.second_opinion import Solver

Certificates = Annotated[
    list[Path],
    typer.Argument(help="Certificates, or folders of them: a run folder, say.", metavar="CERT...", show_default=False),
]
Second = Annotated[
    str | None,
    typer.Option(
        metavar="SOLVER", help="cvc5, a program that takes a script's name, or none [default: cvc5 if it is installed]"
    ),
]
Timeout = Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="For each query to the second solver.")]
Controls = Annotated[bool, typer.Option("--controls", help="Also prove again the broken kernels it says were stopped.")]
Compile = Annotated[bool, typer.Option("--compile", help="Also compile every version again for its targets (Triton).")]
Read = Annotated[
    bool, typer.Option("--read-back", help="Also prove every version again from what Triton's front end makes of it.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 2 when anything is left unconfirmed.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a certificate, a line each.")]


def add_to(app: typer.Typer) -> None:
    """Make this command part of `synth`."""
    app.command(
        epilog="synth check kernel.json · synth check runs/20260101-120000-attention --strict"
        " · synth check *.cert.json --json · synth check kernel.json --second-solver 'cvc5 --tlimit=5000'"
    )(check)


def check(
    certificates: Certificates,
    second_solver: Second = None,
    timeout: Timeout = 10.0,
    controls: Controls = False,
    compiles: Compile = False,
    read_back: Read = False,
    strict: Strict = False,
    as_json: Json = False,
) -> int:
    """Check certificates that somebody else made: derive everything again from spec and candidate, and compare.

    Exit code 0: each says what follows from its subject, 1: one is refused (what differs is named), 2: with --strict,
    something is left unconfirmed, 64: a file is no certificate. Needs no GPU."""
    from synth.check.certificate import How
    from synth.view_check import show_checks

    files = [file for path in certificates for file in files_of(path)]
    return show_checks(files, How(_solver(second_solver, timeout), controls, compiles, read_back), strict, as_json)


def files_of(path: Path) -> list[Path]:
    """The certificates that a path means: the file itself; those of a run folder, or of any other."""
    if not path.is_dir():
        return [path]
    folder = path / "certificates" if (path / "certificates").is_dir() else path
    found = sorted(folder.glob("*.cert.json")) or sorted(folder.glob("*.json"))
    if not found:
        raise typer.BadParameter(f"{folder} holds no certificates (*.json)")
    return found


def _solver(name: str | None, seconds: float) -> tuple[str, Solver] | None:
    from verifier.second_opinion import NoSolver, available, solver

    if name == "none" or (name is None and not available()):
        return None
    try:
        return solver(name or "cvc5", seconds)
    except NoSolver as error:
        raise typer.BadParameter(str(error)) from error
