"""Emits asynchronous programs as one readable Gluon module.

Decides the frame: the kernel computes its program ids, allocates rings and barriers, and starts all partitions with
`gl.warp_specialize`; `lowering.hopper.emission` writes what they do. The consumer's rows are shared among teams of four
warps where its work allows it: teams drift apart, so that one computes while another waits for its dots, and a release
brings together the warps of one team only. The first team is the default partition, which gets the registers that the
others leave. A program's other kernels, those without dots, are emitted in Triton into the same module.

Lowering is not trusted: the asynchronous program is checked and simulated, the module run on the CPU and read back
when compiled, and a launcher compares its results on the device with another version's before it uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ir.program import Kernel, Load, Param, Program, Size, Store
from ir.spec import Bound
from lowering.accesses import BoxLoad, descriptor_name
from lowering.hopper.async_program import AsyncKernel, IssueDot, Loop, Ring, Statement
from lowering.hopper.emission import Partition, RingNames, free_names, single
from lowering.hopper.flatten import NotForHopper
from lowering.hopper.layouts import Mma, homes_of, registers
from lowering.hopper.readback import expected
from lowering.hopper.schedule import SCRATCH, SHARED, schedule
from lowering.hopper.writer import TEAM, Demands, GluonWriter, NotByRows
from lowering.intervals import Interval
from lowering.plan import argument_name, launch_of, stride_name, walk
from lowering.spelling import HELPERS
from lowering.triton import enter_sizes, header, kernel_lines, program_ids, signature, taken_names, widen_strides

RESERVED = frozenset({"gl", "gluon", "hopper", "mbarrier", "tma", "slot", "gl_floordiv", "gl_mod", "gl_tanh", TEAM})
IMPORTS = """from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
"""
TRITON_IMPORTS = "import triton\nimport triton.language as tl\n"
WARPGROUP = 4  # warps
HALF_OF_REGISTERS = 128  # a lane's at launch, of eight warps: two programs share a multiprocessor
FEW_REGISTERS = 96  # of a lane, for a loop's dots: more spill under that limit (seen in gradients)
PRODUCER_REGISTERS = 24  # a lane of the producer's warp; the least `setmaxnreg` gives
CONSUMER_REGISTERS = 240  # a lane of a second team's; the first has what is left
DTYPES = {"bf16": "gl.bfloat16", "f16": "gl.float16", "f32": "gl.float32"}


@dataclass(frozen=True, slots=True)
class Emitted:
    """`launches` as `lowering.plan.launches_of` gives them; `kernels`: those that have an asynchronous program;
    `reasons`: why the others have none."""

    source: str
    launches: list[dict[str, Any]]
    kernels: tuple[AsyncKernel, ...]
    reasons: Mapping[str, str]


def emit_program(
    program: Program,
    boxed: Program,
    bound: Bound,
    widths: Mapping[str, int],
    subject: str = "",
    index_widths: Mapping[str, int] | None = None,
) -> Emitted:
    """The module for a program; `boxed`: the same with its eligible loads as `BoxLoad`s. Widths as in
    `lowering.triton.emit_program`. Raises NotForHopper where no kernel has an asynchronous program."""
    sizes: dict[str, Interval] = {d.name: (d.minimum, d.maximum) for d in bound.dims}
    sizes |= {p.name: (int(p.lower), int(p.upper)) for p in bound.spec.parameters if p.integer}
    helpers: dict[str, str] = {}
    definitions: set[str] = set()
    parts, launches, kernels, reasons = [], [], [], {}
    for plain, kernel in zip(program.kernels, boxed.kernels, strict=True):
        bits = (index_widths or widths)[kernel.name], widths[kernel.name]
        try:
            found = _hopper_kernel(kernel, boxed, sizes, bits)
            kernels.append(found.plan)
            launches.append(found.launch)
            parts.append(found.text)
            definitions |= found.definitions
            helpers |= {f"gl {name}": _gluon(HELPERS[name]) for name in found.helpers}
        except NotForHopper as reason:
            reasons[kernel.name] = str(reason)
            lines, used = kernel_lines(plain, program, sizes, bits)
            launches.append(launch_of(plain, program))
            parts.append("\n".join(lines) + "\n")
            helpers |= {f"tl {name}": HELPERS[name].lstrip() for name in used}
    if not kernels:
        raise NotForHopper("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    imports = (TRITON_IMPORTS if reasons else "") + IMPORTS
    head = [header(program, bound, subject), imports, *sorted(definitions)]
    source = "\n".join(head) + "\n\n\n" + "\n\n".join([*(helpers[name] for name in sorted(helpers)), *parts])
    return Emitted(source, launches, tuple(kernels), reasons)


def _gluon(text: str) -> str:
    """Triton's text as Gluon's; the helpers of both may stand in one module."""
    text = re.sub(r"\btl\.", "gl.", text.replace("@triton.jit", "@gluon.jit"))
    return re.sub(r"\b_(floordiv|mod|tanh)\(", r"gl_\1(", text).lstrip()


# ---- a kernel --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Kernel:
    """One kernel's text, the layouts it names (their definitions), and what else its module and launcher need."""

    plan: AsyncKernel
    text: str
    definitions: set[str]
    helpers: set[str]
    launch: dict[str, Any]


def _hopper_kernel(
    kernel: Kernel, program: Program, sizes: Mapping[str, Interval], bits: tuple[int, int]
) -> _Kernel:
    plan = schedule(kernel)
    teams = plan.schedule.num_warps // WARPGROUP
    try:
        return _written(kernel, replace(plan, teams=teams), program, sizes, bits)
    except NotByRows:
        return _written(kernel, plan, program, sizes, bits)


def _written(
    kernel: Kernel, plan: AsyncKernel, program: Program, sizes: Mapping[str, Interval], bits: tuple[int, int]
) -> _Kernel:
    warps = plan.schedule.num_warps // plan.teams
    most = HALF_OF_REGISTERS if warps * plan.teams == WARPGROUP and _two_fit(plan) else None
    kernel = replace(kernel, schedule=replace(plan.schedule, num_warps=warps, maxnreg=most, warp_specialize=False))
    name, taken = argument_name(kernel.name), taken_names(kernel, program)
    if taken & RESERVED:
        raise NotForHopper(f"an argument is called {', '.join(sorted(taken & RESERVED))}")
    taken |= RESERVED | {f"{name}_producer", f"{name}_consumer"}
    frame = GluonWriter(bits[0], sizes, taken, warps=warps)
    rings = {r.name: _ring_names(frame, r) for r in plan.rings}
    enter_sizes(frame, kernel)
    if bits[0] < bits[1]:
        widen_strides(frame, kernel, program, bits[1])
    program_ids(frame, kernel)
    _allocate(frame, plan, rings)
    functions, definitions, helpers = [], set[str](), set(frame.helpers)
    frame.line(1, "gl.warp_specialize(")
    frame.line(2, "[")
    for role, statements in (("consumer", plan.consumer), ("producer", plan.producer)):
        alone = role == "producer" or plan.teams == 1
        w, layouts = _partition(frame, plan, rings, statements, 1 if role == "producer" else warps, alone)
        rows = [f"{row}," for row in _arguments(w, plan, rings, statements, program, role)]
        head = ["@gluon.jit", f"def {name}_{role}(", *_indented(rows, 1)]
        head += [] if alone else [f"    {TEAM}: gl.constexpr,"]
        functions.append("\n".join([*head, "):", *w.lines]) + "\n")
        for number in [""] if alone else [f"{team}," for team in range(plan.teams)]:
            given = rows + ([number] if number else [])
            frame.lines += [*_indented([f"({name}_{role}, ("], 3), *_indented(given, 4), *_indented([")),"], 3)]
        definitions |= {layout.definition for layout in layouts}
        helpers |= w.helpers
    frame.line(2, "],")
    workers = [warps] * (plan.teams - 1) + [1]
    registers = [CONSUMER_REGISTERS] * (plan.teams - 1) + [PRODUCER_REGISTERS]
    frame.line(2, f"worker_num_warps={workers}, worker_num_regs={registers},")
    frame.line(1, ")")
    text = "\n\n".join([*functions, "\n".join([*signature(kernel, program), *frame.lines]) + "\n"])
    launch = launch_of(kernel, program)
    launch["args"] = [["tiles", *a[1:]] if a[0] == "descriptor" else a for a in launch["args"]]
    launch["protocol"] = expected(plan)
    return _Kernel(plan, _gluon(text), definitions, helpers, launch)


def _two_fit(plan: AsyncKernel) -> bool:
    """Whether two programs of one team fit a multiprocessor: their shared memory, and their dots in registers."""
    loops = [n for n in walk(plan.consumer) if isinstance(n, Loop)]
    held = [sum(registers(n.type, WARPGROUP) for n in walk(s) if isinstance(n, IssueDot)) for s in loops]
    return plan.shared_bytes <= SHARED // 2 - SCRATCH and max(held, default=0) <= FEW_REGISTERS


def _indented(lines: Iterable[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def _ring_names(w: GluonWriter, ring: Ring) -> RingNames:
    tiles, full, empty, fills = (w.fresh(f"{ring.name.lower()}_{part}") for part in ("tiles", "full", "empty", "fills"))
    return RingNames(tiles, full, empty, fills, "" if ring.tensor is None else descriptor_name(ring.tensor, ring.box))


def _partition(
    frame: GluonWriter,
    plan: AsyncKernel,
    rings: Mapping[str, RingNames],
    statements: tuple[Statement, ...],
    warps: int,
    alone: bool,
) -> tuple[GluonWriter, set[Mma]]:
    """Written again until every name is made in each layout some use wants it in."""
    demands: Demands = {}
    homes = homes_of(statements, warps)
    while True:
        before = {name: list(layouts) for name, layouts in demands.items()}
        w = GluonWriter(frame.width, frame.sizes, set(frame.taken), warps=warps, homes=homes, demands=demands)
        w.teams = 1 if alone else plan.teams
        w.names = dict(frame.names)
        w.ranges = dict(frame.ranges)
        partition = Partition(plan, rings, w)
        partition.write(statements, 1)
        if demands == before:
            return w, partition.layouts


def _allocate(w: GluonWriter, plan: AsyncKernel, rings: Mapping[str, RingNames]) -> None:
    for r in plan.rings:
        names = rings[r.name]
        shape = [r.stages, *r.box]
        layout = swizzled(r) if r.written else f"{names.descriptor}.layout"
        memory = f"{DTYPES[r.dtype.value]}, {shape}, {layout}"
        w.line(1, f"{names.tiles} = gl.allocate_shared_memory({memory})")
        for barrier in (names.full,) if single(plan, r) else (names.full, names.empty):
            w.line(1, f"{barrier} = gl.allocate_shared_memory(gl.int64, [{r.stages}, 1], mbarrier.MBarrierLayout())")
            w.line(1, f"for slot in gl.static_range({r.stages}):")
            count = plan.teams if barrier == names.empty or r.written else 1
            w.line(2, f"mbarrier.init({barrier}.index(slot), count={count})")
    w.line(1, "hopper.fence_async_shared()  # the copies' completions must see initialised barriers")


def swizzled(ring: Ring) -> str:
    """The layout of a written ring's tile: wgmma's, with the widest swizzle that divides its rows."""
    row = ring.shape[1] * ring.dtype.bits // 8
    width = next((n for n in (128, 64, 32) if row % n == 0), 0)
    return f"gl.NVMMASharedLayout(swizzle_byte_width={width}, element_bitwidth={ring.dtype.bits}, rank=2)"


def _arguments(
    w: GluonWriter,
    plan: AsyncKernel,
    rings: Mapping[str, RingNames],
    statements: tuple[Statement, ...],
    program: Program,
    role: str,
) -> list[str]:
    """What a partition is given, a row for each kind."""
    nodes = list(walk(statements))
    tensors = {n.tensor for n in nodes if isinstance(n, Load | Store) and not isinstance(n, BoxLoad)}
    used = [t for t in program.tensors if t.name in tensors]
    names = free_names(statements)
    rows: list[Iterable[str]] = []
    for r in plan.rings:
        parts = rings[r.name]
        row = [parts.tiles, parts.full, *([] if single(plan, r) else [parts.empty])]
        if role == "producer":
            row = [] if r.written else [parts.descriptor, *row]
        rows.append(row)
    rows.append(argument_name(t.name) for t in used)
    rows += [[stride_name(t.name, axis) for axis in range(len(t.shape))] for t in used]
    rows.append(sorted({argument_name(n.name) for n in nodes if isinstance(n, Size | Param)}))
    rows.append(w.name(axis.name) for axis in plan.grid if axis.name in names)
    return [text for row in rows if (text := ", ".join(row))]
