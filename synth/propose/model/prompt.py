"""What a model is told: the texts under prompts/, filled in.

The system prompt is the same, byte for byte, for every request of a run, and its beginning for every run, so that the
API's prompt cache serves it; what differs between conversations stands in the first message. Held-out shapes are in
neither: selection must not see them.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from ir.spec import Bound
from synth.feedback import feedback
from synth.feedback.hardware import sheet
from synth.propose.model.examples import Example
from synth.propose.model.talk import EPHEMERAL
from synth.search.tried import Brief


def text(name: str) -> str:
    """A file under prompts/. Raises FileNotFoundError."""
    return files(__package__).joinpath("prompts", name).read_text("utf-8")


@cache
def _templates() -> Environment:
    return Environment(
        loader=FunctionLoader(text), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )


def rendered(name: str, **given: Any) -> str:
    return _templates().get_template(name).render(given).strip() + "\n"


def system(bound: Bound, target: str, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """The system prompt: the language, then the spec and the hardware, then examples. Two points to cache up to: what
    is the same for all specs, and all of it."""
    blocks = [
        rendered("system.md.j2", language=text("language.md")),
        rendered("spec.md.j2", spec=formula(bound), settings=bound.settings, shapes=bound.spec.search_shapes),
        rendered("hardware.md.j2", target=target, sheet=sheet(target)),
    ]
    if examples:
        blocks.append(rendered("examples.md.j2", examples=examples))
    found: list[dict[str, Any]] = [{"type": "text", "text": block} for block in blocks]
    found[0]["cache_control"] = found[-1]["cache_control"] = EPHEMERAL
    return found


def opening(brief: Brief, turns: int, most: int) -> str:
    """The first message of a conversation."""
    directions = re.findall(r"^- (.+)$", text("directions.md"), re.MULTILINE)
    return rendered(
        "task.md.j2",
        parents=[(t.candidate, feedback(t, brief.bound)) for t in brief.parents],
        inspirations=[(t.candidate, feedback(t, brief.bound)) for t in brief.inspirations],
        direction=random.Random(f"{brief.seed} {brief.step} {brief.slot}").choice(directions),
        turns=turns,
        most=most,
    )


def formula(bound: Bound) -> str:
    """The spec's own text without its benchmark shapes; where they cannot be cut out cleanly, its content as JSON."""
    source = bound.spec.source
    kept = re.sub(r"(?ms)^\[+\s*bench\b.*?(?=^\[+\s*(?!bench\b)[\w\"']|\Z)", "", source).rstrip()
    whole = tomllib.loads(source)
    whole.pop("bench", None)
    try:
        clean = tomllib.loads(kept) == whole
    except tomllib.TOMLDecodeError:
        clean = False
    return kept if clean else json.dumps(whole, indent=1, ensure_ascii=False)
