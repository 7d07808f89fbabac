"""How a float of the typed program is computed: what a term of the reals has forgotten.

Whether a divisor is as large as its term, whether a comparison is of the numbers that the spec compares, and whether a
compiler may contract a product whose rounding S1 counts on (decisions/0018), is read off the program. Which floats are
the same is a question of terms again, of the execution in floats (`verifier.machine`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction

from ir import program as core
from ir.ast import Span
from ir.dtypes import SIGNIFICAND
from ir.spec import Bound
from verifier.stored import expressions, operands, shape_aside, stores, values_of_names

MOST = 64.0  # binades that constant factors of a divisor may span together; f32 has 126 below 1
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
Names = tuple[str, ...]


class Recipes:
    """Of every float of a program."""

    def __init__(self, program: core.Program, bound: Bound | None = None) -> None:
        self.limits = {p.name: (p.lower, p.upper) for p in bound.spec.parameters} if bound is not None else {}
        self.kernels = {k.name: k for k in program.kernels}
        self.values = {k.name: values_of_names(k.body) for k in program.kernels}
        self.stored: dict[str, list[tuple[str, core.Store]]] = {}
        for k in program.kernels:
            for s in stores(k.body):
                self.stored.setdefault(s.tensor, []).append((k.name, s))

    def fusible(self, kernel: str) -> bool:
        """Whether an argument of exp may count on two floats being one that a compiler may make two of, by contracting
        a product with the sum around it: in the difference itself, where the product is then rounded as it is compared
        and not as it is used; or inside a score that is computed at two places, at which the product may be used for
        other things. Floats made of other tensors, or of exponentials on one side alone, are not taken for one."""
        for e in expressions(self.kernels[kernel].body):
            if isinstance(e, core.Unary) and e.op in ("exp", "exp2"):
                for x in self._parts(kernel, e.operand):
                    if isinstance(x, core.Binary) and x.op in ("add", "sub") and self._counts(kernel, x):
                        return True
        return False

    def _counts(self, kernel: str, difference: core.Binary) -> bool:
        sides = [list(self._choices(kernel, y)) for y in (difference.left, difference.right)]
        first, second = ({self._made_from(at, x) for at, x in side} for side in sides)
        if first.isdisjoint(second):
            return False
        if any(self._product(kernel, y) for y in (difference.left, difference.right)):
            return True
        left, right = ({id(x) for _, x in side} for side in sides)
        again = not (left <= right or right <= left)
        return again and any(
            isinstance(x, core.Binary) and x.op in ("add", "sub")
            and (self._product(at, x.left) or self._product(at, x.right))
            for side in sides
            for at, x in self.made_of(side, functions=True)
        )  # fmt: skip

    def _product(self, kernel: str, e: core.Expr) -> bool:
        e = self.meant(kernel, e)
        e = self.meant(kernel, e.operand) if isinstance(e, core.Unary) and e.op == "neg" else e
        return isinstance(e, core.Binary) and e.op == "mul"

    def _made_from(self, kernel: str, e: core.Expr) -> frozenset[str]:
        """The inputs that a float is made of, and "exp" if of exponentials."""
        made = [x for _, x in self.made_of([(kernel, e)], functions=True)]
        inputs = {x.tensor for x in made if isinstance(x, core.Load) and x.tensor not in self.stored}
        weights = {"exp" for x in made if isinstance(x, core.Unary) and x.op in ("exp", "exp2")}
        return frozenset(inputs | weights)

    def _choices(self, kernel: str, e: core.Expr) -> Iterator[tuple[str, core.Expr]]:
        """What a float may be, through names, memory, choices, maxima and changes of shape and sign."""
        seen: set[tuple[str, int]] = set()
        todo = [(kernel, e)]
        while todo:
            at, e = todo.pop()
            e = shape_aside(e)
            if (at, id(e)) in seen:
                continue
            seen.add((at, id(e)))
            match e:
                case core.Var(name=name) if name in self.values[at]:
                    todo += [(at, v) for v in self.values[at][name]]
                case core.Select(then=a, otherwise=b) | core.Binary(op="max" | "min", left=a, right=b):
                    todo += [(at, a), (at, b)]
                case core.Reduce(op="max" | "min", operand=x) | core.Unary(op="neg", operand=x):
                    todo.append((at, x))
                case core.Load(tensor=tensor) if tensor in self.stored:
                    todo += [(k, s.value) for k, s in self.stored[tensor]]
                case _:
                    yield at, e

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
        for at, e in self.made_of(list(self.operands_of(kernel, span)), within=lambda at, e: not self._clamped(at, e)):
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

    def operands_of(self, kernel: str, span: Span) -> Iterator[tuple[str, core.Expr]]:
        for e in expressions(self.kernels[kernel].body):
            if e.span == span and isinstance(e, core.Binary) and e.op == "div":
                yield kernel, e.right
            if e.span == span and isinstance(e, core.Unary) and e.op in ("log", "log2"):
                yield kernel, e.operand
            if e.span == span and isinstance(e, core.Binary) and e.op in COMPARISONS and e.left.type.dtype.is_float:
                yield from ((kernel, x) for x in (e.left, e.right))

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

    def as_they_are(self, kernel: str, sides: Sequence[core.Expr]) -> bool:
        """Whether all of these are numbers of memory, parameters or literals, or chosen among such."""
        return all(self._exact(at, x) for at, x in self.made_of([(kernel, e) for e in sides], functions=True))

    def of_weights(self, kernel: str, sides: Sequence[core.Expr]) -> bool:
        """Whether some of these are made of exponentials by arithmetic and choices."""
        made = self.made_of([(kernel, e) for e in sides])
        return any(isinstance(x, core.Unary) and x.op in ("exp", "exp2") for _, x in made)

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

    def cell(self, kernel: str, e: core.Expr) -> bool:
        """Whether e is a number of an input as it is, or a constant in its stead."""
        return all(
            self._exact(at, x) and not (isinstance(x, core.Load) and x.tensor in self.stored)
            for at, x in self.made_of([(kernel, e)])
        )

    def constant(self, kernel: str, e: core.Expr) -> bool:
        """Whether e is made of parameters and numbers alone, or of integers that are one for all lanes."""
        for _, x in self.made_of([(kernel, e)], functions=True):
            match x:
                case core.Load() | core.Random() | core.Dot():
                    return False
                case core.Cast(operand=y) if y.type.dtype.is_int and y.type.shape:
                    return False
                case core.Var(name=name) if name not in self.values[kernel]:
                    return False
        return True


def _digits(value: Fraction) -> float:
    """How many binary digits a number has; inf where no number of them is enough."""
    n, d = abs(value.numerator), value.denominator
    return math.inf if d & (d - 1) else (n // (n & -n)).bit_length() if n else 0


def _source(e: core.Expr) -> str:
    return e.tensor if isinstance(e, core.Load) else "random" if isinstance(e, core.Random) else ""
