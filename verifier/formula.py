"""The spec's formulas as terms: what each output cell must hold.

A definition is inlined where it is used. Division and log follow the spec's `empty_row`: "zero" makes
x/0 = 0 and log 0 = -inf; "undefined" makes a nonzero divisor a duty, which equivalence takes as a
premise, so such cells are the kernel's own. A required `X % Y == 0` between sizes is used by writing
X = Y * (X/Y) with a named quotient, so that no nonlinear reasoning is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass

from ir import ast
from ir.spec import Bound, Dim, Parameter, TensorSpec
from verifier import integers, reals
from verifier import operations as ops
from verifier.binders import make_max, make_sum
from verifier.booleans import FALSE, TRUE, Bool, conj, ge0, lt, negate
from verifier.cells import Table
from verifier.elimination import exists
from verifier.integers import Int, cell, div, lift, mod, part_name, symbol
from verifier.least import Least
from verifier.operations import Unsupported
from verifier.signs import sign
from verifier.smt import Context
from verifier.terms import atom_of, fresh
from verifier.tiles import Duties, Scalar


@dataclass(frozen=True, slots=True)
class Sizes:
    """`values`: each symbolic size as a term (X may be Y * quotient). `premises`: what the spec requires
    of sizes. `quotients`: name of the quotient symbol -> (X, Y)."""

    values: Mapping[str, Int]
    premises: tuple[Bool, ...]
    quotients: Mapping[str, tuple[str, str]]

    def concrete(self, model: Mapping[str, int], dims: tuple[Dim, ...]) -> dict[str, int]:
        """The sizes a model of the symbols stands for; symbols it leaves open take their minimum."""
        symbols = {d.name: max(model.get(d.name, d.minimum), d.minimum) for d in dims}
        out = dict(symbols)
        for _ in self.quotients:  # a divisor may be a multiple of something itself
            for name, (whole, part) in self.quotients.items():
                out[whole] = out[part] * max(1, model.get(name, 1))
        return out


def sizes_of(bound: Bound) -> Sizes:
    values = {d.name: symbol(d.name, d.minimum, None) for d in bound.dims}
    minimum = {d.name: d.minimum for d in bound.dims}
    quotients: dict[str, tuple[str, str]] = {}
    rest = []
    for r in bound.spec.requires:
        pair = _divisibility(r)
        known = pair is not None and all(p in values and minimum[p] >= 1 and values[p].atom for p in pair)
        if pair is not None and known:
            name = f"{pair[0]}/{pair[1]}"
            quotients[name] = pair
            values[pair[0]] = values[pair[1]] * symbol(name, 1, None)
        else:
            rest.append(r)
    values = _resolve(values, quotients)
    formula = Formula(bound, values)
    premises = [formula.value(r, {}).bool for r in rest]
    premises += [ge0(values[d.name] - d.minimum) for d in bound.dims]
    return Sizes(values, tuple(p for p in premises if p is not TRUE), quotients)


def _resolve(values: dict[str, Int], quotients: Mapping[str, tuple[str, str]]) -> dict[str, Int]:
    """A divisor that is itself a multiple of something is written out too."""
    out = dict(values)
    for _ in quotients:
        for name, (whole, part) in quotients.items():
            out[whole] = out[part] * symbol(name, 1, None)
    return out


def _divisibility(r: ast.Expr) -> tuple[str, str] | None:
    match r:
        case ast.Binary("==", ast.Binary("%", ast.Name(x), ast.Name(y)), ast.Number(value)) if value == 0:
            return x, y
        case _:
            return None


def _parameter(p: Parameter) -> Scalar:
    """An integer parameter is a symbol that may be anything from its lower limit on, as sizes are."""
    return Scalar(symbol(p.name, int(p.lower)) if p.integer else reals.parameter(p.name, p.lower, p.upper))


class Formula:
    """Evaluates formulas of one bound spec symbolically."""

    def __init__(self, bound: Bound, sizes: Mapping[str, Int]) -> None:
        self.sizes = sizes
        self.settings = dict(bound.settings)
        self.inputs = {t.name for t, _ in bound.inputs if not t.saved}
        self.definitions = {d.name: d for d in bound.spec.definitions}
        self.least = Least(bound)
        self.parameters = {p.name: _parameter(p) for p in bound.spec.parameters}
        self.empty_is_zero = bound.spec.empty_row == "zero"
        self.tables = {t.name: self._table(t, dtype.bits) for t, dtype in bound.inputs if dtype.is_int}
        self.tables |= {part_name(n): _parts(n, t) for n, t in self.tables.items() if t.splits is not None}
        self.part: Callable[[str, Int], Int] = lambda tensor, x: cell(part_name(tensor), (x,))
        self.parts = {t.facts.part: t.name for t, _ in bound.inputs if t.facts.part}

    def _table(self, t: TensorSpec, bits: int) -> Table:
        """An integer input with its facts as terms."""
        stated = (t.facts.least, t.facts.most, t.facts.splits, t.facts.longest)
        least, most, splits, longest = (None if e is None else self.value(e, {}).int for e in stated)
        return Table(self.extents(t), bits, least, most, splits, longest)

    def within(self, context: Context) -> Formula:
        """The same formulas where a context holds: what it tells of the part a position lies in is put in."""
        here = copy(self)
        here.part = lambda tensor, x: context.prover.ledger.facts.part(tensor, x, context)
        return here

    def output(self, name: str, cell: tuple[Int, ...]) -> Scalar:
        """What output `name` must hold at `cell`."""
        return _as_real(self.define(name, cell))

    def define(self, name: str, arguments: tuple[Int, ...]) -> Scalar:
        d = self.definitions[name]
        return self.value(d.value, dict(zip(d.parameters, map(Scalar, arguments), strict=True)))

    def extents(self, tensor: TensorSpec) -> tuple[Int, ...]:
        return tuple(self.value(e, {}).int for e in tensor.shape)

    def value(self, e: ast.Expr, scope: Mapping[str, Scalar]) -> Scalar:
        match e:
            case ast.Number():
                return ops.literal(e.value) if e.is_float or e.value.denominator != 1 else Scalar(lift(int(e.value)))
            case ast.Name():
                return self._name(e, scope)
            case ast.Unary():
                return self._unary(e, scope)
            case ast.Binary():
                if isinstance(e.left, ast.Text) or isinstance(e.right, ast.Text):
                    return self._option(e)
                left, right = self.value(e.left, scope), self.value(e.right, scope)
                if e.op == "/" and self.least.of(e.right) > 0.0:
                    x, y = _as_real(left), _as_real(right)
                    return _shown(ops.divide(x, y, e.span), conj((y.finite, sign("ne", y.real))))
                return self._binary(e.op, left, right, e.span)
            case ast.Call():
                arguments = [self.value(a, scope) for a in e.args]
                found = self._call(e, arguments)
                if e.function == "sqrt" and self.least.of(e.args[0]) >= 0.0:
                    return _shown(found, sign("ge", _as_real(arguments[0]).real))
                return found
            case ast.Element():
                index = tuple(self.value(i, scope).int for i in e.index)
                if e.name in self.tables:
                    return Scalar(cell(e.name, index))
                if e.name in self.parts:
                    return Scalar(self.part(self.parts[e.name], index[0]))
                if e.name in self.inputs:
                    return Scalar(reals.read(e.name, index))
                return self.define(e.name, index)
            case ast.If():
                condition = self.value(e.condition, scope)
                if condition.bool is TRUE:
                    return self.value(e.then, scope)
                if condition.bool is FALSE:
                    return self.value(e.otherwise, scope)
                a, b = self.value(e.then, scope), self.value(e.otherwise, scope)
                if isinstance(a.value, reals.Real) or isinstance(b.value, reals.Real):
                    a, b = _as_real(a), _as_real(b)
                return ops.where(condition, a, b)
            case ast.Big():
                return self._big(e, scope)
            case _:
                raise Unsupported(f"{type(e).__name__} in a formula", e.span)

    def _name(self, e: ast.Name, scope: Mapping[str, Scalar]) -> Scalar:
        if e.id in scope:
            return scope[e.id]
        if e.id in self.sizes:
            return Scalar(self.sizes[e.id])
        if e.id in self.parameters:
            return self.parameters[e.id]
        if e.id in ("true", "false"):
            return Scalar(TRUE if e.id == "true" else FALSE)
        if e.id in self.definitions:
            return self.define(e.id, ())
        setting = self.settings.get(e.id)
        if isinstance(setting, int):
            return Scalar(lift(setting))
        return ops.constant(e.id, e.span)

    def _option(self, e: ast.Binary) -> Scalar:
        name, text = (e.left, e.right) if isinstance(e.right, ast.Text) else (e.right, e.left)
        if not isinstance(name, ast.Name) or not isinstance(text, ast.Text):
            raise Unsupported("a string that is not compared with an option", e.span)
        same = self.settings.get(name.id) == text.value
        return Scalar(TRUE if same == (e.op == "==") else FALSE)

    def _unary(self, e: ast.Unary, scope: Mapping[str, Scalar]) -> Scalar:
        if e.op == "-" and isinstance(e.operand, ast.Name) and e.operand.id == "inf":
            return ops.MINUS_INFINITY
        x = self.value(e.operand, scope)
        if e.op == "not":
            return Scalar(negate(x.bool))
        return Scalar(-x.int) if isinstance(x.value, Int) else ops.negative(x, e.span)

    def _binary(self, op: str, a: Scalar, b: Scalar, span: ast.Span) -> Scalar:
        if isinstance(a.value, Bool):
            both = conj((a.bool, b.bool))
            return Scalar(both if op == "and" else a.bool | b.bool)
        if isinstance(a.value, Int) and isinstance(b.value, Int) and op != "/":
            return Scalar(_integer(op, a.int, b.int, span))
        x, y = _as_real(a), _as_real(b)
        match op:
            case "+":
                return ops.add(x, y)
            case "-":
                return ops.subtract(x, y, span)
            case "*":
                return ops.multiply(x, y, span)
            case "/":
                return self._quotient(x, y, span)
            case _:
                return ops.compare_reals(_COMPARISONS[op], x, y)

    def _quotient(self, x: Scalar, y: Scalar, span: ast.Span) -> Scalar:
        exact = ops.divide(x, y, span)
        if not self.empty_is_zero:
            return exact
        nonzero = sign("ne", y.real)
        total = _shown(exact, conj((y.finite, nonzero)))
        return Scalar(reals.guarded(nonzero, exact.real), exact.finite, total.owes)

    def _call(self, e: ast.Call, args: list[Scalar]) -> Scalar:
        name = e.function
        if name in ("min", "max", "maximum", "minimum", "cdiv") and all(isinstance(a.value, Int) for a in args):
            x, y = args[0].int, args[1].int
            if name == "cdiv":
                return Scalar(-_integer_div(-x, y, e.span))
            return Scalar(integers.minimum(x, y) if name.startswith("min") else integers.maximum(x, y))
        if name == "abs" and isinstance(args[0].value, Int):
            return Scalar(integers.maximum(args[0].int, -args[0].int))
        if name == "random":
            return Scalar(reals.random(args[0].int, args[1].int))
        if name == "where":
            return ops.where(args[0], _as_real(args[1]), _as_real(args[2]))
        x0 = _as_real(args[0])
        match name:
            case "exp" | "exp2":
                return ops.exponential(x0, e.span, name == "exp2")
            case "log" | "log2":
                return self._log(x0, name, e.span)
            case "max" | "maximum":
                return ops.maximum(x0, _as_real(args[1]))
            case "min" | "minimum":
                return ops.minimum(x0, _as_real(args[1]), e.span)
            case _:
                return ops.function(name, x0, e.span)

    def _log(self, x: Scalar, name: str, span: ast.Span) -> Scalar:
        out = ops.logarithm(x, span, name == "log2")
        if self.empty_is_zero:
            return out
        return Scalar(out.real, TRUE, out.owes | ops.defined(out.finite, "the argument of log is positive", span))

    def _big(self, e: ast.Big, scope: Mapping[str, Scalar]) -> Scalar:
        j = symbol(atom_of(integers.polynomial({(fresh("k"),): 1})).name)
        limit = self.value(e.bound, scope).int
        inner = {**scope, e.variable: Scalar(j)}
        guard = conj((ge0(j), lt(j, limit), *(self.value(c, inner).bool for c in e.conditions)))
        body = _as_real(self.value(e.body, inner))
        variable = atom_of(j)
        # The domain is finite and every value counts only where the guard holds.
        if e.op == "sum":
            inside = conj((guard, negate(body.finite)))
            owes = body.owes | ops.defined(negate(exists((variable,), inside)), "every value summed is finite", e.span)
            return Scalar(make_sum((variable,), guard, body.real), TRUE, owes)
        seen = conj((guard, body.finite))
        return Scalar(make_max((variable,), seen, body.real), exists((variable,), seen), body.owes)


def _parts(tensor: str, table: Table) -> Table:
    """The part function of a tensor that splits."""
    positions = lift(0) if table.splits is None else table.splits
    return Table((positions,), 64, lift(0), table.extents[0] - 2, part_of=tensor)


_COMPARISONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}


def _shown(s: Scalar, claim: Bool) -> Scalar:
    """The scalar without the duty of `claim`, which holds."""
    return Scalar(s.value, s.finite, Duties(d for d in s.owes if d.claim is not claim))


def _as_real(s: Scalar) -> Scalar:
    return Scalar(reals.of_int(s.value), TRUE, s.owes) if isinstance(s.value, Int) else s


def _integer(op: str, a: Int, b: Int, span: ast.Span) -> Int | Bool:
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "//":
            return _integer_div(a, b, span)
        case "%":
            _integer_div(a, b, span)
            return mod(a, b)
        case _:
            return ops.compare_ints(_COMPARISONS[op], a, b)


def _integer_div(a: Int, b: Int, span: ast.Span) -> Int:
    if not integers.positive(b):
        raise Unsupported(f"the divisor {b!r} in the spec is not known to be positive", span)
    return div(a, b)


