"""The page of what ships says what ships."""

from __future__ import annotations

import json

from ir.loader import packaged_specs
from synth.cli import main
from synth.family import PAGE, families, page


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run python -m synth.family"


def test_every_spec_and_kernel_is_listed_with_what_is_special_about_it() -> None:
    found = {f.spec.name: f for f in families()}
    assert set(found) == {p.stem for p in packaged_specs().glob("*.toml")}
    listed = {(f.spec.name, k.name) for f in found.values() for k in f.kernels}
    assert listed == {(p.parent.name, p.stem) for p in packaged_specs().glob("*/*.tile")}
    assert all(k.description for f in found.values() for k in f.kernels)
    assert found["attention_bwd"].gradients == ("dQ", "dK", "dV") and found["attention"].gradients == ()


def test_the_command_prints_them(capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["specs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"attention", "attention_bwd"} <= {row["spec"] for row in rows}
    assert main(["specs"]) == 0
    said = capsys.readouterr().out
    assert "three_kernels_none" in said and "slope[h]" in said
