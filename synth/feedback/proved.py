"""A proved candidate: what it takes on the target, how fast it is, and what to try next."""

from __future__ import annotations

from ir.program import Program
from ir.spec import Bound
from synth.search.tried import Tried


def proved(tried: Tried, program: Program | None, bound: Bound) -> list[str]:
    lines = ["All obligations are proved for all sizes."]
    if tried.problem:
        lines += ["It got no further:", *(f"  {line}" for line in tried.problem.strip().splitlines()[-8:])]
    if tried.built is not None:
        for r in tried.built.resources:
            lines.append(
                f"  {r['kernel']} on {r['target']}: {r['registers']} registers, {r['spills']} bytes spilled, "
                f"{r['shared'] / 1024:.0f} KiB shared memory, occupancy {100 * r['occupancy']:.0f} %"
            )
    timed = tried.long or tried.short
    if timed is not None and timed.measurements:
        lines.append(f"Measured on {timed.device}:")
        for m in timed.measurements:
            part = "" if m.share is None else f", {100 * m.share:.1f} % of roofline"
            lines.append(f"  {m.shape}: {m.seconds * 1e3:.4g} ms, {m.tflops:.3g} TFLOP/s{part}")
    return lines
