"""Which version of a certified program a call runs: the first whose conditions all hold.

A choice is of speed, never of meaning: every version is emitted from the program that was proved, and cross-checked
before it may run. A condition that cannot be read is a reason to refuse. Standard library and torch only, as
`lowering.launch` needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from lowering.assumptions import LaunchError, evaluate
from lowering.tensormap import unfit
from lowering.versions import Condition, Version

Agreed = Callable[[Version, Condition], bool]


def nobody_asked(version: Version, condition: Condition) -> bool:
    """Of a version that must be compared on the device, where nobody compares: it does not run."""
    return False


def choose(
    versions: Sequence[Version],
    target: str,
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    agreed: Agreed = nobody_asked,
) -> Version:
    """The first version whose conditions hold for a call; `agreed` answers its condition ["agrees", ...], asked last.
    Raises LaunchError for a condition nobody here can read."""
    for version in versions:
        asked = [condition for condition in version.when if condition[0] == "agrees"]
        if fits(version, target, tensors, sizes) and all(agreed(version, condition) for condition in asked):
            return version
    raise LaunchError("the certificate holds no version for this call; lower it again")


def fits(
    version: Version, target: str, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]
) -> bool:
    """Whether all its conditions on target, tensors and sizes hold."""
    return all(holds(c, target, tensors, sizes) for c in version.when if c[0] != "agrees")


def holds(
    condition: Condition, target: str, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]
) -> bool:
    match condition:
        case ["target", *targets]:
            return target in targets
        case ["size", expression]:
            return bool(evaluate(expression, sizes))
        case ["descriptor", name] if name in tensors:
            return not unfit(tensors[name])
        case _:
            raise LaunchError(f"the certificate holds a condition this version cannot read: {condition!r}")


def target_of(device: torch.device) -> str:
    """A GPU's target by the names `lowering.compile.TARGETS` uses: sm_90, gfx942."""
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
