"""From which iteration of a loop on, and until which, a condition on tile lanes holds for every lane, or for some.

`j[None, :] < N` with `j = n * BN + arange(BN)` holds for every lane while n < N // BN, and for some lane while
n < cdiv(N, BN). Conditions are read as affine in the loop's variable, lanes are replaced by their least or greatest
value, and the bound comes out as an expression that can stand before the loop. A guess in need of a proof: nothing
here knows that a size or a divisor is positive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from ir.ast import Assign, Binary, Call, Expand, Expr, For, Name, Number, Statement, Store, Unary
from ir.printer import print_expr
from synth.propose.rewrites.rewrite import Site
from synth.propose.tree import Node, assigns, every_place, nodes, reads

Monomial = tuple[Expr, ...]
FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def number(value: int) -> Expr:
    return Number(Fraction(value)) if value >= 0 else Unary("-", Number(Fraction(-value)))


def call(function: str, *args: Expr) -> Expr:
    return Call(function, args)


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A sum of integers times products of scalar expressions, terms in the order in which they were met."""

    terms: tuple[tuple[Monomial, int], ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and dict(self.terms) == dict(other.terms)

    def __hash__(self) -> int:
        return hash(frozenset(self.terms))

    @staticmethod
    def of(expr: Expr, factor: int = 1) -> Form:
        return Form((((expr,), factor),))

    @staticmethod
    def read(expr: Expr) -> Form:
        """An integer expression with its sums and products multiplied out; anything else in it stays whole."""
        match expr:
            case Number(value, False):
                return Form.constant(int(value))
            case Unary("-", operand):
                return Form().plus(Form.read(operand), -1)
            case Binary("+" | "-" as op, left, right):
                return Form.read(left).plus(Form.read(right), 1 if op == "+" else -1)
            case Binary("*", left, right):
                return Form.read(left).times(Form.read(right))
            case _:
                return Form.of(expr)

    @staticmethod
    def constant(value: int) -> Form:
        return Form((((), value),) if value else ())

    def plus(self, other: Form, times: int = 1) -> Form:
        found = dict(self.terms)
        for monomial, n in other.terms:
            found[monomial] = found.get(monomial, 0) + n * times
        return Form(tuple((m, n) for m, n in found.items() if n))

    def times(self, other: Form) -> Form:
        result = Form()
        for left, n in self.terms:
            for right, k in other.terms:
                result = result.plus(Form(((tuple(sorted((*left, *right), key=_order)), n * k),)))
        return result

    def expr(self) -> Expr:
        """Positive terms first: the language has no literal below zero."""
        result: Expr | None = None
        for monomial, n in sorted(self.terms, key=lambda term: term[1] < 0):
            factors = (*monomial, *([number(abs(n))] if abs(n) != 1 or not monomial else []))
            term = factors[0]
            for factor in factors[1:]:
                term = Binary("*", term, factor)
            if result is None:
                result = term if n > 0 else Unary("-", term)
            else:
                result = Binary("+" if n > 0 else "-", result, term)
        return number(0) if result is None else result

    def split(self, name: str) -> tuple[Form, Form] | None:
        """(coefficient of a variable, the rest); None where the form is not affine in it."""
        within, rest = Form(), Form()
        for monomial, n in self.terms:
            count = sum(1 for atom in monomial if atom == Name(name))
            if count > 1 or any(name in reads(atom) for atom in monomial if atom != Name(name)):
                return None
            if count:
                within = within.plus(Form(((tuple(a for a in monomial if a != Name(name)), n),)))
            else:
                rest = rest.plus(Form(((monomial, n),)))
        return within, rest


def _order(atom: Expr) -> tuple[bool, str]:
    """Program ids before metas and sizes, t * BM, as a person writes them."""
    text = print_expr(atom)
    return text.isupper(), text


def definitions(site: Site, k: int) -> dict[str, Expr]:
    """What names that statement k of a block may read were assigned, where that still says what they are."""
    found: dict[str, Expr] = {}
    body = site.kernel.body
    for position in site.path:
        _scan(found, body[:position])
        loop = body[position]
        assert isinstance(loop, For)
        _forget(found, set(loop.carried))
        body = loop.body
    _scan(found, body[:k])
    return found


def _scan(found: dict[str, Expr], body: tuple[Statement, ...]) -> None:
    for statement in body:
        match statement:
            case Assign(name, value):
                _forget(found, {name})
                if name not in reads(value):
                    found[name] = value
            case For(carried=carried):
                _forget(found, set(carried))


def _forget(found: dict[str, Expr], changed: set[str]) -> None:
    for name in [n for n, value in found.items() if n in changed or reads(value) & changed]:
        del found[name]


@dataclass(frozen=True, slots=True)
class Bound:
    """A condition of a loop's body, and the bound on the loop's variable: below top // unit, or from top // unit on."""

    condition: Expr
    below: bool
    top: Form
    unit: Form

    @property
    def value(self) -> Expr:
        return self._quotient("//", self.top)

    @property
    def rounded_up(self) -> Expr:
        """The same as `value`, written as a person writes the number of blocks that cover a length."""
        return self._quotient("cdiv", self.length)

    @property
    def length(self) -> Form:
        return self.top.plus(self.unit, -1).plus(Form.constant(1))

    def _quotient(self, op: str, top: Form) -> Expr:
        if self.unit == Form.constant(1):
            return self.top.expr()
        operands = top.expr(), self.unit.expr()
        return call("cdiv", *operands) if op == "cdiv" else Binary("//", *operands)


@dataclass(frozen=True)
class LoopConditions:
    """The conditions in the body of `site.statements[k]`, a loop."""

    site: Site
    k: int

    @property
    def loop(self) -> For:
        loop = self.site.statements[self.k]
        assert isinstance(loop, For)
        return loop

    def always(self) -> Iterator[Bound]:
        """Where each condition holds for every lane."""
        yield from self._bounds(nodes(self.loop.body), lambda high: high)

    def possible(self) -> Iterator[Bound]:
        """Where each condition that is not an alternative of others holds for some lane."""
        yield from self._bounds(_required(self.loop.body), lambda high: not high)

    def known(self, bound: Bound) -> bool:
        """Whether the loop's own range keeps to the bound already, as far as its text says."""
        function, quotient = ("min", "cdiv") if bound.below else ("max", "//")
        values = definitions(self.site, self.k)
        for end in _parts(function, self.loop.stop if bound.below else self.loop.start, values):
            match end:
                case Call(op, (length, unit), ()) | Binary(op, length, unit) if op == quotient:
                    if Form.of(unit) != bound.unit:
                        continue
                    reached = bound.length if bound.below else bound.top
                    lengths = [self._extreme(part, {}, True) for part in _parts(function, length, values)]
                    if any(part is not None and part == reached for part in lengths):
                        return True
                case _ if end == bound.value:
                    return True
        return False

    def _bounds(self, found: Iterable[Node], end: Callable[[bool], bool]) -> Iterator[Bound]:
        values = self._values()
        seen = list[Expr]()
        for node in found:
            if not isinstance(node, Binary) or node.op not in FLIPPED or node in seen:
                continue
            seen.append(node)
            left, right = (node.left, node.right) if node.op[0] == "<" else (node.right, node.left)
            most, least = self._extreme(left, values, end(True)), self._extreme(right, values, end(False))
            if most is not None and least is not None:
                # left < right is left - right <= -1
                excess = most.plus(least, -1).plus(Form.constant(1 if "=" not in node.op else 0))
                yield from self._solved(node, excess)

    def _values(self) -> dict[str, Expr]:
        """Definitions before the loop, and those of its body where a name has one only."""
        values = definitions(self.site, self.k)
        _forget(values, set(self.loop.carried))
        inner = [n for n in nodes(self.loop.body) if isinstance(n, Assign)]
        for name in assigns(self.loop.body):
            values.pop(name, None)
            found = [a.value for a in inner if a.name == name]
            if len(found) == 1 and name not in reads(found[0]):
                values[name] = found[0]
        return values

    def _outside(self, name: str) -> bool:
        """An integer scalar that means the same before the loop and in it."""
        if name in self.loop.carried or name in assigns(self.loop.body):
            return False
        kind = self.site.type(self.k, Name(name))
        return kind is not None and not kind.shape and kind.dtype.is_int

    def _extreme(self, e: Expr, values: Mapping[str, Expr], high: bool) -> Form | None:
        """The greatest or least value of an integer expression over its lanes; None where that is not clear."""
        match e:
            case Number(value, False):
                return Form.constant(int(value))
            case Name(name) if name == self.loop.variable or self._outside(name):
                return Form.of(e)
            case Name(name):
                return self._extreme(values[name], values, high) if name in values else None
            case Unary("-", operand):
                form = self._extreme(operand, values, not high)
                return None if form is None else Form().plus(form, -1)
            case Binary("+" | "-" as op, left, right):
                first = self._extreme(left, values, high)
                second = self._extreme(right, values, high if op == "+" else not high)
                return None if first is None or second is None else first.plus(second, 1 if op == "+" else -1)
            case Binary("*", left, right):
                first, second = self._extreme(left, values, high), self._extreme(right, values, high)
                return None if first is None or second is None else first.times(second)
            case Binary("//", left, right):
                first, divisor = self._extreme(left, values, high), self._extreme(right, values, high)
                return None if first is None or divisor is None else Form.of(Binary("//", first.expr(), divisor.expr()))
            case Expand(operand) | Call("trans", (operand,)):
                return self._extreme(operand, values, high)
            case Call("arange", (count,)):
                length = self._extreme(count, values, True)
                return Form() if not high else None if length is None else length.plus(Form.constant(-1))
            case Call("cdiv" | "min" | "max") if all(map(self._outside, reads(e))):
                return Form.of(e)
            case _:
                return None

    def _solved(self, condition: Expr, excess: Form) -> Iterator[Bound]:
        """excess <= 0 as a bound on the loop's variable."""
        parts = excess.split(self.loop.variable)
        if parts is None:
            return
        factor, rest = parts
        size = self._constant(factor)
        if not size:
            return
        if size > 0:  # factor * n <= -rest
            yield Bound(condition, True, factor.plus(rest, -1), factor)
        else:  # |factor| * n >= rest
            step = Form().plus(factor, -1)
            yield Bound(condition, False, rest.plus(step).plus(Form.constant(-1)), step)

    def _constant(self, form: Form) -> int | None:
        """Its value, where it is made of numbers, metas and static dimensions."""
        known = dict(self.site.subject.bound.settings) | self.site.subject.metas
        total = 0
        for monomial, n in form.terms:
            for atom in monomial:
                value = known.get(atom.id) if isinstance(atom, Name) else None
                if not isinstance(value, int):
                    return None
                n *= value
            total += n
        return total


def _required(node: Node) -> Iterator[Node]:
    """Every node that stands under no `or` and no `not`."""
    alternatives = [n for n in nodes(node) if isinstance(n, (Binary, Unary)) and n.op in ("or", "not")]
    within = {id(inner) for n in alternatives for inner in nodes(n)}
    return (n for n in nodes(node) if id(n) not in within)


def _parts(function: str, expr: Expr, values: Mapping[str, Expr]) -> list[Expr]:
    """a, b, c of min(a, min(b, c)), and what those of them that are names were assigned."""
    match expr:
        case Call(name, (left, right), ()) if name == function:
            return [*_parts(function, left, values), *_parts(function, right, values)]
        case Name(name) if name in values:
            return [expr, *_parts(function, values[name], values)]
        case _:
            return [expr]


# ---- a body in which some conditions are known to hold -------------------------------------------

TRUE, FALSE = Name("true"), Name("false")


def settled(body: tuple[Statement, ...], holds: tuple[Expr, ...]) -> tuple[Statement, ...]:
    """The statements with conditions that hold taken out of masks; names that only said so are gone."""
    return _settled(body, holds, {})


def _settled(body: tuple[Statement, ...], holds: tuple[Expr, ...], known: dict[str, Expr]) -> tuple[Statement, ...]:
    result = list[Statement]()
    for statement in body:
        head = replace(statement, body=()) if isinstance(statement, For) else statement
        match every_place(head, _rule(holds, known)):
            case Assign(name, Name("true" | "false") as value):
                known[name] = value
            case For() as loop:
                assert isinstance(statement, For)
                result.append(replace(loop, body=_settled(statement.body, holds, dict(known))))
            case changed:
                if isinstance(changed, Assign):
                    known.pop(changed.name, None)
                result.append(changed)
    return tuple(result)


def _rule(holds: tuple[Expr, ...], known: Mapping[str, Expr]) -> Callable[[Node], Node]:
    def simpler(node: Node) -> Node:
        if node in holds:
            return TRUE
        match node:
            case Name(name) if name in known:
                return known[name]
            case Unary("not", operand) if operand in (TRUE, FALSE):
                return FALSE if operand == TRUE else TRUE
            case Binary("and" | "or" as op, left, right):
                same, other = (TRUE, FALSE) if op == "and" else (FALSE, TRUE)
                if other in (left, right):
                    return other
                return right if left == same else left if right == same else node
            case Expand(operand) if operand in (TRUE, FALSE):
                return operand
            case Call("where", (condition, then, otherwise)) if condition in (TRUE, FALSE):
                return then if condition == TRUE else otherwise
            case Call("load", keywords=keywords) if dict(keywords).get("mask") == TRUE:
                return replace(node, keywords=tuple(w for w in keywords if w[0] not in ("mask", "other")))
            case Store(mask=mask) if mask == TRUE:
                return replace(node, mask=None)
            case _:
                return node

    return simpler
