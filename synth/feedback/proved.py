"""A proved candidate: what it takes on the target, how fast it is, where the time goes, and what to try next.

Times are said to be predicted (the static cost model, `synth.bench.cost`) or measured, and where. What to try follows
from the dominating bound and from what the program is seen to do; each suggestion names the number it is made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ir.program import Dot, DType, Expr, For, Program, Reduce, Select, Unary
from ir.spec import Bound, Shapes
from lowering.occupancy import PROCESSORS, occupancy
from synth.bench.cost import Part, Prediction, predict
from synth.bench.counts import walk
from synth.bench.hardware import Device, device_of
from synth.bench.roofline import Peak, share, traffic_bytes, work_flops
from synth.feedback.refuted import statements
from synth.propose import NothingToPropose
from synth.search.tried import Tried

SHAPES = 3  # predicted at that many of the spec's search shapes
TRY = 3  # suggestions
STOPPED = 8  # lines of a compiler's message, the last ones
LEAN = 32  # registers a lane that limit nothing
WORDS = {
    "tensor": "tensor cores", "exponential": "exponentials and lane arithmetic", "memory": "memory",
    "latency": "waiting (latency, too few programs, phases that do not overlap)",
}  # fmt: skip


def proved(tried: Tried, program: Program | None, bound: Bound) -> list[str]:
    report = tried.proof.report
    if report is not None and report.requires:
        return [
            f"All obligations are proved, but only for sizes where {' and '.join(report.requires)}.",
            "A kernel must be right at every size the spec admits: take out `require`, put back the masks and tails",
            "that the other sizes need, and submit the whole file again. Even sizes get a version of their own later.",
        ]
    lines = ["All obligations are proved for all sizes."]
    if tried.problem:
        return [*lines, *_stopped(tried)]
    checked = tried.checked
    if checked is not None:
        lines.append(f"The emitted Triton agrees with the reference in {checked.cases} runs on ragged shapes.")
    resources = tried.built.resources if tried.built is not None else ()
    target = str(resources[0]["target"]) if resources else bound.spec.target
    lines += [f"  {text}" for text in _resources(resources)]
    if program is None or target not in PROCESSORS:
        return [*lines, *_measured(tried, {}, "")]
    from synth.bench.timing import chosen_shapes  # brings PyTorch, which telling of a refutation does not need

    device = device_of(target)
    shapes = chosen_shapes(bound, "search")[:SHAPES]
    predicted = [(s, predict(program, bound, dict(s.sizes), target, resources)) for s in shapes]
    if predicted:
        assumed = "" if resources else "; not compiled yet, so registers are assumed"
        lines.append(f"Predicted for {target} ({device.name}) by the static cost model, not measured{assumed}:")
        lines += [f"  {_predicted(shape, found, bound, device)}" for shape, found in predicted]
    lines += _measured(tried, {s.sizes: p.seconds for s, p in predicted} if resources else {}, device.name)
    if predicted:
        found = max((p for _, p in predicted), key=lambda p: p.seconds)
        sizes = dict(next(s for s, p in predicted if p is found).sizes)
        worst = max(found.kernels, key=lambda k: k.seconds)
        where = (
            f"; {100 * worst.seconds / found.seconds:.0f} % of it in {worst.kernel}" if len(found.kernels) > 1 else ""
        )
        lines.append(f"By that model what takes most of the time is {WORDS[found.bound]}{where}.")
        ideas = list(_ideas(found, worst, program, bound, sizes, device, _entry(resources, program, worst)))[:TRY]
        lines += [*(["Worth trying:"] if ideas else []), *(f"  - {idea}" for idea in ideas)]
    return lines


def _stopped(tried: Tried) -> Iterator[str]:
    """Which stage after the proof it did not pass, and what usually helps."""
    if tried.built is not None and tried.built.problem:
        stage = "It does not compile for the target:"
        help = "smaller tiles, fewer stages or more warps; every extent of a dot at least 16"
    elif tried.checked is not None and tried.checked.problem:
        stage = "The Triton emitted for it failed the cross-check against the reference interpreter:"
        help = "this is a defect below the language, not of the kernel: write the same in other operations or tiles"
    else:
        stage = "It could not be timed:"
        help = "smaller tiles or fewer kernels, so that it runs within the limit"
    yield stage
    yield from (f"  {line}" for line in tried.problem.strip().splitlines()[-STOPPED:])
    yield f"What usually helps: {help}."


def _resources(resources: tuple[dict[str, Any], ...]) -> Iterator[str]:
    for r in resources:
        warps = PROCESSORS[r["target"]].warps
        resident = round(r["occupancy"] * warps / r["warps"])
        yield (
            f"{r['kernel']} on {r['target']}: {r['registers']} registers a lane, {r['spills']} bytes spilled, "
            f"{r['shared'] / 1024:.0f} KiB shared memory, {r['warps']} warps; {resident} resident on a "
            f"processor, occupancy {100 * r['occupancy']:.0f} %; {r['tensor_core']} tensor-core and "
            f"{r['exponentials']} exponential instructions"
        )


def _predicted(shape: Shapes, found: Prediction, bound: Bound, device: Device) -> str:
    parts = {"tensor cores": found.tensor, "exponentials and lanes": found.exponential, "memory": found.memory}
    busy = ", ".join(f"{name} {100 * part / found.seconds:.0f} %" for name, part in parts.items())
    best = _share(bound, dict(shape.sizes), found.seconds, device)
    return f"{shape.name}: {found.seconds * 1e3:.4g} ms{best}; busy: {busy}"


def _share(bound: Bound, sizes: Mapping[str, int], seconds: float, device: Device) -> str:
    """The share of the device's roofline for the spec's own work."""
    peak = Peak(device.single if bound.inputs[0][1] is DType.F32 else device.half, device.memory, device.name)
    try:
        flops = work_flops(bound, sizes)
    except (NothingToPropose, ValueError):
        return ""
    return f", {100 * share(flops, traffic_bytes(bound, sizes), seconds, peak):.0f} % of roofline"


def _measured(tried: Tried, predicted: Mapping[tuple[tuple[str, int], ...], float], device: str) -> Iterator[str]:
    timed = tried.long or tried.short
    if timed is None or not timed.measurements:
        return
    rung = "all shapes, many calls" if tried.long is not None else "first shape, few calls"
    cpu = ", whose times do not tell how fast it is on a GPU" if timed.device == "CPU" else ""
    yield f"Measured on {timed.device}{cpu} ({rung}):"
    for m in timed.measurements:
        part = "" if m.share is None else f", {100 * m.share:.1f} % of roofline"
        known = predicted.get(m.sizes) if device and device in timed.device else None
        ratio = "" if known is None else f"; {m.seconds / known:.2g} times the prediction"
        yield f"  {m.shape}: {m.seconds * 1e3:.4g} ms, {m.tflops:.3g} TFLOP/s{part}{ratio}"


def _entry(resources: tuple[dict[str, Any], ...], program: Program, part: Part) -> dict[str, Any] | None:
    """What the compiler said of one kernel."""
    names = [k.name for k in program.kernels]
    return resources[names.index(part.kernel)] if len(resources) == len(names) else None


# ---- what to try ------------------------------------------------------------------------------------


def _ideas(
    found: Prediction,
    worst: Part,
    program: Program,
    bound: Bound,
    sizes: Mapping[str, int],
    device: Device,
    compiled: dict[str, Any] | None,
) -> Iterator[str]:
    """Suggestions for the kernel that takes longest, most promising first."""
    if compiled is not None and compiled["spills"]:
        yield f"{compiled['spills']} bytes spill: smaller tiles, more warps, or fewer values alive in the loop"
    extra = _extra_work(found, bound, sizes)
    if extra > 1.2:
        yield (
            f"its dots do {extra:.2g} times the formula's work: skip blocks that the mask hides whole, recompute less, "
            "pad less"
        )
    kernel = next(k for k in program.kernels if k.name == worst.kernel)
    inner = [s for s in statements(kernel.body) if isinstance(s, For)]
    body = [e for loop in inner for s in statements(loop.body) for e in _parts(s)]
    rows = [d.left.type.shape[0] for d in body if isinstance(d, Dot)]
    narrow = device.target in ("sm_90", "sm_100") and rows and min(rows) < 64
    if narrow and worst.tensor > 0.25 * worst.seconds:  # else the rate of dots matters little
        yield f"a dot of {min(rows)} rows runs at half the rate on {device.target}: 64 rows or more for every 4 warps"
    if worst.programs < device.processors:
        yield f"{worst.programs} programs for {device.processors} processors: split the keys or rows over more programs"
    if worst.bound == "exponential":
        yield from _fewer_lane_operations(body)
    if worst.bound == "memory":
        own = found.bytes / max(1.0, traffic_bytes(bound, sizes))
        if own > 1.2:
            yield f"it moves {own:.2g} times the inputs and outputs: larger row tiles, or heads of a group together"
        else:
            yield "it moves little more than inputs and outputs: only fewer passes or wider loads can help"
    if worst.bound == "latency" and compiled is not None:
        yield from _more_overlap(compiled, kernel.schedule.num_stages, bool(rows))
    if worst.bound == "latency" and worst.exponential > worst.tensor:
        yield from _fewer_lane_operations(body)
    if worst.bound == "tensor":
        yield "the tensor cores are the limit: larger tiles (128 rows, 8 warps) keep them fed"


def _extra_work(found: Prediction, bound: Bound, sizes: Mapping[str, int]) -> float:
    """The program's dots over the formula's contractions; 0 where that is not known."""
    try:
        work = work_flops(bound, sizes)
    except (NothingToPropose, ValueError):
        return 0.0
    return found.flops / work if work else 0.0


def _parts(s: object) -> Iterator[Expr]:
    for name in ("value", "mask"):
        e = getattr(s, name, None)
        if e is not None:
            yield from walk(e)


def _fewer_lane_operations(body: list[Expr]) -> Iterator[str]:
    if any(isinstance(e, Unary) and e.op == "exp" and len(e.type.shape) == 2 for e in body):
        yield "exp costs a multiplication more than exp2: fold scale * log2e into the scores once and use exp2"
    if any(isinstance(e, Select) and len(e.type.shape) == 2 for e in body):
        yield "the loop masks whole tiles: run full blocks in a loop without where(), and only the last ones with it"
    if any(isinstance(e, Dot) and e.acc is not None for e in body) and any(isinstance(e, Reduce) for e in body):
        yield "rescale the accumulator only when the maximum has grown by more than a bound (lazy rescaling)"


def _more_overlap(compiled: Mapping[str, Any], stages: int, dots: bool) -> Iterator[str]:
    target, registers, shared, warps = (compiled[k] for k in ("target", "registers", "shared", "warps"))
    here = occupancy(target, registers, shared, warps)
    room = PROCESSORS[target].shared // 1024
    few = f"registers ({registers} a lane)"
    much = f"shared memory ({shared // 1024} KiB of {room})"
    full = occupancy(target, LEAN, shared, warps) <= here  # more programs do not fit, however few registers they take
    if occupancy(target, registers, 0, warps) > here:
        yield f"{much} limits how many programs are resident: narrower tiles in the loop, or fewer than {stages} stages"
    elif not full:
        yield f"{few} limit how many programs are resident: smaller row tiles, more warps for one tile, or maxnreg"
    elif occupancy(target, LEAN, 0, warps) > here:
        yield f"{few} and {much} both limit how many programs are resident: smaller tiles"
    if not dots:
        yield "a loop without a dot waits for its loads in every iteration: wider tiles, fewer passes, more programs"
        return
    if stages < 3 and not full:
        yield f"num_stages = {stages + 1} loads one tile further ahead"
    yield "independent work between two dots (two row tiles in one program, or a block split in halves) fills the gaps"
