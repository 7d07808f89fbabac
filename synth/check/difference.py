"""Where two JSON values differ, by the path that leads there.

Rows of a table are matched by what names them, `claim[E1]`, so that one row more or less is said to be just that. Types
count: 1, 1.0 and true are three values.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Json = Any
NAMES = ("id", "obligation", "name", "file", "kernel", "mutant")  # keys that name a row
SHOWN = 160  # characters of a value


@dataclass(frozen=True, slots=True)
class Absent:
    """What stands for a value that one side lacks."""


ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """`claimed` is what the certificate says at `path`, `derived` what follows from its subject."""

    path: str
    claimed: Json | Absent
    derived: Json | Absent

    def __str__(self) -> str:
        if isinstance(self.claimed, Absent):
            return f"{self.path}: the certificate lacks it; derived: {_short(self.derived)}"
        if isinstance(self.derived, Absent):
            return f"{self.path}: nothing of the kind is derived; the certificate says {_short(self.claimed)}"
        claimed, derived, where = self.claimed, self.derived, ""
        if isinstance(claimed, str) and isinstance(derived, str) and "\n" in claimed + derived:
            claimed, derived, line = _first_line(claimed, derived)
            where = f", line {line}"
        return f"{self.path}{where}: the certificate says {_short(claimed)}, derived is {_short(derived)}"


def differences(claimed: Json, derived: Json, path: str) -> Iterator[Difference]:
    """Every place where two values differ; none when they are the same."""
    match claimed, derived:
        case dict(), dict():
            for key in dict.fromkeys((*derived, *claimed)):
                place = f"{path}.{key}" if path else str(key)
                yield from differences(claimed.get(key, ABSENT), derived.get(key, ABSENT), place)
        case list(), list():
            yield from _of_lists(claimed, derived, path)
        case _:
            if type(claimed) is not type(derived) or claimed != derived:
                yield Difference(path, claimed, derived)


def plain(value: Any) -> Json:
    """A value as it is after it was written to a file and read back: tuples are lists."""
    return json.loads(json.dumps(value))


def _of_lists(claimed: list[Json], derived: list[Json], path: str) -> Iterator[Difference]:
    said, ours = _named(claimed), _named(derived)
    for name in dict.fromkeys((*ours, *said)):
        yield from differences(said.get(name, ABSENT), ours.get(name, ABSENT), f"{path}[{name}]")
    if said.keys() == ours.keys() and list(said) != list(ours):
        yield Difference(f"{path}, order", list(said), list(ours))


def _named(rows: list[Json]) -> dict[str, Json]:
    """Rows by what names them, where one key does for all; by their numbers otherwise."""
    for key in NAMES:
        names = [row[key] for row in rows if isinstance(row, dict) and isinstance(row.get(key), str)]
        if len(names) == len(rows):
            times = Counter[str]()
            found = {}
            for name, row in zip(names, rows, strict=True):
                times[name] += 1
                found[name if times[name] == 1 else f"{name} {times[name]}"] = row
            return found
    return {str(k): row for k, row in enumerate(rows)}


def _first_line(claimed: str, derived: str) -> tuple[str, str, int]:
    """The first line that differs, on both sides, and its number."""
    left, right = claimed.split("\n"), derived.split("\n")
    same = next((k for k, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    return *("".join(side[same : same + 1]) for side in (left, right)), same + 1  # type: ignore[return-value]


def _short(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    kept = text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
    return f"'{kept}'" if isinstance(value, str) else kept
