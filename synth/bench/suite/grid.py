"""Which shapes are run, and in which order: the most telling first, so that a run cut short has said the most.

Attention is recognised by what it computes and then runs on FlashAttention's own settings: 16k tokens in all, hidden
size 2048, lengths 512 to 16k; grouped queries 8:1; a ragged shape. Where a spec's rows are few at most (64), they are
new tokens over a cache: decode shapes. Anything else runs on the shapes its own page names, or on one
chosen by its limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ir.ast import Expr, Name
from ir.evaluate import check_requires, integer_value
from ir.spec import Bound
from synth.bench.recognise import ATTENTION, Meaning, recognised
from synth.bench.roofline import traffic_bytes
from synth.bench.suite.subject import Group

TOKENS, HIDDEN = 16384, 2048
LENGTHS = (16384, 4096, 1024, 8192, 2048, 512)  # in the order they are run
GROUPED = (8192, 2048)
CACHES = ((8, 16384), (32, 8192), (1, 65536), (128, 4096), (1, 8192), (8, 1024), (128, 1024), (32, 65536))
DECODE_HEADS = (32, 8)
FEW_ROWS = 64
MOST = 2**30


@dataclass(frozen=True, slots=True)
class Shape:
    """`kind`: forward, backward, decode or other, which targets and tables go by; `rank` orders a run, least first."""

    name: str
    kind: str
    sizes: tuple[tuple[str, int], ...]
    rank: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """One row of a run: a group at a shape."""

    group: Group
    shape: Shape

    @property
    def title(self) -> str:
        return f"{self.group.title}, {self.shape.name}"


def plan(groups: tuple[Group, ...]) -> list[Item]:
    """Every row of the grid, most telling first."""
    items = [Item(group, shape) for group in groups for shape in shapes(group.bound)]
    return sorted(items, key=lambda item: (_preference(item), item.group.key))


def _preference(item: Item) -> tuple[Any, ...]:
    """bf16 before other dtypes at each rank, forward before backward, head dim 128 before others."""
    values = [v for _, v in item.group.bound.settings]
    return (item.shape.rank, "bf16" not in values, item.shape.kind == "backward", 128 not in values)


def shapes(bound: Bound) -> list[Shape]:
    """Those that the spec's limits and requirements admit, no two alike."""
    meaning = recognised(bound)
    found = _attention(bound, meaning) if meaning is not None and meaning.operation.startswith(ATTENTION) else []
    if not found:
        kind = "other"
        named = (*bound.spec.heldout_shapes, *bound.spec.search_shapes)
        found = [Shape(s.name, kind, s.sizes, (place,)) for place, s in enumerate(named)] or _by_limits(bound)
    fitting = [s for s in found if check_requires(bound, dict(s.sizes))]
    return list({s.sizes: s for s in reversed(fitting)}.values())[::-1]


def _by_limits(bound: Bound) -> list[Shape]:
    """For a spec that names no shapes: every size alike, the largest that fits its limits and `MOST` bytes."""
    for n in (4096, 1024, 256, 64, 16, 4, 1):
        sizes = {d.name: min(max(n, d.minimum), d.maximum) for d in bound.dims}
        if check_requires(bound, sizes) and traffic_bytes(bound, sizes) <= MOST:
            return [Shape(str(n), "other", tuple(sizes.items()), (0,))]
    return []


@dataclass(frozen=True, slots=True)
class Roles:
    """The spec's names for the sizes of attention; `dim` is the head dim as a number."""

    batch: str
    heads: str
    groups: str
    rows: str
    keys: str
    dim: int


def _roles(bound: Bound, meaning: Meaning) -> Roles | None:
    """None when some extent is no plain size, or a further size would be left open."""
    tensors = {t.name: t for t, _ in bound.inputs}
    q, k = (tensors[name].shape for name in meaning.arguments[:2])
    if meaning.heads_third:
        q, k = ((x[0], x[2], x[1], x[3]) for x in (q, k))
    names = [_name(e) for e in (*q[:3], *k[1:3])]
    symbolic = {d.name for d in bound.dims}
    if not all(name in symbolic for name in names) or symbolic - set(names) or _name(q[3]) in symbolic:
        return None
    batch, heads, rows, groups, keys = names
    return Roles(batch, heads, groups, rows, keys, integer_value(bound, q[3], {}))


def _name(expr: Expr) -> str:
    return expr.id if isinstance(expr, Name) else ""


def _attention(bound: Bound, meaning: Meaning) -> list[Shape]:
    roles = _roles(bound, meaning)
    if roles is None:
        return []
    most = next(d.maximum for d in bound.dims if d.name == roles.rows)
    if most <= FEW_ROWS:
        return [_decode(roles, batch, cache, place) for place, (batch, cache) in enumerate(CACHES)]
    kind = "backward" if meaning.upstream else "forward"
    heads = max(1, HIDDEN // roles.dim)
    found = [
        _shape(roles, kind, f"{_short(n)}", (TOKENS // n, heads, heads, n, n), (2 * place,))
        for place, n in enumerate(LENGTHS)
    ]
    if heads >= 8 and roles.groups != roles.heads:
        found += [
            _shape(roles, kind, f"{_short(n)} 8:1", (TOKENS // n, heads, heads // 8, n, n), (5 + 4 * place,))
            for place, n in enumerate(GROUPED)
        ]
    found.append(_shape(roles, "other", "ragged", (2, heads, heads, 1000, 1531), (3,)))
    return found


def _decode(roles: Roles, batch: int, cache: int, place: int) -> Shape:
    heads, groups = DECODE_HEADS
    return _shape(roles, "decode", f"{batch} x {_short(cache)}", (batch, heads, groups, 1, cache), (2 * place,))


def _shape(roles: Roles, kind: str, name: str, values: tuple[int, ...], rank: tuple[int, ...]) -> Shape:
    batch, heads, groups, rows, keys = values
    sizes: Mapping[str, int] = {
        roles.batch: batch, roles.heads: heads, roles.groups: groups, roles.rows: rows, roles.keys: keys,
    }  # fmt: skip
    return Shape(name, kind, tuple(sizes.items()), rank)


def _short(n: int) -> str:
    return f"{n // 1024}k" if n % 1024 == 0 else str(n)
