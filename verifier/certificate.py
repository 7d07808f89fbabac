"""The certificate: one JSON document, addressed by the hash of its content.

`issue` is the only way to make one, and it refuses anything but a complete, all-proved report.
`lowering` and `synth.bench` take a `Certificate`, never a program: "prove before run" is a type.
A certificate file holds the candidate and spec text, so everything can be re-derived from it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ir import ast
from ir import float_model as model
from ir.formulas import settled
from ir.printer import fact_text, print_definitions
from ir.spec import Bound
from verifier.sympy_view import spec_latex
from verifier.verdict import TITLES, Evidence, Report, Verdict

FORMAT = 3


class NotProved(Exception):
    """A certificate was asked for a candidate that is not proved."""


class CertificateError(Exception):
    """A certificate file is damaged, was changed after it was issued, or has another format."""


class Altered(CertificateError):
    """A certificate's content does not hash to the id it carries."""


def digest(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Certificate:
    """`body` is the JSON object less its own id; docs/certificate.md says what its keys are for."""

    body: dict[str, Any]

    @property
    def id(self) -> str:
        return digest(json.dumps(self.body, sort_keys=True, separators=(",", ":")))

    @property
    def candidate(self) -> str:
        return str(self.body["subject"]["candidate"]["text"])

    @property
    def spec_source(self) -> str:
        return str(self.body["subject"]["spec"]["text"])

    @property
    def settings(self) -> dict[str, str | int]:
        return dict(self.body["subject"]["settings"])

    @property
    def requires(self) -> tuple[str, ...]:
        """What the candidate requires of sizes beyond the spec; proved for sizes where these hold, and no others."""
        return tuple(self.body.get("requires", ()))

    @property
    def widths(self) -> dict[str, int]:
        """Proved address width in bits, per kernel."""
        return dict(self.body["widths"])

    def with_section(self, name: str, value: Any) -> Certificate:
        """A new certificate (and id) with one more section: lowered, tests, benchmarks, controls."""
        return Certificate({**self.body, name: value})

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"id": self.id, **self.body}, indent=1, sort_keys=True) + "\n")

    @staticmethod
    def load(path: Path) -> Certificate:
        """Raises CertificateError where it is none, and Altered where the content does not hash to its id."""
        try:
            body = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_object)
        except (OSError, ValueError, RecursionError) as error:
            raise CertificateError(f"{path}: cannot be read as a certificate: {error}") from error
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise CertificateError(f"{path}: not a certificate of format {FORMAT}; prove its candidate again")
        claimed = body.pop("id", None)
        certificate = Certificate(body)
        if certificate.id != claimed:
            raise Altered(f"{path}: content does not match its id; it was changed after it was issued")
        return certificate


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object with every key once: of two, one reader would see the first and another the last."""
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


ASSUMPTIONS: tuple[tuple[str, str, str], ...] = (
    ("input-range", "every input element is finite and within the abs_max the spec states", "caller"),
    ("parameters", "every parameter is within the range the spec states", "launcher"),
    ("sizes", "every size is within the spec's limits and meets its requirements", "launcher"),
    ("layout", "strides are non-negative, at most max_stride; cells are aligned to their size; outputs alias neither "
     "inputs nor each other", "launcher"),
    ("dtype", "tensors have the dtypes the settings name and live on one device", "launcher"),
    ("grid", "a launch has at most 2^31 - 1 programs", "launcher"),
    ("address-space", "every tensor spans fewer than 2^57 elements", "hardware"),
    ("lowering", "the emitted Triton means what the candidate means", "cross-check (evidence, not proof)"),
    ("compiler", "Triton, LLVM and ptxas compile the emitted source correctly", "compiler"),
    ("solver", "Z3 is right when it answers unsat", "solver"),
)

TRUSTED = (
    "ir/ast.py", "ir/program.py", "ir/spec.py", "ir/grammar.lark", "ir/expression.lark", "ir/formula.lark",
    "ir/parser.py", "ir/builder.py", "ir/typing.py", "ir/infer.py", "ir/dtypes.py", "ir/tiles.py", "ir/toml_reader.py",
    "ir/loader.py", "ir/limits.py", "ir/requirements.py", "ir/formulas.py", "ir/gradient.py", "ir/reverse.py",
    "ir/binding.py", "verifier/integers.py",
    "verifier/booleans.py", "verifier/reals.py", "verifier/constants.py", "verifier/domains.py",
    "verifier/binders.py", "verifier/signs.py",
    "verifier/terms.py", "verifier/cells.py", "verifier/smt.py", "verifier/roots.py",
    "verifier/integer_reals.py", "verifier/simplify.py",
    "verifier/squares.py", "verifier/tiles.py", "verifier/operations.py", "verifier/execute.py", "verifier/scan.py",
    "verifier/finiteness.py", "verifier/machine.py", "verifier/closed_forms.py", "verifier/formula.py",
    "verifier/inverse.py", "verifier/linear.py",
    "verifier/least.py", "verifier/floors.py", "verifier/shares.py", "verifier/magnitude.py",
    "verifier/accumulators.py", "verifier/underflow.py", "verifier/contents.py", "verifier/proof.py",
    "verifier/prove.py", "verifier/verdict.py", "verifier/certificate.py", "verifier/obligations/bounds.py",
    "verifier/obligations/width.py", "verifier/obligations/races.py", "verifier/obligations/coverage.py",
    "verifier/obligations/definedness.py", "verifier/obligations/equivalence.py", "verifier/obligations/range.py",
    "verifier/obligations/nonvacuity.py", "verifier/elimination.py", "verifier/stored.py",
    "verifier/recipes.py", "verifier/decisions.py",
    "verifier/residue.py", "verifier/argument_errors.py", "verifier/cancellation.py",
    "ir/error_formula.py", "ir/float_model.py", "verifier/rounding/cells.py", "verifier/rounding/errors.py",
    "verifier/rounding/extents.py", "verifier/rounding/prune.py", "verifier/rounding/recurrence.py",
    "verifier/rounding/rules.py", "verifier/rounding/shapes.py", "verifier/rounding/choices.py",
    "verifier/places.py", "verifier/rounding/walk.py",
)  # fmt: skip


def issue(report: Report, candidate: str, bound: Bound) -> Certificate:
    """Turn a complete, all-proved report with its evidence into a certificate; NotProved otherwise."""
    if report.verdict is not Verdict.PROVED:
        raise NotProved(f"the report says {report.verdict.value}; only proved candidates are certified")
    bare = [r.id for r in report.results if not r.evidence]
    if bare:
        raise NotProved(f"no evidence was recorded for {', '.join(bare)}; prove with evidence=True")
    subject = {
        "candidate": {"text": candidate, "sha256": digest(candidate)},
        "spec": {"text": bound.spec.source, "sha256": digest(bound.spec.source), "name": bound.spec.name},
        "settings": dict(bound.settings),
        "versions": _versions(),
    }
    return Certificate(
        {
            "format": FORMAT,
            "subject": subject,
            "claim": [{"id": r.id, "title": TITLES[r.id], "statement": r.statement} for r in report.results],
            "assumptions": [{"id": i, "text": t, "discharged_by": who} for i, t, who in _assumptions(bound, report)],
            "evidence": [
                {"obligation": r.id, "seconds": round(r.seconds, 4), "items": [_item(e) for e in r.evidence]}
                for r in report.results
            ],
            "requires": list(report.requires),
            "widths": dict(report.widths),
            "index_widths": dict(report.index_widths),
            "facts": dict(report.facts),
            "rounding": _rounding(report),
            "formula": spec_latex(bound),
            "derived": print_definitions(_derived(bound)),
            "trusted": _trusted(),
        }
    )


def _assumptions(bound: Bound, report: Report) -> tuple[tuple[str, str, str], ...]:
    """The ledger: what every certificate assumes, what the candidate requires of sizes, the contract of each saved
    input, and the facts about each integer input."""
    requires = tuple(("requires", f"proved for sizes where {text}, and for no others", "launcher")
                     for text in report.requires)  # fmt: skip
    saved = tuple(
        (f"saved-{t.name}", f"{t.name} is what the spec defines it to be, up to rounding to its dtype",
         f"the certificate of the kernel that stored {t.name}, through the caller")
        for t, _ in bound.inputs if t.saved
    )  # fmt: skip
    facts = tuple((f"facts-{t.name}", text, "launcher") for t, _ in bound.inputs if (text := fact_text(t)))
    return ASSUMPTIONS + (_rounded(report),) + requires + saved + facts


def _rounded(report: Report) -> tuple[str, str, str]:
    found = report.rounding
    if found is not None and found.outputs:
        text = "machine operations are off by no more than the model says, which section rounding states; then each "
        return ("rounding", f"{text}output is within its bound there of the formula's value", "hardware and compiler")
    why = f": {found.reason}" if found is not None else ""
    text = "rounding, and log2e and ln2 as machine numbers, stay outside the obligations"
    return ("rounding", text, f"nobody{why}")


def _rounding(report: Report) -> dict[str, Any]:
    """N1: bounds by output, as text and as terms, and the model they stand on; or the reason for none."""
    found = report.rounding
    if found is None or not found.outputs:
        return {"none": "not asked for" if found is None else found.reason}
    bounds = {b.output: {"text": b.text.split("\n"), "terms": json.loads(b.terms)} for b in found.outputs}
    return {"model": model.stated(), "bounds": bounds}


def _derived(bound: Bound) -> list[ast.Definition]:
    """The definitions `grad` was written out in, with the options put in."""
    values = {name: value for name, value in bound.settings if isinstance(value, str)}
    found = [d for d in bound.spec.definitions if d.name in bound.spec.derived]
    return [replace(d, value=settled(d.value, values)) for d in found]


def _item(e: Evidence) -> dict[str, str]:
    return {"name": e.name, "kind": e.kind, "body": e.body}


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("z3-solver", "lark", "sympy", "numpy")}


def _trusted() -> list[dict[str, str | int]]:
    """The files a reader has to believe, with their line counts and hashes."""
    root = Path(__file__).resolve().parent.parent
    texts = {name: (root / name).read_text() for name in TRUSTED}
    return [{"file": n, "lines": t.count("\n"), "sha256": digest(t)} for n, t in texts.items()]
