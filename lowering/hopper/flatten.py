"""A typed kernel with every tile, dot and register operand under a name of its own.

After `flatten` a `Let` binds one of five things, and nothing else holds a dot or a tile:

- a tile: a `BoxLoad`;
- a written tile: a name in registers, `Written` to shared memory for the dots that read it there;
- a read: a tile's name, or its `Transpose`, wanted in registers;
- a dot: a `Dot` whose operands are tiles by name, possibly transposed, or, left only, a name in registers;
- vector work: any other expression of the typed core.

Decides also which dots wgmma can do (`NotForHopper` says why not): 16-bit operands, the right one a tile in shared
memory, copied there or written (a left one, too, if it is the transpose of what is computed), rows a multiple of 64,
columns a multiple of 8 up to 256, 16 of the summed axis at a time (PTX ISA, wgmma).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args

from ir.program import Carry, Cast, Dot, DType, Expr, For, Kernel, Let, Statement, Store, Transpose, Type, Var
from lowering.accesses import BoxLoad
from lowering.plan import walk

EXPRESSIONS = get_args(Expr)
ROWS, COLUMNS, MOST_COLUMNS, SUMMED = 64, 8, 256, 16


class NotForHopper(Exception):
    """A certified kernel has no asynchronous program here; the message is the reason. Another version runs instead."""


@dataclass(frozen=True, slots=True)
class Written:
    """A tile in shared memory that the consumer writes: `value`, a name."""

    value: Var

    @property
    def type(self) -> Type:
        return self.value.type


def mapped(e: Expr, f: Any) -> Expr:
    """The expression with `f` applied to each expression directly inside it."""
    changed: dict[str, Any] = {}
    for part in fields(e):
        value = getattr(e, part.name)
        if isinstance(value, EXPRESSIONS):
            changed[part.name] = f(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], EXPRESSIONS):
            changed[part.name] = tuple(f(x) for x in value)
    return replace(e, **changed) if changed else e


def names_in(node: object) -> set[str]:
    return {n.name for n in walk(node) if isinstance(n, Var)}


def tile_of(e: Expr) -> tuple[str, bool] | None:
    """(name, transposed) where an expression has the form of a tile's name or its transpose."""
    match e:
        case Var(name=name):
            return name, False
        case Transpose(operand=Var(name=name)):
            return name, True
        case _:
            return None


@dataclass(slots=True)
class Flattener:
    taken: set[str]
    tiles: dict[str, BoxLoad | Written] = field(default_factory=dict)
    aliases: dict[str, Expr] = field(default_factory=dict)
    reads: dict[Expr, Var] = field(default_factory=dict)
    writes: dict[Expr, Var] = field(default_factory=dict)

    def fresh(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name

    # ---- statements --------------------------------------------------------------------------

    def block(self, statements: Iterable[Statement]) -> tuple[list[Statement], dict[Expr, Var]]:
        """The flat statements, and the reads made for the block (they go with it)."""
        outer, self.reads = self.reads, dict(self.reads)
        outer_writes, self.writes = self.writes, dict(self.writes)
        out: list[Statement] = []
        for statement in statements:
            match statement:
                case Let():
                    self._let(statement, out)
                case Store():
                    out.append(self._store(statement, out))
                case For():
                    out.append(self._for(statement, out))
        inner, self.reads = self.reads, outer
        self.writes = outer_writes
        return out, inner

    def _let(self, let: Let, out: list[Statement]) -> None:
        value = self._parts(let.value, out)
        match value:
            case BoxLoad():
                self._tile(let.name, value, let, out)
            case Dot():
                out.append(replace(let, value=self._operands(value, out)))
            case _ if self._is_tile(value):
                self.aliases[let.name] = value
            case _:
                out.append(replace(let, value=self._in_registers(value, out)))

    def _store(self, store: Store, out: list[Statement]) -> Store:
        mask = None if store.mask is None else self.vector(store.mask, out)
        index = tuple(self.vector(e, out) for e in store.index)
        return replace(store, index=index, value=self.vector(store.value, out), mask=mask)

    def _for(self, loop: For, out: list[Statement]) -> For:
        inits = [self.vector(c.init, out) for c in loop.carries]
        start, stop = self.vector(loop.start, out), self.vector(loop.stop, out)
        body, reads = self.block(loop.body)
        outer, self.reads = self.reads, reads
        nexts = [self.vector(c.next, body) for c in loop.carries]
        self.reads = outer
        carries = tuple(
            Carry(c.name, init, following, c.type)
            for c, init, following in zip(loop.carries, inits, nexts, strict=True)
        )
        return replace(loop, start=start, stop=stop, carries=carries, body=tuple(body))

    # ---- expressions -------------------------------------------------------------------------

    def vector(self, e: Expr, out: list[Statement]) -> Expr:
        """An expression without tiles and dots: they get names before it."""
        return self._in_registers(self._nested(e, out), out)

    def _parts(self, e: Expr, out: list[Statement]) -> Expr:
        """With the dots and tiles inside it named; itself it may be one."""
        if isinstance(e, Var):
            return self.aliases.get(e.name, e)
        e = mapped(e, lambda x: self._nested(x, out))
        match e:
            case Transpose(operand=Transpose(operand=x)):
                return x
            case Cast(operand=Transpose(operand=x)):  # the transpose last: where a dot reads it, nothing is moved
                return Transpose(replace(e, operand=x, type=Type(e.type.dtype, x.type.shape)), e.type)
            case _:
                return e

    def _nested(self, e: Expr, out: list[Statement]) -> Expr:
        e = self._parts(e, out)
        if isinstance(e, BoxLoad):
            name = self.fresh(f"{e.tensor}_tile")
            self._tile(name, e, Let(name, e), out)
            return Var(name, e.type)
        if isinstance(e, Dot):
            name = self.fresh("product")
            out.append(Let(name, self._operands(e, out)))
            return Var(name, e.type)
        return e

    def _tile(self, name: str, load: BoxLoad, let: Let, out: list[Statement]) -> None:
        if len(load.type.shape) > 2:
            raise NotForHopper(f"the tile of {load.tensor} has {len(load.type.shape)} axes; two are supported")
        self.tiles[name] = load
        out.append(replace(let, value=load))

    def _is_tile(self, e: Expr) -> bool:
        found = tile_of(e)
        return found is not None and found[0] in self.tiles

    def _in_registers(self, e: Expr, out: list[Statement]) -> Expr:
        """Tiles inside a vector expression are read into registers first."""
        if self._is_tile(e):
            if e not in self.reads:
                found = tile_of(e)
                assert found is not None
                name = self.fresh(f"{found[0]}_read")
                out.append(Let(name, e))
                self.reads[e] = Var(name, e.type)
            return self.reads[e]
        return mapped(e, lambda x: self._in_registers(x, out))

    def _operands(self, dot: Dot, out: list[Statement]) -> Dot:
        (m, k), (_, n) = dot.left.type.shape, dot.right.type.shape
        for operand in (dot.left, dot.right):
            if operand.type.dtype not in (DType.F16, DType.BF16):
                raise NotForHopper(f"a dot of {operand.type.dtype.value} operands; wgmma is used for 16-bit floats")
        if m % ROWS or n % COLUMNS or n > MOST_COLUMNS or k % SUMMED:
            raise NotForHopper(f"a dot of [{m}, {k}] and [{k}, {n}]; wgmma takes rows of {ROWS}, 256 columns")
        right = dot.right if self._is_tile(dot.right) else self._written(dot.right, out)
        left = dot.left
        if isinstance(left, Transpose) and not self._is_tile(left):
            left = self._written(left, out)
        if not self._is_tile(left):
            left = self._in_registers(left, out)
            if not isinstance(left, Var):
                name = self.fresh("left")
                out.append(Let(name, left))
                left = Var(name, left.type)
        acc = None if dot.acc is None else self._in_registers(dot.acc, out)
        return replace(dot, left=left, right=right, acc=acc)

    def _written(self, operand: Expr, out: list[Statement]) -> Expr:
        """A computed operand as a tile of shared memory, once for all dots of a block that read it."""
        if isinstance(operand, Transpose):
            return replace(operand, operand=self._written(operand.operand, out))
        value = self._in_registers(operand, out)
        if value not in self.writes:
            named = value
            if not isinstance(named, Var):
                named = Var(self.fresh("computed"), value.type)
                out.append(Let(named.name, value))
            tile = Var(self.fresh(f"{named.name}_written"), value.type)
            self.tiles[tile.name] = Written(named)
            out.append(Let(tile.name, named))
            self.writes[value] = tile
        return self.writes[value]


def flatten(kernel: Kernel) -> tuple[tuple[Statement, ...], dict[str, BoxLoad | Written], Flattener]:
    """The flat body, the tiles by name, and the flattener, for more fresh names. Raises NotForHopper."""
    taken = {n.name for n in walk(kernel.body) if isinstance(n, Var | Let)}
    taken |= {n.counter for n in walk(kernel.body) if isinstance(n, For)} | {axis.name for axis in kernel.grid}
    flattener = Flattener(taken)
    body, _ = flattener.block(kernel.body)
    return tuple(body), flattener.tiles, flattener
