"""From a proof to a certificate that can be handed out: lowered, and its emitted Triton cross-checked.

What `synth prove --certificate` writes and `synth.load` reads. `prove-and-run` takes the same steps one by one,
showing each.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from ir.spec import Bound
from lowering.compile import CompileError
from lowering.crosscheck import CrosscheckFailed, crosscheck_versions
from lowering.lower import lower
from lowering.spelling import UnsupportedByTriton
from synth.certify import Judgement, narrower
from verifier.certificate import Certificate, NotProved


class NotLowered(Exception):
    """The kernel is proved, but nothing that may run could be made of it; the message says why."""


def ship(found: Judgement, bound: Bound, targets: Sequence[str] = (), checked: bool = True) -> Certificate:
    """The certificate with its emitted kernels, compiled for `targets`, and (`checked`, where Triton is installed)
    what the cross-check against the reference interpreter found.

    Raises NotProved, NotLowered.
    """
    if found.certificate is None:
        raise NotProved(f"the report says {found.report.verdict.value}; only proved candidates are certified")
    try:
        certificate = lower(found.certificate, found.program, bound, targets, narrower(found.certificate, bound))
        if not checked or not importlib.util.find_spec("triton"):
            return certificate
        cases = crosscheck_versions(certificate.body["lowered"], found.program, bound)
    except (CompileError, CrosscheckFailed, UnsupportedByTriton) as error:
        raise NotLowered(str(error)) from error
    return certificate.with_section("tests", {"crosscheck": cases})
