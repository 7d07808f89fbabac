"""The CPU executor: the meaning of the reference interpreter, for all programs of a grid at once."""

from __future__ import annotations

import pytest
import torch
from lowering_cases import EVERY_OPERATION, attention, certificate_for, documented, typed

import lowering.cpu
from ir.compare import mismatch
from ir.evaluate import evaluate
from ir.inputs import generate
from ir.interpret import Mode, interpret
from ir.program import Program
from ir.spec import Bound
from lowering.cpu import ExecutionError, execute, execute_certificate
from lowering.crosscheck import tolerance
from lowering.lanes import Lanes, arange, arithmetic, compare, dense
from lowering.lower import NotCertified
from lowering.memory import Block, OutOfBounds, read, write
from lowering.values import TORCH

SCALE = {"scale": 0.125}


def tensors(
    program: Program, bound: Bound, sizes: dict[str, int], generator: str = "normal"
) -> dict[str, torch.Tensor]:
    arrays = generate(generator, 3, bound, sizes, SCALE)
    return {name: torch.from_numpy(a).to(TORCH[program.tensor(name).dtype]) for name, a in arrays.items()}


def assert_means_the_same(text: str, bound: Bound, sizes: dict[str, int], generator: str = "normal") -> None:
    program = typed(text, bound)
    arrays = generate(generator, 3, bound, sizes, SCALE)
    wanted = interpret(program, bound, sizes, SCALE, arrays, Mode.MACHINE).tensors
    found = execute(program, bound, sizes, SCALE, tensors(program, bound, sizes, generator))
    actual = {name: x.to(torch.float64).numpy() for name, x in found.items()}
    assert mismatch(actual, {n: wanted[n] for n in actual}, tolerance(program), skip_undefined=True) is None


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "sizes",
    [
        {"B": 2, "G": 2, "H": 4, "M": 133, "N": 131},  # grouped heads, ragged both ways
        {"B": 1, "G": 1, "H": 2, "M": 300, "N": 199},  # rows that see no key; loops of unequal length
        {"B": 2, "G": 1, "H": 3, "M": 128, "N": 256},  # whole tiles: nothing is masked
        {"B": 1, "G": 1, "H": 1, "M": 40, "N": 0},  # no key at all
    ],
)
def test_attention_means_what_the_interpreter_says(dtype: str, sizes: dict[str, int]) -> None:
    assert_means_the_same(documented(), attention(dtype=dtype), sizes)


@pytest.mark.parametrize("generator", ["low", "high", "zeros"])
def test_extreme_inputs(generator: str) -> None:
    assert_means_the_same(documented(), attention(dtype="fp32"), {"B": 1, "G": 1, "H": 2, "M": 70, "N": 90}, generator)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_every_operation(dtype: str) -> None:
    assert_means_the_same(EVERY_OPERATION, attention("none", dtype), {"B": 2, "G": 1, "H": 3, "M": 37, "N": 3})


def test_float32_attention_agrees_with_the_formula() -> None:
    bound = attention(dtype="fp32")
    sizes = {"B": 1, "G": 2, "H": 4, "M": 70, "N": 90}
    program = typed(documented(), bound)
    wanted = evaluate(bound, sizes, SCALE, generate("normal", 3, bound, sizes, SCALE))
    found = execute(program, bound, sizes, SCALE, tensors(program, bound, sizes))
    assert mismatch({n: x.double().numpy() for n, x in found.items()}, wanted, 1e-5) is None


def test_the_chunk_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = attention(dtype="fp32")
    sizes = {"B": 2, "G": 2, "H": 4, "M": 300, "N": 200}
    program = typed(documented(), bound)
    given = tensors(program, bound, sizes)
    results = []
    for size in (1, 1 << 18, 1 << 24):
        monkeypatch.setattr(lowering.cpu, "CHUNK_BYTES", size)
        results.append(execute(program, bound, sizes, SCALE, given))
    for other in results[1:]:
        for name, x in other.items():
            torch.testing.assert_close(x, results[0][name], rtol=1e-5, atol=1e-5)


def test_inputs_are_left_alone() -> None:
    bound = attention(dtype="fp32")
    sizes = {"B": 1, "G": 1, "H": 2, "M": 70, "N": 90}
    program = typed(documented(), bound)
    given = tensors(program, bound, sizes)
    before = {name: x.clone() for name, x in given.items()}
    execute(program, bound, sizes, SCALE, given)
    assert all(torch.equal(before[name], given[name]) for name in given)


COUNTING = """
meta BM = 16
kernel clear(b < B, h < H, t < cdiv(M, BM)):
    i = t * BM + arange(BM)
    e = arange(D)
    store(O[b, h, i[:, None], e[None, :]], zeros([BM, D], f32), mask=i[:, None] < M)
    store(LSE[b, h, i], zeros([BM], f32), mask=i < M)
kernel count(b < B, h < H, t < cdiv(N, BM)):
    i = arange(BM)
    j = t * BM + arange(BM)
    here = sum(where(j < N, 1.0, 0.0), axis=0)
    atomic_add(LSE[b, h, i], broadcast(here, [BM]), mask=i < M)
    last = 0
    for n in range(t, N - 30) carry last:
        last = last + n
    atomic_add(LSE[b, h, i], broadcast(cast(last, f32), [BM]), mask=i < M)
"""


def test_atomics_and_loops_of_unequal_length() -> None:
    assert_means_the_same(COUNTING, attention(dtype="fp32"), {"B": 2, "G": 1, "H": 2, "M": 11, "N": 37})


def test_a_grid_without_programs_runs_nothing() -> None:
    assert_means_the_same(COUNTING, attention(dtype="fp32"), {"B": 1, "G": 1, "H": 2, "M": 11, "N": 0})


def test_a_cell_nobody_stores_is_nan() -> None:
    bound = attention(dtype="fp32")
    sizes = {"B": 1, "G": 1, "H": 1, "M": 20, "N": 5}
    program = typed(documented().replace("mask=i < M)", "mask=i < M - 1)"), bound)
    found = execute(program, bound, sizes, SCALE, tensors(program, bound, sizes))
    assert found["LSE"][0, 0].isnan().tolist() == [False] * 19 + [True]


def test_wrong_inputs_are_named() -> None:
    bound = attention(dtype="fp32")
    sizes = {"B": 1, "G": 1, "H": 1, "M": 20, "N": 5}
    program = typed(documented(), bound)
    given = tensors(program, bound, sizes)
    with pytest.raises(ExecutionError, match="input K"):
        execute(program, bound, sizes, SCALE, given | {"K": given["K"].double()})
    with pytest.raises(ExecutionError, match="no value given for scale"):
        execute(program, bound, sizes, {}, given)


def test_the_certified_way_in_takes_only_the_certified_program() -> None:
    bound = attention(dtype="fp32")
    sizes = {"B": 1, "G": 1, "H": 1, "M": 20, "N": 5}
    certificate = certificate_for(documented(), bound)
    program = typed(documented(), bound)
    given = tensors(program, bound, sizes)
    assert set(execute_certificate(certificate, program, bound, sizes, SCALE, given)) == {"O", "LSE"}
    changed = typed(documented().replace("== 0.0, 1.0", "== 0.0, 2.0"), bound)
    with pytest.raises(NotCertified):
        execute_certificate(certificate, changed, bound, sizes, SCALE, given)


# ---- integers in closed form -----------------------------------------------------------------


def test_a_tile_of_indices_is_a_base_and_steps() -> None:
    program = Lanes(torch.tensor([0, 1, 2]))
    rows = arithmetic("add", arithmetic("mul", program, Lanes(16)).broadcast((16,)), arange(16))  # type: ignore[union-attr]
    assert isinstance(rows, Lanes) and rows.bounds() == (0, 47)
    assert dense(rows).tolist() == [list(range(16 * p, 16 * p + 16)) for p in range(3)]


def test_comparisons_are_decided_from_bounds_when_they_can_be() -> None:
    rows = arange(16)
    assert compare("lt", rows, Lanes(16).broadcast((16,))) is True
    assert compare("ge", rows, Lanes(16).broadcast((16,))) is False
    partial = compare("lt", rows, Lanes(5).broadcast((16,)))
    assert isinstance(partial, torch.Tensor) and partial.sum() == 5


@pytest.mark.parametrize("op", ["floordiv", "mod"])
def test_division_rounds_towards_minus_infinity(op: str) -> None:
    rows = arithmetic("sub", arange(8), Lanes(5).broadcast((8,)))
    found = dense(arithmetic(op, rows, Lanes(3).broadcast((8,)))).flatten().tolist()
    assert found == [k // 3 if op == "floordiv" else k % 3 for k in range(-5, 3)]


def test_masked_lanes_are_never_read_outside_the_tensor() -> None:
    data = torch.arange(10.0)
    block = Block((arithmetic("add", arange(8), Lanes(torch.tensor([0, 8])).broadcast((8,))),), (8,))
    mask = compare("lt", block.index[0], Lanes(10).broadcast((8,)))
    found = read(data, block, mask, torch.tensor(-1.0))
    assert found.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9, -1, -1, -1, -1, -1, -1]]
    with pytest.raises(OutOfBounds, match="15 is outside"):
        read(data, block, True, None)


def test_stores_reach_only_lanes_whose_mask_holds() -> None:
    data = torch.zeros(10)
    block = Block((arithmetic("add", arange(4), Lanes(torch.tensor([0, 4, 8])).broadcast((4,))),), (4,))
    write(data, block, torch.ones(()), compare("lt", block.index[0], Lanes(9).broadcast((4,))), atomic=False)
    assert data.tolist() == [1] * 9 + [0]
