"""From a certificate to code that runs: emits Triton, compiles it, and writes both into the certificate.

The door: a `Certificate` goes in, never a bare program, and the program handed along must be exactly
what the certificate's candidate text means under the certificate's spec settings, or nothing is
emitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from lowering.compile import Resources, compile_kernels
from lowering.contracts import contracts, gradients
from lowering.plan import plan
from lowering.statement import statement
from lowering.triton import emit
from verifier.certificate import Certificate, digest


class NotCertified(Exception):
    """The program, or the spec it is bound to, is not the one the certificate was issued for."""


def require_certified(certificate: Certificate, program: Program, bound: Bound) -> None:
    """Raises NotCertified unless the certificate is about this program and this bound spec."""
    if certificate.spec_source != bound.spec.source:
        raise NotCertified("the certificate was issued for another spec text")
    if certificate.settings != dict(bound.settings):
        raise NotCertified(f"the certificate was issued for {certificate.settings}, not {dict(bound.settings)}")
    if check(parse(certificate.candidate), bound) != program:
        raise NotCertified("the certificate was issued for another candidate")


def lower(
    certificate: Certificate, program: Program, bound: Bound, targets: Sequence[str] = ("sm_90",)
) -> Certificate:
    """The certificate with its section "lowered": Triton source, launch plan, resources per target.

    Raises NotCertified, UnsupportedByTriton, CompileError.
    """
    require_certified(certificate, program, bound)
    source = emit(certificate, program, bound)
    launches = plan(program, bound)
    resources: dict[str, tuple[Resources, ...]] = {
        target: compile_kernels(source, launches["launches"], target) for target in targets
    }
    section = {
        "source": source,
        "source_sha256": digest(source),
        "plan": launches,
        "contracts": contracts(bound),
        "gradients": gradients(bound),
        "statement": statement(bound),
        "resources": {target: [asdict(r) for r in rows] for target, rows in resources.items()},
    }
    return certificate.with_section("lowered", section)
