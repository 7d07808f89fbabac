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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ir.compare import mismatch
from ir.inputs import describe, generate
from ir.interpret import Mode, interpret
from ir.program import Cast, DType, Program
from ir.spec import Bound
from lowering.assumptions import evaluate
from lowering.choose import holds
from lowering.compile import child_environment
from lowering.hopper.simulate import adversaries, simulate
from lowering.hopper.version import asynchronous
from lowering.launch import allocate
from lowering.narrow import NotNarrower, program_of
from lowering.persistent import chosen_at_launch, in_turns
from lowering.plan import argument_name, launches_of, plan, walk
from lowering.shapes import even, many_tiles, ragged
from lowering.versions import Version, versions_in
from verifier.certificate import CertificateError

# Relative to a cell and to its tensor's largest value: a few roundings of the coarsest dtype involved.
TOLERANCE = {DType.F32: 2.0**-15, DType.F16: 2.0**-8, DType.BF16: 2.0**-5}
TIMEOUT = 300.0
AT_ONCE = (3, 1, 2)  # persistent programs, one case after another: several turns each, of odd numbers of tiles


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
    compared = zip(runs, results, strict=True)
    return Crosscheck(tuple(_compare(program, r, inputs, _meaning(program, bound, r), got) for r, got in compared))


def crosscheck_versions(lowered: Mapping[str, Any], program: Program, bound: Bound) -> list[dict[str, Any]]:
    """Every version of a certificate's section "lowered" against the reference interpreter, as JSON for its section
    "tests": the cases, each with the version's name; one for some sizes or tensors only is run at such. Raises
    CrosscheckFailed where one disagrees, or may run where it is not proved."""
    assumed = plan(program, bound)
    if json.loads(json.dumps(assumed)) != json.loads(json.dumps(lowered["plan"])):
        raise CrosscheckFailed("what a launcher would check of a call is not what the program is proved for")
    versions = versions_in(lowered)
    try:
        programs = [program_of(version, lowered, program, bound) for version in versions]
    except (CertificateError, NotNarrower) as error:
        raise CrosscheckFailed(str(error)) from error
    rows: list[dict[str, Any]] = []
    emitted, interpreted = [], []
    known: dict[tuple[object, ...], dict[str, Any]] = {}  # versions of one certificate mean the same

    def meaning(version: Version, its: Program, run: Run) -> dict[str, Any]:
        key = version.certificate, tuple(run.sizes.items())
        if key not in known:
            known[key] = _meaning(its, bound, run)
        return known[key]

    for version, its in zip(versions, programs, strict=True):
        shapes = shapes_for(version, assumed, its, bound)
        hopper = any(a[0] == "tiles" for launch in version.launches for a in launch["args"])
        if hopper and (long := many_tiles(its, bound, looped=True)) and _meets(version, assumed, long):
            shapes += (long,)  # its rings come round
        runs = tuple(_run(its, bound, sizes, "normal", 0) for sizes in shapes)
        if hopper:
            checked = simulated(its, bound, runs, version).require()
            rows += ({"version": version.name, **asdict(case)} for case in checked.cases)
        emitted.append(Emitted(version.source, version.launches, runs))
        interpreted.append((version, its))
    results = run_interpreted(assumed, emitted)
    for (version, its), one, found in zip(interpreted, emitted, results, strict=True):
        inputs = describe("normal", 0)
        cases = tuple(
            _compare(its, r, inputs, meaning(version, its, r), got) for r, got in zip(one.runs, found, strict=True)
        )
        rows += ({"version": version.name, **asdict(case)} for case in Crosscheck(cases).require().cases)
    return rows


def simulated(program: Program, bound: Bound, runs: Sequence[Run], version: Version) -> Crosscheck:
    """The same for the asynchronous programs of the version for Hopper, each run under two opposite timings. Its text
    is run too, as Triton's is (`lowering.hopper.emulated`), and compared on the device (`lowering.agreement`)."""
    size = next((launch["persistent"]["programs"] for launch in version.launches if "persistent" in launch), None)
    kernels = asynchronous(program, size)
    ran = program if size is None else in_turns(program, size)
    spec = bound if size is None else chosen_at_launch(bound, size)
    copying = {launch["kernel"] for launch in version.launches if any(a[0] == "tiles" for a in launch["args"])}
    if not copying or not copying <= {argument_name(name) for name in kernels}:
        raise CrosscheckFailed(f"version {version.name} has kernels without an asynchronous program to simulate")
    cases = []
    for number, run in enumerate(runs):
        wanted = _meaning(program, bound, run)
        sizes = run.sizes if size is None else {**run.sizes, size: AT_ONCE[number % len(AT_ONCE)]}
        for adversary in adversaries(2):
            found = simulate(kernels, ran, spec, sizes, run.parameters, run.inputs, adversary)
            inputs = f"{describe('normal', 0)}, {adversary.first} first, copies {adversary.landing}"
            case = _compare(program, run, inputs, wanted, found.tensors)
            faults = "; ".join(str(fault) for fault in found.faults)
            cases.append(replace(case, ok=False, message=faults) if faults else case)
    return Crosscheck(tuple(cases))


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
    for shapes in (every, [even(shape, program, bound) for shape in every]):
        found = [shape for shape in shapes if shape and _meets(version, assumed, shape)]
        if found:
            return tuple(shape for at, shape in enumerate(found) if shape not in found[:at])  # rounded, two may be one
    return ()


def _meets(version: Version, assumed: Mapping[str, Any], sizes: Mapping[str, int]) -> bool:
    tensors = allocate(assumed, sizes, ("input", "output", "scratch"), "meta")
    return all(holds(c, "", tensors, sizes) for c in version.when if c[0] not in ("target", "agrees"))


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


def _meaning(program: Program, bound: Bound, run: Run) -> dict[str, Any]:
    """The outputs that the program means, in machine precision."""
    reference = interpret(program, bound, run.sizes, run.parameters, run.inputs, Mode.MACHINE)
    return {t.name: reference.tensors[t.name] for t in program.tensors if t.role == "output"}


def _compare(program: Program, run: Run, inputs: str, wanted: Mapping[str, Any], got: Mapping[str, Any]) -> Case:
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
                "cases": [
                    {"sizes": run.sizes, "parameters": run.parameters, "at_once": AT_ONCE[number % len(AT_ONCE)]}
                    for number, run in enumerate(module.runs)
                ],
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
