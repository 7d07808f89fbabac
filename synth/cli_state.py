"""The commands that read the database of runs: runs, top, export. Arguments in, exit codes out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Database = Annotated[
    str,
    typer.Option("--db", envvar="SYNTH_DB", help="Where runs are kept: a file, or postgresql://USER@HOST/NAME."),
]
DEFAULT = "runs/synth.db"


def add_to(app: typer.Typer) -> None:
    """Make these commands part of `synth`."""
    app.command(epilog="synth runs · synth runs --json · synth runs --db postgresql://localhost/synth")(runs)
    app.command(epilog="synth top · synth top last -n 3 · synth top --spec attention --json")(top)
    app.command(epilog="synth export last --dataset out.jsonl · synth export 20260101-1200 --dataset -")(export)


def runs(db: Database = DEFAULT, as_json: Json = False) -> int:
    """Every run: what of, how it ended, how many kernels were tried and certified, the best one, what was spent."""
    from synth.state.leaders import summaries
    from synth.state.store import StateError, Store
    from synth.view_state import show_runs

    try:
        with Store.open(db, create=False) as store:
            found = list(summaries(store))
    except StateError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
    else:
        show_runs(found)
    return 0


def top(
    run: Annotated[str, typer.Argument(help="A run's name, the start of one, or last [default: all runs]")] = "",
    spec: Annotated[str, typer.Option(help="Only kernels for the spec of this name.")] = "",
    number: Annotated[int, typer.Option("-n", min=1, help="How many for each spec and its settings.")] = 10,
    db: Database = DEFAULT,
    as_json: Json = False,
) -> int:
    """The best certified kernels, by speed-up over standard PyTorch, and where their certificates are."""
    from synth.state.leaders import top as best
    from synth.state.store import StateError, Store
    from synth.view_state import show_top

    try:
        with Store.open(db, create=False) as store:
            found = best(store, run, spec, number)
    except StateError as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
    else:
        show_top(found)
    return 0


def export(
    run: Annotated[str, typer.Argument(help="A run's name, the start of one, or last.", show_default=False)],
    dataset: Annotated[Path, typer.Option(help="The file to write, one JSON object a line; - for standard output.")],
    db: Database = DEFAULT,
) -> int:
    """Every candidate of a run with the prompt that led to it, its verdict, what it was told, and its times."""
    from synth.state.dataset import write_dataset
    from synth.state.store import StateError, Store

    try:
        with Store.open(db, create=False) as store:
            found = write_dataset(store.load(run), dataset)
    except (StateError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if str(dataset) != "-":
        print(f"{found} candidates written to {dataset}")
    return 0
