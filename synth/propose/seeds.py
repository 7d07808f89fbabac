"""Seeds: the kernels that ship with a spec, offered before anything is composed.

The kernels of `specs/NAME.toml` are in `specs/NAME/*.tile`. Nothing is trusted of them: they go through the gate
like every candidate. A kernel written for particular settings says so in its first line, `# spec: NAME causal=none`,
and is offered for a spec bound to those only.

Tile sizes that suit one head dim or dtype spill registers at another. The header says which to take where:
`# for D=128: BM=32 BN=64` gives the kernel these metas at those settings (two such lines, two kernels),
`# also: BM=32 BN=64` offers it with these, too, where it is offered as it is. Each is a candidate of its own, proved
by itself. `maxnreg=168` in such a line goes into the schedule of every kernel of the file. `# not for D=256: why` says
where a kernel is not offered.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path

from ir.spec import Bound
from synth.propose import Candidate

SIZES = re.compile(r"# (?:for (?P<settings>[^:]+)|also): (?P<metas>.+)")
SCHEDULE = ("num_warps", "num_stages", "maxnreg")
NOT_FOR = re.compile(r"# not for (?P<settings>[^:]+): .+")


class NoSuchMeta(Exception):
    """A line of a kernel's header gives a size to a meta that the kernel does not have."""


def seeds(bound: Bound) -> Iterator[Candidate]:
    """The kernels next to the spec's file that are for these settings, by name; then those in other sizes."""
    folder = Path(bound.spec.path).with_suffix("")
    others: list[Candidate] = []
    for path in sorted(folder.glob("*.tile")) if bound.spec.path.endswith(".toml") else ():
        text = path.read_text(encoding="utf-8")
        if any(_fits(excluded, bound) for excluded in _excluded(text)):
            continue
        told = [
            (m, wanted) for m, wanted in _sizes(text) if wanted and _fits({**wanted_settings(text), **wanted}, bound)
        ]
        if told:
            first, *more = (_resized(path.stem, text, metas) for metas, wanted in told if wanted == told[0][1])
            yield first
            others += more
        elif _fits(wanted_settings(text), bound):
            yield Candidate(path.stem, text, tuple(wanted_settings(text).items()), source="shipped")
            others += [_resized(path.stem, text, metas) for metas, wanted in _sizes(text) if not wanted]
    yield from others


def _fits(wanted: Mapping[str, str], bound: Bound) -> bool:
    values = {name: str(value) for name, value in bound.settings}
    return all(values.get(name) == value for name, value in wanted.items())


def wanted_settings(text: str) -> dict[str, str]:
    """`key=value` of a kernel file's first line, `# spec: NAME key=value ...`; empty without such a line."""
    first = text.split("\n", 1)[0]
    return _pairs(" ".join(first.split()[3:])) if first.startswith("# spec: ") else {}


def _excluded(text: str) -> Iterator[dict[str, str]]:
    """The settings of each line of the header that says where a kernel is not offered."""
    for line in takewhile(lambda line: line.startswith("#"), text.split("\n")):
        if found := NOT_FOR.fullmatch(line.strip()):
            yield _pairs(found["settings"])


def _sizes(text: str) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Metas and settings of each line of the header that gives sizes."""
    for line in takewhile(lambda line: line.startswith("#"), text.split("\n")):
        if found := SIZES.fullmatch(line.strip()):
            yield _pairs(found["metas"]), _pairs(found["settings"] or "")


def _pairs(text: str) -> dict[str, str]:
    items = (item.partition("=") for item in text.split())
    return {name: value for name, equals, value in items if equals}


def _resized(name: str, text: str, values: Mapping[str, str]) -> Candidate:
    """The kernel with these metas and, in every schedule, these values, for the settings it is asked for."""
    metas = {key: value for key, value in values.items() if key not in SCHEDULE}
    for meta, value in metas.items():
        text, found = re.subn(rf"^meta {re.escape(meta)} = \d+", f"meta {meta} = {value}", text, flags=re.MULTILINE)
        if not found:
            raise NoSuchMeta(f"{name}.tile: its header gives a size to {meta}, but it has no line `meta {meta} = ...`")
    scheduled = {key: value for key, value in values.items() if key in SCHEDULE}
    head, *lines = _scheduled(text, scheduled).split("\n")
    body = "\n".join([head, *(line for line in lines if not SIZES.fullmatch(line.strip()))])
    return Candidate(f"{name}-{'x'.join(values.values())}", body, tuple(values.items()), source="shipped")


def _scheduled(text: str, values: Mapping[str, str]) -> str:
    """The text with these values in the schedule of every kernel."""
    for key, value in values.items():
        text = re.sub(rf"^(    schedule .*?)(, )?\b{key} = \d+", r"\1", text, flags=re.MULTILINE)
        text = re.sub(r"^(kernel .*:)\n(?!    schedule)", r"\1\n    schedule\n", text, flags=re.MULTILINE)
        text = re.sub(r"^    schedule[, ]*", f"    schedule {key} = {value}, ", text, flags=re.MULTILINE)
    return re.sub(r"^(    schedule .*?), *$", r"\1", text, flags=re.MULTILINE)
