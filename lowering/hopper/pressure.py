"""How many registers of a lane a consumer's tiles take, at most at one time: what a schedule is chosen by.

Liveness of the asynchronous program (names read later, operands and results of dots in flight), each tile spread over
the consumer's warps as `lowering.hopper.layouts` spreads it. Masks, index vectors and scalars are left out: they are
made where they are used. An estimate: the compiler's own count decides what is spilled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ir.program import Expand, Let, Type, Var
from lowering.hopper.async_program import AsyncKernel, If, IssueDot, Loop, Read, Statement, WaitDots
from lowering.hopper.flatten import names_in
from lowering.hopper.layouts import registers
from lowering.plan import walk

LANES_OF_A_ROW = 4  # of a dot's result: each has a fourth of a row's columns, in two rows of a warp's sixteen
ROWS_OF_A_LANE = 2


def most_held(kernel: AsyncKernel) -> int:
    """Registers of a lane, where most are held."""
    types = {s.name: s.value.type for s in walk(kernel.consumer) if isinstance(s, Let)}
    types |= {s.name: s.type for s in walk(kernel.consumer) if isinstance(s, Read | IssueDot)}
    types |= {c.name: c.type for s in walk(kernel.consumer) if isinstance(s, Loop | If) for c in s.carries}
    along = {n.name: e.axis for e in walk(kernel.consumer) if isinstance(e, Expand)
             for n in walk(e.operand) if isinstance(n, Var)}  # fmt: skip
    warps = kernel.schedule.num_warps
    weights = {name: _registers(t, along.get(name), warps) for name, t in types.items() if t.dtype.is_float}
    found = _Liveness(weights)
    found.before(kernel.consumer, set())
    return found.most


def _registers(type_: Type, new_axis: int | None, warps: int) -> int:
    match type_.shape:
        case ():
            return 0
        case (n,):
            return n // LANES_OF_A_ROW if new_axis == 0 else ROWS_OF_A_LANE
        case _:
            return registers(type_, warps)


@dataclass(slots=True)
class _Liveness:
    weights: Mapping[str, int]
    most: int = field(default=0)

    def before(self, statements: Iterable[Statement], after: set[str]) -> set[str]:
        """The names wanted before a block, given those wanted after it."""
        block = tuple(statements)
        ends = _retired(block)
        live = set(after)
        for at in range(len(block) - 1, -1, -1):
            match block[at]:
                case Loop() | If() as s:
                    live = self._around(s, live)
                case WaitDots():
                    live |= {name for dot in ends.get(at, ()) for name in {dot.name, *names_in(dot.left)}}
                case Let(name=name) | Read(name=name) | IssueDot(name=name) as s:
                    live = (live - {name}) | (names_in(s) - {name})
                case s:
                    live |= names_in(s)
            self.most = max(self.most, sum(self.weights.get(name, 0) for name in live))
        return live

    def _around(self, s: Loop | If, after: set[str]) -> set[str]:
        """Before a loop or branch. What it reads from outside stays all the way round a loop."""
        carried = {c.name for c in s.carries}
        inside = carried | {n.name for n in walk(s.body) if isinstance(n, Let | Read | IssueDot)}
        inside |= {c.name for n in walk(s.body) if isinstance(n, Loop | If) for c in n.carries}
        around = (after - carried) | (names_in(s.body) - inside if isinstance(s, Loop) else set())
        begun = self.before(s.body, around | names_in(tuple(c.next for c in s.carries)))
        head = (s.start, s.stop) if isinstance(s, Loop) else s.condition
        return around | (begun - inside) | names_in((head, tuple(c.init for c in s.carries)))


def _retired(block: tuple[Statement, ...]) -> dict[int, list[IssueDot]]:
    """By its place, the dots that each wait of a block retires."""
    flying: list[IssueDot] = []
    found: dict[int, list[IssueDot]] = {}
    for at, s in enumerate(block):
        if isinstance(s, IssueDot):
            flying.append(s)
        elif isinstance(s, WaitDots):
            done = max(0, len(flying) - s.pending)
            found[at], flying = flying[:done], flying[done:]
    return found
