"""The few-shot library: certified kernels of earlier runs, chosen for a spec, shown to a model before it writes.

Chosen are kernels of the nearest formulas, the fastest and shortest first, and no two that read alike. How near two
formulas are is read off the formulas (which operation is applied to which), never off a spec's name. What is shown is a
suggestion: whatever a model makes of it goes through the gate. A kernel that computes this very formula under these
settings can be left out, so that a search is not handed its answer.

A choice depends on what the database holds, so a run keeps it in its plan, and a replayed run is shown the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from ir.ast import Big, Binary, Call, Element, Expr, Name, Number, Unary
from ir.builder import children
from ir.diagnostics import SourceError
from ir.formulas import settled
from ir.loader import bind, load_spec, packaged_specs, parse_spec
from ir.printer import print_definitions
from ir.spec import Bound
from synth.propose.model.examples import Example
from synth.propose.seeds import seeds
from synth.state.answers import Damaged, verified
from synth.state.leaders import Leader, leaders
from synth.state.run import Run
from synth.state.store import Store
from synth.state.tables import CertificateRow
from verifier.certificate import Certificate

CHARACTERS = 4  # to a token, about
ALIKE = 0.7  # share of lines in common from which two kernels read alike
WINNERS = 3  # of one run


@dataclass(frozen=True, slots=True)
class Entry:
    """A kernel of the library; `near` is from 0 to 1; `speedup` is over standard PyTorch, 0 where not measured."""

    bound: Bound
    name: str
    text: str
    near: float
    speedup: float
    provenance: str

    @property
    def order(self) -> tuple[float, float, int, str]:
        return -round(self.near, 3), -self.speedup, len(self.text), self.text

    @property
    def lines(self) -> frozenset[str]:
        return frozenset(line.strip() for line in self.text.splitlines() if line.strip() and line.strip()[0] != "#")

    def example(self) -> Example:
        settings = ", ".join(f"{name} = {value}" for name, value in self.bound.settings)
        said = f"{self.speedup:.2f} times as fast as standard PyTorch where it was measured." if self.speedup else ""
        return Example(self.name, self.text, self.bound.spec.name, settings, said, self.provenance)


def examples(
    store: Store | None, bound: Bound, limit_tokens: int = 4000, number: int = 3, exclude_same: bool = True
) -> tuple[Example, ...]:
    """At most `number` kernels of at most `limit_tokens` in all, nearest first: certified winners of the runs in
    `store`, or what ships where it has none. Deterministic for what the store holds."""
    kept = list(_winners(store, bound)) if store is not None else []
    chosen: list[Entry] = []
    room = limit_tokens * CHARACTERS
    for entry in sorted(kept or _shipped(bound), key=lambda e: e.order):
        if len(chosen) == number:
            break
        if len(entry.text) > room or (exclude_same and same(entry.bound, bound)):
            continue
        if any(alike(entry.lines, other.lines) >= ALIKE for other in chosen):
            continue
        chosen.append(entry)
        room -= len(entry.text)
    return tuple(entry.example() for entry in chosen)


def same(one: Bound, other: Bound) -> bool:
    """Whether a kernel for the one answers the other: the same formulas, whatever the specs' names and comments say,
    under the same settings."""
    return _answer(one) == _answer(other)


def _answer(bound: Bound) -> tuple[object, ...]:
    return print_definitions(bound.spec.definitions), sorted(bound.settings), bound.outputs


def nearness(one: Bound, other: Bound) -> float:
    """Of the applications of an operation to another that occur in either formula, the share that occur in both."""
    return alike(shape(one), shape(other))


def alike(one: frozenset[str], other: frozenset[str]) -> float:
    """Size of the intersection over that of the union (Jaccard); 0 for two empty sets."""
    return len(one & other) / max(1, len(one | other))


def shape(bound: Bound) -> frozenset[str]:
    """What a formula does, without its names: pairs of an operation and one inside it, options put in."""
    values = {name: value for name, value in bound.settings if isinstance(value, str)}
    return frozenset(pair for d in bound.spec.definitions for pair in _pairs(settled(d.value, values)))


def _pairs(root: Expr) -> Iterator[str]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield _word(node)
        for inner in children(node):
            yield f"{_word(node)}({_word(inner)})"
            stack.append(inner)


def _word(node: Expr) -> str:
    match node:
        case Unary(op) | Binary(op):
            return op
        case Call(function):
            return function
        case Big(kind):
            return kind
        case Element(_, index):
            return f"cell of {len(index)} axes"
        case Name() | Number():
            return "scalar"
        case _:
            return type(node).__name__


# ---- where they come from ---------------------------------------------------------------------------


def _winners(store: Store, bound: Bound) -> Iterator[Entry]:
    for run in store.runs():
        try:
            theirs = bind(parse_spec(run.spec_text, run.spec_path), run.settings)
        except SourceError:
            continue  # a spec of another version of the language
        near = nearness(bound, theirs)
        best = sorted(leaders(run), key=lambda k: k.order)
        for leader in islice((k for k in best if _is_certified(store, run, k)), WINNERS):
            provenance = f"run {run.id}, certificate {leader.certificate}"
            yield Entry(theirs, leader.name, leader.text, near, leader.speedup or 0.0, provenance)


def _is_certified(store: Store, run: Run, leader: Leader) -> bool:
    """Whether its certificate is there as it was issued, and is about this text, spec and settings."""
    with store.read() as session:
        try:
            row = session.get(CertificateRow, leader.certificate)
            found = None if row is None else verified(row.id, Certificate(row.body))
        except Damaged:
            return False
    if found is None:
        return False
    about = found.candidate, found.spec_source, found.settings
    return about == (leader.text, run.spec_text, run.settings)


def _shipped(bound: Bound) -> Iterator[Entry]:
    """Kernels next to the packaged specs, each under its spec's default settings or those its first line names."""
    for path in sorted(packaged_specs().glob("*.toml")):
        theirs = bind(load_spec(path), {})
        near = nearness(bound, theirs)
        for candidate in seeds(theirs):
            where = f"shipped: {path.stem}/{candidate.name}.tile"
            yield Entry(theirs, candidate.name, candidate.text, near, 0.0, where)
