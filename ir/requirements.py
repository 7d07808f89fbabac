"""What a kernel file requires of sizes: `require N % BN == 0`, read as the spec's own requirements are.

A program with requirements is a program of a narrower spec: the same formula, at the sizes where they hold too.
`narrowed` makes that spec, and whoever proves, replays, emits or runs a program takes it in place of the spec, so
that a requirement is assumed by a proof exactly where it is checked by whoever runs it. Nothing here weakens a
requirement: each goes over node by node, and what has no counterpart is refused when the text is typed (`unfit`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ir import ast
from ir.printer import print_expr
from ir.program import Binary, DType, Expr, Literal, Program, Size, Type, Unary
from ir.spec import Bound

_SYMBOLS = {
    "add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "eq": "==", "ne": "!=", "and": "and", "or": "or",
}  # fmt: skip
_FUNCTIONS = ("min", "max")
_UNARY = {"neg": "-", "not": "not"}
_SCALARS = (Type(DType.INT), Type(DType.BOOL))


def unfit(e: Expr, positive: Collection[str]) -> Expr | None:
    """The first part of a typed expression that a requirement cannot hold: anything but sizes, numbers and their
    arithmetic, or a divisor that is neither a positive number nor one of the sizes in `positive`."""
    match e:
        case Literal() | Size() if e.type in _SCALARS:
            return None
        case Unary(op, operand) if op in _UNARY:
            return unfit(operand, positive)
        case Binary("floordiv" | "mod", left, right):
            match right:
                case Literal(value) if value > 0:
                    return unfit(left, positive)
                case Size(name) if name in positive:
                    return unfit(left, positive)
                case _:
                    return right
        case Binary(op, left, right) if op in _SYMBOLS or op in _FUNCTIONS:
            return unfit(left, positive) or unfit(right, positive)
        case _:
            return e


def formula(e: Expr) -> ast.Expr:
    """A typed requirement as a formula of the spec language. Raises ValueError for what `unfit` refuses."""
    match e:
        case Literal(value) if e.type == Type(DType.BOOL):
            return ast.Name("true" if value else "false", e.span)
        case Literal(value) if e.type == Type(DType.INT):
            number = ast.Number(abs(value), span=e.span)
            return ast.Unary("-", number, e.span) if value < 0 else number
        case Size(name):
            return ast.Name(name, e.span)
        case Unary(op, operand) if op in _UNARY:
            return ast.Unary(_UNARY[op], formula(operand), e.span)
        case Binary(op, left, right) if op in _SYMBOLS:
            return ast.Binary(_SYMBOLS[op], formula(left), formula(right), e.span)
        case Binary(op, left, right) if op in _FUNCTIONS:
            return ast.Call(op, (formula(left), formula(right)), (), e.span)
        case _:
            raise ValueError(f"{type(e).__name__} has no place in a requirement")


def narrowed(bound: Bound, program: Program) -> Bound:
    """The spec a program is proved against and run under: `bound`, and what the program requires."""
    if not program.requires:
        return bound
    requires = dict.fromkeys((*bound.spec.requires, *map(formula, program.requires)))
    return replace(bound, spec=replace(bound.spec, requires=tuple(requires)))


def texts(program: Program) -> tuple[str, ...]:
    """What a program requires, for a person, with metas put in: `N % 64 == 0`. Each once, whatever metas it names."""
    return tuple(dict.fromkeys(map(text, program.requires)))


def text(requirement: Expr) -> str:
    """A requirement of a program, or a part of one, for a person."""
    return print_expr(formula(requirement))


def summary(program: Program) -> str:
    """What a program requires in as few words: where N is a multiple of 128, that it is one of 64 is not said."""
    multiples = [m for r in program.requires if (m := _multiple(r)) is not None]
    spare = {text(r) for r in program.requires if (m := _multiple(r)) and any(_implies(n, m) for n in multiples)}
    return " and ".join(t for t in texts(program) if t not in spare)


def _multiple(e: Expr) -> tuple[str, int] | None:
    """(x, k) of `x % k == 0`, x in words."""
    match e:
        case Binary("eq", Binary("mod", x, Literal(value=k)), Literal(value=0)):
            return text(x), int(k)
        case _:
            return None


def _implies(n: tuple[str, int], m: tuple[str, int]) -> bool:
    return n[0] == m[0] and n[1] != m[1] and n[1] % m[1] == 0
