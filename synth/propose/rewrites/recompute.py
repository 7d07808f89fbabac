"""Values kept in scratch between kernels, or computed again where they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ir.ast import Assign, Call, Element, Expr, For, Kernel, Module, Name, Statement, Store
from synth.propose.emit import Names
from synth.propose.formula import free, rebuild, substitute
from synth.propose.rewrites.rewrite import Rewrite, Subject
from synth.propose.rewrites.straight import Block, Scope, in_straight_form, mapped, merged, names_of, values_of
from synth.propose.tree import nodes


def recompute(subject: Subject) -> Iterator[Module]:
    """What an earlier kernel leaves in scratch is computed again by the kernels that load it, and no longer stored.

    Applies to a scratch tensor stored once, outside loops, with a value that is computed from inputs and static lanes
    at the cell's own place: the row sums of dO * O in a backward pass. A launch and the traffic of the tensor are
    saved, for loads and arithmetic in each reader.
    """
    module = subject.module
    inputs = {t.name for t in subject.program.tensors if t.role == "input"}
    for tensor in module.scratch:
        stores = [n for n in nodes(module.kernels) if isinstance(n, Store) and n.target.name == tensor.name]
        maker = next((k for k in module.kernels if any(s in k.body for s in stores)), None)
        if len(stores) != 1 or maker is None:
            continue
        value = _value(maker, stores[0], inputs)
        if value is not None:
            names = names_of(subject)
            kernels = [_reading(k, value, names) for k in module.kernels if k is not maker]
            left = replace(maker, body=tuple(s for s in maker.body if s != stores[0]))
            kept = [left] if any(isinstance(n, Store) for n in nodes(left.body)) else []
            changed = replace(module, kernels=(*kept, *kernels))
            if not any(isinstance(n, Element) and n.name == tensor.name for n in nodes(changed.kernels)):
                yield changed


@dataclass(frozen=True)
class _Value:
    """The value of `tensor` at `places`, names of axes and of tiles of lanes, computed by `block` and then `value`."""

    tensor: str
    places: tuple[str, ...]
    block: Block
    value: Expr


def _value(maker: Kernel, store: Store, inputs: set[str]) -> _Value | None:
    places = [i.id for i in store.target.index if isinstance(i, Name)]
    scope = Scope({n: v for n, v in values_of(maker.body).items() if n not in places})
    needs = scope.sources(store.value)
    block = tuple(s for s in maker.body if isinstance(s, Assign) and s.name in needs and s.name not in places)
    axes = {axis.name for axis in maker.grid} | {s.name for s in maker.body if isinstance(s, Assign)}
    carried = {c for s in maker.body if isinstance(s, For) for c in s.carried}
    read = {n.name for n in nodes((block, store.value)) if isinstance(n, Element)}
    known = {*places, *(s.name for s in block)}
    if len(places) != len(store.target.index) or len(set(places)) != len(places) or not read <= inputs:
        return None
    if needs & carried or (needs & axes) - known:
        return None
    return _Value(store.target.name, tuple(places), block, store.value)


def _reading(kernel: Kernel, value: _Value, names: Names) -> Kernel:
    return replace(kernel, body=merged(_block(kernel.body, value, names)))


def _block(block: Block, value: _Value, names: Names) -> Block:
    out: list[Statement] = []
    for statement in block:
        before: list[Statement] = []

        def one(node: Expr) -> Expr:
            match node:
                case Call("load", (Element(name, index), *_)) if name == value.tensor:
                    return _written(value, dict(zip(value.places, index, strict=True)), before, names)  # noqa: B023
                case _:
                    return rebuild(node, one)

        if isinstance(statement, For):
            out.append(replace(statement, body=_block(statement.body, value, names)))
        else:
            new = mapped(statement, one)
            out += [*before, new]
    return tuple(out)


def _written(value: _Value, at: Mapping[str, Expr], before: list[Statement], names: Names) -> Expr:
    """The value for other places: its definitions under names of their own go to `before`."""
    values = dict(at)
    for statement in value.block:
        assert isinstance(statement, Assign)
        if free(statement.value):
            fresh = names.fresh(statement.name)
            before.append(Assign(fresh, substitute(statement.value, values)))
            values[statement.name] = Name(fresh)
    return substitute(value.value, values)


REWRITES = (Rewrite("recompute", in_straight_form(recompute)),)
