"""SymPy's view of terms and formulas: a second opinion on scalar identities, LaTeX, readable residuals.

Nothing here can make a candidate proved. `scan_identities_hold` re-derives with SymPy, whose algebra
shares no code with ours, the scalar identities every scan rests on; a disagreement makes E1 unproved.
SymPy is imported only when evidence or a page is written: it takes longer to load than a proof to run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ir import ast
from ir.spec import Bound
from verifier.booleans import TRUE, Bool
from verifier.elimination import bounds
from verifier.integers import Atom, Int
from verifier.reals import Monomial, Real, RealAtom


@dataclass(frozen=True, slots=True)
class ScanIdentity:
    """factor: a(s, s'); before, after: phi(s), phi(s'). The scan rule used factor * after = before."""

    name: str
    factor: Real
    before: Real
    after: Real


def scan_identities_hold(identities: Iterable[ScanIdentity]) -> tuple[str, ...]:
    """Names of scans whose identity, or whose cocycle law a(s,s') a(s',s'') = a(s,s''), SymPy does not confirm."""
    import sympy

    failed = []
    for identity in identities:
        view = _View()
        first, before, after = (view.real(x) for x in (identity.factor, identity.before, identity.after))
        states = sorted(view.states)
        step = {view.symbol(n, "state"): view.symbol(n, "new") for n in states}
        onward = {view.symbol(n, "new"): view.symbol(n, "third") for n in states}
        second, whole = first.subs(onward).subs(step), first.subs(onward)
        # With a counter in phi the two-step factor is phi(n)/phi(n+2), which the first identity already gives.
        chained = view.counters or sympy.simplify(first * second / whole - 1) == 0
        if not chained or sympy.simplify(first * after - before) != 0:
            failed.append(identity.name)
    return tuple(failed)


def readable(x: Real) -> str:
    """A term as SymPy prints it, for a residual goal."""
    return str(_View().real(x))


def spec_latex(bound: Bound) -> dict[str, str]:
    """The formula of every definition of a spec in LaTeX, options and static dimensions put in."""
    import sympy

    formula = _Formula(bound)
    out = {}
    for d in bound.spec.definitions:
        left = sympy.Symbol(d.name) if not d.parameters else sympy.Function(d.name)(*map(_index, d.parameters))
        out[d.name] = f"{sympy.latex(left)} = {sympy.latex(formula.value(d.value))}"
    return out


class _View:
    """Terms to SymPy: atoms become positive symbols, named by what they are."""

    def __init__(self) -> None:
        self.states: set[str] = set()
        self.counters = False

    def symbol(self, name: str, kind: str) -> Any:
        import sympy

        return sympy.Symbol(f"{name}{ {'state': '', 'new': '_next', 'third': '_after_next'}[kind] }", positive=True)

    def real(self, x: Real) -> Any:
        import sympy

        return sympy.Add(*(sympy.Rational(c) * self._monomial(m) for m, c in x.terms))

    def _monomial(self, m: Monomial) -> Any:
        import sympy

        parts = [self._atom(a) ** k for a, k in m.factors]
        if m.exponent is not None:
            parts.append(sympy.exp(self.real(m.exponent)))
        out = sympy.Mul(*parts)
        return out if m.guard is TRUE else sympy.Piecewise((out, self._condition(m.guard)), (0, True))

    def _condition(self, b: Bool) -> Any:
        import sympy

        return sympy.Ne(sympy.Symbol(repr(b)), 0)

    def _atom(self, a: RealAtom) -> Any:
        import sympy

        match a.kind:
            case "state" | "new":
                name = f"{a.args[0]}[{', '.join(map(repr, a.args[1]))}]"
                self.states.add(name)
                return self.symbol(name, a.kind)
            case "int":
                self.counters = True
                return self._integer(a.args[0])
            case "log":
                return sympy.log(self.real(a.args[0]))
            case "poly":
                return self.real(a.args[0])
            case "fn":
                return sympy.Function(a.args[0])(self.real(a.args[1]))
            case "sum":
                return self._sum(*a.args)
            case _:
                return sympy.Symbol(repr(a), positive=True)

    def _sum(self, variables: tuple[Atom, ...], guard: Bool, body: Real) -> Any:
        import sympy

        limits = []
        for v in variables:
            found = bounds(v, guard)
            if found is None or not found[0] or not found[1]:
                return sympy.Symbol(f"sum[{', '.join(map(repr, variables))} | {guard!r}]({body!r})", positive=True)
            lows, highs = ([self._integer(i) for i in side] for side in found)
            limits.append((_index(v.name), sympy.Max(*lows), sympy.Min(*highs)))
        return sympy.Sum(self.real(body), *limits)

    def _integer(self, x: Int) -> Any:
        import sympy

        return sympy.Add(*(c * sympy.Mul(*(_index(repr(a)) for a in power)) for power, c in x.terms))


def _index(name: str) -> Any:
    import sympy

    return sympy.Symbol(name, integer=True)


def _constant(name: str) -> Any:
    import sympy

    known = {"true": sympy.true, "false": sympy.false, "inf": sympy.oo, "ln2": sympy.log(2), "log2e": 1 / sympy.log(2)}
    return known.get(name, _index(name))


class _Formula:
    """A spec's formulas; conditions that only speak of options are decided, named conditions written out."""

    def __init__(self, bound: Bound) -> None:
        self.settings = dict(bound.settings)
        self.definitions = {d.name: d for d in bound.spec.definitions}

    def value(self, e: ast.Expr) -> Any:
        import sympy
        from sympy.logic.boolalg import Boolean

        match e:
            case ast.Number():
                return sympy.Rational(e.value)
            case ast.Name():
                value = self.settings.get(e.id)
                return sympy.Integer(value) if isinstance(value, int) else _constant(e.id)
            case ast.Text():
                return sympy.Symbol(e.value)
            case ast.Unary():
                inner = self.value(e.operand)
                return -inner if e.op == "-" else sympy.Not(inner)
            case ast.Binary():
                return self._binary(e)
            case ast.Call():
                arguments = [self.value(a) for a in e.args]
                known = {"exp": sympy.exp, "log": sympy.log, "sqrt": sympy.sqrt, "abs": sympy.Abs, "tanh": sympy.tanh}
                return known.get(e.function, sympy.Function(e.function))(*arguments)
            case ast.Element() if self._is_condition(e.name):
                d = self.definitions[e.name]
                pairs = zip(d.parameters, e.index, strict=True)
                return self.value(d.value).subs({_index(p): self.value(i) for p, i in pairs}, simultaneous=True)
            case ast.Element():
                return sympy.Function(e.name)(*(self.value(i) for i in e.index))
            case ast.If():
                condition = self.value(e.condition)
                if condition in (sympy.true, sympy.false):
                    return self.value(e.then if condition == sympy.true else e.otherwise)
                then, otherwise = self.value(e.then), self.value(e.otherwise)
                if isinstance(then, Boolean) or isinstance(otherwise, Boolean):
                    return sympy.ITE(condition, then, otherwise)
                return sympy.Piecewise((then, condition), (otherwise, True))
            case ast.Big():
                return self._big(e)
            case _:
                return sympy.Symbol(type(e).__name__)

    def _binary(self, e: ast.Binary) -> Any:
        import sympy

        for name, text in ((e.left, e.right), (e.right, e.left)):
            if isinstance(name, ast.Name) and isinstance(text, ast.Text):
                same = self.settings.get(name.id) == text.value
                return sympy.true if same == (e.op == "==") else sympy.false
        a, b = self.value(e.left), self.value(e.right)
        match e.op:
            case "+":
                return a + b
            case "-":
                return a - b
            case "*":
                return a * b
            case "/":
                return a / b
            case "//":
                return sympy.floor(a / b)
            case "%":
                return sympy.Mod(a, b)
            case "and":
                return sympy.And(a, b)
            case "or":
                return sympy.Or(a, b)
            case _:
                order = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "==": sympy.Eq, "!=": sympy.Ne}
                return order[e.op](a, b)

    def _big(self, e: ast.Big) -> Any:
        import sympy

        variable = _index(e.variable)
        body = self.value(e.body)
        conditions = [c for c in (self.value(c) for c in e.conditions) if c != sympy.true]
        if conditions:
            body = sympy.Piecewise((body, sympy.And(*conditions)), (0 if e.op == "sum" else -sympy.oo, True))
        top = self.value(e.bound) - 1
        if e.op == "sum":
            return sympy.Sum(body, (variable, 0, top))
        return sympy.Function("max")(body, sympy.Tuple(variable, 0, top))

    def _is_condition(self, name: str) -> bool:
        from sympy.logic.boolalg import Boolean

        d = self.definitions.get(name)
        return d is not None and isinstance(self.value(d.value), Boolean)
