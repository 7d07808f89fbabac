"""The printer: one canonical layout, minimal parentheses, nothing lost."""

from __future__ import annotations

from fractions import Fraction

import pytest

from ir import ast
from ir.loader import load_spec
from ir.parser import parse, parse_definitions, parse_formula
from ir.printer import format_source, print_definitions, print_expr, print_module

UNTIDY = """\
#   A kernel.
meta BM=128
meta BN = 64  # keys


scratch P[B,M] : f32
kernel one( b<B, t < (cdiv(M,BM)) ):
  # how to run
  schedule num_warps=8
  x = (b + (t))*2   #twice


  # a loop
  for n in range( 0, 4, 1 ) carry x :
      x = f(x,  # first
            n)  # second
  store( P[b,t], x, mask = (b < t) and (t < 3) )
  # the end

kernel two(b < B):
  x = not (a < b)
"""

TIDY = """\
# A kernel.
meta BM = 128
meta BN = 64  # keys

scratch P[B, M]: f32

kernel one(b < B, t < cdiv(M, BM)):
    # how to run
    schedule num_warps = 8
    x = (b + t) * 2  # twice

    # a loop
    for n in range(4) carry x:
        x = f(x, n)  # first second
    store(P[b, t], x, mask=b < t and t < 3)
# the end

kernel two(b < B):
    x = not a < b
"""


def test_format_keeps_every_comment() -> None:
    assert format_source(UNTIDY) == TIDY


def test_format_changes_no_meaning_and_settles_at_once() -> None:
    assert parse(TIDY) == parse(UNTIDY)
    assert format_source(TIDY) == TIDY


def test_modules_print_with_the_comments_of_their_statements() -> None:
    text = "kernel f(b < B):\n    x = 1  # one\n    for n in range(x):  # many\n        y = n\n"
    assert print_module(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "a + b * c",
        "(a + b) * c",
        "a - (b - c)",
        "a - b - c",
        "a // (b // c)",
        "-(a + b)",
        "-a * -b",
        "--a",
        "not (a and b) or c",
        "a and (b or c)",
        "(a < b) == (c < d)",
        "not a < b",
        "(not a) == b",
        "(a + b)[:, None]",
        "(-a)[None, :]",
        "f(x, axis=1)[:, None][:, :, None]",
        "load(Q[b, h, i[:, None]], mask=i < M, other=-inf)",
        "full([BM, D], 0.0, V.dtype)",
    ],
)
def test_expressions_print_as_written(text: str) -> None:
    module = parse(f"kernel f(b < B):\n    x = {text}\n")
    statement = module.kernels[0].body[0]
    assert isinstance(statement, ast.Assign)
    assert print_expr(statement.value) == text


@pytest.mark.parametrize(
    "text",
    [
        'if causal == "none" then true else j <= i',
        "(if a < b then 1 else 2) + 3",
        "if if a < b then true else false then 1 else 2",
        "sum[j < N, j <= i, sees[i, j]](exp(S[i, j])) / max[j < N + 1](S[i, j])",
        "sum[j < N](sum[k < M](j * k))",
        "max(a, min(b, c))",
    ],
)
def test_formulas_print_as_written(text: str) -> None:
    assert print_expr(parse_formula(text)) == text


def test_definitions_of_the_attention_spec() -> None:
    definitions = load_spec("attention").definitions
    assert parse_definitions(print_definitions(definitions)) == definitions


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(2), "2.0"),
        (Fraction(0), "0.0"),
        (Fraction(1, 10), "0.1"),
        (Fraction(314159, 100000), "3.14159"),
        (Fraction(1, 10**6), "1e-6"),
        (Fraction(5, 1000), "0.005"),
        (Fraction(1500), "1500.0"),
        (Fraction(10**30), "1e30"),
        (Fraction(25, 10**12), "25e-12"),
    ],
)
def test_floats_print_exactly(value: Fraction, text: str) -> None:
    assert print_expr(ast.Number(value, is_float=True)) == text
    assert parse_formula(text) == ast.Number(value, is_float=True)


@pytest.mark.parametrize(("value", "is_float"), [(Fraction(1, 3), True), (Fraction(-1), True), (Fraction(1, 2), False)])
def test_numbers_without_a_literal_are_refused(value: Fraction, is_float: bool) -> None:
    with pytest.raises(ValueError, match=r"literal|decimal"):
        print_expr(ast.Number(value, is_float))
