"""The embedded proposer: candidates composed from the spec's structure, without a network.

The first ones are the fast forms known for the spec's head dim, then algorithms that differ from them in one choice;
after them come all combinations in an order that only the seed decides. Choices that make no difference for a spec are
left out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from ir.diagnostics import TypeProblem
from ir.parser import parse
from ir.printer import print_module
from ir.program import Binary, Dot, DType, Load, Program, Reduce, Unary
from ir.spec import Bound
from ir.typing import check
from lowering.plan import walk
from synth.propose import Candidate, NothingToPropose
from synth.propose.choices import Choices, DoesNotApply
from synth.propose.compose import compose

_FAST = Choices(rows=128, keys=64, split=True, base2=True, warps=8)
_SPECIALISED = replace(_FAST, specialise=True)
# By the longest static extent (the head dim): tiles and schedules that fill a multiprocessor of sm_90, the first two
# without spills wherever a kernel runs; benchmarks/LOG.md says what is known of each. With four warps a tile of 128
# rows takes the registers of 256, so that two programs fit, and Triton specialises warps itself. The last holds the
# versions of the first, and persistent ones of them.
FAST = {
    64: (
        replace(_SPECIALISED, keys=128),
        _FAST,
        replace(_FAST, rows=64, warps=4),
        replace(_SPECIALISED, warps=4),
        replace(_SPECIALISED, keys=128, persistent=True),
    ),
    128: (
        replace(_SPECIALISED, keys=128),
        replace(_FAST, stages=3),
        replace(_FAST, warps=4),
        replace(_SPECIALISED, warps=4),
        replace(_SPECIALISED, keys=128, persistent=True),
    ),
    256: (_SPECIALISED, replace(_FAST, keys=32, stages=3), replace(_SPECIALISED, persistent=True)),
}
MAX_TILE = 2**15  # elements; a score that is no matrix product needs tiles of rank 3, which registers must hold
TILES = (Binary, Unary, Reduce, Load, Dot)


def propose(bound: Bound, seed: int = 0) -> Iterator[Candidate]:
    """Candidates for a spec, all different. Raises NothingToPropose if its formula has no structure known here."""
    seen: set[str] = set()
    reason: NothingToPropose | None = None
    for choices in (*leading(bound), *_others(seed)):
        choices = fitted(choices, bound)
        try:
            text = written(bound, choices)
            if largest_tile(check(parse(text), bound, text)) > MAX_TILE:
                choices = replace(choices, rows=min(choices.rows, 16), keys=min(choices.keys, 16))
                text = written(bound, choices)
        except DoesNotApply:
            continue
        except NothingToPropose as error:
            reason = error
            continue
        except TypeProblem as error:  # a tile over the language's limit, say
            reason = NothingToPropose(str(error))
            continue
        if text not in seen:
            seen.add(text)
            yield Candidate(named(choices), text, choices.named())
    if not seen:
        raise reason or NothingToPropose("no choice applies to this spec")


def leading(bound: Bound) -> tuple[Choices, ...]:
    """Blocks that need no mask apart, scores in units of exp2, tiles for this head dim; then other algorithms. Versions
    with specialised warps take as long to check as all others together, so they are not in what a run opens with."""
    first, second = (replace(choices, specialise=False) for choices in fast(bound)[:2])
    return (
        first,
        second,
        replace(second, split=False),
        Choices(),
        replace(second, split=False, pivot="lazy"),
        Choices(packed=True, base2=True),
        Choices(pivot="two-pass"),
        Choices(reverse=True, base2=True),
        fast(bound)[0],
        replace(second, persistent=True),
    )


def fast(bound: Bound) -> tuple[Choices, ...]:
    """The forms to measure first for a spec of this head dim, best first."""
    longest = longest_extent(bound)
    return FAST[min((extent for extent in FAST if extent >= longest), default=max(FAST))]


def longest_extent(bound: Bound) -> int:
    """The longest static extent, 1 if there is none."""
    return max((v for _, v in bound.settings if isinstance(v, int)), default=1)


def written(bound: Bound, choices: Choices) -> str:
    """The composed kernel in the language's one layout."""
    return print_module(parse(compose(bound, choices)))


def largest_tile(program: Program) -> int:
    """Elements of the largest tile a program computes with."""
    types = (node.type for kernel in program.kernels for node in walk(kernel.body) if isinstance(node, TILES))
    return max((math.prod(t.shape) for t in types), default=0)


def fitted(choices: Choices, bound: Bound) -> Choices:
    """Smaller tiles for float32 inputs: such products run without tensor cores and hold their operands in registers."""
    if not all(dtype is DType.F32 for tensor, dtype in bound.inputs if len(tensor.shape) > 2):
        return choices
    rows = min(choices.rows, 64 if longest_extent(bound) <= 64 else 32)
    return replace(choices, rows=rows, keys=min(choices.keys, 32), warps=8)


def _others(seed: int) -> list[Choices]:
    tiles = [(64, 32), (64, 64), (64, 128), (128, 32), (128, 64), (128, 128)]
    flags = (False, True)
    found = [
        Choices(rows, keys, split, base2, pivot, reverse, packed, warps=8 if rows == 128 else 4, stages=stages)
        for (rows, keys), split, base2, pivot, reverse, packed, stages in product(
            tiles, flags, (True, False), ("running", "lazy", "two-pass"), flags, flags, (2, 3)
        )
    ]
    random.Random(seed).shuffle(found)
    return found


def named(choices: Choices) -> str:
    """The name of the kernel of these choices."""
    parts = [f"{choices.rows}x{choices.keys}"]
    words = ("split", "packed", "reverse", "persistent", "specialise")
    parts += [word for word in words if getattr(choices, word)]
    parts += ["exp2" if choices.base2 else "exp", choices.pivot, f"w{choices.warps}s{choices.stages}"]
    parts += [f"r{choices.registers}"] if choices.registers else []
    return "-".join(parts)
