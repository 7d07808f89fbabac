"""What a certificate computes survives as JSON, for every spec that ships."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ir.loader import bind, load_spec
from lowering.statement import NotStated, stated, statement

SPECS = sorted(path.stem for path in (Path(__file__).parents[2] / "specs").glob("*.toml"))


@pytest.mark.parametrize("name", SPECS)
def test_a_spec_is_read_back_as_it_was(name: str) -> None:
    bound = bind(load_spec(name), {})
    text = json.dumps(statement(bound))
    again = stated(json.loads(text), bound.spec.source)
    assert again == replace(bound, spec=replace(bound.spec, path=""))
    assert again.spec.definitions != () and bound.spec.source not in text


@pytest.mark.parametrize("body", [{"Bound": []}, {"Sum": [1]}, {}, [1], "x", {"Name": ["x"], "Text": ["y"]}])
def test_what_is_no_statement_is_refused(body: object) -> None:
    with pytest.raises(NotStated):
        stated(body, "")
