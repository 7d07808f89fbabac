"""The reference interpreter: values against the spec evaluator and NumPy, and one test a fault.

`lse(body)` runs a kernel whose only output is LSE[1, 1, M], M = 5, with 4 rows to a program; the body
sees `i`, the rows, and `x`, which is Q[0, 0, i, 0] with `x = 0` on masked-off rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ir.compare import mismatch
from ir.evaluate import evaluate, parameters_default
from ir.inputs import GENERATORS, generate
from ir.interpret import (
    FUEL,
    BudgetExceeded,
    InterpretError,
    Mode,
    Outcome,
    interpret,
    interpret_program_instance,
)
from ir.loader import bind, load_spec
from ir.memory import Fault
from ir.parser import parse
from ir.program import DType, Program
from ir.rounding import round_to
from ir.spec import Bound
from ir.typing import check

EXACT, MACHINE = Mode.EXACT, Mode.MACHINE
ATTENTION = load_spec("attention")
SIZES = {"B": 1, "H": 1, "G": 1, "M": 5, "N": 3}
PAGE = (Path(__file__).parents[2] / "docs" / "language.md").read_text()
EXAMPLE = PAGE.split("```python\n")[1].split("```")[0]


def lse_only() -> Bound:
    """V is bf16, so that a kernel may round to any dtype."""
    bound = bind(ATTENTION, {"dtype": "fp32"})
    inputs = tuple((t, DType.BF16 if t.name == "V" else dtype) for t, dtype in bound.inputs)
    return replace(bound, inputs=inputs, outputs=tuple(o for o in bound.outputs if o[0].name == "LSE"))


def program_of(text: str, bound: Bound) -> Program:
    return check(parse(text), bound, text)


def run(text: str, mode: Mode = EXACT, x: np.ndarray | None = None, fuel: int = FUEL) -> Outcome:
    """Run a file; `x`, if given, are the values of Q[0, 0, :, 0]."""
    bound = lse_only()
    inputs = generate("normal", 1, bound, SIZES, {})
    if x is not None:
        inputs["Q"][0, 0, :, 0] = x
    return interpret(program_of(text, bound), bound, SIZES, {"scale": 0.1}, inputs, mode, fuel=fuel)


def kernel(body: str, name: str = "rows", grid: str = "t < cdiv(M, 4)") -> str:
    lines = ["i = t * 4 + arange(4)", "x = load(Q[0, 0, i, 0], mask=i < M, other=0)", *body.splitlines()]
    return f"kernel {name}({grid}):\n" + "\n".join("    " + line for line in lines) + "\n"


STORE = "store(LSE[0, 0, i], {}, mask=i < M)"


def lse(value: str, mode: Mode = EXACT, x: np.ndarray | None = None) -> list[float]:
    """LSE when each row stores `value`; no fault may occur."""
    outcome = run(kernel(STORE.format(value)), mode, x)
    assert outcome.faults == ()
    return list(outcome.tensors["LSE"][0, 0])


def fault(text: str, kind: str, mode: Mode = EXACT) -> Fault:
    """The first fault of a kind."""
    found = run(text, mode).fault(kind)
    assert found is not None
    return found


# ---- the language page's example is attention ---------------------------------------------------


@pytest.mark.parametrize("causal_sizes", [(70, 70), (19, 5), (5, 19), (3, 0), (1, 1)], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [("bf16", 2e-2), ("fp16", 4e-3), ("fp32", 1e-4)])
def test_the_example_of_the_language_page(causal_sizes: tuple[int, int], dtype: str, tolerance: float) -> None:
    bound = bind(ATTENTION, {"causal": "bottom_right", "dtype": dtype})
    program = program_of(EXAMPLE.replace("BM = 128", "BM = 16").replace("BN = 64", "BN = 32"), bound)
    sizes = {"B": 1, "H": 2, "G": 1, "M": causal_sizes[0], "N": causal_sizes[1]}
    parameters = parameters_default(bound, sizes)
    for name in GENERATORS:
        inputs = generate(name, 2, bound, sizes, parameters)
        expected = evaluate(bound, sizes, parameters, inputs)
        exact = interpret(program, bound, sizes, parameters, inputs, EXACT)
        machine = interpret(program, bound, sizes, parameters, inputs, MACHINE)
        assert exact.faults == machine.faults == ()
        assert mismatch(exact.tensors, expected, 1e-5) is None, name
        if name in ("normal", "uniform", "small", "zeros"):  # the others have logits f32 cannot tell apart
            assert mismatch(machine.tensors, expected, tolerance) is None, name


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("l = l * alpha + sum", "l = l + sum"),  # the rescale forgotten
        ("j[None, :] <= i[:, None] + N - M", "j[None, :] < i[:, None] + N - M"),
        ("g = h // (H // G)", "g = h % G"),
        ("j[None, :] <= i[:, None] + N - M", "j[None, :] <= i[:, None]"),
    ],
)
def test_a_defect_shows_against_the_spec(right: str, wrong: str) -> None:
    bound = bind(ATTENTION, {"causal": "bottom_right"})
    sizes = {"B": 1, "H": 4, "G": 2, "M": 30, "N": 37}
    parameters = parameters_default(bound, sizes)
    inputs = generate("normal", 0, bound, sizes, parameters)
    assert right in EXAMPLE
    text = EXAMPLE.replace(right, wrong).replace("BN = 64", "BN = 16")
    outcome = interpret(program_of(text, bound), bound, sizes, parameters, inputs, EXACT)
    assert mismatch(outcome.tensors, evaluate(bound, sizes, parameters, inputs), 1e-5) is not None


# ---- operations -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("cast(i // 2, f32)", [0, 0, 1, 1, 2]),
        ("cast((i - 3) // 2, f32)", [-2, -1, -1, 0, 0]),  # towards minus infinity
        ("cast((i - 3) % 2, f32)", [1, 0, 1, 0, 1]),
        ("cast(cdiv(i - 3, 2), f32)", [-1, -1, 0, 0, 1]),
        ("cast(maximum(i, 2) - minimum(i, 2), f32)", [2, 1, 0, 1, 2]),
        ("cast(-i + max(M, N) - min(M, N) , f32)", [2, 1, 0, -1, -2]),
        ("where(i < 2 or i == 4, 1.0, -inf)", [1, 1, -np.inf, -np.inf, 1]),
        ("where(not (i >= 2) and i != 0, x / 0.0, 2.5)", [2.5, np.inf, 2.5, 2.5, 2.5]),
        ("cast(i < 3, f32)", [1, 1, 1, 0, 0]),
        ("exp2(x) * exp(x * 0.0) + log2(exp2(x))", [1, 3, 6, 11, 20]),
        ("sqrt(x * x) - abs(-x)", [0] * 5),
        ("tanh(x) - (2.0 * sigmoid(2.0 * x) - 1.0)", [0] * 5),
        ("x + full([4], 0.5, f32) + zeros([4], f32)", [0.5, 1.5, 2.5, 3.5, 4.5]),
        ("exp2(x * log2e) - exp(x) + exp(ln2)", [2] * 5),
        ("x * scale", [0, 0.1, 0.2, 0.3, 0.4]),
        ("where(i < M, 1.0, " + "9" * 40 + "e300)", [1] * 5),
        ("sum(broadcast(x[:, None], [4, 8]), axis=1)", [0, 8, 16, 24, 32]),
        ("max(x[:, None] - cast(arange(2), f32)[None, :], axis=1)", [0, 1, 2, 3, 4]),
        ("min(x[:, None] - cast(arange(2), f32)[None, :], axis=1)", [-1, 0, 1, 2, 3]),
        ("cast(sum(i[:, None] * arange(4)[None, :], axis=1), f32)", [0, 6, 12, 18, 24]),
        ("sum(trans(broadcast(x[:, None], [4, 4])), axis=0)", [0, 4, 8, 12, 16]),
    ],
)
def test_operations(expression: str, expected: list[float]) -> None:
    allowed_faults = {"overflow"} if np.inf in expected else set()
    outcome = run(kernel(STORE.format(expression)), EXACT, np.arange(5.0))
    assert {f.kind for f in outcome.faults} == allowed_faults
    assert np.allclose(outcome.tensors["LSE"][0, 0], expected, rtol=1e-12, atol=1e-12)


def test_dot_and_accumulator() -> None:
    body = """e = arange(16)
a = x[:, None] + cast(e, f32)[None, :]
y = dot(a, trans(a), full([4, 4], 100.0, f32))
""" + STORE.format("sum(y, axis=1)")
    outcome = run(kernel(body), EXACT, np.arange(5.0))
    tile = np.arange(4.0)[:, None] + np.arange(16.0)[None, :]
    assert np.allclose(outcome.tensors["LSE"][0, 0, :4], (tile @ tile.T + 100).sum(1))


def test_carried_names_are_updated_together() -> None:
    body = """a = x
b = x + 1.0
for n in range(1, 9, 3) carry a, b:
    old = a
    a = b
    b = old + b + cast(n, f32)
""" + STORE.format("b")
    assert run(kernel(body), EXACT, np.arange(5.0)).tensors["LSE"][0, 0, 0] == 16.0  # n = 1, 4, 7


def test_a_loop_without_iterations_leaves_the_initial_value() -> None:
    body = "a = x\nfor n in range(3, 2) carry a:\n    a = a * 7.0\n" + STORE.format("a")
    assert list(run(kernel(body), EXACT, np.arange(5.0)).tensors["LSE"][0, 0]) == [0, 1, 2, 3, 4]


def test_later_kernels_see_scratch() -> None:
    first = kernel("store(P[i], x * 2.0, mask=i < M)", "first")
    second = kernel("y = load(P[i], mask=i < M, other=0)\n" + STORE.format("y + 1.0"), "second")
    outcome = run("scratch P[M]: f32\n" + first + second, EXACT, np.arange(5.0))
    assert outcome.faults == ()
    assert list(outcome.tensors["LSE"][0, 0]) == [1, 3, 5, 7, 9]
    assert list(outcome.tensors["P"]) == [0, 2, 4, 6, 8]


def test_atomic_adds_of_all_programs_and_lanes_meet() -> None:
    zero = kernel(STORE.format("zeros([4], f32)"), "zero")
    add = kernel("atomic_add(LSE[0, 0, i // 2], full([4], 1.0, f32), mask=i < M)", "add")
    outcome = run(zero + add)
    assert outcome.faults == ()
    assert list(outcome.tensors["LSE"][0, 0]) == [2, 2, 1, 0, 0]


# ---- the two meanings of floats ---------------------------------------------------------------------

THIRDS = np.array([1 / 3, 2 / 3, 1.0, 4 / 3, 5 / 3])


@pytest.mark.parametrize(
    ("expression", "machine"),
    [
        ("x / 3.0", lambda x: (x / np.float32(3)).astype(np.float32)),
        ("x + 1e-9", lambda x: x + np.float32(1e-9)),
        ("x * log2e", lambda x: x * np.float32(np.log2(np.e))),
        ("x * scale", lambda x: x * np.float32(0.1)),
        ("cast(cast(x, f16), f32)", lambda x: x.astype(np.float16).astype(np.float32)),
        ("cast(cast(x, f16) * cast(x, f16), f32)", lambda x: np.square(x.astype(np.float16)).astype(np.float32)),
    ],
)
def test_machine_floats_are_rounded_after_each_operation(
    expression: str, machine: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = THIRDS.astype(np.float32)
    assert lse(expression, MACHINE, x.astype(np.float64)) == list(machine(x).astype(np.float64))
    assert lse(expression, EXACT, THIRDS) != lse(expression, MACHINE, THIRDS)


def test_casts_between_floats_are_the_identity_in_exact_mode() -> None:
    assert lse("cast(cast(x, bf16), f32)", EXACT, THIRDS) == list(THIRDS)
    assert lse("cast(cast(x, bf16), f32)", MACHINE, THIRDS) == list(round_to(THIRDS, DType.BF16))


def test_an_overflow_of_f32_is_one_in_machine_mode_only() -> None:
    body = kernel(STORE.format("exp(x * 0.0 + 89.0)"))
    assert run(body, EXACT).faults == ()
    assert fault(body, "overflow", MACHINE).cell == (0, 0, 0)


# ---- faults ---------------------------------------------------------------------------------------


def test_bounds_of_a_store() -> None:
    found = fault(kernel("store(LSE[0, 0, i], x)"), "bounds")
    assert (found.kernel, found.program, found.tensor, found.cell) == ("rows", (("t", 1),), "LSE", (0, 0, 5))
    assert "LSE[0, 0, 5] is outside [1, 1, 5]" in found.message
    assert found.span.line == 4


def test_bounds_of_a_load_and_the_poison_it_reads() -> None:
    body = kernel("y = load(Q[0, 0, i - 1, 0], mask=i < M, other=0)\n" + STORE.format("y"))
    assert fault(body, "bounds").cell == (0, 0, -1, 0)
    assert fault(body, "undefined").cell == (0, 0, 0)


def test_a_scalar_access_is_checked_too() -> None:
    assert fault(kernel("y = load(Q[0, 0, M, 0])\n" + STORE.format("x + y")), "bounds").cell == (0, 0, 5, 0)


def test_masked_off_lanes_do_nothing() -> None:
    assert lse("load(K[0, 0, i + 1000000000, 0], mask=i < 0, other=7.0)") == [7] * 5


@pytest.mark.parametrize(
    ("body", "cell"),
    [
        ("store(LSE[0, 0, i % 4], x)", (0, 0, 0)),  # two programs
        ("store(LSE[0, 0, i // 2], x, mask=i < M)", (0, 0, 0)),  # two lanes
        ("for n in range(2):\n    store(LSE[0, 0, i], x, mask=i < M)", (0, 0, 0)),  # two iterations
        (STORE.format("x") + "\nstore(LSE[0, 0, i], x, mask=i == 2)", (0, 0, 2)),  # two statements
        (STORE.format("x") + "\natomic_add(LSE[0, 0, i], x, mask=i == 2)", (0, 0, 2)),  # one of them no atomic
    ],
)
def test_write_write(body: str, cell: tuple[int, ...]) -> None:
    assert fault(kernel(body), "write-write").cell == cell


def test_write_write_names_both_programs() -> None:
    found = fault(kernel("store(LSE[0, 0, i % 4], x)"), "write-write")
    assert "program (t=1)" in found.message and "program (t=0)" in found.message


def test_a_plain_store_after_an_atomic_add() -> None:
    zero = kernel(STORE.format("x"), "zero")
    both = kernel("atomic_add(LSE[0, 0, i], x, mask=i < M)\n" + STORE.format("x"), "both")
    assert fault(zero + both, "write-write").kernel == "both"


ZERO_P = kernel("store(P[i], x, mask=i < M)", "first")


@pytest.mark.parametrize(
    ("body", "program"),
    [
        ("store(P[i], x, mask=i < M)\ny = load(P[0])", 0),  # what it stored itself
        ("store(P[i], x, mask=i < M)\ny = load(P[0], mask=t == 1, other=0)", 1),  # a store, then a load elsewhere
        ("y = load(P[4], mask=t == 0, other=0)\nstore(P[i], x, mask=i < M and t == 1)", 1),  # the other way round
        ("y = load(P[0], mask=t == 0, other=0)\nstore(P[i], x, mask=i < M)", 0),  # in place
    ],
)
def test_read_write(body: str, program: int) -> None:
    text = "scratch P[M]: f32\n" + ZERO_P + kernel(body + "\n" + STORE.format("x + y"), "second")
    found = fault(text, "read-write")
    assert (found.kernel, found.program) == ("second", (("t", program),))


def test_unwritten_output_cells() -> None:
    outcome = run(kernel("store(LSE[0, 0, i], x, mask=i < M - 1)"))
    assert [(f.kind, f.cell) for f in outcome.faults] == [("unwritten", (0, 0, 4))]
    assert np.isnan(outcome.tensors["LSE"][0, 0, 4])


def test_adding_to_memory_nobody_wrote() -> None:
    assert fault(kernel("atomic_add(LSE[0, 0, i], x, mask=i < M)"), "uninitialised").cell == (0, 0, 0)


def test_loading_scratch_nobody_wrote() -> None:
    text = "scratch P[M]: f32\n" + kernel("y = load(P[i], mask=i < M, other=0)\n" + STORE.format("y"))
    assert fault(text, "uninitialised").tensor == "P"
    assert fault(text, "undefined").tensor == "LSE"


@pytest.mark.parametrize(
    "value", ["log(x * 0.0 - 1.0)", "x * 0.0 / 0.0", "exp(x * 0.0 - inf - -inf)", "maximum(x, 0.0 * inf)"]
)
@pytest.mark.parametrize("mode", list(Mode))
def test_a_stored_nan_is_undefined(value: str, mode: Mode) -> None:
    assert fault(kernel(STORE.format(value)), "undefined", mode).cell == (0, 0, 0)


def test_an_integer_division_by_zero_is_undefined() -> None:
    assert "floordiv by zero" in fault(kernel(STORE.format("cast(4 // i, f32)")), "undefined").message
    assert "mod by zero" in fault(kernel(STORE.format("cast(t % (M - 5), f32) + x")), "undefined").message


def test_a_stored_infinity_is_an_overflow_unless_negative() -> None:
    assert fault(kernel(STORE.format("exp(x * 0.0 + 1000.0)")), "overflow").cell == (0, 0, 0)
    assert lse("log(x * 0.0)") == [-np.inf] * 5


@pytest.mark.parametrize("value", ["i * 1000000000", "i - 2147483650", "M * 1000000000"])
def test_a_cast_to_i32_claims_that_the_value_fits(value: str) -> None:
    text = kernel(f"k = cast({value}, i32)\n" + STORE.format("x"))
    assert "does not fit i32" in fault(text, "width").message


def test_a_cast_to_i64_too_and_integers_never_wrap() -> None:
    big = "i * 4294967296 * 4294967296"
    assert fault(kernel(f"k = cast({big}, i64)\n" + STORE.format("x")), "width").program == (("t", 0),)
    assert lse(f"cast({big} // 4294967296 // 4294967296, f32)") == [0, 1, 2, 3, 4]


def test_32_bit_offsets_of_a_wide_view() -> None:
    """Contiguous Q fits; as a view into a fused buffer its rows are 2^30 elements apart."""
    bound = lse_only()
    text = kernel(STORE.format("x")).replace("):\n", "):\n    schedule offset_bits = 32\n", 1)
    program, inputs = program_of(text, bound), generate("normal", 0, bound, SIZES, {})
    assert interpret(program, bound, SIZES, {"scale": 1.0}, inputs, EXACT).faults == ()
    strides = {"Q": (2**33, 2**33, 2**30, 1)}
    (found,) = interpret(program, bound, SIZES, {"scale": 1.0}, inputs, EXACT, strides=strides).faults[:1]
    assert (found.kind, found.tensor, found.cell) == ("width", "Q", (0, 0, 2, 0))


def test_a_scratch_tensor_may_turn_out_empty() -> None:
    text = "scratch P[M - 7]: f32\n" + kernel("y = load(P[i], mask=i < 1, other=0)\n" + STORE.format("x"))
    assert fault(text, "bounds").cell == (0,)


def test_faults_are_collected_but_not_without_end() -> None:
    text = kernel("for n in range(100):\n    store(LSE[0, 0, i + M], x)")
    kinds = [f.kind for f in run(text).faults]
    assert kinds.count("bounds") == 16
    assert "unwritten" in kinds  # the run went on


# ---- errors, budgets ------------------------------------------------------------------------------


def test_what_must_be_given() -> None:
    bound = lse_only()
    program, inputs = program_of(kernel(STORE.format("x")), bound), generate("normal", 0, bound, SIZES, {})
    with pytest.raises(InterpretError, match="N, scale"):
        interpret(program, bound, {"B": 1, "H": 1, "G": 1, "M": 5}, {}, inputs, EXACT)
    with pytest.raises(InterpretError, match=re.escape("input K: expected shape (1, 1, 3, 64), got (2,)")):
        interpret(program, bound, SIZES, {"scale": 1.0}, inputs | {"K": np.zeros(2)}, EXACT)


def test_a_run_never_hangs() -> None:
    with pytest.raises(BudgetExceeded, match="smaller sizes"):
        run(kernel("for n in range(1000000000000000):\n    y = x\n" + STORE.format("x")), fuel=10**7)
    with pytest.raises(BudgetExceeded):
        run(kernel(STORE.format("x"), grid="t < 1000000000000000"), fuel=10**7)
    with pytest.raises(BudgetExceeded, match="cells"):
        run("scratch P[1000000, 1000000]: f32\n" + kernel(STORE.format("x")))
    with pytest.raises(BudgetExceeded, match="grows without end"):
        run(kernel("k = M\nfor n in range(100) carry k:\n    k = k * k\n" + STORE.format("x")))


# ---- one program at sizes no memory holds -----------------------------------------------------------

HUGE = {"B": 65536, "H": 1024, "G": 1024, "M": 1048576, "N": 1048576}


def instance(text: str, ids: dict[str, int]) -> tuple[Fault, ...]:
    bound = lse_only()
    return interpret_program_instance(program_of(text, bound), bound, HUGE, {"scale": 1.0}, "rows", ids)


def test_offsets_beyond_32_bits_at_a_huge_shape() -> None:
    text = """
kernel rows(b < B, t < cdiv(M, 4)):
    schedule offset_bits = 32
    i = t * 4 + arange(4)
    store(LSE[b, 0, i], zeros([4], f32), mask=i < M)
"""
    assert instance(text, {"b": 1, "t": 262143}) == ()
    (found,) = instance(text, {"b": 2, "t": 0})  # 2 * 1024 * 2^20 is 2^31
    assert (found.kind, found.cell) == ("width", (2, 0, 0))
    assert "2147483648" in found.message
    assert instance(text.replace("= 32", "= 64"), {"b": 2, "t": 0}) == ()


def test_the_last_iterations_of_a_long_loop_run() -> None:
    text = kernel("for n in range(0, M + 1):\n    y = load(Q[0, 0, n, 0])")
    (found,) = instance(text, {"t": 0})
    assert (found.kind, found.cell) == ("bounds", (0, 0, 1048576, 0))


def test_a_carried_integer_ends_the_run_where_its_value_is_unknown() -> None:
    text = kernel("""k = N
for n in range(0, N) carry k:
    k = k - 1
    y = load(K[0, 0, k - n, 0], mask=k >= n, other=0)
store(LSE[0, 0, k - N], 0.0)""")
    assert instance(text, {"t": 0}) == ()


def test_only_programs_that_exist_are_run() -> None:
    text = kernel(STORE.format("x"))
    for ids in ({"t": 262144}, {"t": -1}, {}):
        with pytest.raises(InterpretError, match="not a program id of kernel rows"):
            instance(text, ids)
    with pytest.raises(InterpretError, match="no kernel named columns"):
        interpret_program_instance(program_of(text, lse_only()), lse_only(), HUGE, {"scale": 1.0}, "columns", {"t": 0})
