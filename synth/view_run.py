"""What a person sees of a run: a table that fills in as candidates are proved, compiled, checked and timed.

On a terminal the table is live; into a pipe each event is a line; with `--json` each event is a JSON object. The
summary at the end is made from the same events.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from synth.events import (
    Answered,
    Asked,
    Benchmarked,
    CrossChecked,
    Event,
    Failed,
    Finished,
    GaveUp,
    HeldOut,
    Judged,
    Lowered,
    Measurement,
    PeersMeasured,
    Proposed,
    Replay,
    Retrying,
    Started,
    Step,
    Twin,
)
from synth.view import COLOURS, MARKS, shortened
from verifier.certificate import Certificate
from verifier.verdict import OBLIGATIONS, Verdict

INTERRUPTED = 130
SHOWN = 24  # rows of the table; a longer run shows its fastest and its latest
FASTEST = 8


def show_run(events: Iterator[Event], as_json: bool) -> int:
    """Show every event as it comes. Exit code 0 when some kernel is certified and cross-checked, 2 when none is."""
    state = _State()
    try:
        if as_json:
            for event in events:
                state.note(event)
                print(json.dumps({"event": type(event).__name__, **_plain(event)}), flush=True)
        else:
            _watch(events, state)
    except KeyboardInterrupt:
        if state.folder is not None and not as_json:
            print(f"what was done so far is in {_short(state.folder)}")
        return INTERRUPTED
    return 0 if any(row.checked for row in state.rows.values()) else 2


def _short(folder: Path) -> Path:
    """As a person would type it here."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case Path():
            return str(value)
        case Certificate():
            return value.id
        case dict():
            return {k: _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case _ if hasattr(value, "__dataclass_fields__"):
            return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        case _:
            return value


@dataclass
class _Row:
    """One candidate so far."""

    name: str
    broken: bool
    verdict: Verdict | None = None
    marks: dict[str, Verdict] = field(default_factory=dict)
    seconds: float = 0.0
    compiled: str = ""
    left_out: tuple[str, ...] = ()
    checked: str = ""
    measured: tuple[Measurement, ...] = ()
    failed: str = ""
    twin: str = ""

    @property
    def best(self) -> float | None:
        return min((m.seconds for m in self.measured), default=None)


@dataclass
class _State:
    """The run so far."""

    rows: dict[str, _Row] = field(default_factory=dict)
    head: str = ""
    device: str = ""
    roofline: str = ""
    peers: tuple[Measurement, ...] = ()
    doing: str = "reading the spec"
    since: float = field(default_factory=time.monotonic)
    folder: Path | None = None
    finished: Finished | None = None
    held_out: HeldOut | None = None
    replay: Replay | None = None
    told: str = ""  # by whoever talks to a model
    usd: float = 0.0
    tokens: int = 0

    def note(self, event: Event) -> None:
        self.since = time.monotonic()
        match event:
            case Started():
                settings = ", ".join(f"{k} = {v}" for k, v in event.settings)
                self.head = f"{event.spec} ({settings}), compiled for {event.target}, run on {event.device}"
                self.device, self.folder, self.doing = event.device, event.folder, "proposing"
            case Proposed(candidate):
                self.rows[candidate.name] = _Row(candidate.name, bool(candidate.expected))
                self.doing = f"proving {candidate.name}"
            case Twin(candidate, of):
                self.rows[candidate.name] = _Row(candidate.name, False, twin=of)
            case Judged(candidate, report):
                row = self.rows[candidate.name]
                row.verdict, row.seconds = report.verdict, report.seconds
                row.marks = {r.id: r.verdict for r in report.results}
                self.doing = f"compiling {candidate.name}" if event.certificate else "proposing"
            case Lowered(candidate):
                self.rows[candidate.name].compiled = _resources(event)
                missing = (m for m in event.left_out if m.target in ("", event.target))
                self.rows[candidate.name].left_out = tuple(shortened(str(m)) for m in missing)
                self.doing = f"cross-checking {candidate.name} under Triton's interpreter"
            case CrossChecked(candidate):
                self.rows[candidate.name].checked = f"{event.cases} shapes"
                self.doing = f"timing {candidate.name}"
            case PeersMeasured():
                self.peers, self.roofline = event.measurements, event.roofline
            case Benchmarked(candidate):
                self.rows[candidate.name].measured = event.measurements
                self.doing = "proposing"
            case Failed(candidate):
                self.rows[candidate.name].failed = f"{event.stage}: {event.message.strip().splitlines()[-1]}"
                self.doing = "proposing"
            case Asked() | Answered() | Retrying() | GaveUp():
                self._heard(event)
            case HeldOut():
                self.held_out = event
            case Replay():
                self.replay = event
            case Step():
                self.doing = f"step {event.number + 1}"
            case Finished():
                self.finished, self.doing = event, ""

    def _heard(self, event: Asked | Answered | Retrying | GaveUp) -> None:
        where = f"conversation {event.step}.{event.slot}"
        match event:
            case Asked():
                self.doing = f"waiting for {event.model} in {where}"
            case Answered():
                self.tokens += event.input_tokens + event.output_tokens + event.cached_tokens
                self.usd += event.usd or 0.0
                self.told = f"{where}: {event.output_tokens} tokens in {event.seconds:.0f} s"
            case Retrying():
                self.told = f"{where}: {event.reason}; again in {event.wait:.0f} s"
            case GaveUp():
                self.told = f"{where} ended: {event.reason}"


def _resources(event: Lowered) -> str:
    if not event.resources:
        return "emitted"
    return "; ".join(
        f"{r['registers']} regs, {r['spills']} spills, {r['shared'] / 1024:.0f} KiB, {100 * r['occupancy']:.0f} % occ."
        for r in event.resources
    )


# ---- drawing ----------------------------------------------------------------------------------------


def _watch(events: Iterator[Event], state: _State) -> None:
    console = Console(highlight=False)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=8, get_renderable=lambda: _picture(state), transient=True):
            for event in events:
                state.note(event)
        console.print(state.head, style="bold", markup=False)
        console.print(_table(state))
        console.print("\n[bold]compiled ahead of time[/]")
        console.print(_compiled(state))
    else:
        for event in events:
            state.note(event)
            if line := _line(event, state):
                print(line, flush=True)
    _summary(console, state)


def _picture(state: _State) -> Group:
    elapsed = time.monotonic() - state.since
    spinner = Spinner("dots", Text(f" {state.doing} ({elapsed:.0f} s)")) if state.doing else Text("")
    spent = f"{state.tokens} tokens, ${state.usd:.2f}. {state.told}" if state.tokens or state.told else ""
    return Group(Text(state.head, style="bold"), _table(state), Text(spent, style="dim"), spinner)


def _table(state: _State) -> Table:
    """Fits 80 columns: candidate, a mark for each obligation, proof time, and how far it has come."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("candidate", no_wrap=True)
    table.add_column(" ".join(OBLIGATIONS), no_wrap=True, min_width=3 * len(OBLIGATIONS))
    table.add_column("proof", no_wrap=True, justify="right", min_width=6)
    table.add_column("then", no_wrap=True, min_width=12)
    for row in _shown(state):
        marks = Text(" ").join(_mark(row.marks.get(o)) for o in OBLIGATIONS)
        proof = f"{row.seconds:.2f} s" if row.verdict else ""
        table.add_row(Text(row.name, style="dim" if row.broken else ""), marks, proof, _stage(row))
    return table


def _shown(state: _State) -> list[_Row]:
    """All rows of a short run; of a long one the fastest and the latest, in the order they came."""
    rows = list(state.rows.values())
    if len(rows) <= SHOWN:
        return rows
    timed = sorted((row for row in rows if row.best is not None), key=lambda row: row.best or 0.0)
    kept = {row.name for row in (*timed[:FASTEST], *rows[-(SHOWN - FASTEST) :])}
    return [row for row in rows if row.name in kept]


def _compiled(state: _State) -> Table:
    """What each compiled kernel takes on the target, and what went wrong where something did."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", style="dim")
    for row in _shown(state):
        if row.compiled or row.failed:
            table.add_row(row.name, row.failed or row.compiled)
            for line in row.left_out:
                table.add_row("", line)
    return table


def _stage(row: _Row) -> Text:
    best = row.best
    if row.twin:
        return Text("twin", style="dim")
    if row.failed:
        return Text(row.failed.partition(":")[0] + " failed", style="yellow")
    if best is not None:
        return Text(f"{best * 1e3:.2f} ms")
    if row.checked or row.compiled:
        return Text("checked" if row.checked else "compiled")
    return Text(row.verdict.value, style=COLOURS[row.verdict]) if row.verdict else Text("…")


def _mark(verdict: Verdict | None) -> Text:
    return Text("· ", style="dim") if verdict is None else Text(f"{MARKS[verdict]} ", style=COLOURS[verdict])


def _line(event: Event, state: _State) -> str:
    """One line of a log, for pipes and files."""
    match event:
        case Started():
            return state.head
        case Judged(candidate, report):
            fallen = [f"{r.id} {r.verdict.value}" for r in report.results if r.verdict is not Verdict.PROVED]
            why = f" ({', '.join(fallen)})" if fallen else ""
            where = f" for sizes where {' and '.join(report.requires)} only" if report.requires else ""
            return f"{report.verdict.value:9} {candidate.name} in {report.seconds:.2f} s{where}{why}"
        case Lowered(candidate):
            line = f"compiled  {candidate.name} for {event.target}: {_resources(event)}"
            return "\n          ".join((line, *state.rows[candidate.name].left_out))
        case CrossChecked(candidate):
            return f"checked   {candidate.name} on {event.cases} shapes"
        case Benchmarked(candidate, measurements):
            times = ", ".join(f"{m.shape} {m.seconds * 1e3:.2f} ms" for m in measurements)
            return f"timed     {candidate.name}: {times}"
        case Answered() | Retrying() | GaveUp():
            return f"model     {state.told}"
        case Twin(candidate, of):
            return f"twin      {candidate.name} is {of} in other words"
        case Step(number, tried, cells):
            return f"step      {number}: {tried} candidates; certified kernels in {cells} cells of the archive"
        case Failed(candidate):
            return f"failed    {candidate.name}: {state.rows[candidate.name].failed}"
        case _:
            return ""


def _summary(console: Console, state: _State) -> None:
    done = state.finished
    if done is None:
        return
    timed = [(row.name, m) for row in state.rows.values() for m in row.measured]
    if timed:
        where = "on the CPU executor (a CPU figure, not a GPU one)" if state.device == "CPU" else f"on {state.device}"
        for shape, sizes in dict.fromkeys((m.shape, m.sizes) for _, m in timed):
            written = ", ".join(f"{k} = {v}" for k, v in sizes)
            table = Table(box=None, pad_edge=False, header_style="bold")
            console.print(f"\n[bold]{shape}[/] ({written})\n{where}")
            for title in ("", "time", "TFLOP/s", "of roofline"):
                table.add_column(title, justify="left" if not title else "right")
            rows = [(f"certified {name}", m) for name, m in timed if m.shape == shape]
            rows += [(m.name, m) for m in state.peers if m.shape == shape]
            for name, m in sorted(rows, key=lambda item: item[1].seconds):
                part = "" if m.share is None else f"{100 * m.share:.1f} %"
                table.add_row(name, f"{m.seconds * 1e3:.2f} ms", f"{m.tflops:.3g}", part)
            console.print(table)
        if state.roofline:
            console.print(f"roofline: {state.roofline}", style="dim")
    if (held := state.held_out) is not None:
        print(_held_out(held))
    if (again := state.replay) is not None:
        print(f"\nreplay of {again.run}: {again.candidates} candidates, {len(again.differences)} with another verdict")
        print("".join(f"  {line}\n" for line in again.differences), end="")
    broken = [row for row in state.rows.values() if row.broken]
    if broken:
        stopped = sum(row.verdict is not Verdict.PROVED for row in broken)
        console.print(f"\n{stopped} of {len(broken)} kernels broken on purpose were stopped by the prover")
        for row in broken:
            if row.verdict is Verdict.PROVED:
                print(f"  {row.name} is proved: this slip changes nothing for this spec")
    counts = f"{done.certified} certified, {done.refuted} refuted, {done.unproved} unproved"
    cost = f", {done.spent.tokens} tokens, ${done.spent.usd:.2f}" if done.spent.tokens else ""
    print(f"\n{done.status}: {counts} in {done.seconds:.0f} s{cost}\nrun folder: {_short(done.folder)}")


def _held_out(held: HeldOut) -> str:
    name = held.candidate.name
    where = f"{held.speedup:.2f} x standard PyTorch on held-out shapes ({held.searched:.2f} x where it was chosen)"
    note = "" if held.generalises else "\n  it does not generalise: search with more, or other, shapes"
    if held.rival:
        note = f"\n  chosen on the search shapes alone; {held.rival} is faster on the held-out ones by a fifth or more"
    return f"\n{name}: {where}{note}"
