"""`grad(Y, X, dY)`: the derived formulas, rule by rule, and against automatic and finite differences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ir.diagnostics import SpecProblem
from ir.evaluate import evaluate, parameters_default
from ir.formulas import settled
from ir.inputs import generate
from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.parser import parse, parse_formula
from ir.printer import print_definitions, print_expr
from ir.reverse import DERIVATIVES
from ir.spec import Bound, Spec, TensorSpec
from ir.typing import check
from verifier.certificate import issue
from verifier.prove import prove
from verifier.verdict import Verdict


def spec(define: str, outputs: Mapping[str, tuple[str, ...]], empty_row: str = "zero", **more: tuple[str, ...]) -> Spec:
    """Inputs X[M, N], W[N], U[M], weights dY[M, N], dR[M] and `more`; the outputs named."""

    def table(tensors: Mapping[str, tuple[str, ...]], more: str = "") -> str:
        rows = (f'{n} = {{ shape = [{", ".join(map(repr, s))}], dtype = "f32"{more} }}' for n, s in tensors.items())
        return "\n".join(rows)

    given = {"X": ("M", "N"), "W": ("N",), "U": ("M",), "dY": ("M", "N"), "dR": ("M",), **more}
    given = {name: shape for name, shape in given.items() if name not in outputs}
    return parse_spec(f'''name = "test"
[dims]
M = {{ min = 1, max = 100 }}
N = {{ min = 0, max = 100 }}
[options]
mode = {{ choices = ["plain", "other"], default = "plain" }}
[parameters]
c = {{ min = 0.1, max = 2, default = "0.7" }}
[inputs]
{table(given, ', abs_max = 1e3')}
[outputs]
{table(outputs)}
[formula]
empty_row = "{empty_row}"
define = """
{define}
"""
[layout]
max_stride = 1024
''')


def derived(define: str, **outputs: tuple[str, ...]) -> list[str]:
    """The definitions `grad` was written out in, one a line."""
    s = spec(define, outputs)
    return [print_definitions([d]).strip() for d in s.definitions if d.name in s.derived]


def of_element(formula: str) -> str:
    """d(formula)/dX for Y[i, j] = formula, in terms of dY."""
    lines = derived(f"Y[i, j] = {formula}\ndX[i, j] = grad(Y, X, dY)", Y=("M", "N"), dX=("M", "N"))
    assert len(lines) == 1 and lines[0].startswith("dX[i, j] = ")
    return lines[0].removeprefix("dX[i, j] = ")


# ---- rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("X[i, j] + W[j]", "dY[i, j]"),
        ("W[j] - X[i, j]", "-dY[i, j]"),
        ("-X[i, j]", "-dY[i, j]"),
        ("c * X[i, j]", "dY[i, j] * c"),
        ("X[i, j] * X[i, j]", "dY[i, j] * 2 * X[i, j]"),
        ("X[i, j] / W[j]", "dY[i, j] / W[j]"),
        ("W[j] / X[i, j]", "-(dY[i, j] * Y[i, j] / X[i, j])"),
        ("exp(X[i, j])", "dY[i, j] * Y[i, j]"),
        ("log(X[i, j])", "dY[i, j] / X[i, j]"),
        ("sqrt(X[i, j])", "dY[i, j] / (2 * Y[i, j])"),
        ("tanh(X[i, j])", "dY[i, j] * (1 - Y[i, j] * Y[i, j])"),
        ("sigmoid(X[i, j])", "dY[i, j] * Y[i, j] * (1 - Y[i, j])"),
        ("3 * exp(c * X[i, j])", "dY[i, j] * 3 * exp(c * X[i, j]) * c"),
        ("if j <= i then X[i, j] else 0", "if j <= i then dY[i, j] else 0"),
        ("if j <= i then 0 else X[i, j]", "if not j <= i then dY[i, j] else 0"),
        ('if mode == "plain" then W[j] else X[i, j]', 'if mode != "plain" then dY[i, j] else 0'),
        ("if X[i, j] > 0 then X[i, j] else 0", "if X[i, j] > 0 then dY[i, j] else 0"),
        ("max(W[j], 0) * X[i, j]", "dY[i, j] * max(W[j], 0)"),
        ("max[k < N](W[k]) + X[i, j]", "dY[i, j]"),
    ],
)
def test_a_rule_for_each_operation(formula: str, expected: str) -> None:
    assert of_element(formula) == expected


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("sum[j < N](X[i, j] * W[j])", "dR[i] * W[j]"),
        ("sum[k < N, k <= i](X[i, k] * W[k])", "if j <= i then dR[i] * W[j] else 0"),
        ("sum[k < N](X[k // 2, k])", "if j // 2 == i then sum[i1 < M](dR[i1]) else 0"),
        ("sum[k < M](X[k, 0])", "if j == 0 then sum[i1 < M](dR[i1]) else 0"),
        ("sum[k < M, k < N](X[i, k])", "if j < M and j < N then dR[i] else 0"),
        ("X[i, i]", "if i == j then dR[i] else 0"),
        ("sum[k < i + 1](X[i, k])", "if j < i + 1 then dR[i] else 0"),
        ("sum[k < N - 1](X[i, k + 1] * W[k])", "if j - 1 < N - 1 and 0 <= j - 1 then dR[i] * W[j - 1] else 0"),
        ("sum[k < N](X[i, N - 1 - k] * W[k])", "if N - 1 - j < N and 0 <= N - 1 - j then dR[i] * W[N - 1 - j] else 0"),
        (
            "sum[k < N, k != i](X[i, k] * W[k]) + X[i, 0]",
            "(if j != i then dR[i] * W[j] else 0) + (if j == 0 then dR[i] else 0)",
        ),
    ],
)
def test_sums(formula: str, expected: str) -> None:
    lines = derived(f"R[i] = {formula}\ndX[i, j] = grad(R, X, dR)", R=("M",), dX=("M", "N"))
    assert lines == [f"dX[i, j] = {expected}"]


def test_a_shared_input_is_summed_over_what_shares_it() -> None:
    """Grouped heads, a broadcast weight, a row statistic."""
    grouped = derived("Y[i, j] = X[i, j] * U[i // 2]\ndU[g] = grad(Y, U, dY)", Y=("M", "N"), dU=("M",))
    assert grouped == ["dU[g] = sum[i < M, i // 2 == g](sum[j < N](dY[i, j] * X[i, j]))"]
    weight = derived("Y[i, j] = X[i, j] * W[j]\ndW[k] = grad(Y, W, dY)", Y=("M", "N"), dW=("N",))
    assert weight == ["dW[k] = sum[i < M](dY[i, k] * X[i, k])"]


def test_definitions_on_the_way_get_adjoints_of_their_own() -> None:
    define = """
    S[i, j] = c * X[i, j]
    Z[i] = sum[k < N](exp(S[i, k]))
    Y[i, j] = exp(S[i, j]) / Z[i]
    dX[i, j] = grad(Y, X, dY)"""
    assert derived(define, Y=("M", "N"), dX=("M", "N")) == [
        "dZ[i] = -sum[j < N](dY[i, j] * Y[i, j] / Z[i])",
        "dS[i, j] = dY[i, j] / Z[i] * exp(S[i, j]) + dZ[i] * exp(S[i, j])",
        "dX[i, j] = dS[i, j] * c",
    ]


def test_a_definition_used_over_two_ranges_is_differentiated_at_each_use() -> None:
    define = """
    S[i, j] = X[i, j] * W[j]
    R[i] = S[i, 0] + sum[k < N](S[i, k])
    dX[i, j] = grad(R, X, dR)"""
    assert derived(define, R=("M",), dX=("M", "N")) == [
        "dX[i, j] = (if j == 0 then dR[i] * W[0] else 0) + dR[i] * W[j]"
    ]


def test_ranges_that_depend_on_another_index() -> None:
    """A triangle: the range of S's second index is i + 1, at every use."""
    define = """
    S[i, j] = exp(c * X[i, j])
    Z[i] = sum[k < i + 1](S[i, k])
    R[i] = sum[k < i + 1](S[i, k] * W[k]) / Z[i]
    dX[i, j] = grad(R, X, dR)"""
    s = spec(define, {"R": ("M",), "dX": ("M", "N")})
    assert s.derived == ("dZ", "dS", "dX")
    assert print_expr(s.definitions[-1].value) == "if j < i + 1 then dS[i, j] * S[i, j] * c else 0"
    by_differences(bind(s), {"M": 3, "N": 4}, "R", "X", "dR", "dX", 1)


def test_adjoints_take_no_name_that_is_used() -> None:
    define = """
    S[i] = sum[k < N](X[i, k])
    dS[i] = 1.0
    Y[i, j] = S[i] * W[j]
    R[i] = S[i] * dS[i]
    dX[i, j] = grad(Y, X, dY) + grad(R, X, dR)
    dW[j] = grad(Y, W, dY)"""
    lines = derived(define, Y=("M", "N"), R=("M",), dX=("M", "N"), dW=("N",))
    assert lines == [
        "dS_Y[i] = sum[j < N](dY[i, j] * W[j])",
        "dS_R[i] = dR[i] * dS[i]",
        "dX[i, j] = dS_Y[i] + dS_R[i]",
        "dW[j] = sum[i < M](dY[i, j] * S[i])",
    ]


def test_an_index_by_cases() -> None:
    define = """
    at[i] = if mode == "plain" then i else 0
    Y[i, j] = X[i, j] * U[at[i]]
    dU[i] = grad(Y, U, dY)"""
    assert derived(define, Y=("M", "N"), dU=("M",)) == [
        'dU[i] = (if mode == "plain" then sum[j < N](dY[i, j] * X[i, j]) else 0)'
        ' + (if i == 0 and mode != "plain" then sum[i1 < M](sum[j < N](dY[i1, j] * X[i1, j])) else 0)'
    ]


@pytest.mark.parametrize(
    ("formula", "mode", "expected"),
    [
        ('if mode == "plain" then X[i, j] else 0', "plain", "X[i, j]"),
        ('if mode == "plain" then X[i, j] else 0', "other", "0"),
        ('if "other" != mode then X[i, j] else 0', "other", "0"),
        ('(if i < 3 and mode != "plain" then W[j] else 0) + X[i, j]', "plain", "X[i, j]"),
        ('(if i < 3 and mode != "plain" then W[j] else 0) + X[i, j]', "other", "(if i < 3 then W[j] else 0) + X[i, j]"),
        ('(if i < 3 or mode != "plain" then 1 else 2) * 0', "other", "1 * 0"),
        ('if not (mode == "plain") then 1 else 2', "other", "1"),
        ('sum[j < N, mode == "plain"](W[j])', "plain", "sum[j < N](W[j])"),
        ('sum[j < N, mode == "plain"](W[j])', "other", "sum[j < N, false](W[j])"),
    ],
)
def test_options_are_put_in(formula: str, mode: str, expected: str) -> None:
    """How the certificate shows derived formulas, and what an extent is once options are fixed."""
    assert print_expr(settled(parse_formula(formula), {"mode": mode})) == expected


def test_an_index_is_renamed_where_the_left_side_uses_it() -> None:
    define = "R[k] = sum[i < N](X[k, i] * sum[j < N](W[j]))\ndX[i, j] = sum[k < 2](k * grad(R, X, dR))"
    assert derived(define, R=("M",), dX=("M", "N")) == ["dX[i, j] = sum[k < 2](k * (dR[i] * sum[j1 < N](W[j1])))"]


def test_gradients_of_gradients() -> None:
    define = "R[i] = sum[k < N](exp(c * X[i, k]))\nT[i, j] = grad(R, X, dR)\ndX[i, j] = grad(T, X, dY)"
    s = spec(define, {"R": ("M",), "dX": ("M", "N")})
    assert s.derived == ("T", "dX")
    assert print_expr(s.definitions[-1].value) == "dY[i, j] * c * dR[i] * exp(c * X[i, j]) * c"


@pytest.mark.parametrize("function", DERIVATIVES)
def test_derivatives_of_functions_are_sympys(function: str) -> None:
    x = sympy.Symbol("x", positive=True)
    y = 1 / (1 + sympy.exp(-x)) if function == "sigmoid" else getattr(sympy, function)(x)
    ours = sympy.sympify(DERIVATIVES[function], {"x": x}).subs("y", y)
    assert sympy.simplify(ours - sympy.diff(y, x)) == 0


# ---- refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("max[k < N](X[i, k])", "`max` has no derivative everywhere"),
        ("max(X[i, 0], 0)", "`max` has no derivative everywhere"),
        ("min(X[i, 0], U[i])", "`min` has no derivative everywhere"),
        ("abs(X[i, 0])", "`abs` has no derivative everywhere"),
        ("sum[k < N](W[k])", "`R` does not depend on `X`"),
        ("if X[i, 0] > 0 then 1 else 0", "`R` does not depend on `X`"),
    ],
)
def test_what_has_no_derivative(formula: str, said: str) -> None:
    with pytest.raises(SpecProblem) as caught:
        derived(f"R[i] = {formula}\ndX[i, j] = grad(R, X, dR)", R=("M",), dX=("M", "N"))
    assert caught.value.code == "S014" and said in str(caught.value)


@pytest.mark.parametrize(
    ("call", "code", "said"),
    [
        ("grad(Q, X, dY)", "S006", "`Q` is not a definition of reals"),
        ("grad(sees, X, dY)", "S006", "`sees` is not a definition of reals"),
        ("grad(X, X, dY)", "S006", "`X` is not a definition of reals"),
        ("grad(Y, Y, dY)", "S006", "`Y` is not an input"),
        ("grad(Y, c, dY)", "S006", "`c` is not an input"),
        ("grad(Y, X, dZ)", "S006", "`dZ` is neither an input nor a definition"),
        ("grad(Y, X, dR)", "S007", "`dR` takes 1 index(es), `Y` 2"),
        ("grad(Y, X, V)", "S007", "`V` does not have the shape of `Y`"),
        ("grad(Y, W, dY)", "S007", "`W` has 1 dimension(s), `dX` 2 index(es)"),
        ("grad(Y, V, dY)", "S007", "`dX` does not have the shape of `V`"),
        ("grad(Y, X)", "S007", "`grad` takes three names"),
        ("grad(Y, X[i, j], dY)", "S007", "`grad` takes three names"),
        ("grad(T, X, one)", "S014", "the range of the indices of `T` is not known"),
        ("grad(dX, X, dY)", "S009", "`dX` is defined by itself"),
        ("X[grad(Y, X, dY), j]", "S008", "an integer is needed"),
    ],
)
def test_a_wrong_grad(call: str, code: str, said: str) -> None:
    define = f"""
    sees[i, j] = j <= i
    T[i, j] = X[i, j] * W[j]
    one[i, j] = 1
    Y[i, j] = X[i, j] * W[j] + V[j, i]
    dX[i, j] = {call}"""
    with pytest.raises(SpecProblem) as caught:
        spec(define, {"Y": ("M", "N"), "dX": ("M", "N")}, V=("N", "M"))
    assert caught.value.code == code and said in str(caught.value)
    assert caught.value.span.line > 0


def test_a_gradient_that_grows_without_bound_is_refused() -> None:
    chain = "\n".join(f"A{k}[i] = A{k - 1}[i // 2] * A{k - 1}[i]" for k in range(1, 20))
    define = f"A0[i] = X[i, 0]\n{chain}\nR[i] = A19[i]\ndX[i, j] = grad(R, X, dR)"
    with pytest.raises(SpecProblem, match="too large a formula"):
        derived(define, R=("M",), dX=("M", "N"))


# ---- numbers ---------------------------------------------------------------------------------


def by_differences(bound: Bound, sizes: dict[str, int], y: str, x: str, dy: str, dx: str, seed: int) -> None:
    """<dX, v> against the change of <Y, dY> from X - t v to X + t v, for a random direction v."""
    rng = np.random.default_rng(seed)
    parameters = parameters_default(bound, sizes)
    inputs = generate("normal", seed, bound, sizes, parameters)
    v = rng.standard_normal(inputs[x].shape)
    t = 1e-5
    ends = [evaluate(bound, sizes, parameters, inputs | {x: inputs[x] + s * v})[y] for s in (t, -t)]
    slope = float(np.sum((ends[0] - ends[1]) * inputs[dy])) / (2 * t)
    ours = float(np.sum(evaluate(bound, sizes, parameters, inputs)[dx] * v))
    assert ours == pytest.approx(slope, rel=1e-5, abs=1e-6)


@st.composite
def formulas(draw: st.DrawFn, depth: int = 4, bound: str = "ij") -> str:
    """A formula over the indices i < M, j < N and those of sums; differentiable, and away from its poles."""
    here = st.sampled_from([*bound])
    if depth == 0:
        i, j = draw(here), draw(here)
        reads = [f"X[{i} % M, {j} % N]", f"X[{i} // 2 % M, {j} % N]", "X[i, j]", "W[j]", "c", f"S[i, {j} % N]"]
        return draw(st.sampled_from(reads))
    a, b = draw(formulas(depth - 1, bound)), draw(formulas(depth - 1, bound))
    k = "klmn"[len(bound) - 2]
    inner = draw(formulas(depth - 1, bound + k)) if depth > 1 else a
    condition = draw(st.sampled_from(["{k} <= i", "{k} != j", "({k} + i) % 2 == 0", "{k} < M and i < j"]))
    return draw(
        st.sampled_from(
            [
                f"({a} + {b})",
                f"({a} - {b})",
                f"({a} * {b})",
                f"({a} / (1 + {b} * {b}))",
                f"exp(tanh({a}))",
                f"sigmoid({a})",
                f"log(1 + {a} * {a})",
                f"sqrt(1 + {a} * {a})",
                f"(if {condition.format(k='j')} then {a} else {b})",
                f"sum[{k} < {draw(st.sampled_from(['N', 'M', 'i + 1']))}, {condition.format(k=k)}]({inner})",
            ]
        )
    )


@pytest.mark.parametrize(
    "define",
    [
        "R[i] = sum[k < N](S[i, k]) * sum[k < M](S[i, k % N])",
        "R[i] = sum[k < 2](S[i, k]) * sum[k < 3](S[i, k])",
        "T[k] = exp(X[0, k])\nR[i] = sum[k < min(i + 1, N)](T[k])",
        "T[a, b] = X[a, b] * U[b % M]\nR[i] = T[i, i] * U[i]",
        "R[i] = sum[k < N, k > 0](X[i, k - 1] * W[k])",
        "R[i] = sum[k < N](X[i, -k + N - 1] * W[k])",
        "T[a, b] = X[0, 0] * a * exp(0.1 * b)\nR[i] = sum[k < i + 1](T[k, i] * X[i, k % N])",
        "T[k] = X[k, 0] * X[0, 0]\nR[i] = if i < 2 then T[i + 1] else T[0] * T[0]",
        "total = sum[i < M](X[i, 0] * X[i, 1])\nR[i] = total * total + exp(X[i, 0]) / total",
    ],
)
def test_uses_of_every_kind_against_finite_differences(define: str) -> None:
    """Ranges that differ, depend on other indices, or come in another order; one variable twice; offsets."""
    s = spec(f"S[i, j] = tanh(X[i, j])\n{define}\ndX[i, j] = grad(R, X, dR)", {"R": ("M",), "dX": ("M", "N")})
    by_differences(bind(s), {"M": 4, "N": 4}, "R", "X", "dR", "dX", 7)
    by_differences(bind(s), {"M": 3, "N": 5}, "R", "X", "dR", "dX", 8)


def test_rows_chosen_by_an_integer_tensor() -> None:
    """An embedding: each row of the table collects the places it was put."""
    token = 'token = { shape = ["M"], dtype = "i32", min = 0, max = "N - 1" }'
    define = "R[i] = W[token[i]] * W[token[i]]\ndW[j] = grad(R, W, dR)"
    text = spec("dW[j] = W[j]", {"dW": ("N",)}).source
    text = text.replace("dW[j] = W[j]", define).replace("[inputs]", f"[inputs]\n{token}")
    s = parse_spec(text)
    assert print_expr(s.definitions[-1].value) == "sum[i < M, token[i] == j](dR[i] * 2 * W[token[i]])"
    inputs = generate("normal", 1, bind(s), {"M": 5, "N": 3}, {"c": 0.7})
    expected = np.zeros(3)
    np.add.at(expected, inputs["token"], 2 * inputs["dR"] * inputs["W"][inputs["token"]])
    np.testing.assert_allclose(evaluate(bind(s), {"M": 5, "N": 3}, {"c": 0.7}, inputs)["dW"], expected)
    with pytest.raises(SpecProblem, match="`token` holds integers"):
        parse_spec(text.replace("grad(R, W, dR)", "grad(R, token, dR)"))


@settings(max_examples=60, deadline=None)
@given(formula=formulas(), shared=formulas(depth=2), m=st.integers(1, 4), n=st.integers(1, 4), seed=st.integers(0, 99))
def test_random_formulas_against_finite_differences(formula: str, shared: str, m: int, n: int, seed: int) -> None:
    shared = shared.replace("S[i", "X[i")
    define = f"S[i, j] = {shared}\nY[i, j] = {formula} + 0.1 * S[i, j]\ndX[i, j] = grad(Y, X, dY)"
    try:
        s = spec(define, {"Y": ("M", "N"), "dX": ("M", "N")})
    except SpecProblem as problem:
        assert "does not depend" in problem.message  # such as tanh of a weight
        return
    by_differences(bind(s), {"M": m, "N": n}, "Y", "X", "dY", "dX", seed)


@pytest.mark.parametrize("causal", ["none", "bottom_right", "top_left"])
@pytest.mark.parametrize("sizes", [(2, 4, 2, 5, 7), (1, 2, 1, 9, 4)], ids=["gqa", "empty rows"])
def test_the_shipped_backward_of_attention_against_autograd(causal: str, sizes: tuple[int, ...]) -> None:
    bound = bind(load_spec("attention_bwd"), {"causal": causal, "dtype": "fp32"})
    named = dict(zip("BHGMN", sizes, strict=True))
    parameters = parameters_default(bound, named)
    inputs = generate("normal", 5, bound, named, parameters)
    i, j = np.arange(named["M"])[:, None], np.arange(named["N"])[None, :]
    seen = np.broadcast_to(MASKS[causal][1](i, j, named["M"], named["N"]), (named["M"], named["N"]))
    weights = {"A": np.zeros(1), "T": np.zeros(1), "dLSE": np.zeros(inputs["LSE"].shape)}
    given, loss = by_torch("plain", seen, parameters["scale"], inputs | weights)
    loss.backward()
    for name, ours in evaluate(bound, named, parameters, inputs).items():
        expected = given[name[1:]].grad
        np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)


KERNEL = """meta BM = 16
kernel k(t < cdiv(M, BM)):
    i = t * BM + arange(BM)
    u = load(U[i], mask=i < M, other=0)
    d = load(dR[i], mask=i < M, other=0)
    store(dU[i], {value}, mask=i < M)
"""


@pytest.mark.parametrize(("value", "proved"), [("2.0 * c * u * d", True), ("c * u * d", False), ("2.0 * c * u", False)])
def test_a_kernel_is_proved_against_the_derived_formula(value: str, proved: bool) -> None:
    bound = bind(spec("R[i] = c * U[i] * U[i]\ndU[i] = grad(R, U, dR)", {"dU": ("M",)}))
    kernel = KERNEL.format(value=value)
    report = prove(check(parse(kernel), bound), bound, evidence=True)
    assert report.result("E1").verdict is (Verdict.PROVED if proved else Verdict.REFUTED)
    if proved:
        certificate = issue(report, kernel, bound)
        assert certificate.body["derived"] == "dU[i] = dR[i] * U[i] * c + dR[i] * c * U[i]\n"
        assert "dR" in certificate.body["formula"]["dU"]


SHIPPED = [path.stem for path in sorted(packaged_specs().glob("*.toml")) if load_spec(path).derived == ()]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_backward_of_every_shipped_spec_against_finite_differences(name: str) -> None:
    """Its first output with respect to each input of floats, at two settings of its options."""
    forward = load_spec(name)
    y, sizes = forward.outputs[0], {"B": 2, "H": 2, "G": 1, "M": 5, "N": 4, "W": 2}
    real = {t.name for t, dtype in bind(forward).inputs if dtype.is_float}
    floats = [t for t in forward.inputs if t.name in real]
    letters = ["c0", "c1", "c2", "c3"]

    def row(new: str, like: TensorSpec) -> str:
        shape = ", ".join(f"'{print_expr(e)}'" for e in like.shape)
        return f'{new} = {{ shape = [{shape}], dtype = "f32" }}\n'

    text = forward.source.replace("[inputs]", "[inputs]\n" + row("d_out", y) + "#", 1)
    text = text.replace("[outputs]", "[outputs]\n" + "".join(row(f"d_{t.name}", t) for t in floats) + "#", 1)
    head, tail = text.rsplit('"""', 1)
    left = ((t.name, ", ".join(letters[: len(t.shape)])) for t in floats)
    define = "".join(f"d_{x}[{index}] = grad({y.name}, {x}, d_out)\n" for x, index in left)
    backward = parse_spec(f'{head}{define}"""{tail}')
    for choice in (0, -1):
        bound = bind(backward, {o.name: o.choices[choice] for o in backward.options if o.name != "dtype"})
        at = {d.name: max(d.minimum, min(sizes.get(d.name, 3), d.maximum)) for d in bound.dims}
        for t in floats:
            by_differences(bound, at, y.name, t.name, "d_out", f"d_{t.name}", 3)


ATTENTION = """
S[b, h, i, j]  = {score}
sees[i, j]     = {sees}
Z[b, h, i]     = sum[j < N, sees[i, j]](exp(S[b, h, i, j])){sink}
O[b, h, i, e]  = sum[j < N, sees[i, j]](exp(S[b, h, i, j]) * V[b, h // (H // G), j, e]) / Z[b, h, i]
LSE[b, h, i]   = log(Z[b, h, i])
dQ[b, h, i, e] = grad(O, Q, dO) + grad(LSE, Q, dLSE)
dK[b, g, j, e] = grad(O, K, dO) + grad(LSE, K, dLSE)
dV[b, g, j, e] = grad(O, V, dO)
dA[h, i, j]    = {bias}
dT[h]          = {dT}
"""
DOT = "scale * sum[e < D](Q[b, h, i, e] * K[b, h // (H // G), j, e])"


def attention(score: str, sees: str, sink: str, bias: str, dT: str) -> Bound:
    q, k, row = '["B", "H", "M", "D"]', '["B", "G", "N", "D"]', '["B", "H", "M"]'
    tensors = {"Q": q, "K": k, "V": k, "A": '["H", "M", "N"]', "T": '["H"]', "dO": q, "dLSE": row}
    stored = {"O": q, "LSE": row, "dQ": q, "dK": k, "dV": k, "dA": tensors["A"], "dT": '["H"]'}
    dims = "\n".join(f"{d} = {{ min = 0, max = 99 }}" for d in "BHGMN")
    tables = ["\n".join(f'{n} = {{ shape = {s}, dtype = "f32" }}' for n, s in t.items()) for t in (tensors, stored)]
    define = ATTENTION.format(score=score, sees=sees, sink=sink, bias=bias, dT=dT)
    return bind(
        parse_spec(f'''name = "test"
[dims]
{dims}
D = {{ choices = [3] }}
[parameters]
scale = {{ min = 1e-6, max = 1e3, default = "1 / sqrt(D)" }}
cap = {{ min = 1, max = 9, default = "2" }}
[inputs]
{tables[0]}
[outputs]
{tables[1]}
[formula]
require = ["H % G == 0"]
empty_row = "zero"
define = """{define}"""
[layout]
max_stride = 1024
''')
    )


def by_torch(
    variant: str, visible: np.ndarray, scale: float, x: Mapping[str, np.ndarray]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The same attention with softmax from PyTorch, in float64; the loss is <O, dO> + <LSE, dLSE>."""
    t = {name: torch.tensor(value, dtype=torch.float64, requires_grad=name[0] != "d") for name, value in x.items()}
    group = t["Q"].shape[1] // t["K"].shape[1]
    K, V = (t[name].repeat_interleave(group, dim=1) for name in ("K", "V"))
    S = scale * (t["Q"] @ K.transpose(2, 3))
    if variant == "softcap":
        S = 2 * torch.tanh(S / 2)
    if variant == "bias":
        S = S + t["A"]
    if variant == "alibi":
        S = S + t["T"][:, None, None] * torch.arange(S.shape[3], dtype=torch.float64)
    seen = torch.tensor(visible)
    some = seen.any(dim=1) | (variant == "sink")
    S = S.masked_fill(~seen, -torch.inf)
    if variant == "sink":
        S = torch.cat([S, t["T"][None, :, None, None].expand(*S.shape[:3], 1)], dim=3)
    S = torch.where(some[:, None], S, 0.0)  # rows that see nothing: kept out below
    P, LSE = torch.softmax(S, dim=3), torch.logsumexp(S, dim=3)
    P = P[..., :-1] if variant == "sink" else P
    out = torch.where(some[:, None], P @ V, 0.0)
    return t, (out * t["dO"]).sum() + (torch.where(some, LSE, 0.0) * t["dLSE"]).sum()


VARIANTS = {
    "plain": (DOT, "", "", ""),
    "softcap": (f"cap * tanh({DOT} / cap)", "", "", ""),
    "bias": (f"{DOT} + A[h, i, j]", "", "grad(O, A, dO) + grad(LSE, A, dLSE)", ""),
    "alibi": (f"{DOT} + T[h] * j", "", "", "grad(O, T, dO) + grad(LSE, T, dLSE)"),
    "sink": (DOT, " + exp(T[h])", "", "grad(O, T, dO) + grad(LSE, T, dLSE)"),
}
MASKS = {
    "none": ("true", lambda i, j, M, N: (i >= 0) & (j >= 0)),
    "bottom_right": ("j <= i + N - M", lambda i, j, M, N: j <= i + N - M),
    "top_left": ("j <= i", lambda i, j, M, N: j <= i),
    "window": ("j <= i and i < j + 2", lambda i, j, M, N: (j <= i) & (i < j + 2)),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", [(2, 4, 2, 5, 7), (1, 2, 1, 9, 4), (1, 3, 3, 4, 4)], ids=["gqa", "empty rows", "mha"])
def test_attention_against_autograd(variant: str, mask: str, sizes: tuple[int, ...]) -> None:
    score, sink, bias, dT = VARIANTS[variant]
    sees, visible = MASKS[mask]
    bound = attention(score, sees, sink, bias or "0.0", dT or "0.0")
    named = dict(zip("BHGMN", sizes, strict=True))
    parameters = {"scale": 0.6, "cap": 2.0}
    inputs = generate("normal", 5, bound, named, parameters)
    M, N = named["M"], named["N"]
    seen = np.broadcast_to(visible(np.arange(M)[:, None], np.arange(N)[None, :], M, N), (M, N))
    given, loss = by_torch(variant, seen, 0.6, inputs)
    loss.backward()
    ours = evaluate(bound, named, parameters, inputs)
    for name in "QKVAT":
        expected = given[name].grad
        if expected is not None:
            np.testing.assert_allclose(ours[f"d{name}"], expected.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)
