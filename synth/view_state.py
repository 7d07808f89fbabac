"""What a person sees of the database: the list of runs, and the best kernels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from synth.state.leaders import Leader, Summary

COLOURS = {"finished": "green", "running": "cyan", "interrupted": "yellow"}


def show_runs(runs: Iterable[Summary]) -> None:
    table = _table(("run", "status", "tried", "certified", "best", "spent", "age", "settings"), right=(2, 3, 4, 5, 6))
    for run in runs:
        status = Text(run.status, style=COLOURS.get(run.status, ""))
        spent = f"${run.usd:.2f}" if run.usd else duration(run.seconds)
        best = "" if run.best is None else gain(run.best)
        counts = str(run.candidates), str(run.certified)
        table.add_row(run.run, status, *counts, best, spent, ago(run.created), settings(run.settings))
    if table.row_count:
        _console().print(table)
    else:
        print("no runs yet; `synth prove-and-run SPEC` makes one")


def show_top(leaders: Sequence[Leader]) -> None:
    """One table per spec and settings."""
    console = _console()
    if not leaders:
        print("no certified kernels yet; `synth runs` lists the runs, `synth prove-and-run SPEC` makes one")
    groups: dict[str, list[Leader]] = {}
    for leader in leaders:
        groups.setdefault(f"{leader.spec} ({settings(leader.settings)})", []).append(leader)
    for title, group in groups.items():
        console.print(f"[bold]{title}[/]: times standard PyTorch on the run's own device")
        table = _table(("kernel", "speed-up", "held-out", "fastest", "by", "run", "device"), right=(1, 2, 3))
        for k in group:
            fastest = f"{min(k.seconds.values()) * 1e3:.3g} ms" if k.seconds else ""
            table.add_row(k.name, times(k.speedup), times(k.heldout), fastest, k.source, k.run, k.device)
        console.print(table)
        where = group[0].path or "its file is gone"
        console.print(f"certificate of the first: {where}\n", markup=False, soft_wrap=True)


def settings(found: dict[str, str | int]) -> str:
    return " ".join(f"{name}={value}" for name, value in found.items())


def gain(leader: Leader) -> str:
    """Its speed-up, or its time where nothing was timed beside it."""
    return times(leader.speedup) or f"{min(leader.seconds.values()) * 1e3:.3g} ms"


def times(factor: float | None) -> str:
    return "" if factor is None else f"{factor:.2f}x"


def ago(moment: float) -> str:
    return duration(max(0.0, time.time() - moment))


def duration(seconds: float) -> str:
    """12 s, 5 min, 3 h, 2 days."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _console() -> Console:
    """Into a pipe or a file lines are as long as they need to be."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=400)


def _table(titles: Sequence[str], right: Sequence[int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index in right else "left", no_wrap=index < len(titles) - 1)
    return table
