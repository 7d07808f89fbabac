"""What is benchmarked: certificates, grouped by what they compute.

Two certificates are of one group when the spec's text and the settings they were proved under are the same; then they
are timed side by side on the same inputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from ir.spec import Bound
from lowering.assumptions import LaunchError
from lowering.launch import Launcher, load
from lowering.statement import NotStated, stated


@dataclass(frozen=True, slots=True)
class Subject:
    """One certificate; `name` is its file's, without the ending; `rounding` has its section of rounding bounds,
    and those of the narrower certificates it holds."""

    name: str
    path: Path
    launcher: Launcher
    rounding: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Certificates of one bound spec. `gradients`: of each output that is a gradient, what of (lowering.contracts)."""

    key: str
    bound: Bound
    gradients: dict[str, list[list[str]]]
    subjects: tuple[Subject, ...] = field(default=())

    @property
    def title(self) -> str:
        settings = ", ".join(f"{name} = {value}" for name, value in self.bound.settings)
        return f"{self.bound.spec.name} ({settings})"


def files(paths: Sequence[Path]) -> list[Path]:
    """Certificates among files and folders (*.cert.json in them), each once. Raises LaunchError where there is none."""
    found = [file for path in paths for file in (sorted(path.glob("*.cert.json")) if path.is_dir() else [path])]
    if not found:
        shown = ", ".join(map(str, paths)) or "nothing"
        raise LaunchError(f"no certificate in {shown}; synth prove KERNEL --spec SPEC --certificate CERT makes one")
    return list(dict.fromkeys(found))


def read(paths: Sequence[Path]) -> tuple[Group, ...]:
    """The certificates of files and folders, grouped. Raises LaunchError, also for one that is proved for some sizes
    only: what is compared answers the spec, at every size it admits."""
    named = _names(files(paths))
    found: dict[str, list[Subject]] = {}
    for file, name in named.items():
        launcher = load(file)
        if launcher.requires:
            only = f"{file}: proved for sizes where {' and '.join(launcher.requires)} only"
            raise LaunchError(f"{only}; benchmark a kernel for every size, which may hold this one as a version")
        found.setdefault(_key(launcher), []).append(Subject(name, file, launcher, _rounding(file)))
    return tuple(_group(key, tuple(subjects)) for key, subjects in found.items())


def _rounding(file: Path) -> tuple[dict[str, Any], ...]:
    body = json.loads(file.read_text())
    narrower = body.get("lowered", {}).get("narrower", {})
    return tuple(dict(b.get("rounding", {})) for b in (body, *narrower.values()))


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """File names; with their folders where two are alike."""
    plain = {file: file.name.removesuffix(".json").removesuffix(".cert") for file in paths}
    twice = {name for name in plain.values() if list(plain.values()).count(name) > 1}
    return {file: f"{file.parent.name}/{name}" if name in twice else name for file, name in plain.items()}


def _key(launcher: Launcher) -> str:
    subject = launcher.subject
    settings = json.dumps(subject["settings"], sort_keys=True)
    return sha256(f"{subject['spec']['text']}\0{settings}".encode()).hexdigest()[:16]


def _group(key: str, subjects: tuple[Subject, ...]) -> Group:
    first = subjects[0].launcher
    if first.statement is None:
        raise LaunchError(f"{subjects[0].path}: holds no formula to check results by; lower it again")
    try:
        bound = stated(first.statement, first.subject["spec"]["text"])
    except NotStated as error:
        raise LaunchError(f"{subjects[0].path}: {error}") from error
    return Group(key, bound, first.gradients, subjects)
