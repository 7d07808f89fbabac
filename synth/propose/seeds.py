"""Seeds: the kernels that ship with a spec, offered before anything is composed.

The kernels of `specs/NAME.toml` are in `specs/NAME/*.tile`. Nothing is trusted of them: they go through the gate
like every candidate. A kernel written for particular settings says so in its first line, `# spec: NAME causal=none`,
and is offered for a spec bound to those only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ir.spec import Bound, Spec
from synth.propose import Candidate


def seeds(bound: Bound) -> Iterator[Candidate]:
    """The kernels next to the spec's file that are for these settings, by name."""
    values = {name: str(value) for name, value in bound.settings}
    for candidate in shipped(bound.spec):
        if all(values.get(name) == value for name, value in candidate.choices):
            yield candidate


def shipped(spec: Spec) -> Iterator[Candidate]:
    """Every kernel next to a spec's file, by name; `choices` are the settings it is for."""
    folder = Path(spec.path).with_suffix("")
    for path in sorted(folder.glob("*.tile")) if spec.path.endswith(".toml") else ():
        text = path.read_text(encoding="utf-8")
        yield Candidate(path.stem, text, tuple(wanted_settings(text).items()), source="shipped")


def wanted_settings(text: str) -> dict[str, str]:
    """`key=value` of a kernel file's first line, `# spec: NAME key=value ...`; empty without such a line."""
    first = text.split("\n", 1)[0]
    if not first.startswith("# spec: "):
        return {}
    items = (item.partition("=") for item in first.split()[3:])
    return {name: value for name, equals, value in items if equals}
