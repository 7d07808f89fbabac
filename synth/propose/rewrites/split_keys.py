"""Split-KV (flash-decoding): programs share one loop over keys, and a second kernel merges what they found.

A loop's state can be merged when every name it carries is a maximum, a plain sum, or a sum of weights against a pivot
that is itself such a maximum. Each program starts from nothing; the kernel that merges starts from what the loop
started from, so that a sink or a first block counted before the loop counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from ir.ast import (
    Assign,
    Axis,
    Binary,
    Call,
    Element,
    Expand,
    Expr,
    For,
    Kernel,
    Meta,
    Module,
    Name,
    Number,
    Scratch,
    Shape,
    Statement,
    Store,
)
from synth.propose.emit import Names
from synth.propose.formula import conjuncts
from synth.propose.rewrites.bounds import Form
from synth.propose.rewrites.pivots import Sweep, sweeps
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import Place, in_straight_form, inside_out, names_of, places
from synth.propose.rewrites.tiles import MINUS_INF, ONE, Extents, NoShape, extents, guard, lined_up
from synth.propose.tree import assigns, nodes

SPLITS = 4
F32 = Name("f32")
ZERO = Number(Fraction(0))


def split_in_chunks(subject: Subject) -> Iterator[Module]:
    """Four programs take a quarter of the key blocks each, and a second kernel merges their maxima and sums.

    Applies to a kernel whose one loop carries what can be merged. A decode step or a small batch has too few rows to
    fill the machine; splitting the keys does, for a pass over the partial results.
    """
    yield from _split(subject, interleaved=False)


def split_interleaved(subject: Subject) -> Iterator[Module]:
    """Four programs take the key blocks in turn, and a second kernel merges their maxima and sums.

    Applies where `split_in_chunks` does. Shares differ by a block at most whatever the length, also under a mask that
    ends the keys of each tile elsewhere.
    """
    yield from _split(subject, interleaved=True)


def _split(subject: Subject, interleaved: bool) -> Iterator[Module]:
    for number, kernel in enumerate(subject.module.kernels):
        place = next(p for p in places(subject.module) if p.kernel is kernel)
        loops = [k for k, s in enumerate(kernel.body) if isinstance(s, For)]
        inner = [s for n in nodes(kernel.body) if isinstance(n, For) for s in n.body]
        if len(loops) != 1 or any(isinstance(s, (Store, For)) for s in inner):
            continue
        try:
            found = _Split(subject, place, loops[0], interleaved).module(number)
        except NoShape:
            continue
        if found is not None:
            yield found


@dataclass(frozen=True)
class _Place:
    """Where a carried tile is kept: index and extents of its scratch tensor but for the split, and its mask."""

    index: tuple[Expr, ...]
    shape: tuple[Expr, ...]
    mask: Expr | None


class _Split:
    def __init__(self, subject: Subject, place: Place, at: int, interleaved: bool) -> None:
        self.subject, self.kernel, self.at, self.interleaved = subject, place.kernel, at, interleaved
        loop = place.block[at]
        assert isinstance(loop, For)
        self.loop, self.scope, self.outer = loop, place.scope(loop), place.scope()
        self.names = names_of(subject)
        self.z, self.count = self.names.fresh("z"), self.names.fresh("SPLITS")
        self.pivots = {s.m: s for s in sweeps(place) if s.at == at}
        self.stores = [s for s in place.block[at + 1 :] if isinstance(s, Store)]

    def module(self, number: int) -> Module | None:
        kept: dict[str, _Place] = {}
        for name in self.loop.carried:
            where = self._kept(extents(Name(name), self.outer))
            if where is None or not self._merges(name):
                return None
            kept[name] = where
        if not kept:
            return None
        scratch = {name: self.names.fresh(f"PART_{name}") for name in kept}
        partial, combine = self._partial(kept, scratch), self._combine(kept, scratch)
        module = self.subject.module
        tensors = tuple(Scratch(scratch[n], (Name(self.count), *w.shape), F32) for n, w in kept.items())
        kernels = (*module.kernels[:number], partial, combine, *module.kernels[number + 1 :])
        metas = (*module.metas, Meta(self.count, Number(Fraction(SPLITS))))
        return replace(module, metas=metas, scratch=(*module.scratch, *tensors), kernels=kernels)

    # ---- what can be merged ----

    def _weighted(self, name: str) -> Sweep | None:
        """The sweep whose weights a carried name sums."""
        final = next(s.value for s in reversed(self.loop.body) if isinstance(s, Assign) and s.name == name)
        return next((s for s in self.pivots.values() if self.scope.rests_on(final, s.moved) and s.m != name), None)

    def _merges(self, name: str) -> bool:
        """Whether a carried name is a maximum, or a sum."""
        if name in self.pivots:
            return True
        sets = [s.value for s in self.loop.body if isinstance(s, Assign) and s.name == name]
        if not sets:
            return False
        match self.scope.see(sets[-1]):
            case Binary("+", left, right):
                terms = [left, right]
            case Call("dot", (_, _, before)):
                terms = [before]
            case _:
                return False
        start = self.outer.starts.get(name)
        real = not (isinstance(start, Call) and start.function in ("arange", "load")) and start is not None
        return real and sum(self.scope.rests_on(t, name) for t in terms) == 1

    def _kept(self, own: Extents) -> _Place | None:
        """Where the kernel's stores put a tile of these extents, or of these rows of it."""
        for store in self.stores:
            tensor = self._shape(store.target.name)
            wide = [extents(i, self.outer) for i in store.target.index]
            rank = max(map(len, wide), default=0)
            whole = tuple(next((w[k] for w in wide if len(w) == rank and w[k] != ONE), ONE) for k in range(rank))
            if whole == own:
                return _Place(store.target.index, tensor, store.mask)
            if len(own) == 1 and rank == 2 and own[0] in whole:
                axis = whole.index(own[0])
                kept = [k for k, w in enumerate(wide) if len(w) < rank or w[1 - axis] == ONE]
                index = tuple(inside_out(store.target.index[k], _unexpanded) for k in kept)
                parts = [] if store.mask is None else conjuncts(store.mask)
                masks = [inside_out(p, _unexpanded) for p in parts if extents(p, self.outer)[1 - axis] == ONE]
                mask: Expr | None = None
                for part in masks:
                    mask = part if mask is None else Binary("and", mask, part)
                return _Place(index, tuple(tensor[k] for k in kept), mask)
        return None

    def _shape(self, name: str) -> tuple[Expr, ...]:
        for scratch in self.subject.module.scratch:
            if scratch.name == name:
                return scratch.shape
        return next(t.shape for t in self.subject.bound.spec.outputs if t.name == name)

    # ---- the two kernels ----

    def _partial(self, kept: dict[str, _Place], scratch: dict[str, str]) -> Kernel:
        kernel, loop, z = self.kernel, self.loop, Name(self.z)
        head: list[Statement] = []
        for statement in kernel.body[: self.at]:
            if isinstance(statement, Assign) and statement.name in kept:
                statement = Assign(statement.name, self._nothing(statement.name))
            head.append(statement)
        blocks: Expr = Form.read(loop.stop).plus(Form.read(loop.start), -1).expr()
        blocks = blocks if loop.step == ONE else Call("cdiv", (blocks, loop.step))
        if self.interleaved:
            turn = self.names.fresh("turn")
            number: Expr = Binary("+", Binary("*", Name(turn), Name(self.count)), z)
            number = number if loop.step == ONE else Binary("*", number, loop.step)
            number = number if loop.start == ZERO else Binary("+", loop.start, number)
            mine = Call("cdiv", (Binary("-", blocks, z), Name(self.count)))
            body = (Assign(loop.variable, number), *loop.body)
            part = replace(loop, variable=turn, start=ZERO, stop=Call("max", (ZERO, mine)), step=ONE, body=body)
        else:
            share = self.names.fresh("share")
            head.append(Assign(share, Call("cdiv", (blocks, Name(self.count)))))
            length = Name(share) if loop.step == ONE else Binary("*", Name(share), loop.step)
            first: Expr = Binary("*", z, length)
            first = first if loop.start == ZERO else Binary("+", loop.start, first)
            part = replace(loop, start=first, stop=Call("min", (loop.stop, Binary("+", first, length))))
        stores = [Store(Element(scratch[n], (z, *w.index)), Name(n), w.mask) for n, w in kept.items()]
        grid = (*kernel.grid, Axis(self.z, Name(self.count)))
        name = self.names.fresh(f"{kernel.name}_partial")
        return replace(kernel, name=name, grid=grid, body=(*head, part, *stores))

    def _nothing(self, name: str) -> Expr:
        """What a split starts from: a sum at 0; a maximum where the loop started, which may enter it many times."""
        if name in self.pivots:
            return self.outer.starts[name]
        own = Shape(extents(Name(name), self.outer))
        return Call("zeros", (own, F32))

    def _combine(self, kept: dict[str, _Place], scratch: dict[str, str]) -> Kernel:
        """Starts where the loop started; every split's share is weighed by its pivot against the common one."""
        fresh = Names(self.names.taken - assigns(self.loop.body)).fresh
        body, last = list[Statement](), list[Statement]()
        part = {name: fresh(f"part_{name}") for name in kept}
        for name, where in kept.items():
            low = MINUS_INF if name in self.pivots else ZERO
            words = () if where.mask is None else (("mask", where.mask), ("other", low))
            body.append(
                Assign(part[name], Call("load", (Element(scratch[name], (Name(self.z), *where.index)),), words))
            )
        weights: dict[str, tuple[str, str]] = {}
        for m, sweep in self.pivots.items():
            new = fresh(f"{m}_new")
            body.append(Assign(new, Call("maximum", (Name(m), Name(part[m])))))
            if found := sweep.exponentials():
                safe, alpha, beta = fresh(f"{m}_safe"), fresh("alpha"), fresh("beta")
                body.append(Assign(safe, guard(Name(new))))
                for weight, of in ((alpha, m), (beta, part[m])):
                    inner: Expr = Binary("-", Name(of), Name(safe))
                    inner = inner if found[0].factor is None else Binary("*", inner, found[0].factor)
                    body.append(Assign(weight, Call(found[0].call.function, (inner,))))
                weights[m] = alpha, beta
            last.append(Assign(m, Name(new)))
        for name in kept:
            if name in self.pivots:
                continue
            left: Expr = Name(name)
            right: Expr = Name(part[name])
            if (weighed := self._weighted(name)) is not None:
                row, own = extents(Name(weighed.m), self.outer), extents(Name(name), self.outer)
                alpha, beta = weights[weighed.m]
                left = Binary("*", left, lined_up(Name(alpha), row, own))
                right = Binary("*", right, lined_up(Name(beta), row, own))
            body.append(Assign(name, Binary("+", left, right)))
        loop = For(self.z, ZERO, Name(self.count), ONE, tuple(kept), (*body, *last))
        name = self.names.fresh(f"{self.kernel.name}_combine")
        head = tuple(s for s in self.kernel.body[: self.at] if isinstance(s, Assign))
        rest = self.kernel.body[self.at + 1 :]
        return replace(self.kernel, name=name, schedule=(), body=(*head, loop, *rest))


def _unexpanded(expr: Expr) -> Expr:
    return expr.operand if isinstance(expr, Expand) else expr


REWRITES = (
    Rewrite("split-in-chunks", in_straight_form(split_in_chunks)),
    Rewrite("split-interleaved", in_straight_form(split_interleaved)),
)
