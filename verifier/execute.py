"""Symbolic execution of one program instance into tile functions.

Program ids, sizes and loop counters stay symbols, so one run stands for every program of every grid at
every size. Nothing is unrolled: a loop body is executed once with carried values as `state` atoms and
summarised by `scan`. What comes out is the list of memory accesses, each a function of lanes under the
premises of its place (grid ranges, loop ranges); obligations are read off that list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ir import program as core
from ir.ast import Span
from verifier import operations as ops
from verifier import reals, scan, tiles
from verifier.binders import Substitution
from verifier.booleans import FALSE, TRUE, Bool, choose, conj, disj, ge0, lt, negate
from verifier.decisions import Decisions, apart_from_zero
from verifier.integers import Int, div, lift, maximum, minimum, mod, positive, symbol
from verifier.machine import Floats, unrounded
from verifier.operations import Unsupported
from verifier.places import Cuts
from verifier.simplify import Simplifier
from verifier.smt import Context
from verifier.sympy_view import ScanIdentity
from verifier.terms import as_int, atom_of, fresh
from verifier.tiles import NO_DUTIES, Duties, Duty, Lanes, Scalar, Tile, lane_symbols, stored_lanes, tile, under


@dataclass(frozen=True, slots=True)
class Access:
    """One load or store of a program. `lanes` are fresh symbols; index, mask and value are at them.

    `place` carries what index and mask owe: a NaN in a comparison makes them neither of what they could be.
    `premises`: ranges of program ids and loop counters. `counters`: the loop counters in scope.
    kind: load, store, atomic."""

    kind: str
    tensor: str
    index: tuple[Int, ...]
    mask: Bool
    value: Scalar | None
    place: Scalar
    premises: tuple[Bool, ...]
    lanes: Lanes
    counters: tuple[Int, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Trace:
    """What one kernel does: its accesses, and its grid as (symbol, extent) per axis."""

    kernel: str
    grid: tuple[tuple[Int, Int], ...]
    accesses: tuple[Access, ...]
    casts: tuple[tuple[Int, int, tuple[Bool, ...], Span], ...]  # value, bits, premises: claimed to fit
    integers: tuple[tuple[Int, Span], ...]  # every integer computed, for width inference
    loops: tuple[tuple[Int, tuple[Bool, ...]], ...]  # each loop's counter and the premises inside it

    def of_kind(self, *kinds: str) -> tuple[Access, ...]:
        return tuple(a for a in self.accesses if a.kind in kinds)


Reader = Callable[[str, tuple[Int, ...], Span], Scalar]


@dataclass(slots=True)
class Instance:
    """One symbolic program instance of `kernel`. `read` gives what a tensor cell holds when the kernel
    starts (an input read, or what an earlier kernel proved to have stored)."""

    kernel: core.Kernel
    sizes: Mapping[str, Int]
    parameters: Mapping[str, Scalar]
    read: Reader
    context: Context
    simplifier: Simplifier
    accesses: list[Access] = field(default_factory=list)
    casts: list[tuple[Int, int, tuple[Bool, ...], Span]] = field(default_factory=list)
    integers: list[tuple[Int, Span]] = field(default_factory=list)
    loops: list[tuple[Int, tuple[Bool, ...]]] = field(default_factory=list)
    premises: tuple[Bool, ...] = ()
    counters: tuple[Int, ...] = ()
    notes: list[str] = field(default_factory=list)
    closed: dict[str, tuple[reals.Real, Context]] = field(default_factory=dict)
    identities: list[ScanIdentity] = field(default_factory=list)
    pivot_bounds: dict[str, scan.PivotBound] = field(default_factory=dict)
    # Arbitrary numbers: all maxima of floats, what lazy ones move to, and which way they go (`verifier.rounding`).
    cuts: Cuts | None = None
    floats: Floats | None = None  # execute what exponentials are made of as machines do
    decisions: Decisions = Decisions()
    sites: dict[int, int] = field(default_factory=dict)

    def run(self) -> Trace:
        env: dict[str, Tile] = {}
        grid = []
        for axis in self.kernel.grid:
            extent = self.expression(axis.extent, {}).scalar().int
            pid = symbol(axis.name)  # unbounded, its range is a premise
            grid.append((pid, extent))
            self.premises += (ge0(pid), lt(pid, extent))
            env[axis.name] = constant_tile(Scalar(pid))
        self.context = self.context.given(conj(self.premises))
        self.block(self.kernel.body, env)
        computed = tuple(self.casts), tuple(self.integers)
        return Trace(self.kernel.name, tuple(grid), tuple(self.accesses), *computed, tuple(self.loops))

    # ---- statements ----------------------------------------------------------------------

    def block(self, body: tuple[core.Statement, ...], env: dict[str, Tile]) -> None:
        for statement in body:
            match statement:
                case core.Let():
                    env[statement.name] = self.expression(statement.value, env)
                case core.Store():
                    self.store(statement, env)
                case core.For():
                    scan.run_loop(self, statement, env)

    def store(self, s: core.Store, env: dict[str, Tile]) -> None:
        value = self.expression(s.value, env)
        index = [self.expression(i, env) for i in s.index]
        mask = None if s.mask is None else self.expression(s.mask, env)
        shape = _broadcast_shape([value.shape, *(i.shape for i in index), *([] if mask is None else [mask.shape])])
        lanes = stored_lanes(shape)
        guard = TRUE if mask is None else _at(mask, lanes).bool
        kind = "atomic" if s.atomic else "store"
        cell = tuple(_at(i, lanes).int for i in index)
        at, place = _at(value, lanes), _place(index, mask, lanes)
        owes = ops.defined(at.finite, "every value added is finite", s.span) if s.atomic else NO_DUTIES
        value_here = Scalar(at.value, at.finite, at.owes | place.owes | owes)
        self.accesses.append(
            Access(kind, s.tensor, cell, guard, value_here, place, self.premises, lanes, self.counters, s.span)
        )
        self.integers += [(i, s.span) for i in cell]

    # ---- expressions ---------------------------------------------------------------------

    def expression(self, e: core.Expr, env: Mapping[str, Tile]) -> Tile:
        shape = e.type.shape
        rounded = None if self.floats is None else self.floats.tile(self, e, env)
        if rounded is not None:
            return rounded
        match e:
            case core.Var():
                return env[e.name]
            case core.Literal():
                return constant_tile(self._recorded(_literal(e), e.span), shape)
            case core.Constant():
                return constant_tile(ops.constant(e.name, e.span), shape)
            case core.Size():
                return constant_tile(Scalar(self.sizes[e.name]))
            case core.Param():
                return constant_tile(self.parameters[e.name])
            case core.Unary():
                if e.op == "neg" and _is_infinity(e.operand):
                    return constant_tile(ops.MINUS_INFINITY, shape)
                operand = self.expression(e.operand, env)
                return tile(shape, lambda lanes: self._recorded(self._unary(e, operand.at(lanes)), e.span))
            case core.Binary():
                left, right = self.expression(e.left, env), self.expression(e.right, env)
                if id(e) in (self.cuts.undecided if self.cuts else self.decisions.undecided):
                    left, right = self._arbitrary(e, left), tiles.with_values(right, lambda _: reals.number(0))
                premises = self.premises
                out = tile(shape, lambda lanes: self._binary(e, left.at(lanes), right.at(lanes), premises))
                return self._arbitrary(e, out) if self.cuts and _is_maximum(e) else out
            case core.Select():
                c, a, b = (self.expression(x, env) for x in (e.condition, e.then, e.otherwise))
                if self.cuts and (lazy := self.cuts.lazy.get(id(e))):
                    a, b = (self._arbitrary(e, a), b) if lazy.value is e.then else (a, self._arbitrary(e, b))
                return tile(shape, lambda lanes: ops.where(c.at(lanes), a.at(lanes), b.at(lanes)))
            case core.Cast():
                return self._cast(e, self.expression(e.operand, env))
            case core.Arange():
                return tile(shape, lambda lanes: Scalar(lanes[0]))
            case core.Broadcast():
                inner = self.expression(e.operand, env)
                return tile(shape, lambda lanes: _at(inner, lanes))
            case core.Expand():
                inner = self.expression(e.operand, env)
                return tile(shape, lambda lanes: inner.at(lanes[: e.axis] + lanes[e.axis + 1 :]))
            case core.Transpose():
                inner = self.expression(e.operand, env)
                return tile(shape, lambda lanes: inner.at((lanes[1], lanes[0])))
            case core.Reduce():
                out = _reduce(e, self.expression(e.operand, env))
                return self._arbitrary(e, out) if self.cuts and _is_maximum(e) else out
            case core.Dot():
                acc = None if e.acc is None else self.expression(e.acc, env)
                return _dot(e, self.expression(e.left, env), self.expression(e.right, env), acc)
            case core.Random():
                seed, counter = self.expression(e.seed, env), self.expression(e.counter, env)
                return tile(shape, lambda lanes: self._random(e, seed.at(()), counter.at(lanes)))
            case core.Load():
                return self._load(e, env)

    def _recorded(self, x: Scalar, span: Span) -> Scalar:
        """x; an integer is one that the kernel computes, and B2 gives it a width."""
        if isinstance(x.value, Int):
            self.integers.append((x.value, span))
        return x

    def _unary(self, e: core.Unary, x: Scalar) -> Scalar:
        if self.floats is not None and e.op in ("exp", "exp2"):
            x = replace(x, value=unrounded(x.real))
        return _unary(e, x)

    def _binary(self, e: core.Binary, a: Scalar, b: Scalar, premises: tuple[Bool, ...]) -> Scalar:
        """`premises`: of the place that computes it, which is not always the one that first asks for it."""
        if isinstance(a.value, Int):
            if e.op in ("floordiv", "mod"):
                self._positive_divisor(b.int, e.span)
            out = _int_binary(e.op, a.int, b.int)
            if isinstance(out, Int):
                self.integers.append((out, e.span))
                if e.type.dtype.value in ("i32", "i64"):
                    self.casts.append((out, e.type.dtype.bits, premises, e.span))
            return Scalar(out, TRUE, a.owes | b.owes)
        if isinstance(a.value, Bool):
            return Scalar(_bool_binary(e.op, a.bool, b.bool), TRUE, _bool_duties(e.op, a, b))
        made = _real_binary(e.op, a, b, e.span)
        return replace(made, owes=made.owes | apart_from_zero(e, a, b)) if id(e) in self.decisions.zero else made

    def _arbitrary(self, e: core.Expr, exact: Tile) -> Tile:
        """In place of a tile of maxima, or of one side of a comparison: finite where it is, and any numbers there."""
        number = self.sites.setdefault(id(e), len(self.sites))  # one place of the program, one name
        what = "cut" if self.cuts else "rounded"
        name = f"{self.kernel.name}.{what}{number}@{e.span.line}:{e.span.column}"
        scope = tuple(as_int(s) for s in scan.scope_of(self))
        return tiles.with_values(exact, lambda lanes: reals.of(reals.real_atom("pivot", name, (*lanes, *scope))))

    def _random(self, e: core.Random, seed: Scalar, counter: Scalar) -> Scalar:
        self.integers += [(seed.int, e.span), (counter.int, e.span)]
        return Scalar(reals.random(seed.int, counter.int), TRUE, seed.owes | counter.owes)

    def _positive_divisor(self, d: Int, span: Span) -> None:
        # By its static bounds, not by where the program is: terms move to places with other premises.
        if not positive(d):
            raise Unsupported(f"the divisor {d!r} is not known to be positive here", span)

    def _cast(self, e: core.Cast, operand: Tile) -> Tile:
        source, target, premises = e.operand.type.dtype, e.type.dtype, self.premises

        def at(lanes: Lanes) -> Scalar:
            x = operand.at(lanes)
            if isinstance(x.value, Int) and target.is_float:
                return Scalar(reals.of_int(x.value), TRUE, x.owes)
            if isinstance(x.value, Int) and target.value in ("i32", "i64"):
                self.casts.append((x.value, target.bits, premises, e.span))
            if isinstance(x.value, Bool) and not target.value == "bool":
                one_zero = choose(x.value, lift(1), lift(0))
                return Scalar(reals.of_int(one_zero) if target.is_float else one_zero, TRUE, x.owes)
            if target.value == "bool" and not isinstance(x.value, Bool) or source.is_float and not target.is_float:
                raise Unsupported(f"a cast from {source.value} to {target.value}", e.span)
            if target.value == "f16" and source.value == "f32":
                half = Duty("half", x.finite, TRUE, x.real, "the value cast to f16 fits", e.span)
                return Scalar(x.value, x.finite, x.owes | Duties((half,)))
            return x

        return tile(e.type.shape, at)

    def _load(self, e: core.Load, env: Mapping[str, Tile]) -> Tile:
        index = [self.expression(i, env) for i in e.index]
        mask = None if e.mask is None else self.expression(e.mask, env)
        other = None if e.other is None else self.expression(e.other, env)
        lanes = lane_symbols(e.type.shape)
        cell = tuple(_at(i, lanes).int for i in index)
        guard = TRUE if mask is None else _at(mask, lanes).bool
        place = _place(index, mask, lanes)
        self.accesses.append(
            Access("load", e.tensor, cell, guard, None, place, self.premises, lanes, self.counters, e.span)
        )
        self.integers += [(i, e.span) for i in cell]
        if e.type.dtype.is_int:
            self._recorded(self.read(e.tensor, cell, e.span), e.span)

        def at(lanes: Lanes) -> Scalar:
            stored = self.read(e.tensor, tuple(_at(i, lanes).int for i in index), e.span)
            stored = replace(stored, owes=stored.owes.union(*(_at(i, lanes).owes for i in index)))
            if mask is None or other is None:
                return stored
            return ops.where(_at(mask, lanes), stored, _at(other, lanes))

        return tile(e.type.shape, at)

    # ---- for scan --------------------------------------------------------------------------

    def rewrite_since(self, start: int, change: Substitution, duties: Callable[[Scalar], Scalar]) -> None:
        """Apply a substitution to the accesses recorded since position `start`."""
        for k in range(start, len(self.accesses)):
            a = self.accesses[k]
            self.accesses[k] = Access(
                a.kind, a.tensor, tuple(map(change.int, a.index)), change.bool(a.mask),
                None if a.value is None else duties(a.value), duties(a.place), tuple(map(change.bool, a.premises)),
                a.lanes, a.counters, a.span,
            )  # fmt: skip


def constant_tile(value: Scalar, shape: tuple[int, ...] = ()) -> Tile:
    return Tile(shape, lambda lanes: value)


def _literal(e: core.Literal) -> Scalar:
    if e.type.dtype.is_float:
        return ops.literal(e.value)
    if e.type.dtype is core.DType.BOOL:
        return Scalar(TRUE if e.value else FALSE)
    return Scalar(lift(int(e.value)))


def _is_infinity(e: core.Expr) -> bool:
    while isinstance(e, (core.Broadcast, core.Cast)):
        e = e.operand
    return isinstance(e, core.Constant) and e.name == "inf"


def _at(t: Tile, lanes: Lanes) -> Scalar:
    """The scalar of a tile that broadcasts to the rank of `lanes`."""
    if not t.shape:
        return t.at(())
    return t.at(tuple(lift(0) if n == 1 else lane for n, lane in zip(t.shape, lanes, strict=True)))


def _place(index: list[Tile], mask: Tile | None, lanes: Lanes) -> Scalar:
    """The mask at these lanes; it owes its own duties everywhere, and the index's where it holds."""
    guard = Scalar(TRUE) if mask is None else _at(mask, lanes)
    return Scalar(guard.value, TRUE, guard.owes.union(*(under(guard.bool, _at(i, lanes).owes) for i in index)))


def _broadcast_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    rank = max(map(len, shapes))
    full = [s for s in shapes if len(s) == rank]
    return tuple(max(s[k] for s in full) for k in range(rank))


def _unary(e: core.Unary, x: Scalar) -> Scalar:
    match e.op:
        case "neg":
            return Scalar(-x.int, TRUE, x.owes) if isinstance(x.value, Int) else ops.negative(x, e.span)
        case "not":
            return Scalar(negate(x.bool), TRUE, x.owes)
        case "exp" | "exp2":
            return ops.exponential(x, e.span, base_two=e.op == "exp2")
        case "log" | "log2":
            return ops.logarithm(x, e.span, base_two=e.op == "log2")
        case "abs" if isinstance(x.value, Int):
            return Scalar(maximum(x.int, -x.int), TRUE, x.owes)
        case _:
            return ops.function(e.op, x, e.span)


def _int_binary(op: str, a: Int, b: Int) -> Int | Bool:
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "floordiv":
            return div(a, b)
        case "mod":
            return mod(a, b)
        case "min":
            return minimum(a, b)
        case "max":
            return maximum(a, b)
        case _:
            return ops.compare_ints(op, a, b)


def _bool_binary(op: str, a: Bool, b: Bool) -> Bool:
    match op:
        case "and":
            return conj((a, b))
        case "or":
            return disj((a, b))
        case _:
            same = disj((conj((a, b)), conj((negate(a), negate(b)))))
            return same if op == "eq" else negate(same)


def _bool_duties(op: str, a: Scalar, b: Scalar) -> Duties:
    """`a and b`: what b owes counts where a holds (a NaN comparison in b cannot matter elsewhere)."""
    if op == "and":
        return a.owes | under(a.bool, b.owes)
    return a.owes | (under(negate(a.bool), b.owes) if op == "or" else b.owes)


def _is_maximum(e: core.Binary | core.Reduce) -> bool:
    return e.op in ("max", "min") and e.type.dtype.is_float


def _real_binary(op: str, a: Scalar, b: Scalar, span: Span) -> Scalar:
    match op:
        case "add":
            return ops.add(a, b)
        case "sub":
            return ops.subtract(a, b, span)
        case "mul":
            return ops.multiply(a, b, span)
        case "div":
            return ops.divide(a, b, span)
        case "max":
            return ops.maximum(a, b)
        case "min":
            return ops.minimum(a, b, span)
        case _:
            return ops.compare_reals(op, a, b)


def _reduce(e: core.Reduce, operand: Tile) -> Tile:
    extent = operand.shape[e.axis]

    def at(lanes: Lanes) -> Scalar:
        lane = atom_of_lane(extent)
        x = operand.at((*lanes[: e.axis], lane, *lanes[e.axis :]))
        if not isinstance(x.value, reals.Real):
            raise Unsupported(f"the {e.op} of integers along an axis", e.span)
        if extent == 1:
            return x
        if e.op == "sum":
            return ops.reduce_sum(atom_of(lane), x, e.span)
        if e.op == "max":
            return ops.reduce_max(atom_of(lane), x)
        low = ops.reduce_max(atom_of(lane), ops.negative(x, e.span))
        return ops.negative(low, e.span)

    return tile(e.type.shape, at)


def atom_of_lane(extent: int) -> Int:
    return lift(0) if extent == 1 else as_int(fresh("lane", 0, extent - 1))


def _dot(e: core.Dot, left: Tile, right: Tile, acc: Tile | None) -> Tile:
    extent = left.shape[1]

    def at(lanes: Lanes) -> Scalar:
        k = atom_of_lane(extent)
        x, y = left.at((lanes[0], k)), right.at((k, lanes[1]))
        product = ops.multiply(x, y, e.span)
        summed = product if extent == 1 else ops.reduce_sum(atom_of(k), product, e.span)
        return summed if acc is None else ops.add(acc.at(lanes), summed)

    return tile(e.type.shape, at)
