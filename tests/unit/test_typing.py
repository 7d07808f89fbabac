"""From AST to typed core: what every rule of docs/language.md makes of a kernel, or says about it."""

from __future__ import annotations

import re
import time
from fractions import Fraction
from pathlib import Path

import pytest

from ir import program as p
from ir.diagnostics import TypeProblem
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.printer import print_module
from ir.program import DType, Program, Type
from ir.typing import check

BOUND = bind(load_spec("attention"), {"causal": "bottom_right"})
PAGE = Path(__file__).parents[2] / "docs" / "language.md"
INT, BOOL, F32, BF16 = Type(DType.INT), Type(DType.BOOL), Type(DType.F32), Type(DType.BF16)


def program(text: str) -> Program:
    return check(parse(text), BOUND, text, "test.tile")


def source(body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    return f"meta BM = 64\nkernel f(b < B, t < cdiv(M, BM)):\n    i = t * BM + arange(BM)\n{lines}"


def statements(body: str) -> tuple[p.Statement, ...]:
    """Typed statements of a small kernel in which `i` are the rows of this tile."""
    return program(source(body)).kernels[0].body[1:]


def value(expression: str) -> p.Expr:
    (let,) = statements(f"x = {expression}")
    assert isinstance(let, p.Let)
    return let.value


def problem(body: str) -> TypeProblem:
    with pytest.raises(TypeProblem) as caught:
        statements(body)
    return caught.value


# ---- the page


def test_the_example_of_the_page_checks_against_the_attention_spec() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert examples
    for text in examples:
        module = parse(text)
        typed = check(module, BOUND, text)
        assert parse(print_module(module)) == module
        assert {t.name: t.role for t in typed.tensors}["O"] == "output"
        loop = next(s for s in typed.kernels[0].body if isinstance(s, p.For))
        assert [c.name for c in loop.carries] == ["m_1", "l_1", "acc_1"]


def test_parsing_and_typing_a_kernel_takes_less_than_50_ms() -> None:
    text = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    program(text)
    start = time.process_time()
    for _ in range(5):
        program(text)
    assert (time.process_time() - start) / 5 < 0.05


# ---- dtypes


def test_literals_take_the_dtype_they_meet() -> None:
    assert value("arange(BM) + 1").type == Type(DType.INT, (64,))
    assert value("zeros([BM], bf16) + 1").type == Type(DType.BF16, (64,))
    assert value("2 * scale") == p.Binary("mul", p.Literal(Fraction(2), F32), p.Param("scale", F32), F32)
    assert value("1.5") == p.Literal(Fraction(3, 2), F32)
    assert value("where(b < 1, 0, -inf)").type == F32
    assert value("1 / 3").type == F32


def test_the_wider_float_wins() -> None:
    mixed = value("zeros([BM], bf16) * scale")
    assert isinstance(mixed, p.Binary) and mixed.type == Type(DType.F32, (64,))
    assert isinstance(mixed.left, p.Cast) and mixed.left.operand.type.dtype is DType.BF16


def test_integers_of_any_width_compute_as_int() -> None:
    total = value("cast(b, i32) + 1")
    assert isinstance(total, p.Binary) and total.type == INT
    assert total.left == p.Cast(p.Cast(p.Var("b", INT), Type(DType.I32)), INT)


def test_integers_are_folded() -> None:
    assert value("(BM // 2 + 3) % 32") == p.Literal(Fraction(3), INT)
    assert value("cdiv(-7, 2)") == p.Literal(Fraction(-3), INT)
    assert value("min(BM, D)") == p.Literal(Fraction(64), INT)
    assert statements("half = BM // 2\nx = arange(half)")[1] == p.Let("x", p.Arange(Type(DType.INT, (32,))))


def test_folding_stays_small() -> None:
    body = "a0 = BM * BM\n" + "\n".join(f"a{k + 1} = a{k} * a{k}" for k in range(60))
    last = statements(body)[-1]
    assert isinstance(last, p.Let) and isinstance(last.value, p.Binary)


def test_cdiv_rounds_up() -> None:
    """By a literal it is (a + b - 1) // b, by anything else -(-a // b)."""
    n = p.Size("N", INT)
    assert value("cdiv(N, 64)") == p.Binary(
        "floordiv", p.Binary("add", n, p.Literal(Fraction(63), INT), INT), p.Literal(Fraction(64), INT), INT
    )
    assert value("cdiv(N, G)") == p.Unary(
        "neg", p.Binary("floordiv", p.Unary("neg", n, INT), p.Size("G", INT), INT), INT
    )


# ---- shapes


def test_broadcasting_is_explicit() -> None:
    sees = value("i[:, None] < arange(32)[None, :] + N")
    assert isinstance(sees, p.Binary) and sees.type == Type(DType.BOOL, (64, 32))
    assert sees.left.type == sees.right.type == Type(DType.INT, (64, 32))
    assert isinstance(sees.left, p.Broadcast) and isinstance(sees.left.operand, p.Expand)


def test_dot_and_reductions() -> None:
    product = value("dot(zeros([BM, D], bf16), trans(zeros([32, D], bf16)))")
    assert product.type == Type(DType.F32, (64, 32))
    assert value("sum(zeros([BM, D], f32), axis=1)").type == Type(DType.F32, (64,))
    assert value("max(arange(BM), axis=-1)").type == INT


def test_load_has_the_tensors_dtype_and_the_broadcast_shape() -> None:
    load = value("load(Q[b, 0, i[:, None], arange(D)[None, :]], mask=i[:, None] < M, other=0)")
    assert isinstance(load, p.Load) and load.type == Type(DType.BF16, (64, 64))
    assert [e.type.shape for e in load.index] == [(), (), (64, 1), (1, 64)]
    assert load.mask is not None and load.mask.type.shape == (64, 64)
    assert load.other == p.Broadcast(p.Literal(Fraction(0), BF16), load.type)
    assert value("load(LSE[b, 0, 0])").type == F32


def test_store_broadcasts_value_and_mask() -> None:
    (store,) = statements("store(LSE[b, 0, i], 0, mask=i < M)")
    assert isinstance(store, p.Store) and store.value.type == Type(DType.F32, (64,))
    assert store.mask is not None and store.mask.type.shape == (64,)
    (scalar,) = statements("atomic_add(LSE[b, 0, t], scale)")
    assert isinstance(scalar, p.Store) and scalar.atomic and scalar.value.type == F32


# ---- names and loops


def test_names_are_assigned_once() -> None:
    first, second, third = statements("x = 1.0\nx_1 = x\nx = x + x_1")
    assert isinstance(first, p.Let) and isinstance(second, p.Let) and isinstance(third, p.Let)
    assert (first.name, second.name, third.name) == ("x", "x_1", "x_2"), "the candidate's own x_1 is left alone"
    assert third.value == p.Binary("add", p.Var("x", F32), p.Var("x_1", F32), F32)


def test_a_carry_is_the_value_in_the_loop_and_after_it() -> None:
    before, loop, after = statements("m = 0.0\nfor n in range(N) carry m:\n    m = m + scale\nx = m")
    assert isinstance(before, p.Let) and isinstance(loop, p.For) and isinstance(after, p.Let)
    (body,) = loop.body
    assert loop.carries == (p.Carry("m_1", p.Var("m", F32), p.Var("m_2", F32), F32),)
    assert body == p.Let("m_2", p.Binary("add", p.Var("m_1", F32), p.Param("scale", F32), F32))
    assert after.value == p.Var("m_1", F32)
    assert (loop.counter, loop.start, loop.stop) == ("n", p.Literal(Fraction(0), INT), p.Size("N", INT))


def test_a_step_becomes_a_unit_step() -> None:
    (loop,) = statements("for j in range(b, N, 32):\n    x = j")
    assert isinstance(loop, p.For) and loop.counter == "j_step"
    counter, step = p.Var("j_step", INT), p.Literal(Fraction(32), INT)
    length = p.Binary("sub", p.Size("N", INT), p.Var("b", INT), INT)
    rounded = p.Binary("add", length, p.Literal(Fraction(31), INT), INT)
    assert loop.stop == p.Binary("floordiv", rounded, step, INT)
    offset = p.Binary("mul", counter, step, INT)
    assert loop.body[0] == p.Let("j", p.Binary("add", p.Var("b", INT), offset, INT))


def test_two_loops_may_use_the_same_names() -> None:
    one, two = statements("for n in range(3):\n    x = n\nfor n in range(4):\n    x = n")
    assert isinstance(one, p.For) and isinstance(two, p.For)
    assert (one.counter, two.counter) == ("n", "n_1")


def test_nested_carries() -> None:
    _, outer = statements("m = 0.0\nfor n in range(3) carry m:\n    for k in range(n) carry m:\n        m = m + scale")
    assert isinstance(outer, p.For)
    (inner,) = outer.body
    assert isinstance(inner, p.For)
    assert inner.carries[0].init == p.Var(outer.carries[0].name, F32)
    assert outer.carries[0].next == p.Var(inner.carries[0].name, F32)


def test_scratch_metas_and_schedule() -> None:
    typed = program(
        "meta BM = 64\nmeta HALF = BM // 2\nscratch P[B, cdiv(M, BM)]: f32\n"
        "kernel one(b < B):\n    schedule num_warps = 8, warp_specialize = true, offset_bits = 64\n"
        "    store(P[b, 0], 1)\nkernel two(b < B):\n    x = load(P[b, 0])\n"
    )
    assert typed.metas == (("BM", 64), ("HALF", 32))
    assert typed.tensor("P").role == "scratch" and typed.tensor("P").dtype is DType.F32
    assert typed.kernels[0].schedule == p.Schedule(8, 2, True, None, 64)
    assert typed.tensor("Q").shape[3] == p.Literal(Fraction(64), INT), "the head dim is a number"


def test_comments_reach_the_typed_core() -> None:
    (let,) = statements("x = 1.0  # one")
    assert isinstance(let, p.Let) and let.comment == "one"


# ---- what is refused


REFUSED = {
    # names
    "x = scal * 2": ("K101", "did you mean `scale`?"),
    "x = load(Qq[b, 0, 0, 0])": ("K101", "did you mean `Q`?"),
    "x = causal": ("K101", "not defined"),
    "for n in range(3):\n    y = n\nx = y": ("K101", "gone after it"),
    "for n in range(3):\n    y = n\nx = n": ("K101", "gone after it"),
    "N = 3": ("K102", "`N` is a size of the spec"),
    "D = 3": ("K102", "a size of the spec"),
    "Q = 3": ("K102", "an input tensor"),
    "BM = 3": ("K102", "a meta"),
    "exp = 3": ("K102", "an operation"),
    "f32 = 3": ("K102", "a dtype"),
    "inf = 3": ("K102", "a constant"),
    "lambda = 3": ("K102", "a reserved word"),
    "for i in range(3):\n    x = 1": ("K102", "already has a value"),
    "m = 0.0\nfor n in range(3):\n    m = m + scale": ("K103", "carry m"),
    "m = 0.0\nfor n in range(3):\n    for k in range(3) carry m:\n        m = m + scale": ("K103", "carry m"),
    "for n in range(3) carry z:\n    z = 1": ("K104", "no value before the loop"),
    "z = 1\nfor n in range(3) carry z, z:\n    z = 1": ("K104", "carried twice"),
    "x = expp(scale)": ("K105", "did you mean `exp`?"),
    "x = Q": ("K106", "write `load(Q[...])`"),
    "x = Q[b, 0, 0, 0]": ("K106", "write `load(Q[...])`"),
    # dtypes
    "x = i * scale": ("K201", "cast(x, f32)"),
    "x = i * 1.5": ("K203", "drop the decimal point"),
    "x = zeros([BM], f16) + zeros([BM], bf16)": ("K201", "cast one of them"),
    "x = exp(zeros([BM], bf16))": ("K201", "write `cast(x, f32)`"),
    "x = exp(b)": ("K201", "write `cast(x, f32)`"),
    "x = b / 2": ("K201", "`//` rounds towards minus infinity"),
    "x = scale // 2.0": ("K201", "floats divide by `/`"),
    "x = b and t": ("K201", "compare first"),
    "x = (b < 1) + 1": ("K201", "where(c, 1, 0)"),
    "x = (b < 1) == (t < 1)": ("K201", "use `and`, `or`, `not`"),
    "x = where(b, 1, 2)": ("K201", "write a comparison"),
    "x = -(b < 1)": ("K201", "use `not`"),
    "x = sum(i < 3, axis=0)": ("K201", "where(c, 1, 0)"),
    "x = cast(scale, int)": ("K201", "does not turn into int"),
    "x = cast(b, bool)": ("K201", "write `x != 0`"),
    "x = dot(zeros([32, 32], f32), zeros([32, 32], bf16))": ("K201", "one float dtype"),
    "x = full([BM], scale, bf16)": ("K201", "write `cast(x, bf16)`"),
    "x = load(Q[b, 0, 0, i], mask=i < M, other=scale)": ("K201", "cast(x, Q.dtype)"),
    # shapes
    "x = i + arange(32)": ("K202", "do not go together"),
    "x = i[:, None] + i": ("K202", "add axes"),
    "x = b[:, None]": ("K202", "as it is"),
    "x = i[:, :, None]": ("K202", "one `:` for every axis"),
    "x = trans(i)": ("K202", "2-d tiles"),
    "x = dot(i, i)": ("K202", "2-d tiles"),
    "x = dot(zeros([32, 64], f32), zeros([32, 64], f32))": ("K202", "64 is not 32"),
    "x = dot(zeros([32, 32], f32), zeros([32, 32], f32), zeros([32, 32], f16))": ("K202", "zeros([32, 32], f32)"),
    "x = sum(scale, axis=0)": ("K202", "this is a scalar"),
    "x = broadcast(i, [1])": ("K202", "does not broadcast"),
    "store(LSE[b, 0, i], zeros([BM, BM], f32))": ("K202", "do not go together"),
    # constants
    "x = 1 // 0": ("K203", "division by zero"),
    "x = b % (BM - 64)": ("K203", "division by zero"),
    # arguments
    "x = max(zeros([BM], f32), 1)": ("K204", "axis=1"),
    "x = max(scale, 1.0)": ("K204", "maximum(a, b)"),
    "x = sum(i)": ("K204", "axis=0"),
    "x = sum(i, 0)": ("K204", "name the argument"),
    "x = sum(i, axis=1)": ("K204", "from 0 to 0"),
    "x = sum(i, axes=0)": ("K204", "did you mean `axis`?"),
    "x = where(b < 1, 2)": ("K204", "`where` needs `y`"),
    "x = arange(0, BM)": ("K204", "write `arange(n)`"),
    "x = zeros(BM, f32)": ("K204", "square brackets"),
    "x = zeros([BM], float32)": ("K204", "write `f32`"),
    "x = f32": ("K204", "is a dtype"),
    "x = [BM]": ("K204", "a shape is not a value"),
    "x = load(Q[b, 0, 0, i], mask=i < M)": ("K204", "without `other`"),
    "x = load(Q[b, 0, 0, i], other=0)": ("K204", "without `mask`"),
    "x = load(i)": ("K204", "reads tensor cells"),
    # extents
    "x = arange(N)": ("K205", "known at compile time"),
    "x = arange(96)": ("K206", "use 128"),
    "x = arange(0 * BM)": ("K206", "power of two"),
    "x = zeros([1024, 2048], f32)": ("K206", "limit is 1048576"),
    "x = arange(1024)[:, None] + arange(2048)[None, :]": ("K206", "limit is 1048576"),
    "for n in range(0, N, b):\n    x = 1": ("K205", "positive constant"),
    "for n in range(0, N, -1):\n    x = 1": ("K205", "positive constant"),
    "for n in range(scale):\n    x = 1": ("K205", "an extent is an integer"),
    # memory
    "x = load(Q[b, 0, 0])": ("K207", "4 dimension(s), 3 given"),
    "x = load(Q[b, 0, 0, scale])": ("K207", "an index is an integer"),
    "store(Q[b, 0, 0, 0], 0)": ("K208", "`O` or `LSE`"),
    "store(O[b, 0, 0, 0], scale)": ("K208", "cast(x, O.dtype)"),
    "store(LSE[b, 0, 0], b)": ("K208", "cast(x, LSE.dtype)"),
    # carried types
    "m = 0.0\nfor n in range(3) carry m:\n    m = cast(m, bf16)": ("K210", "f32 before the loop and bf16"),
    "m = 0.0\nfor n in range(3) carry m:\n    m = zeros([BM], f32)": ("K210", "start it as f32[64]"),
}


@pytest.mark.parametrize(
    ("dtype", "word", "refused"),
    [
        ("fp32", "bf16", True),
        ("fp32", "f16", True),
        ("fp16", "bf16", True),
        ("fp16", "f16", False),
        ("bf16", "f16", False),
    ],
)
def test_no_value_is_coarser_than_the_specs_tensors(dtype: str, word: str, refused: bool) -> None:
    bound = bind(load_spec("attention"), {"dtype": dtype})
    makers = [f"x = cast(scale, {word})", f"x = zeros([BM], {word})", f"x = full([BM], 1.0, {word})"]
    for text in [source(body) for body in makers] + [f"scratch W[M]: {word}\n" + source("x = 1.0")]:
        if refused:
            with pytest.raises(TypeProblem, match="K211.*fewer digits") as caught:
                check(parse(text), bound, text)
            assert caught.value.hint
        else:
            check(parse(text), bound, text)


@pytest.mark.parametrize("body", REFUSED)
def test_refused(body: str) -> None:
    code, said = REFUSED[body]
    error = problem(body)
    assert error.code == code, error.render()
    assert said in str(error)
    assert error.span.line >= 4 and "^" in error.render(), "every refusal points at its line"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("meta N = 3\nkernel f(b < B):\n    x = 1\n", "`N` is a size of the spec"),
        ("meta A = 3\nmeta A = 4\nkernel f(b < B):\n    x = 1\n", "`A` is a meta"),
        ("meta A = N\nkernel f(b < B):\n    x = 1\n", "not an integer constant"),
        ("scratch Q[B]: f32\nkernel f(b < B):\n    x = 1\n", "an input tensor"),
        ("scratch P[B]: int\nkernel f(b < B):\n    x = 1\n", "holds f32, f16 or bf16"),
        ("scratch P[scale]: f32\nkernel f(b < B):\n    x = 1\n", "an extent is an integer"),
        ("kernel f(b < scale):\n    x = 1\n", "an extent is an integer"),
        ("kernel f(b < B, b < H):\n    x = 1\n", "two axes are called `b`"),
        ("kernel f(b < B, t < b):\n    x = 1\n", "`b` is not defined"),
        ("kernel f(H < B):\n    x = 1\n", "`H` is a size of the spec"),
        ("kernel f(b < B):\n    x = 1\nkernel f(b < B):\n    x = 1\n", "two kernels are called `f`"),
        ("kernel f(b < B):\n    schedule num_warps = 3\n    x = 1\n", "1, 2, 4, 8 or 16"),
        ("kernel f(b < B):\n    schedule num_warp = 4\n    x = 1\n", "did you mean `num_warps`?"),
        ("kernel f(b < B):\n    schedule warp_specialize = 1\n    x = 1\n", "true or false"),
    ],
)
def test_refused_headers(text: str, said: str) -> None:
    with pytest.raises(TypeProblem, match=re.escape(said)):
        program(text)


def test_an_error_reads_well() -> None:
    text = source("x = zeros([BM], f32) * scal")
    with pytest.raises(TypeProblem) as caught:
        program(text)
    assert caught.value.render() == (
        "error[K101]: `scal` is not defined\n"
        "  --> test.tile:4:28\n"
        "  |\n"
        "4 |     x = zeros([BM], f32) * scal\n"
        "  |                            ^^^^\n"
        "  = hint: did you mean `scale`?"
    )
