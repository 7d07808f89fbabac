"""AST to text, one canonical layout: parse(print_module(m)) == m for every module the parser can make.

Parentheses appear only where the grammar's precedence asks for them. `format_source` also keeps what
the AST does not hold: comments on lines of their own, and single blank lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from ir import ast
from ir.ast import Span
from ir.builder import decimal
from ir.parser import parse
from ir.spec import TensorSpec

_INDENT = "    "
_IF, _OR, _AND, _NOT, _COMPARE, _ADD, _MULTIPLY, _NEGATE, _POSTFIX = range(9)
_PRECEDENCE = {"or": _OR, "and": _AND, "+": _ADD, "-": _ADD, "*": _MULTIPLY, "/": _MULTIPLY, "//": _MULTIPLY}
_PRECEDENCE |= {"%": _MULTIPLY} | dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), _COMPARE)


def print_module(module: ast.Module) -> str:
    """A kernel file; statements keep their comments."""
    lines: list[str] = []
    for line in _module(module):
        if line.apart and lines:
            lines.append("")
        lines.append(line.text + (f"  # {line.comment}" if line.comment else ""))
    return "\n".join(lines) + "\n"


def print_definitions(definitions: Iterable[ast.Definition]) -> str:
    """Spec definitions, one a line."""
    return "".join(f"{_head(d)} = {print_expr(d.value)}\n" for d in definitions)


def format_source(text: str, filename: str = "<candidate>") -> str:
    """The canonical layout of a kernel file, with every comment kept. Raises SyntaxProblem."""
    source = text.replace("\r\n", "\n")
    module = parse(source, filename)
    notes = _comments(source)
    blank = {n for n, line in enumerate(source.split("\n"), 1) if not line.strip()}
    lines: list[str] = []
    done = 0
    for line in _module(module):
        indent = line.text[: len(line.text) - len(line.text.lstrip())]
        first, last = line.span.line, line.span.end_line
        lead = _lead(range(done + 1, first), notes, blank, indent)
        if line.apart and lines and "" not in lead:
            lead = ["", *lead]
        if not lines or lines[-1].split("#")[0].rstrip().endswith(":"):
            lead = lead[1:] if lead[:1] == [""] else lead
        lines += lead
        remark = " ".join(notes[n] for n in range(first, last + 1) if notes.get(n))
        lines.append(line.text + (f"  # {remark}" if remark else ""))
        done = last
    lines += _lead(range(done + 1, max(notes, default=0) + 1), notes, blank, "")
    return "\n".join(lines) + "\n"


def _comments(text: str) -> dict[int, str]:
    """Comments by line. Kernel files have no strings a '#' could be in."""
    lines = text.split("\n")
    return {n: line.split("#", 1)[1].strip() for n, line in enumerate(lines, 1) if "#" in line}


def _lead(numbers: Iterable[int], notes: dict[int, str], blank: set[int], indent: str) -> list[str]:
    """Comment lines and single blank lines that stand before a statement."""
    found: list[str] = []
    for number in numbers:
        if number in notes:
            found.append(f"{indent}# {notes[number]}".rstrip())
        elif number in blank and found[-1:] != [""]:
            found.append("")
    return found


# ---- lines -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """One printed line, where it comes from, and whether a blank line sets it apart."""

    text: str
    span: Span
    comment: str = ""
    apart: bool = False


def _module(module: ast.Module) -> Iterator[_Line]:
    for meta in module.metas:
        yield _Line(f"meta {meta.name} = {print_expr(meta.value)}", meta.span)
    for i, require in enumerate(module.requires):
        yield _Line(f"require {print_expr(require.condition)}", require.span, apart=i == 0)
    for i, scratch in enumerate(module.scratch):
        text = f"scratch {scratch.name}[{_list(scratch.shape)}]: {print_expr(scratch.dtype)}"
        yield _Line(text, scratch.span, apart=i == 0)
    for kernel in module.kernels:
        axes = ", ".join(f"{axis.name} < {_at(axis.extent, _ADD)}" for axis in kernel.grid)
        yield _Line(f"kernel {kernel.name}({axes}):", kernel.span, apart=True)
        if kernel.schedule:
            settings = ", ".join(f"{name} = {print_expr(value)}" for name, value in kernel.schedule)
            first, last = kernel.schedule[0][1].span, kernel.schedule[-1][1].span
            span = Span(first.line, first.column, last.end_line, last.end_column)
            yield _Line(f"{_INDENT}schedule {settings}", span)
        yield from _block(kernel.body, _INDENT)


def _block(body: tuple[ast.Statement, ...], indent: str) -> Iterator[_Line]:
    for statement in body:
        yield _Line(indent + _statement(statement), statement.span, " ".join(statement.comment.split()))
        if isinstance(statement, ast.For):
            yield from _block(statement.body, indent + _INDENT)


def _statement(statement: ast.Statement) -> str:
    match statement:
        case ast.Assign(name, value):
            return f"{name} = {print_expr(value)}"
        case ast.Store(target, value, mask, atomic):
            masked = "" if mask is None else f", mask={print_expr(mask)}"
            return f"{'atomic_add' if atomic else 'store'}({print_expr(target)}, {print_expr(value)}{masked})"
        case ast.For(variable, start, stop, step, carried):
            bounds = [start, stop, step]
            if step == ast.Number(Fraction(1)):
                bounds = [stop] if start == ast.Number(Fraction(0)) else [start, stop]
            carry = f" carry {', '.join(carried)}" if carried else ""
            return f"for {variable} in range({_list(bounds)}){carry}:"


def _head(d: ast.Definition) -> str:
    return f"{d.name}[{', '.join(d.parameters)}]" if d.parameters else d.name


# ---- expressions -----------------------------------------------------------------------------


def print_expr(e: ast.Expr) -> str:
    """An expression of a kernel or of a spec formula."""
    match e:
        case ast.Number(value, is_float):
            return _number(value, is_float)
        case ast.Text(value):
            return f'"{value}"'
        case ast.Name(name):
            return name
        case ast.Unary("not", operand):
            return f"not {_at(operand, _NOT)}"
        case ast.Unary(op, operand):
            return f"{op}{_at(operand, _NEGATE)}"
        case ast.Binary(op, left, right):
            level = _PRECEDENCE[op]
            chains = level != _COMPARE  # comparisons do not
            return f"{_at(left, level if chains else level + 1)} {op} {_at(right, level + 1)}"
        case ast.Call(function, args, keywords):
            named = [f"{name}={print_expr(value)}" for name, value in keywords]
            return f"{function}({', '.join([*map(print_expr, args), *named])})"
        case ast.Element(name, index):
            return f"{name}[{_list(index)}]"
        case ast.Expand(operand, axes):
            return f"{_at(operand, _POSTFIX)}[{', '.join('None' if new else ':' for new in axes)}]"
        case ast.Shape(extents):
            return f"[{_list(extents)}]"
        case ast.DTypeOf(tensor):
            return f"{tensor}.dtype"
        case ast.If(condition, then, otherwise):
            return f"if {print_expr(condition)} then {print_expr(then)} else {print_expr(otherwise)}"
        case ast.Big(op, variable, bound, conditions, body):
            domain = ", ".join([f"{variable} < {_at(bound, _ADD)}", *map(print_expr, conditions)])
            return f"{op}[{domain}]({print_expr(body)})"


def fact_text(tensor: TensorSpec) -> str:
    """What a spec states of an integer input's cells, for a person; empty where it states nothing."""
    splits, longest = tensor.facts.splits, tensor.facts.longest
    if splits is not None:
        part = "" if longest is None else f", in parts of at most {_at(longest, _ADD)}"
        return f"{tensor.name} starts at 0, never decreases, and ends at {_at(splits, _ADD)}{part}"
    low, high = (None if e is None else _at(e, _ADD) for e in (tensor.facts.least, tensor.facts.most))
    if low is None and high is None:
        return ""
    left, right = "" if low is None else f"{low} <= ", "" if high is None else f" <= {high}"
    return f"every cell of {tensor.name} is within {left}cell{right}"


def _list(items: Iterable[ast.Expr]) -> str:
    return ", ".join(print_expr(e) for e in items)


def _at(e: ast.Expr, level: int) -> str:
    """e where the grammar asks for at least this precedence."""
    match e:
        case ast.If():
            own = _IF
        case ast.Unary(op):
            own = _NOT if op == "not" else _NEGATE
        case ast.Binary(op):
            own = _PRECEDENCE[op]
        case _:
            own = _POSTFIX
    return print_expr(e) if own >= level else f"({print_expr(e)})"


def _number(value: Fraction, is_float: bool) -> str:
    """The shortest exact spelling. ValueError for a number the language has no literal for."""
    if value < 0 or (not is_float and value.denominator != 1):
        raise ValueError(f"{value} is not a literal of the language")
    if not is_float:
        return str(value)
    digits, power = decimal(value)
    text = str(digits)
    if power > 6 or -power - len(text) > 3:
        return f"{text}e{power}"
    if power >= 0:
        return f"{text}{'0' * power}.0"
    text = text.rjust(1 - power, "0")
    return f"{text[:power]}.{text[power:]}"
