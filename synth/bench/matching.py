"""Which loop of the machine code is which loop of the program, so that trip counts meet cycles.

Loops with matrix products are matched with each other, and those without with each other, in order. The work of one
iteration tells the rest: a machine loop that does twice the program's products and exponentials is unrolled by two. A
compiler that gives roles to groups of warps makes one machine loop of each role; those that share the products of one
loop run at the same time. Around a persistent kernel's loops is one over turns, which is none of the program's. Where
the two do not fit together nothing is claimed: the caller falls back to the program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowering.phases import once
from synth.bench.counts import Cycle

Block = Mapping[str, Any]
SPECIAL_RATE = 4  # special functions a clock and partition, on every target
GROUP = 4  # warps of a warp group
UNSHAPED = ("UTCHMMA", "UTCQMMA", "UTCIMMA")  # products whose shape is not in the listing


@dataclass(frozen=True, slots=True)
class Matched:
    """`roles`: machine loops that run together, with the warps of each; `unroll` iterations in one of theirs."""

    loop: Cycle
    roles: tuple[tuple[Block, int], ...]
    unroll: int


def match(loops: Sequence[Cycle], blocks: Sequence[Block], warps: int, specialized: bool) -> tuple[Matched, ...] | None:
    """A partner for every loop of the program that is not empty, or None."""
    with_dots, others = [c for c in loops if c.dots], [c for c in loops if not c.dots]
    busy = [b for b in blocks if _dots(b)]
    found = _specialized(with_dots, busy) if specialized else _in_order(with_dots, busy, warps)
    if found is None:
        return None
    rest = [b for b in blocks if not _dots(b)]
    if specialized:  # the rest are loads, and loops in which warps wait for work
        return found if all(float(c.entries.max()) <= 1.0 for c in others) else None
    plain = _in_order(others, rest, warps)
    return None if plain is None else (*found, *plain)


def turn_of(code: Mapping[str, Any], inner: bool) -> Mapping[str, Any] | None:
    """Of a persistent kernel's machine code what one turn is, in the form of a kernel's that is not: what its loop over
    turns does itself is straight, and the loops inside it are the outermost. `inner`: whether the program has loops of
    its own. None where no loop is one over turns."""
    loops = code["loops"]
    outer = [
        at for at, loop in enumerate(loops)
        if loop["depth"] == 1 and (not inner or (at + 1 < len(loops) and loops[at + 1]["depth"] > 1))
    ]  # fmt: skip
    if not outer:
        return None
    turn = max(outer, key=lambda at: _issued(loops[at]))
    rest = [{**loop, "depth": max(1, loop["depth"] - 1)} for at, loop in enumerate(loops) if at not in outer]
    return {"straight": once(loops[turn]), "loops": rest}


def _dots(block: Block) -> bool:
    return bool(block["flops"]) or any(op in UNSHAPED for op in block["ops"])


def _in_order(loops: Sequence[Cycle], blocks: Sequence[Block], warps: int) -> tuple[Matched, ...] | None:
    if len(blocks) < len(loops):
        return None
    if len(blocks) > len(loops):  # what an unrolled loop leaves over is a loop of its own, a small one
        largest = sorted(blocks, key=_issued)[len(blocks) - len(loops) :]
        blocks = [b for b in blocks if any(b is x for x in largest)]
    return tuple(Matched(c, ((b, warps),), _unroll(c, b, warps)) for c, b in zip(loops, blocks, strict=True))


def _specialized(loops: Sequence[Cycle], blocks: Sequence[Block]) -> tuple[Matched, ...] | None:
    """Every role holds its own copy of every loop, one role after another, and as many warp groups as the products
    of the loop take."""
    if not loops or len(blocks) % len(loops):
        return None
    count = len(loops)
    found = []
    for number, loop in enumerate(loops):
        own = blocks[number::count]
        done = sum(b["flops"] for b in own)  # of one warp in each role
        warps = max(1, round(loop.dots / done / GROUP)) * GROUP if done else GROUP
        found.append(Matched(loop, tuple((b, warps) for b in own), 1))
    return tuple(found)


def _issued(block: Block) -> int:
    return sum(int(phase.get("issue", 0)) for phase in block["phases"])


def _unroll(loop: Cycle, block: Block, warps: int) -> int:
    """The smaller of two ratios, since layouts may repeat products or exponentials but never leave some out."""
    ratios = []
    if block["flops"]:
        ratios.append(block["flops"] * warps / loop.dots)
    special = sum(phase.get("special", 0) for phase in block["phases"]) * SPECIAL_RATE * warps
    if loop.special and special:
        ratios.append(special / loop.special)
    return max(1, int(min(ratios) + 0.25)) if ratios else 1
