"""Children of two kernels of one spec: tiles and schedule of one with the body of the other, or kernels of both.

Nothing is known of what a scratch tensor holds but its name, shape and dtype: where those agree, the kernels of one
parent may read what the kernels of the other made. Proposed, not trusted, as rewrites are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ir.ast import Call, DTypeOf, Element, Kernel, Meta, Module, Require, Scratch, Store
from synth.propose.rewrites.bounds import number
from synth.propose.rewrites.rewrite import Subject
from synth.propose.tree import Node, every_place, identifiers, nodes, renamed


def scheduled_as(body: Subject, other: Subject) -> Iterator[Module]:
    """The algorithm of one parent at the working point of the other: metas of the same name get its values, kernels
    that write the same tensors its schedule."""
    values = other.metas
    metas = tuple(replace(m, value=number(values[m.name])) if m.name in values else m for m in body.module.metas)
    schedules = {writes(kernel): kernel.schedule for kernel in other.module.kernels}
    if len(body.module.kernels) == len(other.module.kernels) == 1:
        schedules = {writes(body.module.kernels[0]): other.module.kernels[0].schedule}
    kernels = tuple(replace(k, schedule=schedules.get(writes(k), k.schedule)) for k in body.module.kernels)
    for module in (replace(body.module, metas=metas, kernels=kernels), replace(body.module, kernels=kernels)):
        if module != body.module:
            yield module


def kernels_of_both(first: Subject, second: Subject) -> Iterator[Module]:
    """For each set of outputs that is written apart in both parents: the second's kernels for it, the first's for all
    others, and what either reads of scratch."""
    outputs = {t.name for t in first.program.tensors if t.role == "output"}
    mine, theirs = (_output_groups(s.module.kernels, outputs) for s in (first, second))
    for group in (g for g in mine if g in theirs and g != outputs):
        kept = _makers(first.module, outputs - group)
        yield _joined(first, kept, second, _makers(second.module, group))


def writes(kernel: Kernel) -> frozenset[str]:
    return frozenset(n.target.name for n in nodes(kernel.body) if isinstance(n, Store))


def _loads(kernel: Kernel) -> frozenset[str]:
    calls = (n for n in nodes(kernel.body) if isinstance(n, Call) and n.function == "load")
    return frozenset(c.args[0].name for c in calls if c.args and isinstance(c.args[0], Element))


def _output_groups(kernels: tuple[Kernel, ...], outputs: set[str]) -> list[frozenset[str]]:
    """Outputs that share a kernel, however indirectly, are one group; in the order in which they are written."""
    groups = list[frozenset[str]]()
    for kernel in kernels:
        group = writes(kernel) & outputs
        if group:
            merged = group.union(*(g for g in groups if g & group))
            groups = [g for g in groups if not g & group] + [merged]
    return groups


def _makers(module: Module, wanted: set[str] | frozenset[str]) -> tuple[Kernel, ...]:
    """The kernels that make these tensors and what they read of scratch, in order."""
    scratch = {s.name for s in module.scratch}
    needed, kept = set(wanted), list[Kernel]()
    for kernel in reversed(module.kernels):
        if writes(kernel) & needed:
            kept.insert(0, kernel)
            needed |= (_loads(kernel) | writes(kernel)) & scratch
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class _Guest:
    """Kernels of the second parent with names that stay apart from the first's; `shared` scratch is the first's."""

    kernels: tuple[Kernel, ...]
    metas: tuple[Meta, ...]
    requires: tuple[Require, ...]
    scratch: tuple[Scratch, ...]
    shared: frozenset[str]


def _joined(first: Subject, kept: tuple[Kernel, ...], second: Subject, added: tuple[Kernel, ...]) -> Module:
    made = frozenset().union(*(writes(k) for k in kept)) if kept else frozenset[str]()
    guest = _guest(first, made, second, added)
    # what only made shared scratch is there already
    kernels = (*kept, *(k for k in guest.kernels if not writes(k) <= guest.shared))
    used = identifiers(kernels)
    scratch = tuple(s for s in (*first.module.scratch, *guest.scratch) if s.name in used)
    requires = tuple(dict.fromkeys((*first.module.requires, *guest.requires)))  # each half is right where both hold
    used |= identifiers(scratch) | identifiers(requires)
    metas = (*first.module.metas, *guest.metas)
    for meta in reversed(metas):
        used |= identifiers(meta.value) if meta.name in used else frozenset()
    return Module(tuple(m for m in metas if m.name in used), requires, scratch, kernels)


def _guest(first: Subject, made: frozenset[str], second: Subject, kernels: tuple[Kernel, ...]) -> _Guest:
    names: dict[str, str] = {}
    own, theirs = first.metas, second.metas
    for name, value in theirs.items():
        if own.get(name, value) != value or (name not in own and name in first.taken):
            names[name] = first.fresh(name, *second.taken, *names.values())
    contracts = {s.name: s for s in first.module.scratch if s.name in made}
    shared = frozenset(
        s.name for s in second.module.scratch if contracts.get(s.name) == s and not identifiers(s.shape) & names.keys()
    )
    for scratch in second.module.scratch:
        if scratch.name not in shared and scratch.name in first.taken:
            names[scratch.name] = first.fresh(scratch.name, *second.taken, *names.values())
    for kernel in kernels:
        if any(kernel.name == k.name for k in first.module.kernels):
            names[kernel.name] = first.fresh(kernel.name, *second.taken, *names.values())

    def change(node: Node) -> Node:
        match node:
            case Element(name) | Kernel(name) | Scratch(name) | Meta(name) if name in names:
                return replace(node, name=names[name])
            case DTypeOf(tensor) if tensor in names:
                return replace(node, tensor=names[tensor])
            case _:
                return node

    def called_apart(node: Node) -> Node:
        return every_place(renamed(node, names), change)

    return _Guest(
        called_apart(kernels),
        called_apart(tuple(m for m in second.module.metas if m.name not in own or m.name in names)),
        called_apart(second.module.requires),
        called_apart(tuple(s for s in second.module.scratch if s.name not in shared)),
        shared,
    )
