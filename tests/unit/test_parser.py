"""The parser: what is accepted, what is said when it is not, and that no text can hang it."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from ir import ast
from ir.diagnostics import SyntaxProblem
from ir.parser import keywords, parse, parse_definitions, parse_formula

KERNEL = "kernel f(b < B):\n    "


def expression(text: str) -> ast.Expr:
    """The right-hand side of an assignment."""
    statement = parse(f"{KERNEL}x = {text}\n").kernels[0].body[0]
    assert isinstance(statement, ast.Assign)
    return statement.value


def problem(text: str) -> SyntaxProblem:
    with pytest.raises(SyntaxProblem) as caught:
        parse(text)
    return caught.value


def names(*ids: str) -> list[ast.Name]:
    return [ast.Name(i) for i in ids]


# ---- what is accepted


def test_file_is_metas_scratch_and_kernels() -> None:
    module = parse(
        "# header\nmeta BM = 128\n\nscratch P[B, cdiv(M, BM)]: f32   # partial\n\n"
        "kernel one(b < B, t < cdiv(M, BM)):\n    schedule num_warps = 4, warp_specialize = true\n    x = 1\n\n"
        "kernel two(b < B):\n    x = 2\n"
    )
    assert [m.name for m in module.metas] == ["BM"]
    assert module.scratch[0].name == "P" and module.scratch[0].dtype == ast.Name("f32")
    assert [k.name for k in module.kernels] == ["one", "two"]
    assert [a.name for a in module.kernels[0].grid] == ["b", "t"]
    assert module.kernels[0].schedule[1] == ("warp_specialize", ast.Name("true"))


def test_loop_bounds_and_carries() -> None:
    body = "for n in range(stop) carry m, l:\n        for k in range(1, n, 32):\n            x = k\n    y = 1\n"
    outer, after = parse(KERNEL + body).kernels[0].body
    assert isinstance(outer, ast.For) and isinstance(after, ast.Assign)
    assert (outer.start, outer.stop, outer.step) == (ast.Number(Fraction(0)), ast.Name("stop"), ast.Number(Fraction(1)))
    assert outer.carried == ("m", "l")
    (inner,) = outer.body
    assert isinstance(inner, ast.For) and inner.step == ast.Number(Fraction(32)) and inner.carried == ()


def test_store_and_atomic_add() -> None:
    plain, atomic = parse(KERNEL + "store(O[b, i], x, mask=i < M)\n    atomic_add(O[b, i], x)\n").kernels[0].body
    target = ast.Element("O", tuple(names("b", "i")))
    assert plain == ast.Store(target, ast.Name("x"), ast.Binary("<", ast.Name("i"), ast.Name("M")))
    assert atomic == ast.Store(target, ast.Name("x"), None, atomic=True)


def test_precedence_is_pythons() -> None:
    a, b, c = names("a", "b", "c")
    assert expression("a + b * c") == ast.Binary("+", a, ast.Binary("*", b, c))
    assert expression("a - b - c") == ast.Binary("-", ast.Binary("-", a, b), c)
    assert expression("-a * b") == ast.Binary("*", ast.Unary("-", a), b)
    assert expression("not a < b and c") == ast.Binary("and", ast.Unary("not", ast.Binary("<", a, b)), c)
    assert expression("a or b and c") == ast.Binary("or", a, ast.Binary("and", b, c))
    assert expression("a // b % c") == ast.Binary("%", ast.Binary("//", a, b), c)


def test_square_brackets_are_cells_new_axes_or_shapes() -> None:
    assert expression("x[:, None]") == ast.Expand(ast.Name("x"), (False, True))
    assert expression("load(Q[b, e])") == ast.Call("load", (ast.Element("Q", tuple(names("b", "e"))),))
    assert expression("zeros([BM], f32)") == ast.Call("zeros", (ast.Shape((ast.Name("BM"),)), ast.Name("f32")))
    assert expression("cast(p, V.dtype)") == ast.Call("cast", (ast.Name("p"), ast.DTypeOf("V")))


def test_numbers_are_exact() -> None:
    assert expression("0.1") == ast.Number(Fraction(1, 10), is_float=True)
    assert expression("1e-6") == ast.Number(Fraction(1, 10**6), is_float=True)
    assert expression("12") == ast.Number(Fraction(12))


def test_brackets_continue_lines_and_comments_go_with_their_statement() -> None:
    first, second = parse(KERNEL + "x = f(a,  # why a\n  b)   # the sum\n    # alone\n    y = 1\n").kernels[0].body
    assert first.comment == "the sum" and second.comment == ""
    assert (first.span.line, first.span.end_line) == (2, 3)


def test_spans_point_at_the_text() -> None:
    value = expression("alpha + beta")
    assert (value.span.line, value.span.column, value.span.end_column) == (2, 9, 21)


def test_windows_line_ends_and_a_missing_last_line_end_are_fine() -> None:
    assert parse("kernel f(b < B):\r\n    x = 1\r\n") == parse("kernel f(b < B):\n    x = 1")


def test_formulas() -> None:
    total, sees = parse_definitions(
        "Z[i] = sum[j < N, sees[i, j]](\n  exp(S[i, j]))\n# the mask\nsees[i, j] = if causal == \"none\" then true\n"
        "  else j <= i\n"
    )
    assert isinstance(total.value, ast.Big) and total.value.variable == "j" and len(total.value.conditions) == 1
    assert isinstance(sees.value, ast.If) and sees.parameters == ("i", "j")
    assert parse_formula("max(a, 1)") == ast.Call("max", (ast.Name("a"), ast.Number(Fraction(1))))


# ---- what is said when it is not


def test_error_shows_the_place_and_what_was_expected() -> None:
    error = problem("kernel f(b < B):\n    x = 1 +\n")
    assert str(error) == (
        "error[K003]: unexpected end of the line; expected an expression\n"
        "  --> <candidate>:2:12\n  |\n2 |     x = 1 +\n  |            ^"
    )
    assert error.to_json()["line"] == 2 and error.to_json()["code"] == "K003"


@pytest.mark.parametrize(
    ("statement", "place", "said"),
    [
        ("while b < 3:", (2, 5), "there is no `while`"),
        ("if b < 3:", (2, 5), "use `where(condition, x, y)`"),
        ("return x", (2, 5), "use `store("),
        ("x = tl.load(p)", (2, 16), "write `load`"),
        ("x = y.to(f32)", (2, 13), "write `cast(y, dtype)`"),
        ("x = y.T", (2, 9), "not part of the language"),
        ("x += 1", (2, 7), "write `x = x + 1`"),
        ("x = b & 1", (2, 11), "write `and`"),
        ("x = ~b", (2, 9), "write `not`"),
        ("x = b ** 2", (2, 12), "there is no power"),
        ("x = a < b < c", (2, 15), "comparisons do not chain"),
        ("x[0] = 1", (2, 6), "tiles are not written in place"),
        ("x = 'none'", (2, 9), "kernels have no strings"),
        ("x = a[i, None]", (2, 9), "an index mixed with"),
        ("x = f(a)[0]", (2, 9), "only tensors are indexed"),
        ("x = f(axis=1, a)", (2, 19), "a positional argument after a named one"),
        ("x = f(a=1, a=2)", (2, 16), "`a` is given twice"),
        ("store(x, 1)", (2, 11), "`store` needs a tensor cell first"),
        ("store(O[b], 1, m)", (2, 5), "write `store(T[...], value, mask=...)`"),
        ("for n in tl_range(3):\n        x = 1", (2, 14), "a loop runs over `range`"),
        ("for n in range():\n        x = 1", (2, 5), "`range` takes stop"),
        ("for n in range(3): x = 1", (2, 24), "the block goes on the next line"),
        ("x = (a +\n    y = 3", (3, 7), "is not closed"),
        ("x = f(a", (2, 10), "never closed"),
        ("x = a)", (2, 10), "`)` closes nothing"),
        ("x = for", (2, 9), "unexpected `for`; expected an expression"),
        ("x = 1\n      y = 2", (3, 7), "unexpected indented block"),
        ("for n in range(3):\n        x = 1\n      y = 2", (4, 1), "matches no block around it"),
        ("x = 1\n\ty = 2", (3, 1), "indent with spaces"),
        ("x = 1\n    schedule num_warps = 4", (3, 5), "unexpected `schedule`"),
    ],
)
def test_hints(statement: str, place: tuple[int, int], said: str) -> None:
    error = problem(KERNEL + statement + "\n")
    assert said in str(error)
    assert (error.span.line, error.span.column) == place


@pytest.mark.parametrize("text", ["", "\n# only\n", "meta A = 1\n", "kernel f():\n    x = 1\n", "kernel f(b < B):\n"])
def test_incomplete_files(text: str) -> None:
    assert problem(text).code == "K003"


def test_keywords_are_never_names() -> None:
    assert {"for", "carry", "store", "kernel", "None", "then"} <= keywords()
    assert "load" not in keywords()


# ---- limits


HOSTILE = {
    "open brackets": ("(" * 60_000, "K003"),
    "open brackets in place": (f"{KERNEL}x = " + "(" * 60_000, "K005"),
    "closing brackets": (")" * 60_000, "K003"),
    "minus signs": (f"{KERNEL}x = " + "-" * 60_000 + "a", "K005"),
    "nots": (f"{KERNEL}x = " + "not " * 15_000 + "a", "K005"),
    "a long sum": (f"{KERNEL}x = a" + "+a" * 30_000, "K005"),
    "new axes": (f"{KERNEL}x = a" + "[:,None]" * 7_000, "K005"),
    "statements": ("kernel f(b < B):\n" + "    x=1\n" * 7_000, "K006"),
    "blocks": ("kernel f(b < B):\n" + "".join(f"{' ' * i}for n in range(3):\n" for i in range(1, 200)), "K005"),
    "size": ("#" * 70_000, "K001"),
    "comments": ("#\n" * 30_000, "K003"),
    "digits": (f"{KERNEL}x = " + "1" * 60_000, "K008"),
    "an exponent": (f"{KERNEL}x = 1e999999999", "K008"),
    "a tiny number": (f"{KERNEL}x = 0.{'0' * 40}1e-290", "K008"),
    "a null character": (f"{KERNEL}x = \0", "K002"),
    "a lone surrogate": (f"{KERNEL}x = \ud800", "K002"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_an_error_and_soon(name: str) -> None:
    text, code = HOSTILE[name]
    start = time.process_time()
    error = problem(text)
    assert error.code == code
    assert len(error.render()) < 2_000, "an excerpt is cut, whatever the length of the line"
    assert time.process_time() - start < 5


def test_limits_are_where_the_page_says() -> None:
    """8 blocks and 64 nested expressions are accepted, one more is not."""
    assert expression("(" * 63 + "a" + ")" * 63) == ast.Name("a")
    assert expression("-" * 63 + "a")
    assert problem(f"{KERNEL}x = " + "-" * 64 + "a").code == "K005"
    loops = "".join(f"{'    ' * i}for n{i} in range(3):\n" for i in range(1, 8))
    assert parse("kernel f(b < B):\n" + loops + "    " * 8 + "x = 1\n")


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in problem(f"{KERNEL}x = \x1b[31m\n").render()
