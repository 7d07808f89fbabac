"""Which checker gave a verdict: one digest over everything that can change one.

That is every file of `ir/` and `verifier/`, trusted or not, Python, Z3 and the libraries a proof passes through.
Verdicts kept under one digest are never taken for those of another checker.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ir
import verifier
from synth import __version__

PROVING = ("z3-solver", "lark", "sympy", "numpy")
RUNNING = ("torch", "triton")


@cache
def checker() -> str:
    """SHA-256 in hex. Deterministic for one installation; a comment changed in a file changes it."""
    found = hashlib.sha256(platform.python_version().encode())
    for name in PROVING:
        found.update(f"\n{name} {version(name)}".encode())
    for package in (ir, verifier):
        root = Path(str(package.__file__)).parent
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".lark")):
            found.update(f"\n{package.__name__}/{path.relative_to(root)}\n".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def versions() -> dict[str, str]:
    """What a run was made with, for its record; libraries that are not installed are left out."""
    found = {"synth": __version__, "python": platform.python_version()}
    for name in (*PROVING, *RUNNING):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
