"""What a benchmark found, as JSON: rows of contenders with errors and times, and what they say against the targets.

A contender has a time in a summary only when its outputs were right. A ratio is the time of the best peer of that name
over the time of the fastest certified kernel of the same row; targets are geometric means of ratios over rows.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
Row = Mapping[str, Any]
OK = "ok"


class NotResults(ValueError):
    """The file holds no results of this benchmark."""


@dataclass(frozen=True, slots=True)
class Target:
    """At least `least`, as a geometric mean over rows of `kind` in bf16: of ratios over the fastest of `peers`; with no
    peers, of the share of measured copy bandwidth, or of TFLOP/s where a row's name and head dim are fixed."""

    title: str
    kind: str
    least: float
    peers: tuple[str, ...] = ()
    measure: str = "ratio"


SDPA = ("SDPA flash", "SDPA cuDNN", "SDPA efficient", "SDPA math")
TARGETS = (
    Target("forward over SDPA flash", "forward", 1.7, ("SDPA flash",)),
    Target("forward over SDPA cuDNN", "forward", 1.0, ("SDPA cuDNN",)),
    Target("forward over FlexAttention", "forward", 1.2, ("FlexAttention",)),
    Target("forward, head dim 128, 16k, not causal, TFLOP/s", "forward", 650.0, measure="tflops"),
    Target("backward over the best SDPA backend", "backward", 1.0, SDPA),
    Target("decode, share of measured copy bandwidth", "decode", 0.85, measure="bandwidth"),
)


def read(path: Path) -> dict[str, Any]:
    """Raises NotResults."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotResults(f"{path}: cannot be read as benchmark results: {error}") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("rows"), list):
        raise NotResults(f"{path}: not benchmark results of format {FORMAT}; synth bench CERT... makes some")
    return body


def write(path: Path, body: Mapping[str, Any]) -> None:
    """At once or not at all: a run killed while writing leaves what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


def differs(body: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What about the machine is not as it was; empty when all that bears on speed is."""
    then = body["machine"]
    changed = [k for k in ("device", "torch", "triton", "cuda") if then.get(k) != now.get(k)]
    return ", ".join(f"{k} {then.get(k)}" for k in changed)


def right(row: Row, kind: str | None = None) -> list[Mapping[str, Any]]:
    """The contenders of a row that were right and have a time."""
    return [c for c in row["contenders"] if c["status"] == OK and (kind is None or c["kind"] == kind)]


def certified(row: Row) -> Mapping[str, Any] | None:
    """The fastest certified kernel that was right."""
    return min(right(row, "certified"), key=seconds, default=None)


def seconds(contender: Mapping[str, Any]) -> float:
    return float(contender["time"]["median"])


def ratio(row: Row, peers: Iterable[str]) -> float | None:
    """How many times faster the fastest certified kernel is than the fastest of the peers; None without both."""
    ours, theirs = certified(row), [c for c in right(row) if c["name"] in set(peers)]
    return None if ours is None or not theirs else min(map(seconds, theirs)) / seconds(ours)


def geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def of_kind(body: Mapping[str, Any], kind: str, dtype: str = "bf16") -> list[Row]:
    return [r for r in body["rows"] if r["shape"]["kind"] == kind and dtype in r["settings"].values()]


def summary(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every target what was reached, over how many of its rows, and whether that meets it (None: not measured).
    Nothing for a run on a CPU: targets are of a GPU."""
    found: list[dict[str, Any]] = []
    for target in TARGETS if body["machine"]["device"] != "CPU" else ():
        rows = of_kind(body, target.kind)
        match target.measure:
            case "ratio":
                values = [r for row in rows if (r := ratio(row, target.peers)) is not None]
            case "bandwidth":
                copy = body["ceilings"].get("copy", math.inf)
                values = [row["work"]["bytes"] / seconds(c) / copy for row in rows if (c := certified(row))]
            case _:
                rows = [row for row in rows if row["shape"]["name"] == "16k" and _plain(row)]
                values = [row["work"]["flops"] / seconds(c) / 1e12 for row in rows if (c := certified(row))]
        reached = geometric(values) if values else None
        met = None if reached is None else reached >= target.least
        found.append(
            {"target": target.title, "least": target.least, "reached": reached, "rows": len(values), "of": len(rows),
             "met": met}
        )  # fmt: skip
    return found


def _plain(row: Row) -> bool:
    return 128 in row["settings"].values() and row["computes"].endswith("attention (full)")


def peers_of(rows: Iterable[Row]) -> list[str]:
    """Names of everything but certified kernels, in the order first met."""
    return list(dict.fromkeys(c["name"] for row in rows for c in row["contenders"] if c["kind"] in ("peer", "formula")))
