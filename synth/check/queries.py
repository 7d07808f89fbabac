"""The solver queries of a certificate, put to a second solver; and its broken kernels, put to the gate again."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from ir.diagnostics import SourceError
from ir.spec import Bound
from synth.certify import certify
from synth.check.derive import Row, Standing
from verifier.second_opinion import Answer, NoQuery, Solver
from verifier.verdict import Verdict

Query = tuple[str, str]  # its name, its script
Progress = Generator[str, None, Row]


def ask(queries: Sequence[Query], name: str, solver: Solver) -> Progress:
    """What a solver says of every query. `sat` refuses the certificate; no answer leaves a query to Z3 alone."""
    begun = time.perf_counter()
    told: dict[Answer, list[str]] = {answer: [] for answer in Answer}
    for k, (query, body) in enumerate(queries):
        yield f"{name}: query {k + 1} of {len(queries)}"
        try:
            told[solver(body)].append(query)
        except NoQuery as problem:
            return Row("queries", Standing.REFUSED, f"{query} is no query: {problem}")
    seconds = time.perf_counter() - begun
    text = f"{name} says unsat to {len(told[Answer.UNSAT])} of {len(queries)} in {seconds:.1f} s"
    if told[Answer.SAT]:
        return Row("queries", Standing.REFUSED, f"{text}, and SAT to {', '.join(told[Answer.SAT])}")
    unanswered = tuple(
        f"{answer.value}: {', '.join(told[answer])}" for answer in (Answer.UNKNOWN, Answer.REFUSED) if told[answer]
    )
    return Row("queries", Standing.OPEN if unanswered else Standing.CONFIRMED, text, unanswered)


def broken_again(claimed: Any, bound: Bound) -> Progress:
    """What the gate says now of each kernel that a certificate says was stopped."""
    keys = {"mutant", "verdict", "broken", "text"}
    if not isinstance(claimed, list) or not all(isinstance(row, dict) and row.keys() == keys for row in claimed):
        return Row("controls", Standing.REFUSED, f"rows of {', '.join(sorted(keys))}, no others")
    wrong = []
    for row in claimed:
        yield f"proving {row['mutant']}, which is to be stopped"
        try:
            report = certify(str(row["text"]), bound).report
        except SourceError as error:
            wrong.append(f"{row['mutant']}: its text is no kernel: {error.message}")
            continue
        fallen = [r.id for r in report.results if r.verdict is not Verdict.PROVED]
        if (row["verdict"], row["broken"]) != (report.verdict.value, fallen):
            said = f"the certificate says {row['verdict']} {row['broken']}"
            wrong.append(f"{row['mutant']}: {said}, the gate {report.verdict.value} {fallen}")
    if wrong:
        text = "the gate does not say of its broken kernels what it says"
        return Row("controls", Standing.REFUSED, text, tuple(wrong))
    stopped = sum(row["verdict"] != "proved" for row in claimed)
    return Row("controls", Standing.CONFIRMED, f"{stopped} of {len(claimed)} broken kernels stopped again by the gate")
