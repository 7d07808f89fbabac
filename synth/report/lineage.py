"""Who was made from whom: candidates in the order they came, one a row, indented by generation.

A solid line goes to the first parent, a dashed one to any other (crossover). A name leads to the candidate.
"""

from __future__ import annotations

from markupsafe import Markup

from synth.report.charts import shortened
from synth.report.svg import element, number, picture, text, verdict_mark
from synth.report.view import KernelView

ROW, STEP, LEFT = 21.0, 16.0, 12.0
NAME = 44  # characters of a name


def generations(kernels: tuple[KernelView, ...]) -> dict[str, int]:
    """How many generations each candidate is from one that has no parent in this run. A parent comes before its
    children; one that does not is not believed."""
    found: dict[str, int] = {}
    for kernel in kernels:
        found[kernel.name] = max((found[p] + 1 for p in kernel.parents if p in found), default=0)
    return found


def draw(kernels: tuple[KernelView, ...], links: dict[str, str]) -> Markup | str:
    """The tree of the honest candidates, or a sentence where nothing was made from anything."""
    depth = generations(kernels)
    if not any(depth.values()):
        return "No candidate of this run was made from another one."
    rows = {k.name: n for n, k in enumerate(kernels)}
    edges, nodes = [], []
    width = 0.0

    def at(name: str) -> tuple[float, float]:
        return LEFT + STEP * depth[name], ROW * rows[name] + ROW / 2

    for kernel in kernels:
        x, y = at(kernel.name)
        for k, parent in enumerate(p for p in kernel.parents if p in rows and rows[p] < rows[kernel.name]):
            px, py = at(parent)
            d = f"M{number(px)} {number(py + 6)}V{number(y - 7)}Q{number(px)} {number(y)} {number(x - 7)} {number(y)}"
            edges.append(element("path", d=d, class_="edge other" if k else "edge"))
        label = shortened(kernel.name, NAME)
        said = kernel.verdict or "not judged"
        best = min((m.seconds for m in kernel.measurements), default=None)
        more = f"{kernel.source or 'candidate'}, {said}" + (f", {best * 1e3:.3g} ms" if best is not None else "")
        width = max(width, x + 14 + 6.9 * (len(label) + len(more) + 2))
        name = element("a", text(x + 12, y + 4, label, "name"), href=f"#{links[kernel.name]}")
        extra = element("tspan", more, class_="quiet", dx=8)
        row = element(
            "g",
            element("title", f"{kernel.name}: {more}"),
            verdict_mark(kernel.verdict, x, y),
            name,
            element("text", extra, x=x + 12 + 6.9 * len(label), y=y + 4),
        )
        nodes.append(row)
    title = f"Lineage of {len(kernels)} candidates over {max(depth.values()) + 1} generations"
    return picture(width, ROW * len(kernels), title, *edges, *nodes, class_="lineage", role="group")
