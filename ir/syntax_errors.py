"""What to say when the grammar does not accept a text: the place, what was expected, a suggestion.

Most rejected kernels are Triton or Python out of habit, so the hints name the spelling of this language.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lark import Token
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from ir.ast import Span
from ir.builder import span_of_token
from ir.diagnostics import Source, SyntaxProblem, join

_WORDS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "TEXT": "a string",
    "_NL": "the end of the line",
    "_INDENT": "an indented block",
    "_DEDENT": "the end of the block",
    "$END": "the end of the file",
    "NONE": "`None`",
}
_SYMBOLS = {
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "COMMA": ",",
    "COLON": ":",
    "EQUAL": "=",
    "DOT": ".",
    "LESSTHAN": "<",
    "MINUS": "-",
    "PLUS": "+",
}
_OPERATORS = {"PLUS", "MULTIPLY", "COMPARE", "LESSTHAN", "AND", "OR"}
_STARTERS = {"NAME", "NUMBER", "MINUS", "LPAR", "NOT"}
_HINTS = {
    "while": "there is no `while`: write `for n in range(stop) carry ...:`",
    "if": "there is no branch: use `where(condition, x, y)` and masks",
    "def": "a kernel is written `kernel name(axis < extent, ...):`",
    "import": "nothing is imported: the language is complete as it is",
    "from": "nothing is imported: the language is complete as it is",
    "return": "a kernel returns nothing: use `store(T[...], value, mask=...)`",
    "else": "there is no branch: use `where(condition, x, y)`",
    "lambda": "there are no functions inside a kernel",
    "&": "write `and`",
    "|": "write `or`",
    "~": "write `not`",
    "!": "write `not`",
    "@": "there are no decorators; a matrix product is `dot(a, b)`",
    "'": "kernels have no strings",
    '"': "kernels have no strings",
    "**": "there is no power: write `x * x`, or `exp2(x)`",
}
_BY_VALUE = "an index found by value (argmax, top-k, sort) is not in the language"
_REDUCTIONS = {
    "min": "write `-max[j < N](-x)`",
    "mean": "write `sum[j < N](x) / N`",
    "argmax": _BY_VALUE,
    "argmin": _BY_VALUE,
    "topk": _BY_VALUE,
    "sort": _BY_VALUE,
    "cumsum": "write `sum[k < N, k <= j](x)`",
}
_STATEMENTS = {"while", "if", "def", "import", "from", "return", "else"}
_PREFIXES = {"tl", "triton", "torch", "math", "np", "libdevice", "language"}


def explain(error: UnexpectedInput, source: Source) -> SyntaxProblem:
    """Turn Lark's error into ours."""
    if isinstance(error, UnexpectedCharacters):
        span = Span(error.line, error.column, error.line, error.column + 1)
        character = source.text[error.pos_in_stream] if error.pos_in_stream is not None else "?"
        shown = character if character.isprintable() else f"U+{ord(character):04X}"
        return SyntaxProblem("K002", f"unexpected character `{shown}`", span, source, _HINTS.get(character, ""))
    if not isinstance(error, UnexpectedToken):
        return SyntaxProblem("K003", "the text ends too early", Span(1, 1, 1, 2), source)
    token = error.token
    line = source.line(token.line or 1)
    word = line.split()[0] if line.split() else ""
    if word in _STATEMENTS and token.column and token.column > line.index(word) + 1:
        start = line.index(word) + 1
        span = Span(token.line or 1, start, token.line or 1, start + len(word))
        return SyntaxProblem("K003", f"there is no `{word}` statement", span, source, _HINTS[word])
    expected = _expected(error.accepts or error.expected)
    found = _WORDS[token.type].split(" ", 1)[1] if token.type.startswith(("_", "$")) else f"`{token}`"
    message = f"unexpected {found}; expected {expected}"
    return SyntaxProblem("K003", message, span_of_token(token), source, _hint(token, source, expected))


def _expected(names: Iterable[str]) -> str:
    found = set(names) - {"_DEDENT"} or {"_DEDENT"}
    words = []
    if _STARTERS - {"NOT"} <= found:
        found -= _STARTERS | {"LSQB", "TEXT", "SUM", "MAX"}
        words.append("an expression")
    if "PLUS" in found:
        found -= _OPERATORS | {"MINUS"}
        words.append("an operator")
    for name in sorted(found, key=lambda n: (n not in _SYMBOLS, n)):
        words.append(_WORDS.get(name) or f"`{_SYMBOLS.get(name, name.lower())}`")
    return join(words)


def _hint(token: Token, source: Source, expected: str) -> str:
    position = token.start_pos if token.start_pos is not None else len(source.text)
    before = source.text[:position].rsplit("\n", 1)[-1]
    if token == "*" and before.endswith("*"):
        return _HINTS["**"]
    if str(token) in _HINTS:
        return _HINTS[str(token)]
    if match := re.search(r"([A-Za-z_]\w*)\.([A-Za-z_]\w*)\s*$", before):
        owner, name = match.groups()
        if token == "(" and name == "to":
            return f"write `cast({owner}, dtype)`"
        if owner in _PREFIXES:
            return f"operations have no prefix: write `{name}`"
        return "a tile has no methods; see the table of operations in docs/language.md"
    if token == "(" and (match := re.search(r"\b([A-Za-z_]\w*)\[[^][]*<.*\]\s*$", before)):
        return _REDUCTIONS.get(match[1], f"the reductions are `sum[j < N](x)` and `max[j < N](x)`, not `{match[1]}`")
    if source.text[position : position + 2] in ("+=", "-=", "*=", "/="):
        return "there is no update in place: write `x = x + 1`"
    if token == "[" and re.fullmatch(r"\s*\w+", before):
        return "tiles are not written in place: build a new one with `where`, or use `store`"
    if expected == "the end of the line" and before.rstrip().endswith(":"):
        return "the block goes on the next line, indented"
    if token.type in ("COMPARE", "LESSTHAN"):
        return "comparisons do not chain: write `a < b and b < c`"
    if (opened := _open_bracket(source.text[:position])) is not None:
        return f"the bracket opened at line {opened[0]}, column {opened[1]} is not closed"
    if token == "=":
        return "equality is written `==`"
    return "a block is indented below its `:`" if "an indented block" in expected else ""


def _open_bracket(text: str) -> tuple[int, int] | None:
    """Place of the innermost bracket left open on an earlier line than the last."""
    opened: list[tuple[int, int]] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        for column, character in enumerate(line.split("#", 1)[0], 1):
            if character in "([":
                opened.append((number, column))
            elif character in ")]" and opened:
                opened.pop()
    return opened[-1] if opened and opened[-1][0] < len(lines) else None
