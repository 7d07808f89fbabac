"""One run of the benchmark: row after row, each written to the results file as soon as it is there.

For every row: inputs, the formula in float64, every contender made ready and judged, then all that were right timed
together, then judged once more (a result that changes is a race). Whatever a contender does, the row is finished and
says what happened; what the budget left out is listed.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ir.evaluate import check_requires, tensor_shape
from ir.spec import Bound
from lowering.assumptions import AssumptionViolated, LaunchError
from lowering.launch import Prepared
from synth.bench.formula import evaluator
from synth.bench.recognise import ATTENTION, recognised
from synth.bench.suite.check import Expected, expected, judge, outside
from synth.bench.suite.clock import Ready, floor, measure, own_stream, ready
from synth.bench.suite.contenders import Call, Contender, Refused, Run, Wrong, contenders, poison
from synth.bench.suite.grid import Item
from synth.bench.suite.inputs import ROOM, make
from synth.bench.suite.machine import ceilings, machine, state
from synth.bench.suite.results import FORMAT, OK, write
from synth.bench.suite.trials import refused, trials
from synth.bench.suite.work import work

MEMORY = 0.45  # of the device's: what a row's tensors may take, the rest is for contenders
COMPILING = {"FlexAttention": 20.0, "certified": 5.0}  # seconds a contender takes to be ready, at a guess


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` of runs for each contender and row; `budget` in seconds for the whole run, None without end;
    `versions`: time every version of a certificate too; `refused`: by certificate, versions that must not run and why
    (`synth.bench.suite.trials`)."""

    device: torch.device
    out: Path
    seed: int = 0
    seconds: float = 0.3
    budget: float | None = None
    argv: tuple[str, ...] = ()
    versions: bool = False
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


Report = Callable[[str], None]


def run(items: list[Item], options: Options, report: Report, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The results, also written to `options.out` after every row; `before`: results to go on from."""
    begin = time.monotonic()
    body = dict(before) if before is not None else _fresh(items, options)
    done = {key(row) for row in body["rows"]}
    left = [item for item in items if item_key(item) not in done]
    body["not_run"] = [item.title for item in left]
    write(options.out, body)
    pace: list[float] = []
    said: set[str] = set()

    def news(line: str) -> None:  # why a peer does not run is of interest once
        if line not in said:
            said.add(line)
            report(line)

    for place, item in enumerate(left):
        spent = time.monotonic() - begin
        ahead = sum(pace) / len(pace) if pace else predicted(item, options)
        if options.budget is not None and spent + ahead > options.budget and (pace or ahead > options.budget):
            report(f"out of time: {len(left) - place} rows were not run; --resume {options.out} goes on")
            break
        rest = ahead * (len(left) - place)
        report(f"[{place + 1}/{len(left)}] {item.title}   {_clock(spent)} spent, about {_clock(rest)} left")
        body["trials"] = [*body.get("trials", ()), *_untried(item, body, options, report)]
        trusting = replace(options, refused=refused(body["trials"]))
        body["rows"] = [*body["rows"], one(item, trusting, news)]
        body["not_run"] = [other.title for other in left[place + 1 :]]
        pace.append(time.monotonic() - begin - spent)
        write(options.out, body)
        if trouble := _trouble(options.device):
            report(f"the device is lost to this process ({trouble}); --resume {options.out} goes on in a new one")
            break
    body["finished"] = _now()
    body["complete"] = not body["not_run"]
    write(options.out, body)
    return body


def _untried(item: Item, body: Mapping[str, Any], options: Options, report: Report) -> list[dict[str, Any]]:
    """Trials of the row's certificates that this device has not seen."""
    if options.device.type != "cuda":
        return []
    seen = {line["certificate"] for line in body.get("trials", ())}
    return trials([s for s in item.group.subjects if s.launcher.certificate not in seen], report)


def item_key(item: Item) -> tuple[Any, ...]:
    certificates = tuple(sorted(s.launcher.certificate for s in item.group.subjects))
    return certificates, item.shape.sizes


def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(row["certificates"])), tuple((k, v) for k, v in row["shape"]["sizes"].items())


def _fresh(items: Iterable[Item], options: Options) -> dict[str, Any]:
    subjects = {s.launcher.certificate: s for item in items for s in item.group.subjects}
    return {
        "format": FORMAT,
        "started": _now(),
        "complete": False,
        "command": list(options.argv),
        "seed": options.seed,
        "machine": machine(options.device),
        "ceilings": ceilings(options.device, options.seed),
        "floor": floor(options.device),
        "certificates": [
            {
                "id": identity,
                "name": s.name,
                "spec": s.launcher.subject["spec"].get("name", ""),
                "settings": s.launcher.subject["settings"],
                "versions": [v.name for v in s.launcher.versions],
            }
            for identity, s in subjects.items()
        ],
        "trials": [],
        "rows": [],
        "not_run": [],
    }


# ---- one row ---------------------------------------------------------------------------------------


def one(item: Item, options: Options, report: Report) -> dict[str, Any]:
    """A row, whatever happens in it but an interrupt."""
    bound, sizes, device = item.group.bound, dict(item.shape.sizes), options.device
    meaning = recognised(bound)
    row: dict[str, Any] = {
        "spec": bound.spec.name,
        "settings": dict(bound.settings),
        "certificates": [s.launcher.certificate for s in item.group.subjects],
        "computes": meaning.title if meaning else "",
        "shape": {"name": item.shape.name, "kind": item.shape.kind, "sizes": sizes},
        "work": {"flops": 0.0, "bytes": 0.0},
        "problem": "",
        "reference": {},
        "contenders": [],
        "before": state(device),
    }
    try:
        _room(bound, sizes, device)
        inputs = make(bound, sizes, device, options.seed)
        found = work(bound, item.group.gradients, sizes, evaluator(bound, sizes, inputs, room=ROOM))
        row["work"] = {"flops": found.flops, "bytes": found.bytes}
        wanted = expected(bound, sizes, inputs, options.seed)
    except Exception as error:  # a row without a reference says why, and the run goes on
        problem = f"{type(error).__name__}: {_line(error)}"
        report(f"    {problem}")
        _free(device)
        return {**row, "problem": problem, "after": state(device)}
    row["reference"] = {
        name: {"cells": e.cells.numel(), "of": e.of, "standard": e.standard, "allowed": e.allowed}
        for name, e in wanted.items()
    }
    call = Call(item.group, sizes, inputs, device, options.versions, options.refused)
    try:
        row["contenders"] = compete(contenders(call), wanted, options, report)
    except RuntimeError as error:  # a fault on the device, noticed between contenders
        row["problem"] = f"{type(error).__name__}: {_line(error)}"
        report(f"    {row['problem']}")
    row["after"] = state(device)
    _free(device)
    return row


def compete(
    entered: list[Contender], wanted: Mapping[str, Expected], options: Options, report: Report
) -> list[dict[str, Any]]:
    """Every contender's entry: judged, and timed with all the others that were right."""
    runs: dict[str, Run] = {}
    waiting: dict[str, Ready] = {}
    entries: dict[str, dict[str, Any]] = {}
    for contender in entered:
        begin = time.monotonic()
        entry = entries[contender.name] = {"name": contender.name, "kind": contender.kind, "status": OK, "reason": ""}
        if contender.certificate:
            entry["certificate"] = contender.certificate
        with torch.no_grad():
            _attempt(entry, lambda c=contender, e=entry: _prepare(c, wanted, options, e, runs, waiting))  # type: ignore[misc]
        entry["ready"] = time.monotonic() - begin
        if entry["status"] != OK:
            waiting.pop(contender.name, None)
            runs.pop(contender.name, None)
            _free(options.device)
            report(f"    {contender.name}: {entry['status']}: {entry['reason']}")
    try:
        with torch.no_grad():
            for name, timing in _timed(waiting, entries, options).items():
                if isinstance(again_run := runs[name], Prepared):
                    poison(again_run.outputs.values())
                again = judge(wanted, runs[name]())
                entries[name]["time"] = timing.to_json()
                if again.reason:
                    entries[name] |= {"status": "wrong", "reason": f"after many runs: {again.reason}"}
    except RuntimeError as error:  # a fault on the device, which is nobody's result: none of them was timed
        for entry in (e for e in entries.values() if e["status"] == OK and "time" not in e):
            entry |= {"status": "failed", "reason": f"while all were timed: {type(error).__name__}: {_line(error)}"}
            report(f"    {entry['name']}: {entry['status']}: {entry['reason']}")
    return list(entries.values())


def _prepare(
    contender: Contender,
    wanted: Mapping[str, Expected],
    options: Options,
    entry: dict[str, Any],
    runs: dict[str, Run],
    waiting: dict[str, Ready],
) -> None:
    """Make, judge and warm up, on a stream of its own: a backward is captured where its forward ran."""
    with own_stream(options.device):
        run = contender.make()
        judged = judge(wanted, run())
        entry["error"] = {name: error if math.isfinite(error) else None for name, error in judged.error.items()}
        if isinstance(run, Prepared):
            entry["version"] = run.version
        room = contender.bounds({name: x.largest for name, x in wanted.items()})
        if room:
            entry["bound"] = {name: x if math.isfinite(x) else None for name, x in room.items()}
        if reason := judged.reason or outside(room, judged.error):
            entry.update(status="wrong", reason=reason)
            return
        runs[contender.name] = run
        waiting[contender.name] = ready(run, options.device)


def _timed(waiting: dict[str, Ready], entries: dict[str, dict[str, Any]], options: Options) -> Mapping[str, Any]:
    """Times of all together; should one fail now, of those that are left."""
    while waiting:
        failed = ""
        for name, contender in waiting.items():
            _attempt(entries[name], contender.once)
            if entries[name]["status"] != OK:
                failed = name
                break
        if not failed:
            return measure(waiting, options.device, options.seed, options.seconds)
        waiting = {k: v for k, v in waiting.items() if k != failed}
    return {}


def _attempt(entry: dict[str, Any], action: Callable[[], Any]) -> None:
    """Note in the entry why a contender could not."""
    try:
        action()
    except Refused as error:
        entry |= {"status": "refused", "reason": str(error)}
    except Wrong as error:
        entry |= {"status": "wrong", "reason": str(error)}
    except (AssumptionViolated, LaunchError) as error:
        entry |= {"status": "refused", "reason": str(error)}
    except torch.OutOfMemoryError:
        entry |= {"status": "out of memory", "reason": "the device has not enough memory for it"}
    except Exception as error:  # whatever a peer or a compiler raises is its result here, with its words
        entry |= {"status": "failed", "reason": f"{type(error).__name__}: {_line(error)}"}


def _room(bound: Bound, sizes: Mapping[str, int], device: torch.device) -> None:
    if device.type != "cuda":
        return
    cells = sum(math.prod(tensor_shape(bound, t, sizes)) * d.bits // 8 for t, d in (*bound.inputs, *bound.outputs))
    total = torch.cuda.get_device_properties(device).total_memory
    if cells > MEMORY * total:
        raise Refused(f"its tensors take {cells / 2**30:.0f} GiB of {total / 2**30:.0f}")


def _trouble(device: torch.device) -> str:
    """What a kernel left behind: after a fault on the device every later call of this process fails."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError as error:
            return _line(error)
    return ""


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda" and not _trouble(device):
        torch.cuda.empty_cache()


# ---- without a GPU ---------------------------------------------------------------------------------


def small(items: list[Item]) -> list[Item]:
    """The rows at sizes a CPU can do: lengths a sixty-fourth, equal sizes staying equal."""
    found = []
    for item in items:
        sizes = tuple((name, _shrunk(n)) for name, n in item.shape.sizes)
        if check_requires(item.group.bound, dict(sizes)):
            found.append(replace(item, shape=replace(item.shape, name=f"{item.shape.name}, shrunk", sizes=sizes)))
    return found


def _shrunk(n: int) -> int:
    """Heads and batches an eighth, lengths a sixty-fourth: 8 becomes 1, 32 becomes 4, 1024 becomes 16, 1531 becomes 23;
    what divided one another still does."""
    return n if n <= 2 else max(1, n // 8) if n <= 64 else max(8, n // 64)


# ---- what a run will take --------------------------------------------------------------------------


def predicted(item: Item, options: Options) -> float:
    """Seconds a row may take, at a guess: making contenders ready, checking, timing. A prediction, no measurement."""
    meaning = recognised(item.group.bound)
    peers = 1 if meaning is None else 8 if meaning.operation == ATTENTION else 3
    compiling = COMPILING["FlexAttention"] if peers > 1 and options.device.type == "cuda" else 0.0
    subjects = item.group.subjects
    certificates = len(subjects) + sum(len(s.launcher.versions) for s in subjects if options.versions)
    return compiling + COMPILING["certified"] * certificates + 3.0 + 1.5 * options.seconds * (peers + certificates)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
