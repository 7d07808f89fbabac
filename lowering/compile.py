"""Ahead-of-time compilation: what a kernel costs on a target, without a GPU of that kind.

Decides registers, spills, shared memory, tensor-core instructions and occupancy from the machine code
itself (`cuobjdump`, which ships inside Triton's wheel; the assembly's metadata for AMD). Every call
compiles in a process of its own: a compiler that crashes or does not end is one failed module, not
the end of a run, and the caller's interpreter mode (TRITON_INTERPRET) does not matter. Triton's own
cache directory is used as the user set it.

Compiled for contiguous tensors, rows of a multiple of 16 elements, 16-byte aligned; strides and sizes
below 2^31, the sizes of a launch's "aligned" multiples of 16. Triton compiles again at launch where a
caller's tensors differ.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lowering.emitted import emitted_module
from lowering.hopper.readback import differences, serialised
from lowering.occupancy import occupancy, warps_of
from lowering.phases import code_summary
from lowering.tensormap import shared_layout

TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
POINTERS = {
    "f32": "*fp32", "f16": "*fp16", "bf16": "*bf16", "i32": "*i32", "i64": "*i64", "bool": "*i1",
}  # fmt: skip
TENSOR_CORE = re.compile(r"\b(HGMMA|HMMA|IMMA|IGMMA|QGMMA|UTCHMMA|UTCQMMA|UTCIMMA|DMMA|v_s?mfma\w*)")
EXPONENTIAL = re.compile(r"\bMUFU\.EX2|\bv_exp_f32")
BOX_MOVED = re.compile(r"\bUTMA(?:LDG|STG)")
TIMEOUT = 240.0
ANSWER, BEGUN = "compiled ", "--- the next module"  # begin the lines by which the compiling process tells how far it is
Module = tuple[str, Sequence[Mapping[str, Any]]]  # an emitted module's text and its launches


class CompileError(Exception):
    """Triton or the assembler refused a kernel; the message is the compiler's own."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one kernel takes on `target`. `registers` per lane, `spills` (to memory) and `shared` in bytes,
    `warps` after compilation (warp specialisation adds some), `tensor_core`, `exponentials` and `tma` (boxes loaded or
    stored) count instructions in the machine code, `occupancy` is resident warps over the most possible. `code` says
    what its loops do (`lowering.phases`), None where the machine code could not be read. `tensor_memory` in columns of
    sm_100's 512; `scalar_spills`: scalar registers that AMD keeps in lanes of vector ones. `persistent`: its outermost
    loop is one over turns (`lowering.persistent`)."""

    kernel: str
    target: str
    registers: int
    spills: int
    shared: int
    warps: int
    tensor_core: int
    exponentials: int
    tma: int
    occupancy: float
    warp_specialized: bool
    seconds: float
    binary_sha256: str
    assembly_sha256: str
    triton: str
    code: dict[str, Any] | None = None
    tensor_memory: int = 0
    scalar_spills: int = 0
    persistent: bool = False


def compile_kernels(
    source: str, launches: Sequence[Mapping[str, Any]], target: str, timeout: float = TIMEOUT
) -> tuple[Resources, ...]:
    """Compile every launch's kernel of an emitted module for one of TARGETS, in order.

    `launches` as `lowering.plan.launches_of` gives them; `timeout` in seconds for all of them. Raises
    CompileError with the compiler's message, also when the compiler crashes or takes too long, and when
    a kernel compiles but cannot be resident on the target.
    """
    (found,) = compile_modules([(source, launches)], target, timeout)
    if isinstance(found, CompileError):
        raise found
    return found


def compile_modules(
    modules: Sequence[Module], target: str, timeout: float = TIMEOUT
) -> Generator[tuple[Resources, ...] | CompileError]:
    """What `compile_kernels` gives or raises of each module, as it comes, and `timeout` for each. One process compiles
    them, so that Triton is imported once (most of the time that a small kernel takes); where it fails at one, another
    goes on with the rest."""
    if target not in TARGETS:
        raise CompileError(f"unknown target {target!r}; choose one of {', '.join(TARGETS)}")
    done = 0
    while done < len(modules):
        with closing(_answers(modules[done:], target, timeout)) as answers:
            for found in answers:
                done += 1
                yield found


def _answers(modules: Sequence[Module], target: str, timeout: float) -> Generator[tuple[Resources, ...] | CompileError]:
    """Of one compiling process: after a module it fails at there are none."""
    asked = [{"source": text, "launches": list(launches)} for text, launches in modules]
    command, environment = [sys.executable, "-m", "lowering.compile"], child_environment(interpret=False)
    late = threading.Event()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None

        def give_up() -> None:
            late.set()
            process.kill()

        try:
            for number in range(len(modules)):
                watch = threading.Timer(timeout, give_up)
                watch.start()
                if number == 0:
                    with suppress(BrokenPipeError), process.stdin:
                        process.stdin.write(json.dumps({"target": target, "modules": asked}))
                line = next((line for line in process.stdout if line.startswith(ANSWER)), "")
                watch.cancel()
                if not line:
                    code = process.wait()
                    errors.seek(0)
                    why = reason(code, errors.read().rpartition(BEGUN)[2])
                    message = f"took longer than {timeout:.0f} s" if late.is_set() else f"failed: {why}"
                    yield CompileError(f"compiling for {target} {message}")
                    return
                yield _resident(tuple(Resources(**row) for row in json.loads(line.removeprefix(ANSWER))), target)
        finally:
            watch.cancel()
            process.kill()


def _resident(rows: tuple[Resources, ...], target: str) -> tuple[Resources, ...] | CompileError:
    for r in rows:
        if r.occupancy == 0:
            need = f"{r.warps} warps of {r.registers} registers a lane and {r.shared} bytes of shared memory"
            need += f" and {r.tensor_memory} columns of tensor memory" if r.tensor_memory else ""
            return CompileError(f"{r.kernel} does not fit on {target}: {need}; use smaller tiles or fewer stages")
    return rows


def child_environment(interpret: bool) -> dict[str, str]:
    """The environment of a process that runs our modules, with Triton's interpreter on or off."""
    home = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH", "")])])
    return {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1" if interpret else "0"}


def reason(code: int, stderr: str) -> str:
    """The lines of a compiler's output that say what went wrong."""
    if code < 0:
        return f"the compiler was ended by signal {-code}"
    lines = stderr.strip().splitlines()
    telling = [line.strip() for line in lines if re.search(r"error|Error|Pipeline failed", line)]
    return "\n".join((telling or lines)[-6:])


# ---- in the compiling process ----------------------------------------------------------------


def _signature(launch: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, int], list[int]]:
    """Types, constant arguments and the positions known to be multiples of 16, for contiguous tensors."""
    args = launch["args"]
    last = {a[1]: a[2] for a in args if a[0].endswith("stride")}  # the largest axis comes last
    types: dict[str, str] = {}
    constants: dict[str, int] = {}
    aligned = []
    for position, argument in enumerate(args):
        match argument:
            case ["descriptor", name, dtype, box]:
                types[f"{name} {box}"] = f"tensordesc<{POINTERS[dtype].removeprefix('*')}{json.dumps(box)}>"
            case ["tiles", name, dtype, box]:
                extents = f"{POINTERS[dtype].removeprefix('*')}{json.dumps(box)}"
                types[f"{name} {box}"] = f"tensordesc<{extents},{shared_layout(box, dtype)!r}>"
            case ["tensor", name, dtype]:
                types[name] = POINTERS[dtype]
                aligned.append(position)
            case ["stride" | "box_stride", name, axis] if last[name] == axis:
                types[f"{name}_s{axis}"] = "constexpr"
                constants[f"{name}_s{axis}"] = 1
            case ["stride" | "box_stride", name, axis]:
                types[f"{name}_s{axis}"] = "i32"
                aligned.append(position)
            case ["size", name]:
                types[name] = "i32"
                aligned += [position] if name in launch.get("aligned", ()) else []
            case ["integer", name]:
                types[name] = "i64"
            case ["parameter", name]:
                types[name] = "fp32"
            case _:
                raise CompileError(f"not a kernel argument: {argument}")
    return types, constants, aligned


def source_of(module: ModuleType, launch: Mapping[str, Any]) -> Any:
    """One launch's kernel as Triton's compiler takes it, for contiguous tensors."""
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    function = getattr(module, launch["kernel"])
    language = GluonASTSource if function.is_gluon() else ASTSource
    types, constants, aligned = _signature(launch)
    # The emitted names may carry a suffix; positions are what both sides agree on.
    named = dict(zip(types, function.arg_names, strict=True))
    signature = {named[k]: v for k, v in types.items()}
    attrs = {(position,): [["tt.divisibility", 16]] for position in aligned}
    return language(function, signature, {named[k]: v for k, v in constants.items()}, attrs)


def compile_one(module: ModuleType, launch: Mapping[str, Any], target: str) -> Any:
    """Triton's compiled kernel for one launch (its `asm` holds every stage)."""
    import triton
    from triton.backends.compiler import GPUTarget

    source = source_of(module, launch)
    schedule = launch["schedule"]
    warps = warps_of(schedule["num_warps"], TARGETS[target][2])
    options = {"num_warps": warps, "num_stages": schedule["num_stages"]}
    if schedule["maxnreg"] is not None:
        options["maxnreg"] = schedule["maxnreg"]
    if not schedule.get("fp_fusion", True):
        options["enable_fp_fusion"] = False
    return triton.compile(source, target=GPUTarget(*TARGETS[target]), options=options)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a target's own tools say of a binary: bytes spilled to memory, text of code and assembly."""

    registers: int
    spills: int
    scalar_spills: int
    code: str
    assembly: str


def _nvidia(compiled: Any) -> Machine:
    """From the cubin, by `cuobjdump`."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        tool = knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", cubin.name], check=True, capture_output=True, text=True).stdout
        sass = subprocess.run([tool, "-sass", cubin.name], check=True, capture_output=True, text=True).stdout
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return Machine(found["REG"], found["STACK"] + found["LOCAL"], 0, sass, compiled.asm["ptx"])


def _amd(compiled: Any) -> Machine:
    """From the code object's metadata (AMDGPUUsage, code object V3). gfx942 has one register file for vector and
    accumulation registers, and `vgpr_count` counts both. A vector register that is spilled takes 4 bytes of a lane's
    private segment; a scalar one goes to a lane of a vector register, which costs no memory."""
    text = compiled.asm["amdgcn"]

    def metadata(key: str) -> int:
        match = re.search(rf"\.{key}:\s+(\d+)", text)
        if match is None:
            raise CompileError(f"the code object's metadata has no {key}: Triton's AMD backend changed")
        return int(match.group(1))

    spills = max(metadata("private_segment_fixed_size"), 4 * metadata("vgpr_spill_count"))
    return Machine(metadata("vgpr_count"), spills, metadata("sgpr_spill_count"), text, text)


def resources(compiled: Any, launch: Mapping[str, Any], target: str, seconds: float) -> Resources:
    """Read what a compiled kernel takes from its machine code. Raises CompileError where the assembler undid what an
    asynchronous program is for."""
    import triton

    cuda = TARGETS[target][0] == "cuda"
    machine = _nvidia(compiled) if cuda else _amd(compiled)
    if "protocol" in launch and serialised(machine.assembly, machine.code):
        raise CompileError(f"{launch['kernel']}: the assembler waits for every product; use smaller tiles")
    binary = compiled.asm["cubin" if cuda else "hsaco"]
    # Warp specialisation adds warps: the launch bound of the assembly is what will really run.
    bound = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", machine.assembly)
    warps = int(bound.group(1)) // 32 if cuda and bound else int(compiled.metadata.num_warps)
    shared = int(compiled.metadata.shared)
    columns = int(getattr(compiled.metadata, "tmem_size", None) or 0)
    return Resources(
        kernel=launch["kernel"],
        target=target,
        registers=machine.registers,
        spills=machine.spills,
        shared=shared,
        warps=warps,
        tensor_core=len(TENSOR_CORE.findall(machine.code)),
        exponentials=len(EXPONENTIAL.findall(machine.code)),
        tma=len(BOX_MOVED.findall(machine.code)),
        occupancy=occupancy(target, machine.registers, shared, warps, columns),
        warp_specialized="ttg.warp_specialize" in compiled.asm["ttgir"],
        seconds=round(seconds, 3),
        binary_sha256=hashlib.sha256(binary).hexdigest(),
        assembly_sha256=hashlib.sha256(machine.assembly.encode()).hexdigest(),
        triton=triton.__version__,
        code=code_summary(machine.code, target),
        tensor_memory=columns,
        scalar_spills=machine.scalar_spills,
        persistent="persistent" in launch,
    )


def main() -> None:
    """Compile the request on standard input; a line of standard output for each module."""
    request = json.loads(sys.stdin.read())
    for asked in request["modules"]:
        print(BEGUN, file=sys.stderr, flush=True)
        print(ANSWER + json.dumps(_rows(asked["source"], asked["launches"], request["target"])), flush=True)


def _rows(source: str, launches: Sequence[Mapping[str, Any]], target: str) -> list[dict[str, Any]]:
    rows = []
    module = emitted_module(source)
    for launch in launches:
        start = time.perf_counter()
        compiled = compile_one(module, launch, target)
        if "protocol" in launch:
            wrong = differences(launch["protocol"], compiled.asm["ttgir"], compiled.asm["ptx"])
            if wrong:
                raise CompileError(f"{launch['kernel']} synchronises otherwise than was checked: {'; '.join(wrong)}")
        rows.append(asdict(resources(compiled, launch, target, time.perf_counter() - start)))
    return rows


if __name__ == "__main__":
    main()
