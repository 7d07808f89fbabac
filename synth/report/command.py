"""`synth report RUN`: find the run, make the page, write it whole, show it."""

from __future__ import annotations

import os
from pathlib import Path

from synth.report.folder import NoRun, read_folder
from synth.report.page import render
from synth.report.view import RunView

RUNS = Path("runs")  # where prove-and-run makes its folders unless told otherwise
RESULTS = "results.json"


def find(run: str) -> RunView:
    """A run by its folder, or among `runs/` by its folder's name, a beginning of it, or "last". Raises NoRun."""
    folder = Path(run)
    if (folder / RESULTS).is_file():
        return read_folder(folder)
    known = sorted(path.parent for path in RUNS.glob(f"*/{RESULTS}"))
    if run == "last" and known:
        return read_folder(known[-1])
    found = [path for path in known if path.name.startswith(run)]
    if len(found) == 1 or run in (path.name for path in found):
        return read_folder(found[0])
    if found:
        raise NoRun(f"`{run}` begins the names of {len(found)} runs: {', '.join(p.name for p in found[:5])}")
    have = f"; {RUNS}/ has {', '.join(p.name for p in known[-3:])}" if known else ""
    raise NoRun(f"no run `{run}`: give a run folder (with {RESULTS}), the beginning of its name, or last{have}")


def write_report(run: str, out: Path | None) -> Path:
    """Write the page and return where it is: `out`, else report.html in the run's folder. Raises NoRun, OSError."""
    view = find(run)
    path = out or (Path(view.where) if Path(view.where).is_dir() else Path()) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(render(view), encoding="utf-8")
    os.replace(partial, path)
    return path
