"""The folder a run leaves behind. Every file is written whole or not at all, so a killed run leaves a valid folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lowering.versions import version_on, versions_in
from synth.events import (
    Benchmarked,
    CrossChecked,
    Event,
    Failed,
    Finished,
    HeldOut,
    Judged,
    Lowered,
    PeersMeasured,
    Proposed,
    Replay,
    Started,
    Twin,
)
from verifier.certificate import Certificate

FORMAT = 1


def create(root: Path, name: str, taken: Collection[str] = ()) -> Path:
    """A new folder `root/<timestamp>-<name>` with its sub-folders, of a name that is not `taken`."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{k}" for k in range(2, 1000))):
        folder = root / f"{stamp}-{name}{suffix}"
        if folder.name in taken:
            continue
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        complete(folder)
        return folder
    raise FileExistsError(f"{root} holds too many runs of this second")


def complete(folder: Path) -> None:
    """Make what is missing of it, so that a run can go on in another place than it was begun in."""
    for part in ("candidates", "verdicts", "certificates", "triton"):
        (folder / part).mkdir(parents=True, exist_ok=True)


def write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def dump(value: Any) -> str:
    return json.dumps(value, indent=1, default=str) + "\n"


@dataclass
class Results:
    """results.json, and the files beside it, kept up to date event by event."""

    folder: Path
    head: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note(self, event: Event) -> None:
        """Take an event in and write what it changes."""
        match event:
            case Started():
                self.head = {
                    "format": FORMAT,
                    "status": "running",
                    "spec": event.spec,
                    "settings": dict(event.settings),
                    "target": event.target,
                    "device": event.device,
                }
            case Proposed(candidate):
                write(self.folder / "candidates" / f"{candidate.name}.tile", candidate.text)
                self.rows[candidate.name] = {
                    "name": candidate.name,
                    "choices": dict(candidate.choices),
                    "broken_on_purpose": list(candidate.expected),
                    "source": candidate.source,
                    "parents": list(candidate.parents),
                    "note": candidate.note,
                    "stage": event.stage,
                }
            case Twin(candidate, of):
                write(self.folder / "candidates" / f"{candidate.name}.tile", candidate.text)
                self.rows[candidate.name] = {"name": candidate.name, "source": candidate.source, "twin": of}
            case Judged(candidate, report):
                write(self.folder / "verdicts" / f"{candidate.name}.json", dump(report.to_json()))
                self.rows[candidate.name] |= {
                    "stage": event.stage,
                    "verdict": report.verdict.value,
                    "seconds": report.seconds,
                    "obligations": {r.id: r.verdict.value for r in report.results},
                    "certificate": event.certificate.id if event.certificate is not None and report.answers else None,
                }
            case Lowered(candidate):
                missing = [m.to_json() for m in event.left_out]
                resources = {"target": event.target, "resources": list(event.resources), "left_out": missing}
                self.rows[candidate.name] |= {"stage": event.stage, "compiled": resources}
            case CrossChecked(candidate):
                check = {"cases": event.cases, "largest_error": event.largest_error}
                self.rows[candidate.name] |= {"stage": event.stage, "crosscheck": check}
            case Benchmarked(candidate):
                measured = [asdict(m) for m in event.measurements]
                self.rows[candidate.name] |= {"stage": event.stage, "benchmarks": measured}
            case PeersMeasured():
                self.head["peers"] = [asdict(m) for m in event.measurements]
                self.head["roofline"] = event.roofline
            case Failed(candidate):
                self.rows[candidate.name] |= {"failed": {"stage": event.stage, "message": event.message}}
            case HeldOut(candidate):
                self.head["winner"] = {
                    "name": candidate.name,
                    "speedup": event.speedup,
                    "speedup_on_search_shapes": event.searched,
                    "generalises": event.generalises,
                    "benchmarks": [asdict(m) for m in event.measurements],
                    "peers": [asdict(m) for m in event.peers],
                }
            case Replay():
                self.head["replay"] = asdict(event)
            case Finished():
                self.head |= {"status": event.status, "seconds": event.seconds}
        write(self.folder / "results.json", dump({**self.head, "candidates": list(self.rows.values())}))

    def certificate(self, name: str, certificate: Certificate) -> Path:
        path = self.folder / "certificates" / f"{name}.json"
        partial = path.with_name(f".{path.name}.partial")
        certificate.save(partial)
        os.replace(partial, path)
        return path

    def triton(self, name: str, lowered: Mapping[str, Any], target: str) -> None:
        """What runs on the target as NAME.py, the other versions as NAME.VERSION.py."""
        best = version_on(lowered, target)
        for version in versions_in(lowered):
            suffix = "" if version.name == best.name else f".{version.name}"
            write(self.folder / "triton" / f"{name}{suffix}.py", version.source)
