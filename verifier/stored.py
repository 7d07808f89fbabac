"""What the typed program says where: the values of names, expressions, stores."""

from __future__ import annotations

from collections.abc import Iterator

from ir import program as core


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
