"""Kernels written by type: each checks, has the type it was written for, and its typed core keeps every
promise of ir/program.py (equal operand types, explicit broadcasts, names assigned once)."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ir import program as p
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import DType, Type
from ir.typing import check

BOUND = bind(load_spec("attention"))
SHAPES = ((), (16,), (16, 32))

HEADER = """\
kernel f(b < B, t < cdiv(M, 16)):
    i = t * 16 + arange(16)
    i2 = i[:, None] + arange(32)[None, :]
    x = cast(i, f32) * scale
    x2 = broadcast(x[:, None], [16, 32])
"""
LEAVES = {
    (DType.INT, ()): ("b", "t", "N", "H // G", "3"),
    (DType.INT, (16,)): ("i", "arange(16)"),
    (DType.INT, (16, 32)): ("i2", "broadcast(N, [16, 32])"),
    (DType.F32, ()): ("scale", "cast(1.5, f32)", "(log2e * scale)"),
    (DType.F32, (16,)): ("x", "full([16], -inf, f32)"),
    (DType.F32, (16, 32)): ("x2", "zeros([16, 32], f32)"),
    (DType.BF16, ()): ("cast(scale, bf16)", "load(Q[b, 0, 0, 0])"),
    (DType.BF16, (16,)): ("load(Q[b, 0, i, 0], mask=i < M, other=0)",),
    (DType.BF16, (16, 32)): ("load(Q[b, 0, i[:, None], arange(32)[None, :]], mask=i[:, None] < M, other=0)",),
    (DType.BOOL, ()): ("true", "b < H"),
    (DType.BOOL, (16,)): ("(i < M)",),
    (DType.BOOL, (16, 32)): ("(i2 <= N)",),
}


@st.composite
def written(draw: st.DrawFn, dtype: DType, shape: tuple[int, ...], depth: int = 3) -> str:
    """An expression of exactly this type."""

    def of(dtype: DType, shape: tuple[int, ...]) -> str:
        return draw(written(dtype, shape, depth - 1))

    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(st.sampled_from(LEAVES[dtype, shape]))
    narrower = draw(st.sampled_from([s for s in SHAPES if s in ((), shape)]))
    forms = [lambda: f"where({of(DType.BOOL, shape)}, {of(dtype, narrower)}, {of(dtype, shape)})"]
    if dtype is DType.BOOL:
        forms.append(lambda: f"(not {of(dtype, shape)})")
        forms.append(lambda: f"({of(dtype, shape)} {draw(st.sampled_from(('and', 'or')))} {of(dtype, narrower)})")
        forms.append(lambda: f"({of(DType.F32, shape)} == {of(DType.BF16, narrower)})")
        forms.append(lambda: f"({of(DType.INT, narrower)} >= {of(DType.INT, shape)})")
    else:
        sign = draw(st.sampled_from("+-*"))
        forms.append(lambda: f"({of(dtype, shape)} {sign} {of(dtype, narrower)})")
        forms.append(lambda: f"(2 {sign} {of(dtype, shape)})" if shape else f"({of(dtype, shape)})")
        forms.append(lambda: f"maximum({of(dtype, narrower)}, {of(dtype, shape)})")
    if dtype is DType.INT:
        forms.append(lambda: f"cdiv({of(dtype, shape)} // 4, 1 + 2)")
        forms.append(lambda: f"(cast({of(dtype, shape)}, i32) % 5)")
    if dtype is DType.F32:
        forms.append(lambda: f"exp({of(dtype, shape)})")
        forms.append(lambda: f"({of(DType.BF16, shape)} / {of(dtype, narrower)})")
    if shape == (16,) and dtype is not DType.BOOL:
        forms.append(lambda: f"sum({of(dtype, (16, 32))}, axis=1)")
    if shape == (16, 32) and dtype is DType.F32:
        forms.append(lambda: f"dot({of(DType.BF16, shape)}, trans(zeros([32, 32], bf16)), {of(dtype, shape)})")
    return draw(st.sampled_from(forms))()


# ---- the promises of ir/program.py


def inside(e: p.Expr) -> list[p.Expr]:
    found: list[p.Expr] = []
    for name in ("operand", "left", "right", "acc", "condition", "then", "otherwise", "mask", "other"):
        if isinstance(child := getattr(e, name, None), p.Expr):
            found.append(child)
    return found + list(getattr(e, "index", ()))


def keeps_its_promises(e: p.Expr) -> None:
    shape, dtype = e.type.shape, e.type.dtype
    match e:
        case p.Binary(op, left, right):
            assert left.type == right.type and left.type.shape == shape
            assert dtype is (DType.BOOL if op in ("lt", "le", "gt", "ge", "eq", "ne") else left.type.dtype)
            assert left.type.dtype not in (DType.I32, DType.I64)
        case p.Select(condition, then, otherwise):
            assert condition.type == Type(DType.BOOL, shape) and then.type == otherwise.type == e.type
        case p.Broadcast(operand):
            given = operand.type.shape
            assert operand.type.dtype is dtype and given != shape
            assert not given or all(m in (1, n) for m, n in zip(given, shape, strict=True))
        case p.Cast(operand):
            assert operand.type.shape == shape and operand.type.dtype is not dtype
        case p.Reduce(_, operand, axis):
            assert shape == operand.type.shape[:axis] + operand.type.shape[axis + 1 :]
        case p.Dot(left, right, acc):
            assert left.type.dtype is right.type.dtype and dtype is DType.F32
            assert shape == (left.type.shape[0], right.type.shape[1]) and acc is not None and acc.type == e.type
        case p.Load(_, index, mask, other):
            assert all(k.type.dtype is DType.INT and len(k.type.shape) in (0, len(shape)) for k in index)
            assert mask is None or mask.type == Type(DType.BOOL, shape)
            assert other is None or other.type == e.type
    for child in inside(e):
        keeps_its_promises(child)


def variables(e: p.Expr) -> Iterator[p.Var]:
    if isinstance(e, p.Var):
        yield e
    for child in inside(e):
        yield from variables(child)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(sorted(LEAVES, key=str)))
def test_an_expression_has_the_type_it_is_written_for(data: st.DataObject, key: tuple[DType, tuple[int, ...]]) -> None:
    text = HEADER + f"    result = {data.draw(written(*key))}\n"
    body = check(parse(text), BOUND, text).kernels[0].body
    last = body[-1]
    assert isinstance(last, p.Let) and last.value.type == Type(*key), text
    for statement in body:
        assert isinstance(statement, p.Let)
        keeps_its_promises(statement.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_variable_means_one_value(data: st.DataObject) -> None:
    """However often names are re-assigned in and around loops, each typed name is bound once, before use."""
    expression = written(DType.F32, (16,), 2)
    lines = [
        f"x = {data.draw(expression)}",
        "for n in range(0, N, 4) carry x:",
        f"    y = {data.draw(expression)}",
        f"    x = {data.draw(expression)} + y",
        f"    x = {data.draw(expression)}",
        "for n in range(4) carry x:",
        f"    x = {data.draw(expression)}",
        f"x = {data.draw(expression)}",
    ]
    text = HEADER + "".join(f"    {line}\n" for line in lines)
    kernel = check(parse(text), BOUND, text).kernels[0]
    bound = {axis.name: Type(DType.INT) for axis in kernel.grid}

    def bind_name(name: str, type: Type) -> None:
        assert name not in bound
        bound[name] = type

    def visit(body: tuple[p.Statement, ...]) -> None:
        for statement in body:
            match statement:
                case p.Let(name, value):
                    assert all(bound[v.name] == v.type for v in variables(value))
                    bind_name(name, value.type)
                case p.For(counter, _, _, carries, inner):
                    for carry in carries:
                        assert all(v.name in bound for v in variables(carry.init))
                        assert carry.init.type == carry.next.type == carry.type
                    bind_name(counter, Type(DType.INT))
                    for carry in carries:
                        bind_name(carry.name, carry.type)
                    visit(inner)
                    assert all(v.name in bound for carry in carries for v in variables(carry.next))

    visit(kernel.body)
