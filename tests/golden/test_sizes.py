"""Sizes that a kernel's header gives for a head dim or a dtype, or to try, are proved as the file itself is."""

from __future__ import annotations

import re

import pytest

from ir.loader import bind, load_spec, packaged_specs
from synth.certify import certify
from synth.propose.seeds import SIZES, seeds, wanted_settings
from verifier.verdict import Verdict


def sized() -> list[tuple[str, str, dict[str, str]]]:
    """(spec, kernel in that size, settings) for every such line of every kernel that ships."""
    found = []
    for path in sorted(packaged_specs().glob("*/*.tile")):
        text = path.read_text()
        for line in filter(None, map(SIZES.fullmatch, text.splitlines())):
            settings = dict(item.split("=") for item in (line["settings"] or "").split())
            values = "x".join(re.findall(r"=(\d+)", line["metas"]))
            found.append((path.parent.name, f"{path.stem}-{values}", {**wanted_settings(text), **settings}))
    return found


SIZED = sized()


def proved(spec: str, kernel: str, settings: dict[str, str]) -> bool:
    bound = bind(load_spec(spec), settings)
    (candidate,) = {c for c in seeds(bound) if c.name == kernel}
    return certify(candidate.text, bound).report.verdict is Verdict.PROVED


def test_sizes_are_of_kernels_that_ship() -> None:
    assert len(SIZED) > 40
    for spec, kernel, settings in SIZED:
        assert kernel in {c.name for c in seeds(bind(load_spec(spec), settings))}, (spec, kernel)


def test_a_kernel_in_another_size_is_proved() -> None:
    assert proved("attention_bwd", "own_tiles_none-32x128x128x64", {"causal": "none", "D": "128"})


@pytest.mark.thorough
@pytest.mark.parametrize("spec, kernel, settings", SIZED, ids=lambda x: x if isinstance(x, str) else "")
def test_every_kernel_in_every_size_is_proved(spec: str, kernel: str, settings: dict[str, str]) -> None:
    assert proved(spec, kernel, settings)
