"""Formulas by whole tensors in float64: equal to the spec evaluator, whole or in pieces, all cells or some."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ir.evaluate import evaluate, parameters_default
from ir.inputs import generate
from ir.loader import bind, load_spec
from ir.spec import Bound
from synth.bench.formula import Evaluator, evaluator, tensor

ATTENTION = {"B": 2, "H": 4, "G": 2, "M": 5, "N": 9}
CASES: dict[str, tuple[dict[str, str | int], dict[str, int]]] = {
    "attention": ({"causal": "bottom_right"}, {**ATTENTION, "M": 9, "N": 5}),  # rows that see no key
    "attention_bwd": ({"causal": "top_left"}, ATTENTION),
    "paged": ({}, {"B": 2, "H": 2, "G": 1, "M": 2, "P": 3, "W": 2}),  # indices read from a table, ragged lengths
    "varlen": ({}, {"B": 3, "H": 2, "G": 1, "T": 7, "U": 6, "L": 7}),
    "dropout": ({}, ATTENTION),
    "layernorm": ({}, {"R": 4, "C": 7}),
    "cross_entropy": ({}, {"R": 4, "C": 7}),
    "window": ({}, {**ATTENTION, "L": 2, "R": 1}),
}


@cache
def case(name: str) -> tuple[Bound, dict[str, int], dict[str, torch.Tensor], dict[str, Any]]:
    settings, sizes = CASES[name]
    bound = bind(load_spec(name), settings)
    parameters = parameters_default(bound, sizes)
    arrays = generate("normal", 1, bound, sizes, parameters)
    inputs = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    return bound, sizes, inputs, evaluate(bound, sizes, parameters, arrays)


def prepared(name: str, room: int | None = None) -> tuple[Bound, Evaluator, dict[str, Any]]:
    bound, sizes, inputs, wanted = case(name)
    return bound, evaluator(bound, sizes, inputs, wide=True, room=room), wanted


@pytest.mark.parametrize("room", [None, 4000], ids=["whole", "pieces"])
@pytest.mark.parametrize("name", CASES)
def test_every_output_is_what_the_spec_evaluator_says(name: str, room: int | None) -> None:
    bound, evaluate_, wanted = prepared(name, room)
    for output, cells in wanted.items():
        np.testing.assert_allclose(tensor(evaluate_, bound, output).numpy(), cells, rtol=1e-9, atol=1e-9)


def test_some_cells_alone() -> None:
    bound, evaluate_, wanted = prepared("attention_bwd")
    rows = torch.tensor([0, 3, 8])
    found = tensor(evaluate_, bound, "dK", {"j": rows, "g": torch.tensor([1])})
    np.testing.assert_allclose(found.numpy(), wanted["dK"][:, 1:2][:, :, rows.numpy()], rtol=1e-9, atol=1e-9)
    every = tensor(evaluate_, bound, "dV")  # the same variables, other values: nothing stale is left
    np.testing.assert_allclose(every.numpy(), wanted["dV"], rtol=1e-9, atol=1e-9)


def test_a_matrix_product_of_sixteen_bit_tensors_is_made_in_sixteen_bits() -> None:
    bound, sizes, inputs, wanted = case("attention")
    narrow = {k: v.to(torch.bfloat16) for k, v in inputs.items()}
    found = tensor(evaluator(bound, sizes, narrow), bound, "LSE").double().numpy()
    seen = np.isfinite(wanted["LSE"])
    error = np.abs(found - wanted["LSE"])[seen].max()
    assert np.array_equal(np.isfinite(found), seen) and 1e-4 < error < 0.1
