"""Results as Markdown: the page's table is made from them by a command, never by hand.

A table's cells are geometric means, over the lengths run, of TFLOP/s (or of GB/s where a row is bound by memory), and
of the ratios of the fastest certified kernel to each peer. A cell without a right answer and a time is a dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synth.bench.suite.results import (
    OK,
    NotResults,
    Row,
    certified,
    geometric,
    peers_of,
    ratio,
    read,
    right,
    seconds,
    summary,
)

BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
NOTHING = "No benchmark has been run on a GPU yet: nothing is claimed of speed. `make bench-gpu` runs it."


def page(body: Mapping[str, Any] | None) -> str:
    """What stands between the markers."""
    if body is None or body["machine"]["device"] == "CPU" or not body["rows"]:
        return NOTHING
    facts = body["machine"]
    whole = "" if body["complete"] else f" {len(body['not_run'])} rows of the grid were not run."
    head = (
        f"Measured on {facts['device']}, torch {facts['torch']}, triton {facts['triton']}, {body['started'][:10]}"
        f" (geometric means over lengths; every figure's output was checked against float64).{whole}"
    )
    return "\n\n".join([head, *(_table(kind, rows) for kind, rows in _blocks(body)), targets(body)])


def targets(body: Mapping[str, Any]) -> str:
    lines = ["| target | at least | reached | rows | met |", "|---|---|---|---|---|"]
    for found in summary(body):
        reached = "not measured" if found["reached"] is None else f"{found['reached']:.2f}"
        met = {None: "", True: "yes", False: "no"}[found["met"]]
        lines.append(
            f"| {found['target']} | {found['least']:g} | {reached} | {found['rows']} of {found['of']} | {met} |"
        )
    return "\n".join(lines)


def _blocks(body: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    kinds = dict.fromkeys(row["shape"]["kind"] for row in body["rows"])
    return [(kind, [r for r in body["rows"] if r["shape"]["kind"] == kind]) for kind in kinds]


def _table(kind: str, rows: Sequence[Row]) -> str:
    peers = peers_of(rows)
    unit = "GB/s" if _by_memory(rows) else "TFLOP/s"
    titles = [f"{kind}, {unit}", "certified", *peers, "over the best peer"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for title in dict.fromkeys(map(_line_title, rows)):
        of = [row for row in rows if _line_title(row) == title]
        cells = [_mean([_rate(row, certified(row), unit) for row in of])]
        cells += [_mean([_rate(row, _named(row, name), unit) for row in of]) for name in peers]
        ratios = [r for row in of if (r := ratio(row, peers)) is not None]
        cells.append(f"{geometric(ratios):.2f}" if ratios else "-")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _line_title(row: Row) -> str:
    settings = ", ".join(str(v) for v in row["settings"].values())
    return f"{row['spec']} ({settings}){' 8:1' if '8:1' in row['shape']['name'] else ''}"


def _by_memory(rows: Sequence[Row]) -> bool:
    return any(row["shape"]["kind"] == "decode" or not row["work"]["flops"] for row in rows)


def _named(row: Row, name: str) -> Mapping[str, Any] | None:
    return next((c for c in right(row) if c["name"] == name), None)


def _rate(row: Row, contender: Mapping[str, Any] | None, unit: str) -> float | None:
    if contender is None or contender["status"] != OK:
        return None
    amount = row["work"]["bytes"] / 1e9 if unit == "GB/s" else row["work"]["flops"] / 1e12
    return float(amount) / seconds(contender)


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v]
    if not known:
        return "-"
    partly = f" ({len(known)} of {len(values)})" if len(known) < len(values) else ""
    return f"{geometric(known):.3g}{partly}"


def update(page_path: Path, results: Path | None) -> bool:
    """Put the table of results between the markers of a page; whether it changed. Raises NotResults."""
    text = page_path.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise NotResults(f"{page_path}: has no {BEGIN} ... {END} to put the table between")
    new = f"{before}{BEGIN}\n{page(None if results is None else read(results))}\n{END}{after}"
    if new != text:
        page_path.write_text(new, encoding="utf-8")
    return new != text


def latest(folder: Path) -> Path | None:
    """The newest results in a folder that were measured on a GPU."""
    found = [(body["started"], path) for path in sorted(folder.glob("gpu-*.json")) if _on_gpu(body := read(path))]
    return max(found)[1] if found else None


def _on_gpu(body: Mapping[str, Any]) -> bool:
    return bool(body["machine"]["device"] != "CPU")


# ---- for a terminal --------------------------------------------------------------------------------


def text(body: Mapping[str, Any]) -> str:
    """Every row's contenders, then the targets."""
    lines = []
    if body["machine"]["device"] == "CPU":
        lines.append("on a CPU, at shapes shrunk for it: these figures say nothing of a GPU")
    for row in body["rows"]:
        lines.append(f"{_line_title(row)} {row['shape']['name']}{': ' + row['problem'] if row['problem'] else ''}")
        for c in sorted(row["contenders"], key=lambda c: seconds(c) if c["status"] == OK else float("inf")):
            lines.append(f"  {c['name']:32} {_figures(row, c)}")
    for found in summary(body):
        reached = "not measured" if found["reached"] is None else f"{found['reached']:.2f}"
        verdict = {None: "", True: "  pass", False: "  FAIL"}[found["met"]]
        lines.append(f"target {found['target']}: at least {found['least']:g}, {reached}{verdict}")
    if body["not_run"]:
        lines.append(f"not run: {len(body['not_run'])} rows, first {body['not_run'][0]}")
    return "\n".join(lines)


def _figures(row: Row, contender: Mapping[str, Any]) -> str:
    if contender["status"] != OK:
        return f"{contender['status']}: {contender['reason']}"
    time = contender["time"]
    flops, moved = (_rate(row, contender, unit) or 0.0 for unit in ("TFLOP/s", "GB/s"))
    return (
        f"{time['median'] * 1e3:9.4f} ms  {flops:7.4g} TFLOP/s  {moved:7.4g} GB/s  "
        f"spread {time['spread'] * 100:.1f} %  {time['how']}"
    )
