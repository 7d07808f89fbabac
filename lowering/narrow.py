"""Versions of a certified kernel that are proved for some sizes only, next to the one that runs at every size.

A *narrower* certificate is about another text for the same spec, with requirements on sizes. Its versions join those of
a kernel for every size under these requirements as conditions. What may run is proved either way: the narrower
certificate is kept whole next to its versions, so that whoever doubts one can take it out and check it by itself
(decisions/0013).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.plan import plan
from lowering.versions import Version
from verifier.certificate import Certificate, CertificateError


class NotNarrower(Exception):
    """A certificate is not about the same launch at some of the sizes."""


def conditions(narrow: Program, program: Program, bound: Bound) -> list[list[Any]]:
    """When `narrow` may run in place of `program`. Raises NotNarrower unless a launcher checks and allocates the same
    for both, and the former requires something the latter does not."""
    theirs, ours = plan(narrow, bound), plan(program, bound)
    when = [["size", r] for r in theirs["requires"] if r not in ours["requires"]]
    if not when or {**theirs, "requires": ours["requires"]} != ours:
        raise NotNarrower("it does not differ from the kernel for every size in what it requires of sizes alone")
    return when


def under(when: list[list[Any]], certificate: str, where: str, versions: tuple[Version, ...]) -> tuple[Version, ...]:
    """A narrower certificate's versions under its conditions; `where`: these in words."""
    return tuple(
        replace(v, name=f"{v.name} where {where}", when=[*when, *v.when], certificate=certificate) for v in versions
    )


def pays(narrow: Sequence[Version], general: Sequence[Version]) -> bool:
    """Whether on some target the compiler made less of the first version for some sizes than of the first for all:
    fewer instructions in loops, or fewer registers. Yes where nothing was compiled. A prediction, not a measurement."""
    pairs = [(_first(narrow, target), _first(general, target)) for target in {t for v in general for t in v.resources}]
    compared = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    return not compared or any(x < y for pair in compared for x, y in zip(*map(_taken, pair), strict=True))


def _first(versions: Sequence[Version], target: str) -> list[dict[str, Any]] | None:
    return next((v.resources[target] for v in versions if target in v.resources), None)


def _taken(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Instructions in loops, and registers, of all kernels of a version."""
    loops = [loop for row in rows for loop in (row.get("code") or {}).get("loops", ())]
    return sum(sum(loop["ops"].values()) for loop in loops), sum(row["registers"] for row in rows)


def narrower_in(lowered: Mapping[str, Any]) -> dict[str, Certificate]:
    """The narrower certificates of a section "lowered", by id. Raises CertificateError where one is not what its id
    says."""
    found = {name: Certificate(body) for name, body in lowered.get("narrower", {}).items()}
    for name, certificate in found.items():
        if certificate.id != name:
            raise CertificateError(f"narrower certificate {name[:12]}: content does not match its id")
    return found


def program_of(version: Version, lowered: Mapping[str, Any], program: Program, bound: Bound) -> Program:
    """The program a version was emitted from: the certificate's own, or a narrower one's. Raises CertificateError where
    that one is not there, and NotNarrower where it is of another spec, or the version may run at sizes it is not proved
    for."""
    if not version.certificate:
        return program
    found = narrower_in(lowered).get(version.certificate)
    if found is None:
        raise CertificateError(f"version {version.name}: the certificate it was emitted from is not there")
    if (found.spec_source, found.settings) != (bound.spec.source, dict(bound.settings)):
        raise NotNarrower(f"version {version.name}: the certificate it was emitted from is of another spec or settings")
    narrow = check(parse(found.candidate), bound)
    if any(condition not in version.when for condition in conditions(narrow, program, bound)):
        raise NotNarrower(f"version {version.name} may run at sizes it is not proved for")
    return narrow
