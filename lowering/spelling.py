"""How each expression of the typed core is spelled in Triton, and why the spelling is faithful:

- every integer is computed in the width B2 proved for the kernel's integers: sizes, program ids, ranges
  and counters enter in that width, and Triton's promotion then never narrows them; strides enter in the
  width proved for address offsets, which may be wider, and widen what they multiply;
- Triton's `//` and `%` truncate; they are used only where both operands are known non-negative,
  elsewhere `_floordiv` and `_mod` round towards minus infinity as the language says;
- `tl.rand` splits a 64-bit counter into two words and takes a 32-bit one as non-negative: it is always given
  64 bits, which is `ir.random` for every integer;
- Triton folds arithmetic between two literals in double precision, so one of them is always
  materialised in the candidate's dtype first; casts are explicit in the typed core, so no other
  promotion happens.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from ir.program import (
    Arange,
    Binary,
    Broadcast,
    Cast,
    Constant,
    Dot,
    DType,
    Expand,
    Expr,
    Literal,
    Load,
    Param,
    Random,
    Reduce,
    Select,
    Size,
    Transpose,
    Type,
    Unary,
    Var,
)
from lowering.accesses import BoxLoad, BoxStore, descriptor_name
from lowering.intervals import Interval, interval
from lowering.plan import argument_name, stride_name
from lowering.unit_factors import SCALED, scaling

COLUMNS = 116

# Python precedence of what a piece of text is, loosest first.
COMPARISON, OR, AND, SUM, PRODUCT, SIGN, ATOM = range(7)
INFIX = {
    "add": ("+", SUM), "sub": ("-", SUM), "mul": ("*", PRODUCT), "div": ("/", PRODUCT),
    "floordiv": ("//", PRODUCT), "mod": ("%", PRODUCT), "and": ("&", AND), "or": ("|", OR),
    "lt": ("<", COMPARISON), "le": ("<=", COMPARISON), "gt": (">", COMPARISON),
    "ge": (">=", COMPARISON), "eq": ("==", COMPARISON), "ne": ("!=", COMPARISON),
}  # fmt: skip
FLOATS = {DType.F32: "tl.float32", DType.F16: "tl.float16", DType.BF16: "tl.bfloat16"}
CONSTANTS = {"log2e": "1.4426950408889634", "ln2": "0.6931471805599453", "inf": 'float("inf")'}
FUNCTIONS = {f: f"tl.{f}" for f in ("exp", "exp2", "log", "log2", "abs", "sqrt", "sigmoid")} | {"tanh": "_tanh"}
FOLD: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "min": min, "max": max, "floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b,
}  # fmt: skip

HELPERS = {
    "_floordiv": '''
@triton.jit
def _floordiv(a, b):
    """a // b rounded towards minus infinity (Triton's own rounds towards zero)."""
    q = a // b
    r = a - q * b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
''',
    "_mod": '''
@triton.jit
def _mod(a, b):
    """a - b * floor(a / b); takes the sign of b."""
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
''',
    "_tanh": '''
@triton.jit
def _tanh(x):
    """tanh to a few ulp: its series near 0, where the quotient would cancel."""
    s = x * x
    series = x * (1.0 + s * (-0.3333333333333333 + s * (0.13333333333333333 - s * 0.05396825396825397)))
    e = tl.exp(-2.0 * tl.abs(x))
    quotient = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.2, series, tl.where(x < 0, -quotient, quotient))
''',
    "_scaled": SCALED,
}


class UnsupportedByTriton(Exception):
    """A well-typed program uses something this backend has no spelling for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Emitted text. `shape` may have fewer lanes than the typed shape where Triton broadcasts by itself;
    `literal` marks a Python number, whose dtype would follow its neighbour; `value` is set for integers."""

    text: str
    level: int = ATOM
    shape: tuple[int, ...] = ()
    literal: bool = False
    value: int | None = None

    def within(self, level: int) -> str:
        return self.text if self.level >= level else f"({self.text})"

    def method(self, call: str) -> Piece:
        """`x.to(...)`, `x[:, None]`."""
        return Piece(self.within(ATOM) + call, shape=self.shape)


@dataclass(slots=True)
class Writer:
    """State while one kernel is written: the lines so far, the names taken, and what is known of them."""

    width: int
    sizes: Mapping[str, Interval]
    taken: set[str]
    shared: Mapping[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    ranges: dict[str, Interval] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)
    skipping: frozenset[str] = frozenset()  # tiles whose factors of 1 are skipped in the loop being written

    def name(self, wanted: str) -> str:
        """A Python name for a candidate's name: the same, unless it is taken or shares another's variable."""
        wanted = self.shared.get(wanted, wanted)
        if wanted not in self.names:
            text = wanted
            while text in self.taken or keyword.iskeyword(text):
                text += "_"
            self.taken.add(text)
            self.names[wanted] = text
        return self.names[wanted]

    def varies(self, name: str) -> bool:
        """Whether a loop gives the variable of this name other values later."""
        return name in self.shared or name in self.shared.values()

    def fresh(self, wanted: str) -> str:
        """A name for something the candidate has no name for."""
        while wanted in self.taken or wanted in self.names:
            wanted += "_"
        self.taken.add(wanted)
        return wanted

    def dtype(self, dtype: DType) -> str:
        """INT and I32 are computed in the kernel's width: wider than asked is always right."""
        if dtype is DType.BOOL:
            return "tl.int1"
        if dtype.is_int:
            return "tl.int64" if self.width == 64 or dtype is DType.I64 else "tl.int32"
        return FLOATS[dtype]

    def special(self, e: Expr) -> Piece | None:
        """What a language beside Triton's own spells in another way; None for the spelling below."""
        return None

    def full(self, shape: tuple[int, ...], text: str, dtype: str) -> str:
        return f"tl.full({list(shape)}, {text}, {dtype})"

    def broadcast(self, piece: Piece, shape: tuple[int, ...], dtype: str) -> str:
        """`dtype`: of the lanes; empty for addresses."""
        return f"tl.broadcast_to({piece.text}, {list(shape)})"

    def line(self, depth: int, text: str, comment: str = "") -> None:
        pad = "    " * depth
        notes = [note.strip().lstrip("#").strip() for note in comment.splitlines() if note.strip()]
        one = f"  # {notes[0]}" if len(notes) == 1 else ""
        if not one or len(pad + text + one) > COLUMNS:
            self.lines += [f"{pad}# {note}" for note in notes]
            one = ""
        self.lines.append(pad + text + one)

    def call(self, depth: int, head: str, text: str, comment: str = "") -> None:
        """One statement; a call that would be too long gets one line per argument."""
        name, parts = split_call(text)
        if len("    " * depth + head + text) <= COLUMNS or len(parts) < 2:
            self.line(depth, head + text, comment)
            return
        self.line(depth, f"{head}{name}(", comment)
        for part in parts:
            self.line(depth + 1, f"{part},")
        self.line(depth, ")")


def split_call(text: str) -> tuple[str, list[str]]:
    """`f(a, g(b, c))` as ("f", ["a", "g(b, c)"]); no parts when the text is more than one call."""
    name, _, rest = text.partition("(")
    if not name.replace(".", "").isidentifier() or not rest.endswith(")"):
        return text, []
    parts, depth, start = [], 0, 0
    for at, char in enumerate(rest):
        depth += (char in "([") - (char in ")]")
        if depth == 0 and char == ",":
            parts.append(rest[start:at].strip())
            start = at + 1
        if depth < 0:
            return (name, [*parts, rest[start:at].strip()]) if at == len(rest) - 1 else (text, [])
    return text, []


# ---- expressions -----------------------------------------------------------------------------


def _join(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    tiles = [s for s in shapes if s]
    if not tiles:
        return ()
    return tuple(max(extents) for extents in zip(*tiles, strict=True))


def tensor(w: Writer, piece: Piece, type_: Type) -> Piece:
    """The piece as a Triton tensor of the right dtype (a Python number becomes a 0-d constant)."""
    if not piece.literal:
        return piece
    return Piece(w.full((), piece.text, w.dtype(type_.dtype)))


def shaped(w: Writer, piece: Piece, type_: Type) -> Piece:
    """The piece with exactly the typed shape and dtype."""
    if piece.literal:
        return Piece(w.full(type_.shape, piece.text, w.dtype(type_.dtype)), shape=type_.shape)
    if piece.shape != type_.shape:
        return Piece(w.broadcast(piece, type_.shape, w.dtype(type_.dtype)), shape=type_.shape)
    return piece


def _number(value: int) -> Piece:
    return Piece(str(value), ATOM if value >= 0 else SIGN, literal=True, value=value)


def _literal(e: Literal) -> Piece:
    if e.type.dtype is DType.BOOL:
        return Piece(str(bool(e.value)), literal=True)
    if e.type.dtype.is_int:
        return _number(int(e.value))
    value = float(e.value)
    return Piece(repr(value), ATOM if value >= 0 else SIGN, literal=True)


def _infix(symbol: str, level: int, left: Piece, right: Piece) -> Piece:
    first = level + 1 if level == COMPARISON else level  # comparisons would chain
    text = f"{left.within(first)} {symbol} {right.within(level + 1)}"
    return Piece(text, level, _join(left.shape, right.shape))


def _binary(w: Writer, e: Binary) -> Piece:
    if (scaled := scaling(e, w.skipping)) is not None:
        tile, factors, axis = scaled
        w.helpers.add("_scaled")
        text = f"_scaled({expr(w, tile).text}, {shaped(w, expr(w, factors), factors.type).text}, {axis})"
        return Piece(text, shape=e.type.shape)
    left, right = expr(w, e.left), expr(w, e.right)
    if left.value is not None and right.value is not None and e.op in FOLD:
        if right.value == 0 and e.op in ("floordiv", "mod"):
            raise UnsupportedByTriton("an integer division by the constant zero")
        return _number(FOLD[e.op](left.value, right.value))
    if left.literal and right.literal:
        left = tensor(w, left, e.left.type)
    if e.left.type.dtype is DType.BOOL:  # Python's True is an integer to Triton's operators
        left, right = tensor(w, left, e.left.type), tensor(w, right, e.right.type)
    if e.op in ("min", "max"):
        return Piece(f"tl.{e.op}imum({left.text}, {right.text})", shape=_join(left.shape, right.shape))
    if e.op in ("floordiv", "mod") and not (_non_negative(w, e.left) and _non_negative(w, e.right)):
        w.helpers.add(f"_{e.op}")
        left = tensor(w, left, e.left.type)
        return Piece(f"_{e.op}({left.text}, {right.text})", shape=_join(left.shape, right.shape))
    symbol, level = INFIX[e.op]
    out = _infix(symbol, level, left, right)
    if e.op == "div" and e.type.dtype is not DType.F32:  # Triton divides in f32, and leaves it at that
        return out.method(f".to({w.dtype(e.type.dtype)})")
    return out


def _non_negative(w: Writer, e: Expr) -> bool:
    low, _ = interval(e, w.sizes, w.ranges)
    return low is not None and low >= 0


def _unary(w: Writer, e: Unary) -> Piece:
    x = expr(w, e.operand)
    if e.op == "neg":
        if x.value is not None:
            return _number(-x.value)
        return Piece(f"-{x.within(ATOM)}", SIGN, x.shape, x.literal)
    x = tensor(w, x, e.operand.type)
    if e.op == "not":
        return Piece(f"{x.within(OR)} == 0", COMPARISON, x.shape)
    if e.op not in FUNCTIONS:
        raise UnsupportedByTriton(f"the function {e.op}")
    if e.op == "tanh":
        w.helpers.add("_tanh")
    return Piece(f"{FUNCTIONS[e.op]}({x.text})", shape=x.shape)


def _cast(w: Writer, e: Cast) -> Piece:
    x, source, target = expr(w, e.operand), e.operand.type.dtype, e.type.dtype
    if source is target or (w.dtype(source) == w.dtype(target)):
        return x
    x = tensor(w, x, e.operand.type)
    if target is DType.BOOL:
        return Piece(f"{x.within(OR)} != 0", COMPARISON, x.shape)
    return x.method(f".to({w.dtype(target)})")


def _expand(w: Writer, e: Expand) -> Piece:
    x = shaped(w, expr(w, e.operand), e.operand.type)
    slots = [":"] * len(e.type.shape)
    slots[e.axis] = "None"
    return Piece(f"{x.within(ATOM)}[{', '.join(slots)}]", shape=e.type.shape)


def _reduce(w: Writer, e: Reduce) -> Piece:
    x = shaped(w, expr(w, e.operand), e.operand.type)
    half = e.type.dtype in (DType.F16, DType.BF16)
    if half:  # Triton promotes bf16 and not f16; say f32 for both, and round once at the end
        x = x.method(".to(tl.float32)")
    inner = x.text
    if e.op == "sum" and e.axis == 1 and len(e.operand.type.shape) == 3 and e.type.dtype is DType.F32:
        # Of sum(a[:, :, None] * b[None, :, :], axis=1) Triton makes a TF32 dot, of 10 bits; not of a sum with 0.
        inner = f"{x.within(SUM)} + 0.0"
    text = f"tl.{e.op}({inner}, axis={e.axis})"
    return Piece(text + (f".to({w.dtype(e.type.dtype)})" if half else ""), shape=e.type.shape)


def _dot(w: Writer, e: Dot) -> Piece:
    parts = [shaped(w, expr(w, x), x.type).text for x in (e.left, e.right)]
    if e.acc is not None:
        parts.append(shaped(w, expr(w, e.acc), e.acc.type).text)
    if e.left.type.dtype is DType.F32:  # the default, TF32, keeps 10 bits of the operands
        parts.append('input_precision="ieee"')
    return Piece(f"tl.dot({', '.join(parts)})", shape=e.type.shape)


def _select(w: Writer, e: Select) -> Piece:
    condition = tensor(w, expr(w, e.condition), e.condition.type)
    then, otherwise = expr(w, e.then), expr(w, e.otherwise)
    if then.literal and otherwise.literal:
        then = tensor(w, then, e.then.type)
    shape = _join(condition.shape, then.shape, otherwise.shape)
    return Piece(f"tl.where({condition.text}, {then.text}, {otherwise.text})", shape=shape)


def address(w: Writer, name: str, index: tuple[Expr, ...], shape: tuple[int, ...]) -> str:
    """`T + b * T_s0 + i[:, None] * T_s2`: scalar terms first, so that a tile of addresses is built late."""
    terms: list[Piece] = []
    for axis, e in enumerate(index):
        piece = expr(w, e)
        if piece.value == 0:
            continue
        stride = Piece(stride_name(name, axis))
        terms.append(_infix("*", PRODUCT, tensor(w, piece, e.type), stride))
    terms.sort(key=lambda t: sum(n > 1 for n in t.shape) if t.shape else -1)
    text = " + ".join([argument_name(name)] + [t.within(PRODUCT) for t in terms])
    lanes = _join(*(t.shape for t in terms))
    return text if lanes == shape else w.broadcast(Piece(text, SUM, lanes), shape, "")


def _random(w: Writer, e: Random) -> Piece:
    seed, counter = (tensor(w, expr(w, x), x.type).method(".to(tl.int64)") for x in (e.seed, e.counter))
    return Piece(f"tl.rand({seed.text}, {counter.text})", shape=counter.shape)


def box(w: Writer, e: BoxLoad | BoxStore) -> tuple[str, str, list[int]]:
    """A descriptor, `[b, h, t * 128, 0]`, where in it the box starts, and the box's extents."""
    places = [expr(w, x).text for x in e.index]
    if not e.made:
        return descriptor_name(e.tensor, e.box), f"[{', '.join(places)}]", list(e.box)
    walked = [axis for axis, extent in enumerate(e.box) if extent > 1]
    zero = Literal(Fraction(0), Type(DType.INT))
    base = address(w, e.tensor, tuple(zero if axis in walked else x for axis, x in enumerate(e.index)), ())
    extents = [e.box[axis] for axis in walked]
    shape = ", ".join(expr(w, x).text for x in e.made)
    steps = ", ".join([*(stride_name(e.tensor, axis) for axis in walked[:-1]), "1"])
    made = f"tl.make_tensor_descriptor({base}, [{shape}], [{steps}], {extents})"
    return made, f"[{', '.join(places[axis] for axis in walked)}]", extents


def _load(w: Writer, e: Load) -> Piece:
    if isinstance(e, BoxLoad):
        descriptor, place, extents = box(w, e)
        text = f"{descriptor}.load({place})"
        shape = list(e.type.shape)
        return Piece(text if shape == extents else f"{text}.reshape({shape})", shape=e.type.shape)
    parts = [address(w, e.tensor, e.index, e.type.shape)]
    if e.mask is not None:
        mask = tensor(w, expr(w, e.mask), e.mask.type)
        parts.append(f"mask={mask.text}")
        if e.other is not None:
            parts.append(f"other={expr(w, e.other).text}")
    text = f"tl.load({', '.join(parts)})"
    if e.type.dtype.is_int:  # stored integers join the kernel's width at once
        text += f".to({w.dtype(e.type.dtype)})"
    return Piece(text, shape=e.type.shape)


def expr(w: Writer, e: Expr) -> Piece:
    special = w.special(e)
    if special is not None:
        return special
    match e:
        case Literal():
            return _literal(e)
        case Constant(name=name):
            return Piece(CONSTANTS[name], literal=True)
        case Var(name=name) if name in w.constants:
            return _number(w.constants[name])
        case Var(name=name):
            return Piece(w.name(name), shape=e.type.shape)
        case Size(name=name) | Param(name=name):
            return Piece(argument_name(name))
        case Unary():
            return _unary(w, e)
        case Binary():
            return _binary(w, e)
        case Select():
            return _select(w, e)
        case Cast():
            return _cast(w, e)
        case Arange():
            wide = ".to(tl.int64)" if w.width == 64 else ""
            return Piece(f"tl.arange(0, {e.type.shape[0]}){wide}", shape=e.type.shape)
        case Broadcast(operand=x):
            return expr(w, x)  # whoever needs the lanes asks `shaped` for them
        case Expand():
            return _expand(w, e)
        case Transpose(operand=x):
            return Piece(f"tl.trans({shaped(w, expr(w, x), x.type).text})", shape=e.type.shape)
        case Reduce():
            return _reduce(w, e)
        case Dot():
            return _dot(w, e)
        case Random():
            return _random(w, e)
        case Load():
            return _load(w, e)
