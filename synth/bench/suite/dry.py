"""What a run would do: rows, contenders, work and a guess at the time. Predictions, no measurements."""

from __future__ import annotations

from typing import Any

import torch

from synth.bench.formula import NotInTorch, evaluator
from synth.bench.roofline import traffic_bytes
from synth.bench.suite.contenders import Call, contenders
from synth.bench.suite.grid import Item
from synth.bench.suite.inputs import integers
from synth.bench.suite.run import Options, predicted
from synth.bench.suite.work import work


def planned(items: list[Item], options: Options) -> list[dict[str, Any]]:
    """For every row its title, sizes, operations, bytes, contenders and predicted seconds."""
    cpu = torch.device("cpu")
    found = []
    for item in items:
        bound, sizes = item.group.bound, dict(item.shape.sizes)
        try:
            given = integers(bound, sizes, cpu, options.seed)
            flops = work(bound, item.group.gradients, sizes, evaluator(bound, sizes, given, device=cpu)).flops
        except NotInTorch:
            flops = 0.0
        call = Call(item.group, sizes, {}, options.device, options.versions)
        found.append(
            {
                "title": item.title,
                "kind": item.shape.kind,
                "sizes": sizes,
                "flops": flops,
                "bytes": traffic_bytes(bound, sizes),
                "contenders": [c.name for c in contenders(call)],
                "seconds": predicted(item, options),
            }
        )
    return found
