"""Input generators: within limits, representable, reproducible, and as extreme as they say."""

from __future__ import annotations

import numpy as np
import pytest

from ir.inputs import GENERATORS, UnknownGenerator, describe, generate, parse_description
from ir.loader import bind, load_spec
from ir.rounding import round_to

SIZES = {"B": 1, "H": 2, "G": 1, "M": 6, "N": 5}


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_values_are_promised_representable_and_reproducible(name: str, dtype: str) -> None:
    bound = bind(load_spec("attention"), {"dtype": dtype})
    first, again, other = (generate(name, seed, bound, SIZES, {"scale": 1.0}) for seed in (3, 3, 4))
    for tensor, tensor_dtype in bound.inputs:
        x = first[tensor.name]
        assert np.abs(x).max() <= (tensor.abs_max or np.inf)
        assert np.array_equal(round_to(x, tensor_dtype), x)
        assert np.array_equal(x, again[tensor.name])
        assert name in ("zeros", "flat", "ramp") or not np.array_equal(x, other[tensor.name])


@pytest.mark.parametrize(("name", "sign"), [("low", -1), ("high", 1)])
def test_low_and_high_make_extreme_products(name: str, sign: int) -> None:
    x = generate(name, 0, bind(load_spec("attention"), {}), SIZES, {})
    logits = np.einsum("bhie,bgje->bhij", x["Q"], x["K"])
    assert (sign * logits > 1e9).all()


def test_a_description_names_generator_and_seed() -> None:
    assert describe("low", 7) == "low:7"
    assert parse_description("low:7") == ("low", 7)


@pytest.mark.parametrize("text", ["", "low", "low:", "low:x", "low:-1", "nothing:1"])
def test_other_descriptions_are_errors(text: str) -> None:
    with pytest.raises(UnknownGenerator, match="NAME:SEED"):
        parse_description(text)


def test_an_unknown_generator_is_an_error() -> None:
    with pytest.raises(UnknownGenerator, match="nothing"):
        generate("nothing", 0, bind(load_spec("attention"), {}), SIZES, {})
