"""The same kernel for even sizes: what its masks keep out cannot occur there, so they go.

A mask `i < M` with `i = t * BM + arange(BM)` keeps out the ragged end of a tile. Where M is a multiple of BM there is
none. `specialised` writes that requirement into the file, drops the conditions it speaks of from loads, stores and
scores, and drops loops over the tail that have become empty. Like any rewrite it is proposed, not trusted: nothing
here knows whether a condition holds for some other reason, or fails in spite of the requirement; the gate proves the
result for the sizes it requires, or it is not used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ir.ast import Assign, Binary, Call, Element, Expand, Expr, For, Kernel, Name, Number, Require, Statement
from ir.parser import parse
from ir.printer import print_expr
from ir.spec import Bound
from synth.propose.rewrites.bounds import number, settled
from synth.propose.rewrites.rewrite import kernel_text
from synth.propose.tree import Node, every_place, nodes, reads, substituted

LIMIT = 2**31  # the tiles are the kernel's own


def specialised(text: str, bound: Bound) -> Iterator[str]:
    """The kernel for sizes that are multiples of its tiles: of all tiles its masks speak of, then of one at a time.
    Nothing where no mask speaks of a size, where something is required already, or where every loop stays as it is."""
    module = parse(text)
    sizes = frozenset(d.name for d in bound.dims)
    found = [tuple(_conditions(kernel, sizes)) for kernel in module.kernels]
    every = list(dict.fromkeys(multiple for conditions in found for _, multiple in conditions))
    if module.requires or not every:
        return
    for chosen in [every, *([m] for m in every if len(every) > 1)]:
        kernels = [_without(k, [c for c in cs if c[1] in chosen]) for k, cs in zip(module.kernels, found, strict=True)]
        if _loops(module.kernels) and _loops(kernels) == _loops(module.kernels):
            continue
        requires = tuple(Require(_even(*multiple)) for multiple in chosen)
        changed = kernel_text(replace(module, requires=requires, kernels=tuple(kernels)), bound, LIMIT)
        if changed is not None:
            yield changed


def _loops(kernels: Iterable[Kernel]) -> list[Node]:
    return [node for kernel in kernels for node in nodes(kernel.body) if isinstance(node, For)]


Multiple = tuple[Expr, Expr]  # a length, and the extent of the tile it is a multiple of


def _even(length: Expr, tile: Expr) -> Expr:
    return Binary("==", Binary("%", length, tile), number(0))


def _conditions(kernel: Kernel, sizes: frozenset[str]) -> Iterator[tuple[Expr, Multiple]]:
    """Comparisons `x < L` of one lane index with a length made of sizes, and of which multiple that speaks."""
    values = _values(kernel)
    seen = set[Expr]()
    for node in nodes(kernel.body):
        if not isinstance(node, Binary) or node.op not in ("<", ">") or node in seen:
            continue
        seen.add(node)
        low, high = (node.left, node.right) if node.op == "<" else (node.right, node.left)
        tiles = {print_expr(tile): tile for tile in _lanes(low, values, set())}
        length = _length(high, values, sizes)
        if length is not None and len(tiles) == 1:
            yield node, (length, next(iter(tiles.values())))


def _values(kernel: Kernel) -> dict[str, tuple[Expr, ...]]:
    """What each name is assigned anywhere in the kernel."""
    found: dict[str, tuple[Expr, ...]] = {}
    for node in nodes(kernel.body):
        if isinstance(node, Assign):
            found[node.name] = (*found.get(node.name, ()), node.value)
    return found


def _lanes(e: Expr, values: Mapping[str, tuple[Expr, ...]], met: set[str]) -> Iterator[Expr]:
    """The extents of the lanes that count one by one in an index: BM of t * BM + arange(BM). `met`: names that were
    looked up already; each is once."""
    match e:
        case Call("arange", (extent,), ()):
            yield extent
        case Name(name) if name not in met:
            met.add(name)
            for value in values.get(name, ()):
                yield from _lanes(value, values, met)
        case Binary("+", left, right):
            yield from _lanes(left, values, met)
            yield from _lanes(right, values, met)
        case Expand(operand) | Call("trans", (operand,), ()) | Call("broadcast", (operand, _), ()):
            yield from _lanes(operand, values, met)


def _length(e: Expr, values: Mapping[str, tuple[Expr, ...]], sizes: frozenset[str]) -> Expr | None:
    """A length written over sizes alone, names it was given put in."""
    e = _written_out(e, values, sizes)
    plain = all(isinstance(n, (Name, Number, Binary)) for n in nodes(e))
    return e if plain and reads(e) & sizes and not any(isinstance(n, Element) for n in nodes(e)) else None


def _written_out(e: Expr, values: Mapping[str, tuple[Expr, ...]], sizes: frozenset[str]) -> Expr:
    """With names that are assigned once in the kernel replaced by what they were assigned."""
    known = {name: values[name][0] for name in reads(e) - sizes if len(values.get(name, ())) == 1}
    found: Expr = substituted(e, known)
    return found


# ---- a kernel without conditions that hold --------------------------------------------------------


def _without(kernel: Kernel, conditions: list[tuple[Expr, Multiple]]) -> Kernel:
    """The kernel with these conditions taken as true, blocks of even lengths counted, and empty loops gone."""
    body = settled(kernel.body, tuple(condition for condition, _ in conditions))
    even = frozenset((print_expr(length), print_expr(tile)) for _, (length, tile) in conditions)
    body = every_place(body, lambda n: _whole(n, even))
    return replace(kernel, body=_nonempty(body, _values(replace(kernel, body=body))))


def _whole(node: Node, even: frozenset[tuple[str, str]]) -> Node:
    """cdiv(L, T) as L // T, where T divides L: with one way to say it, a range from one to the other is seen empty."""
    match node:
        case Call("cdiv", (length, tile), ()) if (print_expr(length), print_expr(tile)) in even:
            return Binary("//", length, tile)
        case _:
            return node


def _nonempty(body: tuple[Statement, ...], values: Mapping[str, tuple[Expr, ...]]) -> tuple[Statement, ...]:
    """Without loops that end where they start (what they carry stays what it was) and names given to themselves."""
    kept = list[Statement]()
    for statement in body:
        match statement:
            case For(start=start, stop=stop) if start == stop or _same(start, stop, values):
                continue
            case For(body=inner):
                kept.append(replace(statement, body=_nonempty(inner, values)))
            case Assign(name, Name(value)) if name == value:
                continue
            case _:
                kept.append(statement)
    return tuple(kept)


def _same(start: Expr, stop: Expr, values: Mapping[str, tuple[Expr, ...]]) -> bool:
    return _written_out(start, values, frozenset()) == _written_out(stop, values, frozenset())


