"""Does an integer input of a call keep the facts its spec states? Read off the tensor, on its own device.

The proof assumes the facts of every cell; this is who discharges that. Imports torch alone, as `launch` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch


def broken_fact(
    name: str, facts: Mapping[str, Any], x: torch.Tensor, value: Callable[[Any], int], show: Callable[[Any], str]
) -> str:
    """The fact that x, which is not empty, breaks, in words; empty when it keeps all. `facts` are expressions of a
    launch plan; `value` gives what one is at this call's sizes, `show` its text."""
    if facts["splits"] is not None:
        return _broken_cuts(name, facts, x, value, show)
    least, most = torch.stack(torch.aminmax(x)).tolist()  # one wait for the device
    for key, found, breaks in (("min", least, int.__lt__), ("max", most, int.__gt__)):
        if facts[key] is not None and breaks(found, value(facts[key])):
            return f"{name} holds {found}, the spec says {key} {show(facts[key])} = {value(facts[key])}"
    return ""


def _broken_cuts(
    name: str, facts: Mapping[str, Any], x: torch.Tensor, value: Callable[[Any], int], show: Callable[[Any], str]
) -> str:
    """An input that splits 0..E-1: from 0 to E, never decreasing, no part longer than the spec says."""
    end, limit = facts["splits"], facts["longest"]
    cells = x.to(torch.int64)  # of i32 cells a difference might wrap
    lengths = cells.diff() if len(cells) > 1 else cells.new_zeros(1)
    first, last, least, most = torch.stack([cells[0], cells[-1], *torch.aminmax(lengths)]).tolist()
    if (first, last) != (0, value(end)):
        return f"{name} runs from {first} to {last}, the spec says from 0 to {show(end)} = {value(end)}"
    if least < 0:
        return f"{name} decreases somewhere"
    if limit is not None and most > value(limit):
        return f"{name} has a part of length {most}, the spec says at most {show(limit)} = {value(limit)}"
    return ""
