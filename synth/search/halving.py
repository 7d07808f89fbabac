"""Who goes on to the next, dearer rung: successive halving, decided from what is known and nothing else.

The rungs are proof -> compile -> "check" (the interpreter cross-check) -> "short" (benchmark) -> "long". Before
"check" nothing was timed, so the best of each cell come before the second-best of any: an estimate must not be what
kills a new algorithm. Before "long" the time on the first shape decides, and a kernel goes on if it is among the best
1/eta of all that ever got as far: newcomers are held against those that went on before them, so that a lost rung is
not run again (asynchronous successive halving, Li et al. 2020). Where there are few, nobody is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from synth.search.archive import Archive
from synth.search.descriptor import Cell
from synth.search.tried import Tried

ETA = 3
FEW = 6


def survivors(tried: Sequence[Tried], rung: str, archive: Archive, eta: int = ETA, few: int = FEW) -> list[Tried]:
    """Those of `tried` that go on to `rung`, "check" or "long", best first."""
    match rung:
        case "check":
            found = _by_cell(tried, archive)
            return found[: max(few, math.ceil(len(found) / eta))]
        case "long":
            names = {t.candidate.name for t in tried}
            before = [m.tried for m in archive.members.values() if m.tried.candidate.name not in names]
            field = _ranked([t for t in (*before, *tried) if t.certified and not t.problem and not t.twin])
            return [t for t in field[: max(few, math.ceil(len(field) / eta))] if t.candidate.name in names]
        case _:
            raise ValueError(f"no rung {rung!r}; there are check and long")


def _by_cell(tried: Sequence[Tried], archive: Archive) -> list[Tried]:
    """The best of each cell, then the second of each, and so on; by what they are expected to take, then by name."""
    ranked = sorted(tried, key=lambda t: (archive.expected(t), t.candidate.name))
    places: dict[Cell | None, int] = {}
    keyed: list[tuple[int, int]] = []
    for index, t in enumerate(ranked):
        cell = archive.cell(t)
        keyed.append((places.get(cell, 0), index))
        places[cell] = places.get(cell, 0) + 1
    return [ranked[index] for _, index in sorted(keyed)]


def _ranked(tried: Sequence[Tried]) -> list[Tried]:
    """By the time on the first shape, which every rung measures; not timed yet comes last, in the order given."""
    return sorted(tried, key=lambda t: (t.measurements[0].seconds if t.measurements else math.inf, t.candidate.name))
