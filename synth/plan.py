"""What decides the course of a run, and where it is carried out: a plan is kept in the run's state, a place is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ir.loader import bind, parse_spec
from ir.spec import Bound
from synth.propose.model import Example, ModelSettings
from synth.search.budget import Limits
from synth.workers import Pool, open_pool

OPENING = 6  # shipped and composed kernels tried before the search sets in


@dataclass(frozen=True, slots=True)
class Plan:
    """What decides a run's course. `max_candidates` counts honest ones, of which the first `opening` are shipped or
    composed; `examples` are certified kernels that a model is shown."""

    bound: Bound
    target: str
    limits: Limits
    max_candidates: int = OPENING
    opening: int = OPENING
    mutate: bool = False
    seed: int = 0
    arm: str = "guided"
    model: ModelSettings | None = None
    examples: tuple[Example, ...] = ()

    def to_json(self) -> dict[str, Any]:
        spec = self.bound.spec
        rest = {
            name: getattr(self, name)
            for name in ("target", "max_candidates", "opening", "mutate", "seed", "arm")
        }
        return {
            "spec": {"path": spec.path, "text": spec.source},
            "settings": dict(self.bound.settings),
            "limits": asdict(self.limits),
            "model": asdict(self.model) if self.model is not None else None,
            "examples": [asdict(e) for e in self.examples],
            **rest,
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Plan:
        """The plan of a recorded run. Raises SourceError when its spec is not accepted any more."""
        rest = dict(value)
        spec, settings = rest.pop("spec"), rest.pop("settings")
        model = rest.pop("model")
        return Plan(
            bind(parse_spec(spec["text"], spec["path"]), settings),
            limits=Limits(**rest.pop("limits")),
            model=ModelSettings(**model) if model is not None else None,
            examples=tuple(Example(**e) for e in rest.pop("examples")),
            **rest,
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is carried out. `out` holds the run folder; `db` is a database URL; `ray` a cluster's address, or
    None for `workers` processes of this machine; `cache` lets verdicts of earlier runs answer."""

    out: Path
    db: str
    workers: int = 1
    ray: str | None = None
    cache: bool = True

    def pool(self, bound: Bound) -> Pool:
        return open_pool(bound, self.workers, self.ray)
