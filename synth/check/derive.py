"""From a certificate's subject to the certificate the installed gate issues for it, and what the file says otherwise.

Sound because nothing but spec text, candidate text and settings is read: whatever else the file says follows from them
by a proof that was made here and now, or is refused, or is named as something that cannot be derived. Two things may
differ without being refused. Files of the prover may have other hashes, and Z3 another version: then another release
made the certificate, which is said. And the queries and traces of such a release need not be the ones made here: those
that are not are counted as not derived, and its queries are put to the solvers like all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from ir.diagnostics import SourceError
from ir.loader import bind, packaged_specs, parse_spec
from ir.parser import parse
from ir.program import Program
from ir.spec import Bound
from ir.typing import check
from synth.check.difference import Difference, differences, plain
from verifier.certificate import Certificate, issue
from verifier.prove import prove
from verifier.second_opinion import NoQuery, asserted
from verifier.verdict import Report, Verdict

NOT_ASKED = {"none": "not asked for"}  # section `rounding` of a certificate that was issued without bounds
MOST = 8  # differences that are shown of a section


class Standing(Enum):
    """What checking a part of a certificate came to."""

    DERIVED = "re-derived"  # it follows from the subject
    CONFIRMED = "confirmed"  # a second solver, or doing it again, says the same
    OPEN = "not confirmed"  # neither shown nor contradicted; exit code 2 with --strict
    EVIDENCE = "evidence"  # nothing a check can derive, and nothing the claim rests on
    REFUSED = "REFUSED"  # it does not follow, or is contradicted


@dataclass(frozen=True, slots=True)
class Row:
    """One part of a certificate. `details`: the places that differ, or the items that are meant. `inside`: the id of
    the certificate it is a part of, where that is one for some sizes inside the one that is checked."""

    section: str
    standing: Standing
    text: str
    details: tuple[str, ...] = ()
    inside: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "standing": self.standing.value}


class NotDerived(Exception):
    """The subject is no kernel of its spec, or the gate does not prove it; `row` says so."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.text)
        self.row = row


@dataclass(frozen=True, slots=True)
class Derived:
    """What follows from a certificate's subject."""

    certificate: Certificate
    program: Program
    bound: Bound
    report: Report


def derive(claimed: Certificate) -> Derived:
    """Prove the certificate's candidate again. Raises NotDerived."""
    text, bound, program = _subject(claimed.body)
    asked = claimed.body.get("rounding") != NOT_ASKED
    report = prove(program, bound, text, rounding=asked)
    if report.verdict is not Verdict.PROVED:
        fallen = [r for r in report.results if r.verdict is not Verdict.PROVED]
        why = tuple(f"{r.id} {r.verdict.value}: {_reason(r.residual, r.counterexample)}" for r in fallen)
        text = f"the gate does not prove this candidate: it is {report.verdict.value}"
        raise NotDerived(_refused("claim", text, why))
    return Derived(Certificate(plain(issue(report, text, bound).body)), program, bound, report)


def _reason(residual: str, counterexample: object) -> str:
    if counterexample is not None:
        return f"{counterexample}"
    return residual.strip().partition("\n")[0] or "see `synth prove`"


def _subject(body: dict[str, Any]) -> tuple[str, Bound, Program]:
    match body.get("subject"):
        case {"candidate": {"text": str(text)}, "spec": {"text": str(spec)}, "settings": dict(settings)}:
            pass
        case _:
            raise NotDerived(_refused("subject", "it holds no text of a candidate, no text of a spec, or no settings"))
    if not all(type(value) in (str, int) for value in settings.values()):
        raise NotDerived(_refused("subject", "settings are names and whole numbers"))
    try:
        bound = bind(parse_spec(spec), settings)
        return text, bound, check(parse(text), bound, text)
    except SourceError as error:
        why = "its texts are no kernel of a spec under these settings"
        raise NotDerived(_refused("subject", why, (str(error),))) from error


def sections(claimed: dict[str, Any], derived: Derived) -> Iterator[Row]:
    """A row for every section that a proof decides. `claimed`: the certificate's body."""
    own = derived.certificate.body
    foreign = _origin(claimed, own)
    yield _subject_row(claimed, own, derived.bound)
    yield _provenance(claimed, own, foreign)
    for name in (n for n in own if n not in ("subject", "trusted", "evidence")):
        found = list(differences({k: v for k, v in claimed.items() if k == name}, {name: own[name]}, ""))
        yield _compared(name, found, _said_of(name, own, derived.report), foreign)
    yield _evidence(claimed.get("evidence"), own["evidence"], foreign)


def _compared(name: str, found: list[Difference], text: str, foreign: str) -> Row:
    if not found:
        return Row(name, Standing.DERIVED, text)
    hint = f"; {foreign}: check it with that release, or prove its candidate again" if foreign else ""
    return _refused(name, f"it does not say what follows from spec and candidate{hint}", shown(found))


def _refused(section: str, text: str, details: tuple[str, ...] = ()) -> Row:
    return Row(section, Standing.REFUSED, text, details)


def shown(found: list[Difference]) -> tuple[str, ...]:
    """The first differences as lines, and how many there are besides."""
    more = (f"and {len(found) - MOST} more",) if len(found) > MOST else ()
    return (*map(str, found[:MOST]), *more)


def _said_of(name: str, own: dict[str, Any], report: Report) -> str:
    match name:
        case "claim":
            return f"{len(own['claim'])} obligations, proved again in {report.seconds:.2f} s"
        case "assumptions":
            return f"{len(own['assumptions'])}, each with who answers for it"
        case "requires":
            return " and ".join(report.requires) or "nothing: for every size"
        case "rounding" if "none" in own["rounding"]:
            return f"no bound: {own['rounding']['none']}"
        case "rounding":
            return f"bounds of {', '.join(own['rounding']['bounds'])}"
        case _:
            return ""


def _subject_row(claimed: dict[str, Any], own: dict[str, Any], bound: Bound) -> Row:
    """Hashes, name and settings; and whether the spec is one that ships, for the claim is about its text."""
    said, ours = ({k: v for k, v in body["subject"].items() if k != "versions"} for body in (claimed, own))
    found = list(differences(said, ours, "subject"))
    if found:
        return _refused("subject", "hashes, name or settings are not those of its texts", shown(found))
    name, settings = bound.spec.name, ", ".join(f"{k} = {v}" for k, v in bound.settings)
    shipped = packaged_specs() / f"{name}.toml"
    ships = shipped.is_file() and shipped.read_text(encoding="utf-8") == bound.spec.source
    where = "the spec ships here" if ships else "the spec does not ship here: read its text, the claim is about it"
    return Row("subject", Standing.DERIVED, f"{name} ({settings}); {where}")


def _origin(claimed: dict[str, Any], own: dict[str, Any]) -> str:
    """In words, what else made the certificate than what is installed here; nothing where it is the same."""
    versions, files = claimed["subject"].get("versions"), _hashes(claimed.get("trusted"))
    ours, installed = own["subject"]["versions"], _hashes(own["trusted"])
    parts: list[str] = []
    if isinstance(versions, dict):
        parts += (f"{n} {versions.get(n)} (here {v})" for n, v in ours.items() if versions.get(n) != v)
    if files != installed:
        changed = [n for n in dict.fromkeys((*installed, *files)) if files.get(n) != installed.get(n)]
        parts.append(f"{len(changed)} other trusted files, {changed[0]} first")
    return f"made with {' and '.join(parts)}" if parts else ""


def _hashes(trusted: object) -> dict[str, object]:
    rows = trusted if isinstance(trusted, list) else []
    return {str(row.get("file")): row.get("sha256") for row in rows if isinstance(row, dict)}


def _provenance(claimed: dict[str, Any], own: dict[str, Any], foreign: str) -> Row:
    """The release that made it: a maker's word, which decides nothing here."""
    versions, trusted = claimed["subject"].get("versions"), claimed.get("trusted")
    rows = trusted if isinstance(trusted, list) else [None]
    if not _typed(versions, own["subject"]["versions"]) or not all(_typed(row, own["trusted"][0]) for row in rows):
        why = "it does not name the versions and the trusted files it was made with"
        return _refused("trusted", why, shown(list(differences(trusted, own["trusted"], "trusted"))))
    if foreign:
        return Row("trusted", Standing.EVIDENCE, f"{foreign}; everything was derived again by what is installed here")
    return _compared("trusted", list(differences(trusted, own["trusted"], "trusted")),
                     f"{len(own['trusted'])} files, the ones installed here", "")  # fmt: skip


def _typed(claimed: object, own: dict[str, Any]) -> bool:
    """Whether a row has the keys of one made here, and values of the same types."""
    same = isinstance(claimed, dict) and claimed.keys() == own.keys()
    return same and all(type(claimed[k]) is type(own[k]) for k in own)  # type: ignore[index]


def _evidence(claimed: object, own: list[dict[str, Any]], foreign: str) -> Row:
    """Queries and traces, which are the same whenever the same code proves the same candidate."""
    found = list(differences(_untimed(claimed, own), own, "evidence"))
    text = f"{len(queries(own))} solver queries, the ones asked here, and every trace"
    if not found:
        return Row("evidence", Standing.DERIVED, text)
    if not foreign or not _well_formed(claimed, own):
        return _refused("evidence", "its queries or traces are not the ones made here", shown(found))
    try:
        said, ours = _unprinted(claimed), _unprinted(own)
    except NoQuery as problem:
        return _refused("evidence", f"one of its queries is none: {problem}")
    more, less = ([name for b, name in one.items() if b not in two] for one, two in ((said, ours), (ours, said)))
    if not more and not less:
        return Row("evidence", Standing.DERIVED, f"{text}, but for how they are printed")
    text = f"{len(more)} of its {len(said)} queries and traces are not made here, {len(less)} are made here only"
    sides = (("in it only", more), ("made here only", less))
    details = tuple(f"{side}: {', '.join(names)}" for side, names in sides if names)
    return Row("evidence", Standing.OPEN, f"{text}: {foreign}; the proof was made anew", details)


def _unprinted(evidence: Any) -> dict[object, str]:
    """The names of items by what they say: queries by what they assert, traces by their text. Raises NoQuery."""
    items = [item for row in evidence for item in row["items"]]
    return {asserted(i["body"]) if i["kind"] == "smt" else (i["kind"], i["body"]): i["name"] for i in items}


def _untimed(claimed: object, own: list[dict[str, Any]]) -> object:
    """The claimed evidence with the seconds of the derived one, where it states a time at all."""
    if not isinstance(claimed, list):
        return claimed
    seconds = {row["obligation"]: row["seconds"] for row in own}
    return [
        {**row, "seconds": seconds.get(str(row.get("obligation")), 0.0)}
        if isinstance(row, dict) and type(row.get("seconds")) in (int, float) else row
        for row in claimed
    ]  # fmt: skip


def _well_formed(claimed: object, own: list[dict[str, Any]]) -> bool:
    """Whether evidence names the obligations, and its items have a name, a kind and a body."""
    rows = [row for row in claimed if isinstance(row, dict)] if isinstance(claimed, list) else []
    items = [item for row in rows if isinstance(row.get("items"), list) for item in row["items"]]
    named = [row.get("obligation") for row in rows] == [row["obligation"] for row in own]
    return named and all(_is_item(item) for item in items) and all(row.keys() == own[0].keys() for row in rows)


def _is_item(item: object) -> bool:
    keys = {"name", "kind", "body"}
    return isinstance(item, dict) and item.keys() == keys and all(isinstance(value, str) for value in item.values())


def queries(evidence: Any) -> list[tuple[str, str]]:
    """(name, script) of every integer query in a section `evidence`; what is not well formed is left out."""
    rows = evidence if isinstance(evidence, list) else []
    rows = [row["items"] for row in rows if isinstance(row, dict) and isinstance(row.get("items"), list)]
    items = [item for row in rows for item in row if isinstance(item, dict)]
    return [(str(i.get("name")), str(i.get("body"))) for i in items if i.get("kind") == "smt"]
