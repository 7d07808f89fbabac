"""A refuted candidate: the obligation, the counterexample, what can be worked out of it, and the usual causes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod

from ir.ast import NOWHERE, Span
from ir.diagnostics import Source, excerpt
from ir.program import For, Let, Load, Program, Size, Statement, Store
from ir.spec import Bound
from synth.bench.counts import walk
from synth.feedback.obligations import ADVICE
from synth.feedback.replay import facts
from verifier.verdict import TITLES, Counterexample, Report, Result, Verdict

STORES = 2  # lines shown where a cell is never written
KINDS = {
    "bounds": "outside the tensor",
    "width": "does not fit the width",
    "write-write": "stored twice in one launch",
    "read-write": "read in the launch that stores it",
    "unwritten": "never written",
    "uninitialised": "read or added to before it is written",
    "undefined": "undefined (NaN)",
    "overflow": "infinite (overflow)",
}


def refuted(report: Report, program: Program | None, text: str, bound: Bound) -> list[str]:
    """Every counterexample of the report, the obligations that held, and the usual causes."""
    lines = []
    for result in report.results:
        if result.verdict is Verdict.REFUTED and result.counterexample is not None:
            lines += _refutation(result, result.counterexample, program, text, bound)
    left = [r.id for r in report.results if r.verdict is Verdict.UNPROVED]
    if left:
        lines.append(f"Not shown either (look again when the above is repaired): {', '.join(left)}.")
    return [*lines, held(report)]


def held(report: Report) -> str:
    shown = [r.id for r in report.results if r.verdict is Verdict.PROVED]
    return f"Proved for all sizes: {', '.join(shown)}." if shown else "No obligation was proved."


def _refutation(result: Result, found: Counterexample, program: Program | None, text: str, bound: Bound) -> list[str]:
    advice = ADVICE[result.id]
    lengths = {} if program is None else tile_lengths(program)
    cut = _tiles(found, lengths)
    known = [] if program is None else [*_tail(found, program), *facts(found, program, bound)]
    return [
        f"{result.id} {TITLES[result.id]} is broken. It demands: {advice.demand}.",
        *([f"  what     {found.message}"] if found.actual in KINDS else []),
        f"  shape    {_assignments(found.sizes)}",
        *([f"  tiles    {cut}"] if cut else []),
        *([f"  values   {_assignments(found.parameters)}; inputs {found.inputs}"] if found.parameters else []),
        *([f"  program  {found.kernel}({_assignments(found.program)})"] if found.program else []),
        *([f"  cell     {cell_text(found, bound)}"] if found.tensor else []),
        f"  expected {_number(found.expected)}",
        f"  actual   {KINDS.get(found.actual) or _number(found.actual)}",
        *_place(found, program, text),
        *(["Facts of that run:"] if known else []),
        *(f"  - {fact}" for fact in known),
        "Usual causes:",
        *(f"  - {cause}" for cause in advice.causes),
    ]


def _number(text: str) -> str:
    """A float to seven digits; any other text as it is."""
    try:
        return f"{float(text):.7g}"
    except ValueError:
        return text


def _place(found: Counterexample, program: Program | None, text: str) -> list[str]:
    """The line at fault; where nothing ran, the stores that could have."""
    if found.span != NOWHERE or program is None:
        return source_lines(text, found.span)
    stores = [s for k in program.kernels for s in statements(k.body) if isinstance(s, Store)]
    spans = [s.span for s in stores if s.tensor == found.tensor]
    if not spans:
        return [f"  no line stores {found.tensor}"]
    return [line for span in spans[:STORES] for line in source_lines(text, span)]


def statements(body: tuple[Statement, ...]) -> Iterator[Statement]:
    """Every statement, those of loops included."""
    for s in body:
        yield s
        if isinstance(s, For):
            yield from statements(s.body)


def tile_lengths(program: Program, tensor: str = "") -> dict[str, list[int]]:
    """Into tiles of how many lanes the program cuts each size, as its loads and stores (of one tensor) index it."""
    cut: dict[str, set[int]] = {}
    for kernel in program.kernels:
        for s in statements(kernel.body):
            for access in accesses(s):
                if tensor and access.tensor != tensor:
                    continue
                for index, extent in zip(access.index, program.tensor(access.tensor).shape, strict=True):
                    if isinstance(extent, Size) and (length := prod(index.type.shape)) > 1:
                        cut.setdefault(extent.name, set()).add(length)
    return {name: sorted(lengths) for name, lengths in cut.items()}


def _tiles(found: Counterexample, lengths: Mapping[str, list[int]]) -> str:
    """The sizes of the counterexample as whole tiles and a rest."""
    return ", ".join(f"{k} = {n} = {n // t} * {t} + {n % t}" for k, n in found.sizes for t in lengths.get(k, ()))


def _tail(found: Counterexample, program: Program) -> Iterator[str]:
    """Whether the cell lies in a tile that sticks out of its tensor."""
    sizes, lengths = dict(found.sizes), tile_lengths(program, found.tensor)
    if not found.cell or found.tensor not in {t.name for t in program.tensors}:
        return
    for k, extent in zip(found.cell, program.tensor(found.tensor).shape, strict=True):
        for length in lengths.get(extent.name, ()) if isinstance(extent, Size) else ():
            size = sizes[extent.name] if isinstance(extent, Size) else 0
            if size % length and size // length * length <= k < size:
                yield f"index {k} lies in the last tile of {length} lanes, with {size % length} of them inside"


def accesses(s: Statement) -> Iterator[Load | Store]:
    """What one statement loads and stores, its body left out."""
    match s:
        case Store(index=index, value=value, mask=mask):
            yield s
            parts = (*index, value, *((mask,) if mask is not None else ()))
        case Let(value=value):
            parts = (value,)
        case For(start=start, stop=stop):
            parts = (start, stop)
    for part in parts:
        yield from (e for e in walk(part) if isinstance(e, Load))


def _assignments(pairs: tuple[tuple[str, int], ...] | tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in pairs)


def cell_text(found: Counterexample, bound: Bound) -> str:
    """A cell with the names its index has in the spec's definition."""
    names: Mapping[str, tuple[str, ...]] = {d.name: d.parameters for d in bound.spec.definitions}
    parameters = names.get(found.tensor, ())
    if len(parameters) != len(found.cell):
        return f"{found.tensor}[{', '.join(map(str, found.cell))}]"
    return f"{found.tensor}[{', '.join(f'{n} = {k}' for n, k in zip(parameters, found.cell, strict=True))}]"


def source_lines(text: str, span: Span) -> list[str]:
    """The line of the candidate with a caret; nothing where the place is not known."""
    if span == NOWHERE:
        return []
    return [f"  line {span.line}:", *(f"  {line}" for line in excerpt(Source(text, ""), span)[1:])]
