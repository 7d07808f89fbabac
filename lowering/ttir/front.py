"""What Triton's front end makes of an emitted module: the text of its first intermediate language.

`python -m lowering.ttir.front` is a process of its own, like the compiler's (`lowering.compile`): modules are executed,
and compilers may crash. It stops after the passes over TTIR, before anything depends on a GPU's layouts, which takes a
tenth of a second a kernel. Locations are left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from lowering.compile import TARGETS, TIMEOUT, CompileError, child_environment, reason, source_of
from lowering.emitted import emitted_module


def texts(source: str, launches: Sequence[Mapping[str, Any]], target: str) -> tuple[str, ...]:
    """The TTIR of every launch's kernel, in order. Raises CompileError."""
    request = json.dumps({"source": source, "launches": list(launches), "target": target})
    command = [sys.executable, "-m", "lowering.ttir.front"]
    try:
        done = subprocess.run(
            command, input=request, env=child_environment(interpret=False), capture_output=True, text=True,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise CompileError(f"Triton's front end took longer than {TIMEOUT:.0f} s") from late
    if done.returncode:
        raise CompileError(f"Triton's front end failed: {reason(done.returncode, done.stderr)}")
    return tuple(json.loads(done.stdout))


def text(module: ModuleType, launch: Mapping[str, Any], target: str) -> str:
    """In the process: one kernel's."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend

    source, machine = source_of(module, launch), GPUTarget(*TARGETS[target])
    backend = make_backend(machine)
    schedule = launch["schedule"]
    options = backend.parse_options({"num_warps": schedule["num_warps"], "num_stages": schedule["num_stages"]})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    generate = backend.get_codegen_implementation(options)
    made = source.make_ir(machine, options, generate, backend.get_module_map(), context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    return str(stages["ttir"](made, {}).str_nodebug())


def main() -> None:
    request = json.loads(sys.stdin.read())
    module = emitted_module(request["source"])
    print(json.dumps([text(module, launch, request["target"]) for launch in request["launches"]]))


if __name__ == "__main__":
    main()
