"""What each name of a spec means, as text that two certificates can be compared by.

A backward certificate says "dQ is the gradient of O, where O is ..."; a forward certificate says "the
kernel stores O, which is ...". Pairing them is right only when both mean the same O. Two names mean the same
when the definitions they rest on are the same text, under the same settings, with the same convention for
empty rows: equal text is sufficient, never necessary, so that a pair is refused rather than guessed.
"""

from __future__ import annotations

from collections.abc import Iterator

from ir import ast
from ir.printer import print_definitions
from ir.spec import Bound
from lowering.plan import walk


def contracts(bound: Bound) -> dict[str, str]:
    """For every definition of the spec: the definitions it rests on, in the spec's order, as one text."""
    definitions = {d.name: d for d in bound.spec.definitions}
    return {name: _text(set(_needed(name, definitions)), bound) for name in definitions}


def _needed(name: str, definitions: dict[str, ast.Definition]) -> Iterator[str]:
    """The name and every definition its formula mentions, and theirs (a spec has no cycles)."""
    yield name
    for node in walk(definitions[name].value):
        match node:
            case ast.Name(id=mentioned) | ast.Element(name=mentioned) if mentioned in definitions:
                yield from _needed(mentioned, definitions)


def _text(names: set[str], bound: Bound) -> str:
    formulas = print_definitions(d for d in bound.spec.definitions if d.name in names)
    return f"{formulas.rstrip()}\nempty_row = {bound.spec.empty_row}\n"
