"""What the cost model needs of a kernel's machine code: its loops as phases between the points where a warp waits.

A *phase* is what one warp issues until it stops for somebody else: for matrix products it has started ("dots"), loads
it has asked for ("loads"), a signal ("signal"), the other warps of its program ("barrier"); or until it has started a
group of matrix products that run by themselves ("start"). For each phase: cycles that every unit of the warp's
partition is held, issue slots, and `alone`, the cycles it takes when nothing else is resident, from the compiler's own
stall counts and scoreboards. Nothing of this is trusted or needed to run a kernel.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lowering.instructions import UNITS, Instruction, read_amd, read_sass
from lowering.outline import outline

ASYNC = ("HGMMA", "IGMMA", "QGMMA", "BGMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCMXQMMA")
LOADS = ("LDGSTS", "UTMALDG", "UBLKCP")
SPILLS = ("LDL", "STL", "scratch_load", "scratch_store")


def code_summary(listing: str, target: str) -> dict[str, Any] | None:
    """Plain data of a disassembly, as kept with a certificate's resources; None where it cannot be read.

    {"straight": block, "loops": [block..]}; a block is {"depth", "phases", "ops", "flops", "spills"}: `ops` counts of
    instructions by name, `flops` of one warp, `spills` loads and stores of spilled registers. Code outside of loops is
    one phase, with how often it "stops" for loads or a signal. A phase is a mapping with
    "until" (and "left") and, where not 0, "alone", "issue", the units, "dots" (tensor cycles of what it starts),
    "started" (instructions of that), "groups" (of asynchronous copies, closed here) and "asks" (copies).
    """
    instructions = read_sass(listing, target) if target.startswith("sm_") else read_amd(listing)
    if not instructions:
        return None
    found = outline(instructions)
    return {
        "straight": once(_block(found.straight, 0)),
        "loops": [_block(loop.body, loop.depth) for loop in found.loops],
    }


def _block(body: Sequence[Instruction], depth: int) -> dict[str, Any]:
    ops = Counter(i.op for i in body)
    return {
        "depth": depth,
        "phases": list(_phases(body, repeats=depth > 0)),
        "ops": dict(sorted(ops.items())),
        "flops": sum(i.flops for i in body),
        "spills": sum(n for op, n in ops.items() if op.startswith(SPILLS)),
    }


def once(block: dict[str, Any]) -> dict[str, Any]:
    """A block that runs once, not in a loop: its phases added up."""
    total: Counter[str] = Counter()
    for phase in block["phases"]:
        total.update({k: v for k, v in phase.items() if k not in ("until", "left")})
        total["stops"] += phase["until"] in ("loads", "signal")
    return {**block, "phases": [{"until": "", "left": 0, **{k: v for k, v in total.items() if v}}]}


def _phases(body: Sequence[Instruction], repeats: bool) -> Iterator[dict[str, Any]]:
    """Phases in order; what the last one does belongs before the first wait of the next iteration."""
    starts = _issue_times(body, repeats)
    begun = starts[0] if starts else 0.0
    phase: dict[str, float] = defaultdict(float)
    for i, at, after in zip(body, starts[1:], (*starts[2:], starts[-1]), strict=True):
        if i.waits_for:
            yield _phase(phase, at - begun, i.waits_for, i.left)
            phase, begun = defaultdict(float), at
        phase["issue"] += 1
        if i.unit == "tensor" and i.op in ASYNC:
            phase["dots"] += i.cycles
        elif i.unit:
            phase[i.unit] += i.cycles
        phase["groups"] += i.commits and i.op not in ASYNC
        phase["asks"] += i.op in LOADS
        phase["started"] += i.op in ASYNC
        if i.commits and i.op in (*ASYNC, "UTCBAR") and phase["started"]:
            yield _phase(phase, after - begun, "start", 0)
            phase, begun = defaultdict(float), after
    if phase:
        yield _phase(phase, starts[-1] - begun, "", 0)


def _phase(phase: Mapping[str, float], alone: float, until: str, left: int) -> dict[str, Any]:
    return {"until": until, "left": left, "alone": round(alone), **{k: round(v) for k, v in phase.items() if v}}


def _issue_times(body: Sequence[Instruction], repeats: bool) -> list[float]:
    """When the body starts and when each instruction has issued, for one warp alone; of a loop its second iteration,
    when results of the first are awaited."""
    now = 0.0
    boards = [0.0] * 6
    free = dict.fromkeys(UNITS, 0.0)
    times: list[float] = []
    for _ in range(2 if repeats else 1):
        times = [now]
        for i in body:
            now = max([now, *(boards[s] for s in i.needs)])
            if i.unit and i.op not in ASYNC:
                now = max(now, free[i.unit])
                free[i.unit] = now + i.cycles
            for s in i.sets:
                boards[s] = max(boards[s], now + i.latency)
            now += i.stall
            times.append(now)
    return times
