"""The text of a module in Triton's first intermediate language (TTIR), as a tree of operations.

Decides only where an operation's results, operands, attributes and type are in a line; what they mean is
`lowering.ttir.lift`'s. A line of a shape that is not known here is no operation at all: it raises `NotLifted`, and so
nothing is ever skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ir.ast import Span

NAME = r"%[\w$.-]+(?:#\d+)?"
FUNCTION = re.compile(r"tt\.func (?:public |private )?@(\w+)\((.*)\)(?: attributes \{[^{}]*\})? \{$")
OPERATION = re.compile(r'(?:(%[\w$.-]+)(?::(\d+))? = )?"?([a-z]+\.[a-z_0-9.]+)"?(.*)$')
LOOP = re.compile(
    rf"scf\.for (%[\w]+) = ({NAME}) to ({NAME}) step ({NAME})"
    r"(?: iter_args\((.*)\) -> \((.*)\))?\s*(?:: \w+)?\s*(?:attributes )?(?:\{[^{}]*\} )?\{$"
)
BRACES = re.compile(r"<?\{[^{}]*\}>?")


class NotLifted(Exception):
    """Something of the text has no meaning here; the message says what, and where."""


@dataclass(frozen=True, slots=True)
class Type:
    """A scalar (no shape) or a tile; element: i1, i32, i64, f32, bf16, ..., or a pointer's target with `pointer`; with
    `box`, the descriptor of a tensor of which boxes of that shape are moved."""

    shape: tuple[int, ...]
    element: str
    pointer: bool = False
    box: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    arguments: tuple[str, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """`attributes`: the text in braces, and whatever words stand among the operands. `types`: those after the colon,
    operands' before results'."""

    name: str
    results: tuple[str, ...]
    operands: tuple[str, ...]
    attributes: str
    types: tuple[Type, ...]
    line: int
    body: Block | None = None

    @property
    def span(self) -> Span:
        """An operation's line is its place: the prover tells operations apart by it."""
        return Span(self.line, 1, self.line, 2)

    @property
    def words(self) -> str:
        """The attributes, without what separated them."""
        return " ".join(self.attributes.replace(",", " ").split())

    def attribute(self, name: str) -> int:
        found = re.search(rf"\b{name} = (\d+) :", self.attributes)
        if found is None:
            raise ValueError(f"no {name}")
        return int(found[1])


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    arguments: tuple[tuple[str, Type], ...]
    operations: tuple[Operation, ...]


def function(text: str) -> Function:
    """The one function of a module's text (without locations). Raises NotLifted."""
    lines = _Lines(text)
    if lines.take().strip() != "module {":
        raise NotLifted("this is no module")
    head = FUNCTION.match(lines.take().strip())
    if head is None:
        raise NotLifted(f"line {lines.at}: a module of more than one function, or of none")
    arguments = tuple(_argument(a) for a in _split(head[2]))
    operations = tuple(_operations(lines, "}"))
    if lines.take().strip() != "}" or any(line.strip() for line in lines.rest()):
        raise NotLifted("something follows the function")
    return Function(head[1], arguments, operations)


class _Lines:
    def __init__(self, text: str) -> None:
        self.lines, self.at = text.splitlines(), 0

    def take(self) -> str:
        if self.at == len(self.lines):
            raise NotLifted("the text ends in the middle")
        self.at += 1
        return self.lines[self.at - 1]

    def rest(self) -> list[str]:
        return self.lines[self.at :]


def _argument(text: str) -> tuple[str, Type]:
    name, _, kind = text.partition(":")
    return name.strip(), type_of(BRACES.sub("", kind).strip())


def _operations(lines: _Lines, end: str) -> Iterator[Operation]:
    """Operations up to a line that begins with `end`."""
    while not (line := lines.take().strip()).startswith(end):
        found = OPERATION.match(line)
        if found is None:
            raise NotLifted(f"line {lines.at}: {line}")
        first, count, name, rest = found.groups()
        several = () if count is None else tuple(f"{first}#{k}" for k in range(int(count)))
        results = () if first is None else several or (first,)
        if name == "scf.for":
            yield _loop(lines, results, line.partition(" = ")[2] if first else line)
        elif line.endswith("({"):
            yield _region(lines, results, name, rest)
        elif line.endswith("{"):
            raise NotLifted(f"line {lines.at}: a region of {name}")
        else:
            yield _operation(results, name, rest, lines.at)


def _operation(results: tuple[str, ...], name: str, rest: str, line: int, body: Block | None = None) -> Operation:
    before, types = _signature(rest)
    attributes = " ".join([*BRACES.findall(before), re.sub(NAME, " ", BRACES.sub(" ", before))])
    operands = tuple(re.findall(NAME, BRACES.sub(" ", before)))
    return Operation(name, results, operands, attributes, types, line, body)


def _loop(lines: _Lines, results: tuple[str, ...], text: str) -> Operation:
    found = LOOP.match(text)
    if found is None:
        raise NotLifted(f"line {lines.at}: {text}")
    counter, start, stop, step, carried, types = found.groups()
    pairs = [tuple(p.strip() for p in pair.split("=")) for pair in _split(carried or "")]
    line = lines.at
    body = Block((counter, *(name for name, _ in pairs)), tuple(_operations(lines, "}")))
    kinds = tuple(type_of(t) for t in _split(types or ""))
    return Operation("scf.for", results, (start, stop, step, *(first for _, first in pairs)), "", kinds, line, body)


def _region(lines: _Lines, results: tuple[str, ...], name: str, rest: str) -> Operation:
    """`"tt.reduce"(%x) <{axis = 1 : i32}> ({`, a block, `}) : (T) -> T`."""
    line = lines.at
    head = re.match(r"\^bb\d+\((.*)\):$", lines.take().strip())
    if head is None:
        raise NotLifted(f"line {lines.at}: a region without a block")
    arguments = tuple(_argument(a)[0] for a in _split(head[1]))
    body = Block(arguments, tuple(_operations(lines, "})")))
    _, _, types = lines.lines[lines.at - 1].partition("})")
    return _operation(results, name, rest.removesuffix("({") + types, line, body)


def _signature(rest: str) -> tuple[str, tuple[Type, ...]]:
    """What stands before the types, and the types."""
    depth, at = 0, -1
    for k, c in enumerate(rest):
        depth += (c in "{<(") - (c in "}>)" and rest[k - 1 : k + 1] != "->")
        if depth == 0 and rest[k : k + 3] == " : ":
            at = k
    if at < 0:
        return rest, ()
    parts = _split(re.sub(r" \* | -> | to ", ", ", rest[at + 3 :].strip()))
    return rest[:at], tuple(type_of(t) for part in parts for t in _split(part.strip("()")))


def _split(text: str) -> list[str]:
    """At commas that stand in no bracket."""
    parts, depth, begin = [], 0, 0
    for k, c in enumerate(text):
        depth += (c in "{<(") - (c in "}>)" and text[k - 1 : k + 1] != "->")
        if c == "," and depth == 0:
            parts.append(text[begin:k].strip())
            begin = k + 1
    return [p for p in [*parts, text[begin:].strip()] if p]


def type_of(text: str) -> Type:
    if found := re.fullmatch(r"tensor<((?:\d+x)+)(.+)>", text):
        inner = type_of(found[2])
        return Type(tuple(int(n) for n in found[1].split("x")[:-1]), inner.element, inner.pointer)
    if found := re.fullmatch(r"(?:!tt\.tensordesc)?<tensor<(.+?)>*", text):
        inner = type_of(f"tensor<{found[1]}>")
        return Type(inner.shape, inner.element, box=True)
    if found := re.fullmatch(r"(?:!tt\.ptr)?<(\w+)>", text):
        return Type((), found[1], True)
    if not re.fullmatch(r"i\d+|f\d+|bf16|index", text):
        raise NotLifted(f"the type {text}")
    return Type((), text)
