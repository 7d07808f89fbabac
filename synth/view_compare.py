"""What a person sees of a comparison: each arm's run as it goes, and the table at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from synth.compare import Outcome
from synth.events import Event
from synth.view_run import INTERRUPTED, show_run


def watch(arm: str, events: Iterator[tuple[Event, Outcome]], as_json: bool) -> Outcome:
    """Show one arm's run; what it came to. An arm that is interrupted ends the comparison: KeyboardInterrupt."""
    latest = Outcome(arm)

    def noted() -> Iterator[Event]:
        nonlocal latest
        for event, found in events:
            latest = found
            yield event

    if not as_json:
        Console(highlight=False).rule(arm)
    if show_run(noted(), as_json) == INTERRUPTED:
        raise KeyboardInterrupt
    return latest


def show_outcomes(found: Sequence[Outcome], as_json: bool) -> None:
    """One row per arm. With `as_json` one object of all of them."""
    if as_json:
        rows = [{**asdict(o), "folder": str(o.folder) if o.folder is not None else None} for o in found]
        print(json.dumps({"event": "Compared", "arms": rows}))
        return
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("arm", no_wrap=True)
    for title in ("held-out", "search", "gap", "proved", "wrong", "open", "unread", "cost"):
        table.add_column(title, justify="right", no_wrap=True)
    for o in found:
        shares = [f"{100 * o.share(n):.0f} %" for n in (o.certified, o.wrong, o.unproved, o.unread)]
        cost = f"$ {o.usd:.2f}" if o.usd else f"{o.seconds / 60:.1f} min"
        ratios = [f"{r:.2f} x" if r else "" for r in (o.speedup, o.searched, o.gap)]
        table.add_row(o.arm, *ratios, *(shares if o.candidates else [""] * 4), cost if o.seconds else "")
    console.print("\n[bold]certified kernels over standard PyTorch[/] (geometric means)")
    console.print(table)
    console.print(
        "held-out: shapes that selection never saw. gap: the winner over PyTorch's\n"
        "fastest, there. open: unproved; unread: no kernel of the spec",
        style="dim",
    )
    for o in found:
        if o.problem or o.winner:
            print(f"{o.arm}: {o.problem or o.winner}{'' if o.generalises else ', which does not generalise'}")
