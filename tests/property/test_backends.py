"""Random small kernels mean the same to the interpreter, the CPU executor and the emitted Triton.

The kernels compute nothing useful: integer expressions of every sign and size, divisions that round,
masks, reductions, loops whose bounds differ between programs. Floats stay tame, so that a difference
is a difference in meaning and not in rounding.
"""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ir.compare import mismatch
from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.cpu import execute
from lowering.crosscheck import crosscheck
from lowering.triton import emit_program
from lowering.values import TORCH

BOUND: Bound = bind(load_spec("attention"), {"causal": "none", "dtype": "fp32", "D": 64})
SCALE = {"scale": 0.125}

scalars = st.sampled_from(["b", "h", "t", "M", "N", "H", "G", "3", "7", "-2", "BM", "b - 2", "N - M"])
divisors = st.sampled_from(["2", "3", "7", "-3", "(G + 1)", "BM", "(b - 5)"])


@st.composite
def scalar_integers(draw: st.DrawFn, depth: int = 2) -> str:
    """A scalar integer of modest size, any sign."""
    if depth == 0:
        return draw(scalars)
    x, y = draw(scalar_integers(depth - 1)), draw(scalar_integers(depth - 1))
    op = draw(st.sampled_from(["+", "-", "*", "//", "%", "min", "max", "cdiv"]))
    if op in ("//", "%"):
        return f"(({x}) {op} {draw(divisors)})"
    if op == "cdiv":
        return f"cdiv({x}, {draw(st.sampled_from(['2', 'BM', 'G']))})"
    return f"{op}({x}, {y})" if op in ("min", "max") else f"(({x}) {op} ({y}))"


@st.composite
def tile_integers(draw: st.DrawFn, depth: int = 2) -> str:
    """An integer tile that broadcasts to [BM, D]."""
    if depth == 0:
        return draw(st.sampled_from(["i[:, None]", "e[None, :]", "j[None, :]", "(i[:, None] - 9)", "r"]))
    x = draw(tile_integers(depth - 1))
    op = draw(st.sampled_from(["+", "-", "//", "%", "maximum", "*"]))
    if op in ("//", "%"):
        return f"({x} {op} {draw(divisors)})"
    y = draw(tile_integers(depth - 1)) if op != "*" else draw(st.sampled_from(["2", "-1", "b"]))
    return f"maximum({x} + e[None, :] * 0, {y} + e[None, :] * 0)" if op == "maximum" else f"({x} {op} {y})"


@st.composite
def conditions(draw: st.DrawFn, depth: int = 1) -> str:
    if depth == 0:
        relation = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
        return f"({draw(tile_integers(1))} {relation} {draw(tile_integers(1))})"
    x, y = draw(conditions(depth - 1)), draw(conditions(depth - 1))
    return draw(st.sampled_from([f"({x} and {y})", f"({x} or {y})", f"(not {x})"]))


@st.composite
def floats(draw: st.DrawFn, depth: int = 3) -> str:
    """A float tile that broadcasts to [BM, D], of magnitude below a few thousand."""
    if depth == 0:
        return draw(st.sampled_from(["x", "x", "acc", "0.5", "scale", "x * log2e", "acc * 0.5"]))
    x, y = draw(floats(depth - 1)), draw(floats(depth - 1))
    forms = [
        f"({x} + {y})", f"({x} - {y} * 0.25)", f"maximum({x}, {y})", f"minimum({x}, {y})", f"(-abs({x}))",
        f"exp(minimum({x}, 1.0))", f"({x} / (abs({y}) + 1.0))", f"tanh({x})", f"sigmoid({x})",
        f"where({draw(conditions())}, {x}, {y})", f"cast({draw(tile_integers(1))} % 16, f32)",
        f"(sum(broadcast(x + ({x}) * 0.01, [BM, D]), axis=1)[:, None] * 0.01)",
        f"(max(broadcast(x + ({x}), [BM, D]), axis=1)[:, None])", "trans(trans(x))",
    ]  # fmt: skip
    return draw(st.sampled_from(forms))


@st.composite
def kernels(draw: st.DrawFn) -> str:
    rows = draw(st.sampled_from([16, 32]))
    order = draw(st.permutations(["b < B", "h < H", "t < cdiv(M, BM)"]))
    start, stop = draw(scalar_integers(1)), draw(scalar_integers(1))
    return f"""
meta BM = {rows}
kernel k({", ".join(order)}):
    i = t * BM + arange(BM)
    e = arange(D)
    j = arange(D)
    x = load(Q[b, h, i[:, None], e[None, :]], mask=i[:, None] < M, other=0.25)
    r = {draw(scalar_integers())}
    acc = zeros([BM, D], f32)
    first = max({start}, -3)
    for n in range(first, min({stop}, first + 4)) carry acc:
        r_n = n * 3 - r
        acc = broadcast(acc * 0.5 + cast(r_n % 5, f32) + {draw(floats(2))}, [BM, D])
    y = broadcast({draw(floats())}, [BM, D])
    store(O[b, h, i[:, None], e[None, :]], y, mask=i[:, None] < M)
    store(LSE[b, h, i], max(y, axis=1) - min(y, axis=1), mask=i < M)
"""


SIZES = st.fixed_dictionaries(
    {
        "B": st.integers(1, 2),
        "H": st.just(4),
        "G": st.sampled_from([1, 2, 4]),
        "M": st.integers(1, 40),
        "N": st.integers(0, 40),
    }
)
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def typed(text: str) -> Program:
    return check(parse(text), BOUND)


@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(kernels(), SIZES)
def test_the_cpu_executor_means_what_the_interpreter_means(text: str, sizes: dict[str, int]) -> None:
    program = typed(text)
    arrays = generate("normal", 5, BOUND, sizes, SCALE)
    wanted = interpret(program, BOUND, sizes, SCALE, arrays, Mode.MACHINE).tensors
    inputs = {name: torch.from_numpy(a).to(TORCH[program.tensor(name).dtype]) for name, a in arrays.items()}
    found = execute(program, BOUND, sizes, SCALE, inputs)
    actual = {name: x.double().numpy() for name, x in found.items()}
    assert mismatch(actual, wanted, 1e-4, skip_undefined=True) is None, text


@settings(max_examples=6, deadline=None, suppress_health_check=QUIET)
@given(kernels(), SIZES, st.sampled_from([(32, 32), (32, 64), (64, 64)]))
def test_emitted_triton_means_what_the_interpreter_means(
    text: str, sizes: dict[str, int], bits: tuple[int, int]
) -> None:
    program = typed(text)
    source = emit_program(program, BOUND, {"k": bits[1]}, index_widths={"k": bits[0]})
    result = crosscheck(source, program, BOUND, shapes=(sizes,))
    assert result.ok, f"{text}\n{source}\n{result}"
