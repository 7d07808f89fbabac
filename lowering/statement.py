"""What a certified kernel computes, as JSON that can be read where no parser is installed.

`statement` writes a bound spec (its formulas with `grad` written out, its limits and options) into a certificate's
section "lowered"; `stated` reads it back as the same `Bound`. A benchmark on a bare machine evaluates the formula from
it, so that kernels are checked against mathematics rather than against each other. Nothing is proved from it: the
claim of a certificate rests on the spec's text, which stays under `subject`.

A node is {"Binary": [field, ...]}, its fields in the order of the dataclass without the source span; a tuple is a list.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from enum import Enum
from fractions import Fraction
from typing import Any

from ir import ast, spec
from ir.program import DType

Json = Any
NODES: dict[str, Any] = {
    node.__name__: node
    for node in (
        *(ast.Number, ast.Text, ast.Name, ast.Unary, ast.Binary, ast.Call, ast.Element, ast.If, ast.Big),
        *(ast.Definition, spec.Dim, spec.Option, spec.Parameter, spec.Facts, spec.TensorSpec, spec.Limit),
        spec.Shapes,
        *(spec.Spec, spec.Bound),
    )
}


class NotStated(ValueError):
    """The JSON is no statement this version can read."""


def statement(bound: spec.Bound) -> Json:
    """The bound spec as JSON, without its source text, which the certificate has elsewhere."""
    return _encoded(replace(bound, spec=replace(bound.spec, source="", path="")))


def stated(body: Json, source: str) -> spec.Bound:
    """The bound spec that `statement` wrote; `source` is the spec's text. Raises NotStated."""
    found = _decoded(body)
    if not isinstance(found, spec.Bound):
        raise NotStated("a statement is of a bound spec")
    return replace(found, spec=replace(found.spec, source=source))


def _encoded(value: Any) -> Json:
    match value:
        case Fraction():
            return {"Fraction": str(value)}
        case DType():
            return {"DType": value.value}
        case tuple():
            return [_encoded(item) for item in value]
        case None | bool() | int() | float() | str() if not isinstance(value, Enum):
            return value
        case _ if is_dataclass(value) and type(value).__name__ in NODES:
            return {type(value).__name__: [_encoded(getattr(value, f)) for f in _names(type(value))]}
        case _:
            raise TypeError(f"{type(value).__name__} has no place in a formula")


def _decoded(body: Json) -> Any:
    match body:
        case list():
            return tuple(map(_decoded, body))
        case {"Fraction": str(text), **rest} if not rest:
            return Fraction(text)
        case {"DType": str(text), **rest} if not rest:
            return DType(text)
        case dict():
            ((name, values),) = body.items() if len(body) == 1 else (("", None),)
            if name not in NODES or not isinstance(values, list) or len(values) != len(_names(NODES[name])):
                raise NotStated(f"not a node of a formula: {', '.join(map(str, body))}")
            return NODES[name](**dict(zip(_names(NODES[name]), map(_decoded, values), strict=True)))
        case _:
            return body


def _names(node: Any) -> list[str]:
    return [f.name for f in fields(node) if f.name != "span"]
