"""Does the emitted Triton compute what the typed program means? Run both and compare.

Decides nothing about correctness of the candidate (that is proved): it guards the untrusted step from
typed core to Triton. Each case runs the emitted module under Triton's interpreter, in a process of its
own, and the reference interpreter in machine precision, at small sizes that are ragged on purpose:
no length is a multiple of a tile, lengths differ in both directions, one case has an empty length where
the spec allows it. A failed check stops the pipeline.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ir.compare import mismatch
from ir.inputs import describe, generate
from ir.interpret import Mode, interpret
from ir.program import Arange, Cast, DType, For, Load, Program, Size, Store
from ir.spec import Bound
from lowering.compile import child_environment
from lowering.launch import evaluate
from lowering.plan import formula, plan, walk

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
) -> Crosscheck:
    """Compare the emitted module with the reference interpreter at each of `shapes` (default: `ragged`)."""
    launches = plan(program, bound)
    cases = [
        _case(source, launches, program, bound, dict(sizes), generator, seed)
        for sizes in (ragged(program, bound) if shapes is None else shapes)
    ]
    return Crosscheck(tuple(cases))


def _case(
    source: str, launches: Any, program: Program, bound: Bound, sizes: dict[str, int], generator: str, seed: int
) -> Case:
    parameters = {
        name: min(max(float(evaluate(p["default"], sizes)), p["min"]), p["max"])
        for name, p in launches["parameters"].items()
    }
    inputs = generate(generator, seed, bound, sizes, parameters)
    reference = interpret(program, bound, sizes, parameters, inputs, Mode.MACHINE)
    wanted = {t.name: reference.tensors[t.name] for t in program.tensors if t.role == "output"}
    where = (tuple(sorted(sizes.items())), tuple(sorted(parameters.items())), describe(generator, seed))
    try:
        got = run_interpreted(source, launches, sizes, parameters, inputs)
    except CrosscheckFailed as error:
        return Case(*where, (), False, str(error))
    worst = mismatch(got, wanted, tolerance(program), skip_undefined=True)
    errors = tuple((name, _error(got[name], want)) for name, want in wanted.items())
    if worst is None:
        return Case(*where, errors, True, "")
    message = f"{worst.tensor}{list(worst.cell)} is {worst.actual:g}, the program means {worst.expected:g}"
    return Case(*where, errors, False, message)


def _error(got: Any, want: Any) -> float:
    with np.errstate(invalid="ignore"):
        difference = np.where(got == want, 0.0, np.abs(got - want))  # equal infinities differ by nothing
    return float(difference.max(initial=0.0))


def tolerance(program: Program) -> float:
    """What rounding may explain: set by the coarsest float dtype the program touches."""
    dtypes = {t.dtype for t in program.tensors}
    dtypes |= {n.type.dtype for k in program.kernels for n in walk(k.body) if isinstance(n, Cast)}
    return max((TOLERANCE[d] for d in dtypes if d in TOLERANCE), default=TOLERANCE[DType.F32])


def run_interpreted(
    source: str, launches: Any, sizes: Mapping[str, int], parameters: Mapping[str, float], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Outputs (float64 arrays) of an emitted module under Triton's interpreter. Raises CrosscheckFailed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        request = {"source": source, "plan": launches, "sizes": dict(sizes), "parameters": dict(parameters)}
        (folder / "request.json").write_text(json.dumps(request))
        np.savez(folder / "inputs.npz", **inputs)
        command = [sys.executable, "-m", "lowering.interpreted", name]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=child_environment(True)
            )
        except subprocess.TimeoutExpired as error:
            raise CrosscheckFailed(f"Triton's interpreter took longer than {TIMEOUT:.0f} s") from error
        if done.returncode != 0:
            raise CrosscheckFailed("Triton's interpreter failed: " + "\n".join(done.stderr.splitlines()[-6:]))
        with np.load(folder / "outputs.npz") as arrays:
            return {n: arrays[n] for n in arrays.files}


# ---- ragged shapes ---------------------------------------------------------------------------


def long_sizes(program: Program) -> set[str]:
    """Sizes a kernel walks in tiles: those in a loop bound, a mask, or a grid extent that is computed."""
    found: set[str] = set()
    for kernel in program.kernels:
        nodes = list(walk(kernel.body))
        parts: list[object] = [n.mask for n in nodes if isinstance(n, Load | Store) and n.mask is not None]
        parts += [n.stop for n in nodes if isinstance(n, For)]
        parts += [axis.extent for axis in kernel.grid if not isinstance(axis.extent, Size)]
        found |= {n.name for part in parts for n in walk(part) if isinstance(n, Size)}
    return found


def ragged(program: Program, bound: Bound) -> tuple[dict[str, int], ...]:
    """Up to three small shapes within the limits and requirements; see the module docstring."""
    statics = {v for _, v in bound.settings if isinstance(v, int)}
    tiles = {n.type.shape[0] for k in program.kernels for n in walk(k.body) if isinstance(n, Arange)}
    lengths = sorted(tiles - statics) or sorted(tiles) or [16]
    small, large = lengths[0], lengths[-1]
    longs = [d.name for d in bound.dims if d.name in long_sizes(program)]
    patterns = ([large + 5, small + 3], [small // 2 + 3, large + small // 2 + 7], [large + 1, 0])
    shapes: list[dict[str, int]] = []
    for pattern in patterns:
        wanted = {name: pattern[i % len(pattern)] for i, name in enumerate(longs)}
        shape = _complete(wanted, bound)
        if shape is not None and shape not in shapes:
            shapes.append(shape)
    return tuple(shapes)


def _complete(wanted: Mapping[str, int], bound: Bound) -> dict[str, int] | None:
    """Lengths clamped to their limits, the other sizes chosen to be unequal where requirements let them."""
    requires = [formula(r, bound) for r in bound.spec.requires]
    fixed = {d.name: min(max(wanted[d.name], d.minimum), d.maximum) for d in bound.dims if d.name in wanted}
    others = [d for d in bound.dims if d.name not in wanted]
    choices = [[n for n in (2, 4, 1, 3, 8, 16) if d.minimum <= n <= d.maximum] or [d.minimum] for d in others]
    best: dict[str, int] | None = None
    for values in product(*choices):
        sizes = {**fixed, **{d.name: v for d, v in zip(others, values, strict=True)}}
        if all(evaluate(r, sizes) for r in requires) and (best is None or _rank(sizes, others) < _rank(best, others)):
            best = sizes
    return best


def _rank(sizes: Mapping[str, int], others: list[Any]) -> tuple[int, int, int]:
    """Prefer few ones, then few equal sizes, then little work."""
    values = [sizes[d.name] for d in others]
    work = 1
    for value in values:
        work *= value
    return values.count(1), len(values) - len(set(values)), work

