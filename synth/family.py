"""What ships: every packaged spec with the kernels next to it, and the page docs/family.md made from them.

Nothing is listed by hand. A spec says what it computes (`doc`), a kernel what is special about it (the third line of
its file), and tests/golden proves every kernel listed; so the page says what is proved, and a test holds it current.
`python -m synth.family` writes the page; `synth specs` prints the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ir.loader import load_spec, packaged_specs
from ir.spec import Spec
from synth.propose.seeds import wanted_settings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "family.md"
REFUTED = ROOT / "tests" / "golden" / "refuted"
HEAD = """\
# What is proved, spec by spec

Made by `python -m synth.family` from `specs/`. Every kernel below is proved by the test suite for all sizes within
its spec's limits: bounds, width, races, coverage, definedness, equivalence, range (docs/proof.md), and runs in
agreement with its formula. "Defects" are wrong kernels of that spec in tests/golden/refuted, each refuted by a
counterexample that replays. Prove one again:

    synth prove specs/attention_bwd/three_kernels_none.tile --spec attention_bwd

Most kernels of `attention` are no files here: the embedded proposer composes them (`synth prove-and-run attention`),
and tests/golden/proved holds some fifty.
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    name: str
    settings: tuple[tuple[str, str], ...]
    description: str


@dataclass(frozen=True, slots=True)
class Family:
    """`gradients`: the outputs that are derived, not written. `defects`: refuted kernels in the test suite, None
    where the tests are not at hand."""

    spec: Spec
    kernels: tuple[Kernel, ...]
    gradients: tuple[str, ...]
    defects: int | None

    def to_json(self) -> dict[str, object]:
        return {
            "spec": self.spec.name,
            "doc": self.spec.doc,
            "outputs": [t.name for t in self.spec.outputs],
            "options": {o.name: list(o.choices) for o in self.spec.options},
            "gradients": list(self.gradients),
            "kernels": [{"name": k.name, "settings": dict(k.settings), "doc": k.description} for k in self.kernels],
        }


def families() -> tuple[Family, ...]:
    """Every packaged spec, by name."""
    defects = _defects()
    found = []
    for path in sorted(packaged_specs().glob("*.toml")):
        spec = load_spec(path)
        kernels = tuple(_kernel(file) for file in sorted(path.with_suffix("").glob("*.tile")))
        derived = tuple(t.name for t in spec.outputs if "grad(" in _right_hand_side(spec, t.name))
        found.append(Family(spec, kernels, derived, None if defects is None else defects[spec.name]))
    return tuple(found)


def _kernel(path: Path) -> Kernel:
    lines = path.read_text(encoding="utf-8").splitlines()
    description = lines[2].removeprefix("#").strip() if len(lines) > 2 and lines[2].startswith("#") else ""
    return Kernel(path.stem, tuple(wanted_settings(lines[0]).items()), description)


def _right_hand_side(spec: Spec, name: str) -> str:
    """The line of the spec's own text that defines an output."""
    lines = (line.strip() for line in spec.source.splitlines())
    return next((line.partition("]")[2] for line in lines if line.startswith(f"{name}[") and "=" in line), "")


def _defects() -> Counter[str] | None:
    if not REFUTED.is_dir():
        return None
    firsts = (path.read_text(encoding="utf-8").split("\n", 1)[0].split() for path in REFUTED.glob("*.tile"))
    return Counter(words[2] for words in firsts if len(words) > 2)


def page() -> str:
    found = families()
    rows = [
        f"| [{f.spec.name}](#{f.spec.name}) | {_cell(f.spec.doc)} | {', '.join(t.name for t in f.spec.outputs)} "
        f"| {len(f.kernels) or 'composed'} | {f.defects or ''} |"
        for f in found
    ]
    parts = [HEAD, "| spec | formula | outputs | kernels | defects |", "|---|---|---|---|---|", *rows, ""]
    for f in found:
        parts += [f"## {f.spec.name}", "", f.spec.doc]
        if f.gradients:
            parts.append(f"Derived from the forward definition: {', '.join(f.gradients)}.")
        parts.append("")
        parts += [f"- `{k.name}`{_for(k)}: {k.description}" for k in f.kernels]
        parts += [""] if f.kernels else []
    return "\n".join(parts).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _for(kernel: Kernel) -> str:
    return f" ({', '.join(f'{n} = {v}' for n, v in kernel.settings)})" if kernel.settings else ""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(families())} specs")


if __name__ == "__main__":
    main()
