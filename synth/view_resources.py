"""What a person sees while what ships is compiled for every target: a line a kernel, then what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from synth.resources import (
    Row,
    all_specs,
    clean,
    exceptions,
    load,
    said,
    save,
    subjects,
    survey,
    without_kernel,
    without_tensor_cores,
)
from synth.resources_page import page_of

EVERY = 20.0  # seconds between writing what is known so far


def show(
    names: Sequence[str], targets: Sequence[str], workers: int, out: Path, page: Path | None, fresh: bool, as_json: bool
) -> int:
    """Compile, print, keep. Returns the exit code: 1 when a spec has no clean kernel for a case of a target."""
    specs = all_specs(names)
    wanted = [s for spec in specs for s in subjects(spec)]
    kept = load(out)
    known = kept
    console = Console(highlight=False, stderr=as_json)
    console = console if console.is_terminal else Console(highlight=False, stderr=as_json, width=200)
    found: list[Row] = []
    begin = written = time.monotonic()
    try:
        with _progress(console) as progress:
            task = progress.add_task("", total=len(wanted))
            for subject, rows in survey(wanted, targets, [] if fresh else kept, workers):
                found += rows
                known = [row for row in known if not (about(row) == subject.place and row["target"] in targets)] + rows
                for row in rows:
                    console.print(json.dumps(row) if as_json else line(row), markup=False, soft_wrap=True)
                progress.update(task, advance=1, description=f"{rows[0]['spec']} {subject.kernel}")
                if time.monotonic() - written > EVERY:
                    save(out, known)
                    written = time.monotonic()
    finally:
        save(out, known)
    asked, current = {spec.name for spec in specs}, {s.key for s in wanted}
    ships = [row for row in known if row["subject"] in current or (names and row["spec"] not in asked)]
    save(out, ships)  # the rest is forgotten
    missing = exceptions(specs, found, targets)
    _summary(console, found, missing, time.monotonic() - begin)
    for spec_name, case in without_kernel(specs):
        console.print(f"{spec_name} {case}: no kernel ships, and none is composed")
    if page is not None:
        page.write_text(page_of(all_specs(), load(out)), encoding="utf-8")
        console.print(f"written: {page}")
    return 1 if missing else 0


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip


def about(row: Row) -> tuple[str, str, str]:
    """As `Subject.place`."""
    return row["spec"], row["kernel"], said(row["settings"])


def line(row: Row) -> str:
    """One row: of each launch its registers and what else matters."""
    head = f"{row['spec']}/{row['kernel']} {said(row['settings'])} {row['target']} {row['version']}"
    if row["problem"]:
        return f"{head}: {row['problem'].splitlines()[0]}"
    launches = (
        f"{k['name']} {k['registers']} regs, {k['spills']} B spilled, {k['shared'] // 1024} KiB, "
        f"{k['occupancy']:.0%} occ."
        for k in row["kernels"]
    )
    return f"{head}: {'; '.join(launches)}"


def _summary(console: Console, rows: Sequence[Row], missing: Sequence[tuple[str, str, str]], seconds: float) -> None:
    dirty = [row for row in rows if not clean(row)]
    console.print(f"\n{len(rows)} rows in {seconds:.0f} s; {len(dirty)} spill, do not fit or are not proved")
    for spec, kernel, launch, target in without_tensor_cores(rows):
        console.print(f"{spec}/{kernel}: {launch} multiplies without tensor cores on {target}")
    for spec, case, target in missing:
        console.print(f"{spec} {case or 'as it is'}: nothing proved compiles for {target} without spills")
