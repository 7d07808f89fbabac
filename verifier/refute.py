"""From an obligation that was not shown to a counterexample that replays.

The solver's model and ragged shapes around the tile sizes are run on the reference interpreter with
adversarial inputs, and compared with the direct evaluator of the spec. Only what such a run exhibits is a
refutation: a fault of the interpreter, or an output cell that differs. A failed search refutes nothing.
Shapes, programs and inputs are deterministic, so anyone can replay a counterexample from its fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from math import prod
from typing import Any

from ir import ast
from ir import program as core
from ir.ast import Name, Span
from ir.binding import walk
from ir.compare import Mismatch, mismatch
from ir.evaluate import EvaluationError, evaluate, parameters_default
from ir.facts import settled
from ir.inputs import describe, generate
from ir.interpret import InterpretError, Mode, Outcome, grid_extents, interpret, interpret_program_instance
from ir.memory import Fault
from ir.nearby import multiples, nearby
from ir.spec import Bound, Dim
from verifier.proof import Finding, Proof
from verifier.verdict import Counterexample

MODEST = (("normal", 1e-6), ("mean", 1e-6))
EXTREME = (("low", 1e-4), ("high", 1e-4), ("spread", 1e-4), ("large", 1e-4))
MACHINE = ("flat", "ramp", "high", "large", "low", "normal", "level")
OBLIGATION_OF_FAULT = {
    "bounds": "B1",
    "width": "B2",
    "write-write": "R1",
    "read-write": "R2",
    "unwritten": "C1",
    "uninitialised": "C1",
    "undefined": "D1",
    "overflow": "S1",
}
LONG = 4096  # a dimension that may be longer than this is a length: tile-sized values are tried for it
MAX_LENGTH = 400
FUEL = 2**27  # one replay: a fraction of a second
WORK = 2**24  # all replays of one search: some seconds


def search(
    program: core.Program, bound: Bound, findings: Mapping[str, Finding], proof: Proof | None
) -> dict[str, Counterexample]:
    """Counterexamples by obligation, for a candidate with at least one finding that is not ok."""
    found: dict[str, Counterexample] = {}
    if not findings["B2"].ok:
        _width(program, bound, findings["B2"], proof, found)
    open_ids = {o for o, f in findings.items() if not f.ok} - {"B2", "V1"}
    if not open_ids or found:
        return found
    shapes = list(_shapes(program, bound, findings, proof))
    plan = [(s, g) for g in MODEST[:1] for s in shapes]
    plan += [(s, g) for s in shapes[:5] for g in (*EXTREME, *MODEST[1:])]
    room = WORK
    for sizes, (generator, tolerance) in plan:
        if _work(bound, sizes) > room:
            continue  # a smaller shape may still fit
        room -= _work(bound, sizes)
        if _exact(program, bound, sizes, generator, tolerance, findings, found):
            return found
    if not findings["S1"].ok:
        for extreme in (False, True):
            for sizes in shapes[:4]:
                for generator in MACHINE:
                    room -= _work(bound, sizes)
                    if room < -WORK:
                        return found
                    if _machine(program, bound, sizes, generator, extreme, found):
                        return found
    return found


def _work(bound: Bound, sizes: Mapping[str, int]) -> int:
    """About what a replay costs: the product of the sizes tensors have, a length at least a tile's share."""
    dims = [d for d in bound.dims if d.name in _shaping(bound)]
    return prod(max(sizes[d.name], 32) if d.maximum > LONG else max(sizes[d.name], 1) for d in dims)


def _shaping(bound: Bound) -> set[str]:
    """The sizes some tensor's extent mentions; a window's sides and a prefix are not among them."""
    extents = [e for t, _ in (*bound.inputs, *bound.outputs) for e in t.shape]
    return {n.id for e in extents for n in walk(e) if isinstance(n, Name)}


def _parameters(bound: Bound, sizes: Mapping[str, int], extreme: bool = False) -> dict[str, float]:
    """Values that differ from the defaults, so that a constant written for one shows; or the largest."""
    usual = parameters_default(bound, sizes)
    if extreme:
        return {p.name: p.upper for p in bound.spec.parameters}
    moved = {p: usual[p.name] + 7 if p.integer else usual[p.name] * 1.5 or 0.25 for p in bound.spec.parameters}
    return {p.name: min(max(value, p.lower), p.upper) for p, value in moved.items()}


def _shapes(
    program: core.Program, bound: Bound, findings: Mapping[str, Finding], proof: Proof | None
) -> Iterator[dict[str, int]]:
    seen: set[tuple[int, ...]] = set()
    ragged = list(_ragged(program, bound))
    even = multiples(program, bound, ragged[0]) if ragged else ()
    for sizes in (*_from_models(bound, findings, proof), *even, *ragged):
        moved = nearby(bound, sizes)
        key = tuple(moved[d.name] for d in bound.dims) if moved is not None else ()
        if moved is not None and key not in seen:
            seen.add(key)
            yield moved


def _from_models(bound: Bound, findings: Mapping[str, Finding], proof: Proof | None) -> Iterator[dict[str, int]]:
    for finding in findings.values():
        if finding.model is not None and proof is not None and not finding.ok:
            sizes = proof.sizes.concrete(finding.model, bound.dims)
            if all(sizes[d.name] <= (MAX_LENGTH if d.maximum > LONG else 8) for d in bound.dims):
                yield sizes


def _ragged(program: core.Program, bound: Bound) -> Iterator[dict[str, int]]:
    """Lengths around multiples of the tile sizes, longer and shorter than each other; small counts."""
    metas = sorted(v for _, v in program.metas)
    tile = min(max(metas, default=16), 128)
    products = [a * b for k, a in enumerate(metas) for b in metas[k + 1 :] if a * b <= MAX_LENGTH // 2]
    wide = max(products, default=2 * tile)  # several splits or groups of tiles
    lengths = [d for d in bound.dims if d.maximum > LONG and not _is_count(d, bound)]
    rows = _rows(bound)
    patterns = (
        (tile + 1, 2 * tile + 3), (tile + 5, tile + 5), (2 * tile + 3, tile - 3), (3, 1), (tile, 2 * tile),
        (1, tile + 7), (tile + 1, 0), (2 * tile, tile), (tile - 1, 5), (tile + 1, wide + 1),
    )  # fmt: skip
    shaping = _shaping(bound)
    for turn, counts in enumerate(((2, 4, 2), (1, 3, 1))):
        for step, pattern in enumerate(patterns):
            sizes = {d.name: _clamp(d, -(-pattern[k % 2] // rows.get(d.name, 1))) for k, d in enumerate(lengths)}
            for k, d in enumerate(d for d in lengths if d.name not in shaping):  # shorter and longer than a tile
                sizes[d.name] = _clamp(d, (tile + 1, 0, 2 * tile + 3, 1, 5)[(step + 2 * turn + 3 * k) % 5])
            others = [d for d in bound.dims if d.name not in sizes]
            for k, d in enumerate(others):
                sizes[d.name] = _clamp(d, counts[k % 3])
            yield settled(bound, sizes)


def _is_count(d: Dim, bound: Bound) -> bool:
    """The first dimension of an input is a batch, whatever its limit, unless an integer input cuts it up (then the
    parts are the batch) or outputs are sums over it."""
    cut = {str(getattr(t.facts.splits, "id", "")) for t, _ in bound.inputs}
    firsts = {name for t, _ in bound.inputs for name in _names(t.shape[0]) if len(t.shape) > 1 or t.facts.splits}
    return d.name in firsts - cut - _summed(bound)


def _summed(bound: Bound) -> set[str]:
    """Sizes that some sum of the formula runs over and no output has."""
    kept = {name for t, _ in bound.outputs for e in t.shape for name in _names(e)}
    sums = (e for f in bound.spec.definitions for e in walk(f.value) if isinstance(e, ast.Big))
    return {name for e in sums for name in _names(e.bound)} - kept


def _rows(bound: Bound) -> dict[str, int]:
    """Sizes that count pieces of a static length, as W in `max = "W * R"`, and that length."""
    settings = {k: v for k, v in bound.settings if isinstance(v, int)}
    found: dict[str, int] = {}
    for t, _ in bound.inputs:
        match t.facts.most:
            case ast.Binary("*", ast.Name(pieces), ast.Name(length)) if length in settings:
                found[pieces] = settings[length]
            case ast.Binary("*", ast.Name(pieces), ast.Number(value)):
                found[pieces] = int(value)
    return found


def _names(e: ast.Expr) -> tuple[str, ...]:
    """The sizes of an extent such as B or B + 1."""
    match e:
        case ast.Name(name):
            return (name,)
        case ast.Binary(_, left, right):
            return _names(left) + _names(right)
        case _:
            return ()


def _clamp(d: Dim, value: int) -> int:
    return max(d.minimum, min(d.maximum, value))


def _run(
    program: core.Program, bound: Bound, sizes: Mapping[str, int], generator: str, mode: Mode, extreme: bool = False
) -> tuple[Outcome, dict[str, float], dict[str, Any], dict[str, Any]] | None:
    """What a run makes of which parameters and inputs, and what the spec says."""
    parameters = _parameters(bound, sizes, extreme)
    try:
        inputs = generate(generator, 0, bound, sizes, parameters)
        outcome = interpret(program, bound, sizes, parameters, inputs, mode, fuel=FUEL)
        return outcome, parameters, inputs, evaluate(bound, sizes, parameters, inputs)
    except (InterpretError, EvaluationError):
        return None  # too large a replay, or no value of the spec: no counterexample, the next shape is tried


def _exact(
    program: core.Program,
    bound: Bound,
    sizes: Mapping[str, int],
    generator: str,
    tolerance: float,
    findings: Mapping[str, Finding],
    found: dict[str, Counterexample],
) -> bool:
    run = _run(program, bound, sizes, generator, Mode.EXACT)
    if run is None:
        return False
    outcome, parameters, inputs, expected = run
    lenient = bound.spec.empty_row != "zero"
    for fault in sorted(outcome.faults, key=lambda f: f.kind in ("undefined", "overflow")):
        obligation = OBLIGATION_OF_FAULT[fault.kind]
        if obligation in ("D1", "S1"):
            if found:
                continue  # a NaN read out of bounds or from unwritten memory is that fault's doing
            # float64 overflows where a reduced-precision run does: charge the obligation left open
            obligation = "S1" if findings["D1"].ok and not findings["S1"].ok else "D1"
            if lenient and findings["D1"].ok:
                continue
        _fault(obligation, fault, bound, sizes, parameters, generator, found, expected)
    worst = mismatch(outcome.tensors, expected, tolerance, lenient, inputs)
    if worst is not None and not found:
        # Where equality over the reals is shown, a run that differs shows what floats lose: that is S1's.
        obligation = "S1" if findings["E1"].ok and not findings["S1"].ok else "E1"
        found[obligation] = _mismatch(program, bound, worst, sizes, parameters, generator)
    return bool(found)


def _machine(
    program: core.Program,
    bound: Bound,
    sizes: Mapping[str, int],
    generator: str,
    extreme: bool,
    found: dict[str, Counterexample],
) -> bool:
    run = _run(program, bound, sizes, generator, Mode.MACHINE, extreme)
    if run is None:
        return False
    outcome, parameters, _, expected = run
    for fault in outcome.faults:
        if fault.kind in ("undefined", "overflow"):
            _fault("S1", fault, bound, sizes, parameters, generator, found, expected)
            return True
    return False


def _fault(
    obligation: str,
    fault: Fault,
    bound: Bound,
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    generator: str,
    found: dict[str, Counterexample],
    expected: Mapping[str, object],
) -> None:
    if obligation in found:
        return
    wanted = expected.get(fault.tensor)
    shown = "a defined access"
    try:
        shown = repr(float(wanted[fault.cell])) if wanted is not None else shown  # type: ignore[index]
    except IndexError:
        shown = "a cell inside the tensor"
    found[obligation] = Counterexample(
        tuple(sizes.items()), tuple(parameters.items()), describe(generator, 0), fault.kernel, fault.program,
        fault.tensor, fault.cell, shown, fault.kind, fault.message, fault.span,
    )  # fmt: skip


def _mismatch(
    program: core.Program,
    bound: Bound,
    worst: Mismatch,
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    generator: str,
) -> Counterexample:
    kernel, span = _storing(program, worst.tensor)
    message = f"{worst.tensor}{list(worst.cell)} is {worst.actual!r}; the spec says {worst.expected!r}"
    return Counterexample(
        tuple(sizes.items()), tuple(parameters.items()), describe(generator, 0), kernel, (), worst.tensor, worst.cell,
        repr(worst.expected), repr(worst.actual), message, span,
    )  # fmt: skip


def _storing(program: core.Program, tensor: str) -> tuple[str, Span]:
    def stores(body: tuple[core.Statement, ...]) -> Iterator[core.Store]:
        for s in body:
            if isinstance(s, core.For):
                yield from stores(s.body)
            elif isinstance(s, core.Store) and s.tensor == tensor:
                yield s

    for kernel in program.kernels:
        for s in stores(kernel.body):
            return kernel.name, s.span
    return program.kernels[-1].name, program.kernels[-1].span


def _width(
    program: core.Program, bound: Bound, finding: Finding, proof: Proof | None, found: dict[str, Counterexample]
) -> None:
    """Run single programs at the largest admitted shapes, with virtual tensors."""
    candidates = [{d.name: d.maximum for d in bound.dims}]
    if finding.model is not None and proof is not None:
        candidates.insert(0, proof.sizes.concrete(finding.model, bound.dims))
    candidates += [{**candidates[-1], d.name: max(d.minimum, 1)} for d in bound.dims]
    for sizes in candidates:
        if (moved := nearby(bound, sizes)) is None:
            continue
        sizes = moved
        parameters = _parameters(bound, sizes, extreme=True)
        for kernel in program.kernels:
            for ids in islice(_corners(kernel, bound, sizes, finding.model), 4):
                try:
                    faults = interpret_program_instance(program, bound, sizes, parameters, kernel.name, ids, fuel=FUEL)
                except InterpretError:
                    continue  # not a program of this grid
                for fault in faults:
                    if fault.kind == "width":
                        _fault("B2", fault, bound, sizes, parameters, "zeros", found, {})
                        return


def _corners(
    kernel: core.Kernel, bound: Bound, sizes: Mapping[str, int], model: Mapping[str, int] | None
) -> Iterator[dict[str, int]]:
    """Program ids to try: those of the model, the last ones of every axis, the first ones."""
    if model is not None and all(axis.name in model for axis in kernel.grid):
        yield {axis.name: model[axis.name] for axis in kernel.grid}
    last = {name: max(0, extent - 1) for name, extent in grid_extents(kernel, sizes).items()}
    yield last
    yield {name: value // 2 for name, value in last.items()}
    yield dict.fromkeys(last, 0)
