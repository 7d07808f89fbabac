"""Limits that settings decide, and outputs that overflow to infinities: what a spec says, and what S1 makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from ir.diagnostics import SpecProblem
from ir.interpret import Mode, interpret
from ir.loader import bind, load_spec, parse_spec
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from lowering.plan import plan
from lowering.statement import stated, statement
from verifier import integers
from verifier.obligations import range
from verifier.proof import analyse

SPEC = """\
name = "squares"
[dims]
R = { min = 1, max = 65536 }
D = { choices = [64, 128] }
[options]
dtype = { choices = ["fp16", "fp32"], default = "fp16" }
[parameters]
scale = { min = 0.5, max = 'if dtype == "fp16" then 1 else 2 * sqrt(D)', default = "1" }
[inputs]
X = { shape = ["R", "D"], dtype = "dtype", abs_max = 'if dtype == "fp16" then 64000 / D else 1e6' }
[outputs]
Y = { shape = ["R", "D"], dtype = "dtype", overflow = "inf" }
[formula]
empty_row = "undefined"
define = "Y[i, e] = scale * X[i, e] * X[i, e]"
[layout]
max_stride = 1048576
"""
KERNEL = """\
kernel squares(i < R):
    e = arange(D)
    x = cast(load(X[i, e]), f32)
    store(Y[i, e], cast(scale * x * x, Y.dtype))
"""


def bound(text: str = SPEC, **settings: str) -> Bound:
    return bind(parse_spec(text), settings)


def in_range(kernel: str, within: Bound) -> bool:
    """What S1 finds, by itself."""
    integers.reset()
    return range.check(analyse(check(parse(kernel), within), within)).ok


# ---- limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "most", "scale"),
    [({}, 1000.0, 1.0), ({"D": "128"}, 500.0, 1.0), ({"dtype": "fp32"}, 1e6, 16.0)],
)
def test_settings_decide_a_limit(settings: dict[str, str], most: float, scale: float) -> None:
    found = bound(**settings)
    ((x, _),) = found.inputs
    (parameter,) = found.spec.parameters
    assert (x.abs_max, parameter.lower, parameter.upper) == (most, 0.5, scale)
    checked = plan(check(parse(KERNEL), found), found)
    assert checked["tensors"][0]["abs_max"] == most and checked["parameters"]["scale"]["max"] == scale


def test_without_settings_a_limit_is_the_widest() -> None:
    spec = parse_spec(SPEC)
    assert spec.inputs[0].abs_max == 1e6 and spec.parameters[0].upper == pytest.approx(2 * 128**0.5)
    assert bind(bound(dtype="fp32").spec, {}).inputs[0][0].abs_max == 1000.0  # and binding again decides again


def test_a_limit_is_read_back_from_a_certificate() -> None:
    found = bind(load_spec("attention_bwd"), {"dtype": "fp16", "D": 128})
    assert dict((t.name, t.abs_max) for t, _ in found.inputs)["dO"] == 4.0
    again = stated(statement(found), found.spec.source)
    assert again.inputs == found.inputs and again.outputs == found.outputs and again.spec.limits == found.spec.limits


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("64000 / D", "64 - D", "abs_max is 0.0, not a positive number, where dtype = fp16, D = 64"),
        ("then 1 else", "then 0.25 else", "the limits leave no value: 0.5 > 0.25, where dtype = fp16"),
        ("64000 / D", "64000 / R", "`R` is not defined"),
        ("64000 / D", "log(D)", "a limit is made of numbers, static dimensions, options, arithmetic and min"),
        ("64000 / D", "1 / (D - 64)", "division by zero, where dtype = fp16, D = 64"),
        ('"inf"', '"saturate"', '`overflow` cannot be "saturate"'),
    ],
)
def test_a_limit_that_is_none_is_an_error_at_its_place(old: str, new: str, said: str) -> None:
    with pytest.raises(SpecProblem, match=".") as caught:
        parse_spec(SPEC.replace(old, new))
    assert said in caught.value.message and caught.value.span.line in (8, 10, 12)


# ---- outputs that overflow ---------------------------------------------------------------------------


def test_the_rounding_of_an_output_may_be_an_infinity_where_the_spec_says_so() -> None:
    assert in_range(KERNEL, bound())
    assert not in_range(KERNEL, bound(SPEC.replace(', overflow = "inf"', "")))
    assert in_range(KERNEL, bound(SPEC.replace(', overflow = "inf"', "").replace("64000", "12800")))


@pytest.mark.parametrize(
    "stored",
    [
        "cast(cast(cast(scale * x * x, f16), f32), Y.dtype)",  # an infinity is computed with
        "cast(x * x, f16) * cast(scale, f16)",
        "where(e < 3, cast(scale * x * x, f16), cast(scale * x * x, f16))",  # not the cast that is stored
        "cast(scale * x * x * 1e35 / 1e35, Y.dtype)",  # leaves f32 on the way
    ],
)
def test_nothing_but_the_stored_value_itself_may(stored: str) -> None:
    kernel = KERNEL.replace("cast(scale * x * x, Y.dtype)", stored)
    assert not in_range(kernel, bound(SPEC.replace("64000", "640000")))


def test_an_output_that_is_loaded_may_not() -> None:
    later = "kernel again(i < R):\n    e = arange(D)\n    store(T[i, e], load(Y[i, e]))\n"
    scratch = "scratch T[R, D]: f16\n"
    assert not in_range(scratch + KERNEL + later, bound())


def test_the_interpreter_takes_that_infinity_for_no_fault() -> None:
    x = {"X": np.full((2, 64), 900.0)}
    for text, kinds in ((SPEC, set()), (SPEC.replace(', overflow = "inf"', ""), {"overflow"})):
        b = bound(text)
        found = interpret(check(parse(KERNEL), b), b, {"R": 2}, {"scale": 1.0}, x, Mode.MACHINE)
        assert np.isposinf(found.tensors["Y"]).all() and {f.kind for f in found.faults} == kinds


WEIGHTS = """\
name = "weights"
[dims]
R = { min = 1, max = 65536 }
C = { min = 1, max = 65536 }
[inputs]
X = { shape = ["R", "C"], dtype = "f32", abs_max = 1.2e7 }
LSE = { shape = ["R"], dtype = "f32", saved = true }
[outputs]
P = { shape = ["R", "C"], dtype = "f16" }
[formula]
empty_row = "undefined"
define = """

Z = "Z[i] = sum[j < C](exp(X[i, j]))\\nLSE[i] = log(Z[i])\\nP[i, j] = exp(X[i, j]) / Z[i]"


def test_weights_of_scores_that_are_rounded_twice_need_their_room_in_f16() -> None:
    text = f'{WEIGHTS}"{Z}"\n[layout]\nmax_stride = 1048576\n'
    kernel = "kernel weights(i < R, j < C):\n    k = j + arange(1)\n"
    kernel += "    store(P[i, k], cast(exp(load(X[i, k]) - load(LSE[i])), f16))\n"
    assert in_range(kernel, bound(text.replace("1.2e7", "1e4")))
    assert not in_range(kernel, bound(text))  # over the reals a weight is at most 1; as computed up to exp(12)
