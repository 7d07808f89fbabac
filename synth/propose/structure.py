"""What a spec's outputs ask a kernel to do: which rows, which loops over keys, which sums and maxima in each.

Every output is written over *folds*: sums and maxima over one long (symbolic) axis. Folds that share a domain and a
score run in one loop, a `Group`. A sum of `exp(score) * rest` is kept as `exp(pivot) * fold`, the pivot being a number
per row that the loop is free to choose (its running maximum, say); quotients and logarithms then get rid of it, which
is how softmax and log-sum-exp come out without being looked for by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ir.ast import Big, Binary, Call, Element, Expr, Name
from ir.program import DType
from ir.spec import Bound, TensorSpec
from synth.propose import NothingToPropose
from synth.propose.formula import (
    ONE,
    conjuncts,
    factors,
    free,
    product,
    rebuild,
    substitute,
    terms,
    total,
    walk,
    written_out,
)


@dataclass(frozen=True, slots=True)
class Fold:
    """op over the group's domain of `rest` (times exp(score - pivot) in a weighted group); named in output formulas."""

    name: str
    op: str
    rest: Expr


@dataclass(frozen=True, slots=True)
class Group:
    """One loop: `key` runs over 0 <= key < extent where every condition of `sees` holds."""

    key: str
    extent: Expr
    sees: tuple[Expr, ...]
    score: Expr | None
    pivot: str
    folds: tuple[Fold, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """`value` mentions folds by name, and pivots where they did not cancel."""

    tensor: TensorSpec
    dtype: DType
    index: tuple[str, ...]
    value: Expr


@dataclass(frozen=True, slots=True)
class Nest:
    """Outputs over the same symbolic sizes: one kernel. `programs` are grid axes, `row` is the tiled one, `lanes`
    are axes of static extent that a tile holds whole."""

    programs: tuple[tuple[str, Expr], ...]
    row: tuple[str, Expr]
    lanes: tuple[tuple[str, Expr], ...]
    groups: tuple[Group, ...]
    outputs: tuple[Output, ...]


def is_static(extent: Expr, bound: Bound) -> bool:
    """Whether an extent is a number once the spec is bound, such as a head dim."""
    symbolic = {d.name for d in bound.dims}
    return not (free(extent) & symbolic)


def nests(bound: Bound) -> tuple[Nest, ...]:
    """Raises NothingToPropose when some output has no such structure."""
    by_rows: dict[tuple[str, ...], list[tuple[TensorSpec, DType]]] = {}
    for tensor, dtype in bound.outputs:
        rows = [e for e in tensor.shape if not is_static(e, bound)]
        if not rows:
            raise NothingToPropose(f"output {tensor.name} has no symbolic dimension to spread over programs")
        by_rows.setdefault(tuple(sorted(map(repr, rows))), []).append((tensor, dtype))
    return tuple(_nest(outputs, bound) for outputs in by_rows.values())


def _nest(tensors: list[tuple[TensorSpec, DType]], bound: Bound) -> Nest:
    first, _ = written_out(bound, tensors[0][0].name)
    shape = tensors[0][0].shape
    rows = {p: e for p, e in zip(first, shape, strict=True) if not is_static(e, bound)}
    lanes: dict[str, Expr] = {}
    builder = _Folds(bound)
    outputs = []
    for tensor, dtype in tensors:
        parameters, value = written_out(bound, tensor.name)
        index: list[str] = []
        for parameter, extent in zip(parameters, tensor.shape, strict=True):
            if is_static(extent, bound):
                name = _lane(parameter, extent, lanes, list(rows))
                lanes[name] = extent
            else:
                name = next(n for n, e in rows.items() if e == extent and n not in index)
            index.append(name)
        renamed: dict[str, Expr] = {p: Name(n) for p, n in zip(parameters, index, strict=True)}
        builder.taken.update(index)
        value = builder.exp_free(substitute(value, renamed))
        outputs.append(Output(tensor, dtype, tuple(index), value))
    used = frozenset().union(*(free(o.value) for o in outputs))
    groups = tuple(g for g in builder.groups() if used & {f.name for f in g.folds})
    row = _tiled(list(rows), groups)
    programs = tuple((name, extent) for name, extent in rows.items() if name != row)
    return Nest(programs, (row, rows[row]), tuple(lanes.items()), groups, tuple(outputs))


def _tiled(names: list[str], groups: tuple[Group, ...]) -> str:
    """The axis to tile: the one that the fewest tensors read in a loop depend on, so that rows share what is read."""
    read = [e for g in groups for e in everything(g) if isinstance(e, Element) and g.key in free(e)]
    return min(reversed(names), key=lambda name: sum(name in free(e) for e in set(read)))


def everything(group: Group) -> list[Expr]:
    """Every subexpression that a loop evaluates."""
    roots = [*group.sees, *(f.rest for f in group.folds), *((group.score,) if group.score is not None else ())]
    return [e for root in roots for e in walk(root)]


def _lane(parameter: str, extent: Expr, lanes: dict[str, Expr], taken: list[str]) -> str:
    name = parameter
    while name in taken or lanes.get(name, extent) != extent:
        name += "_"
    return name


# ---- from big sums to folds ----------------------------------------------------------------------

Exponents = dict[Expr, int]


@dataclass
class _Folds:
    """Collects groups while output formulas are rewritten over them."""

    bound: Bound
    taken: set[str] = field(default_factory=set)
    domains: dict[tuple[Expr, tuple[Expr, ...], Expr | None], list[Fold]] = field(default_factory=dict)
    keys: dict[Expr, str] = field(default_factory=dict)

    def groups(self) -> tuple[Group, ...]:
        found = []
        for number, ((extent, sees, score), folds) in enumerate(self.domains.items()):
            folds = sorted(folds, key=lambda f: f.rest != ONE)  # the plain sum of weights first, as papers write it
            found.append(Group(self.keys[extent], extent, sees, score, _pivot(number), tuple(folds)))
        return tuple(found)

    def exp_free(self, expr: Expr) -> Expr:
        exponents, core = self.split(expr)
        return self._join(exponents, core)

    def split(self, expr: Expr) -> tuple[Exponents, Expr]:
        """`expr` as exp(sum of n * term) * core, the terms being row values that a loop chose."""
        match expr:
            case Big() if not is_static(expr.bound, self.bound):
                return self._fold(expr)
            case Binary("*" | "/" as op, left, right):
                (a, x), (b, y) = self.split(left), self.split(right)
                return _merge(a, b, 1 if op == "*" else -1), Binary(op, x, y)
            case Call("log", (argument,)):
                exponents, core = self.split(argument)
                return {}, total([(Call("log", (core,)), 1), *_as_terms(exponents)])
            case Binary("+" | "-"):
                parts = [(self.split(part), sign) for part, sign in terms(expr)]
                if all(exponents == parts[0][0][0] for (exponents, _), _ in parts):
                    flat = [(t, s * sign) for (_, core), sign in parts for t, s in terms(core)]
                    return parts[0][0][0], total(flat)
                return {}, total([(self._join(*split), sign) for split, sign in parts])
            case _:
                return {}, rebuild(expr, self.exp_free)

    def _join(self, exponents: Exponents, core: Expr) -> Expr:
        if not exponents:
            return core
        return Binary("*", core, Call("exp", (total(_as_terms(exponents)),)))

    def _fold(self, big: Big) -> tuple[Exponents, Expr]:
        key = self.keys.setdefault(big.bound, self._name(big.variable.partition("#")[0]))
        at_key: dict[str, Expr] = {big.variable: Name(key)}
        conditions = [_contractions(substitute(c, at_key), self.bound) for c in big.conditions]
        sees = tuple(part for condition in conditions for part in conjuncts(condition))
        body = _contractions(substitute(big.body, at_key), self.bound)
        if big.op != "sum":
            self._no_long_sums(body)
            return {}, Name(self._add((big.bound, sees, None), big.op, body))
        score, outside, rest = self._weigh(body, key)
        for part in (rest, *(() if score is None else (score,)), *sees):
            self._no_long_sums(part)
        name = self._add((big.bound, sees, score), "sum", rest)
        if score is None:
            return outside, Name(name)
        number = list(self.domains).index((big.bound, sees, score))
        return _merge(outside, {Name(_pivot(number)): 1}, 1), Name(name)

    def _weigh(self, body: Expr, key: str) -> tuple[Expr | None, Exponents, Expr]:
        """body = exp(score) * exp(outside) * rest. `outside` holds what is free of the key but is itself a long sum
        or maximum, such as the row maximum that a paper's softmax subtracts."""
        inside: list[tuple[Expr, int]] = []
        outside: Exponents = {}
        rest: list[tuple[Expr, int]] = []
        for factor, sign in factors(body):
            match factor:
                case Call("exp", (argument,)) if key in free(argument):
                    for term, n in terms(argument):
                        if key not in free(term) and any(self._is_long(t) for t in walk(term)):
                            outside = _merge(outside, {self.exp_free(term): n * sign}, 1)
                        else:
                            inside.append((term, n * sign))
                case _:
                    rest.append((factor, sign))
        return (total(inside) if inside else None), outside, product(rest)

    def _is_long(self, expr: Expr) -> bool:
        return isinstance(expr, Big) and not is_static(expr.bound, self.bound)

    def _no_long_sums(self, expr: Expr) -> None:
        if any(self._is_long(e) for e in walk(expr)):
            raise NothingToPropose("a sum over a symbolic size nested in another one")

    def _add(self, domain: tuple[Expr, tuple[Expr, ...], Expr | None], op: str, rest: Expr) -> str:
        folds = self.domains.setdefault(domain, [])
        for fold in folds:
            if (fold.op, fold.rest) == (op, rest):
                return fold.name
        weighted = domain[2] is not None
        stem = "l" if weighted and rest == ONE else "acc" if op == "sum" else "top"
        used = {f.name for fs in self.domains.values() for f in fs}
        name = next(n for n in (stem, *(f"{stem}_{i}" for i in range(2, 1000))) if f"{n}#" not in used)
        folds.append(Fold(f"{name}#", op, rest))
        return f"{name}#"

    def _name(self, wanted: str) -> str:
        while wanted in self.taken or wanted in self.keys.values():
            wanted += "_"
        return wanted


def _pivot(number: int) -> str:
    """Name of a group's pivot in output formulas; '#' keeps it apart from every name of the spec."""
    return f"m{number or ''}#"


def _contractions(expr: Expr, bound: Bound, depth: int = 0) -> Expr:
    """Short sums inside a body get names by depth, so that equal scores of two outputs are equal trees."""
    match expr:
        case Big() if is_static(expr.bound, bound):
            name = f"e#{depth}"
            renamed: dict[str, Expr] = {expr.variable: Name(name)}
            return Big(
                expr.op,
                name,
                expr.bound,
                tuple(_contractions(substitute(c, renamed), bound, depth + 1) for c in expr.conditions),
                _contractions(substitute(expr.body, renamed), bound, depth + 1),
            )
        case _:
            return rebuild(expr, lambda child: _contractions(child, bound, depth))


def _as_terms(exponents: Exponents) -> list[tuple[Expr, int]]:
    return [(term, 1 if n > 0 else -1) for term, n in exponents.items() for _ in range(abs(n))]


def _merge(a: Exponents, b: Exponents, sign: int) -> Exponents:
    merged = dict(a)
    for term, n in b.items():
        merged[term] = merged.get(term, 0) + sign * n
    return {term: n for term, n in merged.items() if n}

