"""An emitted Triton module, made from its text in memory.

There is no file that another process could change between the check of a certificate's hash and the first
launch. Standard library only (and Triton, through the emitted text).
"""

from __future__ import annotations

import hashlib
import linecache
from functools import cache
from types import ModuleType


@cache
def emitted_module(source: str) -> ModuleType:
    """The module of this text. Triton reads a kernel's source back through `inspect`, which finds it in
    `linecache` under the module's name."""
    name = f"<emitted kernels {hashlib.sha256(source.encode()).hexdigest()}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    module = ModuleType(name)
    module.__file__ = name
    exec(compile(source, name, "exec"), module.__dict__)
    return module
