"""Which blocks of keys a tile of rows has to visit, and which of those need no mask.

Conditions of the form `key <= a + row` and `key >= a + row` become loop bounds; any other condition is left to the
mask, which always holds all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from synth.propose.choices import Choices, DoesNotApply
from synth.propose.emit import Emitter
from synth.propose.formula import Linear, nonnegative
from synth.propose.structure import Group


@dataclass(frozen=True, slots=True)
class Segment:
    """Blocks start <= n < stop, as kernel text; `masked` when some cell of them may be invisible."""

    start: str
    stop: str
    masked: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """The row variable of a tile and the least and greatest row in it."""

    name: str
    first: Linear
    last: Linear


@dataclass
class _Bounds:
    """Inclusive bounds on visible keys that some row of the tile, or that every row, obeys. `complete` is False when
    a condition could not be read as a bound; `high_moves` and `low_moves` say whether a later row's are greater."""

    some_high: list[Linear] = field(default_factory=list)
    some_low: list[Linear] = field(default_factory=list)
    every_high: list[Linear] = field(default_factory=list)
    every_low: list[Linear] = field(default_factory=list)
    complete: bool = True
    high_moves: bool = False
    low_moves: bool = False


def _bounds(emitter: Emitter, group: Group, rows: Rows) -> _Bounds:
    found = _Bounds()
    for condition in group.sees:
        form = nonnegative(condition)
        at_key = form.coefficient(group.key) if form is not None else None
        at_row = form.coefficient(rows.name) if form is not None else None
        if form is None or at_row is None or at_key not in (1, -1):
            found.complete = False
            continue
        rest = form.without(group.key).without(rows.name)
        if emitter.axes_of(rest.expr()):
            found.complete = False
            continue
        ends = [rest.plus(end, at_row) for end in (rows.first, rows.last)]
        low, high = ends if at_row >= 0 else (ends[1], ends[0])
        if at_key == -1:  # key <= rest + row
            found.some_high.append(high)
            found.every_high.append(low)
            found.high_moves |= at_row > 0
        else:  # key >= -(rest + row)
            found.some_low.append(Linear().plus(high, -1))
            found.every_low.append(Linear().plus(low, -1))
            found.low_moves |= at_row < 0
    return found


def later_rows_see_more(emitter: Emitter, group: Group, rows: Rows) -> bool:
    """Whether the number of keys grows with the row, as under a causal mask and not under a window."""
    bounds = _bounds(emitter, group, rows)
    return bounds.high_moves and not bounds.low_moves


def segments(emitter: Emitter, group: Group, rows: Rows, choices: Choices) -> list[Segment]:
    """The loops over blocks of keys, in order. With `split`, blocks seen whole by every row get a loop without mask;
    raises DoesNotApply when a condition gives no bound to split at."""
    bounds = _bounds(emitter, group, rows)

    def text(form: Linear, add: int = 0) -> str:
        return emitter.emit(form.plus(Linear((), add)).expr(), ()).text

    extent = emitter.emit(group.extent, ()).text
    stop = f"cdiv({_nested('min', [extent, *(text(h, 1) for h in bounds.some_high)])}, BN)"
    lows = [text(low) for low in bounds.some_low]
    start = f"{_nested('max', ['0', *lows])} // BN" if lows else "0"
    if not choices.split:
        if choices.reverse or choices.pivot == "two-pass":  # mentioned more than once, so it gets a name
            blocks = emitter.names.fresh("blocks")
            emitter.outer.lines.append(f"{blocks} = {stop}")
            stop = blocks
        return [Segment(start, stop, True)]
    if not bounds.complete:
        raise DoesNotApply("a condition that does not bound the key")
    clear = _nested("min", [extent, *(text(h, 1) for h in bounds.every_high)])
    if bounds.every_high:
        clear = f"max(0, {clear})"
    lines = emitter.outer.lines
    if not lows:
        full = emitter.names.fresh("full_blocks")
        lines.append(f"{full} = {clear} // BN  # blocks that every row of the tile sees whole")
        return [Segment("0", full, False), Segment(full, stop, True)]
    first, last, left, right = (emitter.names.fresh(n) for n in ("first", "stop", "clear_first", "clear_stop"))
    lowest = _nested("max", ["0", *(text(low) for low in bounds.every_low)])
    lines.append(f"{first} = {start}")
    lines.append(f"{last} = {stop}")
    lines.append(f"{left} = max({first}, min({last}, cdiv({lowest}, BN)))  # from here on every row sees whole blocks")
    lines.append(f"{right} = max({left}, min({last}, {clear} // BN))")
    return [Segment(first, left, True), Segment(left, right, False), Segment(right, last, True)]


def _nested(function: str, parts: list[str]) -> str:
    head, *tail = parts
    return f"{function}({head}, {_nested(function, tail)})" if tail else head
