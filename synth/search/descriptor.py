"""Where a kernel stands among all kernels: its algorithm, its tiles, its memory traffic. The cells of the archive.

All of it is read off the typed program's structure, nothing off names, so that a kernel nobody has thought of gets a
place too, and kernels that differ only in spelling share one:

- the *algorithm* is what each kernel's loops do: how they nest and which way they run, what each carries from one
  iteration to the next (a running maximum, one moved lazily, a sum, a sum rescaled on the way), how many matrix
  products it holds; which exponential; rows packed from several axes; atomic additions; scratch between kernels;
- the *tile* is the largest matrix product [m, n, k], else the largest tile that is loaded; extents are powers of two;
- the *traffic* is bytes that loads and stores ask for over the fewest the spec allows (every input and output once),
  as a power of two, at the first search shape. It is a measure of reuse within programs, not a prediction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass

from ir.program import (
    Binary,
    Broadcast,
    Carry,
    Cast,
    Dot,
    DType,
    Expand,
    Expr,
    For,
    Kernel,
    Let,
    Load,
    Program,
    Reduce,
    Select,
    Statement,
    Store,
    Transpose,
    Unary,
    Var,
)
from ir.spec import Bound
from lowering.plan import walk
from synth.bench.cost import asked_bytes, predict
from synth.bench.predicted import best
from synth.bench.roofline import traffic_bytes
from synth.bench.timing import chosen_shapes
from verifier.certificate import Certificate

LENGTH = 256


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """`algorithm` and `tile` are words a report can print; `traffic` is log2 of bytes over the fewest possible, None
    where the spec moves nothing."""

    algorithm: str
    tile: str
    traffic: int | None

    def __str__(self) -> str:
        return f"{self.algorithm} | {self.tile} | {'?' if self.traffic is None else f'{2.0**self.traffic:g}x'}"


def cell_of(program: Program, bound: Bound) -> Cell:
    sizes = search_sizes(bound)[0]
    asked, least = asked_bytes(program, bound, sizes), traffic_bytes(bound, sizes)
    bucket = round(math.log2(asked / least)) if asked > 0 and least > 0 else None
    return Cell(algorithm(program), tile(program), bucket)


def expected_seconds(program: Program, bound: Bound, target: str, certificate: Certificate | None = None) -> float:
    """Geometric mean over the search shapes of the predicted times: of the fastest version that the certificate holds
    for the target, where it was lowered and compiled. Raises KeyError for an unknown target."""
    compiled = certificate is not None and "lowered" in certificate.body
    logs = []
    for sizes in search_sizes(bound):
        found = best(certificate, sizes, target) if certificate is not None and compiled else None
        prediction = found.prediction if found is not None else predict(program, bound, sizes, target)
        logs.append(math.log(prediction.seconds))
    return math.exp(sum(logs) / len(logs))


def search_sizes(bound: Bound) -> list[dict[str, int]]:
    """The sizes a search selects on, at least one set; every size `LENGTH`, within its limits, where none is known."""
    default = {d.name: max(d.minimum, min(d.maximum, LENGTH)) for d in bound.dims}
    return [default | dict(shape.sizes) for shape in chosen_shapes(bound, "search")] or [default]


# ---- tiles ------------------------------------------------------------------------------------------


def tile(program: Program) -> str:
    """Extents of the largest matrix product, m x n x k, else of the largest tile loaded, else "scalar"."""
    nodes = [node for kernel in program.kernels for node in walk(kernel.body)]
    found = [(*n.type.shape, n.left.type.shape[1]) for n in nodes if isinstance(n, Dot)]
    found = found or [n.type.shape for n in nodes if isinstance(n, Load) and n.type.shape]
    return "x".join(map(str, max(found, key=lambda s: (math.prod(s), s)))) if found else "scalar"


# ---- algorithm --------------------------------------------------------------------------------------


def algorithm(program: Program) -> str:
    """One phrase per kernel, in the order they run."""
    return " then ".join(_kernel(kernel) for kernel in program.kernels)


def _kernel(kernel: Kernel) -> str:
    nodes = list(walk(kernel.body))
    unary = {n.op for n in nodes if isinstance(n, Unary)}
    words: list[str] = [word for word in ("exp", "exp2") if word in unary]
    if any(isinstance(n, Binary) and n.op in ("floordiv", "mod") and n.type.shape for n in nodes):
        words.append("packed")
    if any(isinstance(n, Store) and n.atomic for n in nodes):
        words.append("atomic")
    return " ".join([_block(kernel.body, Names(nodes)), *words])


def _block(body: tuple[Statement, ...], names: Names) -> str:
    """What is done outside loops, in parentheses the loops, in order."""
    straight = [s for s in body if not isinstance(s, For)]
    loops = [_loop(s, names) for s in body if isinstance(s, For)]
    words = _counted(Counter("dot" for s in straight for n in walk(s) if isinstance(n, Dot)))
    return " ".join([*words, *loops]) or "straight"


def _loop(loop: For, names: Names) -> str:
    roles = Counter(role for carry in loop.carries if (role := carried(carry, names)))
    direction = "down" if _direction(loop, names) < 0 else "up"
    inside = _block(loop.body, names).replace("straight", "")
    return "(" + " ".join(word for word in (direction, *_counted(roles), inside) if word) + ")"


def _counted(words: Counter[str]) -> list[str]:
    return [word if n == 1 else f"{n} {word}" for word, n in sorted(words.items())]


_SHAPE = Cast | Broadcast | Expand | Transpose


def carried(carry: Carry, names: Names) -> str:
    """How a value comes out of its last one: "max" or "min", "lazy" (chosen between the old one and another),
    "scaled" (a sum whose past is multiplied), "sum", "index" (an integer), "value" (anything else). Empty where it
    passes through unchanged or belongs to a loop inside."""
    if carry.type.dtype.is_int:
        return "index"
    path = _path(carry.next, carry.name, names, set())
    if path is None:
        return "value"
    for op in path:
        match op:
            case "loop":
                return ""
            case "max" | "min":
                return op
            case "select":
                return "lazy"
    if not path:
        return ""
    return "scaled" if {"mul", "div"} & set(path) else "sum" if set(path) <= {"add", "sub", "dot"} else "value"


class Names:
    """What the names of a kernel stand for, each assigned once: values, and what carried ones start as."""

    def __init__(self, nodes: Iterable[object]) -> None:
        self.values: dict[str, Expr] = {}
        self.inits: dict[str, Expr] = {}
        for node in nodes:
            if isinstance(node, Let):
                self.values[node.name] = node.value
            elif isinstance(node, Carry):
                self.inits[node.name] = node.init


def _path(e: Expr, name: str, names: Names, dead: set[str]) -> list[str] | None:
    """Operations between a value and `name`, outermost first, along the first way that leads there; None if none does.
    `dead` are names already found not to lead there."""
    match e:
        case Var(name=own) if own == name:
            return []
        case Var(name=own) if own in dead:
            return None
        case Var(name=own) if own in names.values or own in names.inits:
            inner = names.values.get(own)
            found = _path(names.inits[own] if inner is None else inner, name, names, dead)
            if found is None:
                dead.add(own)
                return None
            return found if inner is not None else ["loop", *found]
    for child in _children(e):
        if (found := _path(child, name, names, dead)) is not None:
            return found if isinstance(e, _SHAPE) else [_operation(e), *found]
    return None


def _operation(e: Expr) -> str:
    match e:
        case Binary(op) | Unary(op) | Reduce(op):
            return op
        case _:
            return type(e).__name__.lower()


def _children(e: Expr) -> Iterator[Expr]:
    """Operands that are values of this node: of a matrix product the accumulator comes first."""
    match e:
        case Dot(left, right, acc):
            yield from (x for x in (acc, left, right) if x is not None)
        case Select(condition, then, otherwise):
            yield from (then, otherwise, condition)
        case Load():
            return
        case _ if is_dataclass(e):
            yield from (c for f in fields(e) if is_dataclass(c := getattr(e, f.name)) and isinstance(c, Expr))


# ---- which way a loop runs --------------------------------------------------------------------------


def _direction(loop: For, names: Names) -> int:
    """-1 when the first cell read that moves with the counter moves down, else 1."""
    known: dict[str, int | None] = {loop.counter: 1}
    for node in walk(loop.body):
        if isinstance(node, Load):
            moves = [m for e in node.index if (m := _slope(e, names.values, known)) is not None and m != 0]
            if moves:
                return moves[0]
    return 1


def _slope(e: Expr, values: dict[str, Expr], known: dict[str, int | None]) -> int | None:
    """Sign of the change of an integer when the counter grows: 1, 0, -1, or None for not known. Sizes, program ids
    and everything else that a loop does not set are taken as positive."""

    def of(part: Expr) -> int | None:
        return _slope(part, values, known)

    match e:
        case Var(name=name):
            if name not in known:
                known[name] = 0
                known[name] = of(values[name]) if name in values else 0
            return known[name]
        case Binary("add", left, right):
            return _both(of(left), of(right))
        case Binary("sub", left, right):
            return _both(of(left), _minus(of(right)))
        case Binary("mul" | "floordiv" | "min" | "max", left, right):
            return _both(of(left), of(right))
        case Unary("neg", operand):
            return _minus(of(operand))
        case Cast(operand) | Broadcast(operand) | Expand(operand) | Transpose(operand) if e.type.dtype is DType.INT:
            return of(operand)
        case Load() | Select() | Binary():
            parts = [of(c) for c in (e.index if isinstance(e, Load) else tuple(_children(e)))]
            return 0 if all(part == 0 for part in parts) else None
        case _:
            return 0


def _minus(slope: int | None) -> int | None:
    return None if slope is None else -slope


def _both(a: int | None, b: int | None) -> int | None:
    if a is None or b is None or a * b < 0:
        return None
    return a or b
