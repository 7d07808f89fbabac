"""A GPU that is not there: Triton's launcher over a stub of the CUDA driver, and CPU tensors that say they are on it.

`stub_device(folder)` builds `libcuda.c` beside this file and puts it where Triton looks for the driver. All above the
driver call is then real: our launcher, Triton's compiler and JIT, its launcher in C, the encoding of tensor maps.
What is pretended is one place each: `torch.cuda`, which a CPU build of torch has no device for; where a tensor says it
is; and the driver, which computes nothing but checks a launch and writes down what it was asked.

In a process of its own only: the library stays loaded.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

SOURCE = Path(__file__).with_name("libcuda.c")
STREAM = 0x57  # what the launcher must pass on
CUDA = torch.device("cuda", 0)


class OnTheStub(TorchFunctionMode):
    """Tensors in the CPU's memory that say they are on a GPU; `made` counts those asked for by device."""

    made = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return CUDA
        if function == torch.Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return True
        given = dict(kwargs or {})
        if "device" in given:
            given["device"] = "cpu"
            self.made += 1
        return function(*args, **given)


class Finished:
    """An event of a device that computes nothing."""

    def record(self, stream: object) -> None:
        pass

    def query(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Stub:
    """`log`: what the driver was asked, an object a line; `quiet`: whether it writes that down."""

    log: Path
    tensors: OnTheStub
    quiet: ctypes.c_int

    @property
    def made(self) -> int:
        return self.tensors.made

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [found for line in lines if (found := json.loads(line))["event"] == kind]

    def microseconds(self, launch: Callable[[], None], times: int = 200) -> float:
        """What a launch takes of this thread's time before the driver's part, in the median."""
        self.quiet.value = 1
        found = []
        try:
            with torch._C.DisableTorchFunction():  # pretending where tensors are takes time, too
                for _ in range(times):
                    begin = time.thread_time_ns()
                    launch()
                    found.append(time.thread_time_ns() - begin)
        finally:
            self.quiet.value = 0
        return statistics.median(found) / 1e3

    def loaded(self) -> list[str]:
        """The hash of every binary the driver was given, in order."""
        return [sha256(ctypes.string_at(e["image"], e["bytes"])).hexdigest() for e in self.events("load")]


def compiler() -> str | None:
    """The C compiler that Triton would use for its launcher."""
    return os.environ.get("CC") or next(filter(None, map(shutil.which, ("clang", "gcc", "cc"))), None)


def build(folder: Path) -> Path:
    """The stub as a library in that folder."""
    import triton

    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    out = folder / "libcuda.so.1"
    command = [compiler() or "cc", "-shared", "-fPIC", "-O1", f"-I{include}", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([*command, "-o", str(out), str(SOURCE)], check=True)
    return out


@contextmanager
def stub_device(folder: Path) -> Iterator[Stub]:
    """Inside, Triton and torch see one H200."""
    library = build(folder)
    log = folder / "driver.jsonl"
    os.environ |= {"STUB_DRIVER_LOG": str(log), "TRITON_LIBCUDA_PATH": str(folder)}
    loaded = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver

    cuda = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: SimpleNamespace(multi_processor_count=132, warp_size=32),
        "is_current_stream_capturing": lambda: False,
        "device": lambda device: nullcontext(),
        "current_stream": lambda device: STREAM,
        "Event": Finished,
    }
    on_the_cpu = mock.patch.object(torch, "Generator", lambda device=None, plain=torch.Generator: plain("cpu"))
    with mock.patch.multiple(torch.cuda, **cuda), on_the_cpu, OnTheStub() as tensors:
        found = CudaDriver()
        found.get_current_stream = lambda device: STREAM
        driver.set_active(found)
        yield Stub(log, tensors, ctypes.c_int.in_dll(loaded, "stub_quiet"))


def integer(text: str, signed: bool = True) -> int:
    """A parameter's bytes as an integer."""
    return int.from_bytes(bytes.fromhex(text), "little", signed=signed)


def real(text: str) -> float:
    """A parameter's bytes as a float32."""
    return float(struct.unpack("<f", bytes.fromhex(text))[0])
