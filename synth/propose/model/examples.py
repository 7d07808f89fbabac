"""Certified kernels that a model is shown before it writes its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """A kernel that was proved. `spec` and `settings` say for what; `said` is what is known of it, such as its speed,
    in a line or two; `provenance` is where it comes from (a run, a certificate's id): recorded, not shown."""

    name: str
    text: str
    spec: str
    settings: str = ""
    said: str = ""
    provenance: str = ""
