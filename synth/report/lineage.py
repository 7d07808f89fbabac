"""Who was made from whom, as a tree: each candidate stands under its first parent, one step in.

Of a crossover the other parents are named beside it. A name leads to the candidate.
"""

from __future__ import annotations

from markupsafe import Markup

from synth.report.charts import shortened
from synth.report.svg import element, number, picture, verdict_mark
from synth.report.view import KernelView

ROW, STEP, LEFT = 21.0, 16.0, 12.0
NAME = 44  # characters of a name


def preorder(kernels: tuple[KernelView, ...]) -> list[KernelView]:
    """Each candidate followed by what was made from it first; both in the order of the run."""
    children: dict[str, list[KernelView]] = {}
    seen: set[str] = set()
    for kernel in kernels:
        children.setdefault(next((p for p in kernel.parents if p in seen), ""), []).append(kernel)
        seen.add(kernel.name)
    found, waiting = [], list(reversed(children.get("", [])))
    while waiting:
        kernel = waiting.pop()
        found.append(kernel)
        waiting += reversed(children.get(kernel.name, []))
    return found


def depths(ordered: list[KernelView]) -> dict[str, int]:
    """How many steps in: one more than the first parent that stands above."""
    found: dict[str, int] = {}
    for kernel in ordered:
        found[kernel.name] = next((found[p] + 1 for p in kernel.parents if p in found), 0)
    return found


def draw(kernels: tuple[KernelView, ...], links: dict[str, str]) -> Markup | str:
    """The tree of the honest candidates, or a sentence where nothing was made from anything."""
    ordered = preorder(kernels)
    depth = depths(ordered)
    if not any(depth.values()):
        return "No candidate of this run was made from another one."
    rows = {k.name: n for n, k in enumerate(ordered)}
    edges, nodes = [], []
    width = 0.0
    for kernel in ordered:
        x, y = LEFT + STEP * depth[kernel.name], ROW * rows[kernel.name] + ROW / 2
        parents = [p for p in kernel.parents if p in rows]
        if depth[kernel.name]:
            px, py = x - STEP, ROW * rows[_above(kernel, depth)] + ROW / 2
            d = f"M{number(px)} {number(py + 7)}V{number(y - 6)}q0 6 6 6H{number(x - 7)}"
            edges.append(element("path", d=d, class_="branch"))
        others = [p for p in parents if p != _above(kernel, depth)] if depth[kernel.name] else []
        row, length = _row(kernel, others, links, x + 12, y + 4)
        width = max(width, x + 14 + 6.6 * length)
        nodes.append(element("g", verdict_mark(kernel.verdict, x, y), row))
    title = f"Lineage of {len(ordered)} candidates over {max(depth.values()) + 1} generations"
    return picture(width, ROW * len(ordered), title, *edges, *nodes, class_="lineage", role="group")


def _above(kernel: KernelView, depth: dict[str, int]) -> str:
    """The parent it stands under."""
    return next(p for p in kernel.parents if depth.get(p) == depth[kernel.name] - 1)


def _row(kernel: KernelView, others: list[str], links: dict[str, str], x: float, y: float) -> tuple[Markup, int]:
    """One line of text, and about how many characters it has."""
    best = min((m.seconds for m in kernel.measurements), default=None)
    said = f"{kernel.source or 'candidate'}, {kernel.verdict or 'not judged'}"
    if kernel.twin:
        said = f"{kernel.source or 'candidate'}, the same program as {shortened(kernel.twin, NAME)}"
    said += f", {best * 1e3:.3g} ms" if best is not None else ""
    label = shortened(kernel.name, NAME)
    link = element("a", element("tspan", label, class_="name"), href=f"#{links[kernel.name]}")
    parts = [link, element("tspan", said + (", with" if others else ""), class_="quiet", dx=8)]
    for other in others:
        shown = element("tspan", shortened(other, NAME), class_="quiet", dx=4)
        parts.append(element("a", shown, href=f"#{links[other]}"))
    return element("text", *parts, x=float(x), y=float(y)), len(label) + len(said) + 2 + sum(6 + len(o) for o in others)
