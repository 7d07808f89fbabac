"""Every operation of the language has a meaning everywhere: interpreter, prover, Triton, CPU executor.

Each row of SAMPLES is run for real through all four, on ragged sizes; no list of names is compared with
another. That SAMPLES leaves nothing out is checked against the operations the type checker accepts and
the nodes of the typed core.
"""

from __future__ import annotations

from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch

from ir import program as core
from ir.arithmetic import ARITHMETIC, COMPARE, REDUCE, UNARY
from ir.compare import Array, mismatch
from ir.infer import OPERATIONS
from ir.inputs import generate
from ir.interpret import Mode, Outcome, interpret
from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.tiles import OPERATORS
from ir.typing import check
from lowering.cpu import execute
from lowering.crosscheck import Emitted, Run, run_interpreted
from lowering.plan import launches_of, plan, walk
from lowering.triton import emit_program
from lowering.values import TORCH
from verifier.integers import reset
from verifier.operations import Unsupported
from verifier.proof import analyse
from verifier.reals import Real

# name: an f32 value that broadcasts to [BM, D]. In scope: x (f32 tile [BM, D]), i and e (integer tiles [BM]
# and [D]), c (bool [BM, D]), t (program id), the size M, the parameters `scale` and `seed`.
SAMPLES = {
    "+": "x + 0.5",
    "-": "x - cast(i - 3, f32)[:, None]",
    "*": "x * scale",
    "/": "x / (abs(x) + 1.0)",
    "//": "cast((i - 9) // 4, f32)[:, None]",
    "%": "cast((i - 9) % 4, f32)[:, None]",
    "cdiv": "cast(cdiv(i - 9, 4), f32)[:, None] + cast(cdiv(M, BM), f32)",
    "neg": "-x + cast(-i, f32)[:, None]",
    "<": "where(x < 0.25, 1.0, 2.0)",
    "<=": "where(i[:, None] <= e[None, :], x, 2.0)",
    ">": "where(x > 0.25, 1.0, 2.0)",
    ">=": "where(i[:, None] >= e[None, :], x, 2.0)",
    "==": "where(i[:, None] == e[None, :], x, 2.0)",
    "!=": "where(i[:, None] != e[None, :], x, 2.0)",
    "and": "where(c and x > 0.0, 1.0, 2.0)",
    "or": "where(c or x > 0.0, 1.0, 2.0)",
    "not": "where(not c, x, 2.0)",
    "maximum": "maximum(x, 0.25)",
    "minimum": "minimum(x, 0.25) + cast(minimum(i, 5), f32)[:, None]",
    "max": "x * 0.0 + cast(max(M, 7), f32)",
    "min": "x * 0.0 + cast(min(M, 7), f32)",
    "sum over an axis": "sum(x, axis=1)[:, None]",
    "max over an axis": "max(x, axis=0)[None, :]",
    "min over an axis": "min(x, axis=1)[:, None]",
    "dot": "dot(x, trans(x))",
    "dot with accumulator": "dot(x, trans(x), zeros([BM, BM], f32) + 0.5)",
    "exp": "exp(x)",
    "exp2": "exp2(x)",
    "log": "log(abs(x) + 1.0)",
    "log2": "log2(exp(x) + 1.0)",
    "sqrt": "sqrt(x * x)",
    "abs": "abs(x)",
    "tanh": "tanh(x)",
    "sigmoid": "sigmoid(x)",
    "where": "where(c, x, where(x > 0.0, 1.0, 2.0))",
    "where of integers": "cast(where(i > 3, i, 7), f32)[:, None]",
    "arange": "cast(arange(BM), f32)[:, None]",
    "full": "full([BM, D], -0.5, f32)",
    "zeros": "zeros([BM, D], f32)",
    "trans": "trans(trans(x))",
    "broadcast": "broadcast(max(x, axis=1)[:, None], [BM, D])",
    "cast": "cast(cast(x, bf16), f32) + cast(cast(x, f16), f32) + cast(cast(cast(i, i32), i64), f32)[:, None]",
    "cast of bool": "cast(cast(c, i32), f32) + cast(c, f32)",
    "random": "random(seed - t, (i[:, None] - 3) * 100 + e[None, :]) + random(7, M)",
    "load": "load(X[i[:, None], e[None, :]], mask=c and i[:, None] < M, other=0.5)",
    "log2e": "exp2(x * log2e)",
    "ln2": "exp(x * ln2)",
    "inf": "where(c, exp(where(c, x, -inf)), 2.0)",
    "true": "where(c and true, x, 2.0)",
    "sum of integers": "cast(sum(where(c, 1, 0), axis=1), f32)[:, None]",
    "max of integers": "cast(max(i[:, None] + e[None, :], axis=1), f32)[:, None]",
    "+inf": "minimum(x, inf)",
}
# Well typed and run by all, but the prover answers `not supported`: a kernel that uses it is unproved.
NOT_PROVED = {"sum of integers", "max of integers", "+inf"}
LOOP = """
kernel loop(t < cdiv(M, BM)):
    i = t * BM + arange(BM)
    e = arange(D)
    acc = zeros([BM, D], f32)
    for n in range(1, t + 3, 2) carry acc:
        acc = acc + load(X[i[:, None], e[None, :]], mask=i[:, None] < M, other=0) * 0.5
    store(R[{row}, i[:, None], e[None, :]], acc, mask=i[:, None] < M)

kernel add(t < cdiv(M, BM)):
    i = t * BM + arange(BM)
    e = arange(D)
    x = load(X[i[:, None], e[None, :]], mask=i[:, None] < M, other=0)
    atomic_add(R[{row}, i[:, None], e[None, :]], x, mask=i[:, None] < M)
"""
SPEC = f"""
name = "operations"
doc = "A row of R for every sample."
[dims]
P = {{ min = 1, max = {len(SAMPLES) + 1} }}
M = {{ min = 1, max = 4096 }}
D = {{ choices = [16], default = 16 }}
[parameters]
scale = {{ min = 0.125, max = 2, default = "0.5" }}
seed = {{ type = "int", min = 0, max = 65535, default = "0" }}
[inputs]
X = {{ shape = ["M", "D"], dtype = "f32", abs_max = 100 }}
COARSE = {{ shape = ["M"], dtype = "bf16", abs_max = 1 }}
[outputs]
R = {{ shape = ["P", "M", "D"], dtype = "f32" }}
[formula]
empty_row = "zero"
define = "R[p, i, e] = X[i, e]"
[layout]
max_stride = 1048576
"""
SIZES = {"P": len(SAMPLES) + 1, "M": 21}
PARAMETERS = {"scale": 0.5, "seed": 12345}


def kernel(name: str, row: int) -> str:
    return f"""
kernel sample_{row}(t < cdiv(M, BM)):
    i = t * BM + arange(BM)
    e = arange(D)
    x = load(X[i[:, None], e[None, :]], mask=i[:, None] < M, other=0)
    c = (i[:, None] + e[None, :]) % 3 == 1
    y = {SAMPLES[name]}
    store(R[{row}, i[:, None], e[None, :]], broadcast(y, [BM, D]), mask=i[:, None] < M)
"""


@cache
def bound() -> Bound:
    return bind(parse_spec(SPEC), {})


@cache
def program(names: tuple[str, ...]) -> Program:
    rows = {name: row for row, name in enumerate(SAMPLES)}
    text = "meta BM = 16\n" + "".join(kernel(name, rows[name]) for name in names)
    return check(parse(text + (LOOP.format(row=len(SAMPLES)) if len(names) > 1 else "")), bound())


def everything() -> Program:
    return program(tuple(SAMPLES))


@cache
def reference() -> Outcome:
    arrays = generate("normal", 3, bound(), SIZES, PARAMETERS)
    return interpret(everything(), bound(), SIZES, PARAMETERS, arrays, Mode.MACHINE)


def test_the_samples_leave_no_operation_out() -> None:
    nodes = [n for k in everything().kernels for n in walk(k.body)]
    kinds = {type(n) for n in nodes}
    assert kinds >= set(get_args(core.Expr)) - {core.Size} | set(get_args(core.Statement))
    assert {n.op for n in nodes if isinstance(n, core.Unary)} == set(UNARY)
    assert {n.op for n in nodes if isinstance(n, core.Binary)} == set(ARITHMETIC) | set(COMPARE)
    assert {n.op for n in nodes if isinstance(n, core.Reduce)} == set(REDUCE)
    assert {n.name for n in nodes if isinstance(n, core.Constant)} == {"log2e", "ln2", "inf"}
    used = " ".join(SAMPLES.values()) + LOOP
    assert [name for name in OPERATIONS if f"{name}(" not in used] == []
    assert [symbol for symbol in OPERATORS if f" {symbol} " not in used] == []


def test_the_interpreter_gives_every_sample_a_value() -> None:
    outcome = reference()
    assert outcome.faults == ()
    assert np.isfinite(outcome.tensors["R"]).all()


@pytest.mark.parametrize("name", SAMPLES)
def test_the_prover_executes_it(name: str) -> None:
    reset()
    if name in NOT_PROVED:
        with pytest.raises(Unsupported):
            analyse(program((name,)), bound())
        return
    proof = analyse(program((name,)), bound())
    (store,) = proof.traces[0].of_kind("store")
    assert store.value is not None and isinstance(store.value.value, Real)


def rows(tensor: Array) -> dict[str, Array]:
    return dict(zip([*SAMPLES, "loop"], tensor, strict=True))


@pytest.mark.parametrize("bits", [32, 64])
def test_triton_can_say_it_and_means_the_same(bits: int) -> None:
    source = emit_program(everything(), bound(), {k.name: bits for k in everything().kernels})
    arrays = generate("normal", 3, bound(), SIZES, PARAMETERS)
    emitted = Emitted(source, launches_of(everything()), [Run(SIZES, PARAMETERS, arrays)])
    ((found,),) = run_interpreted(plan(everything(), bound()), [emitted])
    assert mismatch(rows(found["R"]), rows(reference().tensors["R"]), 1e-5) is None


def test_the_cpu_executor_means_the_same() -> None:
    arrays = generate("normal", 3, bound(), SIZES, PARAMETERS)
    inputs = {name: torch.from_numpy(a).to(TORCH[everything().tensor(name).dtype]) for name, a in arrays.items()}
    found = execute(everything(), bound(), SIZES, PARAMETERS, inputs)["R"].double().numpy()
    assert mismatch(rows(found), rows(reference().tensors["R"]), 1e-5) is None
