"""Rewrites a program so that its boxes are loaded and stored as such: same meaning, other instructions.

What may become one is `lowering.descriptors`'s to decide. Where the candidate's schedule asks for specialised warps,
a second form serves: Triton cuts tiles in two there, which a descriptor made by the host does not survive
(`lowering.partition`). Tiles that may be cut are then moved by a descriptor the kernel makes itself, of the
dimensions the tile walks; inside the specialised loop, where making one would cost too much, they stay as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ir.program import Expr, For, Kernel, Let, Load, Program, Statement, Store, Var
from lowering.accesses import BoxLoad, BoxStore
from lowering.descriptors import EXPRESSIONS, Definitions, box_of, corner
from lowering.partition import can_specialise, whole_loads
from lowering.plan import walk

Box = tuple[tuple[int, ...], tuple[Expr, ...]]


@dataclass(frozen=True, slots=True)
class _Scope:
    """`copied`: loads only, and in innermost loops vectors as well. `whole`: where warps are specialised, the loads
    whose tiles are never cut, else None. `inner`: in an innermost loop."""

    program: Program
    copied: bool
    whole: frozenset[Load] | None = None
    inner: bool = False

    def box(self, access: Load | Store, shape: tuple[int, ...], names: Definitions) -> Box | None:
        """The box that an access becomes, with the extents of a descriptor made on the spot; None: it stays."""
        view = self.whole is not None and access not in self.whole
        if view and self.inner:
            return None
        axes = 1 if self.copied and self.inner else 2
        box = box_of(access, shape, self.program, names, view, axes)
        if box is None:
            return None
        extents = self.program.tensor(access.tensor).shape
        return box, tuple(e for e, n in zip(extents, box, strict=True) if n > 1) if view else ()


def with_boxes(
    program: Program, index_widths: Mapping[str, int], copied: bool = False, specialised: bool = False
) -> Program:
    """The program with every eligible access as a BoxLoad or BoxStore, and without the names that only masks and lanes'
    indices needed. Kernels whose integers are not proved to fit 32 bits stay as they are. `copied`: for a producer that
    copies tiles ahead (`lowering.hopper`), so loads only, and in innermost loops vectors too.

    Warps are specialised only if `specialised`, in those kernels that ask for it and where it can help."""
    kernels = (_kernel(k, _Scope(program, copied), index_widths[k.name], specialised) for k in program.kernels)
    return replace(program, kernels=tuple(kernels))


def _kernel(kernel: Kernel, scope: _Scope, bits: int, specialised: bool) -> Kernel:
    asked = specialised and bits == 32 and can_specialise(kernel)
    skip = kernel.schedule.skip_ones and not asked  # Triton specialises no loop with a branch
    kernel = replace(kernel, schedule=replace(kernel.schedule, warp_specialize=asked, skip_ones=skip))
    if bits != 32:
        return kernel
    scope = replace(scope, whole=whole_loads(kernel) if asked else None)
    return replace(kernel, body=_needed(_block(kernel.body, scope, {}), set()))


def boxed_tensors(program: Program) -> tuple[str, ...]:
    """The tensors that must be fit for a descriptor when the program is launched, each once."""
    found = {n.tensor for k in program.kernels for n in walk(k.body) if isinstance(n, BoxLoad | BoxStore)}
    return tuple(t.name for t in program.tensors if t.name in found)


def streams_boxes(program: Program) -> bool:
    """Whether some loop loads boxes: there they arrive while earlier ones are worked on, which is their gain."""
    loops = (n for k in program.kernels for n in walk(k.body) if isinstance(n, For))
    return any(isinstance(n, BoxLoad) for loop in loops for n in walk(loop.body))


def _block(statements: tuple[Statement, ...], scope: _Scope, outer: Definitions) -> tuple[Statement, ...]:
    names = dict(outer)
    result: list[Statement] = []
    for statement in statements:
        match statement:
            case Let():
                result.append(replace(statement, value=_rewritten(statement.value, scope, names)))
                names[statement.name] = statement.value
            case Store():
                result.append(_store(statement, scope, names))
            case For():
                carries = tuple(replace(c, init=_rewritten(c.init, scope, names)) for c in statement.carries)
                own = {statement.counter, *(c.name for c in carries)}
                names = {name: e for name, e in names.items() if name not in own and not own & _names(e)}
                inside = dict(names)
                deeper = replace(scope, inner=not any(isinstance(s, For) for s in statement.body))
                body = _block(statement.body, deeper, inside)
                inside |= {s.name: s.value for s in statement.body if isinstance(s, Let)}
                carries = tuple(replace(c, next=_rewritten(c.next, deeper, inside)) for c in carries)
                result.append(replace(statement, carries=carries, body=body))
    return tuple(result)


def _store(store: Store, scope: _Scope, names: Definitions) -> Store:
    value = _rewritten(store.value, scope, names)
    found = None if store.atomic or scope.copied else scope.box(store, store.value.type.shape, names)
    if found is None:
        return replace(store, value=value)
    index = tuple(corner(e, names) for e in store.index)
    return BoxStore(store.tensor, index, value, None, False, store.comment, store.span, *found)


def _rewritten(e: Expr, scope: _Scope, names: Definitions) -> Expr:
    if isinstance(e, Load):
        found = scope.box(e, e.type.shape, names)
        if found is not None:
            return BoxLoad(e.tensor, tuple(corner(x, names) for x in e.index), None, None, e.type, e.span, *found)
    changed: dict[str, Any] = {}
    for f in fields(e):
        part = getattr(e, f.name)
        if isinstance(part, tuple) and part and isinstance(part[0], EXPRESSIONS):
            changed[f.name] = tuple(_rewritten(x, scope, names) for x in part)
        elif isinstance(part, EXPRESSIONS):
            changed[f.name] = _rewritten(part, scope, names)
    return replace(e, **changed) if changed else e


def _needed(statements: tuple[Statement, ...], after: set[str]) -> tuple[Statement, ...]:
    """Without the names nothing reads; expressions have no effects. `after`: names read when the block has ended."""
    wanted, kept = set(after), []
    for statement in reversed(statements):
        match statement:
            case Let(name=name) if name not in wanted:
                continue
            case For(carries=carries, body=body):
                statement = replace(statement, body=_needed(body, _names(tuple(c.next for c in carries))))
        kept.append(statement)
        wanted |= _names(statement)
    return tuple(reversed(kept))


def _names(node: object) -> set[str]:
    return {n.name for n in walk(node) if isinstance(n, Var)}
