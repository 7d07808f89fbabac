"""The machine a benchmark ran on: what it is, what state it was in, and what it can do at most, measured.

Only asked, never set: clocks, power and temperature are read from nvidia-smi where it is there.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from synth.bench.suite.clock import measure, ready

ROOT = Path(__file__).parents[3]
STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_event_reasons.active", "utilization.gpu")
FIXED = ("name", "driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit", "memory.total")


def machine(device: torch.device) -> dict[str, Any]:
    """Names, versions and limits."""
    found: dict[str, Any] = {
        "device": "CPU",
        "host": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _commit(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "processors": properties.multi_processor_count,
            "memory": properties.total_memory,
            "cache": getattr(properties, "L2_cache_size", None),
            "cuda": torch.version.cuda or torch.version.hip,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "smi": _smi(FIXED),
        }
    return found


def state(device: torch.device) -> dict[str, str]:
    """Clocks (MHz), temperature (C) and power (W) now; empty without nvidia-smi."""
    return _smi(STATE) if device.type == "cuda" else {}


def ceilings(device: torch.device, seed: int) -> dict[str, float]:
    """Bytes a second of a large copy (read and written), operations a second of a large bf16 matrix product."""
    large = device.type == "cuda"
    data = torch.empty((2**30 if large else 2**25), dtype=torch.uint8, device=device).random_()
    to = torch.empty_like(data)
    n = 8192 if large else 512
    generator = torch.Generator(device=device).manual_seed(seed)
    a, b = (torch.randn(n, n, generator=generator, device=device, dtype=torch.bfloat16) for _ in range(2))
    runs = {"copy": ready(lambda: to.copy_(data), device), "matmul": ready(lambda: a @ b, device)}
    times = measure(runs, device, seed, 0.2)
    return {"copy": 2 * data.numel() / times["copy"].median, "matmul": 2 * n**3 / times["matmul"].median}


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    if not shutil.which("git"):
        return None
    said = _said(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"])
    return said.strip() or None


def _smi(fields: Sequence[str]) -> dict[str, str]:
    """Fields by name; one that this driver does not know is left out."""
    if not shutil.which("nvidia-smi"):
        return {}
    found: dict[str, str] = {}
    index = torch.cuda.current_device()
    for names in (fields, *([name] for name in fields)):
        command = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
        if said := _said(command):
            found |= dict(zip(names, (value.strip() for value in said.split(",")), strict=False))
            if len(names) > 1:
                break
    return found


def _said(command: Sequence[str]) -> str:
    """What a command prints; nothing where it fails or does not end: no benchmark ends for want of it."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
