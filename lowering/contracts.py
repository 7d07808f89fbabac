"""What each name of a spec means, as text that two certificates can be compared by.

A backward certificate says "dQ is the gradient of O, where O is ..."; a forward certificate says "the
kernel stores O, which is ...". Pairing them is right only when both mean the same O. A contract is the name's
definition with every definition it rests on written out, options decided, and bound variables named by their
depth. Two specs with equal contracts define the same function of the inputs, however they name and cut up the
steps; specs that are equal in another way are refused rather than guessed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ir import ast
from ir.parser import parse_definitions
from ir.printer import print_expr
from ir.spec import Bound


def contracts(bound: Bound) -> dict[str, str]:
    """By name: the contract of every output, of every saved input, and of Y where the spec takes dY."""
    definitions = {d.name: d for d in bound.spec.definitions}
    given = [t.name for t, _ in bound.inputs]
    wanted = {*given, *(name.removeprefix("d") for name in given), *(t.name for t, _ in bound.outputs)}
    return {name: _contract(d, definitions, bound) for name, d in definitions.items() if name in wanted}


def gradients(bound: Bound) -> dict[str, list[list[str]]]:
    """Of every output that the spec says is a gradient, or a sum of some: [Y, X, dY] for each grad(Y, X, dY).

    Read off the spec's text: what the loader derived from it is no longer recognisable as a gradient.
    """
    outputs = {t.name for t, _ in bound.outputs}
    definitions = parse_definitions(tomllib.loads(bound.spec.source)["formula"]["define"])
    found = {d.name: _terms(d.value) for d in definitions if d.name in outputs}
    return {name: terms for name, terms in found.items() if terms is not None}


def _terms(e: ast.Expr) -> list[list[str]] | None:
    match e:
        case ast.Binary(op="+", left=left, right=right):
            first, rest = _terms(left), _terms(right)
            return None if first is None or rest is None else first + rest
        case ast.Call(function="grad", args=(ast.Name(id=y), ast.Name(id=x), ast.Name(id=dy)), keywords=()):
            return [[y, x, dy]]
        case _:
            return None


def _contract(definition: ast.Definition, definitions: Mapping[str, ast.Definition], bound: Bound) -> str:
    places = {name: ast.Name(_variable(depth)) for depth, name in enumerate(definition.parameters)}
    body = _written_out(definition.value, places, len(places), definitions, bound)
    head = f"[{', '.join(place.id for place in places.values())}]" if places else ""
    return f"{head} -> {print_expr(body)}; an empty row is {bound.spec.empty_row}".lstrip()


def _variable(depth: int) -> str:
    return f"${depth}"  # no spec can use this name


def _written_out(
    node: Any, names: Mapping[str, ast.Expr], depth: int, definitions: Mapping[str, ast.Definition], bound: Bound
) -> Any:
    """`names`: what the parameters of the definition at hand stand for. A binder at depth n binds $n: what is put
    in for a parameter mentions binders further out only, or brings its own, so nothing is captured."""

    def within(x: Any) -> Any:
        return _written_out(x, names, depth, definitions, bound)

    match node:
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Name(id=name) if name in definitions and not definitions[name].parameters:
            return _written_out(definitions[name].value, {}, depth, definitions, bound)
        case ast.Element(name=name, index=index) if name in definitions:
            given = dict(zip(definitions[name].parameters, map(within, index), strict=True))
            return _written_out(definitions[name].value, given, depth, definitions, bound)
        case ast.Element(name=name, index=index) if name in (parts := {t.facts.part: t.name for t, _ in bound.inputs}):
            return ast.Element(f"${parts[name]}", within(index))  # the part an input cuts rows into, by that input
        case ast.If(condition=ast.Binary(op="==" | "!=" as op, left=ast.Name(id=option), right=ast.Text(value=text))):
            return within(node.then if (bound.setting(option) == text) is (op == "==") else node.otherwise)
        case ast.Big(op=op, variable=variable, bound=extent, conditions=conditions, body=body):
            inner = {**names, variable: ast.Name(_variable(depth))}
            conditions, body = (_written_out(x, inner, depth + 1, definitions, bound) for x in (conditions, body))
            return ast.Big(op, _variable(depth), within(extent), conditions, body)
        case tuple():
            return tuple(map(within, node))
        case _ if is_dataclass(node) and not isinstance(node, type | ast.Span):
            return replace(node, **{f.name: within(getattr(node, f.name)) for f in fields(node)})
        case _:
            return node
