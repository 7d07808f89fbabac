"""Grouped heads: query heads that share their keys side by side in one tile of rows, or each in its own programs.

Packed, row r of a group's tile is head `r % R` of the group's R heads at position `r // R`, so that one load of keys
and values serves R heads; a decode step, with a position or two a head, then fills a tile of rows at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ir.ast import Assign, Axis, Binary, Call, Element, Expand, Expr, For, Kernel, Module, Name, Statement, Store
from synth.propose.emit import Names
from synth.propose.formula import children, free, rebuild
from synth.propose.rewrites.bounds import Form
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import Block, Place, Scope, in_straight_form, mapped, names_of, places
from synth.propose.rewrites.tiles import NoShape, extents, unwrapped
from synth.propose.tree import nodes, substituted

ONE = Form.constant(1)


@dataclass(frozen=True)
class _Rows:
    """`name` is `tile * width + arange(width)`, with `tile` an axis of the grid of `cdiv(length, width)` programs."""

    name: str
    tile: str
    width: Expr
    length: Expr
    axis: int


def _rows(kernel: Kernel) -> Iterator[_Rows]:
    for statement in kernel.body:
        match statement:
            case Assign(name, Binary("+", Binary("*", Name(tile), width), Call("arange", (lanes,)))) if lanes == width:
                for k, axis in enumerate(kernel.grid):
                    match axis.extent:
                        case Call("cdiv", (length, by)) if axis.name == tile and by == width:
                            yield _Rows(name, tile, width, length, k)


# ---- packing ------------------------------------------------------------------------------------


def pack_heads(subject: Subject) -> Iterator[Module]:
    """The query heads that share a key/value head become rows of one tile, next to each other.

    Applies where a kernel reads keys at head `h // R` of a grid axis h and everything else at h itself, with a tile
    of rows along another axis. Keys and values are loaded once for R heads.
    """
    names = names_of(subject)
    for number, kernel in enumerate(subject.module.kernels):
        place = next(p for p in places(subject.module) if p.kernel is kernel)
        for rows in _rows(kernel):
            for k, axis in enumerate(kernel.grid):
                shared = {
                    n.right
                    for n in nodes(kernel.body)
                    if isinstance(n, Binary) and n.op == "//" and n.left == Name(axis.name)
                }
                if len(shared) == 1 and k != rows.axis:
                    packing = _Packing(place, rows, axis, place.scope().whole(shared.pop()), names)
                    try:
                        yield subject.with_kernel(number, packing.kernel(kernel, k))
                    except NoShape:
                        continue


class _Packing:
    """`heads` is how many heads share one group, over sizes."""

    def __init__(self, place: Place, rows: _Rows, axis: Axis, heads: Expr, names: Names) -> None:
        self.rows, self.axis, self.heads = rows, axis, heads
        everywhere = {n.name: n.value for n in nodes(place.block) if isinstance(n, Assign)}
        self.scope = Scope(place.scope().values, everywhere | dict(place.scope().starts))
        fresh = names.fresh
        known = next((s.name for s in place.block if isinstance(s, Assign) and self._is_group(s.value)), None)
        self.group = known or fresh("group")
        self.known, self.lane, self.count = known, fresh("r"), fresh("heads")
        self.tiles: set[str] = {axis.name}

    def _is_group(self, expr: Expr) -> bool:
        match expr:
            case Binary("//", Name(id), by):
                return id == self.axis.name and self.scope.whole(by) == self.heads
            case _:
                return False

    def kernel(self, kernel: Kernel, at: int) -> Kernel:
        rows = self.rows
        match self.heads:
            case Binary("//", total, groups) if total == self.axis.extent:
                group_count = groups
            case _:
                group_count = Binary("//", self.axis.extent, self.heads)
        grid = list(kernel.grid)
        grid[at] = Axis(self.group, group_count)
        grid[rows.axis] = Axis(rows.tile, Call("cdiv", (Binary("*", rows.length, self.heads), rows.width)))
        return replace(kernel, grid=tuple(grid), body=self._block(kernel.body))

    def _block(self, block: Block) -> Block:
        out: list[Statement] = []
        for statement in block:
            match statement:
                case Assign(name, value) if name == self.rows.name:
                    lane, count = Name(self.lane), Name(self.count)
                    head = Binary("+", Binary("*", Name(self.group), count), Binary("%", lane, count))
                    out += [
                        Assign(self.count, self.heads, f"query heads of one {self.group}"),
                        Assign(self.lane, value),
                        Assign(self.axis.name, head),
                        Assign(name, Binary("//", lane, count)),
                    ]
                case Assign(name) if name == self.known:
                    pass
                case Store(target, value, mask):
                    mask = None if mask is None else self._expr(mask)
                    out.append(replace(statement, target=self._element(target), value=self._expr(value), mask=mask))
                case For():
                    out.append(self._loop(statement))
                case _:
                    new = mapped(statement, self._expr)
                    if isinstance(new, Assign) and self._lifts(new.value):
                        self.tiles.add(new.name)
                    out.append(new)
        return tuple(out)

    def _loop(self, loop: For) -> For:
        body = self._block(loop.body)
        return replace(loop, start=self._expr(loop.start), stop=self._expr(loop.stop), body=body)

    def _lifts(self, expr: Expr) -> bool:
        """Whether what was a scalar becomes a tile of rows."""
        return bool(free(expr) & self.tiles) and self._rank(expr) == 0

    def _rank(self, expr: Expr) -> int:
        return len(extents(expr, self.scope))

    def _expr(self, expr: Expr) -> Expr:
        rows = self.rows
        match expr:
            case _ if self._is_group(expr):
                return Name(self.group)
            case Binary("<", left, right) if unwrapped(left) == Name(rows.name) and right == rows.length:
                row = substituted(left, {rows.name: Name(self.lane)})
                return Binary("<", row, Binary("*", right, Name(self.count)))
            case Element():
                return self._element(expr)
            case Binary("+" | "-") if (moved := self._bound(expr)) is not None:
                return moved
            case Binary() | Call():
                rank = self._rank(expr)
                inner = {id(c): self._expr(c) for c in children(expr)}
                wide = {id(c) for c in children(expr) if rank == 2 and self._lifts(c)}
                at = extents(expr, self.scope).index(rows.width) if wide and rows.width in extents(
                    expr, self.scope) else 0  # fmt: skip
                place = tuple(k != at for k in range(2))
                return rebuild(expr, lambda c: Expand(inner[id(c)], place) if id(c) in wide else inner[id(c)])
            case _:
                return rebuild(expr, self._expr)

    def _element(self, cell: Element) -> Element:
        """A head index is a tile of rows now, along the axis that the rows lie on."""
        row = next((i for i in cell.index if self.rows.name in free(i)), None)
        axes = next((n.axes for n in nodes(row) if isinstance(n, Expand)), None) if row is not None else None

        def one(index: Expr) -> Expr:
            lifts = bool(free(index) & self.tiles) and not self._is_group(index)
            new = self._expr(index)
            return Expand(new, axes) if lifts and axes is not None and self._rank(index) == 0 else new

        return replace(cell, index=tuple(map(one, cell.index)))

    def _bound(self, expr: Expr) -> Expr | None:
        """First and last row of a tile in the bounds of a loop: rows are positions of several heads now."""
        rows = self.rows
        form = Form.read(expr)
        first = Form.read(Binary("*", Name(rows.tile), rows.width))
        parts = dict(form.terms)
        if parts.get(first.terms[0][0]) != 1:
            return None
        width = Form.read(rows.width)
        if parts.get(width.terms[0][0]) == 1:
            last = Binary("//", first.plus(width).plus(ONE, -1).expr(), Name(self.count))
            rest = form.plus(first, -1).plus(width, -1).plus(ONE)
        else:
            last = Binary("//", first.expr(), Name(self.count))
            rest = form.plus(first, -1)
        return Form.read(last).plus(rest).expr()


# ---- unpacking ----------------------------------------------------------------------------------


def unpack_heads(subject: Subject) -> Iterator[Module]:
    """Each query head gets programs of its own again: the inverse of packing.

    Applies where rows are `r // R` and heads `g * R + r % R`. Better where tiles are full anyway, since rows of one
    head end their keys together under a causal mask.
    """
    for number, kernel in enumerate(subject.module.kernels):
        place = next(p for p in places(subject.module) if p.kernel is kernel)
        if (found := _unpacked(kernel, place.scope())) is not None:
            yield subject.with_kernel(number, found)


def _unpacked(kernel: Kernel, scope: Scope) -> Kernel | None:
    defined = {s.name: s.value for s in kernel.body if isinstance(s, Assign)}
    for rows in _rows(kernel):
        lane = Name(rows.name)
        position = next(
            (n for n, v in defined.items() if isinstance(v, Binary) and v.op == "//" and v.left == lane), ""
        )
        if not position:
            continue
        quotient = defined[position]
        assert isinstance(quotient, Binary)
        count = quotient.right
        for head, value in defined.items():
            match value:
                case Binary("+", Binary("*", Name(group), by), Binary("%", left, modulus)) if (
                    by == modulus == count and left == lane
                ):
                    return _apart(kernel, scope, rows, position, head, group, count)
    return None


def _apart(
    kernel: Kernel, scope: Scope, rows: _Rows, position: str, head: str, group: str, count: Expr
) -> Kernel | None:
    heads = scope.whole(count)
    per_head = _divided(Form.read(scope.whole(rows.length)), heads)
    at = next((k for k, axis in enumerate(kernel.grid) if axis.name == group), None)
    if per_head is None or at is None:
        return None
    total: Expr = Binary("*", kernel.grid[at].extent, heads)
    match heads:
        case Binary("//", all_heads, groups) if groups == kernel.grid[at].extent:
            total = all_heads
    lane, row, rest = Name(rows.name), defined_rows(rows), per_head.expr()

    def one(expr: Expr) -> Expr:
        match expr:
            case Binary("<", left, right) if unwrapped(left) == lane and _same(right, rows.length, scope):
                return Binary("<", substituted(left, {rows.name: Name(position)}), rest)
            case Binary("//", left, right) if right == count and rows.tile in free(left):
                return left
            case Binary("+" | "-") if rows.tile in free(expr):
                return Form.read(rebuild(expr, one)).expr()
            case Expand(Name(id)) if id == head:
                return Name(head)
            case _:
                return rebuild(expr, one)

    body: list[Statement] = []
    for statement in kernel.body:
        match statement:
            case Assign(name) if name == position:
                body.append(replace(statement, value=row))
            case Assign(name) if name == rows.name:
                pass
            case Assign(name) if name == head:
                body.append(Assign(group, Binary("//", Name(head), count)))
            case _:
                body.append(mapped(statement, one))
    grid = list(kernel.grid)
    grid[at] = Axis(head, total)
    grid[rows.axis] = Axis(rows.tile, Call("cdiv", (rest, rows.width)))
    return replace(kernel, grid=tuple(grid), body=tuple(body))


def defined_rows(rows: _Rows) -> Expr:
    return Binary("+", Binary("*", Name(rows.tile), rows.width), Call("arange", (rows.width,)))


def _same(left: Expr, right: Expr, scope: Scope) -> bool:
    return Form.read(scope.whole(left)) == Form.read(scope.whole(right))


def _divided(form: Form, factor: Expr) -> Form | None:
    """The form with one factor of every term taken out; None where a term lacks it."""
    found = Form()
    for monomial, n in form.terms:
        if factor not in monomial:
            return None
        at = monomial.index(factor)
        found = found.plus(Form((((*monomial[:at], *monomial[at + 1 :]), n),)))
    return found


REWRITES = (
    Rewrite("pack-heads", in_straight_form(pack_heads)),
    Rewrite("unpack-heads", in_straight_form(unpack_heads)),
)
