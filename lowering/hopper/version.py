"""The version of a certified program for Hopper: offered where a kernel asks for specialised warps, and only after its
asynchronous programs have been checked.

What stands behind it: the protocol holds for every trip count and order of events (`lowering.hopper.protocol`); at
small shapes the asynchronous programs, and the emitted Gluon on the CPU, compute what the typed program means, under
adversarial timing (`lowering.hopper.simulate` and `emulated`, part of the certificate's cross-check); it compiles
for sm_90 to the same order of waits, copies and dots (`lowering.hopper.readback`). What nothing here can run is the
machine code, with its layouts and fences, so the version carries the condition ["agrees", version, shapes]: a launcher
compares it on the device with a version that was cross-checked, once, before it uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from ir.program import Kernel, Program
from ir.spec import Bound
from lowering.boxes import boxed_tensors, with_boxes
from lowering.hopper.async_program import AsyncKernel
from lowering.hopper.flatten import NotForHopper
from lowering.hopper.gluon import emit_program
from lowering.hopper.protocol import verify
from lowering.hopper.schedule import schedule
from lowering.hopper.verdict import Verified
from lowering.persistent import chosen_at_launch, in_turns
from lowering.plan import argument_name
from lowering.shapes import shapes_to_compare
from lowering.versions import Condition, Version
from verifier.certificate import Certificate, digest

TARGET = "sm_90"


def hopper_version(
    certificate: Certificate, program: Program, bound: Bound, reference: str, size: str | None = None
) -> Version:
    """The version, not compiled yet; `reference` names the version to compare it with on the device. With `size`, the
    persistent one (`lowering.persistent`): kernels that ask for it are taken in turns, by that many programs.

    Raises NotForHopper with the reason where there is none.
    """
    if not any(k.schedule.warp_specialize for k in program.kernels):
        raise NotForHopper("no kernel's schedule has warp_specialize")
    indices = certificate.body.get("index_widths") or certificate.widths
    boxed = _asking(program, indices)
    subject = f"candidate sha256 {digest(certificate.candidate)}\nspec      sha256 {digest(certificate.spec_source)}"
    plain = replace(program, kernels=tuple(map(unspecialised, program.kernels)))
    if size is not None:
        plain, boxed = in_turns(plain, size), in_turns(boxed, size)
    emitted = emit_program(
        plain, boxed, bound if size is None else chosen_at_launch(bound, size), certificate.widths, subject, indices
    )
    for kernel in emitted.kernels:
        found = verify(kernel)
        if not isinstance(found, Verified):
            raise NotForHopper(f"{kernel.name}: {found.message}")
        launch = next(launch for launch in emitted.launches if launch["kernel"] == argument_name(kernel.name))
        launch["verified"] = {"states": found.states, "seconds": round(found.seconds, 3)}
    asking = {argument_name(k.name): k.name for k in program.kernels if k.schedule.warp_specialize}
    for launch in emitted.launches:
        if (why := emitted.reasons.get(asking.get(launch["kernel"], ""))) is not None:
            launch["not_asynchronous"] = why
    copied = {a[1] for launch in emitted.launches for a in launch["args"] if a[0] == "tiles"}
    when: list[Condition] = [["target", TARGET]]
    when += (["descriptor", name] for name in boxed_tensors(boxed) if name in copied)
    when.append(["agrees", reference, shapes_to_compare(program, bound)])
    return Version("hopper", emitted.source, digest(emitted.source), emitted.launches, when)


def asynchronous(program: Program, size: str | None = None) -> dict[str, AsyncKernel]:
    """The asynchronous programs of the kernels that have one (`size` as above); where integers need 64 bits, fewer are
    emitted."""
    found = {}
    boxed = _asking(program, dict.fromkeys((k.name for k in program.kernels), 32))
    for kernel in (boxed if size is None else in_turns(boxed, size)).kernels:
        with suppress(NotForHopper):
            found[kernel.name] = schedule(kernel)
    return found


def _asking(program: Program, index_widths: Mapping[str, int]) -> Program:
    """With boxes in the kernels that ask for specialised warps; without, the others have no asynchronous program."""
    boxed = with_boxes(program, index_widths, copied=True).kernels
    pairs = zip(program.kernels, boxed, strict=True)
    return replace(program, kernels=tuple(b if k.schedule.warp_specialize else k for k, b in pairs))


def unspecialised(kernel: Kernel) -> Kernel:
    return replace(kernel, schedule=replace(kernel.schedule, warp_specialize=False))
