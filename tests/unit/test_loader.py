"""Spec files: what a good one gives, and what a bad one is told, with the line it is about."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ir import ast
from ir.diagnostics import SpecProblem
from ir.evaluate import evaluate
from ir.inputs import generate
from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.parser import parse_formula
from ir.positions import positions, span_at
from ir.program import DType

ATTENTION = (packaged_specs() / "attention.toml").read_text()

SMALL = """\
name = "rowsum"
[dims]
M = { min = 1, max = 100 }
N = { min = 0, max = 100 }
[inputs]
X = { shape = ["M", "N"], dtype = "f32" }
[outputs]
Y = { shape = ["M"], dtype = "f32" }
[formula]
empty_row = "undefined"
define = "Y[i] = sum[j < N](X[i, j])"
[layout]
max_stride = 1024
"""


def problem(text: str) -> SpecProblem:
    with pytest.raises(SpecProblem) as caught:
        parse_spec(text, "test.toml")
    return caught.value


def changed(old: str, new: str) -> SpecProblem:
    """What is said about attention.toml with one piece replaced."""
    assert ATTENTION.count(old) >= 1, f"{old!r} is not in the spec"
    return problem(ATTENTION.replace(old, new, 1))


# ---- good specs


def test_attention() -> None:
    spec = load_spec("attention")
    assert spec.name == "attention" and spec.source == ATTENTION
    assert [d.name for d in spec.dims] == ["B", "H", "G", "M", "N", "D"]
    assert spec.dims[-1].choices == (64, 128, 256) and spec.dims[-1].default == 64
    assert (spec.dims[4].minimum, spec.dims[4].maximum) == (0, 1048576)
    assert spec.options[0].choices == ("none", "bottom_right", "top_left")
    assert spec.parameters[0].default == parse_formula("1 / sqrt(D)")
    assert spec.inputs[1].shape == (ast.Name("B"), ast.Name("G"), ast.Name("N"), ast.Name("D"))
    assert spec.inputs[1].abs_max == 1e4 and spec.outputs[1].abs_max is None
    assert spec.requires == (parse_formula("H % G == 0"),)
    assert [d.name for d in spec.definitions] == ["S", "sees", "Z", "O", "LSE"]
    assert spec.empty_row == "zero" and spec.max_stride == 2**40 and spec.target == "sm_90"
    assert [s.name for s in spec.search_shapes + spec.heldout_shapes] == ["1k", "4k-gqa", "2k", "ragged"]
    assert dict(spec.heldout_shapes[1].sizes) == {"B": 1, "H": 8, "G": 2, "M": 1000, "N": 1531}


def test_a_spec_of_ones_own_needs_few_sections(tmp_path: Path) -> None:
    file = tmp_path / "rowsum.toml"
    file.write_text(SMALL)
    spec = load_spec(file)
    assert spec.path == str(file)
    assert (spec.options, spec.parameters, spec.search_shapes) == ((), (), ())
    assert bind(spec).settings == ()


def test_formulas_know_their_line_in_the_file() -> None:
    line = ATTENTION.split("\n").index('LSE[b, h, i]   = log(Z[b, h, i])') + 1
    last = load_spec("attention").definitions[-1]
    assert (last.span.line, last.span.column) == (line, 1)
    assert (last.value.span.line, last.value.span.column) == (line, 18)


def test_positions_of_keys_values_and_array_elements() -> None:
    text = 'a = 1\n[t."x y"]\nk = { u = ["p", "q"], v = """\nw""" }\n[[l]]\nz = 1\n[[l]]\nz = 2 # c\n'
    places = positions(text)
    assert span_at(text, places["t", "x y", "k", "u", 1].content, places["t", "x y", "k", "u", 1].end).column == 18
    assert span_at(text, places["t", "x y", "k", "v"].content, len(text)).line == 4
    assert text[places["l", 1, "z"].value : places["l", 1, "z"].end] == "2"


# ---- settings


def test_an_option_may_choose_an_extent() -> None:
    bias, _ = bind(load_spec("bias"), {"heads": "one"}).inputs[3]
    assert bias.shape == (ast.Name("B"), ast.Number(Fraction(1)), ast.Name("M"), ast.Name("N"))


def test_settings_and_defaults() -> None:
    bound = bind(load_spec("attention"), {"causal": "top_left", "dtype": "fp16", "D": "128"})
    assert dict(bound.settings) == {"causal": "top_left", "dtype": "fp16", "D": 128}
    assert [d.name for d in bound.dims] == ["B", "H", "G", "M", "N"]
    assert [dtype for _, dtype in bound.outputs] == [DType.F16, DType.F32]
    assert dict(bind(load_spec("attention")).settings) == {"causal": "none", "dtype": "bf16", "D": 64}


@pytest.mark.parametrize(("said", "meant"), [("true", "bottom_right"), ("false", "none"), ("True", "bottom_right")])
def test_true_and_false_choose_among_none_and_the_rest(said: str, meant: str) -> None:
    assert bind(load_spec("attention"), {"causal": said}).setting("causal") == meant


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("causal", "bottom-right", "did you mean `bottom_right`?"),
        ("causal", "yes", "choices: none, bottom_right or top_left"),
        ("dtype", "true", "choices: bf16, fp16 or fp32"),
        ("D", "96", "choices: 64, 128 or 256"),
        ("N", "128", "`N` stays symbolic"),
        ("casual", "none", "did you mean `causal`?"),
    ],
)
def test_wrong_settings(name: str, value: str, said: str) -> None:
    with pytest.raises(SpecProblem) as caught:
        bind(load_spec("attention"), {name: value})
    assert caught.value.code == "S011" and said in str(caught.value)


# ---- bad specs


@pytest.mark.parametrize(
    ("old", "new", "code", "place", "said"),
    [
        ("[dims]", "[dims", "S001", (7, None), "not a TOML file"),
        ("min = 0", "mim = 0", "S002", (12, 7), "did you mean `min`?"),
        ("[layout]", "[layouts]", "S002", (42, 2), "did you mean `layout`?"),
        ("N = 1024 }", "N = 1024, D = 4 }", "S002", (50, None), "known keys: B, H, G, M, N"),
        ('name = "attention"', "", "S003", (0, 0), "the spec needs `name`"),
        (", N = 1024 }", " }", "S003", (50, 1), "needs `N`"),
        ('empty_row = "zero"', "", "S003", (31, None), "needs `empty_row`"),
        ('"zero"', '"one"', "S004", (33, 1), "one of zero or undefined"),
        ("N = 1024 }", "N = 1.5 }", "S004", (50, 44), "is an integer"),
        ("max_stride = 1099511627776", 'max_stride = "1"', "S004", (43, 1), "is an integer"),
        ('"none", "bottom_right", "top_left"', "", "S004", (16, 12), "not empty"),
        ('"top_left"]', '"a\\"\\"\\"\\nimport os"]', "S004", (16, 12), "a choice is made of letters"),
        ("scale = {", "D = {", "S005", (20, 1), "`D` is already a size"),
        ("scale = {", "dot = {", "S005", (20, 1), "a word of the language"),
        ("scale = {", "carry = {", "S005", (20, 1), "a word of the language"),
        ("LSE[b, h, i]   =", "O[b, h, i, e] =", "S005", (39, 1), "the first is at line 38"),
        ("LSE[b, h, i]   =", "LSE[b, h, N]   =", "S005", (39, 1), "`N` is a size"),
        ("LSE[b, h, i]   =", "LSE[b, b, i]   =", "S005", (39, 1), "`b` is an index already"),
        ("Z[b, h, i]     =", "Q[b, h, i]     =", "S005", (37, 1), "`Q` is a tensor"),
        ("sum[e < D]", "sum[i < D]", "S005", (35, 26), "`i` is taken"),
        ('"M", "D"], dtype = "dtype", abs', '"MM", "D"], dtype = "dtype", abs', "S006", (23, 27), "did you mean `M`?"),
        ('dtype = "dtype", abs', 'dtype = "dtyp", abs', "S006", (23, 37), "did you mean `dtype`?"),
        ('dtype = "dtype", abs', 'dtype = "causal", abs', "S006", (23, 37), "`none` is not a dtype"),
        ("sqrt(D)", "sqr(D)", "S006", (20, 49), "did you mean `sqrt`?"),
        ("exp(S[b, h, i, j]))", "exp(T[b, h, i, j]))", "S006", (37, 45), "neither a tensor nor a definition"),
        ("scale * sum", "scal * sum", "S006", (35, 18), "did you mean `scale`?"),
        ('"bottom_right" then', '"bottom_left" then', "S006", (36, 31), 'no choice "bottom_left"'),
        ('causal == "top', 'casual == "top', "S006", (36, 84), "did you mean `causal`?"),
        ("log(Z[b, h, i])", "sum(Z[b, h, i])", "S006", (39, 18), "write `sum[j < N](body)`"),
        ("log(Z[b, h, i])", "LSE(Z[b, h, i])", "S006", (39, 18), "square brackets"),
        ("Q[b, h, i, e] * K", "Q[b, h, i] * K", "S007", (35, 37), "`Q` takes 4 index(es), not 3"),
        ("sees[i, j]](exp(S[b, h, i, j]))", "sees[i]](exp(S[b, h, i, j]))", "S007", (37, 29), "`sees` takes 2"),
        ("LSE[b, h, i]   =", "LSE[b, h]   =", "S007", (39, 1), "`LSE` has 3 dimension(s)"),
        ("log(Z[b, h, i])", "log(Z)", "S007", (39, 22), "`Z` needs 3 index(es)"),
        ("log(Z[b, h, i])", "max(Z[b, h, i])", "S007", (39, 18), "write `max[j < N](body)`"),
        ("h // (H // G), j, e])\nsees", "h / G, j, e])\nsees", "S008", (35, 58), "an integer is needed"),
        ("H % G == 0", "H % G", "S008", (32, 13), "a truth value is needed"),
        ('["B", "H", "M"]', '["B", "H", "M / 2"]', "S008", (29, 29), "an integer is needed"),
        ("log(Z[b, h, i])", "i < 3", "S008", (39, 18), "tensors hold reals"),
        ("log(Z[b, h, i])", "sees[i, i] + 1", "S008", (39, 18), "a real is needed"),
        ("log(Z[b, h, i])", "causal", "S008", (39, 18), "compare it"),
        ("log(Z[b, h, i])", "log(LSE[b, h, i])", "S009", (39, 1), "LSE -> LSE"),
        ("exp(S[b, h, i, j]))", "exp(LSE[b, h, i]))", "S009", (37, 1), "Z -> LSE -> Z"),
        ("LSE[b, h, i]   =", "LSF[b, h, i]   =", "S010", (34, 1), "did you mean `LSF`?"),
        ("max = 65536", "max = 0", "S013", (8, 16), "leave no value"),
        ("min = 0, max = 1048576", "min = -1, max = 1048576", "S013", (12, 7), "outside 0"),
        ("default = 64", "default = 96", "S013", (13, 33), "not one of its choices"),
        ("B = 4,", "B = 0,", "S013", (50, 11), "outside 1 to 65536"),
        ("G == 0", "G = 0", "K003", (32, 19), "equality is written `==`"),
        ("log(Z[b, h, i])", "argmax[j < N](S[b, h, i, j])", "K003", (39, 31), "found by value"),
        ("log(Z[b, h, i])", "prod[j < N](S[b, h, i, j])", "K003", (39, 29), "reductions are `sum[j < N](x)`"),
        ('dtype = "f32" }', 'dtype = "i32" }', "S006", (29, 34), "an output holds floats"),
        ("log(Z[b, h, i])", "log(Z[b, h, i]", "K003", (39, 32), "expected `,` or `)`"),
    ],
)
def test_bad_specs(old: str, new: str, code: str, place: tuple[int, int | None], said: str) -> None:
    error = changed(old, new)
    assert error.code == code, error.render()
    assert said in str(error)
    assert error.span.line == place[0]
    assert place[1] is None or error.span.column == place[1]


def test_an_error_reads_well() -> None:
    assert changed("log(Z[b, h, i])", "log(Zz[b, h, i])").render() == (
        "error[S006]: `Zz` is neither a tensor nor a definition\n"
        "  --> test.toml:39:22\n"
        "   |\n"
        "39 | LSE[b, h, i]   = log(Zz[b, h, i])\n"
        "   |                      ^^^^^^^^^^^\n"
        "  = hint: did you mean `Z`?"
    )


@pytest.mark.parametrize(("name", "said"), [("attentoin", "did you mean `attention`?"), ("nope.toml", "packaged spec")])
def test_missing_specs(name: str, said: str) -> None:
    with pytest.raises(SpecProblem, match=said):
        load_spec(name)


def test_hostile_specs_are_errors() -> None:
    assert problem("#" * 70_000).code == "S001"
    assert problem("a = " + "[" * 5_000).code == "S001"
    long = "".join(f"d{i}[i] = d{i + 1}[i]\n" for i in range(500)) + "d500[i] = Y[i]\n"
    text = SMALL.replace('"Y[i] = sum[j < N](X[i, j])"', f'"""\nY[i] = d0[i]\n{long}"""')
    assert problem(text).code == "S009"
    assert parse_spec(text.replace("= Y[i]", "= X[i, i]")).definitions[0].name == "Y"


# ---- saved inputs


SAVED = SMALL.replace(
    '[outputs]', 'Z = { shape = ["M"], dtype = "f32", saved = true }\n[outputs]'
).replace(
    '"Y[i] = sum[j < N](X[i, j])"', '"""\nZ[i] = sum[j < N](exp(X[i, j]))\nY[i] = sum[j < N](exp(X[i, j])) / Z[i]\n"""'
)  # fmt: skip


def test_a_saved_input_is_what_its_definition_says() -> None:
    bound = bind(parse_spec(SAVED))
    assert [(t.name, t.saved) for t, _ in bound.inputs] == [("X", False), ("Z", True)]
    sizes = {"M": 3, "N": 5}
    inputs = generate("normal", 0, bound, sizes, {})
    assert np.allclose(inputs["Z"], np.exp(inputs["X"]).sum(axis=1), rtol=1e-12)
    assert np.allclose(evaluate(bound, sizes, {}, {"X": inputs["X"]})["Y"], 1.0)


def test_a_saved_input_needs_a_definition_of_its_rank() -> None:
    assert problem(SAVED.replace("Z[i] = sum", "W[i] = sum").replace("/ Z[i]", "/ W[i]")).code == "S010"
    assert problem(SAVED.replace("Z[i] = sum[j < N](exp(X[i, j]))", "Z[i, k] = 1.0")).code == "S007"
    assert problem(SAVED.replace("saved = true", 'saved = "yes"')).code == "S004"
    output = 'Y = { shape = ["M"], dtype = "f32" }'
    assert problem(SMALL.replace(output, output.replace(" }", ", saved = true }"))).code == "S002"
