"""Packing the heads of one group into the rows of a tile, so that they share every key tile they load."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ir.ast import Binary, Element, Expr, Name
from ir.spec import Bound
from synth.propose.choices import DoesNotApply
from synth.propose.formula import ONE, free, rebuild
from synth.propose.structure import Group, Nest, everything


@dataclass(frozen=True, slots=True)
class Packed(Nest):
    """A nest whose row axis runs over `heads` times the rows; `head` was a program id before."""

    head: str = ""
    heads: Expr = ONE
    group: str = ""


def packed(nest: Nest, bound: Bound) -> Packed:
    """Applies when key-side tensors see a program id h only as h // c: rows of c heads then share every key tile."""
    for head, _ in nest.programs:
        uses = [e for g in nest.groups for e in everything(g) if isinstance(e, Element)]
        keyed = [(e, i) for e in uses if _keyed(e, nest) for i in range(len(e.index)) if head in free(e.index[i])]
        divided = {e.index[i] for e, i in keyed}
        if len(divided) != 1 or not keyed:
            continue
        (quotient,) = divided
        match quotient:
            case Binary("//", Name(id), count) if id == head and head not in free(count):
                cell, place = keyed[0]
                tensor = next(t for t, _ in bound.inputs if t.name == cell.name)
                group = tensor.shape[place]
            case _:
                continue
        wanted = group.id.lower() if isinstance(group, Name) else f"{head}_group"
        programs = tuple((wanted, group) if name == head else (name, e) for name, e in nest.programs)
        replaced = tuple(_replace_group(g, quotient, Name(wanted)) for g in nest.groups)
        return Packed(programs, nest.row, nest.lanes, replaced, nest.outputs, head, count, wanted)
    raise DoesNotApply("no heads that share their keys")


def _keyed(cell: Element, nest: Nest) -> bool:
    return any(g.key in free(cell) for g in nest.groups)


def _replace_group(group: Group, old: Expr, new: Expr) -> Group:
    def change(expr: Expr) -> Expr:
        return new if expr == old else rebuild(expr, change)

    score = None if group.score is None else change(group.score)
    folds = tuple(replace(f, rest=change(f.rest)) for f in group.folds)
    return replace(group, sees=tuple(map(change, group.sees)), score=score, folds=folds)
