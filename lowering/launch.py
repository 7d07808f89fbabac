"""Runs a certified kernel, after checking everything its proof assumes of the caller.

`load("kernel.cert.json")` gives a `Launcher`; calling it with tensors by the spec's names returns the
outputs. A proof says "for every size within the limits, for inputs of this dtype, ...": each of those
is an assumption with an id, and a call that breaks one raises `AssumptionViolated` before anything
runs. The file is read once and its content hash checked; what runs is made from that text in memory,
so that nothing written to disk later, before the first launch or after, can take its place.

Self-contained on purpose: with `lowering.assumptions`, `facts`, `choose`, `versions`, `occupancy` and `emitted` it
imports nothing but the standard library, torch and (through the emitted module) Triton, so that a certificate can be
used where none of the proving code is installed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lowering.agreement import Question, agrees
from lowering.assumptions import (
    DTYPES,
    AssumptionViolated,
    LaunchError,
    check,
    check_determinism,
    extents,
    grid,
)
from lowering.choose import Agreed, choose, fits, target_of
from lowering.emitted import emitted_module
from lowering.occupancy import resident, warps_of
from lowering.tensormap import descriptor, shared_descriptor, strides
from lowering.versions import Condition, NoVersion, Version, versions_in

FORMAT = 3
TURNS = 3  # that persistent programs take at least where versions are compared, if there are as many tiles


# ---- running a plan --------------------------------------------------------------------------


def prepared(
    module: ModuleType,
    launches: Sequence[Mapping[str, Any]],
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    at_once: Sequence[int],
    turns: int = 1,
) -> Callable[[], None]:
    """A function that launches every kernel in order on these tensors; grids and arguments (descriptors among them)
    are made once, here. `at_once`: of each launch, how many programs the device runs at the same time; a persistent one
    has no more, and so few that each takes `turns` tiles, if there are as many."""
    calls = []
    for launch, most in zip(launches, at_once, strict=True):
        if "persistent" in launch:  # its grid is a size that is chosen here
            tiles = grid({**launch, "grid": launch["persistent"]["tiles"]}, sizes)
            sizes = {**sizes, launch["persistent"]["programs"]: min(most, -(-tiles // turns))}
        programs = grid(launch, sizes)
        if programs <= 0:
            continue
        schedule = launch["schedule"]
        options = {"num_warps": warps_of(schedule["num_warps"], _lanes()), "num_stages": schedule["num_stages"]}
        if schedule["maxnreg"] is not None and torch.version.hip is None:
            options["maxnreg"] = schedule["maxnreg"]
        if not schedule.get("fp_fusion", True):
            options["enable_fp_fusion"] = False
        arguments = [_argument(a, tensors, sizes, parameters) for a in launch["args"]]
        calls.append((getattr(module, launch["kernel"])[(programs,)], arguments, options))

    def run() -> None:
        for call, arguments, options in calls:
            call(*arguments, **options)

    return _with_workspace(run) if any(launch.get("workspace") for launch in launches) else run


def at_once(version: Version, device: torch.device) -> list[int]:
    """Of each launch of a version, how many programs a GPU runs at the same time; one to a multiprocessor where the
    certificate does not say what they take on it."""
    target, processors = target_of(device), torch.cuda.get_device_properties(device).multi_processor_count
    rows = version.resources.get(target)
    if rows is None:
        return [processors] * len(version.launches)
    return [processors * resident(target, row["occupancy"], row["warps"]) for row in rows]


def launching(
    version: Version,
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
    device: torch.device,
    turns: int = 1,
) -> Callable[[], None]:
    """`prepared` for one version of a certificate on this device, which is current when it is called."""
    module = emitted_module(version.source)
    return prepared(module, version.launches, tensors, sizes, parameters, at_once(version, device), turns)


def _with_workspace(run: Callable[[], None]) -> Callable[[], None]:
    """Triton asks an allocator for memory where kernels make descriptors; the caller's own stays as it was."""

    def inside() -> None:
        import triton

        triton.set_allocator(lambda size, _alignment, _stream: torch.empty(size, dtype=torch.int8, device="cuda"))
        run()

    return lambda: copy_context().run(inside)


def _lanes() -> int:
    """Threads of a warp on the current device; 32 where there is none, as in Triton's interpreter."""
    return torch.cuda.get_device_properties().warp_size if torch.version.hip is not None else 32


def _argument(
    argument: list[Any],
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
) -> Any:
    match argument:
        case ["descriptor", name, _, box]:
            return descriptor(tensors[name], box)
        case ["tiles", name, dtype, box]:
            return shared_descriptor(tensors[name], box, dtype)
        case ["tensor", name, *_]:
            return tensors[name]
        case ["stride", name, axis]:
            return tensors[name].stride(axis)
        case ["box_stride", name, axis]:
            return strides(tensors[name])[axis]
        case ["size", name]:
            return sizes[name]
        case ["integer", name]:
            return int(parameters[name])
        case ["parameter", name]:
            return float(parameters[name])
        case _:
            raise LaunchError(f"the certificate holds a kernel argument this version cannot read: {argument!r}")


def allocate(
    plan: Mapping[str, Any], sizes: Mapping[str, int], roles: tuple[str, ...], device: torch.device | str
) -> dict[str, torch.Tensor]:
    """New contiguous tensors, uninitialised, for every tensor of the given roles."""
    return {
        t["name"]: torch.empty(extents(t, sizes), dtype=DTYPES[t["dtype"]], device=device)
        for t in plan["tensors"]
        if t["role"] in roles
    }


# ---- the launcher ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A call that was checked; calling it launches. `version`: the name of the one that was chosen for it."""

    version: str
    device: torch.device
    outputs: dict[str, torch.Tensor] = field(repr=False)
    launch: Callable[[], None] = field(repr=False)

    def __call__(self) -> dict[str, torch.Tensor]:
        with torch.cuda.device(self.device):
            self.launch()
        return self.outputs


@dataclass(frozen=True, slots=True, eq=False)
class Launcher:
    """A certified kernel ready to run. Call it with the spec's inputs by name.

    `subject`: the candidate's and the spec's text and the settings they were proved under; `contracts`: what
    names of the spec mean, as text; `gradients`: which outputs the spec says are gradients, of what;
    `statement`: the bound spec as JSON (lowering.statement), None where a certificate was lowered without it;
    `requires`: of sizes, beyond the spec, where it is proved for some only.
    """

    certificate: str
    subject: dict[str, Any] = field(repr=False)
    plan: dict[str, Any] = field(repr=False)
    contracts: dict[str, str] = field(repr=False)
    gradients: dict[str, list[list[str]]] = field(repr=False)
    statement: Any = field(repr=False)
    versions: tuple[Version, ...] = field(repr=False)
    requires: tuple[str, ...] = ()

    def __call__(
        self, *, check_range: bool = False, check_facts: bool = True, **arguments: Any
    ) -> dict[str, torch.Tensor]:
        """Run; returns the outputs by name.

        `arguments`: every input; optionally outputs to write into, parameters (else the spec's default),
        and sizes no tensor shape gives. `check_range` also checks |x| <= abs_max, which reads the
        inputs once. `check_facts=False` leaves out what the spec states of integer inputs, which waits for the
        device: then the caller answers for it, and an index out of range is undefined behaviour. Raises
        AssumptionViolated, with nothing run.
        """
        return self.prepare(check_range=check_range, check_facts=check_facts, **arguments)()

    def prepare(
        self, *, check_range: bool = False, check_facts: bool = True, version: str | None = None, **arguments: Any
    ) -> Prepared:
        """Check and allocate once; what is returned only launches, into the same outputs each time, and
        relies on integer inputs staying as they were checked. `version`: only the one of this name, under its own
        conditions; LaunchError where they do not hold."""
        return self.ready(*self.check(arguments, check_range, check_facts), version=version)

    def ready(
        self,
        given: Mapping[str, torch.Tensor],
        sizes: Mapping[str, int],
        parameters: Mapping[str, float],
        order: Sequence[str] = (),
        version: str | None = None,
    ) -> Prepared:
        """As `prepare`, of what `check` returned. `order`: names of versions to try before the others."""
        device = next(iter(given.values())).device
        if device.type != "cuda":
            raise AssumptionViolated("dtype", f"tensors are on {device}", "move them to a GPU")
        tensors = {**allocate(self.plan, sizes, ("output", "scratch"), device), **given}
        asked = [v for v in self.versions if version in (None, v.name)]
        asked.sort(key=lambda v: order.index(v.name) if v.name in order else len(order))
        chosen = choose(asked, target_of(device), tensors, sizes, self._agreed(device))
        check_determinism(chosen.launches)
        outputs = {t["name"]: tensors[t["name"]] for t in self.plan["tensors"] if t["role"] == "output"}
        with torch.cuda.device(device):
            launch = launching(chosen, tensors, sizes, parameters, device)

        return Prepared(chosen.name, device, outputs, launch)

    def subject_at(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        """Of the certificate that runs at these sizes: this one, at all."""
        return self.subject

    def _agreed(self, device: torch.device) -> Agreed:
        """Compares a version with another on this device, once in a process; not while a graph is recorded."""
        target = target_of(device)

        def run(
            version: Version,
            tensors: Mapping[str, torch.Tensor],
            sizes: Mapping[str, int],
            parameters: Mapping[str, float],
        ) -> None:
            with torch.cuda.device(device):
                launching(version, tensors, sizes, parameters, device, TURNS)()

        def agreed(version: Version, condition: Condition) -> bool:
            _, name, shapes = condition
            reference = next((v for v in self.versions if v.name == name), None)
            if reference is None or torch.cuda.is_current_stream_capturing():
                return False
            return agrees(
                Question(
                    version.source_sha256, reference.source_sha256, device, version, reference, self.plan, shapes,
                    lambda tensors, sizes: fits(version, target, tensors, sizes), run,
                )
            )  # fmt: skip

        return agreed

    def check(
        self, arguments: Mapping[str, Any], check_range: bool = False, check_facts: bool = True
    ) -> tuple[dict[str, torch.Tensor], dict[str, int], dict[str, float]]:
        """The tensors, sizes and parameters of a call, once every assumption on them holds."""
        given, sizes, parameters = check(self.plan, arguments, check_range, check_facts)
        self.check_grid(sizes)
        return given, sizes, parameters

    def check_grid(self, sizes: Mapping[str, int]) -> None:
        """Raises AssumptionViolated (grid)."""
        for launch in self.versions[-1].launches:
            grid(launch, sizes)


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LaunchError(f"{path}: cannot be read as a certificate: {error}") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise LaunchError(f"{path}: not a certificate of format {FORMAT}; prove its candidate again")
    claimed = body.pop("id", None)
    actual = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    if claimed != actual:
        raise LaunchError(f"{path}: content does not match its id; it was changed after it was issued")
    if "versions" not in body.get("lowered", {}):
        raise LaunchError(f"{path}: holds no emitted kernel; lower it first (synth prove-and-run does)")
    lowered = body["lowered"]
    try:
        versions = versions_in(lowered)
    except NoVersion as error:
        raise LaunchError(f"{path}: {error}; lower it again") from error
    for version in versions:
        if hashlib.sha256(version.source.encode()).hexdigest() != version.source_sha256:
            raise LaunchError(f"{path}: the emitted kernels of version {version.name} do not match their hash")
    for part in ("candidate", "spec"):
        if hashlib.sha256(body["subject"][part]["text"].encode()).hexdigest() != body["subject"][part]["sha256"]:
            raise LaunchError(f"{path}: the {part} does not match its hash")
    return {"id": claimed, **body}


def load(path: str | Path) -> Launcher:
    """Read a certificate and make its kernels callable. Raises LaunchError; checks the content hash.

    Hashes protect against damage, not against a forger (`synth check` does): load certificates you trust, for their
    emitted module is executed (at the first launch).
    """
    body = _read(Path(path))
    lowered = body["lowered"]
    return Launcher(
        certificate=body["id"],
        subject=body["subject"],
        plan=lowered["plan"],
        contracts=lowered["contracts"],
        gradients=lowered["gradients"],
        statement=lowered.get("statement"),
        versions=versions_in(lowered),
        requires=tuple(body.get("requires", ())),
    )
