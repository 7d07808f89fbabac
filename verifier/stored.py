"""Is the argument of an exponential one stored number less another, or a maximum of others, as they are in memory?

What was computed once and stored is one float, whoever loads it and however often. `stored_difference` says that
both sides of a subtraction come out of loads through nothing that rounds: choices, maxima and minima, and changes of
shape. If the one side is a maximum that has the other among its members, then the float difference is at most 0, as
the real one is: a float subtraction rounds monotonically and is exact at 0. Names may be bound more than once;
every value a name is bound to anywhere in the kernel counts.
"""

from __future__ import annotations

from collections.abc import Iterator

from ir import program as core
from ir.ast import Span


def stored_difference(kernel: core.Kernel, span: Span) -> bool:
    """Whether every exp at this place of the kernel is of such a difference."""
    values = values_of_names(kernel.body)
    found = [e for e in expressions(kernel.body) if isinstance(e, core.Unary) and e.span == span]
    arguments = [shape_aside(e.operand) for e in found if e.op == "exp"]
    return bool(arguments) and all(
        isinstance(x, core.Binary) and x.op == "sub" and _moved(values, x.left) and _moved(values, x.right)
        for x in arguments
    )


def values_of_names(body: tuple[core.Statement, ...]) -> dict[str, list[core.Expr]]:
    """Every value each name is bound to."""
    out: dict[str, list[core.Expr]] = {}
    for s in body:
        if isinstance(s, core.Let):
            out.setdefault(s.name, []).append(s.value)
        elif isinstance(s, core.For):
            for c in s.carries:
                out.setdefault(c.name, []).extend((c.init, c.next))
            for name, values in values_of_names(s.body).items():
                out.setdefault(name, []).extend(values)
    return out


def stores(body: tuple[core.Statement, ...]) -> Iterator[core.Store]:
    """Every store of a kernel, in the order in which `execute` records them."""
    for s in body:
        if isinstance(s, core.For):
            yield from stores(s.body)
        elif isinstance(s, core.Store):
            yield s


def expressions(body: tuple[core.Statement, ...]) -> Iterator[core.Expr]:
    """Every value that is named, carried or stored, every index, mask and bound, and every expression inside."""
    return (e for value in _all(body) for e in _within(value))


def _all(body: tuple[core.Statement, ...]) -> Iterator[core.Expr]:
    for s in body:
        match s:
            case core.Let():
                yield s.value
            case core.Store():
                yield from (s.value, *s.index, *(() if s.mask is None else (s.mask,)))
            case core.For():
                yield from (s.start, s.stop)
                yield from (e for c in s.carries for e in (c.init, c.next))
                yield from _all(s.body)


def _within(e: core.Expr) -> Iterator[core.Expr]:
    yield e
    for x in operands(e):
        yield from _within(x)


def operands(e: core.Expr) -> Iterator[core.Expr]:
    """The expressions directly inside one."""
    for name in e.__dataclass_fields__:
        inner = getattr(e, name)
        yield from (x for x in (inner if isinstance(inner, tuple) else (inner,)) if isinstance(x, core.Expr))


def shape_aside(e: core.Expr) -> core.Expr:
    """The expression whose lanes e gives, in whatever shape."""
    while isinstance(e, (core.Broadcast, core.Expand, core.Transpose)):
        e = e.operand
    return e


def _moved(values: dict[str, list[core.Expr]], e: core.Expr) -> bool:
    """Whether a value comes out of loads, literals and -inf through nothing that rounds."""
    seen: set[str] = set()
    todo = [e]
    while todo:
        match shape_aside(todo.pop()):
            case core.Var(name=name):
                if name not in values:
                    return False
                todo += [] if name in seen else values[name]
                seen.add(name)
            case core.Load(other=other):
                todo += [] if other is None else [other]
            case core.Select(then=then, otherwise=otherwise):
                todo += [then, otherwise]
            case core.Binary(op="max" | "min", left=left, right=right):
                todo += [left, right]
            case core.Reduce(op="max" | "min", operand=operand) | core.Unary(op="neg", operand=operand):
                todo.append(operand)
            case core.Literal() | core.Constant():
                pass
            case _:
                return False
    return True
