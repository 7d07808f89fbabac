"""Rewrites of tile sizes and schedules: the same algorithm at another working point of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from ir.ast import Kernel, Module, Name, Number
from ir.program import Binary, For
from lowering.plan import walk
from lowering.unit_factors import carried_tiles, scaling
from synth.propose.rewrites.rewrite import Rewrite, Subject

WARPS = (1, 2, 4, 8, 16)
STAGES = tuple(range(1, 9))
REGISTERS = (64, 96, 128, 168, 224, 255)  # per thread: what 8 to 2 warps a scheduler leave of 64 Ki registers
SMALLEST = 16  # the least extent a tensor core's product has


def halve_tile(subject: Subject) -> Iterator[Module]:
    """Half of one meta. A smaller tile needs fewer registers and less shared memory, so that more programs run at
    once and a short sequence fills the machine; applies to every even meta of 32 and more."""
    yield from _resized(subject, lambda size: size // 2 if size % 2 == 0 and size // 2 >= SMALLEST else None)


def double_tile(subject: Subject) -> Iterator[Module]:
    """Twice one meta. A larger tile reads each operand less often; applies as far as the language's limits on tiles
    and on what fits a program go."""
    yield from _resized(subject, lambda size: size * 2)


def _resized(subject: Subject, resize: Callable[[int], int | None]) -> Iterator[Module]:
    metas = subject.module.metas
    for k, meta in enumerate(metas):
        size = resize(subject.metas[meta.name])
        if size is not None and isinstance(meta.value, Number):
            changed = replace(meta, value=Number(Fraction(size)))
            yield replace(subject.module, metas=(*metas[:k], changed, *metas[k + 1 :]))


def more_warps(subject: Subject) -> Iterator[Module]:
    """Twice the warps of one kernel: a tile is spread over more threads, and latency is hidden better."""
    yield from _rescheduled(subject, "num_warps", lambda now: _next(WARPS, now, 1))


def fewer_warps(subject: Subject) -> Iterator[Module]:
    """Half the warps of one kernel: less to synchronise, and more programs to a multiprocessor."""
    yield from _rescheduled(subject, "num_warps", lambda now: _next(WARPS, now, -1))


def more_stages(subject: Subject) -> Iterator[Module]:
    """One more stage of software pipelining in one kernel: loads run further ahead, for more shared memory. Applies
    to kernels with a loop."""
    yield from _rescheduled(subject, "num_stages", lambda now: _next(STAGES, now, 1))


def fewer_stages(subject: Subject) -> Iterator[Module]:
    """One stage of software pipelining less in one kernel: less shared memory. Applies to kernels with a loop."""
    yield from _rescheduled(subject, "num_stages", lambda now: _next(STAGES, now, -1))


def cap_registers(subject: Subject) -> Iterator[Module]:
    """Another limit on the registers a thread of one kernel may have, next to the present one, or none: fewer let more
    warps be resident at once, at the price of spills where they do not suffice."""
    for number, kernel in enumerate(subject.program.kernels):
        now = kernel.schedule.maxnreg
        lower = [r for r in REGISTERS if now is None or r < now]
        higher = [r for r in REGISTERS if now is not None and r > now]
        for value in (*lower[-2:][::-1], *higher[:1]):
            yield subject.with_kernel(number, with_setting(subject.module.kernels[number], "maxnreg", value))
        if now is not None:
            yield subject.with_kernel(number, with_setting(subject.module.kernels[number], "maxnreg", None))


def take_turns(subject: Subject) -> Iterator[Module]:
    """Persistent programs for one kernel, or none any more: as many as run at once take its tiles in turns, so that a
    program's first loads arrive while its last tile is finished. Applies to kernels with a grid."""
    for number, kernel in enumerate(subject.program.kernels):
        if kernel.grid:
            value = None if kernel.schedule.persistent else True
            yield subject.with_kernel(number, with_setting(subject.module.kernels[number], "persistent", value))


def skip_ones(subject: Subject) -> Iterator[Module]:
    """A carried tile is no longer multiplied by its factors for rows or columns where all of them are 1, or is again.
    A branch for which all warps must agree, against a multiplication of every element: worth a try where factors are
    rarely anything but 1, as with a pivot that moves lazily. Applies to kernels with such a multiplication."""
    for number, kernel in enumerate(subject.program.kernels):
        loops = (n for n in walk(kernel.body) if isinstance(n, For))
        if any(isinstance(n, Binary) and scaling(n, carried_tiles(loop)) for loop in loops for n in walk(loop)):
            value = None if kernel.schedule.skip_ones else True
            yield subject.with_kernel(number, with_setting(subject.module.kernels[number], "skip_ones", value))


def _rescheduled(subject: Subject, setting: str, change: Callable[[int], int | None]) -> Iterator[Module]:
    for number, kernel in enumerate(subject.program.kernels):
        if setting == "num_stages" and not any(isinstance(s, For) for s in kernel.body):
            continue
        value = change(getattr(kernel.schedule, setting))
        if value is not None:
            yield subject.with_kernel(number, with_setting(subject.module.kernels[number], setting, value))


def with_setting(kernel: Kernel, setting: str, value: int | None) -> Kernel:
    """The kernel with one entry of its schedule set (True: a flag), or with None taken out."""
    settings = dict(kernel.schedule)
    if value is None:
        settings.pop(setting, None)
    else:
        settings[setting] = Name("true") if value is True else Number(Fraction(value))
    return replace(kernel, schedule=tuple(settings.items()))


def _next(choices: tuple[int, ...], now: int, step: int) -> int | None:
    k = choices.index(now) + step
    return choices[k] if 0 <= k < len(choices) else None


REWRITES = (
    Rewrite("halve-tile", halve_tile),
    Rewrite("double-tile", double_tile),
    Rewrite("more-warps", more_warps),
    Rewrite("fewer-warps", fewer_warps),
    Rewrite("more-stages", more_stages),
    Rewrite("fewer-stages", fewer_stages),
    Rewrite("cap-registers", cap_registers),
    Rewrite("take-turns", take_turns),
    Rewrite("skip-ones", skip_ones),
)
