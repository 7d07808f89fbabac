"""parse(print(x)) == x for every AST, and no text whatever makes the front end fail in another way than
by a SourceError."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ir import ast
from ir.diagnostics import SourceError
from ir.loader import bind, load_spec, parse_spec
from ir.parser import keywords, parse, parse_definitions
from ir.printer import format_source, print_definitions, print_module
from ir.typing import check

SPEC = load_spec("attention")
BOUND = bind(SPEC)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# ---- strategies: any AST the parser can make

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,3}", fullmatch=True).filter(lambda n: n not in keywords())
integers = st.integers(0, 10**12).map(lambda n: ast.Number(Fraction(n)))
floats = st.builds(
    lambda digits, power: ast.Number(Fraction(digits) * Fraction(10) ** power, True),
    st.integers(0, 10**6),
    st.integers(-30, 30),
)
OPERATORS = ("+", "-", "*", "/", "//", "%", "<", "<=", ">", ">=", "==", "!=", "and", "or")


def tuples(items: st.SearchStrategy[ast.Expr], least: int = 1) -> st.SearchStrategy[tuple[ast.Expr, ...]]:
    return st.lists(items, min_size=least, max_size=3).map(tuple)


def operators(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    return st.one_of(
        st.builds(ast.Unary, st.sampled_from(("-", "not")), inner),
        st.builds(ast.Binary, st.sampled_from(OPERATORS), inner, inner),
        st.builds(ast.Element, names, tuples(inner)),
    )


def kernel_nodes(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    keyed = st.lists(st.tuples(names, inner), max_size=2, unique_by=lambda pair: pair[0]).map(tuple)
    return st.one_of(
        operators(inner),
        st.builds(ast.Call, names, tuples(inner, 0), keyed),
        st.builds(ast.Expand, inner, st.lists(st.booleans(), min_size=1, max_size=3).map(tuple)),
        st.builds(ast.Shape, tuples(inner)),
        st.builds(ast.DTypeOf, names),
    )


def formula_nodes(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    big = st.builds(ast.Big, st.sampled_from(("sum", "max")), names, inner, tuples(inner, 0), inner)
    call = st.builds(ast.Call, st.one_of(names, st.just("max")), tuples(inner, 0))
    return st.one_of(operators(inner), st.builds(ast.If, inner, inner, inner), big, call)


leaves = st.one_of(integers, floats, names.map(ast.Name))
expressions: st.SearchStrategy[ast.Expr] = st.recursive(leaves, kernel_nodes, max_leaves=8)
texts = st.from_regex(r"[a-z_ #=]{0,6}", fullmatch=True).map(ast.Text)
formulas: st.SearchStrategy[ast.Expr] = st.recursive(st.one_of(leaves, texts), formula_nodes, max_leaves=8)

remarks = st.sampled_from(("", "why", "a # b", "x = 1"))
cells = st.builds(ast.Element, names, tuples(expressions))
simple: st.SearchStrategy[ast.Statement] = st.one_of(
    st.builds(ast.Assign, names, expressions, remarks),
    st.builds(ast.Store, cells, expressions, st.none() | expressions, st.booleans(), remarks),
)


def loops(inner: st.SearchStrategy[ast.Statement]) -> st.SearchStrategy[ast.Statement]:
    carried = st.lists(names, max_size=2).map(tuple)
    body = st.lists(inner, min_size=1, max_size=2).map(tuple)
    return st.builds(ast.For, names, expressions, expressions, expressions, carried, body, remarks)


statements = st.recursive(simple, loops, max_leaves=4)
kernels = st.builds(
    ast.Kernel,
    names,
    st.lists(st.builds(ast.Axis, names, expressions), min_size=1, max_size=3).map(tuple),
    st.lists(st.tuples(names, expressions), max_size=2, unique_by=lambda pair: pair[0]).map(tuple),
    st.lists(statements, min_size=1, max_size=3).map(tuple),
)
modules = st.builds(
    ast.Module,
    st.lists(st.builds(ast.Meta, names, expressions), max_size=2).map(tuple),
    st.lists(st.builds(ast.Require, expressions), max_size=2).map(tuple),
    st.lists(st.builds(ast.Scratch, names, tuples(expressions), expressions), max_size=2).map(tuple),
    st.lists(kernels, min_size=1, max_size=2).map(tuple),
)
definitions = st.lists(st.builds(ast.Definition, names, st.lists(names, max_size=3).map(tuple), formulas), max_size=3)


# ---- properties


def remarks_of(body: tuple[ast.Statement, ...]) -> list[str]:
    found = []
    for statement in body:
        found.append(statement.comment)
        if isinstance(statement, ast.For):
            found += remarks_of(statement.body)
    return found


@QUICK
@given(modules)
def test_a_printed_module_parses_to_itself(module: ast.Module) -> None:
    text = print_module(module)
    again = parse(text)
    assert again == module
    assert [remarks_of(k.body) for k in again.kernels] == [remarks_of(k.body) for k in module.kernels]
    assert format_source(text) == text


@QUICK
@given(definitions)
def test_printed_definitions_parse_to_themselves(wanted: list[ast.Definition]) -> None:
    assert parse_definitions(print_definitions(wanted)) == tuple(wanted)


EXAMPLE = """\
meta BM = 64
kernel f(b < B, t < cdiv(M, BM)):
    i = t * BM + arange(BM)
    m = zeros([BM], f32)
    for n in range(0, N, 2) carry m:
        m = maximum(m, cast(load(Q[b, 0, i, 0], mask=i < M, other=0), f32) * scale)
    store(LSE[b, 0, i], where(m == -inf, 0, m), mask=i < M)
"""


def edited(text: str) -> st.SearchStrategy[str]:
    """The text with one piece cut out, doubled, or replaced by something that means something elsewhere."""
    marks = ("", "(", ")", "[", "]", ":", ",", "-", '"', "=", "#", "\n", "\t", "    ")
    pieces = st.sampled_from((*marks, "not ", "1e9", "0", "i", "b", "Q", "None"))
    places = st.tuples(st.integers(0, len(text)), st.integers(0, 12))
    return st.builds(lambda at, piece: text[: at[0]] + piece + text[at[0] + at[1] :], places, pieces)


@settings(QUICK, max_examples=300)
@given(edited(EXAMPLE))
def test_a_damaged_kernel_is_accepted_or_explained(text: str) -> None:
    try:
        check(parse(text), BOUND, text)
    except SourceError as error:
        assert error.render()


@settings(QUICK, max_examples=200)
@given(edited(SPEC.source))
def test_a_damaged_spec_is_accepted_or_explained(text: str) -> None:
    try:
        parse_spec(text)
    except SourceError as error:
        assert error.render()


@QUICK
@given(st.text(max_size=60))
def test_any_text_is_accepted_or_explained(text: str) -> None:
    for read in (parse, parse_definitions, parse_spec):
        try:
            read(text)
        except SourceError as error:
            assert error.render()
