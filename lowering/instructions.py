"""Machine instructions, read from a disassembly: what each occupies, how long it takes, where it may jump.

NVIDIA's listing (`cuobjdump -sass`) has two 64-bit words an instruction; bits 41 to 57 of the second are the compiler's
own schedule: cycles until the next instruction may issue, which of six scoreboards a late result is announced on, and
which of them to wait for. AMD's is the assembly text. Every instruction uses one *unit* of a partition (a quarter of a
processor, where one warp lives) for `cycles`; what is not known takes an issue slot and nothing else, so that a new
instruction can make a figure rough and never stops a compilation.

Cycles come from the makers' tables: CUDA programming guide, "Throughput of native arithmetic instructions" (N results a
clock and processor are 128 / N cycles of a partition for a warp); shared memory 128 bytes a clock; matrix instructions
from the dense peak rates. Latencies of late results are rough figures of published microbenchmarks (Luo et al.,
"Dissecting the NVIDIA Hopper architecture", 2025).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

FAR = 700  # cycles until what was asked of memory arrives
SHARED_BYTES = 32  # a clock and partition: 128 of a processor
UNITS = ("fma", "alu", "special", "shared", "tensor")


@dataclass(frozen=True, slots=True)
class Instruction:
    """`op` without modifiers, `text` with them. `unit` one of UNITS or "" and the `cycles` one warp holds it;
    `waits_for`: what a warp stops at here ("dots", "loads", "signal", "barrier"), `left`: how many groups may be
    outstanding, of a barrier the warps that meet (0: all). `flops` of one warp's part of a matrix product, `commits`
    that it ends a group. Control: `stall` cycles, scoreboards `sets` (with `latency`) and `needs`."""

    at: int
    op: str
    text: str
    unit: str = ""
    cycles: float = 0.0
    flops: int = 0
    commits: bool = False
    waits_for: str = ""
    left: int = 0
    stall: int = 1
    sets: tuple[int, ...] = ()
    latency: int = 0
    needs: tuple[int, ...] = ()
    target: int | None = None
    falls: bool = field(default=True)


# ---- NVIDIA ----------------------------------------------------------------------------------------------

LINE = re.compile(
    r"^\s+/\*(?P<at>[0-9a-f]{4,})\*/\s+(?P<text>[^;]*?)\s*;[^\n]*\n\s+/\* 0x(?P<control>[0-9a-f]{16}) \*/", re.M
)
FUNCTION = re.compile(r"^\s*Function : \S+", re.M)
GUARD = re.compile(r"^@(!?)(U?P\w+)\s+")
MATRIX = re.compile(r"^[HIQB]GMMA\.(\d+)x(\d+)x(\d+)")
SMALL_MATRIX = {"16816": (16, 8, 16), "1688": (16, 8, 8), "16832": (16, 8, 32), "1684": (16, 8, 4)}
FMA = {"FFMA", "FMUL", "FADD", "HFMA2", "HMUL2", "HADD2", "FFMA2", "FMUL2", "FADD2"}
INTEGER_MULTIPLY = {"IMAD", "IMUL"}
SPECIAL = {"MUFU", "I2F", "F2I", "FRND", "POPC", "I2FP"}
ALU = {
    "FMNMX", "FMNMX3", "FSEL", "FSET", "FSETP", "FCHK", "SEL", "ISETP", "ISET", "IADD3", "IADD", "LOP3", "LOP", "SHF",
    "SHL", "SHR", "LEA", "PRMT", "F2FP", "F2F", "MOV", "VIADD", "VIADDMNMX", "VIMNMX", "VIMNMX3", "IMNMX", "IABS",
    "SGXT", "BMSK", "P2R", "R2P", "PLOP3", "VABSDIFF", "HSETP2", "HMNMX2", "HSET2", "LEPC", "FLO", "BREV",
}  # fmt: skip
LATENCY = {
    "MUFU": 24, "I2F": 24, "F2I": 24, "SHFL": 26, "LDS": 30, "LDSM": 33, "LDL": 36, "LDG": FAR, "LD": FAR,
    "ATOMG": FAR, "ATOM": FAR, "ATOMS": 60, "LDC": 40, "LDCU": 40, "ULDC": 30, "S2R": 30, "S2UR": 30, "R2UR": 12,
    "HMMA": 34, "LDTM": 40, "VOTE": 12, "BAR": 30, "SYNCS": 20, "ELECT": 12,
}  # fmt: skip
OTHER_LATENCY = 20
READ = 12  # cycles until a store's operands have been read


def read_sass(listing: str, target: str) -> list[Instruction]:
    """The first function's instructions, in address order; empty where the text is no such listing."""
    functions = [m.end() for m in FUNCTION.finditer(listing)]
    text = listing[functions[0] : functions[1] if len(functions) > 1 else None] if functions else listing
    return [_sass(int(m["at"], 16), m["text"], int(m["control"], 16), target) for m in LINE.finditer(text)]


def _sass(at: int, text: str, control: int, target: str) -> Instruction:
    guard = GUARD.match(text)
    guarded = guard is not None and not (guard[2] in ("PT", "UPT") and not guard[1])
    off = guard is not None and guard[2] in ("PT", "UPT") and bool(guard[1])  # @!PT: never runs
    body = text[guard.end() :] if guard else text
    words = body.split(None, 1)
    name, operands = (words[0] if words else ""), (words[1] if len(words) > 1 else "")
    op, *modifiers = name.split(".")
    unit, cycles, flops = ("", 0.0, 0) if off else _unit(op, name, modifiers, operands, target)
    waits_for, left = _waits(op, modifiers, operands)
    bits = control >> 41
    written, read = (bits >> 5) & 7, (bits >> 8) & 7
    target_at, falls = _jump(op, name, operands, guarded)
    return Instruction(
        at, op, body, unit, cycles, flops,
        commits=(op.endswith("GMMA") and "gsb0" in operands) or op in ("UTCBAR", "LDGDEPBAR", "UTMALDG"),
        waits_for=waits_for, left=left, stall=max(1, bits & 15),
        sets=tuple(s for s in (written, read) if s != 7),
        latency=READ if written == 7 else LATENCY.get(op, OTHER_LATENCY),
        needs=tuple(s for s in range(6) if (bits >> 11) >> s & 1),
        target=target_at, falls=falls,
    )  # fmt: skip


def _unit(op: str, name: str, modifiers: list[str], operands: str, target: str) -> tuple[str, float, int]:
    """The unit, the cycles a warp holds it, and FLOPs of a matrix product (2 for a multiply-add)."""
    if matrix := MATRIX.match(name):
        rows, columns, depth = map(int, matrix.groups())
        from_registers = re.match(r"R\d+, R\d+, gdesc", operands) is not None
        read = 32 * ((0 if from_registers else rows) + columns)  # 32 bytes a row, whatever the dtype
        rate = {16: 2048, 8: 1024, 32: 4096}.get(depth, 2048)  # multiply-adds a clock and processor
        return "tensor", max(rows * columns * depth / rate, read / 128), rows * columns * depth // 2
    if op in ("HMMA", "IMMA", "BMMA", "QMMA"):
        m, n, k = next((SMALL_MATRIX[x] for x in modifiers if x in SMALL_MATRIX), (16, 8, 16))
        # mma.sync reaches 62 % of what wgmma does on sm_90 (Luo et al.); 512 operations a clock and partition on sm_80
        return "tensor", 2 * m * n * k / (512 if target == "sm_80" else 640), 2 * m * n * k
    if op in FMA:
        return "fma", 2.0 if target == "sm_80" else 1.0, 0
    if op in INTEGER_MULTIPLY:  # IMAD.MOV and IMAD.SHL are how the compiler moves values through the other unit
        return "fma", 2.0, 0
    if op in SPECIAL:
        return "special", 8.0, 0
    if op in ALU:
        return "alu", 2.0, 0
    if op == "SHFL":
        return "shared", 4.0, 0
    if op in ("LDS", "STS", "LDSM", "STSM", "LDL", "STL", "LDG", "STG", "LD", "ST", "LDGSTS", "RED", "REDG", "ATOMG"):
        return "shared", _bytes(op, modifiers) * 32 / SHARED_BYTES, 0
    return "", 0.0, 0


def _bytes(op: str, modifiers: list[str]) -> int:
    """Bytes a lane moves."""
    if op in ("LDSM", "STSM"):
        return 4 * int(modifiers[-1]) if modifiers and modifiers[-1].isdigit() else 4
    for word, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1), ("16", 2)):
        if word in modifiers:
            return size
    return 4


def _waits(op: str, modifiers: list[str], operands: str) -> tuple[str, int]:
    last = operands.rsplit(",", 1)[-1].strip()
    number = int(last, 16) if last.startswith("0x") else 0
    if op == "WARPGROUP" and "DEPBAR" in modifiers:
        return "dots", number
    if op == "DEPBAR" and operands.startswith("SB0"):
        return "loads", number
    if op == "SYNCS" and "PHASECHK" in modifiers:
        return "signal", 0
    if op == "BAR" and "SYNC" in modifiers:
        return "barrier", number // 32 if "," in operands else 0
    return "", 0


def _jump(op: str, name: str, operands: str, guarded: bool) -> tuple[int | None, bool]:
    """Where it may jump, and whether the next instruction may follow. A call is a jump that may also return."""
    if op in ("EXIT", "RET", "BRX", "KILL"):
        return None, guarded
    if op in ("BRA", "CALL", "JMP"):
        found = re.search(r"0x([0-9a-f]+)\s*$", operands)
        conditional = guarded or op == "CALL" or "," in operands
        return (int(found[1], 16) if found else None), conditional
    return None, True


# ---- AMD -------------------------------------------------------------------------------------------------

MFMA = re.compile(r"^v_s?mfmac?_\w+?_(\d+)x(\d+)x(\d+)")
SLOW = ("v_exp", "v_log", "v_rcp", "v_rsq", "v_sqrt", "v_sin", "v_cos")
WIDTH = re.compile(r"(?:_b|_dwordx|_dword)(\d*)")
MATRIX_RATE = 512  # operations a clock and SIMD, 16 bits: 1307 TFLOP/s of 304 processors at 2.1 GHz


def read_amd(listing: str) -> list[Instruction]:
    """Instructions of an AMD assembly text; labels become the position of what follows them."""
    labels: dict[str, int] = {}
    rows: list[str] = []
    for line in listing.splitlines():
        text = line.split(";", 1)[0].strip()
        if text.startswith(".LBB") and text.endswith(":"):
            labels[text[:-1]] = len(rows)
        elif re.match(r"[vs]_|ds_|buffer_|global_|flat_|scratch_", text):
            rows.append(text)
    return list(_amd(rows, labels))


def _amd(rows: list[str], labels: dict[str, int]) -> Iterator[Instruction]:
    for at, text in enumerate(rows):
        name, _, operands = text.partition(" ")
        unit, cycles, flops = _amd_unit(name)
        target, falls = None, name != "s_endpgm"
        if name == "s_branch" or name.startswith("s_cbranch"):
            target, falls = labels.get(operands.strip()), name != "s_branch"
        waits_for = "barrier" if name == "s_barrier" else ""
        left = 0
        if name == "s_waitcnt" and (found := re.search(r"vmcnt\((\d+)\)", operands)):
            waits_for, left = "loads", int(found[1])
        yield Instruction(
            at, name, text, unit, cycles, flops, commits=name.startswith(("buffer_load", "global_load")),
            waits_for=waits_for, left=left, stall=4 if unit in ("shared", "tensor") else max(1, int(cycles)),
            target=target, falls=falls,
        )  # fmt: skip


def _amd_unit(name: str) -> tuple[str, float, int]:
    if matrix := MFMA.match(name):
        m, n, k = map(int, matrix.groups())
        return "tensor", 2 * m * n * k / MATRIX_RATE, 2 * m * n * k
    if name.startswith(SLOW):
        return "special", 16.0, 0
    if name.startswith(("ds_", "buffer_", "global_", "flat_", "scratch_")):
        found = WIDTH.search(name)
        bits = int(found[1]) if found and found[1] else 32
        width = bits // 8 if "_b" in name else 4 * bits if found and found[1] else 4
        return "shared", max(width, 1) * 64 / SHARED_BYTES, 0
    if name.startswith("v_"):
        return "alu" if not name.startswith(("v_fma", "v_mul_f", "v_add_f", "v_pk_")) else "fma", 4.0, 0
    return "", 0.0, 0
