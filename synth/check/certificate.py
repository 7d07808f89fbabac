"""`check`: one certificate, from file to verdict. Read `check` first: it is the whole story."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from synth.check.derive import Derived, NotDerived, Row, Standing, derive, queries, sections
from synth.check.queries import ask, broken_again
from verifier.certificate import Altered, Certificate, CertificateError
from verifier.second_opinion import Solver, z3_answer

ADDED = ("lowered", "controls", "tests", "benchmarks")  # sections that are made after the proof
RECORDS = {
    "tests": "what the cross-check of its emitted text found: a record of runs, on which no claim rests",
    "benchmarks": "times of its maker's machine: a record, on which no claim rests",
}


@dataclass(frozen=True, slots=True)
class How:
    """What is done besides proving again. `solver`: the second one with its name, None for none; `controls`: prove
    broken kernels again; `compiles`: ask the compiler again; `reads`: prove again what Triton's front end makes of each
    version."""

    solver: tuple[str, Solver] | None = None
    controls: bool = False
    compiles: bool = False
    reads: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """`problem` says why a file is no certificate at all; then there are no rows."""

    path: str
    id: str = ""
    rows: tuple[Row, ...] = ()
    problem: str = ""
    requires: tuple[str, ...] = ()

    def of(self, *standings: Standing) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.standing in standings)

    @property
    def refused(self) -> bool:
        return bool(self.of(Standing.REFUSED))

    @property
    def complete(self) -> bool:
        """Nothing refused, and nothing open."""
        return not self.problem and not self.of(Standing.REFUSED, Standing.OPEN)

    def to_json(self) -> dict[str, Any]:
        verdict = "unreadable" if self.problem else "refused" if self.refused else "checked"
        return {
            "path": self.path, "id": self.id, "verdict": verdict, "complete": self.complete,
            "requires": list(self.requires), "rows": [r.to_json() for r in self.rows], "problem": self.problem,
        }  # fmt: skip


Steps = Generator[str | Row, None, None]


def check(path: Path, how: How) -> Generator[str | Row, None, Checked]:
    """Check one file: lines that say what is being done, rows as they come, and all of them in the end."""
    try:
        certificate = Certificate.load(path)
    except Altered as error:
        row = Row("id", Standing.REFUSED, str(error))
        yield row
        return Checked(str(path), rows=(row,))
    except CertificateError as error:
        return Checked(str(path), problem=str(error))
    rows = []
    for step in chain((Row("id", Standing.DERIVED, certificate.id),), _body(certificate, how)):
        if isinstance(step, Row):
            rows.append(step)
        yield step
    requires = certificate.body.get("requires")
    found = tuple(requires) if isinstance(requires, list) else ()
    return Checked(str(path), certificate.id, tuple(rows), requires=found)


def _body(certificate: Certificate, how: How) -> Generator[str | Row, None, Derived | None]:
    """The rows of a certificate, and what was derived of it, if anything was."""
    body = certificate.body
    yield "proving the candidate again"
    try:
        derived = derive(certificate)
    except NotDerived as problem:
        yield problem.row
        return None
    evidence = None
    for row in sections(body, derived):
        evidence = row if row.section == "evidence" else evidence
        yield row
    for name in body.keys() - derived.certificate.body.keys() - set(ADDED):
        yield Row(name, Standing.REFUSED, "no certificate has a section of that name")
    yield from _asked(body.get("evidence"), derived, how, evidence)
    if "lowered" in body:
        yield from _lowered(body["lowered"], derived, how)
    elif how.reads:
        yield Row("read back", Standing.OPEN, "it holds no emitted version")
    if "controls" in body:
        yield from _controls(body["controls"], derived, how)
    for name, text in RECORDS.items():
        if name in body:
            yield Row(name, Standing.EVIDENCE, text)
    return derived


def _asked(evidence: Any, derived: Derived, how: How, compared: Row | None) -> Steps:
    """A second solver on all queries; and Z3 here on those it was not asked, where `compared` says there are some."""
    found, own = queries(evidence), {body for _, body in queries(derived.certificate.body["evidence"])}
    other = [query for query in found if query[1] not in own]
    if other and compared is not None and compared.standing is not Standing.DERIVED:
        yield (yield from ask(other, "Z3 (of the queries that are not asked here)", z3_answer))
    if how.solver is None:
        text = f"{len(found)}, put to no second solver: pip install cvc5, or name one with --second-solver"
        yield Row("queries", Standing.OPEN, text)
    else:
        yield (yield from ask(found, *how.solver))


def _lowered(claimed: Any, derived: Derived, how: How) -> Steps:
    from synth.check.emission import lowered_rows  # PyTorch: only where it is used

    narrower = []
    bodies = claimed.get("narrower") if isinstance(claimed, dict) else None
    for name, body in bodies.items() if isinstance(bodies, dict) else ():
        if not isinstance(body, dict) or Certificate(body).id != name:
            yield Row("id", Standing.REFUSED, "its content does not match its id", inside=name)
            continue
        inner = yield from _inside(name, _body(Certificate(body), replace(how, reads=False)))
        if inner is not None:
            narrower.append((name, inner.certificate))
    yield "emitting every version again"
    versions = yield from lowered_rows(claimed, derived, narrower, how.compiles)
    if how.reads and versions:
        from synth.check.reading import read_back

        yield from read_back(versions, claimed, derived)


def _inside(name: str, steps: Generator[str | Row, None, Derived | None]) -> Generator[str | Row, None, Derived | None]:
    """The same steps, as those of a certificate inside another."""
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        yield replace(step, inside=step.inside or name) if isinstance(step, Row) else f"{step}, for some sizes"


def _controls(claimed: Any, derived: Derived, how: How) -> Steps:
    if how.controls:
        yield (yield from broken_again(claimed, derived.bound))
    else:
        text = "broken forms of this kernel, which the gate stopped; --controls puts them to it again"
        yield Row("controls", Standing.EVIDENCE, text)
