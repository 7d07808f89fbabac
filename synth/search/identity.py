"""When two kernel texts are one program: a hash of what a text means to everything downstream of the parser.

The hash is over the typed program with what carries no meaning taken out: names of locals, loop variables, program
ids, lanes, kernels and scratch tensors become the number of their binding place; comments, spans and layout are not
in the typed core; metas and known integers are values there already. What stays is every node with its dtype and
shape, the order of statements, the schedule, what is required of sizes, and the spec's own names.

Sound, because the encoding can be read back: it is JSON of a fixed form, every binder is numbered in the order it is
met, the typed core assigns each name once, and the spec with its settings is hashed along. Two texts of one identity
are therefore one program of one bound spec up to the names of bound variables, and a verdict on one is a verdict on
the other. The converse is not claimed: `a + b` and `b + a` differ, so do a value named and the same one in place.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from fractions import Fraction
from hashlib import sha256
from typing import Any

from ir.diagnostics import SourceError
from ir.parser import parse
from ir.program import Axis, For, Kernel, Let, Load, Program, Store, Tensor, Var
from ir.spec import Bound
from ir.typing import check


def identity(text: str, bound: Bound) -> str:
    """Hex SHA-256 of the alpha-normalised program; of the text itself, as "text-...", where it is no program."""
    try:
        return program_identity(check(parse(text), bound), bound)
    except SourceError:
        return "text-" + _digest([_subject(bound), text])


def program_identity(program: Program, bound: Bound) -> str:
    return _digest([_subject(bound), normal_form(program)])


def normal_form(program: Program) -> Any:
    """The program as JSON with bound names numbered: equal for two programs exactly when they are alpha-equivalent."""
    scratch = {t.name: t for t in program.tensors if t.role == "scratch"}
    met: dict[str, int] = {}
    kernels = [_Kernel(scratch, met).kernel(kernel) for kernel in program.kernels]
    unused = sorted(json.dumps(_tensor(t)) for name, t in scratch.items() if name not in met)
    requires = [_Kernel({}, {}).node(r) for r in program.requires]
    return [kernels, [_tensor(scratch[name]) for name in met], unused, requires]


def _subject(bound: Bound) -> Any:
    """What a verdict is relative to, as a certificate's subject names it."""
    return [bound.spec.source, bound.settings]


def _digest(value: Any) -> str:
    return sha256(json.dumps(value).encode("utf-8", "surrogatepass")).hexdigest()


def _tensor(tensor: Tensor) -> Any:
    return _Kernel({}, {}).node([*tensor.shape, tensor.dtype])


class _Kernel:
    """Numbers one kernel's names as they are bound, and its program's scratch tensors as they are met."""

    def __init__(self, scratch: dict[str, Tensor], met: dict[str, int]) -> None:
        self.scratch, self.met = scratch, met
        self.names: dict[str, int] = {}

    def bind(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names))

    def kernel(self, kernel: Kernel) -> Any:
        grid = [[self.bind(axis.name), self.node(axis.extent)] for axis in kernel.grid]
        return [grid, self.node(kernel.schedule), self.node(kernel.body)]

    def cells(self, tensor: str) -> Any:
        """A tensor of the spec by name, a scratch tensor by number."""
        return self.met.setdefault(tensor, len(self.met)) if tensor in self.scratch else tensor

    def node(self, node: Any) -> Any:
        match node:
            case Var(name, its):
                return ["Var", self.names[name], self.node(its)]
            case Let(name, value):
                encoded = self.node(value)
                return ["Let", self.bind(name), encoded]
            case For(counter, start, stop, carries, body):
                outside = [self.node(e) for e in (start, stop, *(c.init for c in carries))]
                inside = [self.bind(name) for name in (counter, *(c.name for c in carries))]
                types = [self.node(c.type) for c in carries]
                return ["For", outside, inside, types, self.node(body), [self.node(c.next) for c in carries]]
            case Load() | Store():
                rest = [self.node(getattr(node, f.name)) for f in fields(node) if f.compare and f.name != "tensor"]
                return [type(node).__name__, self.cells(node.tensor), *rest]
            case Axis() | Kernel() | Program() | Tensor():
                raise TypeError(f"{type(node).__name__} has no place inside a kernel")
            case tuple() | list():
                return [self.node(item) for item in node]
            case Enum():
                return node.value
            case Fraction():
                return str(node)
            case None | bool() | int() | str():
                return node
            case _ if is_dataclass(node):
                parts = [self.node(getattr(node, f.name)) for f in fields(node) if f.compare]
                return [type(node).__name__, *parts]
            case _:
                raise TypeError(f"{type(node).__name__} is no node of the typed core")
