"""The commands that show what was found: a run's page, and the benchmark of certificates on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="A run's name, the start of one, last, or a run folder.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Where to write; report.html in the run folder unless given.")]
Database = Annotated[
    str,
    typer.Option("--db", envvar="SYNTH_DB", help="Where runs are kept: a file, or postgresql://USER@HOST/NAME."),
]


def add_to(app: typer.Typer) -> None:
    """Make these commands part of `synth`."""
    everything = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(context_settings=everything)(bench)
    app.command(epilog="synth report last --open · synth report runs/20260101-120000-attention --out page.html")(report)


def bench(words: typer.Context) -> int:
    """Time certificates against PyTorch's own on this machine's GPU, every output checked: synth bench --help."""
    from synth.bench.suite.command import main

    return main(words.args)


def report(
    run: Run,
    out: Out = None,
    db: Database = "runs/synth.db",
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> int:
    """Write a run as one self-contained HTML page: leaderboard, roofline, lineage, proofs, counterexamples drawn."""
    from synth.report.command import write_report
    from synth.report.folder import NoRun
    from synth.state.store import StateError

    try:
        path = write_report(run, out, db)
    except (NoRun, StateError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    print(path)
    if show:
        typer.launch(str(path))
    return 0
