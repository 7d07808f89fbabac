"""Typed access to a TOML table, where every complaint knows its line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ir.ast import NOWHERE
from ir.diagnostics import Source, SpecProblem, closest, join
from ir.positions import Path, Place, positions, span_at

_T = TypeVar("_T")
Key = str | tuple[str, int]  # a key, or an element of the array under a key


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a spec file. Every accessor raises SpecProblem when the value is not as it says."""

    values: Mapping[str, Any]
    path: Path
    source: Source
    places: Mapping[Path, Place]

    @staticmethod
    def root(document: Mapping[str, Any], source: Source) -> Table:
        return Table(document, (), source, positions(source.text))

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def names(self) -> tuple[str, ...]:
        return tuple(self.values)

    def problem(self, code: str, message: str, key: Key | None = None, hint: str = "") -> SpecProblem:
        """An error about a key of this table (or about the table)."""
        place = self.places.get(self._path(key)) or self.places.get(self.path)
        span = NOWHERE if place is None else span_at(self.source.text, place.key, max(place.end, place.key + 1))
        return SpecProblem(code, message, span, self.source, hint)

    def _path(self, key: Key | None) -> Path:
        return self.path if key is None else (*self.path, *((key,) if isinstance(key, str) else key))

    def keys(self, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
        """Exactly these keys, the optional ones or not."""
        known = required + optional
        where = f"[{'.'.join(str(p) for p in self.path)}]" if self.path else "the spec"
        for key in self.values:
            if key not in known:
                hint = closest(key, known) or f"known keys: {', '.join(known)}"
                raise self.problem("S002", f"{where} has no key `{key}`", key, hint)
        if missing := [key for key in required if key not in self.values]:
            raise self.problem("S003", f"{where} needs `{missing[0]}`", None, f"it has {join(required, 'and')}")

    def table(self, key: str) -> Table:
        value = self.values[key]
        if not isinstance(value, dict):
            raise self.problem("S004", f"`{key}` is a table", key, f"write `{key} = {{ ... }}` or `[{key}]`")
        return Table(value, self._path(key), self.source, self.places)

    def tables(self, key: str) -> list[Table]:
        """An array of tables; empty when absent."""
        value = self.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.problem("S004", f"`{key}` is a list of tables", key, f"write `[[{key}]]`")
        return [Table(v, self._path((key, i)), self.source, self.places) for i, v in enumerate(value)]

    def text(self, key: str) -> str:
        value = self.values[key]
        if not isinstance(value, str):
            raise self.problem("S004", f"`{key}` is a string", key, "put it in quotes")
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            hint = closest(value, choices) or f"one of {join(choices)}"
            raise self.problem("S004", f'`{key}` cannot be "{value}"', key, hint)
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        return self._integer(self.values[key], key, low, high)

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """A list of distinct integers, not empty."""
        items = tuple(self._integer(self.values[key][i], (key, i), low, high) for _, i in self.elements(key))
        return self._distinct(items, key)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of distinct strings, not empty."""
        items = [self.values[key][i] for _, i in self.elements(key)]
        if not all(isinstance(item, str) for item in items):
            raise self.problem("S004", f"`{key}` is a list of strings", key)
        return self._distinct(tuple(items), key)

    def elements(self, key: str) -> list[tuple[str, int]]:
        """Keys of the elements of a list; none when absent."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise self.problem("S004", f"`{key}` is a list", key, "put it in square brackets")
        return [(key, i) for i in range(len(value))]

    def real(self, key: str) -> float:
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.problem("S004", f"`{key}` is a finite number", key)
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.values[key]
        if not isinstance(value, bool):
            raise self.problem("S004", f"`{key}` is true or false", key)
        return value

    def padded(self, key: Key) -> str:
        """A formula, with blanks before it so that it stands at the line and column it has in the file."""
        value = self.values[key] if isinstance(key, str) else self.values[key[0]][key[1]]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise self.problem("S004", "a formula is a string", key, "put it in quotes")
        place = self.places.get(self._path(key))
        if place is None:
            return value
        span = span_at(self.source.text, place.content, place.end)
        return "\n" * (span.line - 1) + " " * (span.column - 1) + value

    def _integer(self, value: Any, key: Key, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.problem("S004", f"`{key if isinstance(key, str) else key[0]}` is an integer", key)
        if not low <= value <= high:
            raise self.problem("S013", f"{value} is outside {low} to {high}", key)
        return value

    def _distinct(self, items: tuple[_T, ...], key: str) -> tuple[_T, ...]:
        if not items or len(set(items)) < len(items):
            raise self.problem("S004", f"`{key}` is a list of different values, not empty", key)
        return items
