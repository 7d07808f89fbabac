"""From a `RunView` to the page: rows, figures and pictures, put into page.html.j2 with escaping on.

The page carries one script and one style sheet, both inline; its content security policy names them by their hashes
and forbids everything else, the network included.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from synth import __version__
from synth.events import Measurement
from synth.report import charts, evidence, formula, lineage, replay, tiles, tint
from synth.report.svg import MARKS
from synth.report.view import NOT_A_KERNEL, KernelView, RunView
from synth.search.winner import SHORTFALL, kernel_gap, speedup
from verifier.verdict import OBLIGATIONS, TITLES, Counterexample, Result

HERE = Path(__file__).parent
FAULTS = {
    "bounds": "outside the tensor", "width": "beyond the address width", "write-write": "stored twice",
    "read-write": "read and stored in one launch", "uninitialised": "read before it was stored",
}  # fmt: skip


def render(run: RunView) -> str:
    """The page, whole. The same run gives the same text."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=FileSystemLoader(HERE),
    )  # fmt: skip
    environment.filters |= {"ms": ms, "seconds": seconds, "percent": percent, "times": times, "count": count}
    links = {k.name: f"c-{n}" for n, k in enumerate(run.kernels)}
    proofs = sum(k.report is not None and any(r.evidence for r in k.report.results) for k in run.kernels)
    room = evidence.PAGE_BYTES // max(1, proofs)
    return environment.get_template("page.html.j2").render(
        run=run, version=__version__, style=Markup(style), script=Markup(script),
        policy=_policy(style, script), links=links, marks=MARKS, titles=TITLES, obligations=OBLIGATIONS,
        shapes=_shapes(run), board=board(run), facts=headline(run), notes=[*run.gaps, *generalisation(run)],
        formulas=formula.formulas(run.bound) if run.bound else [],
        requires=formula.requirements(run.bound) if run.bound else [],
        tensors=formula.tensors(run.bound) if run.bound else [],
        sizes=formula.sizes(run.bound) if run.bound else [],
        roofline=charts.roofline(run), panels=charts.verdict_panels(run), lineage=lineage.draw(run.honest, links),
        sheets=[_sheet(k, run, links[k.name], room) for k in run.kernels], patterns=tiles.patterns(),
        spec_lines=tint.lines(run.spec_text, "toml") if run.spec_text else "", not_a_kernel=NOT_A_KERNEL,
    )  # fmt: skip


def _policy(style: str, script: str) -> str:
    """Nothing is loaded, from anywhere, and nothing runs but the page's own script."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    allowed = "style-src 'sha256-{}'; script-src 'sha256-{}'".format(*hashes)
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"


# ---- figures -----------------------------------------------------------------------------------------


def ms(value: float | None) -> str:
    return "" if value is None else f"{value * 1e3:.4g} ms"


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f} s" if value < 100 else f"{value / 60:.1f} min"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}×"


def count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


# ---- leaderboard -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the leaderboard: a candidate, or PyTorch where `kernel` is None. `speedup` and `heldout` are over
    standard PyTorch, `gap` over the fastest PyTorch, geometric means over shapes (`synth.search.winner`)."""

    name: str
    link: str
    kernel: KernelView | None
    times: tuple[float | None, ...]
    share: float | None
    speedup: float | None
    gap: float | None
    heldout: float | None


def _shapes(run: RunView) -> list[str]:
    every = [m for k in run.kernels for m in k.measurements] + list(run.peers)
    return list(dict.fromkeys(m.shape for m in every))


def board(run: RunView) -> list[Row]:
    """Timed first, fastest first; then by how far a candidate came. Each program once, and none broken on purpose."""
    shapes = _shapes(run)
    rows = [
        _row(k.name, f"c-{n}", k, k.measurements, k.heldout, run, shapes)
        for n, k in enumerate(run.kernels)
        if not k.broken and not k.twin
    ]
    for name in dict.fromkeys(m.name for m in run.peers):
        mine, held = ([m for m in ms if m.name == name] for ms in (run.peers, run.peers_heldout))
        rows.append(_row(name, "", None, mine, held, run, shapes))
    rank = {"proved": 1, "unproved": 2, "refuted": 3}

    def order(row: Row) -> tuple[float, ...]:
        if row.speedup is not None:
            return (0, -row.speedup)
        timed = [t for t in row.times if t is not None]
        if timed:
            return (0.5, sum(timed))
        return (rank.get(row.kernel.verdict, 4), 0) if row.kernel else (5, 0)

    return sorted(rows, key=order)


def _row(
    name: str, link: str, kernel: KernelView | None, mine: Sequence[Measurement], held: Sequence[Measurement],
    run: RunView, shapes: list[str],
) -> Row:  # fmt: skip
    at = {m.shape: m for m in mine}
    found = tuple(at[s].seconds if s in at else None for s in shapes)
    shares = [m.share for m in mine if m.share]
    ratios = speedup(mine, run.peers), kernel_gap(mine, run.peers), speedup(held, run.peers_heldout)
    return Row(name, link, kernel, found, geometric(shares), *(ratio or None for ratio in ratios))


def geometric(values: Sequence[float]) -> float | None:
    return math.exp(sum(map(math.log, values)) / len(values)) if values and min(values) > 0 else None


def generalisation(run: RunView) -> list[str]:
    """What the held-out shapes say of the winner on the search shapes, by the rule of `synth.search.winner`."""
    both = [
        (k.name, s, h)
        for k in run.distinct
        if (s := speedup(k.measurements, run.peers)) and (h := speedup(k.heldout, run.peers_heldout))
    ]
    if not both:
        return []
    winner, searched, held = max(both, key=lambda row: row[1])
    best = max(both, key=lambda row: row[2])
    if held < SHORTFALL * searched:
        return [
            f"{winner} does not generalise: {times(searched)} standard PyTorch on the shapes it was chosen by, "
            f"{times(held)} on held-out ones."
        ]
    if held < SHORTFALL * best[2]:
        return [f"{winner} won on the search shapes, but does not generalise: {best[0]} is faster on held-out ones."]
    return [f"On held-out shapes {winner} is {times(held)} standard PyTorch ({times(searched)} on the search shapes)."]


def headline(run: RunView) -> list[tuple[str, str, str]]:
    """The figures at the top: name, figure, remark."""
    judged = run.distinct
    found = [
        ("certified", str(sum(k.certified for k in judged)), f"of {len(judged)} candidate{'s' * (len(judged) != 1)}")
    ]
    for verdict in ("refuted", "unproved", NOT_A_KERNEL):
        number = sum(k.verdict == verdict for k in judged)
        if number:
            found.append((verdict, str(number), "candidates" if number > 1 else "candidate"))
    if run.controls:
        stopped = sum(k.verdict != "proved" for k in run.controls)
        found.append(("stopped", f"{stopped} of {len(run.controls)}", "kernels broken on purpose"))
    best = next((row for row in board(run) if row.kernel and row.kernel.certified and any(row.times)), None)
    if best is not None:
        where = "on a CPU, by the CPU executor" if run.device == "CPU" else f"on {run.device}"
        found.append(("fastest certified", ms(min(t for t in best.times if t)), where))
        if best.speedup:
            found.append(("speed-up", times(best.speedup), "over standard PyTorch"))
        if best.gap:
            found.append(("kernel gap", times(best.gap), "over the fastest PyTorch"))
    if run.exchanges:
        dollars = sum(e.dollars for e in run.exchanges)
        found.append(("model", f"${dollars:.2f}", f"{len(run.exchanges)} exchanges"))
    if run.seconds is not None:
        found.append(("wall time", seconds(run.seconds), run.status))
    return found


# ---- one candidate -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fall:
    """A counterexample as shown: the facts, the source lines around, and the picture or why there is none."""

    facts: tuple[tuple[str, str], ...]
    message: str
    excerpt: Markup
    first: int
    drawn: Markup | None
    why: str
    shown: str
    legend: tuple[tuple[Markup, str], ...]


def _sheet(kernel: KernelView, run: RunView, link: str, room: int) -> dict[str, Any]:
    """Everything the page says of one candidate."""
    results = kernel.report.results if kernel.report else ()
    falls = {r.id: _fall(kernel, run, r, r.counterexample) for r in results if r.counterexample}
    marked = frozenset(r.span.line for r in results if r.counterexample and r.span.line > 0)
    marked |= {r.counterexample.span.line for r in results if r.counterexample}
    return {
        "kernel": kernel,
        "link": link,
        "results": results,
        "evidence": evidence.pack(kernel.report, room),
        "falls": falls,
        "tile": tint.lines(kernel.text, "tile", marked) if kernel.text else "",
        "triton": tint.lines(kernel.triton, "python") if kernel.triton else "",
        "best": min((m.seconds for m in kernel.measurements), default=None),
    }


def _fall(kernel: KernelView, run: RunView, result: Result, c: Counterexample) -> Fall:
    scene = replay.scene(kernel.text, run.bound, c, result.id)
    facts = [("at", ", ".join(f"{n} = {v}" for n, v in c.sizes))]
    facts += [(n, f"{v:g}") for n, v in c.parameters]
    who = c.program or (scene.who if isinstance(scene, replay.Scene) else ())
    if who:
        facts.append(("program", tiles.program_text(who)))
    cell = f"{c.tensor}[{', '.join(map(str, c.cell))}]" if c.tensor else ""
    facts += [
        ("inputs", c.inputs),
        ("cell", cell),
        ("expected", c.expected),
        ("actual", FAULTS.get(c.actual, c.actual)),
    ]
    lines, at = kernel.text.split("\n"), c.span.line or (scene.line if isinstance(scene, replay.Scene) else 0)
    first = max(1, at - 2)
    excerpt = Markup("")
    if 0 < at <= len(lines):
        excerpt = tint.lines("\n".join(lines[first - 1 : at + 1]), "tile", frozenset({at - first + 1}))
    shown = tuple((k, v) for k, v in facts if v)
    if isinstance(scene, str):
        return Fall(shown, c.message, excerpt, first, None, scene, "", ())
    title = f"{result.id} {TITLES.get(result.id, '')} of {kernel.name}: {tiles.slice_text(scene)}, cell {cell} marked"
    legend = tuple((tiles.swatch(name), phrase) for name, phrase in tiles.legend(scene))
    why = "" if scene.run else "Too large to be run again here: the place alone is shown."
    return Fall(shown, c.message, excerpt, first, tiles.draw(scene, title), why, tiles.slice_text(scene), legend)
