"""Kernels broken on purpose, so that a run shows the gate closing.

Each rule is one slip that a well-known attention library has shipped, written as a rewrite of the syntax tree that
applies wherever it fits; each names the obligations one of which should fall. A rule can meet a place where the slip
does no harm (a guard for rows that see no key, where every row sees one); the prover is the judge of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from ir.ast import Assign, Binary, Call, Expr, For, Name, Number, Store, Unary
from ir.parser import parse
from ir.printer import print_module
from synth.propose import Candidate
from synth.propose.tree import Node, OneNode, one_place


@dataclass(frozen=True, slots=True)
class Mutation:
    """`rewrite` yields the broken forms of one node; `expected` are the obligations one of which should fall."""

    name: str
    expected: tuple[str, ...]
    rewrite: OneNode


def mutants(candidate: Candidate, every_place: bool = False) -> Iterator[Candidate]:
    """Broken variants of a candidate, one for each rule that fits, or one for each place that each rule fits."""
    module = parse(candidate.text)
    seen = {print_module(module)}
    for mutation in MUTATIONS:
        count = 0
        for broken in one_place(module, mutation.rewrite):
            text = print_module(broken)
            if text in seen:
                continue
            seen.add(text)
            count += 1
            name = f"{candidate.name}~{mutation.name}" + (f"-{count}" if count > 1 else "")
            yield Candidate(name, text, (*candidate.choices, ("broken", mutation.name)), mutation.expected)
            if not every_place:
                break


# ---- what the rules look for --------------------------------------------------------------------

INF = Name("inf")


def _number(value: int, is_float: bool = False) -> Number:
    return Number(Fraction(value), is_float)


def _is_minus_inf(expr: Expr) -> bool:
    return expr == Unary("-", INF)


def _without(call: Call, *words: str) -> Call:
    return replace(call, keywords=tuple((k, v) for k, v in call.keywords if k not in words))


def _is_real_name(node: Node) -> bool:
    """A name that is a real scalar wherever the proposer or a spec uses it; sizes and metas are upper case."""
    return isinstance(node, Name) and not node.id.isupper()


def _drop_mask(node: Node) -> Iterator[Node]:
    match node:
        case Call("load") if "mask" in dict(node.keywords):
            yield _without(node, "mask", "other")
        case Store(mask=mask) if mask is not None:
            yield replace(node, mask=None)


def _loosen(node: Node) -> Iterator[Node]:
    match node:
        case Binary("<", _, Name()):
            yield replace(node, op="<=")


def _tighten(node: Node) -> Iterator[Node]:
    match node:
        case Binary("<=", _, _):
            yield replace(node, op="<")


def _short_store(node: Node) -> Iterator[Node]:
    match node:
        case Store(mask=Binary("<", left, Name() as size)):
            yield replace(node, mask=Binary("<", left, Binary("-", size, _number(1))))


def _drop_conjunct(node: Node) -> Iterator[Node]:
    match node:
        case Binary("and", left, right):
            yield right
            yield left


def _no_rescale(node: Node) -> Iterator[Node]:
    """acc * alpha, where acc is what the statement updates."""
    match node:
        case Assign(name, value):
            for changed in one_place(value, lambda n: _scaled(n, name, lambda own, factor: own)):
                yield replace(node, value=changed)


def _double_rescale(node: Node) -> Iterator[Node]:
    match node:
        case Assign(name, value):
            for changed in one_place(value, lambda n: _scaled(n, name, _twice)):
                yield replace(node, value=changed)


def _twice(own: Expr, factor: Expr) -> Expr:
    return Binary("*", Binary("*", own, factor), factor)


def _scaled(node: Node, name: str, change: Callable[[Expr, Expr], Expr]) -> Iterator[Node]:
    match node:
        case Binary("*", Name(id) as own, factor) if id == name:
            yield change(own, factor)


def _modulo_heads(node: Node) -> Iterator[Node]:
    match node:
        case Binary("//", Name() as head, Binary("//", _, Name() as groups)):
            yield Binary("%", head, groups)


def _no_division(node: Node) -> Iterator[Node]:
    match node:
        case Binary("/", Number(), right):  # a factor that was to be inverted
            yield right
        case Binary("/", left, _):
            yield left


def _finite_infinity(node: Node) -> Iterator[Node]:
    match node:
        case Call("where", (condition, value, other)) if _is_minus_inf(other):
            yield Call("where", (condition, value, Unary("-", _number(10000, True))))


def _zero_padding(node: Node) -> Iterator[Node]:
    match node:
        case Call("where", (condition, value, other)) if _is_minus_inf(other):
            yield Call("where", (condition, value, _number(0, True)))


def _one_block_less(node: Node) -> Iterator[Node]:
    match node:
        case For():
            yield replace(node, stop=Binary("-", node.stop, _number(1)))


def _rounded_down(node: Node) -> Iterator[Node]:
    match node:
        case For(stop=Call("cdiv", (length, block))):
            yield replace(node, stop=Binary("//", length, block))


def _first_block_skipped(node: Node) -> Iterator[Node]:
    match node:
        case For():
            yield replace(node, start=Binary("+", node.start, _number(1)))


def _wrong_log(node: Node) -> Iterator[Node]:
    match node:
        case Call("log", arguments):
            yield Call("log2", arguments)
        case Binary("*", left, Name("ln2")):
            yield left


def _scale_twice(node: Node) -> Iterator[Node]:
    match node:
        case Binary("*", left, Name() as factor) if isinstance(left, Call) and _is_real_name(factor):
            yield Binary("*", node, factor)
        case Binary("*", Name() as factor, right) if isinstance(right, Call) and _is_real_name(factor):
            yield Binary("*", node, factor)


def _wrong_alignment(node: Node) -> Iterator[Node]:
    """j <= i + N - M becomes j <= i: the other corner of the matrix."""
    match node:
        case Binary("<=", left, Binary("-", Binary("+", row, Name(a)), Name(b))) if a != b:
            yield Binary("<=", left, row)


def _no_guard(node: Node) -> Iterator[Node]:
    """where(m == -inf, 0.0, m) and where(l == 0.0, 1.0, l) become m and l."""
    match node:
        case Call("where", (Binary("==", tested, _), Number(), kept)) if tested == kept:
            yield kept


def _forgotten_carry(node: Node) -> Iterator[Node]:
    match node:
        case Call("dot", (left, right, _)):
            yield Call("dot", (left, right))


def _overlapping_tiles(node: Node) -> Iterator[Node]:
    match node:
        case Binary("*", Name() as tile, Name(block)) if block.isupper() and not tile.id.isupper():
            yield Binary("*", tile, Binary("-", Name(block), _number(1)))


def _own_head(node: Node) -> Iterator[Node]:
    match node:
        case Binary("//", Name() as head, Binary("//", Name(), Name())):
            yield head


MUTATIONS: tuple[Mutation, ...] = (
    Mutation("mask-dropped", ("B1", "R1", "C1"), _drop_mask),
    Mutation("mask-one-too-far", ("B1", "E1", "C1"), _loosen),
    Mutation("strict-comparison", ("E1",), _tighten),
    Mutation("last-row-unwritten", ("C1",), _short_store),
    Mutation("half-a-mask", ("E1",), _drop_conjunct),
    Mutation("no-rescale", ("E1",), _no_rescale),
    Mutation("double-rescale", ("E1",), _double_rescale),
    Mutation("head-modulo", ("E1",), _modulo_heads),
    Mutation("own-head", ("B1", "E1"), _own_head),
    Mutation("no-division", ("E1",), _no_division),
    Mutation("finite-infinity", ("E1", "S1", "D1"), _finite_infinity),
    Mutation("padded-with-zero", ("E1",), _zero_padding),
    Mutation("one-block-less", ("E1",), _one_block_less),
    Mutation("bound-rounded-down", ("E1",), _rounded_down),
    Mutation("first-block-skipped", ("E1",), _first_block_skipped),
    Mutation("log-in-base-2", ("E1",), _wrong_log),
    Mutation("scaled-twice", ("E1",), _scale_twice),
    Mutation("wrong-corner", ("E1",), _wrong_alignment),
    Mutation("no-guard", ("D1",), _no_guard),
    Mutation("accumulator-lost", ("E1",), _forgotten_carry),
    Mutation("tiles-overlap", ("R1", "C1", "E1"), _overlapping_tiles),
)


