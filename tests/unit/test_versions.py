"""One certified program, several versions: which of them a call runs, and that damage to them is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lowering.assumptions import LaunchError
from lowering.choose import choose
from lowering.versions import NoVersion, Version, version_on, versions_in

ANYWHERE = Version("pointers", "p", "", [], resources={"sm_80": [], "sm_90": []})
HOPPER = Version("hopper", "h", "", [], [["target", "sm_90"]], {"sm_90": []})
EVEN = Version("even", "e", "", [], [["size", ["eq", ["mod", "N", 64], 0]]])
X = {"X": torch.zeros(3)}


@pytest.mark.parametrize(
    ("target", "n", "chosen"),
    [("sm_90", 128, "hopper"), ("sm_80", 128, "even"), ("sm_80", 100, "pointers"), ("sm_103", 1, "pointers")],
)
def test_a_call_runs_the_first_version_whose_conditions_hold(target: str, n: int, chosen: str) -> None:
    assert choose((HOPPER, EVEN, ANYWHERE), target, X, {"N": n}).name == chosen


def test_all_of_a_versions_conditions_must_hold() -> None:
    both = replace(HOPPER, name="both", when=[*HOPPER.when, *EVEN.when])
    assert choose((both, ANYWHERE), "sm_90", X, {"N": 64}).name == "both"
    assert choose((both, ANYWHERE), "sm_90", X, {"N": 65}).name == "pointers"
    assert choose((both, ANYWHERE), "sm_80", X, {"N": 64}).name == "pointers"


def test_a_condition_nobody_can_read_is_refused_and_not_taken_for_true() -> None:
    with pytest.raises(LaunchError, match="cannot read"):
        choose((replace(HOPPER, when=[["moon", "full"]]), ANYWHERE), "sm_90", X, {})


def test_the_last_version_runs_everywhere() -> None:
    rows = [v.to_json() for v in (HOPPER, EVEN, ANYWHERE)]
    assert versions_in({"versions": rows}) == (HOPPER, EVEN, ANYWHERE)
    for broken in ([], rows[:2], [{**rows[2], "speed": "very"}]):
        with pytest.raises(NoVersion):
            versions_in({"versions": broken})
    with pytest.raises(NoVersion):
        versions_in({"source": "of an older format"})


def test_what_runs_on_a_target_is_the_first_compiled_for_it() -> None:
    lowered = {"versions": [v.to_json() for v in (HOPPER, EVEN, ANYWHERE)]}
    assert [version_on(lowered, t).name for t in ("sm_90", "sm_80", "gfx942")] == ["hopper", "pointers", "pointers"]
    assert HOPPER.targets(("sm_80", "sm_90")) == ("sm_90",) and EVEN.targets(("sm_80",)) == ("sm_80",)
