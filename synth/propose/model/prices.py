"""What a model's tokens cost. Prices are data (prices.toml, with its date); a price that is not there is asked for."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from synth.propose.model.errors import ModelError
from synth.search.budget import Usage

MILLION = 1_000_000
READ, WRITE = 0.1, 1.25  # multiples of the input price where a price given by hand names none: the highest published


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens; `read` and `write` are multiples of `input`. Above `above` sent tokens, 0 for never,
    a request costs `long_input` and `long_output`. `context` is the context window in tokens, 0 where unknown."""

    input: float
    output: float
    read: float = READ
    write: float = WRITE
    context: int = 0
    above: int = 0
    long_input: float = 0.0
    long_output: float = 0.0

    def of(self, usage: Usage) -> float:
        """Dollars for what one request used."""
        sent, written = self._rates(usage.tokens - usage.output)
        weighted = usage.input + usage.cache_read * self.read + usage.cache_write * self.write
        return (weighted * sent + usage.output * written) / MILLION

    def most(self, sent: int) -> tuple[float, float]:
        """The most that a token sent, and one written, can cost in a request that sends so many, in dollars."""
        input_rate, output_rate = self._rates(sent)
        return input_rate * max(1.0, self.read, self.write) / MILLION, output_rate / MILLION

    def _rates(self, sent: int) -> tuple[float, float]:
        return (self.long_input, self.long_output) if self.above and sent > self.above else (self.input, self.output)


def price_of(model: str, given: str = "") -> Price | None:
    """The price of a model: `given` as "IN,OUT" or "IN,OUT,CACHE_READ,CACHE_WRITE" in dollars per million tokens, else
    from the list, where a dated snapshot costs what its model does; None where neither knows it."""
    listed = tomllib.loads(files(__package__).joinpath("prices.toml").read_text("utf-8"))["models"]
    row = listed.get(model) or listed.get(re.sub(r"[-@]\d{8}$", "", model))
    known = Price(**row) if row else None
    if not given:
        return known
    try:
        numbers = [float(part) for part in given.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 4) or not all(0 <= n < 1e6 for n in numbers):
        raise ModelError(
            f"a price is IN,OUT or IN,OUT,CACHE_READ,CACHE_WRITE in dollars per million tokens, as 4,20; not {given!r}"
        )
    sent, written, *cache = numbers
    read, write = (n / sent for n in cache) if cache and sent else (READ, WRITE)
    return Price(sent, written, read, write, known.context if known else 0)


def needs_price(model: str) -> ModelError:
    return ModelError(
        f"no price is known for the model {model!r}, so a limit in dollars cannot be kept: name its price with "
        "--price IN,OUT (dollars per million tokens), or limit --max-tokens and --max-minutes instead of --max-usd"
    )
