"""The floats of a program as terms: every operation that rounds is a function of which nothing is known but that.

A term of the reals forgets how a value is computed: (a + b) + c and a + (b + c) are one, and in floats two. So S1 asks
of arguments of exp, and of divisors made of exponentials, over a second execution in which what an exponential is made
of is executed as machines do it:

  rounded     fl(x) for a sum, difference or product: a function of the exact result x of two floats, which is monotone
              and moves x by no more than a unit roundoff (`verifier.linear`)
  ordered     a dot or sum is a function of what stands at each place k of it: `ordered` makes a term of the map
              from k, that no reordering leaves as it is. A dot has its shape and its kernel's warps in its name, for
              these choose the instruction; a sum along an axis its place in the program, as a layout chooses its order
  iterated    a carried value computed from itself is a function of its start and of the map from the iteration to
              the step (`iterated`), so that the same steps in another order are another value
  functions   quotients, tanh, casts to fewer digits: each a function of its operands

Maxima, choices, negation, abs and changes of shape are exact. Equal terms are then one float, whatever the order of
instructions, as long as a compiler does not contract products into sums (`Recipes.fusible`).

What depends on an exponential in its own kernel, as softmax sums do, is executed exactly, as in the first execution.
A tensor of such values is read like an input: what a cell holds is one float. So is a saved input.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from ir import program as core
from ir.dtypes import SIGNIFICAND
from verifier import operations as ops
from verifier import reals
from verifier.binders import Substitution, make_sum, members, open_binder
from verifier.booleans import TRUE, Bool, choose, conj, le, lt
from verifier.domains import coefficient
from verifier.integers import Atom, Int, lift
from verifier.reals import Real, RealAtom, number, of, real_atom
from verifier.stored import expressions, operands, shape_aside, stores, values_of_names
from verifier.terms import as_int, atom_of, conditions, free, fresh, states
from verifier.tiles import Lanes, Scalar, Tile, tile

if TYPE_CHECKING:
    from verifier.execute import Instance
    from verifier.finiteness import Finiteness
    from verifier.scan import Carried, Loop

SUM = " sum"  # how the names of those end that round a sum or difference


class Floats:
    """Of one kernel: which values are floats as machines have them, and their terms."""

    def __init__(self, kernel: core.Kernel, asked: frozenset[str] = frozenset()) -> None:
        """`asked`: carried names, with their kernel's, whose values somebody asks for."""
        self.kernel = kernel
        self.asked = asked
        self.values = values_of_names(kernel.body)
        self.sites = {id(e): k for k, e in enumerate(expressions(kernel.body))}
        self.exact: dict[int, bool] = {}
        self.weights: set[str] = set()  # names that depend on an exponential
        grown = True
        while grown:
            self.exact.clear()
            new = {n for n, values in self.values.items() if n not in self.weights and any(map(self.weight, values))}
            self.weights |= new
            grown = bool(new)
        self.exact.clear()

    def weight(self, e: core.Expr) -> bool:
        """Whether e depends on an exponential of this kernel."""
        found = self.exact.get(id(e))
        if found is None:
            own = isinstance(e, core.Unary) and e.op in ("exp", "exp2")
            own = own or isinstance(e, core.Var) and e.name in self.weights
            found = self.exact[id(e)] = own or any(map(self.weight, operands(e)))
        return found

    def tile(self, run: Instance, e: core.Expr, env: Mapping[str, Tile]) -> Tile | None:
        """e as a float, where it rounds and is made of floats; None where it is executed as usual."""
        if not e.type.dtype.is_float or self.weight(e):
            return None
        match e:
            case core.Literal():
                return tile(e.type.shape, lambda lanes: Scalar(number(_held(e.value))))
            case core.Constant(name="log2e" | "ln2" as name):
                return tile(e.type.shape, lambda lanes: Scalar(number(_held(Fraction(getattr(_Constants, name))))))
            case core.Binary(op="add" | "sub" | "mul" | "div"):
                left, right = run.expression(e.left, env), run.expression(e.right, env)
                return tile(e.type.shape, lambda lanes: self._binary(e, left.at(lanes), right.at(lanes)))
            case core.Unary(op="log" | "log2" | "sqrt" | "tanh" | "sigmoid"):
                inner = run.expression(e.operand, env)
                return tile(e.type.shape, lambda lanes: _function(e, inner.at(lanes)))
            case core.Cast(operand=x) if _digits_of(x.type.dtype) > SIGNIFICAND[e.type.dtype]:
                inner = run._cast(e, run.expression(x, env))
                return tile(e.type.shape, lambda lanes: _rounded(inner.at(lanes), e.type.dtype))
            case core.Reduce(op="sum"):
                return self._sum(e, run.expression(e.operand, env))
            case core.Dot():
                acc = None if e.acc is None else run.expression(e.acc, env)
                return self._dot(e, run.expression(e.left, env), run.expression(e.right, env), acc)
            case _:
                return None

    def _binary(self, e: core.Binary, a: Scalar, b: Scalar) -> Scalar:
        owes, finite = a.owes | b.owes, conj((a.finite, b.finite))
        if e.op == "div":
            out = ops.divide(a, b, e.span)
            both = a.real * _operand(0) + b.real * _operand(1)
            return Scalar(_of(f"{e.type.dtype.value} quotient", both), finite, out.owes)
        exact = a.real * b.real if e.op == "mul" else a.real + b.real if e.op == "add" else a.real - b.real
        if exact in (a.real, b.real) or e.op == "mul" and (-exact) in (a.real, b.real):
            return Scalar(exact, finite, owes)  # x + 0 and x * 1 are x
        if e.op == "add" and any(map(self._fresh_dot, (e.left, e.right))):
            # A compiler may let the dot begin with what is added, or not, as the dot is used elsewhere.
            return Scalar(_of(f"sum at {self._site(e)}", exact), finite, owes)
        return _rounded(Scalar(exact, finite, owes), e.type.dtype, SUM if e.op in ("add", "sub") else "")

    def _fresh_dot(self, e: core.Expr) -> bool:
        while isinstance(e := shape_aside(e), core.Var) and len(self.values.get(e.name, ())) == 1:
            (e,) = self.values[e.name]
        return isinstance(e, core.Dot) and e.acc is None

    def _site(self, e: core.Expr) -> str:
        return f"{self.kernel.name}.{self.sites[id(e)]}"

    def _sum(self, e: core.Reduce, operand: Tile) -> Tile:
        extent = operand.shape[e.axis]

        def at(lanes: Lanes) -> Scalar:
            if extent == 1:
                return operand.at((*lanes[: e.axis], lift(0), *lanes[e.axis :]))
            lane = fresh("lane", 0, extent - 1)
            x = operand.at((*lanes[: e.axis], as_int(lane), *lanes[e.axis :]))
            return Scalar(along(f"sum at {self._site(e)}", lane, x.real), TRUE, x.owes)

        return tile(e.type.shape, at)

    def _dot(self, e: core.Dot, left: Tile, right: Tile, acc: Tile | None) -> Tile:
        (rows, extent), columns = left.shape, right.shape[1]
        name = f"dot {rows}x{columns}x{extent} {e.left.type.dtype.value} {self.kernel.schedule.num_warps}"

        def at(lanes: Lanes) -> Scalar:
            lane = fresh("lane", 0, extent - 1)
            x, y = left.at((lanes[0], as_int(lane))), right.at((as_int(lane), lanes[1]))
            owes = x.owes | y.owes
            if acc is None:
                return Scalar(along(name, lane, x.real, y.real), TRUE, owes)
            begin = acc.at(lanes)
            return Scalar(along(f"{name} onto", lane, x.real, y.real, begin.real), begin.finite, owes | begin.owes)

        return tile(e.type.shape, at)


def asked(program: core.Program) -> frozenset[str]:
    """The names that arguments of exp, divisors, arguments of log and comparisons are made of, through memory."""
    values = {k.name: values_of_names(k.body) for k in program.kernels}
    written: dict[str, list[tuple[str, core.Expr]]] = {}
    todo: list[tuple[str, core.Expr]] = []
    for kernel in program.kernels:
        for s in stores(kernel.body):
            written.setdefault(s.tensor, []).append((kernel.name, s.value))
        todo += [(kernel.name, x) for e in expressions(kernel.body) for x in _asks(e)]
    seen: set[tuple[str, int]] = set()
    out: set[str] = set()
    while todo:
        at, e = todo.pop()
        if (at, id(e)) not in seen:
            seen.add((at, id(e)))
            todo += [(at, x) for x in operands(e)]
            if isinstance(e, core.Var):
                out.add(f"{at}.{e.name}")
                todo += [(at, x) for x in values[at].get(e.name, ())]
            elif isinstance(e, core.Load):
                todo += written.get(e.tensor, [])
    return frozenset(out)


def _asks(e: core.Expr) -> tuple[core.Expr, ...]:
    match e:
        case core.Unary(op="exp" | "exp2" | "log" | "log2", operand=x) | core.Binary(op="div", right=x):
            return (x,)
        case core.Binary(op="lt" | "le" | "gt" | "ge" | "eq" | "ne", left=a, right=b):
            return a, b
        case _:
            return ()


def made_of_floats(program: core.Program, tensor: str) -> bool:
    """Whether every value stored in a tensor is executed as a float: none depends on an exponential or is a total."""
    for kernel in program.kernels:
        written = [s for s in stores(kernel.body) if s.tensor == tensor]
        if written and (any(s.atomic for s in written) or any(map(Floats(kernel).weight, (s.value for s in written)))):
            return False
    return True


class _Constants:
    log2e, ln2 = 1.0 / math.log(2.0), math.log(2.0)


def along(name: str, lane: Atom, *operands: Real) -> Real:
    """A function of the maps from the lane to each operand. Where these are of cells and parameters, with indices that
    the lane moves by a number, it is given as a cell that has what is left of the indices as its own."""
    found = [_shape(x, lane) for x in operands]
    if None not in found:
        known = [f for f in found if f is not None]
        return reals.read(f"{name} {[shape for shape, _ in known]}", tuple(i for _, places in known for i in places))
    placed = reals.total(t for k, x in enumerate(operands) for t in (x * _operand(k)).terms)
    return _of(name, ordered(as_int(lane), TRUE, placed))


Shape = tuple[tuple[object, ...], tuple[Int, ...]]  # what a term is, but for integers; and these, free of the lane


def _shape(x: Real, lane: Atom) -> Shape | None:
    """Both together determine x. Terms and factors stand in the order of what they are, not of when they were made."""
    out: list[Shape] = []
    for mono, c in x.terms:
        parts = [_part(a, k, lane) for a, k in mono.factors]
        guard = _condition(mono.guard, lane)
        if mono.exponent is not None or guard is None or None in parts:
            return None
        out.append(_joined((str(c),), [guard, *(p for p in parts if p is not None)]))
    return _joined((), out)


def _joined(head: tuple[object, ...], parts: list[Shape]) -> Shape:
    parts = sorted(parts, key=lambda part: repr(part[0]))
    return (*head, *(shape for shape, _ in parts)), tuple(i for _, places in parts for i in places)


def _part(a: RealAtom, power: int, lane: Atom) -> Shape | None:
    match a.kind:
        case "read":
            steps = [coefficient(i, lane) for i in a.args[1]]
            if None in steps:
                return None
            places = (i - as_int(lane) * k for i, k in zip(a.args[1], steps, strict=True) if k is not None)
            return (power, a.args[0], *steps), tuple(places)
        case "param":
            return (power, a.args[0]), ()
        case "fn":
            inner = _shape(a.args[1], lane)
            return None if inner is None else ((power, a.args[0], inner[0]), inner[1])
        case _:
            return None


def _condition(guard: Bool, lane: Atom) -> Shape | None:
    if guard is TRUE:
        return (), ()
    if lane in free(guard) or conditions(guard):
        return None
    return ("where",), (choose(guard, lift(1), lift(0)),)


def ordered(k: Int, domain: Bool, x: Real) -> Real:
    """A term that determines the map from k to x over the domain: sums of it are equal for equal maps only."""
    return make_sum((atom_of(k),), domain, _of("at", x + reals.of_int(k) * of(real_atom("opaque", "place"))))


def iterated(start: Int, k: Int, n: Int, init: Real, step: Real) -> Real:
    """What `init` becomes by the steps k = start, .., n - 1: a function of init and of the map from k - start."""
    place = k - start
    body = _of("at", step * _operand(0) + reals.of_int(place) * _operand(1))
    return _of("iterated", make_sum((atom_of(k),), conj((le(start, k), lt(k, n))), body) + init * _operand(2))


def iterate(loop: Loop, finite: Finiteness, x: Carried) -> bool:
    """Solves x where x' is one operation on floats, computed from x and nothing else that is carried."""
    value = finite.assuming({}).real(x.next.real)
    if value.atom is None or value.atom.kind != "fn" or any(s is not x.state for s in states(value)):
        return False
    if not finite.throughout(x.name) or states(x.next.finite) and x.name not in finite.always:
        return False
    before = of(real_atom("opaque", f"before, {loop.depth} deep"))  # inside x', what x was
    earlier = as_int(fresh("earlier"))
    step = Substitution({loop.counter: earlier}, lambda a: before if a is x.state else None).real(value)
    from verifier.scan import Closed

    total = iterated(loop.start, earlier, loop.n, x.init.real, step)
    loop.closed[x.name] = Closed(total, finite.of(x.name))
    return True


def unrounded(x: Real) -> Real:
    """x without its last rounding, and those of multiples on the way: what is at most 0, or at most a small number,
    is so before and after, but for a factor next to 1."""
    while (found := last_rounding(x)) is not None:
        x = found[0].args[1] * found[1]
    return x


def last_rounding(x: Real) -> tuple[RealAtom, Real] | None:
    """(fl(y), c) if x = c fl(y) for a product c of positive constants and a positive number."""
    if len(x.terms) != 1:
        return None
    mono, c = x.terms[0]
    varying = [(a, k) for a, k in mono.factors if not reals.is_positive_constant(a)]
    if c <= 0 or mono.guard is not TRUE or mono.exponent is not None or len(varying) != 1 or varying[0][1] != 1:
        return None
    a = varying[0][0]
    if a.kind != "fn" or not a.args[0].startswith(reals.ROUNDED):
        return None
    return a, reals.monomial(TRUE, {b: k for b, k in mono.factors if b is not a}, None) * number(c)


def monotone(x: Real) -> Real:
    """x with every fl(c max S) in it written max fl(c S), which are one float for c > 0."""

    def distributed(a: RealAtom) -> Real | None:
        found = reals.scaled_max(a.args[1]) if a.kind == "fn" and a.args[0].startswith(reals.ROUNDED) else None
        if found is None:
            return None
        parts: list[reals.Member] = []
        for variables, guard, body in found[0].args[0]:
            new, opened = open_binder(variables, guard)
            parts += members(new, opened.bool(guard), _of(a.args[0], opened.real(body) * found[1]))
        return reals.maximum_of(parts)

    return Substitution({}, distributed, everywhere=True).real(x)


def _rounded(x: Scalar, dtype: core.DType, kind: str = "") -> Scalar:
    value = x.real.constant
    if value is not None and _digits(Fraction(value)) <= SIGNIFICAND[dtype]:
        return x
    return Scalar(_of(f"{reals.ROUNDED}{dtype.value}{kind}", x.real), x.finite, x.owes)


def _function(e: core.Unary, x: Scalar) -> Scalar:
    usual = ops.logarithm(x, e.span, e.op == "log2") if e.op in ("log", "log2") else ops.function(e.op, x, e.span)
    return Scalar(_of(f"{e.type.dtype.value} {e.op}", x.real), usual.finite, usual.owes)


def _operand(k: int) -> Real:
    """Tells operands apart: of terms a and b without it, a + b * _operand(1) determines both."""
    return of(real_atom("opaque", f"operand {k}"))


def _of(name: str, x: Real) -> Real:
    return of(real_atom("fn", name, x))


def _held(value: Fraction) -> Fraction:
    """The f32 number nearest to a literal."""
    return Fraction(struct.unpack("f", struct.pack("f", float(value)))[0])


def _digits_of(dtype: core.DType) -> float:
    return SIGNIFICAND[dtype] if dtype.is_float else math.inf


def _digits(value: Fraction) -> float:
    n, d = abs(value.numerator), value.denominator
    return math.inf if d & (d - 1) else (n // (n & -n)).bit_length() if n else 0
