"""A version of a certified program, proved once more from Triton's own intermediate text.

The emitted module goes through Triton's front end; what comes out is lifted to the typed core and put to the gate
against the same spec, as if somebody else had written it. What is proved of it holds for every size, as before, and no
longer rests on the code that emitted the module, nor on Triton's front end: it rests on the meaning of TTIR's
operations (`lowering.ttir.lift`) and on what the compiler does after them. It is shown of the text for contiguous
tensors; where a caller's tensors differ, Triton compiles another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ir.program import Program
from ir.requirements import narrowed
from ir.spec import Bound
from lowering.compile import CompileError
from lowering.ttir.front import texts
from lowering.ttir.lift import Lifted, lift
from lowering.ttir.text import NotLifted
from lowering.versions import Version
from verifier.prove import prove
from verifier.verdict import Report, Verdict

ARGUMENTS = {"tensor", "stride", "box_stride", "descriptor", "size", "parameter", "integer"}


@dataclass(frozen=True, slots=True)
class ReadBack:
    """`verdict`: the gate's, None where there was nothing to put to it; `why` not proved; `idealised`: machine numbers
    that stand for others (log2(e))."""

    version: str
    verdict: Verdict | None
    why: str = ""
    idealised: tuple[str, ...] = ()

    @property
    def proved(self) -> bool:
        return self.verdict is Verdict.PROVED and not self.why


def again(version: Version, program: Program, bound: Bound) -> ReadBack:
    """Read a version back and prove it. `program`: what it was emitted from; `bound`: the spec."""
    if any("protocol" in launch for launch in version.launches):
        return ReadBack(version.name, None, "an asynchronous program: its protocol was checked instead")
    target = (*version.targets(("sm_90", "sm_100", "sm_80", "gfx942")), "sm_90")[0]
    try:
        found = texts(version.source, version.launches, target)
    except CompileError as problem:
        return ReadBack(version.name, None, str(problem))
    return judged(version, found, program, bound)


def judged(
    version: Version, found: Sequence[str], program: Program, bound: Bound, search: bool = True
) -> ReadBack:
    """The gate's word on a version of which Triton's front end made these texts, one a kernel. Without `search` no
    counterexample is looked for."""
    try:
        kernels = _lifted(version, found, program, bound)
    except NotLifted as problem:
        return ReadBack(version.name, None, str(problem))
    lifted = replace(program, kernels=tuple(k.kernel for k in kernels))
    report = prove(lifted, narrowed(bound, program), evidence=False, search=search)
    idealised = tuple(dict.fromkeys(x for k in kernels for x in k.idealised))
    return ReadBack(version.name, report.verdict, _why(report) or overflow(report, kernels), idealised)


def _lifted(version: Version, found: Sequence[str], program: Program, bound: Bound) -> list[Lifted]:
    if len(version.launches) != len(program.kernels):
        raise NotLifted("it launches other kernels than the program has")
    for launch in version.launches:
        if other := {a[0] for a in launch["args"]} - ARGUMENTS:
            raise NotLifted(f"arguments of its own: {', '.join(sorted(other))}")
        if "persistent" in launch:
            raise NotLifted("a persistent grid")
    rows = zip(found, version.launches, program.kernels, strict=True)
    return [lift(text, launch, kernel, program, bound) for text, launch, kernel in rows]


def _why(report: Report) -> str:
    open_ = [r for r in report.results if r.verdict is not Verdict.PROVED]
    return "; ".join(f"{r.id}: {r.residual or r.verdict.value}" for r in open_)


def overflow(report: Report, kernels: list[Lifted]) -> str:
    """32-bit arithmetic where B2 did not show 32 bits to be enough for that kernel."""
    widths, indices = dict(report.widths), dict(report.index_widths)
    for k in kernels:
        if k.narrow and indices.get(k.kernel.name, 64) > 32 or k.narrow_offsets and widths.get(k.kernel.name, 64) > 32:
            return f"{k.kernel.name} computes in 32 bits what is not shown to fit"
    return ""
