"""Kernel files as the tests of asynchronous programs take them: typed at a tile size of their own, and scheduled."""

from __future__ import annotations

from pathlib import Path

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.boxes import with_boxes
from lowering.hopper.async_program import AsyncKernel
from lowering.hopper.gluon import Emitted, emit_program
from lowering.hopper.schedule import schedule

ROOT = Path(__file__).parents[2]


def typed(path: str, metas: dict[str, int] | None = None, **settings: str | int) -> tuple[Program, Bound]:
    """The kernel of a file whose first lines name its spec, with these sizes for its metas."""
    text = (ROOT / path).read_text()
    for name, value in (metas or {}).items():
        before = next(line for line in text.splitlines() if line.startswith(f"meta {name} "))
        text = text.replace(before, f"meta {name} = {value}")
    line = next(line for line in text.splitlines() if line.startswith("# spec:")).split()
    found = dict(part.split("=") for part in line[3:])
    options = {k: int(v) if str(v).isdigit() else v for k, v in {**found, **settings}.items()}
    bound = bind(load_spec(line[2]), options)
    return check(parse(text), bound), bound


def asynchronous(program: Program) -> dict[str, AsyncKernel]:
    boxed = with_boxes(program, {k.name: 32 for k in program.kernels}, copied=True)
    return {k.name: schedule(k) for k in boxed.kernels}


def emitted(path: str, metas: dict[str, int], **settings: str | int) -> Emitted:
    program, bound = typed(path, metas, **settings)
    widths = {k.name: 32 for k in program.kernels}
    return emit_program(program, with_boxes(program, widths, copied=True), bound, widths)
