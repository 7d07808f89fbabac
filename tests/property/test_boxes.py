"""Whatever is decided to be a box reads, lane by lane, what the masked load reads: random indices, masks and sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import Arange, Binary, Broadcast, Cast, Expand, Expr, Let, Literal, Load, Size, Transpose, Unary, Var
from ir.typing import check
from lowering.descriptors import box_of, corner

BOUND = bind(load_spec("attention"), {"causal": "none", "dtype": "bf16", "D": 64})
OPERATORS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "floordiv": np.floor_divide, "mod": np.mod,
    "min": np.minimum, "max": np.maximum, "and": np.logical_and, "or": np.logical_or, "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip

def mostly(usual: str, *others: str) -> st.SearchStrategy[str]:
    return st.sampled_from([usual] * (3 * len(others)) + list(others))


starts = st.sampled_from(["t * 16", "16 * t", "t * 16 + 3", "(t + 1) * 16 - 16", "h * 5", "M - 16", "t * M", "-t", "0"])
lanes = mostly("arange(16)", "2 * arange(16)", "15 - arange(16)", "arange(16) // 2", "arange(16) * arange(16)")
bounds = mostly("M", "N", "M - 1", "M + 1", "B", "H", "2 * M", "t * 16")
orders = mostly("{i} < {n}", "{n} > {i}", "{i} <= {n} - 1", "{i} <= {n}", "{i} != {n}", "{i} + 1 <= {n}", "0 <= {i}")
extras = mostly("", " and (e[None, :] < 64)", " and (e[None, :] < 63)", " and (h < H)", " and (t < 2)", " or (h < H)")
columns = mostly("arange(D)", "arange(32) + 32", "arange(32) + 4", "arange(16)")
heads = mostly("h", "h // 2", "h + 1", "H - 1 - h")
others = mostly("0", "1", "-inf")


@st.composite
def loads(draw: st.DrawFn) -> str:
    mask = draw(orders).format(i="i[:, None]", n=draw(bounds))
    return f"""
kernel k(b < B, h < H, t < cdiv(M, 16)):
    i = {draw(starts)} + {draw(lanes)}
    e = {draw(columns)}
    x = load(Q[b, {draw(heads)}, i[:, None], e[None, :]], mask=({mask}){draw(extras)}, other={draw(others)})
    store(LSE[b, h, i], sum(cast(x, f32), axis=1), mask=i < M)
"""


def value(e: Expr, names: dict[str, Any], scope: dict[str, Expr]) -> Any:
    """An integer or boolean expression in every lane, in unbounded-enough integers."""
    match e:
        case Literal(value=number):
            return np.int64(int(number)) if e.type.dtype.is_int else number
        case Var(name=name) if name in scope:
            return value(scope[name], names, scope)
        case Var(name=name) | Size(name=name):
            return np.int64(names[name])
        case Arange():
            return np.arange(e.type.shape[0])
        case Broadcast(operand=x):
            return np.broadcast_to(value(x, names, scope), e.type.shape)
        case Expand(operand=x, axis=axis):
            return np.expand_dims(value(x, names, scope), axis)
        case Transpose(operand=x):
            return value(x, names, scope).T
        case Cast(operand=x):
            return value(x, names, scope)
        case Unary(op="neg", operand=x):
            return -value(x, names, scope)
        case Binary(op=op, left=left, right=right):
            return OPERATORS[op](value(left, names, scope), value(right, names, scope))
        case _:
            raise AssertionError(f"the test generates no {type(e).__name__}")


def read(cells: Any, places: list[Any], active: Any, other: float) -> Any:
    inside = active.copy()
    for place, extent in zip(places, cells.shape, strict=True):
        inside = inside & (place >= 0) & (place < extent)
    clipped = tuple(np.clip(p, 0, max(n - 1, 0)) for p, n in zip(places, cells.shape, strict=True))
    return np.where(inside, cells[clipped], other), inside


GOOD = """
kernel k(b < B, h < H, t < cdiv(M, 16)):
    i = t * 16 + arange(16)
    e = arange(D)
    x = load(Q[b, h, i[:, None], e[None, :]], mask=(i[:, None] < M), other=0)
    store(LSE[b, h, i], sum(cast(x, f32), axis=1), mask=i < M)
"""


def decided(text: str, view: bool = False) -> tuple[Load, dict[str, Expr], tuple[int, ...] | None]:
    program = check(parse(text), BOUND)
    scope = {s.name: s.value for s in program.kernels[0].body if isinstance(s, Let)}
    load = scope["x"]
    assert isinstance(load, Load)
    return load, scope, box_of(load, load.type.shape, program, {k: v for k, v in scope.items() if k != "x"}, view)


@given(text=loads(), m=st.integers(1, 50), h=st.integers(0, 3), t=st.integers(0, 3), view=st.booleans())
@example(text=GOOD, m=21, h=2, t=1, view=False)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_a_box_reads_what_the_load_reads(text: str, m: int, h: int, t: int, view: bool) -> None:
    load, scope, box = decided(text, view)
    event(f"a box: {box is not None}")
    assume(box is not None)
    assert box is not None and load.mask is not None and isinstance(load.other, Expr)
    names = {"B": 2, "H": 4, "G": 2, "M": m, "N": 19, "b": 1, "h": h, "t": t}
    shape = load.type.shape
    cells = np.arange(1.0, 2 * 4 * m * 64 + 1).reshape(2, 4, m, 64)
    active = np.broadcast_to(value(load.mask, names, scope), shape)
    places = [np.broadcast_to(value(e, names, scope), shape) for e in load.index]
    wanted, inside = read(cells, places, active, 0.0)
    assume((inside == active).all())  # B1: no access outside under the mask
    first = [int(value(corner(e, scope), names, scope)) for e in load.index]
    if view:  # rows from the scalar indices on, wherever these point
        first[:2] = [min(max(first[0], 0), 1), min(max(first[1], 0), 3)]
    boxed = [n + offset for n, offset in zip(first, np.indices(box), strict=True)]
    found, _ = read(cells, boxed, np.ones(box, bool), 0.0)
    assert (found.reshape(shape) == wanted).all()


def test_the_plain_load_is_a_box_and_its_neighbours_are_not() -> None:
    assert decided(GOOD)[2] == (1, 1, 16, 64)
    for wrong in ("< M + 1)", "< M - 1)", "<= M)", "< N)", "< B)"):
        assert decided(GOOD.replace("< M)", wrong, 1))[2] is None
