"""The hardware sheet of a target: what a writer of kernels has to know of the machine, on one page.

Every number comes from the tables the benchmarks and the compiler's reports use (`synth.bench.hardware`,
`lowering.occupancy`).
"""

from __future__ import annotations

from lowering.occupancy import PROCESSORS, Processor, occupancy, warps_of
from synth.bench.hardware import TERA, Device, device_of

# Seen in what Triton 3.7 compiles from an online softmax (machine code and resource reports) for each target.
TRITON = {
    "sm_80": (
        "dot becomes mma.sync of 16x8x16; any num_warps works, 4 or 8 are usual.",
        "loads in a loop with a dot go through shared memory by asynchronous copies, num_stages deep.",
        "warp_specialize has no effect.",
    ),
    "sm_90": (
        "dot becomes wgmma where its tile has 64 rows or more and num_warps is 4 or 8; with 32 rows or 2 warps it "
        "falls back to mma.sync, at about half the rate.",
        "loads in a loop with a dot go through shared memory by asynchronous copies, num_stages deep; by TMA, in fewer "
        "registers, where a tile's indices are scalars plus arange in the tensor's order of dimensions and its mask is "
        "its own length alone (i < M): mask loads by the tensor's length and cut the rest from the scores.",
        "warp_specialize = true takes effect with num_warps = 4 where one loop has the products, each of 128 rows or "
        "more and fewer than 256 columns, on tiles that go by TMA: 12 warps of at most 168 registers, two groups with "
        "half of the rows each.",
    ),
    "sm_100": (
        "dot becomes tcgen05.mma where its tile has 64 rows or more and num_warps is 4 or 8, with the accumulator in "
        "tensor memory; with 32 rows or 2 warps it falls back to mma.sync.",
        "loads in a loop with a dot go through shared memory by asynchronous copies, num_stages deep; by TMA, in fewer "
        "registers, where a tile's indices are scalars plus arange in the tensor's order of dimensions and its mask is "
        "its own length alone (i < M): mask loads by the tensor's length and cut the rest from the scores.",
        "warp_specialize has no effect.",
    ),
    "gfx942": (
        "dot becomes mfma of 32x32x8; a wave has 64 lanes, so num_warps = 4, which is 128 lanes, runs as 2 waves.",
        "shared memory is small: 2 or 3 stages of 64x64 tiles fill it.",
        "warp_specialize and maxnreg have no effect.",
    ),
}
TILES = ((64, 64, 4), (128, 64, 4), (128, 64, 8), (128, 128, 8))  # rows, columns of an f32 accumulator, warps


def sheet(target: str) -> str:
    """The sheet of a target, a page of text. Raises KeyError for an unknown target."""
    device, processor = device_of(target), PROCESSORS[target]
    lines = [
        f"Hardware: {target} (figures of the {device.name}; data sheets and programming guides of its maker)",
        *_rates(device),
        *_room(device, processor),
        "What Triton makes of a kernel here:",
        *(f"- {line}" for line in TRITON[target]),
        "- a dot wants 16 or more of each extent; f32 operands are multiplied exactly, without tensor cores.",
        "- exp2 is one instruction, exp one and a multiplication, tanh two and more; a float division is about ten.",
        *_schedule(target, processor),
    ]
    return "\n".join(lines) + "\n"


def _rates(device: Device) -> list[str]:
    each = device.half / device.processors / device.clock
    exponentials = device.exponentials * device.processors * device.clock
    balance = device.half / device.memory
    per_score = {d: (1 / device.exponentials) / (4 * d / each) for d in (64, 128)}
    return [
        f"- {device.processors} processors at {device.clock / 1e9:.2f} GHz; tensor cores {device.half / TERA:.0f} "
        f"TFLOP/s dense at 16 bits ({each:.0f} operations a clock and processor), plain float32 "
        f"{device.single / TERA:.3g} TFLOP/s.",
        f"- exponentials: {device.exponentials} a clock and processor, {exponentials / TERA:.2g} T/s. Attention "
        "has 4 * D tensor operations for each score; the score's exponential alone takes "
        f"{100 * per_score[64]:.0f} % of the tensor cores' time for them at D = 64, {100 * per_score[128]:.0f} % at "
        "D = 128: overlap the two, and keep other work per score small.",
        f"- memory {device.memory / TERA:.3g} TB/s, last-level cache {device.cache // 2**20} MiB: below "
        f"{balance:.0f} operations a byte memory is the limit (decoding, norms, losses); above it, the dots.",
    ]


def _room(device: Device, p: Processor) -> list[str]:
    return [
        f"- one processor holds {p.registers} registers, {p.shared // 1024} KiB of shared memory (a program at most "
        f"{(p.shared - p.shared_reserved) // 1024}), {p.warps} warps of {p.lanes} lanes, {p.blocks} programs.",
        f"- a grid needs {device.processors} programs to use the machine at all, and several for each processor to "
        "even out programs of different length.",
    ]


def _schedule(target: str, p: Processor) -> list[str]:
    lines = [
        "Schedule of a kernel (cannot change a result): num_warps 1, 2, 4, 8, 16; num_stages 1 to 8; "
        "maxnreg 24 to 255; warp_specialize; persistent; offset_bits; skip_ones.",
        "- shared memory holds the dots' operands that come from memory: those loaded in the loop num_stages times, "
        "those loaded before it once; rows * columns * 2 bytes each at 16 bits.",
        "- an f32 accumulator takes rows * columns / (num_warps * 32) registers a lane; scores of the same shape as "
        "much again; above 255 in all they spill:",
    ]
    for rows, columns, warps in TILES:
        waves = warps_of(warps, p.lanes)
        each = rows * columns // (waves * p.lanes)
        used = min(255, 2 * each + 48)  # scores and accumulator of that shape, and about 48 for all else
        fit = round(occupancy(target, used, 0, waves) * p.warps / waves)
        lines.append(
            f"  {rows}x{columns}, {warps} warps: {each} registers a lane; with scores of that shape about {used}, "
            f"so {fit} resident by registers"
        )
    return lines
