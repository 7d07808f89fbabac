"""What the user is told when a text is not accepted: what, where, and what to do next.

Every error about a kernel or a spec is a `SourceError` with a code, a span and a hint, rendered with
the line it is about. Codes: K0xx text that does not parse, K1xx names, K2xx types and shapes, S0xx
specs. A text that is not understood is always an error of this kind, never a guess.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ir.ast import Span

_WINDOW = 100  # longer lines are cut around the caret


@dataclass(frozen=True, slots=True)
class Source:
    """A text and the name it is reported under."""

    text: str
    name: str

    def line(self, number: int) -> str:
        lines = self.text.split("\n")
        return lines[number - 1] if 0 < number <= len(lines) else ""


class SourceError(Exception):
    """A text was not accepted. `hint` says what to do next; str() gives the message with its excerpt."""

    def __init__(self, code: str, message: str, span: Span, source: Source, hint: str = "") -> None:
        super().__init__(code, message, span, source, hint)
        self.code = code
        self.message = message
        self.span = span
        self.source = source
        self.hint = hint

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        """The message, the line it is about with a caret under the place, and the hint."""
        parts = [f"error[{self.code}]: {self.message}"]
        if self.span.line > 0:
            parts.append(f"  --> {self.source.name}:{self.span.line}:{self.span.column}")
            parts += excerpt(self.source, self.span)
        else:
            parts.append(f"  --> {self.source.name}")
        if self.hint:
            parts.append(f"  = hint: {self.hint}")
        return "\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """A plain value for machines: code, message, hint, file, place and the rendered text."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "file": self.source.name,
            "line": self.span.line,
            "column": self.span.column,
            "end_line": self.span.end_line,
            "end_column": self.span.end_column,
            "rendered": self.render(),
        }


class SyntaxProblem(SourceError):
    """The text is not a kernel file or formula."""


class TypeProblem(SourceError):
    """The kernel parses, but a name, dtype or shape in it does not fit the spec or the language."""


class SpecProblem(SourceError):
    """The spec file is not acceptable, or a setting does not fit it."""


def excerpt(source: Source, span: Span) -> list[str]:
    """The line a span begins on with a caret under it, long lines cut around the place."""
    # Candidates are written by machines: keep control characters away from the terminal.
    line = "".join(c if c.isprintable() else " " for c in source.line(span.line))
    first = min(span.column - 1, len(line))
    last = span.end_column - 1 if span.end_line == span.line else len(line)
    start = max(0, first - _WINDOW // 2) if len(line) > _WINDOW else 0
    shown = line[start : start + _WINDOW]
    width = max(1, min(last, start + _WINDOW) - first)
    gutter = " " * len(str(span.line))
    return [f"{gutter} |", f"{span.line} | {shown}".rstrip(), f"{gutter} | {' ' * (first - start)}{'^' * width}"]


def closest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word most like `word`, or the empty string."""
    found = difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=0.6)
    return f"did you mean `{found[0]}`?" if found else ""


def join(words: Iterable[str], last: str = "or") -> str:
    """`a`, `b` or `c`."""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""
