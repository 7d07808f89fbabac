"""`synth report RUN`: find the run, make the page, write it whole."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from synth.report.arms import arms_beside
from synth.report.cells import with_cells
from synth.report.database import read_run
from synth.report.folder import NoRun, read_folder
from synth.report.page import render
from synth.report.view import RunView
from synth.state.store import StateError, Store, url_of

RUNS = Path("runs")  # where prove-and-run makes its folders unless told otherwise
RESULTS = "results.json"


def find(run: str, db: str) -> RunView:
    """A run: its folder, or the name of one, a beginning of it, or "last", in the database and else among `runs/`.

    The database knows more of a run than its folder does, so it is asked first. Raises NoRun."""
    folder = Path(run)
    inside = (folder / RESULTS).is_file()
    try:
        with Store.open(db, create=False) as store:
            kept = store.load(folder.resolve().name if inside else run)
            if not inside or kept.folder.resolve() == folder.resolve():
                return _with_controls(replace(read_run(kept), arms=arms_beside(kept)))
    except StateError as error:
        if not inside and not _missing(db):
            raise NoRun(str(error)) from error
    return read_folder(folder if inside else _among_folders(run))


def _with_controls(view: RunView) -> RunView:
    """Kernels broken on purpose are no candidates of the search: the run's folder alone has them."""
    try:
        beside = read_folder(Path(view.where))
    except NoRun:
        return view  # a run made on another machine
    known = {k.name for k in view.kernels}
    return replace(view, kernels=(*view.kernels, *(k for k in beside.controls if k.name not in known)))


def _missing(db: str) -> bool:
    """Whether there is no database at all: then a run's folder is all there is of it."""
    url = url_of(db)
    return url.drivername == "sqlite" and not Path(str(url.database)).is_file()


def _among_folders(run: str) -> Path:
    known = sorted(path.parent for path in RUNS.glob(f"*/{RESULTS}"))
    if run == "last" and known:
        return known[-1]
    found = [path for path in known if path.name.startswith(run)]
    if len(found) == 1 or run in (path.name for path in found):
        return found[0]
    if found:
        raise NoRun(f"`{run}` begins the names of {len(found)} runs: {', '.join(p.name for p in found[:5])}")
    have = f"; {RUNS}/ has {', '.join(p.name for p in known[-3:])}" if known else ""
    raise NoRun(f"no run `{run}`: give a run folder (with {RESULTS}), the beginning of its name, or last{have}")


def write_report(run: str, out: Path | None, db: str) -> Path:
    """Write the page and return where it is: `out`, else report.html in the run's folder. Raises NoRun, OSError."""
    view = find(run, db)
    path = out or (Path(view.where) if Path(view.where).is_dir() else Path()) / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(render(with_cells(view)), encoding="utf-8")
    os.replace(partial, path)
    return path
