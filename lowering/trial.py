"""Tries every version of certificates on this machine's GPU, in a process that may be lost to it.

    python -m lowering.trial CERT... [--without NAME]

No test off the device shows what machine code does there: it may fault, and then every later call of the process fails,
or not end. So this is run before a version is trusted with a process of value, and it is the quickest check that a
machine runs what was certified. Each version is compared with the one that runs everywhere, on random inputs, at small
and ragged shapes and at one that fills a device (`lowering.agreement`), then recorded in a CUDA graph and replayed.

A JSON object a line: one when a version is begun, one with its `verdict`: "same", "wrong" (`reason` says how) or "not
tried" (nothing here meets its conditions). Exit code 0 where none is wrong, 1 else, 3 where a fault left some untried
(`--without` those that have a verdict goes on), 4 without a GPU, 64 where a file is no certificate. Needs torch and
Triton alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lowering.agreement import Question, default_parameters, difference, random_inputs, unwritten, worst
from lowering.assumptions import AssumptionViolated, LaunchError, evaluate, extents
from lowering.choose import fits, target_of
from lowering.launch import TURNS, Launcher, launching, load
from lowering.versions import Version

SAME, WRONG, NOT_TRIED, LOST = "same", "wrong", "not tried", "lost"
SHORT = ((37, 2), (256, 2), (16, 16))  # lengths and other sizes of small shapes
WHOLE = ((2048, 16),)  # to fill a device
MOST = 2**30  # bytes of one shape's tensors
SUMS = 1e-3  # of the largest value: atomic sums come in any order
NO_MORE, NO_GPU, UNREADABLE = 3, 4, 64


def tried(
    launcher: Launcher, version: Version, device: torch.device, asked: Sequence[Mapping[str, int]]
) -> tuple[str, str]:
    """The verdict on one version at the shapes asked for, and why; LOST where this process can run nothing more."""
    target = target_of(device)

    def fit(tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> bool:
        return fits(version, target, tensors, sizes)

    shapes = [s for s in asked if admitted(launcher, s, device) and fit(_tensors(launcher, s, device), s)]
    if not shapes:
        return NOT_TRIED, "no shape meets its conditions here"
    last = launcher.versions[-1]
    question = Question(
        version.source_sha256, last.source_sha256, device, version, last, launcher.plan, shapes, fit, _run
    )
    try:
        reason = difference(question) or _recorded(launcher, version, shapes[-1], device)
    except LaunchError as error:  # it does not end, and nothing after it will
        return LOST, str(error)
    except Exception as error:  # whatever the compiler or the driver raises
        reason = f"{type(error).__name__}: {error}"
        try:
            torch.cuda.synchronize(device)
        except RuntimeError:
            return LOST, reason
    return (WRONG, reason) if reason else (SAME, "")


def shapes_of(launcher: Launcher, version: Version) -> list[dict[str, int]]:
    """Those that the certificate lists to compare this version at; else some within its limits: what runs in Triton's
    interpreter was compared there. Last one with more programs than a device runs at a time."""
    listed = [dict(shape) for c in version.when if c[0] == "agrees" for shape in c[2]]
    made = (within(launcher.plan, *lengths) for lengths in (*(() if listed else SHORT), *WHOLE))
    return [*listed, *(shape for shape in made if shape is not None)]


def admitted(launcher: Launcher, sizes: Mapping[str, int], device: torch.device) -> bool:
    """Whether random inputs of these sizes keep what the proof assumes of a caller."""
    try:
        launcher.check({**random_inputs(launcher.plan, sizes, device, 0), **sizes})
    except AssumptionViolated:
        return False
    return True


def within(plan: Mapping[str, Any], length: int, other: int) -> dict[str, int] | None:
    """Lengths (what the last two dimensions of tensors extend over) and other sizes alike, within the limits."""
    lengths = {e for t in plan["tensors"] for e in t["shape"][-2:] if isinstance(e, str)}
    shape = {n: min(max(length if n in lengths else other, low), high) for n, (low, high) in plan["sizes"].items()}
    if not all(evaluate(requirement, shape) for requirement in plan["requires"]):
        return None
    cells = [math.prod(extents(t, shape)) for t in plan["tensors"]]
    return shape if 8 * sum(cells) <= MOST else None


def _tensors(launcher: Launcher, sizes: Mapping[str, int], device: torch.device) -> dict[str, torch.Tensor]:
    return random_inputs(launcher.plan, sizes, device, 0) | unwritten(launcher.plan, sizes, device)


def _run(
    version: Version, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int], parameters: Mapping[str, float]
) -> None:
    device = next(iter(tensors.values())).device
    launching(version, tensors, sizes, parameters, device, TURNS)()


def _recorded(launcher: Launcher, version: Version, sizes: Mapping[str, int], device: torch.device) -> str:
    """Whether a call that is recorded gives, replayed, what it gave when called; empty when it does."""
    tensors = _tensors(launcher, sizes, device)
    run = launching(version, tensors, sizes, default_parameters(launcher.plan, sizes), device)
    run()
    outputs = [t["name"] for t in launcher.plan["tensors"] if t["role"] == "output"]
    called = {name: tensors[name].clone() for name in outputs}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for name in outputs:
        tensors[name].zero_()
    graph.replay()
    torch.cuda.synchronize(device)
    for name in outputs:
        if (found := worst(called[name], tensors[name])) > SUMS:
            return f"{name} from a recorded call is off by {found:.3g} of its largest value"
    return ""


# ---- the command -------------------------------------------------------------------------------------


def lines(path: Path, launcher: Launcher, without: Sequence[str], device: torch.device) -> Iterator[dict[str, Any]]:
    """What the command prints about one certificate, as it comes about."""
    for version in reversed(launcher.versions):  # what the others are compared with comes first
        if version.name in without:
            continue
        about = {"certificate": str(path), "id": launcher.certificate, "version": version.name}
        yield {**about, "begun": True}
        begin = time.monotonic()
        verdict, reason = tried(launcher, version, device, shapes_of(launcher, version))
        told = {"verdict": WRONG if verdict == LOST else verdict, "reason": reason}
        yield {**about, **told, "seconds": round(time.monotonic() - begin, 2), "lost": verdict == LOST}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lowering.trial", description="Try certificates on this GPU.")
    parser.add_argument("certificates", nargs="+", type=Path, metavar="CERT")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="a version not to try")
    options = parser.parse_args(words)
    try:
        launchers = [load(path) for path in options.certificates]
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNREADABLE
    if not torch.cuda.is_available():
        print("error: no GPU here, and a version is tried on one", file=sys.stderr)
        return NO_GPU
    device = torch.device("cuda", torch.cuda.current_device())
    wrong = False
    for path, launcher in zip(options.certificates, launchers, strict=True):
        for line in lines(path, launcher, options.without, device):
            wrong = wrong or line.get("verdict") == WRONG
            print(json.dumps(line), flush=True)
            if line.get("lost"):
                os._exit(NO_MORE)  # an orderly end would wait for the device
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
