"""The four things done with a candidate, each a job that any worker can do: prove, build, check, time.

A job is a value and so is its answer; both travel between processes, and answers are kept in the run's state, so that
a resumed run asks for nothing twice. Only a proof yields a `Certificate`, and build, check and time take one: "prove
before run" is a type here as everywhere. Every answer that is not what was hoped for says why.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ir.diagnostics import SourceError
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from lowering.compile import CompileError
from lowering.lower import lower
from lowering.spelling import UnsupportedByTriton
from lowering.versions import version_on
from synth.certify import certify, narrower
from synth.events import Measurement
from synth.propose import Candidate
from synth.propose.mutate import mutants
from verifier.certificate import Certificate
from verifier.verdict import OBLIGATIONS, Report, Result, Verdict

SOME_SIZES = "no answer by itself: it must be proved for every size, and is for those only where "
CONTROLS = 4  # broken forms of each certified kernel that its certificate shows being stopped


@dataclass(frozen=True, slots=True)
class Prove:
    """Prove or refute one kernel text."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Proof:
    """`problem` is the rendered error of a text that is no kernel of the spec, and then there is no report; or says
    that the kernel is proved for some sizes only. `certificate` is there exactly when the report says proved."""

    report: Report | None
    certificate: Certificate | None = None
    problem: str = ""

    @property
    def verdict(self) -> Verdict | None:
        return None if self.report is None else self.report.verdict


@dataclass(frozen=True, slots=True)
class Build:
    """Emit Triton and compile it for `target`."""

    name: str
    certificate: Certificate
    target: str


@dataclass(frozen=True, slots=True)
class Built:
    """`resources`: one entry per kernel, as `lowering.compile` reports them; `problem` is empty when it compiled."""

    certificate: Certificate
    resources: tuple[dict[str, Any], ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """Run the emitted Triton under its interpreter against the reference interpreter on ragged shapes, and show the
    gate stopping broken forms of this very kernel (negative controls)."""

    name: str
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class Checked:
    certificate: Certificate
    cases: int = 0
    largest_error: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Time:
    """Time a certified kernel, or with `certificate` None standard PyTorch, on the spec's "search" or "heldout" shapes.

    `rung` of the successive halving: "short" is the first shape and few calls, "long" all shapes and many calls."""

    name: str
    certificate: Certificate | None
    shapes: str
    rung: str


@dataclass(frozen=True, slots=True)
class Timed:
    """`device` and `roofline` say where, and what shares are shares of."""

    measurements: tuple[Measurement, ...] = ()
    device: str = ""
    roofline: str = ""
    problem: str = ""


Job = Prove | Build | Check | Time
Answer = Proof | Built | Checked | Timed


def prove(job: Prove, bound: Bound) -> Proof:
    try:
        found = certify(job.text, bound, f"{job.name}.tile")
    except SourceError as error:
        return Proof(None, problem=error.render())
    narrow = found.certificate is not None and not found.report.answers
    return Proof(found.report, found.certificate, SOME_SIZES + " and ".join(found.report.requires) if narrow else "")


def unanswered(reason: str, seconds: float) -> Proof:
    """Whatever kept a proof from being finished is an unproved report with that reason, never anything else."""
    return Proof(Report(tuple(Result(o, Verdict.UNPROVED, "", 0.0, residual=reason) for o in OBLIGATIONS), seconds))


def do(job: Job, bound: Bound) -> Answer:
    """The answer to any job. What it raises beyond the problems a job names is for a pool to answer with `lost`."""
    match job:
        case Prove():
            return prove(job, bound)
        case Build():
            return build(job, bound)
        case Check():
            return cross_check(job, bound)
        case Time():
            from synth.bench.job import time_job  # PyTorch: only where it is used

            return time_job(job, bound)


def lost(job: Job, reason: str, seconds: float) -> Answer:
    """The answer to a job that came to nothing after `seconds`: never proved, built, checked or timed."""
    match job:
        case Prove():
            return unanswered(reason, seconds)
        case Build(certificate=certificate):
            return Built(certificate, problem=reason)
        case Check(certificate=certificate):
            return Checked(certificate, problem=reason)
        case Time():
            return Timed(problem=reason)


def build(job: Build, bound: Bound) -> Built:
    """With a version for even sizes, where that is proved. Where Triton is not installed, emits only."""
    certificate = job.certificate
    program = check(parse(certificate.candidate), bound)
    targets = (job.target,) if importlib.util.find_spec("triton") else ()
    try:
        certificate = lower(certificate, program, bound, targets, narrower(certificate, bound))
    except (CompileError, UnsupportedByTriton) as error:
        return Built(certificate, problem=str(error))
    best = version_on(certificate.body["lowered"], job.target)
    return Built(certificate, tuple(best.resources.get(job.target, ())))


def cross_check(job: Check, bound: Bound) -> Checked:
    from lowering.crosscheck import CrosscheckFailed, crosscheck_versions  # PyTorch: only where it is used

    certificate = job.certificate
    if not importlib.util.find_spec("triton"):
        return Checked(certificate, problem="Triton is not installed here; nothing emitted for it is run unchecked")
    certificate = certificate.with_section("controls", controls(job, bound))
    program = check(parse(certificate.candidate), bound)
    try:
        cases = crosscheck_versions(certificate.body["lowered"], program, bound)
    except CrosscheckFailed as error:
        return Checked(certificate, problem=str(error))
    largest = max((error for case in cases for _, error in case["errors"]), default=0.0)
    certificate = certificate.with_section("tests", {"crosscheck": cases})
    return Checked(certificate, len(cases), largest)


def controls(job: Check, bound: Bound) -> list[dict[str, Any]]:
    """Broken forms of this very kernel, and what the gate said of each. A gate that let everything through would show
    here. One mutant per set of obligations it should break."""
    chosen: dict[tuple[str, ...], Candidate] = {}
    for mutant in mutants(Candidate(job.name, job.certificate.candidate)):
        chosen.setdefault(mutant.expected, mutant)
    rows = []
    for mutant in islice(chosen.values(), CONTROLS):
        report = certify(mutant.text, bound, f"{mutant.name}.tile").report
        fallen = [r.id for r in report.results if r.verdict is not Verdict.PROVED]
        rows.append({"mutant": mutant.name, "verdict": report.verdict.value, "broken": fallen, "text": mutant.text})
    return rows
