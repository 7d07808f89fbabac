"""Formula expressions as kernel text: which tile each one is, where it is computed, how its axes line up.

Axes have one order everywhere: the tiled row, the key, then static lanes. An expression is written directly over the
axes it is wanted on; loads and contractions are named once, in the loop body when they depend on the key and before
the loop when they do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Context
from fractions import Fraction

from ir.ast import Big, Binary, Call, Element, Expr, If, Name, Number, Unary
from ir.program import DType
from ir.spec import Bound
from synth.propose import NothingToPropose
from synth.propose.formula import COMPARISONS, conjuncts, factors, free, product, substitute, walk

ROW, KEY = "row", "key"
ELEMENTWISE = ("exp", "exp2", "log", "log2", "sqrt", "abs", "tanh", "sigmoid")
SMALLEST_DOT = 16  # tensor cores take no shorter inner dimension


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of tiles: its extent as kernel text, and the condition under which a lane is a real one."""

    extent: str
    mask: Expr | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """Kernel text with its type; `atomic` text needs no brackets around it."""

    text: str
    kind: DType
    atomic: bool = False

    @property
    def bracketed(self) -> str:
        return self.text if self.atomic else f"({self.text})"


@dataclass(frozen=True, slots=True)
class Variable:
    """What a name of the formula is in the kernel: text, and the axes it varies over (none for a program id)."""

    text: str
    axes: tuple[str, ...] = ()
    kind: DType = DType.INT


@dataclass
class Names:
    """Hands out names that collide with nothing in the spec or the kernel."""

    taken: set[str]

    def fresh(self, wanted: str) -> str:
        name, count = wanted, 1
        while name in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.taken.add(name)
        return name


@dataclass
class Block:
    """Lines of one scope, and the names already given to expressions in it."""

    lines: list[str] = field(default_factory=list)
    named: dict[tuple[Expr, tuple[str, ...]], Value] = field(default_factory=dict)


@dataclass
class Emitter:
    """Writes expressions into two blocks: `outer`, before the loops, and `inner`, the current loop body.

    `axes` is ordered and holds every axis a tile may have; `guard` limits loads at computed indices to visible cells.
    """

    bound: Bound
    names: Names
    variables: dict[str, Variable]
    axes: dict[str, Axis]
    outer: Block = field(default_factory=Block)
    inner: Block = field(default_factory=Block)
    guard: tuple[Expr, ...] = ()

    # ---- axes ----

    def axes_of(self, expr: Expr) -> tuple[str, ...]:
        found = {a for name in free(expr) for a in self._variable(name).axes}
        return self.ordered(found)

    def ordered(self, axes: Iterable[str]) -> tuple[str, ...]:
        wanted = set(axes)
        return tuple(a for a in self.axes if a in wanted)

    def _variable(self, name: str) -> Variable:
        if name in self.variables:
            return self.variables[name]
        kind = DType.F32 if name in self._reals() else DType.BOOL if name in ("true", "false") else DType.INT
        return Variable(name, (), kind)

    def _reals(self) -> set[str]:
        return {"inf", "log2e", "ln2", *(p.name for p in self.bound.spec.parameters)}

    def block(self, axes: tuple[str, ...]) -> Block:
        return self.inner if KEY in axes else self.outer

    def name(self, stem: str, value: Value, axes: tuple[str, ...], comment: str = "") -> Value:
        """Assign `value` to a fresh name in the block it belongs to."""
        name = self.names.fresh(stem)
        self.block(axes).lines.append(f"{name} = {value.text}" + (f"  # {comment}" if comment else ""))
        return Value(name, value.kind, True)

    def expanded(self, value: Value, axes: tuple[str, ...], target: tuple[str, ...]) -> Value:
        """A tile over `axes` as one over `target`, with extents of 1 where it does not vary."""
        if not axes or axes == target:
            return value
        picks = ", ".join(":" if a in axes else "None" for a in target)
        return Value(f"{value.bracketed}[{picks}]", value.kind, True)

    def filled(self, value: Value, axes: tuple[str, ...], target: tuple[str, ...]) -> Value:
        """A tile with its full extents, where it was written with extents of 1 or as a scalar."""
        if axes == target:
            return value
        extents = ", ".join(self.axes[a].extent for a in target)
        return Value(f"broadcast({value.text}, [{extents}])", value.kind, True)

    def is_scalar_parameter(self, expr: Expr) -> bool:
        """Whether an expression is made of numbers, sizes and parameters only: one value for the whole launch."""
        return not free(expr) & set(self.variables) and not any(isinstance(e, Element | Big) for e in walk(expr))

    # ---- expressions ----

    def emit(self, expr: Expr, target: tuple[str, ...]) -> Value:
        """`expr` over `target`, which must include its axes; a value that varies over none of them is a scalar."""
        match expr:
            case Number(value, is_float):
                kind = DType.F32 if is_float or value.denominator != 1 else DType.INT
                return Value(_literal(value, kind), kind, value >= 0)
            case Name(id):
                variable = self._variable(id)
                return self.expanded(Value(variable.text, variable.kind, True), variable.axes, target)
            case Element():
                axes = self.axes_of(expr)
                return self.expanded(self.load(expr), axes, target)
            case Unary(op, operand):
                inner = self.emit(operand, target)
                return Value(f"{'not ' if op == 'not' else '-'}{inner.bracketed}", inner.kind)
            case Binary():
                return self._binary(expr, target)
            case If(condition, then, otherwise):
                a, b = self._together(self.emit(then, target), self.emit(otherwise, target))
                return Value(f"where({self.emit(condition, target).text}, {a.text}, {b.text})", a.kind, True)
            case Call():
                return self._call(expr, target)
            case Big():
                return self._short_sum(expr, target)
            case _:
                raise NothingToPropose(f"no kernel text for a {type(expr).__name__} in a formula")

    def real(self, expr: Expr, target: tuple[str, ...]) -> Value:
        return self.as_f32(self.emit(expr, target))

    def as_f32(self, value: Value) -> Value:
        if value.kind is DType.F32:
            return value
        digits = value.text.lstrip("-")
        if value.kind is DType.INT and digits.isdigit():
            return Value(f"{value.text}.0", DType.F32, value.atomic)
        return Value(f"cast({value.text}, f32)", DType.F32, True)

    def _together(self, a: Value, b: Value) -> tuple[Value, Value]:
        if a.kind is b.kind and not a.kind.is_float:
            return a, b
        return self.as_f32(a), self.as_f32(b)

    def _binary(self, expr: Binary, target: tuple[str, ...]) -> Value:
        a, b = self.emit(expr.left, target), self.emit(expr.right, target)
        if expr.op == "/":
            a, b = self.as_f32(a), self.as_f32(b)
        elif expr.op not in ("and", "or"):
            a, b = self._together(a, b)
        kind = DType.BOOL if expr.op in (*COMPARISONS, "and", "or") else a.kind
        return Value(f"{a.bracketed} {expr.op} {b.bracketed}", kind)

    def _call(self, expr: Call, target: tuple[str, ...]) -> Value:
        if expr.function in ELEMENTWISE and len(expr.args) == 1:
            return Value(f"{expr.function}({self.real(expr.args[0], target).text})", DType.F32, True)
        if expr.function == "cdiv":
            a, b = (self.emit(arg, target) for arg in expr.args)
            return Value(f"cdiv({a.text}, {b.text})", DType.INT, True)
        if expr.function in ("max", "min", "maximum", "minimum") and len(expr.args) == 2:
            a, b = self._together(*(self.emit(arg, target) for arg in expr.args))
            scalar = a.kind is DType.INT and not self.axes_of(expr)
            return Value(f"{expr.function[:3] + ('' if scalar else 'imum')}({a.text}, {b.text})", a.kind, True)
        raise NothingToPropose(f"no kernel text for {expr.function} with {len(expr.args)} arguments")

    # ---- loads ----

    def load(self, cell: Element) -> Value:
        """The tile of a tensor over the axes its index varies on, named after the tensor."""
        axes = self.axes_of(cell)
        block = self.block(axes)
        if (known := block.named.get((cell, axes))) is not None:
            return known
        found = next(((t, d) for t, d in self.bound.inputs if t.name == cell.name), None)
        if found is None:  # such as the part of a packed dimension that an index lies in
            raise NothingToPropose(f"{cell.name} is no input that a kernel could load")
        tensor, dtype = found
        places = [self._place(i, axes, e) for i, e in zip(cell.index, tensor.shape, strict=True)]
        mask = self.mask(axes, guarded=any(not isinstance(i, Name) and self.axes_of(i) for i in cell.index))
        tail = f", mask={mask.text}, other=0" if mask else ""
        text = f"load({cell.name}[{', '.join(places)}]{tail})"
        stem = cell.name.lower() if cell.name.lower() != cell.name else f"{cell.name}_tile"
        value = self.name(stem, Value(text, dtype), axes)
        block.named[cell, axes] = value
        return value

    def _place(self, index: Expr, axes: tuple[str, ...], extent: Expr) -> str:
        own = self.axes_of(index)
        if own or isinstance(index, Name | Number):
            return self.emit(index, axes).text
        known = self.outer.named.get((index, ()))
        if known is None:
            stem = extent.id.lower() if isinstance(extent, Name) else "at"
            known = self.name(stem, self.emit(index, ()), (), f"index into {stem.upper()}")
            self.outer.named[index, ()] = known
        return known.text

    def mask(self, axes: tuple[str, ...], guarded: bool = False, target: tuple[str, ...] | None = None) -> Value | None:
        """Which lanes of a tile over `axes` are real cells; with `guarded` only those a visible key needs."""
        parts = [p for a in axes if (m := self.axes[a].mask) is not None for p in conjuncts(m)]
        if guarded:
            parts += [g for g in self.guard if set(self.axes_of(g)) <= set(axes)]
        return self.conjunction(parts, axes if target is None else target)

    def conjunction(self, parts: list[Expr], target: tuple[str, ...]) -> Value | None:
        values = [self.emit(p, target) for p in parts]
        if len(values) < 2:
            return values[0] if values else None
        return Value(" and ".join(v.bracketed for v in values), DType.BOOL)

    # ---- sums and maxima over static axes ----

    def lane(self, extent: Expr, wanted: str = "e") -> Variable:
        """The lanes 0..extent-1 of a static extent, shared by every variable of that extent."""
        known = self.outer.named.get((extent, (KEY, KEY)))
        if known is not None:
            return Variable(known.text, (known.text,))
        size = self.static(extent)
        width = 1 << (size - 1).bit_length()
        text = self.emit(extent, ()).text if width == size else str(width)
        name = self.names.fresh(wanted)
        self.outer.lines.append(f"{name} = arange({text})")
        self.axes[name] = Axis(text, None if width == size else Binary("<", Name(name), extent))
        self.variables[name] = Variable(name, (name,))
        self.outer.named[extent, (KEY, KEY)] = Value(name, DType.INT, True)
        return self.variables[name]

    def static(self, extent: Expr) -> int:
        """The number a static extent is under the spec's settings."""
        match extent:
            case Number(value):
                return int(value)
            case Name(id) if isinstance(number := self.bound.setting(id), int):
                return number
            case Binary("+" | "-" | "*" | "//" as op, left, right):
                a, b = self.static(left), self.static(right)
                return {"+": a + b, "-": a - b, "*": a * b, "//": a // b if b else 0}[op]
            case _:
                raise NothingToPropose("a short sum whose extent is not a number under these settings")

    def _short_sum(self, big: Big, target: tuple[str, ...]) -> Value:
        lane = self._second_lane(big, target)
        body = substitute(big.body, {big.variable: Name(lane)})
        conditions = tuple(substitute(c, {big.variable: Name(lane)}) for c in big.conditions)
        long_enough = self.static(big.bound) >= SMALLEST_DOT
        if big.op == "sum" and long_enough and not conditions and (dot := self._dot(body, lane, target)) is not None:
            return dot
        inner = self.ordered({*self.axes_of(body), lane, *(a for c in conditions for a in self.axes_of(c))})
        if len(inner) > 3:
            raise NothingToPropose("a short sum that needs tiles of more than three axes")
        value = self.real(body, inner)
        real = [*conditions, *conjuncts(self.axes[lane].mask or Name("true"))]
        if (mask := self.conjunction(real, inner)) is not None:
            value = Value(f"where({mask.text}, {value.text}, {'0.0' if big.op == 'sum' else '-inf'})", DType.F32, True)
        axes = tuple(a for a in inner if a != lane)
        text = Value(f"{big.op}({value.text}, axis={inner.index(lane)})", DType.F32, True)
        return text if axes == target else self.expanded(self.name("part", text, axes), axes, target)

    def _second_lane(self, big: Big, target: tuple[str, ...]) -> str:
        """The lanes a short sum runs over; a second arange where the shared one is an axis of the result."""
        lane = self.lane(big.bound).text
        if lane not in target and lane not in self.axes_of(big):
            return lane
        name = self.names.fresh("c")
        self.outer.lines.append(f"{name} = arange({self.axes[lane].extent})")
        mask = self.axes[lane].mask
        self.axes[name] = Axis(self.axes[lane].extent, None if mask is None else substitute(mask, {lane: Name(name)}))
        self.variables[name] = Variable(name, (name,))
        return name

    def _dot(self, body: Expr, lane: str, target: tuple[str, ...]) -> Value | None:
        """A sum of products as `dot` when the factors fall into two sides of one axis each; else None."""
        parts = factors(body)
        outside = [(f, n) for f, n in parts if lane not in self.axes_of(f)]
        inside = [(f, n) for f, n in parts if lane in self.axes_of(f)]
        axes = self.ordered(a for f, _ in inside for a in self.axes_of(f) if a != lane)
        if len(axes) != 2:
            return None
        left = [(f, n) for f, n in inside if axes[1] not in self.axes_of(f)]
        right = [(f, n) for f, n in inside if axes[0] not in self.axes_of(f)]
        if len(left) + len(right) != len(inside) or not left or not right:
            return None
        a, b = self._side(left, axes[0], lane), self._side(right, axes[1], lane)
        if a[0].kind is not b[0].kind:
            a, b = (self.as_f32(a[0]), a[1]), (self.as_f32(b[0]), b[1])
        first = a[0].text if a[1][1] == lane else f"trans({a[0].text})"
        second = b[0].text if b[1][0] == lane else f"trans({b[0].text})"
        value = Value(f"dot({first}, {second})", DType.F32, True)
        if axes != target:
            value = self.expanded(self.name("prod", value, axes), axes, target)
        if not outside:
            return value
        return Value(f"{value.text} * {self.real(product(outside), target).bracketed}", DType.F32)

    def _side(self, parts: list[tuple[Expr, int]], axis: str, lane: str) -> tuple[Value, tuple[str, ...]]:
        order = self.ordered((axis, lane))
        match parts:
            case [(Element() as cell, 1)] if self.axes_of(cell) == order:
                return self.load(cell), order
        value = self.real(product(parts), order)
        if (mask := self.conjunction(conjuncts(self.axes[lane].mask or Name("true")), order)) is not None:
            value = Value(f"where({mask.text}, {value.text}, 0.0)", DType.F32, True)
        return value, order


def _literal(value: Fraction, kind: DType) -> str:
    if value.denominator == 1:
        return f"{int(value)}" if kind is DType.INT else f"{int(value)}.0"
    exact = Context(prec=400).divide(value.numerator, value.denominator)
    return f"{exact:f}"
