"""Results as plots: TFLOP/s (GB/s for decode) over length, one picture for each kind, head dim and mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synth.bench.suite.results import Row, certified, peers_of, right, seconds


def draw(body: Mapping[str, Any], folder: Path) -> list[Path]:
    """One PNG for every group of rows that has a time; none where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return []
    matplotlib.use("Agg")
    made = []
    for title in dict.fromkeys(map(picture, body["rows"])):
        rows = [row for row in body["rows"] if picture(row) == title and right(row)]
        if rows:
            made.append(_draw(title, rows, body["machine"]["device"], folder))
    return made


def picture(row: Row) -> str:
    """Rows of one picture have this in common."""
    settings = " ".join(str(v) for v in row["settings"].values())
    return f"{row['spec']} {row['shape']['kind']} {settings}"


def _draw(title: str, rows: list[Row], device: str, folder: Path) -> Path:
    from matplotlib.figure import Figure

    decode = rows[0]["shape"]["kind"] == "decode" or not rows[0]["work"]["flops"]
    ordered = sorted(rows, key=lambda row: (row["work"]["flops"], row["work"]["bytes"], row["shape"]["name"]))
    names = [row["shape"]["name"] for row in ordered]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in ("certified", *peers_of(rows)):
        points = []
        for place, row in enumerate(ordered):
            of = certified(row) if name == "certified" else next((c for c in right(row) if c["name"] == name), None)
            if of is not None:
                amount = row["work"]["bytes"] / 1e9 if decode else row["work"]["flops"] / 1e12
                points.append((place, amount / seconds(of)))
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, marker="o", linewidth=2.5 if name == "certified" else 1.2, label=name)
    axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 6 else 0)
    axes.set_ylabel("GB/s" if decode else "TFLOP/s")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{title}, on {device}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path = folder / f"{title.replace(' ', '-').replace('/', '-')}.png"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
