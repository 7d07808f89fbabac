"""Where the keys and values of a TOML text stand, for error messages: tomllib does not say.

Only a text tomllib has accepted is scanned, so the scanner can be short: it never has to report an
error of its own, and a place it does not find is reported without a caret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ir.ast import Span

Path = tuple[str | int, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_STRINGS = (
    re.compile(r'"""((?:[^\\]|\\.)*?)"""("{0,2})', re.DOTALL),
    re.compile(r"'''(.*?)'''('{0,2})", re.DOTALL),
    re.compile(r'"((?:[^"\\\n]|\\.)*)"'),
    re.compile(r"'([^'\n]*)'"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Offsets of a key, of its value, and of the first character inside the value's quotes."""

    key: int
    value: int
    content: int
    end: int


def positions(text: str) -> dict[Path, Place]:
    """A place for every table, key and array element of a valid TOML text."""
    return _Scanner(text).scan()


def span_at(text: str, start: int, end: int) -> Span:
    """Offsets as lines and columns."""
    line, column = text.count("\n", 0, start) + 1, start - text.rfind("\n", 0, start)
    return Span(line, column, text.count("\n", 0, end) + 1, end - text.rfind("\n", 0, end))


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found: dict[Path, Place] = {}
        self.arrays: dict[Path, int] = {}

    def scan(self) -> dict[Path, Place]:
        prefix: Path = ()
        self._blank()
        while self.at < len(self.text):
            if self._take("[["):
                prefix = self._header(array=True)
            elif self._take("["):
                prefix = self._header(array=False)
            else:
                self._pair(prefix)
            self._blank()
        return self.found

    def _blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _take(self, mark: str) -> bool:
        taken = self.text.startswith(mark, self.at)
        self.at += len(mark) if taken else 0
        return taken

    def _header(self, array: bool) -> Path:
        start = self.at
        path: Path = ()
        keys = self._keys()
        for i, key in enumerate(keys):
            path = (*path, key)
            if path in self.arrays or (array and i == len(keys) - 1):
                if array and i == len(keys) - 1:
                    self.arrays[path] = self.arrays.get(path, -1) + 1
                path = (*path, self.arrays[path])
        for i in range(1, len(path) + 1):
            self.found.setdefault(path[:i], Place(start, start, start, self.at))
        self._take("]]" if array else "]")
        return path

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._blank()
            if match := _BARE.match(self.text, self.at):
                keys.append(match.group())
                self.at = match.end()
            else:
                keys.append(self._string())
            self._blank()
            if not self._take("."):
                return keys

    def _string(self) -> str:
        for pattern in _STRINGS:
            if match := pattern.match(self.text, self.at):
                self.at = match.end()
                return match.group(1)
        self.at += 1
        return ""

    def _pair(self, prefix: Path) -> None:
        start = self.at
        path = (*prefix, *self._keys())
        self._take("=")
        self._blank()
        self._value(path, start)

    def _value(self, path: Path, key: int) -> None:
        start = content = self.at
        if self._take("{"):
            self._blank()
            while self.at < len(self.text) and not self._take("}"):
                self._pair(path)
                self._blank()
                self._take(",")
                self._blank()
        elif self._take("["):
            self._blank()
            index = 0
            while self.at < len(self.text) and not self._take("]"):
                self._value((*path, index), self.at)
                index += 1
                self._blank()
                self._take(",")
                self._blank()
        elif self.text[start : start + 1] in ("'", '"'):
            content += 3 if self.text[start : start + 3] in ('"""', "'''") else 1
            content += content - start == 3 and self.text[content : content + 1] == "\n"
            self._string()
        else:
            match = _SCALAR.match(self.text, start)
            self.at = start + len(match.group().rstrip()) if match else start + 1
        self.found[path] = Place(key, start, content, self.at)
