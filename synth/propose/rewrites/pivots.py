"""Online softmax as it stands in a kernel, whatever its names: where the pivot moves, and what is weighed by it.

A loop *sweeps* when it carries a row value `m` whose next value is a maximum of `m` and of maxima of scores (a running
pivot), or that maximum only where it exceeds `m` by a threshold (a lazily moved one). Exponentials of a difference of
which the pivot is the right side are *weights*, or *rescales* when the left side is the pivot from before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ir.ast import Assign, Binary, Call, Expr, For, Name
from synth.propose.rewrites.straight import Place, Scope, expressions
from synth.propose.rewrites.tiles import EXPONENTIALS, is_scalar, origin, parts_of_maximum
from synth.propose.tree import nodes


@dataclass(frozen=True)
class Exponential:
    """`call` is exp(x) or exp2(x) with x = (score - pivot) * factor; each as written, names looked up on the way."""

    call: Call
    score: Expr
    pivot: Expr
    factor: Expr | None

    @property
    def base2(self) -> bool:
        return self.call.function == "exp2"


@dataclass(frozen=True)
class Sweep:
    """Loop number `at` of a block, in straight form: `m` is carried and becomes `moved`; `tops` are the maxima of
    scores that it is compared with, `threshold` how much they must exceed it by to move it."""

    at: int
    loop: For
    scope: Scope
    m: str
    moved: str
    tops: tuple[Expr, ...]
    threshold: Expr | None

    def exponentials(self) -> list[Exponential]:
        return [e for e in exponentials(self.loop, self.scope) if origin(e.pivot, self.scope) == Name(self.moved)]

    def is_rescale(self, found: Exponential) -> bool:
        return origin(found.score, self.scope) == Name(self.m)


def exponentials(loop: For, scope: Scope) -> Iterator[Exponential]:
    """Exponentials of differences anywhere in a loop's body."""
    seen: set[Call] = set()
    for expr in expressions(loop):
        for node in nodes(expr):
            if isinstance(node, Call) and node.function in EXPONENTIALS and node not in seen:
                seen.add(node)
                inner, factor = scope.see(node.args[0]), None
                match inner:
                    case Binary("*", left, right) if is_scalar(right, scope):
                        inner, factor = scope.see(left), right
                    case Binary("*", left, right) if is_scalar(left, scope):
                        inner, factor = scope.see(right), left
                if isinstance(inner, Binary) and inner.op == "-":
                    yield Exponential(node, inner.left, inner.right, factor)


def sweeps(place: Place) -> Iterator[Sweep]:
    """Loops of this block that move a pivot and weigh by it, or (without weights) find a maximum."""
    for at, loop in enumerate(place.block):
        if isinstance(loop, For):
            scope = place.scope(loop)
            for m in loop.carried:
                if (found := _moved(at, loop, scope, m)) is not None:
                    yield found


def _moved(at: int, loop: For, scope: Scope, m: str) -> Sweep | None:
    last = next((s for s in reversed(loop.body) if isinstance(s, Assign) and s.name == m), None)
    if last is None or not isinstance(last.value, Name):
        return None
    tops, threshold = _tops(scope.see(last.value), scope, m), None
    if tops is None:
        match scope.see(last.value):
            case Call("where", (Binary(">" | ">=", test, limit), then, Name(kept))) if kept == m:
                match limit:
                    case Binary("+", Name(base), by) if base == m:
                        threshold = by
                if threshold is None or scope.see(test) != scope.see(then):
                    return None
                tops = tuple(p for p in parts_of_maximum(then, scope) if p != Name(m))
    if not tops or any(scope.rests_on(top, m) for top in tops):
        return None
    return Sweep(at, loop, scope, m, last.value.id, tops, threshold)


def _tops(expr: Expr, scope: Scope, m: str) -> tuple[Expr, ...] | None:
    parts = parts_of_maximum(expr, scope) if isinstance(expr, Call) and expr.function == "maximum" else []
    return tuple(p for p in parts if p != Name(m)) if Name(m) in parts else None
