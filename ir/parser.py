"""Text to AST, by an LALR(1) grammar that Lark compiles once per process.

Nothing in a text is ever run, and nothing in it can make the parser hang or overflow: size is checked
before a token is read, brackets and blocks are counted while tokens stream, and expressions are built
bottom-up without recursion and measured (`builder`) before anyone walks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lark import Lark, Token
from lark.exceptions import UnexpectedInput
from lark.lark import PostLex
from lark.lexer import PatternStr

from ir import ast
from ir.ast import Span
from ir.builder import MAX_NESTING, Builder, Malformed, span_of_token
from ir.diagnostics import Source, SyntaxProblem
from ir.syntax_errors import explain

MAX_SOURCE = 64 * 1024  # bytes
MAX_BLOCKS = 8  # nested blocks, the kernel's own included
MAX_STATEMENTS = 4096
MAX_REQUIRES = 16

_OPEN = ("LPAR", "LSQB")
_CLOSE = ("RPAR", "RSQB")


@lru_cache(maxsize=256)  # one candidate is read again at every stage; an AST never changes
def parse(text: str, filename: str = "<candidate>") -> ast.Module:
    """A kernel file as its AST. Raises SyntaxProblem, with the place and what was expected there."""
    module: ast.Module = _run("grammar", "start", text, filename)
    if (count := sum(1 for kernel in module.kernels for _ in _statements(kernel.body))) > MAX_STATEMENTS:
        message = f"{count} statements; at most {MAX_STATEMENTS} are accepted"
        raise SyntaxProblem("K006", message, module.kernels[-1].span, Source(text, filename))
    if (count := len(module.requires)) > MAX_REQUIRES:
        message = f"{count} requirements; at most {MAX_REQUIRES} are accepted"
        raise SyntaxProblem("K006", message, module.requires[-1].span, Source(text, filename))
    return module


def parse_definitions(text: str, filename: str = "<formula>") -> tuple[ast.Definition, ...]:
    """Spec definitions, `S[b, h, i, j] = ...`; each goes on until the line where the next one starts."""
    definitions: tuple[ast.Definition, ...] = _run("formula", "definitions", text, filename)
    return definitions


def parse_formula(text: str, filename: str = "<formula>") -> ast.Expr:
    """One spec expression; it may go over several lines."""
    formula: ast.Expr = _run("formula", "formula", text, filename)
    return formula


def _run(grammar: str, start: str, text: str, filename: str) -> Any:
    text = text.replace("\r\n", "\n")
    source = Source(text, filename)
    if len(text.encode(errors="replace")) > MAX_SOURCE:
        message = f"the text is larger than {MAX_SOURCE // 1024} KiB"
        raise SyntaxProblem("K001", message, Span(1, 1, 1, 2), source, "split it into smaller files")
    try:
        return _compile(grammar).parse(text + "\n", start)
    except Malformed as error:
        raise SyntaxProblem(error.code, error.message, error.span, source, error.hint) from error
    except UnexpectedInput as error:
        raise explain(error, source) from error


@cache
def keywords() -> frozenset[str]:
    """The words that are never names, in kernels or in formulas."""
    terminals = [t for grammar in ("grammar", "formula") for t in _compile(grammar).terminals]
    words = [t.pattern.value for t in terminals if isinstance(t.pattern, PatternStr)]
    return frozenset(word for word in words if word.isidentifier())


@cache
def _compile(grammar: str) -> Lark:
    folder = Path(__file__).parent
    kernels = grammar == "grammar"
    return Lark(
        "\n".join((folder / f"{name}.lark").read_text() for name in (grammar, "expression")),
        parser="lalr",
        lexer="basic",  # one set of tokens everywhere: a keyword is never a name
        start=["start"] if kernels else ["definitions", "formula"],
        postlex=_Blocks() if kernels else _Lines(),
        transformer=Builder(),
        keep_all_tokens=True,
    )


def _statements(body: tuple[ast.Statement, ...]) -> Iterator[ast.Statement]:
    for statement in body:
        yield statement
        if isinstance(statement, ast.For):
            yield from _statements(statement.body)


class _Blocks(PostLex):
    """Indentation as in Python: line ends inside brackets vanish, others may open or close blocks."""

    always_accept = ("_NL",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        indents = [0]
        opened: list[Token] = []
        for token in stream:
            if token.type == "_NL":
                if not opened:
                    yield token
                    yield from _blocks(token, indents)
                continue
            _count_brackets(token, opened)
            yield token
        if opened:
            raise Malformed("K003", "this bracket is never closed", span_of_token(opened[-1]))


class _Lines(PostLex):
    """A line end counts only before the next definition, a name (with parameters) and a single '='. In a
    lone formula none counts: it does not begin with a definition."""

    always_accept = ("_NL",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        tokens: list[Token] = []
        opened: list[Token] = []
        for token in stream:
            if token.type != "_NL":
                _count_brackets(token, opened)
                tokens.append(token)
        starts = _definition_starts(tokens)
        for i, token in enumerate(tokens):
            if i > 0 and {0, i} <= starts:
                yield _end_of_line(tokens[i - 1])
            yield token
        if tokens:
            yield _end_of_line(tokens[-1])


def _end_of_line(last: Token) -> Token:
    return Token("_NL", "\n", line=last.end_line, column=last.end_column)


def _definition_starts(tokens: list[Token]) -> set[int]:
    """Positions of the names that open a definition: those before `=`, or before `[...] =`."""
    starts = set()
    for i, token in enumerate(tokens):
        if token.type == "EQUAL" and i > 0:
            first = i - 1
            if tokens[first].type == "RSQB":
                while first > 0 and tokens[first].type != "LSQB":
                    first -= 1
                first -= 1
            starts.add(first)
    return starts


def _blocks(token: Token, indents: list[int]) -> Iterator[Token]:
    indent = str(token).rsplit("\n", 1)[1]
    line = token.end_line or 1
    span = Span(line, 1, line, max(2, len(indent) + 1))
    if "\t" in indent:
        raise Malformed("K004", "a tab in the indentation", span, "indent with spaces")
    width = len(indent)
    if width > indents[-1]:
        indents.append(width)
        if len(indents) > MAX_BLOCKS + 1:
            raise Malformed("K005", f"more than {MAX_BLOCKS} nested blocks", span)
        yield Token("_INDENT", indent, line=line, column=width + 1)
    while width < indents[-1]:
        indents.pop()
        if width > indents[-1]:
            widths = ", ".join(str(i) for i in indents)
            raise Malformed("K004", "this indentation matches no block around it", span, f"blocks open at {widths}")
        yield Token("_DEDENT", "", line=line, column=width + 1)


def _count_brackets(token: Token, opened: list[Token]) -> None:
    if token.type in _OPEN:
        opened.append(token)
        if len(opened) > MAX_NESTING:
            raise Malformed("K005", f"more than {MAX_NESTING} nested brackets", span_of_token(token))
    elif token.type in _CLOSE:
        if not opened:
            raise Malformed("K003", f"`{token}` closes nothing", span_of_token(token))
        opened.pop()
