"""A run folder as a `RunView`. A file that is missing or damaged becomes a sentence on the page, never an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ir.diagnostics import SourceError
from ir.loader import bind, load_spec, parse_spec
from ir.spec import Bound
from synth.events import Measurement
from synth.report.view import NOT_A_KERNEL, KernelView, RunView
from verifier.certificate import Certificate, CertificateError
from verifier.verdict import Report


class NoRun(Exception):
    """There is no run under that name; the message says where was looked and what to do."""


def read_folder(folder: Path) -> RunView:
    """Raises NoRun for a folder without a readable results.json."""
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        rows = [row for row in results["candidates"] if _plain(row["name"])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path} cannot be read as the results of a run ({error}); synth prove-and-run makes one"
        raise NoRun(message) from error
    gaps: list[str] = []
    if len(rows) < len(results["candidates"]):
        gaps.append("Candidates whose names are not file names were left out.")
    winner = results.get("winner") or {}
    held = {str(winner.get("name", "")): measurements(winner.get("benchmarks", ()))}
    kernels = tuple(_kernel(folder, row, held.get(row["name"], ())) for row in rows)
    bound, text = _spec(folder, results, rows, gaps)
    return RunView(
        run=folder.resolve().name,
        spec=str(results.get("spec", "")),
        settings=tuple(dict(results.get("settings", {})).items()),
        target=str(results.get("target", "")),
        device=str(results.get("device", "")),
        status=str(results.get("status", "")),
        begun=_stamp(folder.resolve().name),
        seconds=results.get("seconds"),
        where=str(folder),
        bound=bound,
        spec_text=text,
        roofline=str(results.get("roofline", "")),
        kernels=kernels,
        peers=measurements(results.get("peers", ())),
        peers_heldout=measurements(winner.get("peers", ())),
        gaps=tuple(gaps),
    )


def _plain(name: Any) -> bool:
    """Whether a name is a file's: names come from whoever wrote the run, and files are read by them."""
    return isinstance(name, str) and Path(name).name == name and "\0" not in name


def _stamp(name: str) -> str:
    """The time in a run folder's name, 20260101-120000-attention."""
    day, _, rest = name.partition("-")
    clock = rest[:6]
    if len(day) == 8 and len(clock) == 6 and (day + clock).isdigit():
        return f"{day[:4]}-{day[4:6]}-{day[6:]} {clock[:2]}:{clock[2:4]}:{clock[4:]}"
    return ""


def measurements(rows: Any) -> tuple[Measurement, ...]:
    """Timings from their JSON form; those that are not whole are left out."""
    found = []
    for row in rows:
        try:
            sizes = tuple((str(n), int(v)) for n, v in row["sizes"])
            share = None if row.get("share") is None else float(row["share"])
            times = float(row["seconds"]), float(row["tflops"])
            found.append(Measurement(str(row["name"]), str(row["shape"]), sizes, *times, share))
        except (KeyError, TypeError, ValueError):
            continue
    return tuple(m for m in found if m.seconds > 0)


def _kernel(folder: Path, row: Mapping[str, Any], heldout: tuple[Measurement, ...]) -> KernelView:
    name = row["name"]
    damage: list[str] = []
    compiled, check, failed = (row.get(key) or {} for key in ("compiled", "crosscheck", "failed"))
    text = _text(folder / "candidates" / f"{name}.tile", damage)
    report = _report(folder / "verdicts" / f"{name}.json", damage) if row.get("verdict") else None
    marks = row.get("obligations") or ({r.id: r.verdict.value for r in report.results} if report else {})
    certificate = _certificate(folder, row, text, damage)
    return KernelView(
        name=name,
        text=text,
        source=str(row.get("source", "")),
        parents=tuple(map(str, row.get("parents", ()))),
        note=str(row.get("note", "")),
        choices=tuple((str(k), str(v)) for k, v in (row.get("choices") or {}).items()),
        expected=tuple(row.get("broken_on_purpose") or ()),
        verdict=str(row.get("verdict", NOT_A_KERNEL if failed.get("stage") == "read" else "")),
        seconds=row.get("seconds"),
        obligations=tuple(marks.items()),
        report=report,
        certificate=str(row.get("certificate") or ""),
        triton=_text(folder / "triton" / f"{name}.py", damage) if compiled else "",
        resources=tuple(compiled.get("resources", ())),
        target=str(compiled.get("target", "")),
        checked=check.get("cases"),
        largest_error=check.get("largest_error"),
        measurements=measurements(row.get("benchmarks", ())),
        heldout=heldout,
        controls=tuple(certificate.body.get("controls", ())) if certificate else (),
        failed=str(failed.get("stage", "")),
        problem=str(failed.get("message", "")),
        twin=str(row.get("twin") or ""),
        damage=tuple(damage),
    )


def _text(path: Path, damage: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        damage.append(f"{path.parent.name}/{path.name} is missing or cannot be read.")
        return ""


def _report(path: Path, damage: list[str]) -> Report | None:
    try:
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), Report)
    except (OSError, ValueError, msgspec.ValidationError):
        damage.append(f"{path.parent.name}/{path.name} is missing or cannot be read; only the marks are known.")
        return None


def _certificate(folder: Path, row: Mapping[str, Any], text: str, damage: list[str]) -> Certificate | None:
    if not row.get("certificate"):
        return None
    path = folder / "certificates" / f"{row['name']}.json"
    try:
        certificate = Certificate.load(path)
    except CertificateError as error:
        damage.append(f"Its certificate is not valid: {error}.")
        return None
    if text and certificate.candidate != text:
        damage.append("Its kernel text is not the one its certificate is about: the file was changed after the proof.")
    return certificate


def _spec(folder: Path, results: Mapping[str, Any], rows: list[Any], gaps: list[str]) -> tuple[Bound | None, str]:
    """The spec a certificate carries, else the one that ships under the run's name for it."""
    name, settings = str(results.get("spec", "")), dict(results.get("settings", {}))
    for row in rows:
        path = folder / "certificates" / f"{row['name']}.json"
        if row.get("certificate") and path.is_file():
            try:
                certificate = Certificate.load(path)
                return bind(parse_spec(certificate.spec_source), certificate.settings), certificate.spec_source
            except (CertificateError, SourceError):
                continue
    try:
        bound = bind(load_spec(name), settings)
    except SourceError:
        gaps.append("The spec is not in this run folder (no certificate carries it) and none ships under its name.")
        return None, ""
    gaps.append(f"No certificate carries the spec; what is shown is the {name} that ships with this version.")
    return bound, bound.spec.source
