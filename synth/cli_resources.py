"""The command that compiles what ships for every target. Arguments in, a table and an exit code out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Specs = Annotated[
    list[str] | None,
    typer.Argument(help="Specs, by file or name; every one that ships unless given.", show_default=False),
]
Targets = Annotated[
    list[str] | None, typer.Option("--target", help="sm_80, sm_90, sm_100 or gfx942; repeatable [default: all four]")
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that prove and compile.")]
Out = Annotated[Path, typer.Option(help="Rows are kept here, and taken from here while what they are of is unchanged.")]
Page = Annotated[Path | None, typer.Option(help="Write the rows as a Markdown page, too.", show_default=False)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Compile everything again.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a row.")]


def add_to(app: typer.Typer) -> None:
    """Make this command part of `synth`."""
    app.command(
        epilog="synth resources · synth resources softcap_bwd --target sm_90 · synth resources --json > rows.jsonl"
    )(resources)


def resources(
    specs: Specs = None,
    targets: Targets = None,
    workers: Workers = 2,
    out: Out = Path("runs/resources.jsonl"),
    page: Page = None,
    fresh: Fresh = False,
    as_json: Json = False,
) -> int:
    """Compile every shipped kernel ahead of time: registers, spills, shared memory, occupancy of each target.

    Needs Triton and no GPU. Exit code 1 when a spec has no proved kernel without spills for one of the targets."""
    from synth.errors import Unavailable
    from synth.resources import TARGETS
    from synth.view_resources import show

    unknown = sorted(set(targets or ()) - set(TARGETS))
    if unknown:
        raise typer.BadParameter(f"--target is one of {', '.join(TARGETS)}, not {unknown[0]}")
    try:
        return show(specs or [], targets or list(TARGETS), workers, out, page, fresh, as_json)
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise Unavailable("Triton is not installed on this platform; it compiles ahead of time on Linux") from error
