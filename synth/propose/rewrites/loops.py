"""Rewrites of loops: what is computed in them, and in which order they run.

They reason about names only (what a statement assigns and reads); whether a changed order keeps the meaning, for
additions in another order say, is the gate's to decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ir.ast import Assign, Binary, Call, Expr, For, Module, Name, Statement, Store
from synth.propose.rewrites.rewrite import Rewrite, Site, Subject
from synth.propose.tree import Node, assigns, nodes, one_place, reads, renamed, without_comments

COSTLY = frozenset("load dot exp exp2 log log2 sqrt tanh sigmoid sum max min where cast trans random".split())


def hoist(subject: Subject) -> Iterator[Module]:
    """What is the same in every iteration of a loop is computed once before it: all assignments of the body that read
    nothing the loop changes, or one such part of an expression (a load, a product, an exponential). Applies where a
    loop's body holds one. Saves work in every iteration; costs registers through the loop."""
    for site, k, loop in loops(subject):
        if moved := _invariant(loop):
            kept = tuple(s for s in loop.body if s not in moved)
            if kept:
                outside, kept = _apart(site, moved, kept)
                yield site.splice(k, k + 1, *outside, replace(loop, body=kept))
        changing = assigns(loop.body) | {loop.variable, *loop.carried}
        for part in dict.fromkeys(_costly_parts(loop.body, changing)):
            kind = site.type(k, part)
            if kind is None or not (kind.shape or kind.dtype.is_float):
                continue
            name = subject.fresh("fixed")
            body = tuple(_replaced(s, part, Name(name)) for s in loop.body)
            yield site.splice(k, k + 1, Assign(name, part), replace(loop, body=body))


def _invariant(loop: For) -> tuple[Assign, ...]:
    """Assignments of a loop's body, in order, whose values no iteration changes."""
    changing = assigns(loop.body) | {loop.variable, *loop.carried}
    count = [n.name for n in nodes(loop.body) if isinstance(n, Assign)]
    moved = list[Assign]()
    for statement in loop.body:
        match statement:
            case Assign(name, value) if not reads(value) & changing and count.count(name) == 1:
                if name not in loop.carried:
                    moved.append(statement)
                    changing -= {name}
    return tuple(moved)


def _apart(
    site: Site, moved: tuple[Assign, ...], kept: tuple[Statement, ...]
) -> tuple[tuple[Statement, ...], tuple[Statement, ...]]:
    """Names that leave a loop and mean something elsewhere in the kernel too get another one."""
    used = [n.name for n in nodes(site.kernel.body) if isinstance(n, Assign)]
    names: dict[str, str] = {}
    for statement in moved:
        if used.count(statement.name) > 1:
            names[statement.name] = site.subject.fresh(statement.name, *names.values())
    outside: tuple[Statement, ...] = renamed(moved, names)
    return outside, renamed(kept, names)


def _costly_parts(node: Node, changing: frozenset[str]) -> Iterator[Expr]:
    """The largest parts of expressions that are worth a name and read nothing that changes."""
    match node:
        case tuple():
            for item in node:
                yield from _costly_parts(item, changing)
        case Assign(value=value):
            yield from _costly_parts(value, changing) if not _is_costly(value, changing) else ()
        case For(body=body):
            yield from _costly_parts(body, changing)
        case Store(value=value):
            yield from _costly_parts(value, changing)
        case Call() | Binary() if _is_costly(node, changing):
            yield node
        case _ if hasattr(node, "span"):
            for inner in _children(node):
                yield from _costly_parts(inner, changing)


def _children(node: Node) -> Iterator[Node]:
    match node:
        case Call(_, args, keywords):
            yield from args
            yield from (value for _, value in keywords)
        case Binary(_, left, right):
            yield from (left, right)
        case _ if hasattr(node, "operand"):
            yield node.operand


def _is_costly(node: Node, changing: frozenset[str]) -> bool:
    if reads(node) & changing:
        return False
    return any(isinstance(n, Call) and n.function in COSTLY for n in nodes(node))


def _replaced(node: Node, old: Expr, new: Expr) -> Node:
    for changed in one_place(node, lambda n: iter((new,)) if n == old else iter(())):
        return _replaced(changed, old, new)
    return node


def reload(subject: Subject) -> Iterator[Module]:
    """The opposite of hoisting: a load before a loop, of a value that only the loop reads, is done in each iteration.
    Frees the registers that held the tile throughout, for a load that a cache answers. Applies to loads of tiles."""
    for site, k, loop in loops(subject):
        for position, statement in enumerate(site.statements[:k]):
            match statement:
                case Assign(name, value) if _is_load(value) and name not in assigns(loop.body) | set(loop.carried):
                    between = (*site.statements[position + 1 : k], *site.statements[k + 1 :])
                    if name in reads(loop.body) and name not in reads(between) and name not in assigns(between):
                        inner = replace(loop, body=(statement, *loop.body))
                        yield site.splice(position, k + 1, *site.statements[position + 1 : k], inner)


def _is_load(value: Expr) -> bool:
    match value:
        case Call("load"):
            return True
        case Call("cast", (Call("load"), *_)):
            return True
        case _:
            return False


def fuse(subject: Subject) -> Iterator[Module]:
    """Two loops become one: neighbours over adjacent ranges with the same body up to masks run through with the body
    of more conditions; neighbours over the same range, the second reading nothing the first changes, share their
    iterations and what both load. One loop reads less and keeps its pipeline full."""
    for site, k, first in loops(subject):
        other = next((n for n in range(k + 1, len(site.statements)) if isinstance(site.statements[n], For)), None)
        if other is None:
            continue
        second, between = site.statements[other], site.statements[k + 1 : other]
        assert isinstance(second, For)
        changed = set(first.carried) | {s.target.name for s in nodes(first.body) if isinstance(s, Store)}
        if any(isinstance(s, Store) for s in between) or reads(between) & changed:
            continue
        second = renamed(second, {second.variable: first.variable})
        if first.step != second.step:
            continue
        if first.stop == second.start and set(first.carried) == set(second.carried) and not between:
            body = max(second.body, first.body, key=_conditions)
            whole = replace(first, stop=second.stop, body=body, comment="")
            yield site.put(_without(first.stop, (*site.statements[:k], whole, *site.statements[other + 1 :])))
        if (first.start, first.stop) == (second.start, second.stop) and not reads(second) & set(first.carried):
            carried = (*first.carried, *second.carried)
            merged = replace(first, carried=carried, body=_merged(subject, first, second))
            yield site.splice(k, other + 1, *between, merged)


def _without(bound: Expr, statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The statements without the one that names a bound that none of them reads any more."""
    if not isinstance(bound, Name) or bound.id in reads(statements):
        return statements
    return tuple(s for s in statements if not isinstance(s, Assign) or s.name != bound.id)


def _conditions(body: tuple[Statement, ...]) -> int:
    return sum(isinstance(n, Binary) and n.op in ("<", "<=", ">", ">=") for n in nodes(body))


def _merged(subject: Subject, first: For, second: For) -> tuple[Statement, ...]:
    """Both bodies, what they compute alike once; names of the second that mean something else in the first change."""
    count = [n.name for n in nodes(first.body) if isinstance(n, Assign)]
    body, names = list(first.body), dict[str, str]()
    for statement in second.body:
        statement = renamed(statement, names)
        if statement in body and isinstance(statement, Assign) and count.count(statement.name) == 1:
            if statement.name not in second.carried:
                continue
        if isinstance(statement, Assign) and statement.name in count and statement.name not in names.values():
            fresh = subject.fresh(statement.name, *names.values())
            names[statement.name] = fresh
            statement = replace(statement, name=fresh)
        body.append(statement)
    return tuple(body)


def distribute(subject: Subject) -> Iterator[Module]:
    """One loop that carries several values becomes two over the same range, each with some of them and only the
    statements those need. Applies where neither part's next values depend on the other's. Fewer values live at once,
    for computing twice what both need: what spills registers may fit."""
    for site, k, loop in loops(subject):
        stored = [s for s in loop.body if isinstance(s, (Store, For))]
        for chosen in _independent(loop):
            first, second = (_slice(loop, names) for names in (chosen, set(loop.carried) - chosen))
            if all((s in first.body) != (s in second.body) for s in stored):
                yield site.splice(k, k + 1, first, replace(second, body=without_comments(second.body)))


def _independent(loop: For) -> Iterator[set[str]]:
    """Parts of the carried names that do not depend on the rest, nor the rest on them; of two complements one."""
    everything = set(loop.carried)
    found = list[set[str]]()
    for name in loop.carried:
        part = _closed(loop, {name})
        if part != everything and part not in found and everything - part not in found:
            if _closed(loop, everything - part) == everything - part:
                found.append(part)
    yield from found


def _closed(loop: For, names: set[str]) -> set[str]:
    """The carried names that these depend on, with them."""
    wider = set(loop.carried) & (names | reads(_slice(loop, names).body))
    return names if wider == names else _closed(loop, wider)


def _slice(loop: For, names: set[str]) -> For:
    """The loop with only the statements that these carried names need."""
    needed, kept = set(names), list[Statement]()
    for statement in reversed(loop.body):
        writes = assigns(statement) | (set(statement.carried) if isinstance(statement, For) else set())
        if writes & needed:
            kept.insert(0, statement)
            needed |= reads(statement)
    return replace(loop, carried=tuple(c for c in loop.carried if c in names), body=tuple(kept))


def interchange(subject: Subject) -> Iterator[Module]:
    """The inner loop of a nest becomes the outer one. Applies where the outer body is assignments and one loop whose
    range the outer variable does not change, and both carry the same. What depends on the new outer variable alone is
    loaded once for all iterations of the new inner loop."""
    for site, k, outer in loops(subject):
        inner = outer.body[-1]
        if not isinstance(inner, For) or set(inner.carried) != set(outer.carried):
            continue
        before = outer.body[:-1]
        if any(not isinstance(s, Assign) or s.name in outer.carried for s in before):
            continue
        above, within = _parted(before, {outer.variable})
        if reads((inner.start, inner.stop)) & ({outer.variable} | assigns(within)):
            continue
        changing = {outer.variable, *assigns(within), *outer.carried}
        early, late = _parted(inner.body, changing)
        if any(isinstance(s, Store) for s in early):
            early, late = (), inner.body
        loop = replace(outer, body=(*within, *late))
        yield site.splice(k, k + 1, *above, replace(inner, body=(*early, loop)))


def _parted(body: tuple[Statement, ...], changing: set[str]) -> tuple[tuple[Statement, ...], tuple[Statement, ...]]:
    """(assignments that read nothing of `changing` or of what depends on it, the rest), each in order."""
    changing = set(changing)
    fixed, rest = list[Statement](), list[Statement]()
    count = [n.name for n in nodes(body) if isinstance(n, Assign)]
    for statement in body:
        if isinstance(statement, Assign) and not reads(statement.value) & changing and count.count(statement.name) == 1:
            fixed.append(statement)
        else:
            rest.append(statement)
            changing |= assigns(statement)
    return tuple(fixed), tuple(rest)


def loops(subject: Subject) -> Iterator[tuple[Site, int, For]]:
    """Every loop with the block it stands in and its position there."""
    for site in subject.sites():
        for k, statement in enumerate(site.statements):
            if isinstance(statement, For):
                yield site, k, statement


REWRITES = (
    Rewrite("hoist", hoist),
    Rewrite("reload", reload),
    Rewrite("fuse-loops", fuse),
    Rewrite("distribute-loop", distribute),
    Rewrite("interchange", interchange),
)
