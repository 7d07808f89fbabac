"""The report's page: what it says of a real run, that it says it every time alike, and that nothing in it runs."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_cases import HOSTILE, child, hostile, measured, run_folder

from ir.loader import bind, load_spec
from synth.cli import main
from synth.events import STANDARD
from synth.report import lineage, replay, tint
from synth.report.charts import quantity, roofline
from synth.report.evidence import pack
from synth.report.folder import NoRun, read_folder
from synth.report.page import board, generalisation, render
from synth.report.tiles import draw, legend
from synth.report.view import RunView
from verifier.verdict import OBLIGATIONS, Evidence, Report


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def view(folder: Path) -> RunView:
    return read_folder(folder)


@pytest.fixture(scope="module")
def page(view: RunView) -> str:
    return render(view)


def fallen(view: RunView, mutation: str) -> replay.Scene:
    """The scene of the counterexample of one broken form."""
    kernel = next(k for k in view.kernels if k.name.endswith(f"~{mutation}"))
    assert kernel.report is not None
    result = next(r for r in kernel.report.results if r.counterexample)
    assert result.counterexample is not None
    scene = replay.scene(kernel.text, view.bound, result.counterexample, result.id)
    assert isinstance(scene, replay.Scene)
    return scene


class Elements(HTMLParser):
    """Elements and attributes as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_says_what_the_run_found(view: RunView, page: str) -> None:
    assert "rmsnorm" in page and "of 1 candidate<" in page
    for obligation in OBLIGATIONS:
        assert f"<b>{obligation}</b>" in page
    stopped = sum(k.verdict != "proved" for k in view.controls)
    assert f"<b>{stopped} of {len(view.controls)}</b>" in page
    assert "2.00×" in page  # 2 ms of PyTorch against 1 ms


def test_the_same_run_gives_the_same_bytes(folder: Path, page: str) -> None:
    assert render(read_folder(folder)) == page


def test_hostile_texts_stay_texts(view: RunView) -> None:
    elements = Elements(render(hostile(view))).found
    assert not [tag for tag, _ in elements if tag in ("img", "iframe", "link", "object", "base")]
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    scripts = [attributes for tag, attributes in elements if tag == "script" and attributes.get("type") is None]
    assert len(scripts) == 1
    assert sum(tag == "style" for tag, _ in elements) == 1


def test_nothing_on_the_page_leads_out(page: str) -> None:
    for _, attributes in Elements(page).found:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(name) or ""
            assert not value or value.startswith("#"), value
    policies = [a["content"] for _, a in Elements(page).found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies and str(policies[0]).startswith("default-src 'none'; style-src 'sha256-")
    assert "url(" not in re.sub(r"url\(#[a-z-]+\)", "", page)


@pytest.mark.parametrize("gone", ["candidates", "verdicts", "certificates", "triton"])
def test_a_missing_folder_becomes_a_sentence(folder: Path, tmp_path: Path, gone: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / gone)
    page = render(read_folder(copy))
    word = "certificate is not valid" if gone == "certificates" else f"{gone}/"
    assert word in page


def test_a_changed_kernel_is_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    path = copy / "candidates" / "row.tile"
    path.write_text(path.read_text() + "# changed\n")
    assert "changed after the proof" in render(read_folder(copy))


def test_a_run_killed_at_its_start_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"spec": "nowhere", "candidates": []}))
    page = render(read_folder(tmp_path))
    assert "No candidate was tried" in page and "The formula is not known" in page


def test_a_name_that_is_a_path_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"spec": "rmsnorm", "candidates": [{"name": "../../secret"}]}))
    view = read_folder(tmp_path)
    assert not view.kernels and "not file names" in view.gaps[0]


def test_a_folder_without_results_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match="synth prove-and-run makes one"):
        read_folder(tmp_path)


def test_the_command_writes_the_page_and_names_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--db", str(folder / "none.db")]) == 0
    assert Path(capsys.readouterr().out.strip()) == folder / "report.html"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    (folder / "report.html").unlink()


def test_the_command_says_which_runs_there_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", "no-such-run", "--db", str(tmp_path / "none.db")]) == 64
    assert "no run `no-such-run`" in capsys.readouterr().err


def test_reads_beyond_the_end_are_drawn_outside_the_tensor(view: RunView) -> None:
    scene = fallen(view, "mask-dropped")
    assert scene.foot is not None
    row, column = scene.cell
    assert row >= scene.extents[0] or column >= scene.extents[1]
    assert scene.foot.touched[row - scene.foot.row, column - scene.foot.column]
    assert "beyond" in dict(legend(scene))


def test_a_row_nobody_stores_is_drawn_with_the_mask_that_left_it_out(view: RunView) -> None:
    scene = fallen(view, "last-row-unwritten")
    assert scene.owner is not None and scene.owner[scene.cell] == replay.NOBODY
    assert scene.foot is not None and scene.foot.masked.any()
    assert {"never", "masked"} <= set(dict(legend(scene)))


def test_wrong_cells_are_those_that_differ(view: RunView) -> None:
    scene = fallen(view, "no-division")
    assert scene.wrong is not None and scene.wrong[scene.cell]
    assert scene.who and dict(scene.programs[int(scene.owner[scene.cell])]) == dict(scene.who)  # type: ignore[index]


def test_a_huge_tensor_is_drawn_as_a_place() -> None:
    scene = replay.Scene("O", (7, 10**9, 64), ((0, 3),), (1, 2), (10**9, 64), ("M", "D"), (10**9 - 1, 5))
    assert len(draw(scene, "far away")) < 3000


def test_a_region_is_drawn_exactly_up_to_its_resolution() -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:5] = True
    scene = replay.Scene("O", (6, 8), (), (0, 1), (6, 8), ("M", "D"), (0, 0), wrong=mask)
    assert draw(scene, "a block").count("url(#p-wrong)") == 1
    assert "h60v60h-60z" in draw(scene, "a block")  # three cells of 20 pixels each way


def test_children_come_after_their_parents_and_one_step_in(view: RunView) -> None:
    first = view.kernels[0]
    family = (first, child(first, "a", 1e-3), child(child(first, "a", 1e-3), "b", 1e-3))
    assert [k.name for k in lineage.preorder((*family, child(first, "c", 1e-3)))] == [first.name, "a", "b", "c"]
    assert lineage.depths(list(family)) == {first.name: 0, "a": 1, "b": 2}
    drawn = str(lineage.draw(family, {k.name: f"c-{n}" for n, k in enumerate(family)}))
    assert 'href="#c-2"' in drawn and drawn.count("branch") == 2


def test_the_fastest_comes_first_and_pytorch_among_them(view: RunView) -> None:
    run = replace(view, kernels=(*view.kernels, child(view.kernels[0], "slow", 4e-3)))
    assert [row.name for row in board(run)] == [view.kernels[0].name, STANDARD, "slow"]


def test_twins_and_texts_that_are_no_kernels_are_told_apart(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    results = json.loads((copy / "results.json").read_text())
    results["candidates"] += [
        {"name": "again", "twin": "row", "source": "model"},
        {"name": "prose", "source": "model", "failed": {"stage": "read", "message": "error[K001]: not a kernel"}},
    ]
    results["winner"] = {"name": "row", "benchmarks": results["peers"], "peers": results["peers"]}
    (copy / "results.json").write_text(json.dumps(results))
    run = read_folder(copy)
    assert [k.name for k in run.distinct] == ["row", "prose"] and run.kernels[-1].verdict == "no kernel"
    assert run.kernels[0].heldout and run.peers_heldout
    page = render(run)
    assert "the same program as row" in page and "error[K001]" in page


def test_a_winner_that_does_not_generalise_is_named(view: RunView) -> None:
    first = replace(view.kernels[0], heldout=(measured("held", 4e-3),))
    run = replace(view, kernels=(first,), peers_heldout=(measured(STANDARD, 2e-3),))
    assert "does not generalise: 2.00×" in generalisation(run)[0]
    kept = replace(first, heldout=(measured("held", 1e-3),))
    assert "2.00× standard PyTorch" in generalisation(replace(run, kernels=(kept,)))[0]


def test_a_formula_without_products_is_plotted_by_its_bytes(view: RunView) -> None:
    sizes = (("R", 64), ("C", 4096))
    timed = replace(measured("certified", 1e-3), sizes=sizes)
    run = replace(view, kernels=(replace(view.kernels[0], measurements=(timed,)),), peers=())
    moved = 2 * (2 * 64 * 4096 + 4096) + 4 * 64  # X, W and Y in bf16, RSTD in f32
    assert f"does {quantity(moved / 1e-3, 'B/s')}" in str(roofline(run))
    assert "989 TFLOP/s" not in str(roofline(run)) and "4.8 TB/s" in str(roofline(replace(run, device="NVIDIA H200")))


def test_a_gpu_is_held_against_its_published_peak(view: RunView) -> None:
    bound = bind(load_spec("attention"), {})
    sizes = (("B", 1), ("H", 16), ("G", 4), ("M", 4096), ("N", 4096))
    timed = replace(measured("certified", 1e-3), sizes=sizes)
    kernels = (replace(view.kernels[0], measurements=(timed,)),)
    drawn = str(roofline(replace(view, bound=bound, kernels=kernels, peers=(), device="NVIDIA H200")))
    assert "peak 989 TFLOP/s" in drawn
    assert f"does {quantity(4 * 16 * 4096 * 4096 * 64 / 1e-3, 'FLOP/s')}" in drawn  # two products of 2*M*N*D


def test_long_evidence_is_cut_and_says_so(view: RunView) -> None:
    report = view.kernels[0].report
    assert report is not None
    noise = np.random.default_rng(0).integers(32, 127, 200_000, dtype=np.uint8).tobytes().decode()
    first = replace(report.results[0], evidence=(Evidence("long", "smt", noise),))
    packed = pack(Report((first, *report.results[1:]), 1.0), 30_000)
    assert packed.long[first.id] == 1 and len(packed.pack) <= 30_000
    _, _, length, text = json.loads(zlib.decompress(base64.b64decode(packed.pack), -15))[first.id][0]
    assert length == 200_000 and text == noise[: len(text)] and 1000 < len(text) < length


@pytest.mark.parametrize("language", ["tile", "python", "toml", "smt", "plain"])
def test_tinting_keeps_every_character(language: str) -> None:
    text = f'a = "b\' # {HOSTILE}\n"""open\n1.5e3 for\tsum(x)\n'
    shown = text_of(str(tint.lines(text, language)))
    assert shown == text


def text_of(markup: str) -> str:
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(markup)
    parser.close()
    return "".join(found)
