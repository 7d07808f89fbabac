"""What tests of rewrites share: golden kernels, what a rewrite makes of a text, and the verdict on it."""

from __future__ import annotations

from pathlib import Path

from ir.loader import bind, load_spec
from ir.parser import parse
from ir.spec import Bound
from ir.typing import check
from synth.propose.rewrites import REWRITES, Subject
from verifier.prove import prove
from verifier.verdict import Verdict

GOLDEN = Path(__file__).parents[1] / "golden" / "proved"
NONE = bind(load_spec("attention"), {"causal": "none", "dtype": "bf16"})
CAUSAL = bind(load_spec("attention"), {"causal": "bottom_right", "dtype": "bf16"})


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.tile").read_text(encoding="utf-8")


def results(rewrite: str, text: str, bound: Bound = NONE) -> list[str]:
    subject = Subject.of(text, bound)
    return list(next(r for r in REWRITES if r.name == rewrite).texts(subject))


def the(rewrite: str, text: str, bound: Bound = NONE) -> str:
    (found,) = results(rewrite, text, bound)
    return found


def verdict(text: str, bound: Bound = NONE) -> Verdict:
    return prove(check(parse(text), bound, text), bound, text, evidence=False).verdict
