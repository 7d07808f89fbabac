"""SVG by element, every attribute and text escaped. Colours are classes of the page's style sheet, so that a picture
follows the reader's light or dark scheme; every picture has a title."""

from __future__ import annotations

from markupsafe import Markup, escape


def number(value: float) -> str:
    """A coordinate: at most two decimals, no trailing zeros, so that pages stay small and equal."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def element(name: str, *content: object, **attributes: object) -> Markup:
    """An element. Keywords are attributes: `class_` is class, an underscore is a hyphen; None leaves one out."""
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = number(value) if isinstance(value, float) else value
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    inner = Markup("").join(escape(c) for c in content)
    return Markup(f"<{' '.join(parts)}>{inner}</{name}>")


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    return element("text", content, x=float(x), y=float(y), class_=class_ or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def rect(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    return element("rect", x=float(x), y=float(y), width=float(width), height=float(height), class_=class_)


def picture(width: float, height: float, title: str, *content: object, class_: str = "", role: str = "img") -> Markup:
    """A whole drawing: `title` is what it is called and what is read out for it. One with links in it is a group."""
    shape = f"0 0 {number(width)} {number(height)}"
    return element(
        "svg", element("title", title), *content, viewBox=shape, width=float(width), height=float(height),
        role=role, aria_label=title, class_=class_ or None,
    )  # fmt: skip


MARKS = {"proved": "✓", "refuted": "✗", "unproved": "?"}  # never colour alone


def verdict_mark(verdict: str, x: float, y: float, size: float = 6.0) -> Markup:
    """A disc for proved, a cross for refuted, a square for unproved, a ring for a text that is no kernel."""
    match verdict:
        case "proved":
            return element("circle", cx=float(x), cy=float(y), r=size * 0.85, class_="dot proved")
        case "refuted":
            d = f"M{number(x - size * 0.7)} {number(y - size * 0.7)}l{number(size * 1.4)} {number(size * 1.4)}m0 "
            d += f"{number(-size * 1.4)}l{number(-size * 1.4)} {number(size * 1.4)}"
            return element("path", d=d, class_="dot refuted")
        case "unproved":
            side = size * 1.4
            return rect(x - side / 2, y - side / 2, side, side, "dot unproved")
        case _:
            return element("circle", cx=float(x), cy=float(y), r=size * 0.7, class_="dot none")
