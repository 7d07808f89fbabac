"""The loops of a machine program: which instructions repeat together, how deep, and what is outside of any loop.

Basic blocks and their edges; dominators (Cooper, Harvey, Kennedy, "A simple, fast dominance algorithm", 2001); an edge
to a block that dominates its source closes a natural loop. A cold block that jumps back to the middle of the hot path
closes none, which is why addresses alone would not do. Loops that only spin on a signal, or do nothing, are no loops of
the program: the wait in them stands for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowering.instructions import Instruction

SPIN = 8  # instructions of a loop that at most polls


@dataclass(frozen=True, slots=True)
class Loop:
    """`body`: what each iteration runs, in address order, without the loops inside; `depth` 1 for an outermost one."""

    depth: int
    body: tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """`straight`: what runs once. Both sides of a branch count as run."""

    straight: tuple[Instruction, ...]
    loops: tuple[Loop, ...]


def outline(instructions: Sequence[Instruction]) -> Outline:
    """Loops in address order of their first instruction, an outer one before those inside it."""
    blocks = _blocks(instructions)
    successors = _successors(blocks)
    order = _reachable(successors)
    parents = _dominators(order, successors)
    members = _loops(order, successors, parents)
    kept = {head: inside for head, inside in members.items() if not _spins([blocks[b] for b in inside])}
    asked = {head for head in members.keys() - kept.keys() if any(i.waits_for for i in blocks[parents[head]])}
    found: dict[int | None, list[Instruction]] = {None: []} | {head: [] for head in kept}
    for number, block in enumerate(blocks):
        if number not in parents or any(number in members[head] for head in asked):
            continue  # what nothing reaches; polling again for what the block before has asked for
        around = [head for head, inside in kept.items() if number in inside]
        innermost = min(around, key=lambda head: len(kept[head]), default=None)
        found[innermost] += block
    loops = tuple(Loop(sum(head in inside for inside in kept.values()), tuple(found[head])) for head in sorted(kept))
    return Outline(tuple(found[None]), loops)


def _blocks(instructions: Sequence[Instruction]) -> list[list[Instruction]]:
    starts = {i.target for i in instructions if i.target is not None}
    blocks: list[list[Instruction]] = []
    fresh = True
    for i in instructions:
        if fresh or i.at in starts:
            blocks.append([])
        blocks[-1].append(i)
        fresh = i.target is not None or not i.falls
    return blocks


def _successors(blocks: list[list[Instruction]]) -> list[list[int]]:
    at = {block[0].at: number for number, block in enumerate(blocks)}
    found = []
    for number, block in enumerate(blocks):
        last = block[-1]
        after = [number + 1] if last.falls and number + 1 < len(blocks) else []
        jump = at.get(last.target) if last.target is not None else None
        found.append([*after, *([] if jump is None or jump in after else [jump])])
    return found


def _reachable(successors: list[list[int]]) -> list[int]:
    """Blocks in reverse postorder from the first."""
    if not successors:
        return []
    seen, done, stack = {0}, [], [(0, iter(successors[0]))]
    while stack:
        block, rest = stack[-1]
        following = next((s for s in rest if s not in seen), None)
        if following is None:
            done.append(block)
            stack.pop()
        else:
            seen.add(following)
            stack.append((following, iter(successors[following])))
    return done[::-1]


def _dominators(order: list[int], successors: list[list[int]]) -> dict[int, int]:
    """The immediate dominator of every reachable block; the first is its own."""
    rank = {block: number for number, block in enumerate(order)}
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for following in successors[block]:
            before[following].append(block)
    parents = {order[0]: order[0]} if order else {}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [b for b in before[block] if b in parents]
            best = known[0]
            for other in known[1:]:
                best = _meet(best, other, parents, rank)
            if parents.get(block) != best:
                parents[block] = best
                changed = True
    return parents


def _meet(a: int, b: int, parents: dict[int, int], rank: dict[int, int]) -> int:
    while a != b:
        while rank[a] > rank[b]:
            a = parents[a]
        while rank[b] > rank[a]:
            b = parents[b]
    return a


def _loops(order: list[int], successors: list[list[int]], parents: dict[int, int]) -> dict[int, set[int]]:
    """Blocks of every natural loop by its head; loops with one head are one."""
    before: dict[int, list[int]] = {block: [] for block in order}
    for block in order:
        for following in successors[block]:
            before[following].append(block)
    found: dict[int, set[int]] = {}
    for block in order:
        for head in successors[block]:
            if _dominates(head, block, parents):
                inside = found.setdefault(head, {head})
                stack = [block]
                while stack:
                    b = stack.pop()
                    if b not in inside:
                        inside.add(b)
                        stack += before[b]
    return found


def _dominates(a: int, b: int, parents: dict[int, int]) -> bool:
    while b != a and parents[b] != b:
        b = parents[b]
    return a == b


def _spins(blocks: list[list[Instruction]]) -> bool:
    """Whether a loop does nothing but poll: no unit of the machine is used but to ask."""
    body = [i for block in blocks for i in block]
    return len(body) <= SPIN and all(i.unit in ("", "alu") for i in body)
