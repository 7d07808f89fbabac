"""The spec evaluator against plain NumPy, and the formula language's corners.

`bound_to(define)` binds the attention spec with other formulas, so that a test shows just the formula.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ir.compare import mismatch
from ir.evaluate import EvaluationError, check_requires, evaluate, parameters_default, tensor_shape
from ir.inputs import GENERATORS, generate
from ir.loader import bind, load_spec
from ir.parser import parse_definitions
from ir.spec import Bound

ATTENTION = load_spec("attention")
SIZES = {"B": 2, "H": 4, "G": 2, "M": 5, "N": 7}
RAGGED = [
    SIZES,
    {"B": 1, "H": 2, "G": 2, "M": 9, "N": 4},  # bottom-right: rows that see no key
    {"B": 1, "H": 1, "G": 1, "M": 3, "N": 0},
    {"B": 1, "H": 2, "G": 1, "M": 1, "N": 33},
]
VISIBLE = {
    "none": lambda i, j, M, N: (i >= 0) & (j >= 0),
    "bottom_right": lambda i, j, M, N: j <= i + N - M,
    "top_left": lambda i, j, M, N: j <= i,
}


def numpy_attention(
    sizes: dict[str, int], scale: float, x: dict[str, np.ndarray], causal: str
) -> dict[str, np.ndarray]:
    """Softmax attention the usual way: subtract the maximum, rows without a key give 0 and -inf."""
    M, N, group = sizes["M"], sizes["N"], sizes["H"] // sizes["G"]
    K, V = (np.repeat(x[name], group, axis=1) for name in ("K", "V"))
    sees = VISIBLE[causal](np.arange(M)[:, None], np.arange(N)[None, :], M, N)
    S = np.where(sees, scale * (x["Q"] @ np.swapaxes(K, 2, 3)), -np.inf)
    top = np.max(S, axis=3, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    P = np.exp(S - top)
    Z = np.sum(P, axis=3, keepdims=True)
    with np.errstate(divide="ignore"):
        return {"O": (P @ V) / np.where(Z == 0, 1.0, Z), "LSE": (top + np.log(Z))[..., 0]}


def bound_to(define: str, empty_row: str = "zero") -> Bound:
    """The attention spec with other definitions; both outputs must be defined."""
    spec = replace(ATTENTION, definitions=parse_definitions(define), empty_row=empty_row)
    return replace(bind(ATTENTION, {}), spec=spec)


def lse(formula: str, helper: str = "", empty_row: str = "zero", **inputs: np.ndarray) -> np.ndarray:
    """LSE[0, 0, :] when it is given by `formula` over b, h, i."""
    bound = bound_to(f"{helper}\nO[b, h, i, e] = 0.0\nLSE[b, h, i] = {formula}", empty_row)
    sizes = {"B": 1, "H": 1, "G": 1, "M": 4, "N": 3}
    given = generate("uniform", 1, bound, sizes, {}) | inputs
    return np.asarray(evaluate(bound, sizes, {"scale": 0.5}, given)["LSE"][0, 0])


@pytest.mark.parametrize("causal", ["none", "bottom_right", "top_left"])
@pytest.mark.parametrize("sizes", RAGGED, ids=str)
def test_attention_is_softmax_attention(causal: str, sizes: dict[str, int]) -> None:
    bound = bind(ATTENTION, {"causal": causal})
    parameters = parameters_default(bound, sizes)
    for name in GENERATORS:  # "large", "low" and "high" have logits of 1e9
        inputs = generate(name, 3, bound, sizes, parameters)
        expected = numpy_attention(sizes, parameters["scale"], inputs, causal)
        assert mismatch(evaluate(bound, sizes, parameters, inputs), expected, 1e-9) is None, name


def test_huge_logits_stay_exact() -> None:
    """Two keys whose logits are about 3.2e9 and differ by log(3)."""
    bound = bind(ATTENTION, {"dtype": "fp32"})
    sizes = {"B": 1, "H": 1, "G": 1, "M": 1, "N": 2}
    Q, K, V = np.zeros((1, 1, 1, 64)), np.zeros((1, 1, 2, 64)), np.zeros((1, 1, 2, 64))
    Q[..., 0], K[..., 0], Q[..., 1] = 1e5, 32768.0, 1.0
    K[0, 0, 1, 1] = np.log(3.0)
    V[0, 0, 1, :] = 4.0
    outputs = evaluate(bound, sizes, {"scale": 1.0}, {"Q": Q, "K": K, "V": V})
    assert np.allclose(outputs["O"], 3.0, rtol=1e-6)  # weights 1/4 and 3/4
    assert np.isclose(outputs["LSE"][0, 0, 0], 3.2768e9 + np.log(4.0), rtol=1e-15)


def test_shapes_defaults_and_requirements() -> None:
    bound = bind(ATTENTION, {"D": 128})
    assert [tensor_shape(bound, t, SIZES) for t, _ in bound.inputs] == [(2, 4, 5, 128), (2, 2, 7, 128), (2, 2, 7, 128)]
    assert parameters_default(bound, SIZES) == {"scale": pytest.approx(128**-0.5)}
    assert check_requires(bound, SIZES)
    assert not check_requires(bound, SIZES | {"G": 3})  # H % G == 0
    assert not check_requires(bound, SIZES | {"M": 0})  # below its minimum
    assert not check_requires(bound, SIZES | {"N": 2**60})
    assert not check_requires(bound, {"B": 1})


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("i // 2 + i % 2", [0, 1, 1, 2]),
        ("(i - 3) // 2", [-2, -1, -1, 0]),  # towards minus infinity
        ("cdiv(i, 3)", [0, 1, 1, 1]),
        ("if i < 2 then 1 / 4 else -scale", [0.25, 0.25, -0.5, -0.5]),
        ("sum[j < N, j <= i](1)", [1, 2, 3, 3]),
        ("sum[j < i](j)", [0, 0, 1, 3]),  # a bound that depends on an index
        ("max[j < N, j < i](j * 2)", [-np.inf, 0, 2, 4]),
        ("max(i, 2) - min(i, 2)", [2, 1, 0, 1]),
        ("exp(i * ln2) + log(8) * log2e", [4, 5, 7, 11]),
        ("Q[b, h, 0 * max[j < i + 1](j), 0] * 0 + max[j < i + 1](j)", [0, 1, 2, 3]),  # an integer maximum, an index
        ("abs(i - 2) * sqrt(4)", [4, 2, 0, 2]),
        ("tanh(0 * i) + sigmoid(0 * i)", [0.5] * 4),
        ("if not (i == 1) and i != 3 or i > 9 then 1 else 0", [1, 0, 1, 0]),
    ],
)
def test_formulas(formula: str, expected: list[float]) -> None:
    assert np.allclose(lse(formula), expected)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("log(sum[j < 2](exp(1e9 * (j + i))))", [1e9, 2e9, 3e9, 4e9]),
        ("log(exp(-2e9) * exp(1e9)) / 1e9", [-1] * 4),
        ("exp(2e9) / exp(2e9 - 1)", [np.e] * 4),
        ("exp(2e9) * (exp(-2e9) - 0 * exp(5e9))", [1] * 4),
        ("log(sqrt(exp(4e9)))", [2e9] * 4),
        ("log(abs(-exp(4e9)))", [4e9] * 4),
        ("log(sum[j < 2](exp(3e9 * j) * (if j == 0 then 1 else 0)))", [0] * 4),  # the largest term is zero
        ("log(-max[j < 2](-exp(-2e3 * (j + 1))))", [-4e3] * 4),  # the largest is the least negative
        ("log(max[j < 3](if j == 1 then exp(7e8) else exp(-1e9)))", [7e8] * 4),
        ("if exp(1e9) > exp(1e9 - 1) then 1 else 0", [1] * 4),
        ("log(max(exp(1e9), exp(i)))", [1e9] * 4),
    ],
)
def test_numbers_beyond_float64_in_between(formula: str, expected: list[float]) -> None:
    assert np.allclose(lse(formula), expected, rtol=1e-12)


def test_definitions_may_be_used_anywhere_and_shifted() -> None:
    window = "w[i, j] = j <= i and j > i - 2\nf[i] = sum[j < N, w[i, j]](1)\nr = H // G"
    assert np.allclose(lse("f[i] + f[i // 2] + r", window), [3, 4, 5, 4])


def test_a_condition_guards_reads_outside_a_tensor() -> None:
    Q = np.arange(4.0)[None, None, :, None] * np.ones(64)
    assert np.allclose(lse("if i >= 1 then Q[b, h, i - 1, 0] else 0.5", Q=Q), [0.5, 0, 1, 2])
    assert np.allclose(lse("sum[j < N, i - j >= 0](Q[b, h, i - j, 0])", Q=Q), [0, 1, 3, 6])
    assert np.isnan(lse("Q[b, h, i - 1, 0]", Q=Q)[0])


def test_empty_rows_are_zero_or_undefined_as_the_spec_says() -> None:
    formula = "sum[j < i](2.0) / sum[j < i](1.0)"
    assert np.allclose(lse(formula), [0, 2, 2, 2])
    assert np.isnan(lse(formula, empty_row="undefined")[0])
    assert lse("log(sum[j < i](1.0))")[0] == -np.inf
    assert np.isnan(lse("log(sum[j < i](1.0))", empty_row="undefined")[0])


@pytest.mark.parametrize(
    ("formula", "helper", "message"),
    [
        ("nowhere", "", "nowhere has no value"),
        ("f[i]", "f[i] = f[i] + 1", "defined by itself"),
        ("Q[b, h]", "", "4 dimensions"),
        ("f[i, i]", "f[i] = i", "1 indices, 2 given"),
        ("i // (N - 3)", "", "division by zero"),
        ("1.5 // 2", "", "integer"),
        ('dtype + "bf16"', "", "string"),
        ("if i then 1 else 0", "", "condition"),
        ("frobnicate(i)", "", "no function frobnicate of 1 arguments"),
        ("9" * 40 + "e300", "", "beyond float64"),
        ("sum[j < 100000](sum[k < 100000](j * k))", "", "too large"),
    ],
)
def test_what_a_formula_may_not_do(formula: str, helper: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        lse(formula, helper)


def test_inputs_must_be_given() -> None:
    with pytest.raises(EvaluationError, match="K, V"):
        evaluate(bind(ATTENTION, {}), SIZES, {"scale": 1.0}, {"Q": np.zeros((2, 4, 5, 64))})
