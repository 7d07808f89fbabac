"""What a certificate's rounding bounds come to at given sizes and inputs.

A bound is a formula of sizes, parameters, the largest |x| of each input and, where an input was saved by an earlier
kernel, how far it is from its definition; and of the largest exact |x| of an output, where its error is a share of the
value itself. Nothing here needs a solver: a benchmark evaluates bounds where there is
none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ir import error_formula as formula
from ir.error_formula import Formula


class NoBound(Exception):
    """The certificate has no rounding bound; the message says why."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """`ranges`: the largest |x| of each float input; `saved`: the largest error of those an earlier kernel saved;
    `results`: the largest exact |x| of an output, where it is known."""

    sizes: Mapping[str, int]
    parameters: Mapping[str, float]
    ranges: Mapping[str, float]
    saved: Mapping[str, float]
    results: Mapping[str, float] = field(default_factory=dict)

    def values(self) -> dict[tuple[str, str], float]:
        named = {
            "size": self.sizes, "parameter": self.parameters, "range": self.ranges, "saved": self.saved,
            "result": self.results,
        }  # fmt: skip
        found = {(kind, name): float(x) for kind, given in named.items() for name, x in given.items()}
        return found | {("absolute", name): abs(x) for name, x in self.parameters.items()}


def formulas(section: Mapping[str, Any] | None) -> dict[str, Formula]:
    """The bounds in a certificate's section `rounding`, by output. Raises NoBound, and ValueError for a damaged one."""
    if not section or "bounds" not in section:
        raise NoBound((section or {}).get("none") or "it was issued without one")
    return {name: formula.from_json(bound["terms"]) for name, bound in section["bounds"].items()}


def bounds(section: Mapping[str, Any] | None, inputs: Inputs) -> dict[str, float]:
    """|computed - exact| in every finite cell of each output is at most this; infinite where nothing follows at these
    sizes and ranges. Raises NoBound; KeyError names what no value was given for."""
    values = {leaf: math.inf for leaf in wanted(section) if leaf[0] == "result"} | inputs.values()
    return {name: formula.evaluate(f, values) for name, f in formulas(section).items()}


def wanted(section: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """(kind, name) of everything the bounds are made of. Raises NoBound."""
    found = formulas(section).values()
    return iter(dict.fromkeys(x for f in found for x in formula.leaves(f)))
