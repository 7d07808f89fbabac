"""The product: commands, the proposer, the prove-and-run pipeline and its benchmarks.

`synth.load(CERT, backward=CERT)` is certified attention for PyTorch (lowering.sdpa); nothing heavy is imported
before it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowering.sdpa import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from lowering.sdpa import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
