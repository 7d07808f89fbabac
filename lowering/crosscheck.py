"""Does the emitted Triton compute what the typed program means? Run both and compare.

Decides nothing about correctness of the candidate (that is proved): it guards the untrusted step from
typed core to Triton. Each case runs the emitted module under Triton's interpreter, in a process of its
own, and the reference interpreter in machine precision, at small sizes that are ragged on purpose:
no length is a multiple of a tile, lengths differ in both directions, one case has an empty length where
the spec allows it. A failed check stops the pipeline.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ir.compare import mismatch
from ir.facts import settled
from ir.inputs import describe, generate
from ir.interpret import Mode, interpret
from ir.nearby import nearby
from ir.program import Arange, Cast, DType, For, Load, Program, Size, Store
from ir.requirements import narrowed
from ir.spec import Bound
from lowering.assumptions import evaluate
from lowering.choose import holds
from lowering.compile import child_environment
from lowering.launch import allocate
from lowering.narrow import NotNarrower, program_of
from lowering.plan import formula, launches_of, plan, walk
from lowering.versions import Version, versions_in
from verifier.certificate import CertificateError

# Relative to a cell and to its tensor's largest value: a few roundings of the coarsest dtype involved.
TOLERANCE = {DType.F32: 2.0**-15, DType.F16: 2.0**-8, DType.BF16: 2.0**-5}
TIMEOUT = 300.0


class CrosscheckFailed(Exception):
    """The emitted Triton does not compute what the program means; nothing may be run from it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison. `errors`: largest |Triton - reference| per output (nan where one side has no number)."""

    sizes: tuple[tuple[str, int], ...]
    parameters: tuple[tuple[str, float], ...]
    inputs: str
    errors: tuple[tuple[str, float], ...]
    ok: bool
    message: str


@dataclass(frozen=True, slots=True)
class Crosscheck:
    cases: tuple[Case, ...]

    @property
    def ok(self) -> bool:
        return bool(self.cases) and all(case.ok for case in self.cases)

    def require(self) -> Crosscheck:
        """Itself; raises CrosscheckFailed when a case failed (or none was run)."""
        bad = next((case for case in self.cases if not case.ok), None)
        if bad is not None:
            at = ", ".join(f"{k} = {v}" for k, v in bad.sizes)
            raise CrosscheckFailed(f"emitted Triton disagrees with the reference at {at}: {bad.message}")
        if not self.cases:
            raise CrosscheckFailed("no case was run")
        return self


def crosscheck(
    source: str,
    program: Program,
    bound: Bound,
    shapes: tuple[Mapping[str, int], ...] | None = None,
    generator: str = "normal",
    seed: int = 0,
    launches: Sequence[Any] | None = None,
) -> Crosscheck:
    """Compare the emitted module with the reference interpreter at each of `shapes` (default: `ragged`), with these
    `launches` (default: those of the program's own kernels).

    Raises CrosscheckFailed when the emitted module does not run at all.
    """
    chosen = ragged(program, bound) if shapes is None else shapes
    runs = tuple(_run(program, bound, sizes, generator, seed) for sizes in chosen)
    emitted = Emitted(source, launches_of(program) if launches is None else launches, runs)
    (results,) = run_interpreted(plan(program, bound), [emitted])
    inputs = describe(generator, seed)
    return Crosscheck(tuple(_compare(program, bound, r, inputs, got) for r, got in zip(runs, results, strict=True)))


def crosscheck_versions(lowered: Mapping[str, Any], program: Program, bound: Bound) -> list[dict[str, Any]]:
    """Every version of a certificate's section "lowered" against the reference interpreter, as JSON for its section
    "tests": the cases, each with the version's name; one for some sizes or tensors only is run at such. Raises
    CrosscheckFailed where one disagrees, or may run where it is not proved."""
    assumed = plan(program, bound)
    versions = versions_in(lowered)
    try:
        programs = [program_of(version, lowered, program, bound) for version in versions]
    except (CertificateError, NotNarrower) as error:
        raise CrosscheckFailed(str(error)) from error
    emitted = []
    for version, its in zip(versions, programs, strict=True):
        runs = tuple(_run(its, bound, sizes, "normal", 0) for sizes in shapes_for(version, assumed, its, bound))
        emitted.append(Emitted(version.source, version.launches, runs))
    rows: list[dict[str, Any]] = []
    results = run_interpreted(assumed, emitted)
    for version, its, one, found in zip(versions, programs, emitted, results, strict=True):
        cases = (_compare(its, bound, r, describe("normal", 0), got) for r, got in zip(one.runs, found, strict=True))
        rows += ({"version": version.name, **asdict(case)} for case in Crosscheck(tuple(cases)).require().cases)
    return rows


def _run(program: Program, bound: Bound, sizes: Mapping[str, int], generator: str, seed: int) -> Run:
    parameters = {
        name: min(max((int if p["integer"] else float)(evaluate(p["default"], sizes)), p["min"]), p["max"])
        for name, p in plan(program, bound)["parameters"].items()
    }
    return Run(dict(sizes), parameters, generate(generator, seed, bound, sizes, parameters))


def shapes_for(
    version: Version, assumed: Mapping[str, Any], program: Program, bound: Bound
) -> tuple[dict[str, int], ...]:
    """Those ragged shapes at which contiguous tensors meet a version's conditions; where none does, the same with
    every length rounded up to a multiple of 16."""
    every = ragged(program, bound)
    for shapes in (every, [_even(shape, program, bound) for shape in every]):
        found = tuple(shape for shape in shapes if shape and _meets(version, assumed, shape))
        if found:
            return found
    return ()


def _meets(version: Version, assumed: Mapping[str, Any], sizes: Mapping[str, int]) -> bool:
    tensors = allocate(assumed, sizes, ("input", "output", "scratch"), "meta")
    return all(holds(c, "", tensors, sizes) for c in version.when if c[0] != "target")


def _even(sizes: Mapping[str, int], program: Program, bound: Bound) -> dict[str, int] | None:
    wanted = {name: -(-size // 16) * 16 for name, size in sizes.items() if size > 1}
    found = _complete(wanted, bound)
    return None if found is None else nearby(narrowed(bound, program), settled(bound, found))


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of a module is given: arrays as `ir.inputs.generate` makes them."""

    sizes: dict[str, int]
    parameters: dict[str, float]
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Emitted:
    """A module, what of it is launched, in order, and the runs to make of that."""

    source: str
    launches: Sequence[Any]
    runs: Sequence[Run]


def _compare(program: Program, bound: Bound, run: Run, inputs: str, got: Mapping[str, Any]) -> Case:
    reference = interpret(program, bound, run.sizes, run.parameters, run.inputs, Mode.MACHINE)
    wanted = {t.name: reference.tensors[t.name] for t in program.tensors if t.role == "output"}
    worst = mismatch(got, wanted, tolerance(program), skip_undefined=True)
    errors = tuple((name, _error(got[name], want)) for name, want in wanted.items())
    message = "" if worst is None else (
        f"{worst.tensor}{list(worst.cell)} is {worst.actual:g}, the program means {worst.expected:g}"
    )  # fmt: skip
    sizes, parameters = tuple(sorted(run.sizes.items())), tuple(sorted(run.parameters.items()))
    return Case(sizes, parameters, inputs, errors, worst is None, message)


def _error(got: Any, want: Any) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.where(got == want, 0.0, np.abs(got - want))  # equal infinities differ by nothing
    return float(difference.max(initial=0.0))


def tolerance(program: Program) -> float:
    """What rounding may explain: set by the coarsest float dtype the program touches."""
    dtypes = {t.dtype for t in program.tensors}
    dtypes |= {n.type.dtype for k in program.kernels for n in walk(k.body) if isinstance(n, Cast)}
    return max((TOLERANCE[d] for d in dtypes if d in TOLERANCE), default=TOLERANCE[DType.F32])


def run_interpreted(plan: Any, modules: Sequence[Emitted]) -> list[list[dict[str, Any]]]:
    """Outputs (float64 arrays) of each run of each emitted module under Triton's interpreter, all in one process.

    Raises CrosscheckFailed when the interpreter fails or takes too long.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listed = [
            {
                "source": module.source,
                "launches": list(module.launches),
                "cases": [{"sizes": run.sizes, "parameters": run.parameters} for run in module.runs],
            }
            for module in modules
        ]
        (folder / "request.json").write_text(json.dumps({"plan": plan, "modules": listed}))
        for k, module in enumerate(modules):
            for number, run in enumerate(module.runs):
                with (folder / f"inputs_{k}_{number}.npz").open("wb") as file:
                    np.savez(file, allow_pickle=False, **run.inputs)
        limit = TIMEOUT * len(modules)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "lowering.interpreted", name],
                capture_output=True, text=True, timeout=limit, check=False, env=child_environment(True),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise CrosscheckFailed(f"Triton's interpreter took longer than {limit:.0f} s") from error
        if done.returncode != 0:
            raise CrosscheckFailed("Triton's interpreter failed: " + "\n".join(done.stderr.splitlines()[-6:]))
        return [
            [_arrays(folder / f"outputs_{k}_{number}.npz") for number in range(len(module.runs))]
            for k, module in enumerate(modules)
        ]


def _arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return {n: arrays[n] for n in arrays.files}


# ---- ragged shapes ---------------------------------------------------------------------------


def long_sizes(program: Program) -> set[str]:
    """Sizes a kernel walks in tiles: in a loop bound, a mask, a requirement, or a grid extent that is computed."""
    found = {n.name for n in walk(program.requires) if isinstance(n, Size)}
    for kernel in program.kernels:
        nodes = list(walk(kernel.body))
        parts: list[object] = [n.mask for n in nodes if isinstance(n, Load | Store) and n.mask is not None]
        parts += [n.stop for n in nodes if isinstance(n, For)]
        parts += [axis.extent for axis in kernel.grid if not isinstance(axis.extent, Size)]
        found |= {n.name for part in parts for n in walk(part) if isinstance(n, Size)}
    return found


def ragged(program: Program, bound: Bound) -> tuple[dict[str, int], ...]:
    """Up to three small shapes within the limits and requirements; see the module docstring. A program that requires
    its lengths to be multiples of tiles gets the multiples next to them."""
    statics = {v for _, v in bound.settings if isinstance(v, int)}
    tiles = {n.type.shape[0] for k in program.kernels for n in walk(k.body) if isinstance(n, Arange)}
    lengths = sorted(tiles - statics) or sorted(tiles) or [16]
    small, large = lengths[0], lengths[-1]
    cut = {name for t, _ in bound.inputs if t.facts.splits for name in _names(formula(t.facts.splits, bound))}
    longs = [d.name for d in bound.dims if d.name in long_sizes(program) | cut]
    related = {name for r in bound.spec.requires for name in _names(formula(r, bound))}
    first = large * (2 if program.requires else 1) + 5  # two tiles, also where it is rounded to a multiple of them
    patterns = ([first, small + 3], [small // 2 + 3, large + small // 2 + 7], [large + 1, 0])
    shapes: list[dict[str, int]] = []
    for pattern in patterns:
        wanted = {name: pattern[i % len(pattern)] for i, name in enumerate(longs)}
        free = {name: wanted[name] for name in longs if name not in related}
        found = _complete(free, bound) or _complete(wanted, bound) or _complete({}, bound)
        shape = None if found is None else nearby(narrowed(bound, program), settled(bound, found))
        if shape is not None and shape not in shapes:
            shapes.append(shape)
    return tuple(shapes)


def _complete(wanted: Mapping[str, int], bound: Bound) -> dict[str, int] | None:
    """Lengths clamped to their limits, the other sizes chosen to be unequal where requirements let them."""
    requires = [formula(r, bound) for r in bound.spec.requires]
    fixed = {d.name: min(max(wanted[d.name], d.minimum), d.maximum) for d in bound.dims if d.name in wanted}
    others = [d for d in bound.dims if d.name not in wanted]
    choices = [[n for n in (1, 2, 4, 3, 6, 8, 16) if d.minimum <= n <= d.maximum] or [d.minimum] for d in others]
    related = {name for r in requires for name in _names(r)}
    related |= {n for t, _ in bound.inputs if t.facts.splits for n in _names(formula(t.shape[0], bound))}
    possible = []
    for values in product(*choices):
        sizes = {**fixed, **{d.name: v for d, v in zip(others, values, strict=True)}}
        if all(evaluate(r, sizes) for r in requires):
            repeated = len(values) - len(set(values))  # an index that uses the wrong size shows when sizes differ
            ones = sum(sizes[d.name] == 1 for d in others if d.name in related)
            possible.append((repeated, ones, math.prod(values), sizes))
    return min(possible, key=lambda p: p[:3])[3] if possible else None


def _names(expression: Any) -> set[str]:
    """The sizes a requirement speaks of."""
    if isinstance(expression, list):
        return {name for operand in expression[1:] for name in _names(operand)}
    return {expression} if isinstance(expression, str) else set()
