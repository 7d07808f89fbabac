"""Predicted times of a certificate: every version it holds, at sizes where that version may run.

A version that needs something of the tensors as passed (a TMA descriptor) is taken to get it. What is predicted for a
version is from its own machine code and its own candidate, which for even sizes is a narrower one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ir.loader import bind, parse_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.narrow import program_of
from lowering.versions import Version, versions_in
from synth.bench.cost import Prediction, predict
from synth.bench.hardware import Device
from verifier.certificate import Certificate


@dataclass(frozen=True, slots=True)
class Predicted:
    """One version at given sizes."""

    version: str
    prediction: Prediction


def predicted(
    certificate: Certificate, sizes: Mapping[str, int], target: str, device: Device | None = None
) -> tuple[Predicted, ...]:
    """Every version compiled for `target` that may run at `sizes`, in the certificate's order; the first is what a
    launcher runs. Empty where none was compiled for it. Raises NoVersion for a certificate that was never lowered."""
    lowered = certificate.body.get("lowered", {})
    program, bound = _meaning(certificate)
    found = []
    for version in versions_in(lowered):
        if target in version.resources and _runs(version, target, sizes):
            own = program_of(version, lowered, program, bound)
            rows = version.resources[target]
            found.append(Predicted(version.name, predict(own, bound, sizes, target, rows, device)))
    return tuple(found)


def best(
    certificate: Certificate, sizes: Mapping[str, int], target: str, device: Device | None = None
) -> Predicted | None:
    """The version with the least predicted time, None where none was compiled for the target."""
    found = predicted(certificate, sizes, target, device)
    return min(found, key=lambda p: p.prediction.seconds, default=None)


def _runs(version: Version, target: str, sizes: Mapping[str, int]) -> bool:
    from lowering.assumptions import evaluate  # brings PyTorch

    for condition in version.when:
        match condition:
            case ["target", *targets] if target not in targets:
                return False
            case ["size", expression] if not evaluate(expression, sizes):
                return False
    return True


def _meaning(certificate: Certificate) -> tuple[Program, Bound]:
    bound = bind(parse_spec(certificate.spec_source, "<certificate>"), certificate.settings)
    return check(parse(certificate.candidate), bound), bound
