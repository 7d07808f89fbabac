"""Prove-and-run, stage by stage. Read `prove_and_run` first: it is the whole story.

Only a certificate gets past `judge`: every later stage takes a `Certified`, and only `judge` makes one. A stage that
fails ends that candidate with a `Failed` event; the run goes on. Whoever iterates the events may stop at any time.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from ir.program import Program
from ir.spec import Bound
from lowering.assumptions import AssumptionViolated, LaunchError
from lowering.compile import CompileError
from lowering.crosscheck import CrosscheckFailed, crosscheck
from lowering.lower import lower
from lowering.spelling import UnsupportedByTriton
from synth import runfolder
from synth.bench import timing
from synth.events import (
    Benchmarked,
    CrossChecked,
    Event,
    Failed,
    Finished,
    Judged,
    Lowered,
    PeersMeasured,
    Proposed,
    Started,
)
from synth.propose import Candidate, NothingToPropose
from synth.propose.embedded import propose
from synth.propose.mutate import mutants
from synth.propose.seeds import seeds
from synth.prover import Prover
from verifier.certificate import Certificate
from verifier.verdict import Verdict

PROOF_SECONDS = 45.0  # for one candidate; most take one or two
CONTROLS = 4  # broken forms of each certified kernel that its certificate shows being stopped


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: `budget` in seconds, after which no further candidate is begun."""

    bound: Bound
    budget: float
    target: str
    out: Path
    mutate: bool
    max_candidates: int
    seed: int


@dataclass(frozen=True, slots=True)
class Certified:
    """A candidate that is proved: the only thing lowering and benchmarks accept."""

    candidate: Candidate
    program: Program
    certificate: Certificate


def prove_and_run(plan: Plan) -> Iterator[Event]:
    """Propose, prove or refute, lower, compile, cross-check, benchmark; yields what happens, writes the run folder."""
    begin = time.monotonic()
    folder = runfolder.create(plan.out, plan.bound.spec.name)
    results = runfolder.Results(folder)
    counts = dict.fromkeys(Verdict, 0)
    status = "interrupted"
    try:
        with Prover(plan.bound, PROOF_SECONDS) as prover:
            for event in _stages(plan, prover, folder, results, begin + plan.budget):
                results.note(event)
                match event:
                    case Judged(candidate, report) if not candidate.expected:
                        counts[report.verdict] += 1
                yield event
        status = "finished" if time.monotonic() < begin + plan.budget else "out of budget"
    finally:
        seconds = time.monotonic() - begin
        done = Finished(
            status, counts[Verdict.PROVED], counts[Verdict.REFUTED], counts[Verdict.UNPROVED], seconds, folder
        )
        results.note(done)
    yield done


def _stages(
    plan: Plan, prover: Prover, folder: Path, results: runfolder.Results, deadline: float
) -> Iterator[Event]:
    bound = plan.bound
    yield Started(bound.spec.name, bound.settings, plan.target, timing.device_label(), folder)
    bench: timing.Bench | None = None
    for number, candidate in enumerate(islice(_candidates(plan), plan.max_candidates)):
        if number and time.monotonic() > deadline:
            return
        yield Proposed(candidate)
        certified, verdict = judge(candidate, prover)
        yield verdict
        if plan.mutate and number == 0:
            for broken in mutants(candidate):
                yield Proposed(broken)
                yield judge(broken, prover)[1]  # shown and recorded; whatever the verdict, not run
        if certified is None:
            continue
        try:
            certified = with_controls(certified, prover)
            compiled, lowered = compile_ahead(certified, plan)
            results.triton(candidate.name, str(compiled.certificate.body["lowered"]["source"]))
            yield lowered
            checked, agreed = check_numbers(compiled, bound)
            path = results.certificate(candidate.name, checked.certificate)
            yield agreed
            if bench is None:
                bench = timing.prepare(bound)
                yield PeersMeasured(bench.label, bench.peak.source if bench.peak else "", timing.measure_peers(bench))
            yield benchmark(checked, path, bench, results)
        except StageFailed as failure:
            results.certificate(candidate.name, certified.certificate)
            yield Failed(candidate, failure.stage, str(failure))


def _candidates(plan: Plan) -> Iterator[Candidate]:
    """What ships with the spec, then what is composed. Raises NothingToPropose when there is neither."""
    shipped = list(seeds(plan.bound))
    yield from shipped
    try:
        yield from propose(plan.bound, plan.seed)
    except NothingToPropose:
        if not shipped:
            raise


class StageFailed(Exception):
    """A stage after the proof did not work out."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


def judge(candidate: Candidate, prover: Prover) -> tuple[Certified | None, Judged]:
    """Prove or refute; a `Certified` exactly when proved."""
    found = prover.certify(candidate.text, f"{candidate.name}.tile")
    certificate = found.certificate
    judged = Judged(candidate, found.report, certificate.id if certificate is not None else "")
    certified = None if certificate is None else Certified(candidate, found.program, certificate)
    return certified, judged


def with_controls(certified: Certified, prover: Prover) -> Certified:
    """Negative controls: broken forms of this very kernel, and what the gate said of each. A gate that let
    everything through would show here. One mutant per set of obligations it should break."""
    chosen: dict[tuple[str, ...], Candidate] = {}
    for mutant in mutants(certified.candidate):
        chosen.setdefault(mutant.expected, mutant)
    rows = []
    for mutant in islice(chosen.values(), CONTROLS):
        report = prover.certify(mutant.text, f"{mutant.name}.tile").report
        fallen = [r.id for r in report.results if r.verdict is not Verdict.PROVED]
        rows.append({"mutant": mutant.name, "verdict": report.verdict.value, "broken": fallen, "text": mutant.text})
    certificate = certified.certificate.with_section("controls", rows)
    return Certified(certified.candidate, certified.program, certificate)


def compile_ahead(certified: Certified, plan: Plan) -> tuple[Certified, Lowered]:
    """Emit Triton and compile it for the target; where Triton is not installed, emit only."""
    begin = time.monotonic()
    targets = (plan.target,) if importlib.util.find_spec("triton") else ()
    try:
        certificate = lower(certified.certificate, certified.program, plan.bound, targets)
    except (CompileError, UnsupportedByTriton) as error:
        raise StageFailed("compile", str(error)) from error
    rows = tuple(certificate.body["lowered"]["resources"].get(plan.target, ()))
    event = Lowered(certified.candidate, plan.target, rows, time.monotonic() - begin)
    return Certified(certified.candidate, certified.program, certificate), event


def check_numbers(certified: Certified, bound: Bound) -> tuple[Certified, CrossChecked]:
    """Run the emitted Triton under its interpreter against the reference interpreter on ragged shapes."""
    begin = time.monotonic()
    if not importlib.util.find_spec("triton"):
        raise StageFailed("cross-check", "Triton is not installed here; nothing emitted for it is run unchecked")
    source = str(certified.certificate.body["lowered"]["source"])
    try:
        found = crosscheck(source, certified.program, bound).require()
    except CrosscheckFailed as error:
        raise StageFailed("cross-check", str(error)) from error
    largest = max((error for case in found.cases for _, error in case.errors), default=0.0)
    tests = {"crosscheck": [asdict(case) for case in found.cases]}
    certificate = certified.certificate.with_section("tests", tests)
    event = CrossChecked(certified.candidate, len(found.cases), largest, time.monotonic() - begin)
    return Certified(certified.candidate, certified.program, certificate), event


def benchmark(certified: Certified, path: Path, bench: timing.Bench, results: runfolder.Results) -> Benchmarked:
    """Time the certified kernel and write the figures into its certificate."""
    try:
        measured = timing.measure_certified(certified.certificate, path, certified.program, bench)
    except (AssumptionViolated, LaunchError) as error:
        raise StageFailed("benchmark", str(error)) from error
    figures = {"device": bench.label, "measurements": [asdict(m) for m in measured]}
    results.certificate(certified.candidate.name, certified.certificate.with_section("benchmarks", figures))
    return Benchmarked(certified.candidate, measured)
