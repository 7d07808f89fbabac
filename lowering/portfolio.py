"""Which of several certificates of one thing a call runs: the one that was measured fastest at the nearest sizes.

Certificates are of one thing when the spec's text and the settings they were proved under are the same. Each is then
proved to compute the same at every size, so a choice among them is of speed, never of meaning: the worst that wrong
times can do is a slow call. No tile is fastest at every length, and a benchmark that reports the fastest certificate of
each row reports what nobody gets unless something chooses so at a call.

Times come from results of the benchmark (`synth bench CERT... --versions`): for each row, seconds of the certificates
and of the versions inside them. Rows are nearest by the sum over sizes of |log2(size / row's size)|. Without times, or
with none of these certificates, a call runs the first certificate, as given. Standard library and torch only.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from lowering.assumptions import LaunchError, check
from lowering.launch import Launcher, Prepared

FORMAT = 1  # of results, as synth.bench.suite.results writes them


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one row by certificate and version, `sizes` being the row's."""

    sizes: Mapping[str, int]
    seconds: Mapping[tuple[str, str], float]


def read_times(path: str | Path) -> tuple[Times, ...]:
    """The rows of results in which certificates ran and were right. Raises LaunchError."""
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
        if body["format"] != FORMAT:
            raise LaunchError(f"{path}: results of format {body['format']}, this reads {FORMAT}; run synth bench again")
        identities = {c["name"]: c["id"] for c in body["certificates"]}
        return tuple(
            Times(
                {name: int(size) for name, size in row["shape"]["sizes"].items()},
                {
                    (identities[c["certificate"]], c["version"]): float(c["time"]["median"])
                    for c in row["contenders"]
                    if c["status"] == "ok" and c.get("certificate") in identities and "version" in c and "time" in c
                },
            )
            for row in body["rows"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LaunchError(f"{path}: cannot be read as benchmark results: {error!r}; synth bench makes some") from error


@dataclass(frozen=True, slots=True, eq=False)
class Portfolio:
    """Certificates of one thing, behind the interface of one (`lowering.launch.Launcher`). `members`: as given;
    `times`: of these alone."""

    members: tuple[Launcher, ...]
    times: tuple[Times, ...] = field(repr=False)

    @property
    def certificate(self) -> str:
        """Another choice is another operator."""
        said = [[t.sizes, sorted((*k, v) for k, v in t.seconds.items())] for t in self.times]
        return hashlib.sha256(json.dumps([[m.certificate for m in self.members], said]).encode()).hexdigest()

    @property
    def subject(self) -> dict[str, Any]:
        return self.members[0].subject

    @property
    def plan(self) -> dict[str, Any]:
        return self.members[0].plan

    @property
    def contracts(self) -> dict[str, str]:
        return self.members[0].contracts

    @property
    def gradients(self) -> dict[str, list[list[str]]]:
        return self.members[0].gradients

    def pick(self, sizes: Mapping[str, int]) -> tuple[Launcher, tuple[str, ...]]:
        """The certificate to run at these sizes, and its measured versions, fastest first."""
        return _picked(self, tuple(sizes.items()))

    def check(
        self, arguments: Mapping[str, Any], check_range: bool = False, check_facts: bool = True
    ) -> tuple[dict[str, torch.Tensor], dict[str, int], dict[str, float]]:
        """As Launcher.check: what a caller answers for is the same for every member."""
        given, sizes, parameters = check(self.plan, arguments, check_range, check_facts)
        self.pick(sizes)[0].check_grid(sizes)
        return given, sizes, parameters

    def prepare(self, *, check_range: bool = False, check_facts: bool = True, **arguments: Any) -> Prepared:
        """As Launcher.prepare, of the certificate picked. A version whose conditions do not hold gives way to the
        next of the same certificate."""
        given, sizes, parameters = self.check(arguments, check_range, check_facts)
        member, order = self.pick(sizes)
        return member.ready(given, sizes, parameters, order)

    def subject_at(self, sizes: Mapping[str, int]) -> dict[str, Any]:
        return self.pick(sizes)[0].subject


@lru_cache(maxsize=4096)  # a call's sizes come again
def _picked(portfolio: Portfolio, sizes: tuple[tuple[str, int], ...]) -> tuple[Launcher, tuple[str, ...]]:
    if not portfolio.times:
        return portfolio.members[0], ()
    at = dict(sizes)
    nearest = min(portfolio.times, key=lambda t: distance(t.sizes, at))
    order = sorted(nearest.seconds, key=nearest.seconds.__getitem__)
    member = next(m for m in portfolio.members if m.certificate == order[0][0])
    return member, tuple(version for identity, version in order if identity == member.certificate)


def distance(row: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """In doublings, over all sizes of the row that the call has; a size of 0 counts as 1."""
    return sum(abs(math.log2(max(sizes[name], 1) / max(n, 1))) for name, n in row.items() if name in sizes)


def portfolios(launchers: Sequence[Launcher], times: Sequence[Times] = ()) -> list[Launcher | Portfolio]:
    """Certificates of one thing together, in the order their first came. One that asks something else of its
    caller stays apart, and so one that is proved for some sizes only: its plan requires these."""
    groups: dict[str, list[Launcher]] = {}
    for launcher in launchers:
        groups.setdefault(_thing(launcher), []).append(launcher)
    return [_together(tuple(group), times) for group in groups.values()]


def _together(members: tuple[Launcher, ...], times: Sequence[Times]) -> Launcher | Portfolio:
    known = {m.certificate for m in members}
    of_these = [Times(t.sizes, {k: v for k, v in t.seconds.items() if k[0] in known}) for t in times]
    found = tuple(t for t in of_these if t.seconds)
    return Portfolio(members, found) if len(members) > 1 or found else members[0]


def _thing(launcher: Launcher) -> str:
    """What must be equal: the spec, its settings, and what the caller answers for; scratch is a kernel's own."""
    tensors = [t for t in launcher.plan["tensors"] if t["role"] != "scratch"]
    asked = {**launcher.plan, "tensors": tensors}
    subject = launcher.subject
    return json.dumps([subject["spec"]["text"], subject["settings"], asked, launcher.contracts], sort_keys=True)
