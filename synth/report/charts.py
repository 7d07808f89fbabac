"""The two charts of a run: verdicts of each obligation as the run went on, and measured points under the roofline.

The roofline (Williams, Waterman, Patterson 2009) is drawn from the device's published peaks where they are known;
otherwise, as on a CPU, from what each shape's recorded share says is attainable there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ir.evaluate import EvaluationError
from ir.spec import Bound
from synth.bench.roofline import Peak, device_peak, traffic_bytes, work_flops
from synth.events import Measurement
from synth.propose import NothingToPropose
from synth.report.svg import MARKS, element, line, number, picture, text, verdict_mark
from synth.report.view import KernelView, RunView
from verifier.verdict import OBLIGATIONS, TITLES

# ---- verdicts over time ------------------------------------------------------------------------------

PANEL_WIDTH, PANEL_HEIGHT = 172.0, 62.0
STACK = ("refuted", "unproved", "proved")  # from the bottom


def verdict_panels(run: RunView) -> list[Markup]:
    """One small chart for each obligation: how many candidates it was refuted, unproved, proved for so far."""
    judged = [k for k in run.kernels if k.obligations and not k.twin]
    if not judged:
        return []
    timed = all(k.at is not None for k in judged)
    if timed:
        judged.sort(key=lambda k: k.at or 0.0)  # a stable sort: candidates of one moment stay in order
    whens = [k.at or 0.0 for k in judged] if timed else [float(n) for n in range(1, len(judged) + 1)]
    end = (max(run.seconds or 0.0, whens[-1]) if timed else whens[-1]) or 1.0
    axis = f"{end / 60:.1f} min" if timed else f"{len(judged)} candidates"
    return [_panel(o, judged, whens, end, axis) for o in OBLIGATIONS]


def _panel(obligation: str, judged: Sequence[KernelView], whens: Sequence[float], end: float, axis: str) -> Markup:
    top, left = 22.0, 1.0
    width, height = PANEL_WIDTH - 2, PANEL_HEIGHT - 4
    counts = dict.fromkeys(STACK, 0)
    steps: list[tuple[float, dict[str, int]]] = [(0.0, dict(counts))]
    for kernel, when in zip(judged, whens, strict=True):
        mark = kernel.mark(obligation)
        if mark in counts:
            counts[mark] += 1
        steps.append((when, dict(counts)))
    steps.append((end, dict(counts)))
    total = max(1, len(judged))
    parts = []
    for k, verdict in enumerate(STACK):
        if counts[verdict]:
            low = [(w, sum(c[v] for v in STACK[:k])) for w, c in steps]
            high = [(w, sum(c[v] for v in STACK[: k + 1])) for w, c in steps]
            d = _steps(low, high, left, top, width / end, height / total, height)
            parts.append(element("path", d=d, class_=f"area {verdict}"))
    said = ", ".join(f"{counts[v]} {v}" for v in reversed(STACK))
    short = "  ".join(f"{MARKS[v]} {counts[v]}" for v in reversed(STACK) if counts[v])
    name = f"{obligation} {TITLES[obligation]}"
    return picture(
        PANEL_WIDTH, PANEL_HEIGHT + 34, f"{name}: {said}, over {axis}",
        text(left, 13, obligation, "strong"), text(left + 22, 13, TITLES[obligation]),
        text(PANEL_WIDTH - 1, 13, short, "quiet", "end"), *parts,
        line(left, top + height, left + width, top + height, "axis"),
        text(left, top + height + 12, "0", "tick"), text(left + width, top + height + 12, axis, "tick", "end"),
        class_="panel",
    )  # fmt: skip


def _steps(
    low: list[tuple[float, int]], high: list[tuple[float, int]], left: float, top: float, sx: float, sy: float, h: float
) -> str:
    """The area between two step functions."""

    def point(when: float, count: int) -> str:
        return f"{number(left + when * sx)} {number(top + h - count * sy)}"

    path = [f"M{point(*high[0])}"]
    for (_, before), (when, count) in zip(high, high[1:], strict=False):
        path.append(f"L{point(when, before)}" + (f"L{point(when, count)}" if count != before else ""))
    back = list(reversed(low))
    path.append(f"L{point(*back[0])}")
    for (when, before), (earlier, count) in zip(back, back[1:], strict=False):
        path.append(f"L{point(when, count)}" if count != before else "")
        path.append(f"L{point(earlier, count)}")
    return "".join(path) + "z"


# ---- roofline ----------------------------------------------------------------------------------------

WIDTH, HEIGHT = 420.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 70.0, 148.0, 14.0, 36.0
LABELS = 9  # points with a name beside them


@dataclass(frozen=True, slots=True)
class _Point:
    """Operations a byte and a second; for a formula without products, bytes in all and a second. `attainable` of them
    where a share is recorded."""

    name: str
    kind: str
    shape: str
    intensity: float
    rate: float
    attainable: float | None
    unit: str


def roofline(run: RunView) -> Markup | str:
    """The plot, or a sentence saying why there is none."""
    timed = [(k.name, "certified", m) for k in run.distinct for m in k.measurements]
    timed += [(m.name, "peer", m) for m in run.peers]
    if not timed:
        return "Nothing was timed in this run."
    if run.bound is None:
        return "The spec of this run is not known, and so its work and traffic are not."
    points = [p for name, kind, m in timed if (p := _point(run.bound, name, kind, m)) is not None]
    if not points:
        return "What was timed does not say its sizes, so there is nothing to plot."
    peak = device_peak(run.device, run.bound.inputs[0][1])
    computing = [p for p in points if p.unit == "FLOP/s"]
    return _Plot(computing or points, peak).draw(run)


def _point(bound: Bound, name: str, kind: str, m: Measurement) -> _Point | None:
    sizes = dict(m.sizes)
    try:
        traffic = traffic_bytes(bound, sizes)
        flops = work_flops(bound, sizes)
    except NothingToPropose:
        flops = 0.0
    except (EvaluationError, KeyError):
        return None
    if not traffic:
        return None
    rate, x, unit = (flops / m.seconds, flops / traffic, "FLOP/s") if flops else (traffic / m.seconds, traffic, "B/s")
    return _Point(name, kind, m.shape, x, rate, rate / m.share if m.share else None, unit)


class _Plot:
    def __init__(self, points: list[_Point], peak: Peak | None) -> None:
        self.points, self.unit = points, points[0].unit
        self.most = None if peak is None else peak.flops if self.unit == "FLOP/s" else peak.bandwidth
        self.ridge = None if peak is None or self.unit != "FLOP/s" else peak.flops / peak.bandwidth
        self.roofs = {p.intensity: p.attainable for p in points if p.attainable}
        intensities = [p.intensity for p in points]
        intensities += [self.ridge] if self.ridge else []
        rates = [p.rate for p in points] + [r for r in self.roofs.values() if r] + ([self.most] if self.most else [])
        self.x0, self.x1 = math.log10(min(intensities)) - 0.5, math.log10(max(intensities)) + 0.5
        self.y0, self.y1 = math.floor(math.log10(min(rates))), math.log10(max(rates)) + 0.25

    def x(self, intensity: float) -> float:
        return LEFT + (math.log10(intensity) - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, rate: float) -> float:
        return TOP + (self.y1 - math.log10(rate)) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def text(self, rate: float) -> str:
        return quantity(rate, self.unit)

    def step(self, value: float) -> str:
        return f"{value:g}" if self.unit == "FLOP/s" else quantity(value, "B").replace(" ", "\u202f")

    def draw(self, run: RunView) -> Markup:
        best = min((p for p in self.points if p.kind == "certified"), key=lambda p: -p.rate, default=None)
        where = "a CPU, by the CPU executor" if run.device == "CPU" else run.device or "an unnamed device"
        title = f"Roofline on {where}: {len(self.points)} measured points"
        if best is not None:
            title += f"; the fastest certified kernel, {best.name}, does {self.text(best.rate)} on {best.shape}"
        marks = [self._mark(p) for p in sorted(self.points, key=lambda p: (p.kind == "peer", p.rate))]
        return picture(
            WIDTH, HEIGHT, title, *self._grid(), *self._roof(), *marks, *self._names(), class_="roofline"
        )  # fmt: skip

    def _grid(self) -> list[Markup]:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = [line(LEFT, bottom, right, bottom, "axis"), line(LEFT, TOP, LEFT, bottom, "axis")]
        for power in range(math.ceil(self.y0), math.floor(self.y1) + 1):
            y = self.y(10.0**power)
            parts += [line(LEFT, y, right, y, "grid"), text(LEFT - 5, y + 3.5, self.text(10.0**power), "tick", "end")]
        for k in range(math.floor(self.x0), math.ceil(self.x1) + 1):
            for step in (1, 2, 5):
                value = step * 10.0**k
                if self.x0 <= math.log10(value) <= self.x1:
                    x = self.x(value)
                    parts += [line(x, TOP, x, bottom, "grid"), text(x, bottom + 12, self.step(value), "tick", "middle")]
        name = "operations per byte of inputs and outputs" if self.unit == "FLOP/s" else "bytes of inputs and outputs"
        parts.append(text((LEFT + right) / 2, HEIGHT - 8, name, "tick", "middle"))
        return parts

    def _roof(self) -> list[Markup]:
        if self.most is not None:
            ridge, low = self.ridge or 10**self.x0, 10**self.x0
            slope = self.most / ridge  # the memory's bandwidth
            d = f"M{number(self.x(low))} {number(self.y(max(low * slope, 10.0**self.y0)))}"
            d += f"L{number(self.x(ridge))} {number(self.y(self.most))}H{number(WIDTH - RIGHT)}"
            label = text(self.x(ridge) + 4, self.y(self.most) - 5, f"peak {self.text(self.most)}", "tick")
            return [element("path", d=d, class_="roof"), label]
        found = []
        for intensity, rate in self.roofs.items():
            x, y = self.x(intensity), self.y(rate or 1.0)
            found += [line(max(LEFT, x - 22), y, min(WIDTH - RIGHT, x + 22), y, "roof")]
            found.append(text(x, y - 5, f"attainable {self.text(rate or 1.0)}", "tick", "middle"))
        return found

    def _mark(self, p: _Point) -> Markup:
        x, y = self.x(p.intensity), self.y(p.rate)
        said = element("title", f"{p.name}, {p.shape}: {self.text(p.rate)}")
        if p.kind == "peer":
            d = f"M{number(x)} {number(y - 6)}l6 6l-6 6l-6 -6z"
            return element("g", said, element("path", d=d, class_="peer"))
        return element("g", said, verdict_mark("proved", x, y, 5.0))

    def _names(self) -> list[Markup]:
        """The fastest points by name at the right, pushed apart so that none covers another."""
        chosen: dict[str, _Point] = {}
        for p in sorted(self.points, key=lambda p: (p.kind == "certified", -p.rate)):
            chosen.setdefault(p.name, p)
        shown = sorted(list(chosen.values())[:LABELS], key=lambda p: -p.rate)
        room = (HEIGHT - BOTTOM - TOP) / max(len(shown), 1)
        gap, at, found = min(13.0, room), TOP, []
        for k, p in enumerate(shown):
            latest = HEIGHT - BOTTOM - gap * (len(shown) - 1 - k)
            at = min(max(at, self.y(p.rate)), latest)
            x = WIDTH - RIGHT
            found.append(line(self.x(p.intensity) + 7, self.y(p.rate), x + 4, at, "leader"))
            found.append(text(x + 7, at + 3.5, shortened(p.name, 23), "label"))
            at += gap
        return found


def quantity(value: float, unit: str) -> str:
    """A number with its unit: 12 GFLOP/s."""
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def shortened(name: str, length: int) -> str:
    """The beginning and the end of a long name: variants of one kernel differ at the end."""
    if len(name) <= length:
        return name
    tail = length // 2 - 1
    return f"{name[: length - tail - 1]}…{name[-tail:]}"
