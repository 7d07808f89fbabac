"""`prove`: every obligation of one candidate against one bound spec.

A crash, an unsupported construct or an exhausted limit leaves obligations unproved, with the reason as
residual: the gate closes and the caller goes on. A counterexample found for anything, even for an
obligation believed shown, makes the verdict `refuted`; it never becomes `proved`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from ir import program as core
from ir.diagnostics import SourceError
from ir.requirements import narrowed, texts
from ir.spec import Bound
from verifier import integers, refute
from verifier.contents import run_to_run
from verifier.obligations import bounds, coverage, definedness, equivalence, nonvacuity, races, range, width
from verifier.operations import Unsupported
from verifier.proof import Finding, Proof, analyse
from verifier.rounding import cells
from verifier.smt import script
from verifier.sympy_view import readable, scan_identities_hold
from verifier.verdict import OBLIGATIONS, Counterexample, Evidence, Report, Result, Verdict

Check = Callable[[Proof], Finding]

CHECKS: Mapping[str, Check] = {
    "B1": bounds.check,
    "R1": races.write_write,
    "R2": races.read_write,
    "C1": coverage.check,
    "D1": definedness.check,
    "E1": equivalence.check,
    "S1": range.check,
    "V1": nonvacuity.check,
}


def prove(
    program: core.Program,
    bound: Bound,
    source: str = "",
    evidence: bool = True,
    search: bool = True,
    rounding: bool = False,
) -> Report:
    """Verdict on every obligation, at the sizes the spec and the program require; counterexamples are replayed
    before they are reported.

    `seconds` of the report is proof time, refutation included, without the writing of evidence. With
    `evidence` a fully proved report carries the SMT-LIB files and traces a certificate needs. Without `search`
    no counterexample is looked for, so that what is not proved is unproved. With `rounding` a proved program's
    rounding is bounded, which takes about as long again and is not part of `seconds`.
    """
    with _few_collections():
        try:
            return _prove(program, bound, evidence, search, rounding)
        except SourceError:  # what the program requires of sizes cannot be
            raise
        except Exception as error:
            crashed = Finding(False, "", _crash(error))
            return Report(tuple(_result(name, crashed, 0.0, None, (), False) for name in OBLIGATIONS), 0.0)


@contextmanager
def _few_collections() -> Iterator[None]:
    """Terms live as long as the proof they are made in, so looking for garbage among them is a fifth of its time."""
    usual = gc.get_threshold()
    gc.set_threshold(500_000, 20, 100)
    try:
        yield
    finally:
        integers.reset()
        gc.set_threshold(*usual)


def _prove(program: core.Program, bound: Bound, evidence: bool, search: bool, rounding: bool) -> Report:
    begun = time.perf_counter()
    bound = narrowed(bound, program)
    integers.reset()
    proof, failure = _analysed(program, bound)
    findings: dict[str, Finding] = {}
    seconds = dict.fromkeys(OBLIGATIONS, 0.0)
    spent = time.perf_counter() - begun
    held: dict[str, tuple[int, int]] = {}
    widths = None
    for name in OBLIGATIONS:
        start = time.perf_counter()
        first = len(proof.ledger.held) if proof else 0
        if proof is None:
            findings[name] = Finding(False, "", failure or "the candidate could not be analysed")
        elif name == "B2":
            widths = _guarded(width.check, proof)
            findings[name] = widths if isinstance(widths, Finding) else widths.finding
        else:
            findings[name] = _guarded(CHECKS[name], proof)
        held[name] = (first, len(proof.ledger.held) if proof else 0)
        seconds[name] = time.perf_counter() - start
    seconds["E1"] += spent  # symbolic execution and closed forms serve equivalence above all
    examples = {}
    if search and not all(f.ok for f in findings.values()):
        try:
            examples = refute.search(program, bound, findings, proof)
        except Exception as error:
            name = next(n for n, f in findings.items() if not f.ok)
            failure = f"{findings[name].residual}\nno counterexample was found: {_crash(error)}"
            findings[name] = replace(findings[name], residual=failure.strip())
    total = time.perf_counter() - begun
    proved = proof is not None and not examples and all(f.ok for f in findings.values())
    if proved and evidence and proof:
        disputed = scan_identities_hold(proof.identities)
        if disputed:
            what = f"SymPy does not confirm the scan identity of {', '.join(disputed)}"
            findings["E1"] = Finding(False, findings["E1"].statement, what)
            proved = False
    results = []
    for name in OBLIGATIONS:
        shown = _evidence(name, proof, findings[name], held) if proved and evidence and proof else ()
        results.append(_result(name, findings[name], seconds[name], examples.get(name), shown, not examples))
    if isinstance(widths, width.Widths) and proved:
        witness = findings["V1"].trace[0] if findings["V1"].trace else ""
        facts = (*widths.facts, ("witness shape", witness), ("run to run", run_to_run(proof.layers if proof else {})))
        found = cells.rounding(proof) if rounding and proof else None
        return Report(tuple(results), total, widths.bits, widths.index_bits, facts, texts(program), found)
    return Report(tuple(results), total, requires=texts(program))


def _analysed(program: core.Program, bound: Bound) -> tuple[Proof | None, str]:
    try:
        return analyse(program, bound), ""
    except Unsupported as problem:
        line = f" (line {problem.span.line})" if problem.span.line else ""
        return None, f"not supported: {problem.message}{line}"
    except Exception as error:  # a crash of the prover closes the gate; the reason is reported
        return None, _crash(error)


def _crash(error: Exception) -> str:
    return f"the prover failed: {type(error).__name__}: {error}".removesuffix(": ")


def _guarded(check: Callable[[Proof], object], proof: Proof):  # type: ignore[no-untyped-def]
    try:
        return check(proof)
    except Unsupported as problem:
        return Finding(False, "", f"not supported: {problem.message}", problem.span)
    except Exception as error:
        return Finding(False, "", _crash(error))


def _result(
    name: str,
    finding: Finding,
    seconds: float,
    example: Counterexample | None,
    evidence: tuple[Evidence, ...],
    explain: bool,
) -> Result:
    verdict = Verdict.REFUTED if example else Verdict.PROVED if finding.ok else Verdict.UNPROVED
    span = example.span if example else finding.span
    residual = "" if verdict is Verdict.PROVED else finding.residual
    if explain and verdict is Verdict.UNPROVED and finding.goal is not None:
        stored, wanted = map(readable, finding.goal)
        residual += f"\n  that is, as formulas:\n  stored {stored}\n  spec   {wanted}"
    return Result(name, verdict, finding.statement, seconds, evidence, residual, example, span)


def _evidence(name: str, proof: Proof, finding: Finding, held: Mapping[str, tuple[int, int]]) -> tuple[Evidence, ...]:
    first, last = held[name]
    queries = list(enumerate(proof.ledger.held))[first:last]
    if name == "E1":  # side conditions of execution and closed forms come before every obligation
        queries = list(enumerate(proof.ledger.held))[: held["B1"][0]] + queries
    out = [Evidence(f"{name}-{k}", "smt", proof.ledger.smtlib(q)) for k, q in queries]
    if name == "S1":
        out += [Evidence(f"S1-reals-{k}", "smt", script(s)) for k, s in enumerate(proof.ledger.reals)]
    lines = (*(proof.notes if name == "E1" else ()), *finding.trace, *(_rules(proof) if name == "E1" else ()))
    kind = "interval" if name == "B2" else "algebra"
    return (*out, Evidence(f"{name}-trace", kind, "\n".join(lines) or "no condition arises"))


def _rules(proof: Proof) -> tuple[str, ...]:
    return tuple(f"rule used: {name}" for name in proof.simplifier.trace)


