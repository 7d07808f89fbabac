"""The versions of one certified program that a certificate holds.

One program may be emitted in more than one way, best first. Each version says when it may run: on which targets, for
which sizes, of which tensors; `lowering.choose` picks the first whose conditions hold for a call. The last has none,
so that there always is one. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Condition = Sequence[Any]


class NoVersion(Exception):
    """The section "lowered" holds no version that runs everywhere, or one that this code cannot read."""


@dataclass(frozen=True, slots=True)
class Version:
    """`when`: ["target", "sm_90", ...] (one of these), ["size", expression] (true at the call's sizes),
    ["descriptor", "K"] (TMA can move boxes of that tensor as passed, lowering.tensormap), ["agrees", "pointers",
    shapes] (compared with that version on the device, lowering.agreement: nothing else can run it). `launches`:
    what to launch, in order. `resources`: per target it was compiled for, what each kernel takes. `certificate`: the id
    of the narrower certificate it was emitted from (`lowering.narrow`), empty where that is the one that holds it."""

    name: str
    source: str
    source_sha256: str
    launches: list[dict[str, Any]]
    when: list[Condition] = field(default_factory=list)
    resources: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    certificate: str = ""

    def targets(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Those of the wanted targets it may run on."""
        limits = [set(condition[1:]) for condition in self.when if condition[0] == "target"]
        return tuple(t for t in wanted if all(t in limit for limit in limits))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A version that was asked for and is not there, on `target` or, where that is empty, on any; and why."""

    version: str
    why: str
    target: str = ""

    def __str__(self) -> str:
        on = f" on {self.target}" if self.target else ""
        return f"no version {self.version}{on}: {self.why}"

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def left_out(lowered: Mapping[str, Any]) -> tuple[LeftOut, ...]:
    """What is not among the versions of a certificate's section "lowered"; nothing where none was noted."""
    return tuple(LeftOut(**row) for row in lowered.get("left_out", ()))


def versions_in(lowered: Mapping[str, Any]) -> tuple[Version, ...]:
    """The versions of a certificate's section "lowered", best first. Raises NoVersion."""
    try:
        found = tuple(Version(**version) for version in lowered["versions"])
    except (KeyError, TypeError) as error:
        raise NoVersion(f"it holds a version this code cannot read: {error}") from error
    if not found or found[-1].when:
        raise NoVersion("it holds no version that runs everywhere")
    return found


def version_on(lowered: Mapping[str, Any], target: str) -> Version:
    """The version that runs first on a target, whatever the sizes: the first compiled for it, else the last.

    Raises NoVersion.
    """
    found = versions_in(lowered)
    anywhere = (v for v in found if all(condition[0] != "size" for condition in v.when))
    return next((v for v in anywhere if target in v.resources), found[-1])
