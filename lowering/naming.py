"""Which single-assignment names may share one name in the emitted text, so that loops read as written.

The typed core assigns each name once: the candidate's `m = maximum(m, ...)` in a loop is three names, one
before the loop, one carried, one computed in the body. Two of them may be one variable when the first
is dead once the second is born; that is all this module decides. The check is local to a block: the
later uses of a name defined in a block are the statements after it and, at the end of a loop's body,
the loop's next values. A pair that fails keeps two names and a copy, which is always right.
"""

from __future__ import annotations

from ir.program import Carry, For, Kernel, Let, Statement, Var
from lowering.plan import walk


def shared_names(kernel: Kernel) -> dict[str, str]:
    """For each name that shares another's variable, that variable's name."""
    names: dict[str, str] = {}
    _block(kernel.body, (), names)
    return names


def _uses(name: str, nodes: object) -> bool:
    return any(isinstance(n, Var) and n.name == name for n in walk(nodes))


def _block(statements: tuple[Statement, ...], carries: tuple[Carry, ...], names: dict[str, str]) -> None:
    """`carries`: those of the loop whose body this is; their next values are read when the block ends."""
    local = {carry.name for carry in carries}
    nexts = tuple(carry.next for carry in carries)
    for at, statement in enumerate(statements):
        if isinstance(statement, Let):
            local.add(statement.name)
        if not isinstance(statement, For):
            continue
        later = (*statements[at + 1 :], *nexts)
        for carry in statement.carries:
            if isinstance(carry.init, Var) and carry.init.name in local:
                _share_init(statement, carry, carry.init.name, later, names)
            if isinstance(carry.next, Var):
                _share_next(statement, carry, carry.next.name, names)
        local |= {carry.name for carry in statement.carries}
        _block(statement.body, statement.carries, names)


def _share_init(loop: For, carry: Carry, name: str, later: tuple[object, ...], names: dict[str, str]) -> None:
    """The value before the loop and the carried one: the former must not be read in or after the loop."""
    others = tuple(c.init for c in loop.carries if c is not carry)
    inside = (loop.body, tuple(c.next for c in loop.carries))
    if not any(_uses(name, nodes) for nodes in (others, inside, later)):
        names[carry.name] = names.get(name, name)


def _share_next(loop: For, carry: Carry, name: str, names: dict[str, str]) -> None:
    """The carried value and the next: the former must not be read once the body has computed the latter."""
    defined = next((at for at, s in enumerate(loop.body) if isinstance(s, Let) and s.name == name), None)
    if defined is None or name in names:
        return
    others = tuple(c.next for c in loop.carries if c is not carry)
    if not _uses(carry.name, loop.body[defined + 1 :]) and not _uses(carry.name, others):
        names[name] = names.get(carry.name, carry.name)
