"""Source texts with a little colour: comments, strings, numbers, keywords and built-in names, one span a line.

A tokenizer of a few lines and no more: the texts are untrusted, and all that is asked of it is that every character
of the text comes out once, escaped.
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_WORDS = {
    "tile": (
        "meta scratch kernel schedule for in range carry not and or true false None",
        "load store atomic_add dot sum max min maximum minimum exp exp2 log log2 sqrt abs tanh sigmoid where arange "
        "full zeros trans broadcast cast cdiv random",
    ),
    "python": (
        "import as from def return for in if else not and or True False None while assert lambda",
        "tl triton range",
    ),
    "toml": ("true false", ""),
    "smt": ("assert check-sat declare-fun declare-const define-fun set-logic set-option forall exists let", ""),
    "plain": ("", ""),
}
_COMMENT = {"smt": r";[^\n]*", "plain": r"(?!)"}
_STRING = r"""\"\"\"(?:.|\n)*?(?:\"\"\"|\Z)|"[^"\n]*"?|'[^'\n]*'?"""


def _pattern(language: str) -> re.Pattern[str]:
    comment = _COMMENT.get(language, r"\#[^\n]*")
    word = r"[A-Za-z_][\w-]*" if language == "smt" else r"[A-Za-z_]\w*"
    return re.compile(rf"(?P<c>{comment})|(?P<s>{_STRING})|(?P<n>\b\d[\w.]*)|(?P<w>{word})")


def lines(text: str, language: str, marked: frozenset[int] = frozenset()) -> Markup:
    """The text as lines for a numbered block; `marked` lines (counted from 1) are set off."""
    keywords, builtins = (frozenset(words.split()) for words in _WORDS[language])
    out: list[str] = []
    at = 0
    for token in () if language == "plain" else _pattern(language).finditer(text):
        kind, shown = str(token.lastgroup), token.group()
        if kind == "w":
            kind = "k" if shown in keywords else "b" if shown in builtins else ""
        if kind:
            out.append(str(escape(text[at : token.start()])))
            pieces = (f'<i class="{kind}">{escape(piece)}</i>' if piece else "" for piece in shown.split("\n"))
            out.append("\n".join(pieces))
            at = token.end()
    out.append(str(escape(text[at:])))
    rows = "".join(out).rstrip("\n").split("\n")
    return Markup("").join(
        Markup(f'<span class="l{" at" if k in marked else ""}">{row}\n</span>') for k, row in enumerate(rows, 1)
    )
