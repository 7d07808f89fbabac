"""How a float is computed, forgetting of which cells of memory.

That an argument of exp is at most 0 is shown of reals: a score less a maximum that it is a member of. Floats keep
this only if the member and the score are one float. A score rounded to bf16 less a maximum of scores that were not, a
maximum rounded to bf16, or a score scaled after its product less one scaled before it, are equal in E1 and may be
millions apart; exp of that is infinite, or 0 where 1 was counted on.

A *recipe* is the tree of what rounds (sums and products with their extents, functions, casts to a coarser float) over
cells of inputs and constants. Choices, maxima, minima, changes of shape and casts to a finer float round nothing:
what they give has the recipes of all they may give. Of an index only the order in which lanes walk is kept, so that
blocks at other places, or of another loop, are alike. Two floats of one recipe that are equal as terms are taken to
be the same float (decisions/0018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from fractions import Fraction
from itertools import product

from ir import program as core
from ir.ast import Span
from ir.dtypes import SIGNIFICAND
from ir.spec import Bound
from verifier.stored import expressions, operands, shape_aside, stored_difference, values_of_names

MOST = 64.0  # binades that constant factors of a divisor may span together; f32 has 126 below 1
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
MANY = 12  # more ways to compute one value are not told apart
# Made of numbers and parameters; a cell of an input as it is; that times constants; anything else.
CONSTANT, CELL, SCALED, COMPUTED = range(4)
Names = tuple[str, ...]


class Recipes:
    """Of every float of a program. A recipe is a number; equal trees have the same."""

    def __init__(self, program: core.Program, bound: Bound | None = None) -> None:
        self.limits = {p.name: (p.lower, p.upper) for p in bound.spec.parameters} if bound is not None else {}
        self.kernels = {k.name: k for k in program.kernels}
        self.values = {k.name: values_of_names(k.body) for k in program.kernels}
        self.stored: dict[str, list[tuple[str, core.Store]]] = {}
        for k in program.kernels:
            for s in _stores(k.body):
                self.stored.setdefault(s.tensor, []).append((k.name, s))
        self.trees: dict[tuple[object, ...], int] = {}
        self.kinds: list[int] = []
        self.known: dict[tuple[str, str, Names], frozenset[int]] = {}
        self.walks: dict[tuple[str, str], int] = {}
        (self.one,) = self._made(CONSTANT, "one number")
        self.lost = self._made(CONSTANT, "-inf")
        (self.zero,) = self._made(CONSTANT, "0")

    # ---- what is asked ---------------------------------------------------------------------

    def kept(self, kernel: str, span: Span) -> bool:
        """Whether every exp at this place is of a difference whose sides have one recipe, so that rounding makes it
        no larger than it is of reals, but for the rounding of the difference itself."""
        found = [e.operand for e in self.exponentials(kernel, span)]
        stored = stored_difference(self.kernels[kernel], span)
        return stored or bool(found) and all(self._ordered(kernel, x) for x in found)

    def fusible(self, kernel: str) -> bool:
        """Whether the difference in an argument of exp that counts on both sides being one float is of a product that
        a compiler may contract with it: the product is then rounded where it is compared, and not where it is used."""
        for e in expressions(self.kernels[kernel].body):
            if isinstance(e, core.Unary) and e.op in ("exp", "exp2") and self.kept(kernel, e.span):
                for x in self._parts(kernel, e.operand):
                    sides = [self.meant(kernel, y.operand if isinstance(y, core.Unary) else y) for y in operands(x)]
                    if any(isinstance(y, core.Binary) and y.op == "mul" for y in sides):
                        return True
        return False

    def meant(self, kernel: str, e: core.Expr) -> core.Expr:
        """What a name that is given one value stands for, in whatever shape."""
        while isinstance(e := shape_aside(e), core.Var):
            known = self.values[kernel].get(e.name, [])
            if len(known) != 1:
                break
            e = known[0]
        return e

    def steady(self, kernel: str, span: Span, exact: Collection[tuple[str, Span]]) -> bool:
        """Whether what is divided by, or a log is taken of, at this place is made of exponentials at places in `exact`
        and constants by sums, products, quotients and choices, so that rounding changes it by a factor near 1: nothing
        cancels, for no number is negative, and constant factors together are far from where numbers underflow."""
        spread = 0.0
        for at, e in self.made_of(list(self._operands_of(kernel, span)), within=lambda at, e: not self._clamped(at, e)):
            match e:
                case core.Load(tensor=tensor) if tensor not in self.stored:
                    return False
                case core.Literal() | core.Param() if self._least(at, e) < 0.0:
                    return False
                case core.Unary(op="neg") | core.Binary(op="sub") if self._least(at, e) < 0.0:
                    return False
                case core.Unary(op="exp" | "exp2", span=place):
                    if (at, place) not in exact:
                        return False
                case core.Unary() | core.Binary(op="sub"):
                    if not self.constant(at, e):
                        return False
                case core.Binary(op="mul" | "div", left=a, right=b):
                    spread += sum(self._binades(at, x, ()) for x in (a, b) if self.constant(at, x))
        return spread <= MOST

    def _operands_of(self, kernel: str, span: Span) -> Iterator[tuple[str, core.Expr]]:
        for e in expressions(self.kernels[kernel].body):
            if e.span == span and isinstance(e, core.Binary) and e.op == "div":
                yield kernel, e.right
            if e.span == span and isinstance(e, core.Unary) and e.op in ("log", "log2"):
                yield kernel, e.operand

    def _clamped(self, kernel: str, e: core.Expr) -> bool:
        """Whether e is a cell of memory as it is where that is not negative, else a number that is not negative."""
        match e:
            case core.Binary(op="max", left=a, right=b):
                ways = [(a, b), (b, a)]
            case core.Select(then=a, otherwise=b):
                match self.meant(kernel, e.condition):
                    case core.Binary(op="lt" | "le", left=x, right=low):
                        ways = [(a, b)]
                    case core.Binary(op="gt" | "ge", left=x, right=low):
                        ways = [(b, a)]
                    case _:
                        return False
                same = self.meant(kernel, x) == self.meant(kernel, ways[0][1])
                ways = ways if same and self._least(kernel, low) >= 0.0 else []
            case _:
                return False
        return any(self._least(kernel, x) >= 0.0 and self._cell(kernel, y) for x, y in ways)

    def _cell(self, kernel: str, e: core.Expr) -> bool:
        e = self.meant(kernel, e)
        while isinstance(e, core.Cast) and e.operand.type.dtype.is_float:
            e = self.meant(kernel, e.operand)
        return isinstance(e, core.Load)

    def _least(self, kernel: str, e: core.Expr) -> float:
        """A lower bound of a number made of literals and parameters, as floats compute it; -inf if there is none."""
        match self.meant(kernel, e):
            case core.Literal(value=value):
                return float(value)
            case core.Param(name=name) if name in self.limits:
                return float(self.limits[name][0])
            case core.Binary(op="sub", left=a, right=b):
                match self.meant(kernel, a), self.meant(kernel, b):
                    case core.Literal(value=value), core.Param(name=name) if name in self.limits:
                        return float(value) - float(self.limits[name][1])
        return -math.inf

    def made_of(
        self,
        todo: list[tuple[str, core.Expr]],
        functions: bool = False,
        within: Callable[[str, core.Expr], bool] | None = None,
    ) -> Iterator[tuple[str, core.Expr]]:
        """These floats and what they are made of by arithmetic, choices and changes of shape, through names and memory;
        what a function is of only if asked, and what any other is of where `within` holds of it."""
        seen: set[tuple[str, int]] = set()
        while todo:
            at, e = todo.pop()
            if (at, id(e)) in seen or not e.type.dtype.is_float:
                continue
            seen.add((at, id(e)))
            yield at, e
            if within is not None and not within(at, e):
                continue
            match e:
                case core.Unary(op=op) if op != "neg" and not functions:
                    continue
                case core.Var(name=name):
                    todo += [(at, v) for v in self.values[at].get(name, ())]
                case core.Load(tensor=tensor):
                    todo += [(k, s.value) for k, s in self.stored.get(tensor, ())]
                    todo += [] if e.other is None else [(at, e.other)]
                case _:
                    todo += [(at, x) for x in operands(e)]

    def exponentials(self, kernel: str, span: Span) -> Iterator[core.Unary]:
        """Every exp at this place."""
        for e in expressions(self.kernels[kernel].body):
            if isinstance(e, core.Unary) and e.op in ("exp", "exp2") and e.span == span:
                yield e

    def _binades(self, kernel: str, e: core.Expr, names: Names) -> float:
        """By how many powers of two a constant may be above or below 1; inf where that is not known."""
        match shape_aside(e):
            case core.Literal(value=value):
                return abs(math.log2(abs(value))) if value else math.inf
            case core.Constant(name="log2e" | "ln2"):
                return 1.0
            case core.Param(name=name) if name in self.limits:
                low, high = self.limits[name]
                return max(abs(math.log2(low)), abs(math.log2(high))) if low > 0.0 else math.inf
            case core.Var(name=name) if name not in names and name in self.values[kernel]:
                return max(self._binades(kernel, v, (*names, name)) for v in self.values[kernel][name])
            case core.Cast(operand=x):
                return self._binades(kernel, x, names) if x.type.dtype.is_float else 63.0
            case core.Select(then=a, otherwise=b) | core.Binary(op="max" | "min", left=a, right=b):
                return max(self._binades(kernel, a, names), self._binades(kernel, b, names))
            case core.Binary(op="mul" | "div", left=a, right=b):
                return self._binades(kernel, a, names) + self._binades(kernel, b, names)
            case core.Binary(op="add" | "sub", left=a, right=b):
                # If not 0, at least a unit in the last place of the larger one: 1 - p for a p that may be 0.
                known = [k for x in (a, b) if (k := self._binades(kernel, x, names)) < math.inf]
                unknown = [self.limits[x.name] for x in (shape_aside(a), shape_aside(b)) if isinstance(x, core.Param)]
                above = max((abs(end) for ends in unknown for end in ends), default=1.0)
                fit = len(known) + len(unknown) >= 2 and known
                return 25.0 + max(known) + max(math.log2(above), 0.0) if fit else math.inf
            case _:
                return math.inf

    def rounded_comparison(self, watched: Collection[str]) -> Span | None:
        """Where a comparison of floats that are made of some of these (inputs, "random") is not of exactly these
        numbers: rounding may then turn it, and what it decides is as large as it likes. None if nowhere."""
        for kernel in self.kernels.values():
            for e in expressions(kernel.body):
                if isinstance(e, core.Binary) and e.op in COMPARISONS and e.left.type.dtype.is_float:
                    made = list(self.made_of([(kernel.name, e.left), (kernel.name, e.right)], functions=True))
                    if any(_source(x) in watched for _, x in made) and not all(self._exact(at, x) for at, x in made):
                        return e.span
        return None

    def _exact(self, kernel: str, e: core.Expr) -> bool:
        """Whether e is a number of memory, a parameter or a literal, or gives one of its operands as it is."""
        match e:
            case core.Literal(value=value):
                return _digits(value) <= SIGNIFICAND[e.type.dtype]
            case core.Constant(name=name):
                return name == "inf"
            case core.Cast(operand=x):
                return x.type.dtype.is_float and SIGNIFICAND[x.type.dtype] <= SIGNIFICAND[e.type.dtype]
            case core.Load(tensor=tensor):
                return not any(s.atomic for _, s in self.stored.get(tensor, ()))
            case core.Unary(op=op) | core.Binary(op=op) | core.Reduce(op=op):
                return op in ("neg", "max", "min")
            case _:
                return not isinstance(e, core.Dot)

    # ---- differences -----------------------------------------------------------------------

    def _ordered(self, kernel: str, e: core.Expr) -> bool:
        """Whether rounding keeps what is known of the sign, or of a bound, of a difference."""
        return all(self._compared(kernel, x) for x in self._parts(kernel, e))

    def _compared(self, kernel: str, e: core.Expr) -> bool:
        match e:
            case core.Binary(op="sub", left=a, right=b):
                found = self.alike(kernel, a, b)
            case core.Binary(op="add", left=a, right=core.Unary(op="neg", operand=b)):
                found = self.alike(kernel, a, b)
            case core.Binary(op="add", left=core.Unary(op="neg", operand=b), right=a):
                found = self.alike(kernel, a, b)
            case _:
                found = False
        return found or self.constant(kernel, e)

    def _parts(self, kernel: str, e: core.Expr) -> Iterator[core.Expr]:
        """What a float is one of, times constants: through names, choices, changes of shape and sign."""
        seen: set[str] = set()
        todo = [e]
        while todo:
            match shape_aside(todo.pop()):
                case core.Var(name=name) if name in self.values[kernel]:
                    todo += [] if name in seen else self.values[kernel][name]
                    seen.add(name)
                case core.Select(then=a, otherwise=b) | core.Binary(op="max" | "min", left=a, right=b):
                    todo += [a, b]
                case core.Unary(op="neg", operand=x) | core.Cast(operand=x):
                    todo.append(x)
                case core.Binary(op="mul" | "div", left=x, right=c) if self.constant(kernel, c):
                    todo.append(x)
                case core.Binary(op="mul", left=c, right=x) if self.constant(kernel, c):
                    todo.append(x)
                case x:
                    yield x

    def alike(self, kernel: str, a: core.Expr, b: core.Expr) -> bool:
        """Whether one of two floats is a choice among others of which the other is one, or both have one recipe."""
        a, b = shape_aside(a), shape_aside(b)
        if isinstance(a, core.Binary) and isinstance(b, core.Binary) and a.op == b.op and a.op in ("mul", "div"):
            if a.right == b.right and self.alike(kernel, a.left, b.left):
                return True
        if any(isinstance(x, core.Var) and x.name in self._chosen(kernel, y) for x, y in ((a, b), (b, a))):
            return True
        mine, theirs = (self._varying(self.of(kernel, x)) for x in (a, b))
        kinds = {self.kinds[r] for r in mine | theirs}
        if kinds <= {CELL} or not mine or not theirs:  # exact numbers
            return kinds <= {CELL}
        computed = [r for r in mine | theirs if self.kinds[r] == COMPUTED]
        return (mine <= theirs or theirs <= mine) and len(computed) <= 1

    def _chosen(self, kernel: str, e: core.Expr) -> set[str]:
        """The names whose values e may be, through choices, maxima, minima and changes of shape."""
        seen: set[str] = set()
        todo = [e]
        while todo:
            match shape_aside(todo.pop()):
                case core.Var(name=name) if name not in seen:
                    seen.add(name)
                    todo += self.values[kernel].get(name, [])
                case core.Select(then=x, otherwise=y) | core.Binary(op="max" | "min", left=x, right=y):
                    todo += [x, y]
        return seen

    def constant(self, kernel: str, e: core.Expr) -> bool:
        return not self._varying(self.of(kernel, e))

    def _varying(self, found: frozenset[int]) -> frozenset[int]:
        return frozenset(r for r in found if self.kinds[r] != CONSTANT)

    # ---- recipes -----------------------------------------------------------------------------

    def of(self, kernel: str, e: core.Expr, names: Names = ()) -> frozenset[int]:
        """The recipes of a float; `names` are those being looked up, a carried name among them stands for itself."""
        match e:
            case core.Var(name=name):
                return self._named(kernel, name, names)
            case core.Load():
                found = self._loaded(kernel, e, names)
                return found if e.other is None else self._either(found, self.of(kernel, e.other, names))
            case core.Select(then=a, otherwise=b) | core.Binary(op="max" | "min", left=a, right=b):
                return self._either(self.of(kernel, a, names), self.of(kernel, b, names))
            case core.Reduce(op="max" | "min", operand=x) | core.Broadcast(operand=x) | core.Expand(operand=x):
                return self.of(kernel, x, names)
            case core.Transpose(operand=x):
                return self.of(kernel, x, names)
            case core.Cast(operand=x) if not x.type.dtype.is_float:
                varies = x.type.shape and x.type.dtype is not core.DType.BOOL
                return self._made(COMPUTED if varies else CONSTANT, "int", self._lanes(kernel, x))
            case core.Cast(operand=x) if SIGNIFICAND[x.type.dtype] <= SIGNIFICAND[e.type.dtype]:
                return self.of(kernel, x, names)
            case core.Unary(op="neg", operand=core.Constant(name="inf")):
                return self.lost
            case core.Literal(value=value):
                return self._made(CONSTANT, str(value))
            case core.Constant() | core.Param():
                return self._made(CONSTANT, e.name)
            case core.Random():
                return self._made(CELL, "random", self._lanes(kernel, e.counter))
            case _:
                return self._rounded(kernel, e, names)

    def _rounded(self, kernel: str, e: core.Expr, names: Names) -> frozenset[int]:
        """Of an operation that rounds: one recipe for each choice of its operands'."""
        kind = getattr(e, "op", type(e).__name__)
        extent = e.operand.type.shape[e.axis] if isinstance(e, core.Reduce) else 0
        extent = e.left.type.shape[1] if isinstance(e, core.Dot) else extent
        parts = [self.of(kernel, x, names) for x in operands(e)]
        out: frozenset[int] = frozenset()
        for chosen in product(*parts):
            if not self.lost.isdisjoint(chosen):
                out |= self.lost  # -inf, whatever it meets
                continue
            if kind == "add" and self.zero in chosen:
                out |= frozenset(r for r in chosen if r != self.zero) or frozenset(chosen)  # x + 0 is x
                continue
            ordered = sorted(chosen) if kind in ("add", "mul") else chosen
            varying = [r for r in chosen if self.kinds[r] != CONSTANT]
            scaled = kind == "mul" and len(varying) == 1 and self.kinds[varying[0]] < COMPUTED
            how = CONSTANT if not varying else SCALED if scaled else COMPUTED
            out |= self._made(how, kind, e.type.dtype, extent, *ordered)
            if len(out) > MANY:
                return self._made(COMPUTED, "many", id(e))
        return self._varying(out) or out

    def _made(self, kind: int, *tree: object) -> frozenset[int]:
        if tree not in self.trees:
            self.trees[tree] = len(self.kinds)
            self.kinds.append(kind)
        return frozenset((self.trees[tree],))

    def _either(self, a: frozenset[int], b: frozenset[int]) -> frozenset[int]:
        """What a choice may give; a constant next to something else (a fill, a limit) is exact and has no say."""
        return self._varying(a | b) or a | b

    def _named(self, kernel: str, name: str, names: Names) -> frozenset[int]:
        if name in names:
            return self._made(CONSTANT, "itself", len(names) - names.index(name))
        key = kernel, name, names
        if key not in self.known:
            out: frozenset[int] = frozenset()
            values = self.values[kernel].get(name, [])
            inside = (*names, name) if len(values) > 1 else names  # carried
            for value in values:
                out = self._either(out, self.of(kernel, value, inside))
            self.known[key] = out
        return self.known[key]

    def _loaded(self, kernel: str, e: core.Load, names: Names) -> frozenset[int]:
        out: frozenset[int] = frozenset()
        for writer, s in self.stored.get(e.tensor, ()):
            found = self.of(writer, s.value, ())
            out |= self._made(COMPUTED, "added", *sorted(found)) if s.atomic else found
        if out:
            return out
        return self._made(CELL, e.tensor, *(self._lanes(kernel, i) for i in e.index))

    def _lanes(self, kernel: str, e: core.Expr) -> int:
        """In which order the lanes of an index walk: its tree without what is one number for all lanes."""
        if not e.type.shape:
            return self.one
        match e:
            case core.Var(name=name):
                if (kernel, name) not in self.walks:
                    self.walks[kernel, name] = self.one  # of a carried tile, the lanes it starts with
                    known = self.values[kernel].get(name, [])
                    self.walks[kernel, name] = self._lanes(kernel, known[0]) if known else self.one
                return self.walks[kernel, name]
            case core.Binary(op=op, left=a, right=b):
                left, right = self._lanes(kernel, a), self._lanes(kernel, b)
                if op in ("add", "min", "max") and self.one in (left, right) or op == "sub" and right == self.one:
                    return left if right == self.one else right
                (out,) = self._made(CONSTANT, op, left, right)
            case core.Load(tensor=tensor, index=index):
                (out,) = self._made(CONSTANT, tensor, *(self._lanes(kernel, i) for i in index))
            case _:
                inner = [x for x in operands(e) if x.type.dtype.is_int]
                if isinstance(e, core.Broadcast | core.Expand | core.Transpose | core.Cast) and inner:
                    return self._lanes(kernel, inner[0])
                (out,) = self._made(CONSTANT, type(e).__name__, *(self._lanes(kernel, x) for x in inner))
        return out


def _digits(value: Fraction) -> float:
    """How many binary digits a number has; inf where no number of them is enough."""
    n, d = abs(value.numerator), value.denominator
    return math.inf if d & (d - 1) else (n // (n & -n)).bit_length() if n else 0


def _source(e: core.Expr) -> str:
    return e.tensor if isinstance(e, core.Load) else "random" if isinstance(e, core.Random) else ""


def _stores(body: tuple[core.Statement, ...]) -> Iterator[core.Store]:
    for s in body:
        if isinstance(s, core.For):
            yield from _stores(s.body)
        elif isinstance(s, core.Store):
            yield s
