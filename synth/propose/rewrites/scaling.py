"""Where the scale of scores is multiplied in: with every score, or once with the tile of queries before the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ir.ast import Assign, Binary, Call, DTypeOf, Element, Expr, For, Module, Name
from ir.program import DType
from synth.propose.formula import factors, free, product, rebuild, substitute
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import Block, Place, Scope, in_straight_form, inside_out, mapped, names_of, places
from synth.propose.rewrites.tiles import is_scalar
from synth.propose.tree import assigns, nodes, reads

F32 = Name("f32")


def scale_query(subject: Subject) -> Iterator[Module]:
    """Scores are products of queries that were scaled once, before the loop, instead of being scaled one by one.

    Applies to a loop's `dot(q, ...) * c` with q loaded and c known before it. One multiplication for each query
    element replaces one for each score. Queries of half precision are scaled in f32; they are then rounded back, or
    the product is taken in f32, which is slower on tensor cores and rounds nothing.
    """
    names = names_of(subject)
    for place in places(subject.module):
        for at, loop in enumerate(place.block):
            if isinstance(loop, For):
                for query, scale in _scaled_products(loop, place.scope(loop)):
                    tensor = _loaded(Name(query), place.scope())
                    half = tensor is not None and _dtype(subject, tensor) is not DType.F32
                    for exact in (True, False) if half else (True,):
                        rounded = tensor if half and not exact else None
                        yield _scaled(place, at, loop, _Scaling(query, scale, names.fresh("scaled"), half, rounded))


@dataclass(frozen=True)
class _Scaling:
    """`query` times `scale` is called `name`; `half` when it is of half precision, `rounded` the tensor whose dtype it
    is rounded back to, None for a product in f32."""

    query: str
    scale: tuple[tuple[Expr, int], ...]
    name: str
    half: bool
    rounded: str | None

    @property
    def value(self) -> Expr:
        wide = Call("cast", (Name(self.query), F32)) if self.half else Name(self.query)
        scaled = product([(wide, 1), *self.scale])
        return scaled if self.rounded is None else Call("cast", (scaled, DTypeOf(self.rounded)))


def _scaled_products(loop: For, scope: Scope) -> Iterator[tuple[str, tuple[tuple[Expr, int], ...]]]:
    """Queries from before the loop in products with scalars from before the loop."""
    inside = assigns(loop.body) | {loop.variable, *loop.carried}
    found = []
    for node in nodes(loop.body):
        if isinstance(node, Binary) and node.op in "*/":
            dots = [f for f, n in factors(node) if n == 1 and isinstance(f, Call) and f.function == "dot"]
            scale = tuple(p for p in factors(node) if is_scalar(p[0], scope) and not free(p[0]) & inside)
            for dot in dots:
                for side in dot.args[:2]:
                    match side:
                        case Name(id) | Call("trans", (Name(id),)) if id not in inside and scale:
                            found.append((id, scale))
    # of a product within a product the outermost, with all its factors, was met first
    longest: dict[str, tuple[tuple[Expr, int], ...]] = {}
    for query, scale in found:
        if len(scale) > len(longest.get(query, ())):
            longest[query] = scale
    yield from longest.items()


def _loaded(expr: Expr, scope: Scope) -> str | None:
    match scope.see(expr):
        case Call("load", (Element(tensor),)):
            return tensor
        case _:
            return None


def _dtype(subject: Subject, tensor: str) -> DType:
    return next(t.dtype for t in subject.program.tensors if t.name == tensor)


def _scaled(place: Place, at: int, loop: For, scaling: _Scaling) -> Module:
    def operand(expr: Expr) -> Expr:
        match expr:
            case Name(id) if id == scaling.query:
                return Name(scaling.name)
            case Call("trans", (inner,)):
                return Call("trans", (operand(inner),))
            case _ if scaling.half and scaling.rounded is None:
                return Call("cast", (expr, F32))
            case _:
                return expr

    def one(expr: Expr) -> Expr:
        match expr:
            case Binary("*" | "/"):
                parts = factors(expr)
                left = [p for p in parts if p not in scaling.scale]
                if len(left) + len(scaling.scale) == len(parts) and any(_is_product(f, scaling) for f, _ in left):
                    return product([(one_dot(f), n) if _is_product(f, scaling) else (one(f), n) for f, n in left])
                return rebuild(expr, one)
            case _:
                return rebuild(expr, one)

    def one_dot(expr: Expr) -> Expr:
        assert isinstance(expr, Call)
        return Call("dot", (*map(operand, expr.args[:2]), *expr.args[2:]))

    body = mapped(loop, one)
    return place.put((*place.block[:at], Assign(scaling.name, scaling.value), body, *place.block[at + 1 :]))


def _is_product(expr: Expr, scaling: _Scaling) -> bool:
    match expr:
        case Call("dot", (left, right)):
            return scaling.query in free(left) | free(right)
        case _:
            return False


def scale_scores(subject: Subject) -> Iterator[Module]:
    """A factor that the queries were multiplied by before the loop is taken with each score: the inverse of
    `scale_query`.

    Applies where the scaled tile is an operand of products only. Products can then be of half precision, and the
    factor may be folded with another that scores are multiplied by.
    """
    for place in places(subject.module):
        for at, statement in enumerate(place.block):
            if isinstance(statement, Assign) and (found := _unscaled(statement.value, place.scope())) is not None:
                query, scale = found
                kept = () if isinstance(query, Name) else (replace(statement, value=query),)
                rest = _scores_scaled(place.block[at + 1 :], statement.name, query, scale)
                if rest is not None:
                    yield place.put((*place.block[:at], *kept, *rest))


def _scores_scaled(block: Block, name: str, query: Expr, scale: Expr) -> Block | None:
    """A block without the scaled tile; None where it is more than an operand of products."""
    tile = Name("#tile")  # no name of a kernel
    named = any(isinstance(n, Call) and n.function == "cast" for n in nodes(query)) or isinstance(query, Name)
    new = tuple(mapped(s, lambda e: _apart(e, name, tile, scale, named)) for s in block)
    if any(name in reads(s) for s in new):
        return None
    final: dict[str, Expr] = {tile.id: query if isinstance(query, Name) else Name(name)}
    return tuple(mapped(s, lambda e: substitute(e, final)) for s in new)


def _unscaled(value: Expr, scope: Scope) -> tuple[Expr, Expr] | None:
    """q and c of `q * c`, also where the product was taken in f32 and rounded back."""
    match value:
        case Call("cast", (Binary("*", _, _) as inner, DTypeOf())):
            found = _unscaled(inner, scope)
        case Binary("*", _, _):
            by = [p for p in factors(value) if is_scalar(p[0], scope)]
            rest = [p for p in factors(value) if p not in by]
            found = (product(rest), product(by)) if by and len(rest) == 1 else None
        case _:
            return None
    match found:
        case (Call("cast", (Name() as query, Name("f32"))), scale):
            return query, scale
        case _:
            return found


def _apart(expr: Expr, name: str, query: Expr, scale: Expr, narrow: bool) -> Expr:
    """Products with the scaled tile as products with the tile, scaled. `narrow`: a cast of the other side to f32 was
    for the scaling and goes."""

    def one(node: Expr) -> Expr:
        match node:
            case Call("dot", (left, right)) if any(_side(s) == name for s in (left, right)):
                sides = (_replaced(s, name, query, narrow) for s in (left, right))
                return Binary("*", Call("dot", tuple(sides)), scale)
            case _:
                return node

    return inside_out(expr, one)


def _side(expr: Expr) -> str:
    inner = expr.args[0] if isinstance(expr, Call) and expr.function == "trans" else expr
    return inner.id if isinstance(inner, Name) else ""


def _replaced(expr: Expr, name: str, query: Expr, narrow: bool) -> Expr:
    match expr:
        case Name(id) if id == name:
            return query
        case Call("trans", (inner,)):
            return Call("trans", (_replaced(inner, name, query, narrow),))
        case Call("cast", (inner, Name("f32"))) if narrow:
            return inner
        case _:
            return expr


REWRITES = (
    Rewrite("scale-query", in_straight_form(scale_query)),
    Rewrite("scale-scores", in_straight_form(scale_scores)),
)
