"""Do two versions of one certified program compute the same on this device? Asked before the first use of a version
that nothing off the device can run.

Both versions are emitted from the program that was proved; one of them has been cross-checked against the reference
interpreter. They are run on the same random inputs at shapes the certificate lists (small and ragged ones, and one
with many tiles), into outputs filled with NaN, and compared. Agreement is evidence, not proof; disagreement, an error
or a launch that does not end rules the version out. Standard library and torch only, as `lowering.launch` needs it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from lowering.assumptions import DTYPES, LaunchError, evaluate, extents
from lowering.versions import Version

PATIENCE = 60.0  # seconds for a small launch to end
# Of an output's largest value: what a flipped last bit explains (its own, or one of a probability rounded to 16 bits).
TOLERANCE = {torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9, torch.float32: 2.0**-10}

Run = Callable[[Version, Mapping[str, torch.Tensor], Mapping[str, int], Mapping[str, float]], None]
Fits = Callable[[Mapping[str, torch.Tensor], Mapping[str, int]], bool]


@dataclass(frozen=True, slots=True)
class Question:
    """Asked once for two texts and a device. `shapes`: sizes to try; `fits`: whether the version may run on these
    tensors; `run` launches a version on tensors that exist."""

    version_sha256: str
    reference_sha256: str
    device: torch.device
    version: Version = field(compare=False)
    reference: Version = field(compare=False)
    plan: Mapping[str, Any] = field(compare=False)
    shapes: Sequence[Mapping[str, int]] = field(compare=False)
    fits: Fits = field(compare=False)
    run: Run = field(compare=False)


@cache
def agrees(question: Question) -> bool:
    """Whether both versions gave the same at every shape that fits, and one did; a warning says what was found else.

    Raises LaunchError where the version does not end, for the device is then lost to this process.
    """
    try:
        reason = difference(question)
    except LaunchError:
        raise
    except Exception as error:  # whatever the compiler or the driver raises: the version is not used
        reason = f"{type(error).__name__}: {error}"
    if reason:
        name, other = question.version.name, question.reference.name
        warnings.warn(f"version {name} is not used on {question.device}: {reason}; {other} may run", stacklevel=2)
    return not reason


def difference(q: Question) -> str:
    compared = 0
    for number, sizes in enumerate(q.shapes):
        inputs = random_inputs(q.plan, sizes, q.device, number)
        first, second = (inputs | unwritten(q.plan, sizes, q.device) for _ in range(2))
        if not q.fits(first, sizes):
            continue
        parameters = default_parameters(q.plan, sizes)
        q.run(q.reference, first, sizes, parameters)
        q.run(q.version, second, sizes, parameters)
        _wait(q.version.name, q.device)
        for name in (t["name"] for t in q.plan["tensors"] if t["role"] == "output"):
            found = worst(first[name], second[name])
            if found > TOLERANCE.get(first[name].dtype, 0.0):
                return f"{name} differs from {q.reference.name}'s by {found:.3g} of its largest value at {dict(sizes)}"
            compared += int(first[name].isfinite().sum())  # what neither wrote is NaN in both
    return "" if compared else "no shape that its certificate lists meets its conditions and gives a finite number"


def _wait(name: str, device: torch.device) -> None:
    if device.type != "cuda":
        return
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    until = time.monotonic() + PATIENCE
    while not event.query():
        if time.monotonic() > until:
            raise LaunchError(f"version {name} did not end within {PATIENCE:.0f} s on {device}; restart the process")


def worst(wanted: torch.Tensor, got: torch.Tensor) -> float:
    """The largest difference over the largest finite value wanted; infinite where only one is a finite number, or they
    are different infinities."""
    a, b = wanted.double().flatten(), got.double().flatten()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.allclose(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    difference = float((a[finite] - b[finite]).abs().max())
    return difference / max(float(a[finite].abs().max()), 1e-30)


# ---- what both are given ---------------------------------------------------------------------


def default_parameters(plan: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, float]:
    return {
        name: min(max((int if p["integer"] else float)(evaluate(p["default"], sizes)), p["min"]), p["max"])
        for name, p in plan["parameters"].items()
    }


def random_inputs(
    plan: Mapping[str, Any], sizes: Mapping[str, int], device: torch.device, seed: int
) -> dict[str, torch.Tensor]:
    made = torch.Generator(device).manual_seed(seed)
    found = {}
    for t in plan["tensors"]:
        if t["role"] != "input":
            continue
        shape, dtype = extents(t, sizes), DTYPES[t["dtype"]]
        if dtype.is_floating_point:
            x = torch.randn(shape, generator=made, device=device)
            x = x if t["abs_max"] is None else x.clamp(-t["abs_max"], t["abs_max"])
        else:
            x = _integers(t["facts"], shape, sizes, made, device)
        found[t["name"]] = x.to(dtype)
    return found


def _integers(
    facts: Mapping[str, Any] | None,
    shape: list[int],
    sizes: Mapping[str, int],
    made: torch.Generator,
    device: torch.device,
) -> torch.Tensor:
    """Integers that keep the facts the spec states; parts of equal length where they split a range."""
    known = {key: int(evaluate(e, sizes)) for key, e in (facts or {}).items() if e is not None}
    if "splits" in known:
        steps = torch.arange(shape[0], device=device)
        return steps * known["splits"] // max(shape[0] - 1, 1)
    low = known.get("min", 0)
    return torch.randint(low, max(known.get("max", low + 1), low) + 1, shape, generator=made, device=device)


def unwritten(plan: Mapping[str, Any], sizes: Mapping[str, int], device: torch.device) -> dict[str, torch.Tensor]:
    found = {}
    for t in plan["tensors"]:
        if t["role"] != "input":
            shape, dtype = extents(t, sizes), DTYPES[t["dtype"]]
            value = float("nan") if dtype.is_floating_point else 0
            found[t["name"]] = torch.full(shape, value, dtype=dtype, device=device)
    return found
