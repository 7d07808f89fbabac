"""AST nodes from grammar rules: one method a rule, called bottom-up while Lark reduces.

Each method gets every token and node of its rule in order (Lark's keep_all_tokens). A text the grammar
accepts but the language does not is `Malformed`; the parser adds the source to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from lark import Token

from ir import ast
from ir.ast import NOWHERE, Span

MAX_NESTING = 64
_LAYOUT = ("_NL", "_INDENT", "_DEDENT")
_MAX_NUMBER = 60  # characters of a literal
_MAX_DIGITS = 40
_MAX_EXPONENT = 300

Children = list[Any]


class Malformed(Exception):
    """A rule matched but what it holds is not acceptable."""

    def __init__(self, code: str, message: str, span: Span, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.span, self.hint = code, message, span, hint


@dataclass(frozen=True, slots=True)
class _Arguments:
    values: tuple[ast.Expr, ...]
    keywords: tuple[tuple[str, ast.Expr], ...]


@dataclass(frozen=True, slots=True)
class _Keyword:
    name: str
    value: ast.Expr
    span: Span


@dataclass(frozen=True, slots=True)
class _Axis:
    """A ':' or 'None' between square brackets."""

    new: bool
    span: Span


def span_of_token(token: Token) -> Span:
    """The place of a token; layout tokens get one column, for their text is not worth underlining."""
    line, column = token.line or 1, token.column or 1
    if token.type in (*_LAYOUT, "$END"):
        return Span(line, column, line, column + 1)
    return Span(line, column, token.end_line or line, token.end_column or column + 1)


def _span(children: Iterable[Any]) -> Span:
    """From the first to the last child that has a place."""
    found = [
        span_of_token(c) if isinstance(c, Token) else c.span
        for c in children
        if (isinstance(c, Token) and c.type not in _LAYOUT) or hasattr(c, "span")
    ]
    return Span(found[0].line, found[0].column, found[-1].end_line, found[-1].end_column) if found else NOWHERE


def _comment(children: Iterable[Any]) -> str:
    """The comment at the end of a statement's (first) line: it is part of the line-end token."""
    for child in children:
        if isinstance(child, Token) and child.type == "_NL":
            first = str(child).split("\n", 1)[0]
            return " ".join(first.removeprefix("#").split())
    return ""


def _nodes(children: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(c for c in children if not isinstance(c, Token))


def _names(children: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(c) for c in children if isinstance(c, Token) and c.type == "NAME")


def _bounded(e: ast.Expr) -> ast.Expr:
    """Refuse an expression nested too deep for the recursive walks that come later; itself no recursion."""
    level: list[Any] = [e]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_NESTING:
            hint = "name parts of it: `a = ...` on a line of its own"
            raise Malformed("K005", f"more than {MAX_NESTING} nested expressions", e.span, hint)
        level = [child for node in level for child in children(node)]
    return e


def decimal(value: Fraction) -> tuple[int, int]:
    """value = digits * 10**power, digits not divisible by ten. ValueError when it has no finite expansion."""
    twos, fives, rest = 0, 0, value.denominator
    while rest % 2 == 0:
        twos, rest = twos + 1, rest // 2
    while rest % 5 == 0:
        fives, rest = fives + 1, rest // 5
    if rest != 1:
        raise ValueError(f"{value} has no finite decimal expansion")
    power = -max(twos, fives)
    digits = int(value * 10**-power)
    while digits and digits % 10 == 0:
        digits, power = digits // 10, power + 1
    return digits, power if digits else 0


def children(node: Any) -> list[Any]:
    """The expressions directly inside a node, in no particular order."""
    found: list[Any] = []
    stack = [getattr(node, f.name) for f in fields(node) if f.name != "span"]
    while stack:
        match stack.pop():
            case tuple() as items:
                stack.extend(items)
            case str() | bool() | Fraction() | None:
                continue
            case child:
                found.append(child)
    return found


class Builder:
    """The rules of expression.lark, grammar.lark and formula.lark; holds no state."""

    # ---- expressions

    def number(self, c: Children) -> ast.Number:
        token = c[0]
        span = span_of_token(token)
        exponent = str(token).lower().partition("e")[2]
        hint = f"at most {_MAX_DIGITS} digits, exponents up to {_MAX_EXPONENT}"
        too_long = Malformed("K008", "the number is too long or its exponent too large", span, hint)
        if len(token) > _MAX_NUMBER or abs(int(exponent or 0)) > _MAX_EXPONENT:
            raise too_long
        value = Fraction(str(token))
        digits, power = decimal(value)
        if digits >= 10**_MAX_DIGITS or abs(power) > _MAX_EXPONENT:
            raise too_long
        return ast.Number(value, any(mark in token for mark in ".eE"), span)

    def name(self, c: Children) -> ast.Name:
        return ast.Name(str(c[0]), span_of_token(c[0]))

    def text(self, c: Children) -> ast.Text:
        return ast.Text(str(c[0])[1:-1], span_of_token(c[0]))

    def parenthesised(self, c: Children) -> ast.Expr:
        inner: ast.Expr = c[1]
        return inner

    def unary(self, c: Children) -> ast.Unary:
        return ast.Unary(str(c[0]), c[1], _span(c))

    def binary(self, c: Children) -> ast.Binary:
        return ast.Binary(str(c[1]), c[0], c[2], _span(c))

    def call(self, c: Children) -> ast.Call:
        return ast.Call(str(c[0]), c[2].values, c[2].keywords, _span(c))

    def attribute(self, c: Children) -> ast.DTypeOf:
        if c[2] != "dtype":
            hint = f"operations have no prefix and tiles no methods: `{c[2]}(...)`; or `{c[0]}.dtype`"
            raise Malformed("K007", f"`{c[0]}.{c[2]}` is not part of the language", _span(c), hint)
        return ast.DTypeOf(str(c[0]), _span(c))

    def shape(self, c: Children) -> ast.Shape:
        return ast.Shape(_nodes(c), _span(c))

    def arguments(self, c: Children) -> _Arguments:
        values: list[ast.Expr] = []
        keywords: list[tuple[str, ast.Expr]] = []
        for item in _nodes(c):
            if isinstance(item, _Keyword):
                if any(name == item.name for name, _ in keywords):
                    raise Malformed("K007", f"`{item.name}` is given twice", item.span)
                keywords.append((item.name, item.value))
            elif keywords:
                raise Malformed("K007", "a positional argument after a named one", item.span, "put named ones last")
            else:
                values.append(item)
        return _Arguments(tuple(values), tuple(keywords))

    def keyword(self, c: Children) -> _Keyword:
        return _Keyword(str(c[0]), c[2], _span(c))

    def whole_axis(self, c: Children) -> _Axis:
        return _Axis(False, _span(c))

    def new_axis(self, c: Children) -> _Axis:
        return _Axis(True, _span(c))

    def subscripted(self, c: Children) -> ast.Expr:
        base, *parts = _nodes(c)
        if all(isinstance(part, _Axis) for part in parts):
            return ast.Expand(base, tuple(part.new for part in parts), _span(c))
        if any(isinstance(part, _Axis) for part in parts):
            hint = "a tile takes `:` and `None` only, a tensor takes an index for every dimension"
            raise Malformed("K007", "an index mixed with `:` or `None`", _span(c), hint)
        if not isinstance(base, ast.Name):
            raise Malformed("K007", "only tensors are indexed", _span(c), "new axes are written `x[:, None]`")
        return ast.Element(base.id, tuple(parts), _span(c))

    # ---- a kernel file

    def assign(self, c: Children) -> ast.Assign:
        return ast.Assign(str(c[0]), _bounded(c[2]), _comment(c), _span(c))

    def store(self, c: Children) -> ast.Store:
        keyword, arguments = str(c[0]), c[2]
        form = f"write `{keyword}(T[...], value, mask=...)`"
        match arguments:
            case _Arguments((ast.Element() as target, value), ()):
                mask = None
            case _Arguments((ast.Element() as target, value), (("mask", mask),)):
                _bounded(mask)
            case _Arguments((target, _), _) if not isinstance(target, ast.Element):
                raise Malformed("K007", f"`{keyword}` needs a tensor cell first", target.span, form)
            case _:
                raise Malformed("K007", f"`{keyword}` takes a cell, a value and `mask=`", _span(c), form)
        _bounded(target)
        return ast.Store(target, _bounded(value), mask, keyword == "atomic_add", _comment(c), _span(c))

    def loop(self, c: Children) -> ast.For:
        header = c[: next(i for i, t in enumerate(c) if isinstance(t, Token) and t.type == "COLON") + 1]
        span = _span(header)
        arguments = c[5]
        start: ast.Expr = ast.Number(Fraction(0))
        step: ast.Expr = ast.Number(Fraction(1))
        if c[3] != "range":
            raise Malformed("K007", f"a loop runs over `range`, not `{c[3]}`", span_of_token(c[3]))
        match arguments:
            case _Arguments((stop,), ()):
                pass
            case _Arguments((start, stop), ()):
                pass
            case _Arguments((start, stop, step), ()):
                pass
            case _:
                raise Malformed("K007", "`range` takes stop, or start and stop, or start, stop and step", span)
        carried: tuple[str, ...] = next((k for k in header if isinstance(k, tuple)), ())
        body = tuple(n for n in _nodes(c) if isinstance(n, (ast.Assign, ast.Store, ast.For)))
        start, stop, step = _bounded(start), _bounded(stop), _bounded(step)
        return ast.For(str(c[1]), start, stop, step, carried, body, _comment(c), span)

    def carry(self, c: Children) -> tuple[str, ...]:
        return _names(c)

    def axis(self, c: Children) -> ast.Axis:
        return ast.Axis(str(c[0]), _bounded(c[2]), _span(c))

    def setting(self, c: Children) -> _Keyword:
        return _Keyword(str(c[0]), _bounded(c[2]), _span(c))

    def schedule(self, c: Children) -> tuple[_Keyword, ...]:
        return _nodes(c)

    def kernel(self, c: Children) -> ast.Kernel:
        header = c[: next(i for i, t in enumerate(c) if isinstance(t, Token) and t.type == "COLON") + 1]
        axes = tuple(n for n in _nodes(header) if isinstance(n, ast.Axis))
        settings: tuple[_Keyword, ...] = next((s for s in c if isinstance(s, tuple)), ())
        for i, setting in enumerate(settings):
            if any(setting.name == earlier.name for earlier in settings[:i]):
                raise Malformed("K007", f"`{setting.name}` is given twice", setting.span)
        body = tuple(n for n in _nodes(c) if isinstance(n, (ast.Assign, ast.Store, ast.For)))
        return ast.Kernel(str(c[1]), axes, tuple((s.name, s.value) for s in settings), body, _span(header))

    def meta(self, c: Children) -> ast.Meta:
        return ast.Meta(str(c[1]), _bounded(c[3]), _span(c))

    def require(self, c: Children) -> ast.Require:
        return ast.Require(_bounded(c[1]), _span(c))

    def scratch(self, c: Children) -> ast.Scratch:
        *shape, dtype = _nodes(c)
        return ast.Scratch(str(c[1]), tuple(_bounded(e) for e in shape), dtype, _span(c))

    def start(self, c: Children) -> ast.Module:
        nodes = _nodes(c)
        metas = tuple(n for n in nodes if isinstance(n, ast.Meta))
        requires = tuple(n for n in nodes if isinstance(n, ast.Require))
        scratch = tuple(n for n in nodes if isinstance(n, ast.Scratch))
        kernels = tuple(n for n in nodes if isinstance(n, ast.Kernel))
        return ast.Module(metas, requires, scratch, kernels, _span(c))

    # ---- spec formulas

    def conditional(self, c: Children) -> ast.If:
        return ast.If(c[1], c[3], c[5], _span(c))

    def element(self, c: Children) -> ast.Element:
        return ast.Element(str(c[0]), _nodes(c), _span(c))

    def big(self, c: Children) -> ast.Big:
        bound, *conditions, body = _nodes(c)
        return ast.Big(str(c[0]), str(c[2]), bound, tuple(conditions), body, _span(c))

    def definition(self, c: Children) -> ast.Definition:
        name, *parameters = _names(c)
        return ast.Definition(name, tuple(parameters), _bounded(c[-1]), _span(c))

    def definitions(self, c: Children) -> tuple[ast.Definition, ...]:
        return _nodes(c)

    def formula(self, c: Children) -> ast.Expr:
        return _bounded(c[0])
