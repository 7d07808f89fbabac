"""A companion program without what no companion needs: only the bounds asked for are worth executing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ir import program as core
from verifier.rounding.walk import MARK


def pruned(program: core.Program, tensors: frozenset[str]) -> core.Program:
    """`program` with the stores to `tensors`, the companions they hang on, and everything it had without them."""
    wanted = set(tensors)
    kernels: list[core.Kernel] = []
    for kernel in reversed(program.kernels):
        names: set[str] = set()
        while True:
            body = _block(kernel.body, names, wanted)
            found = set(_marked(body))
            if found <= names:
                break
            names |= found
        wanted |= {load.tensor for load in _loads(body) if load.tensor.endswith(MARK)}
        kernels.append(replace(kernel, body=body))
    kept = tuple(t for t in program.tensors if not t.name.endswith(MARK) or t.name in wanted)
    return replace(program, kernels=tuple(reversed(kernels)), tensors=kept)


def _block(body: tuple[core.Statement, ...], names: set[str], tensors: set[str]) -> tuple[core.Statement, ...]:
    out: list[core.Statement] = []
    for s in body:
        match s:
            case core.Let() if s.name.endswith(MARK) and s.name not in names:
                continue
            case core.Store() if s.tensor.endswith(MARK) and s.tensor not in tensors:
                continue
            case core.For():
                carries = tuple(c for c in s.carries if not c.name.endswith(MARK) or c.name in names)
                out.append(replace(s, carries=carries, body=_block(s.body, names, tensors)))
            case _:
                out.append(s)
    return tuple(out)


def _marked(body: tuple[core.Statement, ...]) -> Iterator[str]:
    return (e.name for e in _all(body) if isinstance(e, core.Var) and e.name.endswith(MARK))


def _loads(body: tuple[core.Statement, ...]) -> Iterator[core.Load]:
    return (e for e in _all(body) if isinstance(e, core.Load))


def _all(body: tuple[core.Statement, ...]) -> Iterator[core.Expr]:
    from verifier.stored import expressions

    return expressions(body)
