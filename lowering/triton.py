"""Emits a certified program as one readable Triton module: names and comments are the candidate's.

Decides the shape of the emitted text: one `@triton.jit` function per kernel, its arguments (tensor
descriptors, pointers with one stride per dimension, sizes, parameters; meta-parameters are literals), how program ids
come from a linear grid, loops and their carried values, loads and stores. Expressions are spelled by
`lowering.spelling`. The grid is linear because only its first axis may exceed 65535; the last axis of
the kernel's header varies fastest.

Lowering is not trusted: the emitted text is cross-checked against the reference interpreter
(`lowering.crosscheck`) before it may run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ir.program import (
    Binary,
    Carry,
    Expr,
    For,
    Kernel,
    Let,
    Param,
    Program,
    Reduce,
    Schedule,
    Size,
    Statement,
    Store,
    Var,
)
from ir.spec import Bound
from lowering.accesses import BoxStore, descriptor_name
from lowering.intervals import UNKNOWN, Interval, interval
from lowering.naming import shared_names
from lowering.plan import RESERVED, argument_name, arguments, stride_name, used_nodes, walk
from lowering.spelling import HELPERS, Piece, Writer, address, box, expr, shaped, tensor
from lowering.unit_factors import carried_tiles
from verifier.certificate import Certificate, digest

STRIDES = ("stride", "box_stride")
# How to say "the same value" so that Triton's folding leaves an operation there.
UNCHANGED_NOTE = "unchanged; Triton's locality pass wants one use here"
UNCHANGED = {"add": "{} + 0.0", "max": 'tl.maximum({}, -float("inf"))', "min": 'tl.minimum({}, float("inf"))'}


def emit(certificate: Certificate, program: Program, bound: Bound, aligned: Sequence[str] = ()) -> str:
    """The Triton module of a certified program; widths are the ones the certificate proves. `aligned`: sizes that are
    multiples of 16 in every call (`lowering.aligned`).

    Raises KeyError when the certificate proves no width for a kernel, UnsupportedByTriton when the
    program uses something Triton cannot say.
    """
    subject = f"candidate sha256 {digest(certificate.candidate)}\nspec      sha256 {digest(certificate.spec_source)}"
    indices = certificate.body.get("index_widths")
    return emit_program(program, bound, certificate.widths, subject, indices, aligned)


def emit_program(
    program: Program,
    bound: Bound,
    widths: Mapping[str, int],
    subject: str = "",
    index_widths: Mapping[str, int] | None = None,
    aligned: Sequence[str] = (),
) -> str:
    """The module text for a typed program.

    `widths`: bits (32 or 64) of each kernel's address offsets; `index_widths`: of its other integers, the
    same where not given. 32 must have been proved to fit.
    """
    sizes: dict[str, Interval] = {d.name: (d.minimum, d.maximum) for d in bound.dims}
    sizes |= {p.name: (int(p.lower), int(p.upper)) for p in bound.spec.parameters if p.integer}
    helpers: set[str] = set()
    kernels: list[str] = []
    for kernel in program.kernels:
        bits = (index_widths or widths)[kernel.name], widths[kernel.name]
        lines, used = kernel_lines(kernel, program, sizes, bits, aligned)
        helpers |= used
        kernels.append("\n".join(lines) + "\n")
    parts = [header(program, bound, subject), "import triton\nimport triton.language as tl\n"]
    return "\n".join(parts) + "\n\n" + "\n\n".join([HELPERS[name].lstrip() for name in sorted(helpers)] + kernels)


def header(program: Program, bound: Bound, subject: str) -> str:
    settings = ", ".join(f"{k} = {v}" for k, v in bound.settings)
    metas = ", ".join(f"{k} = {v}" for k, v in program.metas)
    text = f'"""{bound.spec.name} ({settings}); {metas or "no meta-parameters"}.\n'
    if subject:
        text += f"\n{subject}\n"
    return text + '\nEmitted from a proved candidate; the certificate says what is proved. Launch it through the\n' \
        'certificate (lowering.launch), which checks what the proof assumes of the caller.\n"""\n'  # fmt: skip


# ---- a kernel --------------------------------------------------------------------------------


def _argument_text(argument: list[Any]) -> str:
    match argument:
        case ["descriptor", str(name), str(), list(box)]:
            return descriptor_name(name, tuple(box))
        case ["stride" | "box_stride", str(name), int(axis)]:
            return stride_name(name, axis)
        case [_, str(name), *_]:
            return argument_name(name)
        case _:
            raise ValueError(f"not a kernel argument: {argument}")


def taken_names(kernel: Kernel, program: Program) -> set[str]:
    names = {_argument_text(a) for a in arguments(kernel, program)}
    return names | set(RESERVED) | {argument_name(k.name) for k in program.kernels}


def signature(kernel: Kernel, program: Program, aligned: Sequence[str] = ()) -> list[str]:
    groups: dict[str, list[str]] = {}
    for argument in arguments(kernel, program):
        group = f"stride {argument[1]}" if argument[0] in STRIDES else argument[0]
        groups.setdefault(group, []).append(_argument_text(argument))
    # A size is not specialised on: a new sequence length (or seed) must not mean a new compilation.
    told = {argument_name(name) for name in aligned}
    sizes = [name for name in groups.get("size", ()) if name not in told]
    fixed = ", ".join(f'"{name}"' for name in (*sizes, *groups.get("integer", ())))
    decorator = f"@triton.jit(do_not_specialize=[{fixed}])" if fixed else "@triton.jit"
    if "integer" in groups:  # small or large, of one width
        groups["integer"] = [f"{name}: tl.int64" for name in groups["integer"]]
    rows = [f"    {', '.join(names)}," for names in groups.values()]
    return [decorator, f"def {argument_name(kernel.name)}(", *rows, "):"]


def kernel_lines(
    kernel: Kernel,
    program: Program,
    sizes: Mapping[str, Interval],
    bits: tuple[int, int],
    aligned: Sequence[str] = (),
) -> tuple[list[str], set[str]]:
    """The lines of one kernel and the helper functions it calls; `bits`: of its integers, of its offsets."""
    if bits not in ((32, 32), (32, 64), (64, 64)):
        raise ValueError(f"kernel {kernel.name}: integers and offsets of {bits} bits; each must be 32 or 64")
    w = Writer(bits[0], sizes, taken_names(kernel, program), shared_names(kernel))
    enter_sizes(w, kernel)
    if bits[0] < bits[1]:
        widen_strides(w, kernel, program, bits[1])
    program_ids(w, kernel)
    for statement in kernel.body:
        _statement(w, statement, 1, kernel.schedule)
    return [*signature(kernel, program, aligned), *w.lines], w.helpers


def enter_sizes(w: Writer, kernel: Kernel) -> None:
    """Sizes and parameters as tensors of one stated dtype, whatever the launcher was given."""
    nodes = used_nodes(kernel)
    whole = {n.name for n in nodes if isinstance(n, Size) or (isinstance(n, Param) and n.type.dtype.is_int)}
    for name in sorted(whole):
        text = argument_name(name)
        w.line(1, f"{text} = tl.cast({text}, tl.int{w.width})")
    for name in sorted({n.name for n in nodes if isinstance(n, Param)} - whole):
        text = argument_name(name)
        w.line(1, f"{text} = tl.cast({text}, tl.float32)")


def widen_strides(w: Writer, kernel: Kernel, program: Program, bits: int) -> None:
    """Offsets need more bits than indices: index * stride is then computed in the stride's width."""
    strides: dict[str, list[str]] = {}
    for argument in arguments(kernel, program):
        if argument[0] in STRIDES:
            strides.setdefault(argument[1], []).append(_argument_text(argument))
    for names in strides.values():
        for pair in (names[at : at + 2] for at in range(0, len(names), 2)):
            casts = ", ".join(f"tl.cast({name}, tl.int{bits})" for name in pair)
            w.line(1, f"{', '.join(pair)} = {casts}")


def program_ids(w: Writer, kernel: Kernel) -> None:
    w.line(1, f"pid = tl.program_id(0){'.to(tl.int64)' if w.width == 64 else ''}")
    for axis in reversed(kernel.grid[1:]):
        extent = expr(w, axis.extent)
        if extent.value is None and not extent.text.isidentifier():
            count = w.fresh(f"{axis.name}_count")
            w.line(1, f"{count} = {extent.text}")
            extent = Piece(count)
        w.line(1, f"{w.name(axis.name)} = pid % {extent.text}")
        w.line(1, f"pid = pid // {extent.text}")
    if kernel.grid:
        w.line(1, f"{w.name(kernel.grid[0].name)} = pid")
    for axis in kernel.grid:
        _, high = interval(axis.extent, w.sizes, {})
        w.ranges[axis.name] = (0, None if high is None else high - 1)


# ---- statements ------------------------------------------------------------------------------


def _statement(w: Writer, statement: Statement, depth: int, schedule: Schedule) -> None:
    match statement:
        case Let():
            _let(w, statement, depth)
        case Store():
            _store(w, statement, depth)
        case For():
            _for(w, statement, depth, schedule)


def _let(w: Writer, let: Let, depth: int) -> None:
    piece = expr(w, let.value)
    w.ranges[let.name] = interval(let.value, w.sizes, w.ranges)
    if piece.value is not None and not let.value.type.shape and not w.varies(let.name):
        w.constants[let.name] = piece.value  # later uses fold; the line stays for the reader
        w.line(depth, f"{w.name(let.name)} = {piece.text}", let.comment)
        return
    text = shaped(w, piece, let.value.type).text
    w.call(depth, f"{w.name(let.name)} = ", text, let.comment)


def _store(w: Writer, store: Store, depth: int) -> None:
    shape = store.value.type.shape
    if isinstance(store, BoxStore):
        descriptor, place, extents = box(w, store)
        if store.made:
            name = w.fresh(f"{store.tensor}_rows")
            w.line(depth, f"{name} = {descriptor}")
            descriptor = name
        value = shaped(w, expr(w, store.value), store.value.type)
        text = value.text if list(shape) == extents else value.method(f".reshape({extents})").text
        w.call(depth, "", f"{descriptor}.store({place}, {text})", store.comment)
        return
    value = tensor(w, expr(w, store.value), store.value.type)
    if store.value.type.dtype.is_int:
        value = value.method(f".to(tl.int{store.value.type.dtype.bits})")
    parts = [address(w, store.tensor, store.index, shape), value.text]
    if store.mask is not None:
        parts.append(f"mask={tensor(w, expr(w, store.mask), store.mask.type).text}")
    if store.atomic:
        parts.append('sem="relaxed"')
    w.call(depth, "", f"tl.{'atomic_add' if store.atomic else 'store'}({', '.join(parts)})", store.comment)


def _for(w: Writer, loop: For, depth: int, schedule: Schedule) -> None:
    for carry in loop.carries:
        init = shaped(w, tensor(w, expr(w, carry.init), carry.type), carry.type)
        if init.text != w.name(carry.name):
            w.line(depth, f"{w.name(carry.name)} = {init.text}")
        w.ranges[carry.name] = UNKNOWN
    start, stop = expr(w, loop.start), expr(w, loop.stop)
    if start.literal and stop.literal and w.width == 64:
        stop = tensor(w, stop, loop.stop.type)  # the counter takes the wider bound's type
    low, _ = interval(loop.start, w.sizes, w.ranges)
    _, high = interval(loop.stop, w.sizes, w.ranges)
    w.ranges[loop.counter] = (low, None if high is None else high - 1)
    specialise = schedule.warp_specialize and not any(isinstance(s, For) for s in loop.body)
    head = f"tl.range({start.text}, {stop.text}, warp_specialize=True)" if specialise else \
        f"range({start.text}, {stop.text})"  # fmt: skip
    w.line(depth, f"for {w.name(loop.counter)} in {head}:", loop.comment)
    before, outer = len(w.lines), w.skipping
    w.skipping = carried_tiles(loop) if schedule.skip_ones else outer
    for statement in loop.body:
        _statement(w, statement, depth + 1, schedule)
    _advance(w, loop, depth + 1)
    w.skipping = outer
    if len(w.lines) == before:
        w.line(depth + 1, "pass")
    for carry in loop.carries:
        op = _folds(loop, carry)
        if op is not None:
            name = w.name(carry.name)
            w.line(depth, f"{name} = {UNCHANGED[op].format(name)}", UNCHANGED_NOTE)


def _folds(loop: For, carry: Carry) -> str | None:
    """add, max or min when the loop only folds a reduction into the carried value, `m = maximum(m, max(s))`.

    Triton (3.6.0, 3.7.1) moves such a reduction out of the loop and aborts unless the result then has
    exactly one use.
    """
    value: Expr = carry.next
    if isinstance(value, Var):
        name = value.name
        value = next((s.value for s in loop.body if isinstance(s, Let) and s.name == name), value)
    match value:
        case Binary(op="add" | "max" | "min" as op, left=left, right=right) if carry.type.shape:
            parts = (left, right)
            reduced = any(isinstance(p, Reduce) and p.op == ("sum" if op == "add" else op) for p in parts)
            carried = any(isinstance(p, Var) and p.name == carry.name for p in parts)
            return op if reduced and carried and carry.type.dtype.is_float else None
        case _:
            return None


def _advance(w: Writer, loop: For, depth: int) -> None:
    """Give every carried name its next value, all at once where one needs another's old value."""
    updates = []
    assigned: set[str] = set()
    clash = False
    for carry in loop.carries:
        if isinstance(carry.next, Var) and w.name(carry.next.name) == w.name(carry.name):
            continue
        clash = clash or any(isinstance(n, Var) and n.name in assigned for n in walk(carry.next))
        assigned.add(carry.name)
        value = shaped(w, tensor(w, expr(w, carry.next), carry.type), carry.type)
        updates.append((w.name(carry.name), value.text))
    if clash:
        w.line(depth, f"{', '.join(n for n, _ in updates)} = {', '.join(v for _, v in updates)}")
        return
    for name, value_text in updates:
        w.line(depth, f"{name} = {value_text}")
