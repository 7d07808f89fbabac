"""What a request to a model costs, by the price list and by hand."""

from __future__ import annotations

import datetime
import tomllib
from importlib.resources import files

import pytest

from synth.propose.model.errors import ModelError
from synth.propose.model.prices import Price, price_of
from synth.search.budget import Usage


def test_cached_tokens_cost_their_share() -> None:
    price = price_of("claude-opus-5-5")
    assert price is not None
    million = 1_000_000
    assert price.of(Usage(million, 0, 0, 0)) == pytest.approx(4.0)
    assert price.of(Usage(0, million, 0, 0)) == pytest.approx(20.0)
    assert price.of(Usage(0, 0, million, 0)) == pytest.approx(0.2)
    assert price.of(Usage(0, 0, 0, million)) == pytest.approx(5.0)


def test_long_prompts_of_a_model_that_has_two_prices_cost_the_second() -> None:
    price = price_of("claude-haiku-5-5")
    assert price is not None
    assert price.of(Usage(100_000, 0)) == pytest.approx(0.01)
    assert price.of(Usage(50_000, 0, 50_001, 0)) == pytest.approx((50_000 + 5_000.1) * 0.5e-6)


def test_a_request_never_costs_more_than_was_held_for_it() -> None:
    for name in tomllib.loads(files("synth.propose.model").joinpath("prices.toml").read_text())["models"]:
        price = price_of(name)
        assert price is not None and price.context
        for usage in (Usage(90_000, 500), Usage(0, 500, 0, 120_000), Usage(10, 1, 200_000, 0)):
            sent, written = price.most(usage.tokens - usage.output)
            held = (usage.tokens - usage.output) * sent + usage.output * written
            assert price.of(usage) <= held * (1 + 1e-12)


def test_a_snapshot_costs_what_its_model_does_and_an_unknown_model_nothing_is_known_of() -> None:
    assert price_of("claude-haiku-4-5-20251001") == price_of("claude-haiku-4-5")
    assert price_of("someone-elses-model") is None
    assert price_of("someone-elses-model", "1,2") == Price(1.0, 2.0)
    assert price_of("claude-opus-5-5", "2,4,1,3") == Price(2.0, 4.0, 0.5, 1.5, 1_000_000)


@pytest.mark.parametrize("given", ["1", "1,2,3", "a,b", "-1,2", "nan,1", ","])
def test_a_price_that_is_none_is_an_error(given: str) -> None:
    with pytest.raises(ModelError, match="IN,OUT"):
        price_of("any", given)


def test_the_list_says_of_when_it_is() -> None:
    listed = tomllib.loads(files("synth.propose.model").joinpath("prices.toml").read_text())
    assert isinstance(listed["date"], datetime.date)
