"""Which versions of certificates this machine's GPU runs, found out before a row that has them is timed.

Every certificate is tried by `lowering.trial` in a process of its own, several at a time. A fault on the device loses
that process and not this one, and one that does not end is ended: either costs the version that was on trial, and the
others are tried in a new process. Triton keeps what it compiles, so that the rows afterwards compile next to nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from lowering.compile import child_environment
from synth.bench.suite.subject import Subject

COMMAND = (sys.executable, "-m", "lowering.trial")
PATIENCE = 180.0  # seconds for one version: compiled for up to three kinds of strides, launched and recorded
MOST = 16  # processes at a time: each holds a context on the device
WRONG = "wrong"
Line = dict[str, Any]  # of one version: "certificate" (its id), "version", "verdict", "reason", "seconds"


def trials(subjects: Sequence[Subject], report: Callable[[str], None]) -> list[Line]:
    """Every version's verdict; what is wrong is reported."""
    found: list[Line] = []
    processes = max(1, min(MOST, os.cpu_count() or 1, len(subjects)))
    with ThreadPoolExecutor(processes) as pool:
        asked = {pool.submit(tried, s): s for s in subjects}
        for number, done in enumerate(as_completed(asked), 1):
            subject, lines = asked[done], done.result()
            found += lines
            wrong = [line for line in lines if line["verdict"] == WRONG]
            told = "; ".join(f"{line['version']} is not used: {line['reason']}" for line in wrong) or "ok"
            report(f"tried {number}/{len(subjects)} {subject.name}: {told}")
    return found


def refused(lines: Sequence[Line]) -> dict[str, dict[str, str]]:
    """By certificate, the versions that must not run and why."""
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        if line["verdict"] == WRONG:
            found.setdefault(line["certificate"], {})[line["version"]] = line["reason"]
    return found


def tried(subject: Subject, command: Sequence[str] = COMMAND, patience: float = PATIENCE) -> list[Line]:
    """The verdicts on one certificate's versions, by as many processes as are lost and one more."""
    found: dict[str, Line] = {}
    names = {v.name for v in subject.launcher.versions}
    while names - found.keys():
        before, begun = len(found), ""
        without = [word for name in found for word in ("--without", name)]
        for line in _said([*command, str(subject.path), *without], patience):
            begun = line.get("version", begun)
            if "verdict" in line:
                told = {k: line[k] for k in ("version", "verdict", "reason", "seconds")}
                found[begun] = {"certificate": subject.launcher.certificate, **told}
                begun = ""
            elif "ended" in line:
                lost = [begun] if begun else sorted(names - found.keys()) if len(found) == before else []
                for name in lost:  # the one on trial; all that are left, where it came to none
                    found[name] = {
                        "certificate": subject.launcher.certificate, "version": name, "verdict": WRONG,
                        "reason": f"its trial on this device {line['ended']}", "seconds": None,
                    }  # fmt: skip
        if len(found) == before:
            break
    return list(found.values())


def _said(command: Sequence[str], patience: float) -> Iterator[Line]:
    """The lines of a process as they come; last one with `ended` where it was lost. `patience`: seconds for a line."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=child_environment(interpret=False)
        )
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(patience, end)
        timer.start()
        try:
            for text in process.stdout:
                timer.cancel()
                yield json.loads(text)
                timer = threading.Timer(patience, end)
                timer.start()
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.stdout.close()
            process.wait()
        if late.is_set():
            yield {"ended": f"did not end in {patience:g} s"}
        elif code not in (0, 1):
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [""])[-1]
            yield {"ended": f"ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}: {last[:200]}"}
