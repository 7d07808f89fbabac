"""Formulas of a rounding bound: what a certificate carries, a reader reads and a benchmark evaluates.

A formula is a number made of sizes, parameters, ranges of inputs and outputs (the largest |x| of a tensor) and errors
of saved inputs. Terms are interned, so a formula is a graph without repetitions. All values are >= 0 unless made by the
integer operations, and every operation on the others is monotone, so a bound put in place of a number gives a bound.
The standard library is all this module needs: a bound is evaluated where there is no solver.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

SLACK = 1.0 + 1e-9  # evaluation is in float64: far less than this is lost in a few hundred operations


class Formula:
    """op: number, leaf (kind, name), add, mul, max, min, div, pow, exp, expm1, log, lost, and of integers: iadd, isub,
    imul, imin, imax, idiv, imod. `lost(e, x)` = -log(1 - e/x), infinite unless e < x."""

    __slots__ = ("args", "op")

    def __init__(self, op: str, args: tuple[Any, ...]) -> None:
        self.op, self.args = op, args

    def __repr__(self) -> str:
        return text(self)


_TABLE: dict[tuple[Any, ...], Formula] = {}


def _made(op: str, *args: Any) -> Formula:
    key = (op, *args)
    found = _TABLE.get(key)
    if found is None:
        found = _TABLE[key] = Formula(op, args)
    return found


def number(x: float) -> Formula:
    return _made("number", float(x))


ZERO, ONE, INFINITE = number(0.0), number(1.0), number(math.inf)


def leaf(kind: str, name: str) -> Formula:
    """kind: size, parameter, range (largest |x| of an input), result (the same of an output's exact value), saved
    (error of a saved input), and while a bound is being made: unknown, floor."""
    return _made("leaf", kind, name)


def constant(f: Formula) -> float | None:
    return f.args[0] if f.op == "number" else None


def add(*terms: Formula) -> Formula:
    flat = [t for term in terms for t in (term.args if term.op == "add" else (term,))]
    known = sum(t.args[0] for t in flat if t.op == "number")
    rest = [t for t in flat if t.op != "number"]
    if known == math.inf:
        return INFINITE
    parts = (*rest, *((number(known),) if known else ()))
    return ZERO if not parts else parts[0] if len(parts) == 1 else _made("add", *parts)


def mul(*factors: Formula) -> Formula:
    """A product; 0 times anything is 0, also times what has no bound: nothing is there to be wrong."""
    flat = [f for factor in factors for f in (factor.args if factor.op == "mul" else (factor,))]
    if ZERO in flat:
        return ZERO
    known = math.prod(f.args[0] for f in flat if f.op == "number")
    rest = [f for f in flat if f.op != "number"]
    if known == math.inf:
        return INFINITE
    parts = (*((number(known),) if known != 1.0 else ()), *rest)
    return ONE if not parts else parts[0] if len(parts) == 1 else _made("mul", *parts)


def maximum(*members: Formula) -> Formula:
    flat = dict.fromkeys(m for member in members for m in (member.args if member.op == "max" else (member,)))
    known = max((m.args[0] for m in flat if m.op == "number"), default=0.0)
    rest = tuple(m for m in flat if m.op != "number")
    if known == math.inf:
        return INFINITE
    parts = (*rest, *((number(known),) if known else ()))
    return ZERO if not parts else parts[0] if len(parts) == 1 else _made("max", *parts)


def minimum(*members: Formula) -> Formula:
    flat = dict.fromkeys(m for m in members if m is not INFINITE)
    if not flat:
        return INFINITE
    return ZERO if ZERO in flat else next(iter(flat)) if len(flat) == 1 else _made("min", *flat)


def exp(x: Formula) -> Formula:
    return ONE if x is ZERO else number(_exp(x.args[0]) * SLACK) if x.op == "number" else _made("exp", x)


def expm1(x: Formula) -> Formula:
    value = constant(x)
    return _made("expm1", x) if value is None else INFINITE if value > 700.0 else number(math.expm1(value) * SLACK)


def log(x: Formula) -> Formula:
    """max(0, log x)."""
    return INFINITE if x is INFINITE else _made("log", x)


def power(x: Formula, n: Formula) -> Formula:
    """x^n for x >= 1 and a count n."""
    return ONE if x is ONE else INFINITE if x is INFINITE else _made("pow", x, n)


def divide(a: Formula, b: Formula) -> Formula:
    """a / b; infinite where b is 0."""
    x, y = constant(a), constant(b)
    if x is not None and y is not None:
        return INFINITE if y <= 0.0 else number(x / y)
    return ZERO if a is ZERO else INFINITE if a is INFINITE or b is ZERO else _made("div", a, b)


def lost(e: Formula, x: Formula) -> Formula:
    """By how much log y may change when y >= x changes by e: -log(1 - e/x)."""
    return ZERO if e is ZERO else INFINITE if INFINITE in (e,) or x is ZERO else _made("lost", e, x)


def integer(op: str, *args: Formula) -> Formula:
    """op: iadd isub imul imin imax idiv imod, on integers of any sign; idiv and imod round towards minus infinity."""
    if op in ("imin", "imax") and len(args := tuple(dict.fromkeys(args))) == 1 or op == "isub" and args[1] is ZERO:
        return args[0]
    values = [constant(a) for a in args]
    if all(v is not None for v in values):
        return number(_INTEGERS[op](*values))
    return _made(op, *args)


_INTEGERS: dict[str, Callable[..., float]] = {
    "iadd": operator.add, "isub": operator.sub, "imul": operator.mul, "imin": min, "imax": max,
    "idiv": operator.floordiv, "imod": operator.mod,
}  # fmt: skip


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.0 else math.inf


def _apply(op: str, v: list[float]) -> float:
    match op:
        case "add":
            return math.fsum(v) if math.inf not in v else math.inf
        case "mul":
            return math.inf if math.inf in v else math.prod(v)  # a range of 0 makes no bound of what has none
        case "max":
            return max(v)
        case "min":
            return min(v)
        case "exp":
            return _exp(v[0])
        case "expm1":
            return math.expm1(v[0]) if v[0] < 709.0 else math.inf
        case "log":
            return math.log(v[0]) if v[0] > 1.0 else 0.0
        case "pow":
            return _exp(v[1] * math.log(v[0])) if v[0] < math.inf else math.inf
        case "div":
            return v[0] / v[1] if v[1] > 0.0 else math.inf
        case "lost":
            return -math.log1p(-v[0] / v[1]) if v[0] < v[1] else math.inf
        case _:
            return _INTEGERS[op](*v)


Values = Mapping[tuple[str, str], float]


def evaluate(f: Formula, values: Values) -> float:
    """The number a formula stands for; `values` by (kind, name) of its leaves. KeyError names a leaf without one."""
    memo: dict[int, float] = {}

    def of(x: Formula) -> float:
        found = memo.get(id(x))
        if found is None:
            match x.op:
                case "number":
                    found = x.args[0]
                case "leaf":
                    found = float(values[x.args])
                case _:
                    found = _apply(x.op, [of(a) for a in x.args])
            memo[id(x)] = found
        return found

    return of(f) * SLACK


def substituted(f: Formula, put: Mapping[Formula, Formula]) -> Formula:
    """f with some of its leaves replaced."""
    memo: dict[int, Formula] = {}

    def of(x: Formula) -> Formula:
        found = memo.get(id(x))
        if found is None:
            found = put.get(x, x) if x.op in ("leaf", "number") else _again(x.op, [of(a) for a in x.args])
            memo[id(x)] = found
        return found

    return of(f)


def _again(op: str, args: Sequence[Formula]) -> Formula:
    made = _MAKERS.get(op)
    return integer(op, *args) if made is None else made(*args)


_MAKERS: dict[str, Callable[..., Formula]] = {
    "add": add, "mul": mul, "max": maximum, "min": minimum, "exp": exp, "expm1": expm1, "log": log, "pow": power,
    "div": divide, "lost": lost,
}  # fmt: skip


def leaves(f: Formula) -> dict[tuple[str, str], None]:
    """(kind, name) of every leaf, in the order in which they are met."""
    return dict.fromkeys(x.args for x in _nodes(f) if x.op == "leaf")


def _nodes(f: Formula) -> Iterator[Formula]:
    """Every term of a formula once, arguments before what they are arguments of."""
    seen: set[int] = set()
    stack = [(f, False)]
    while stack:
        x, done = stack.pop()
        if done:
            yield x
            continue
        if id(x) in seen:
            continue
        seen.add(id(x))
        stack.append((x, True))
        stack += [(a, False) for a in reversed(x.args) if isinstance(a, Formula)]


def to_json(f: Formula) -> list[list[Any]]:
    """The terms of f, each [op, arguments]; an argument that is a term is its position. The last one is f."""
    order: dict[int, int] = {}
    out: list[list[Any]] = []
    for x in _nodes(f):
        args = [order[id(a)] if isinstance(a, Formula) else "inf" if a == math.inf else a for a in x.args]
        order[id(x)] = len(out)
        out.append([x.op, *args])
    return out


def from_json(terms: Sequence[Sequence[Any]]) -> Formula:
    """The formula `to_json` wrote. Raises ValueError for anything else."""
    made: list[Formula] = []
    for op, *args in terms:
        if op == "number":
            made.append(number(float(args[0])))
        elif op == "leaf":
            made.append(leaf(str(args[0]), str(args[1])))
        elif op in {**_MAKERS, **_INTEGERS} and all(isinstance(a, int) and 0 <= a < len(made) for a in args):
            made.append(_again(op, [made[a] for a in args]))
        else:
            raise ValueError(f"no term of a rounding bound: {[op, *args]}")
    if not made:
        raise ValueError("a rounding bound without terms")
    return made[-1]


_LEAVES = {"range": "max|{}|", "result": "max|{}|", "saved": "err({})", "absolute": "|{}|"}
_SIGNS = {"add": " + ", "iadd": " + ", "imul": " * ", "isub": " - ", "idiv": " // ", "imod": " % "}
_WORDS = {"max": "max", "imax": "max", "min": "min", "imin": "min", "exp": "exp", "expm1": "expm1", "log": "log+",
          "lost": "lost"}  # fmt: skip


def text(f: Formula, names: Mapping[int, str] | None = None) -> str:
    """For people: `max|Q|` is the range of Q, `err(LSE)` the error of a saved input. `names`: what to call a term."""
    return _text(f, names or {}, True)


def _text(f: Formula, names: Mapping[int, str], outermost: bool = False) -> str:
    if not outermost and id(f) in names:
        return names[id(f)]
    match f.op:
        case "number":
            return _number(f.args[0])
        case "leaf":
            kind, name = f.args
            return _LEAVES.get(kind, "{}").format(name)
        case op:
            args = [_text(a, names) for a in f.args]
    match op:
        case "div":
            return f"{args[0]} / {args[1]}"
        case "pow":
            return f"{args[0]}^{args[1]}"
        case "mul":
            return " ".join(args)
        case _ if op in _SIGNS:
            return f"({_SIGNS[op].join(args)})"
        case _:
            return f"{_WORDS[op]}({', '.join(args)})"


def lines(f: Formula, result: str) -> list[str]:
    """The formula for people, one line for each term that is used more than once and one for the result."""
    uses: dict[int, int] = {}
    terms = list(_nodes(f))
    for x in terms:
        for a in x.args:
            if isinstance(a, Formula):
                uses[id(a)] = uses.get(id(a), 0) + 1
    shared = [x for x in terms if uses.get(id(x), 0) > 1 and x.op not in ("number", "leaf")]
    names = {id(x): f"t{k + 1}" for k, x in enumerate(shared)}
    return [*(f"{names[id(x)]} = {text(x, names)}" for x in shared), f"{result} = {text(f, names)}"]


def _number(x: float) -> str:
    if x in (math.inf, 0.0):
        return "infinite" if x else "0"
    mantissa, exponent = math.frexp(x)
    if mantissa == 0.5 and abs(exponent) > 8:
        return f"2^{exponent - 1}"
    return f"{x:.9g}"
