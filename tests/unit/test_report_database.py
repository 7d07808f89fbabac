"""The report of a run that the database keeps: who was made from whom, what a model cost, what was tampered with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_cases import kept_run
from sqlalchemy import update

from ir.loader import bind, load_spec
from synth.cli import main
from synth.report.arms import arms_beside
from synth.report.cells import with_cells
from synth.report.command import find
from synth.report.database import read_run
from synth.report.page import render
from synth.report.view import RunView
from synth.state.run import Run
from synth.state.store import Store
from synth.state.tables import CandidateRow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(place: Path) -> Iterator[Run]:
    with Store.open(str(place / "synth.db")) as store:
        yield kept_run(store, place)


@pytest.fixture(scope="module")
def view(run: Run) -> RunView:
    return with_cells(read_run(run))


def test_what_the_database_keeps_is_on_the_page(view: RunView) -> None:
    first, child, broken = view.kernels
    assert (first.certified, child.certified, broken.verdict) == (True, False, "refuted")
    assert child.parents == (first.name,) and child.at is not None
    assert first.report is not None and all(r.evidence for r in first.report.results)
    assert first.measurements and view.peers and view.roofline == ""
    assert view.proposer == "guided, a-model" and view.seed == "7"
    assert first.heldout[0].seconds == 1e-3 and view.peers_heldout[0].seconds == 2e-3
    page = render(view)
    assert "# kept" in page  # its Triton
    assert "Lineage of 3 candidates over 2 generations" in page


def test_failed_attempts_of_an_exchange_are_paid_for_too(view: RunView) -> None:
    (exchange,) = view.exchanges
    assert (exchange.tokens_in, exchange.tokens_cached, exchange.tokens_out) == (2000, 1800, 100)
    assert exchange.dollars == pytest.approx(0.04) and exchange.outcome == "tool_use"


def test_kernels_of_one_kind_share_a_cell(view: RunView) -> None:
    (cell,) = {k.cell for k in view.kernels[:2]}
    found = next(c for c in view.cells if c.name == cell)
    assert found.best == view.kernels[0].name and found.tried >= 2


def test_a_text_changed_in_the_database_is_named(run: Run) -> None:
    def changed(text: str) -> None:
        with run.store.write() as session:
            session.execute(update(CandidateRow).filter_by(run=run.number, ordinal=0).values(text=text))

    text = run.candidates()[0].text
    changed(text + "# changed\n")
    try:
        assert "changed after the proof" in render(read_run(run))
    finally:
        changed(text)


def test_the_command_finds_a_run_by_its_beginning(run: Run, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = place / "page.html"
    assert main(["report", run.id[:10], "--db", str(place / "synth.db"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out) and "rmsnorm" in out.read_text()
    assert main(["report", "nothing", "--db", str(place / "synth.db")]) == 64
    assert "no such run: nothing" in capsys.readouterr().err


def test_kernels_broken_on_purpose_come_from_the_folder(run: Run, place: Path) -> None:
    row = {"name": "row~slip", "broken_on_purpose": ["B1"], "verdict": "refuted", "obligations": {"B1": "refuted"}}
    (run.folder / "results.json").write_text(json.dumps({"spec": "rmsnorm", "candidates": [row]}))
    found = find(run.id, str(place / "synth.db"))
    assert [k.name for k in found.controls] == ["row~slip"] and len(found.honest) == 3
    (run.folder / "results.json").unlink()


def test_arms_of_one_comparison_find_each_other(run: Run, place: Path) -> None:
    assert arms_beside(run) == ()
    with run.store.begin(bind(load_spec("rmsnorm"), {}), {**run.plan, "arm": "autotune"}, place) as other:
        other.finish("finished", 3.0)
    with run.store.begin(bind(load_spec("rmsnorm"), {}), {**run.plan, "seed": 8, "arm": "guided"}, place):
        baseline, tuned, guided = arms_beside(run)
    assert (baseline.name, tuned.name, guided.name) == ("baseline", "autotune", "guided")
    assert baseline.heldout == 1.0 and guided.heldout == pytest.approx(2.0) and guided.note == "row"
    assert (guided.candidates, guided.wrong) == (3, pytest.approx(1 / 3)) and tuned.candidates == 0
