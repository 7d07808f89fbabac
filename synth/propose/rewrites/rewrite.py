"""What a rewrite is, what it is given, and which of its results are worth a proof.

A rewrite is proposed, not trusted: it reads the kernel's syntax with its types and yields changed kernels where it
thinks it fits. It may be wrong; the gate alone says whether a result is the formula's. What is no kernel of the spec
any more, or is the same kernel, is dropped here before it costs a proof.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from ir import ast, tiles
from ir import program as p
from ir.ast import NOWHERE, Expr, For, Kernel, Module, Statement
from ir.diagnostics import Source, SourceError, TypeProblem
from ir.dtypes import DTYPES
from ir.infer import CONSTANTS, OPERATIONS, TRUTH, Scope, infer
from ir.parser import parse
from ir.printer import print_module
from ir.program import DType, Type
from ir.spec import Bound
from ir.typing import check
from synth.propose.embedded import MAX_TILE, largest_tile
from synth.propose.tree import identifiers

_INT = Type(DType.INT)


@dataclass(frozen=True)
class Subject:
    """A kernel file that types against `bound`: what a rewrite is applied to. `module` is the syntax it rewrites,
    `program` the same typed, statement by statement."""

    module: Module
    program: p.Program
    bound: Bound

    @staticmethod
    def of(text: str, bound: Bound) -> Subject:
        """Raises SourceError for a text that is no kernel of the spec."""
        module = parse(text)
        return Subject(module, check(module, bound, text), bound)

    @cached_property
    def metas(self) -> dict[str, int]:
        return dict(self.program.metas)

    @cached_property
    def limit(self) -> int:
        """Elements that a tile of what is made of it may have: what fits a program, or what it has itself."""
        return max(MAX_TILE, largest_tile(self.program))

    @cached_property
    def taken(self) -> frozenset[str]:
        """Names that mean something in this file already."""
        spec = self.bound.spec
        known = {d.name for d in spec.dims} | {name for name, _ in self.bound.settings}
        known |= {q.name for q in spec.parameters} | {t.name for t in self.program.tensors}
        return identifiers(self.module) | known | {*CONSTANTS, *TRUTH, *OPERATIONS, *DTYPES, *keyword.kwlist}

    def fresh(self, name: str, *also: str) -> str:
        """`name`, or with a number after it where that means something already; `also` are names given out before."""
        taken, count, result = self.taken | set(also), 0, name
        while result in taken:
            count += 1
            result = f"{name}{count}"
        return result

    def with_kernel(self, number: int, kernel: Kernel) -> Module:
        """The file with one of its kernels changed."""
        kernels = self.module.kernels
        return replace(self.module, kernels=(*kernels[:number], kernel, *kernels[number + 1 :]))

    def sites(self) -> Iterator[Site]:
        """Every block of statements, the bodies of kernels first and those of loops within them after."""
        for number, (kernel, typed) in enumerate(zip(self.module.kernels, self.program.kernels, strict=True)):
            scope = Scope(Source("", "<candidate>"), dict(self._globals()), {t.name: t for t in self.program.tensors})
            scope.names |= {axis.name: p.Var(axis.name, _INT) for axis in kernel.grid}
            yield from _sites(self, number, (), None, kernel.body, typed.body, scope)

    def _globals(self) -> Iterator[tuple[str, p.Expr]]:
        yield from ((dim.name, p.Size(dim.name, _INT)) for dim in self.bound.dims)
        yield from ((n, tiles.integer(v, NOWHERE)) for n, v in self.bound.settings if isinstance(v, int))
        for q in self.bound.spec.parameters:
            yield q.name, p.Param(q.name, Type(DType.INT if q.integer else DType.F32))
        yield from ((name, tiles.integer(value, NOWHERE)) for name, value in self.program.metas)


@dataclass(frozen=True)
class Site:
    """One block of statements. `path` leads to it: positions of loops, from the kernel's body inwards; `loop` is the
    loop whose body it is. `scopes[k]` says what names mean before statement k, and the last one after all of them."""

    subject: Subject
    number: int
    path: tuple[int, ...]
    loop: For | None
    statements: tuple[Statement, ...]
    scopes: tuple[Scope, ...] = field(repr=False)

    @property
    def kernel(self) -> Kernel:
        return self.subject.module.kernels[self.number]

    def typed(self, k: int, expr: Expr) -> p.Expr | None:
        """The typed form of an expression as statement k would read it; None where it has no type there."""
        try:
            return infer(self.scopes[k], expr)
        except TypeProblem:
            return None

    def type(self, k: int, expr: Expr) -> Type | None:
        typed = self.typed(k, expr)
        return None if typed is None else typed.type

    def put(self, statements: tuple[Statement, ...]) -> Module:
        """The file with other statements in this block."""
        body = _put(self.kernel.body, self.path, statements)
        return self.subject.with_kernel(self.number, replace(self.kernel, body=body))

    def splice(self, first: int, end: int, *statements: Statement) -> Module:
        """The file with other statements in place of those from `first` to before `end`."""
        return self.put((*self.statements[:first], *statements, *self.statements[end:]))


def _put(body: tuple[Statement, ...], path: tuple[int, ...], new: tuple[Statement, ...]) -> tuple[Statement, ...]:
    if not path:
        return new
    loop = body[path[0]]
    assert isinstance(loop, For)
    return (*body[: path[0]], replace(loop, body=_put(loop.body, path[1:], new)), *body[path[0] + 1 :])


def _sites(
    subject: Subject,
    number: int,
    path: tuple[int, ...],
    loop: For | None,
    statements: tuple[Statement, ...],
    typed: tuple[p.Statement, ...],
    scope: Scope,
) -> Iterator[Site]:
    """The typed core has the surface's statements in order, after one that a loop with a step puts first."""
    typed = typed[len(typed) - len(statements) :]
    scopes, inner = [_copy(scope)], list[tuple[int, For, p.For, Scope]]()
    for k, (statement, core) in enumerate(zip(statements, typed, strict=True)):
        match statement, core:
            case ast.Assign(name), p.Let(fresh, value):
                scope.names[name] = value if tiles.constant(value) is not None else p.Var(fresh, value.type)
            case For(), p.For():
                scope.names |= {n: p.Var(c.name, c.type) for n, c in zip(statement.carried, core.carries, strict=True)}
                within = _copy(scope)
                within.names[statement.variable] = p.Var(core.counter, _INT)
                inner.append((k, statement, core, within))
        scopes.append(_copy(scope))
    yield Site(subject, number, path, loop, statements, tuple(scopes))
    for k, statement, core, within in inner:
        yield from _sites(subject, number, (*path, k), statement, statement.body, core.body, within)


def _copy(scope: Scope) -> Scope:
    return Scope(scope.source, dict(scope.names), scope.tensors)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """`name` is shown and recorded; `apply` yields the file with the rewrite done at one place, or in one way, each,
    most useful first, and nothing where it does not fit. Its docstring says what it changes, when, and why."""

    name: str
    apply: Callable[[Subject], Iterator[Module]]

    @property
    def doc(self) -> str:
        return inspect.getdoc(self.apply) or ""

    def texts(self, subject: Subject) -> Iterator[str]:
        """Results that are kernels of the spec, each once, none the subject itself, in the language's one layout."""
        seen = {print_module(subject.module)}
        for module in self.apply(subject):
            text = kernel_text(module, subject.bound, subject.limit)
            if text is not None and text not in seen:
                seen.add(text)
                yield text


def kernel_text(module: Module, bound: Bound, limit: int = MAX_TILE) -> str | None:
    """The file's text; None where it is no kernel of the spec, or has a tile of more than `limit` elements."""
    text = print_module(module)
    try:
        program = check(parse(text), bound, text)
    except SourceError:
        return None
    return text if largest_tile(program) <= limit else None
