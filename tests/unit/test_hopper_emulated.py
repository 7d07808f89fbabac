"""The emitted Gluon, run on the CPU: the text computes what the program means, and one with a wrong protocol shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hopper_kernels import typed

from ir.inputs import generate
from ir.interpret import Mode, interpret
from lowering.boxes import with_boxes
from lowering.compile import child_environment
from lowering.hopper.gluon import emit_program
from lowering.plan import plan

SIZES = {"B": 1, "H": 1, "G": 1, "M": 40, "N": 300}  # five tiles of keys in rings of two slots

STUCK, WRONG_VALUES = "wait for ever", "O differs"
# what is wrong: the text that is replaced (where it stands first), by what, and what shows
WRONG = {
    "parity of a full barrier": ("k_fills >> 1 & 1)", "(k_fills >> 1 & 1) ^ 1)", STUCK),
    "parity of an empty barrier": ("(k_fills >> 1 & 1) ^ 1)", "k_fills >> 1 & 1)", STUCK),
    "a wait left out": ("        mbarrier.wait(v_full.index(k_fills & 1), k_fills >> 1 & 1)\n", "", "more arrivals"),
    "a wait for another ring": ("wait(v_full.index(k_fills & 1)", "wait(k_full.index(k_fills & 1)", STUCK),
    "a release left out": ("            mbarrier.arrive(k_empty.index(k_fills & 1), count=1)\n", "", STUCK),
    "a release twice": ("((k_fills - 1) & 1), count=1)", "((k_fills - 1) & 1), count=2)", "more arrivals"),
    "a release of another slot": ("v_empty.index((k_fills - 1) & 1)", "v_empty.index(k_fills & 1)", STUCK),
    "arrivals expected": ("init(k_empty.index(slot), count=1)", "init(k_empty.index(slot), count=2)", STUCK),
    "bytes expected": ("expect(k_full.index(k_fills & 1), 8192)", "expect(k_full.index(k_fills & 1), 4096)", STUCK),
    "a tile of another slot": ("v_tiles.index((k_fills - 1) & 1)", "v_tiles.index(k_fills & 1)", WRONG_VALUES),
    "a count not kept": ("            k_fills += 1\n", "", STUCK),
    "a count begun again": ("        for n in range(", "        k_fills = 0\n        for n in range(", STUCK),
    "dots in flight": ("mma_wait(1, deps=[product])", "mma_wait(2, deps=[product])", "'Dot' object"),
    "a copy from another place": ("[b, g, n * 64, 0]", "[b, g, n * 64 + 1, 0]", WRONG_VALUES),
    "not transposed": (".permute([1, 0])", "", WRONG_VALUES),
}  # fmt: skip


# of two teams, 64 rows each
WRONG_TEAMS = {
    "one arrival for two teams": ("init(k_empty.index(slot), count=2)", "init(k_empty.index(slot), count=1)", STUCK),
    "rows of the other team": (".slice(team * 64, 64, 0)", ".slice(64 - team * 64, 64, 0)", WRONG_VALUES),
    "both teams' rows stored once": ("(team * 64 + gl.arange", "(0 * 64 + gl.arange", WRONG_VALUES),
}  # fmt: skip


# of two teams of which each writes its rows of a tile that both read
MET = "            mbarrier.wait(ds_written_full.index(q_fills & 1), q_fills >> 1 & 1)\n"
WRONG_MEETINGS = {
    "no meeting": (MET, "", "dQ differs"),
    "a meeting one team skips": (MET, MET.replace("mbar", "if team == 1:\n                mbar"), "dQ differs"),
    "a meeting the other skips": (MET, MET.replace("mbar", "if team == 0:\n                mbar"), "dQ differs"),
    "a meeting of one": ("ds_written_full.index(slot), count=2", "ds_written_full.index(slot), count=1", STUCK),
    "the other team's rows": ("slice(team * 64, 64, 0).store", "slice(64 - team * 64, 64, 0).store", "dQ differs"),
    "a slot used again too early": ("ds_written_tiles.index(q_fills & 1)", "ds_written_tiles.index(0)", "dQ differs"),
    "never let go": ("mbarrier.arrive(ds_written_empty.index(q_fills & 1), count=1)", "pass", STUCK),
}  # fmt: skip


def verdicts_of(rows: int, sizes: dict[str, int], wrong: dict[str, tuple[str, str, str]]) -> dict[str, str]:
    return tried("tests/golden/proved/exp2_folded_scale.tile", {"BM": rows, "BN": 64}, 64, sizes, wrong)


def tried(
    path: str,
    metas: dict[str, int],
    d: int,
    sizes: dict[str, int],
    wrong: dict[str, tuple[str, str, str]],
    adversaries: int = 8,
    every: bool = False,
) -> dict[str, str]:
    """What went wrong with each text; the right one is called "right". `every`: replaced wherever it stands."""
    program, bound = typed(path, metas, D=d)
    widths = {k.name: 32 for k in program.kernels}
    emitted = emit_program(program, with_boxes(program, widths, copied=True), bound, widths)
    sources = {"right": emitted.source}
    for name, (old, new, _) in wrong.items():
        assert old in emitted.source, name
        sources[name] = emitted.source.replace(old, new, -1 if every else 1)
    parameters = {"scale": 0.125}
    inputs = generate("normal", 0, bound, sizes, parameters)
    wanted = interpret(program, bound, sizes, parameters, inputs, Mode.MACHINE).tensors
    request = {
        "sources": sources, "plan": plan(program, bound), "launches": emitted.launches, "sizes": sizes,
        "adversaries": adversaries, "parameters": parameters, "inputs": {n: x.tolist() for n, x in inputs.items()},
        "wanted": {t.name: wanted[t.name].tolist() for t in program.tensors if t.role == "output"},
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("emulating.py"))], input=json.dumps(request),
        capture_output=True, text=True, check=True, timeout=200, env=child_environment(True),
    )  # fmt: skip
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def verdicts() -> dict[str, str]:
    return verdicts_of(64, SIZES, WRONG)


@pytest.fixture(scope="module")
def of_teams() -> dict[str, str]:
    return verdicts_of(128, {**SIZES, "M": 100}, WRONG_TEAMS)


def test_the_emitted_text_agrees_under_every_adversary(verdicts: dict[str, str]) -> None:
    assert verdicts["right"] == ""


@pytest.mark.parametrize("name", WRONG)
def test_a_text_with_a_wrong_protocol_shows(verdicts: dict[str, str], name: str) -> None:
    assert WRONG[name][2] in verdicts[name]


def test_teams_that_share_rows_agree_under_every_adversary(of_teams: dict[str, str]) -> None:
    assert of_teams["right"] == ""


@pytest.fixture(scope="module")
def of_meetings() -> dict[str, str]:
    sizes = {"B": 1, "H": 1, "G": 1, "M": 130, "N": 100}  # three tiles of queries in two slots
    path = "specs/attention_bwd/specialised_fused_none.tile"
    return tried(path, {}, 128, sizes, WRONG_MEETINGS, adversaries=4, every=True)


def test_teams_that_pass_rows_to_each_other_agree(of_meetings: dict[str, str]) -> None:
    assert of_meetings["right"] == ""


@pytest.mark.parametrize("name", WRONG_MEETINGS)
def test_a_text_with_a_wrong_meeting_shows(of_meetings: dict[str, str], name: str) -> None:
    assert WRONG_MEETINGS[name][2] in of_meetings[name]


@pytest.mark.parametrize("name", WRONG_TEAMS)
def test_a_text_whose_teams_are_wrong_shows(of_teams: dict[str, str], name: str) -> None:
    assert WRONG_TEAMS[name][2] in of_teams[name]
