"""Every version proved again from the intermediate text that Triton's front end makes of it (`lowering.ttir.again`)."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from lowering.narrow import program_of
from lowering.ttir.again import again
from lowering.versions import Version
from synth.check.derive import Derived, Row, Standing
from verifier.verdict import Verdict


def read_back(
    versions: Sequence[Version], lowered: Mapping[str, Any], derived: Derived
) -> Generator[str | Row, None, None]:
    """A row for each version: proved again, or why not. One that is refuted is not the kernel that was proved."""
    if not importlib.util.find_spec("triton"):
        yield Row("read back", Standing.OPEN, "Triton is not installed here; its front end runs on Linux without a GPU")
        return
    for version in versions:
        yield f"proving version {version.name} again from Triton's intermediate text"
        found = again(version, program_of(version, lowered, derived.program, derived.bound), derived.bound)
        if found.proved:
            text = f"{version.name}: every obligation is proved of what Triton's front end makes of it"
            yield Row("read back", Standing.CONFIRMED, text, found.idealised)
        elif found.verdict is Verdict.REFUTED:
            text = f"{version.name}: what Triton's front end makes of it is wrong"
            yield Row("read back", Standing.REFUSED, text, (found.why,))
        else:
            said = "not put to the gate" if found.verdict is None else "the gate does not prove it"
            yield Row("read back", Standing.OPEN, f"{version.name}: {said}", (found.why,))
