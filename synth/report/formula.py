"""The spec's formulas as MathML, which browsers draw and screen readers read without a library.

Written from the syntax tree and in its order, so that what stands on the page is what stands in the spec, with the
options and static dimensions of the run put in.
"""

from __future__ import annotations

from fractions import Fraction

from markupsafe import Markup

from ir.ast import Big, Binary, Call, Definition, Element, Expr, If, Name, Number, Text, Unary
from ir.formulas import settled
from ir.printer import fact_text, print_expr
from ir.spec import Bound
from synth.report.svg import element

SIGNS = {
    "+": "+", "-": "−", "*": "·", "<": "<", "<=": "≤", ">": ">", ">=": "≥", "==": "=", "!=": "≠", "and": "∧", "or": "∨",
    "%": "mod",
}  # fmt: skip
BINDS = {"or": 1, "and": 2, "<": 4, "<=": 4, ">": 4, ">=": 4, "==": 4, "!=": 4, "+": 5, "-": 5, "*": 6, "%": 6}
SYMBOLS = {"inf": "∞", "true": "true", "false": "false"}
ATOM = 9


def formulas(bound: Bound) -> list[tuple[str, Markup, str]]:
    """Name, MathML and plain text of every definition that the run's settings leave something of."""
    options = {name: value for name, value in bound.settings if isinstance(value, str)}
    found = []
    for d in bound.spec.definitions:
        value = settled(d.value, options)
        if value != Name("true"):
            found.append((d.name, _definition(d, value), f"{_head(d)} = {print_expr(value)}"))
    return found


def requirements(bound: Bound) -> list[str]:
    return [print_expr(e) for e in bound.spec.requires]


def tensors(bound: Bound) -> list[tuple[str, str, str, str]]:
    """Role, name with shape, dtype, and what is promised, of every tensor and parameter."""
    found = []
    for role, group in (("input", bound.inputs), ("output", bound.outputs)):
        for tensor, dtype in group:
            promise = "" if tensor.abs_max is None else f"|{tensor.name}| ≤ {tensor.abs_max:g}"
            promise = "saved by an earlier kernel" if tensor.saved else fact_text(tensor) or promise
            shape = ", ".join(print_expr(e) for e in tensor.shape)
            found.append((role, f"{tensor.name}[{shape}]", dtype.value, promise if role == "input" else ""))
    for p in bound.spec.parameters:
        limits = f"{p.lower:g} ≤ {p.name} ≤ {p.upper:g}"
        found.append(("parameter", p.name, "integer" if p.integer else "f32", limits))
    return found


def sizes(bound: Bound) -> list[str]:
    return [f"{d.minimum:,} ≤ {d.name} ≤ {d.maximum:,}".replace(",", "\u202f") for d in bound.dims]


def _head(d: Definition) -> str:
    return f"{d.name}[{', '.join(d.parameters)}]" if d.parameters else d.name


def _definition(d: Definition, value: Expr) -> Markup:
    left = _indexed(d.name, [_name(p) for p in d.parameters])
    return element("math", _row(left, _op("="), _expr(value, 0)), display="block")


def _row(*parts: object) -> Markup:
    return element("mrow", *parts)


def _op(sign: str, **attributes: object) -> Markup:
    return element("mo", sign, **attributes)


def _name(name: str) -> Markup:
    """One letter leans, more stand upright, as is the custom."""
    return element("mi", SYMBOLS.get(name, name))


def _indexed(name: str, index: list[Markup]) -> Markup:
    if not index:
        return _name(name)
    parts: list[Markup] = []
    for k, item in enumerate(index):
        parts += [_op(",", separator="true"), item] if k else [item]
    return element("msub", _name(name), _row(*parts))


def _fenced(left: str, inner: Markup, right: str) -> Markup:
    return _row(_op(left), inner, _op(right))


def _number(value: Fraction) -> Markup:
    if value.denominator == 1:
        return element("mn", str(value.numerator))
    short = float(value)
    if Fraction(str(short)) == value:
        return element("mn", str(short))
    return element("mfrac", element("mn", str(value.numerator)), element("mn", str(value.denominator)))


def _expr(e: Expr, least: int) -> Markup:
    """MathML of an expression, in parentheses when it binds less than `least`."""
    shown, binds = _shown(e)
    return shown if binds >= least else _fenced("(", shown, ")")


def _shown(e: Expr) -> tuple[Markup, int]:
    """MathML, and how tightly its outermost operator binds."""
    match e:
        case Number(value):
            return _number(value), ATOM
        case Name(name):
            return _name(name), ATOM
        case Text(value):
            return element("mtext", value), ATOM
        case Unary("-", operand):
            return _row(_op("−", form="prefix"), _expr(operand, 6)), 5
        case Unary(op, operand):
            return _row(_op("¬" if op == "not" else op), _expr(operand, 4)), 3
        case Element(name, index):
            return _indexed(name, [_expr(i, 0) for i in index]), ATOM
        case Binary():
            return _binary(e)
        case Call():
            return _call(e)
        case Big():
            return _big(e), 6
        case If(condition, then, otherwise):
            rows = (
                element("mtr", element("mtd", _expr(value, 0)), element("mtd", element("mtext", word), when))
                for value, word, when in (
                    (then, "if ", _expr(condition, 0)),
                    (otherwise, "otherwise", Markup("")),
                )
            )
            return _row(_op("{", stretchy="true"), element("mtable", *rows, class_="cases")), ATOM
        case _:
            return element("mtext", print_expr(e)), ATOM


def _binary(e: Binary) -> tuple[Markup, int]:
    match e.op:
        case "/":
            return element("mfrac", _expr(e.left, 0), _expr(e.right, 0)), ATOM
        case "//":
            return _fenced("⌊", _row(_expr(e.left, 7), _op("/"), _expr(e.right, 7)), "⌋"), ATOM
        case _:
            binds = BINDS[e.op]
            right = binds if e.op in ("+", "*", "and", "or") else binds + 1
            left = ATOM if isinstance(e.left, Big) else binds  # a sum reaches as far right as it can
            return _row(_expr(e.left, left), _op(SIGNS[e.op]), _expr(e.right, right)), binds


def _call(e: Call) -> tuple[Markup, int]:
    arguments = [_expr(a, 0) for a in e.args]
    match e.function, arguments:
        case "sqrt", [x]:
            return element("msqrt", x), ATOM
        case "abs", [x]:
            return _fenced("|", x, "|"), ATOM
        case "exp", [x] if not isinstance(e.args[0], Big | If):
            return element("msup", _name("e"), x), ATOM
        case _:
            parts: list[Markup] = []
            for k, item in enumerate(arguments):
                parts += [_op(",", separator="true"), item] if k else [item]
            return _row(_name(e.function), _op("\u2061"), _fenced("(", _row(*parts), ")")), ATOM


def _big(e: Big) -> Markup:
    """The bound variable and every condition stand under the sign, one a line."""
    lines = [_row(_name(e.variable), _op("<"), _expr(e.bound, 5)), *(_expr(c, 0) for c in e.conditions)]
    under = lines[0]
    if len(lines) > 1:
        under = element("mtable", *(element("mtr", element("mtd", x)) for x in lines), class_="under")
    sign = _op("∑", movablelimits="false") if e.op == "sum" else element("mo", e.op, movablelimits="false")
    return _row(element("munder", sign, under), _expr(e.body, 6 if e.op == "sum" else ATOM))
