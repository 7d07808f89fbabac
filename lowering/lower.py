"""From a certificate to code that runs: emits every version of the kernel, compiles them, and writes all into it.

The door: a `Certificate` goes in, never a bare program, and the program handed along must be exactly
what the certificate's candidate text means under the certificate's spec settings, or nothing is
emitted.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from ir.parser import parse
from ir.program import Program
from ir.requirements import summary
from ir.spec import Bound
from ir.typing import check
from lowering import aligned
from lowering.boxes import boxed_tensors, streams_boxes, with_boxes
from lowering.compile import CompileError, Resources, compile_modules
from lowering.contracts import contracts, gradients
from lowering.hopper.flatten import NotForHopper
from lowering.hopper.version import hopper_version, unspecialised
from lowering.narrow import conditions, pays, under
from lowering.persistent import asks, chosen_at_launch, in_turns, launches, programs_size
from lowering.persistent import conditions as few_tiles
from lowering.plan import launches_of, plan
from lowering.shapes import shapes_to_compare
from lowering.statement import statement
from lowering.triton import emit
from lowering.versions import Condition, LeftOut, Version
from verifier.certificate import Certificate, digest

Row = dict[str, Any]  # what one kernel takes on a target
Taken = dict[str, list[Row] | CompileError]  # what a version takes, by target
TARGETS_OF = {"hopper": ("sm_90",), "specialised": ("sm_90",), "descriptors": ("sm_90", "sm_100")}


class NotCertified(Exception):
    """The program, or the spec it is bound to, is not the one the certificate was issued for."""


def require_certified(certificate: Certificate, program: Program, bound: Bound) -> None:
    """Raises NotCertified unless the certificate is about this program and this bound spec."""
    if certificate.spec_source != bound.spec.source:
        raise NotCertified("the certificate was issued for another spec text")
    if certificate.settings != dict(bound.settings):
        raise NotCertified(f"the certificate was issued for {certificate.settings}, not {dict(bound.settings)}")
    if check(parse(certificate.candidate), bound) != program:
        raise NotCertified("the certificate was issued for another candidate")


def versions_of(certificate: Certificate, program: Program, bound: Bound) -> tuple[Version, ...]:
    """Everything emitted for a certified program, as `emitted` says, without what could not be."""
    return emitted(certificate, program, bound)[0]


def emitted(certificate: Certificate, program: Program, bound: Bound) -> tuple[tuple[Version, ...], list[LeftOut]]:
    """Everything emitted for a certified program, best first, not compiled yet; the last runs everywhere. A kernel
    whose schedule has `warp_specialize` gets a version for Hopper (`lowering.hopper`) where one can be made, before
    Triton's own. Where a schedule has `persistent`, a version in which these kernels are taken in turns
    (`lowering.persistent`) stands before each. Then what was asked for and cannot be made.

    Raises NotCertified, UnsupportedByTriton.
    """
    require_certified(certificate, program, bound)
    size = programs_size(program, bound) if any(map(asks, program.kernels)) else None
    specialises = any(kernel.schedule.warp_specialize for kernel in program.kernels)
    versions: list[Version] = []
    missing: dict[str, LeftOut] = {}  # by reason: the same holds of a persistent version
    for turns in [size, None] if size is not None and specialises else [None] if specialises else []:
        try:
            made = hopper_version(certificate, program, bound, "pointers", turns)
        except NotForHopper as reason:
            missing[str(reason)] = LeftOut("hopper", str(reason), *TARGETS_OF["hopper"])
            continue
        versions.append(made if turns is None else _persistent(made, program, turns))
        for launch in made.launches:
            if why := launch.get("not_asynchronous"):
                missing[why] = LeftOut(f"hopper of kernel {launch['kernel']}", why, *TARGETS_OF["hopper"])
    for name, form in _forms(certificate, program):
        made = _version(name, form, certificate, program, bound, bound)
        if size is not None and name != "specialised":  # Triton specialises the loops of a kernel that has no other
            turned = _version(name, in_turns(form, size), certificate, program, bound, chosen_at_launch(bound, size))
            versions.append(_persistent(turned, program, size))
        versions.append(made)
    return tuple(versions), list(missing.values())


def _forms(certificate: Certificate, program: Program) -> list[tuple[str, Program]]:
    """The forms of a program that Triton is given, best first."""
    widths = certificate.body.get("index_widths") or certificate.widths
    boxed, specialised = with_boxes(program, widths), with_boxes(program, widths, specialised=True)
    found = [("specialised", specialised)] if specialised != boxed else []
    found += [("descriptors", boxed)] if streams_boxes(boxed) else []
    plain = replace(program, kernels=tuple(map(unspecialised, program.kernels)))
    found += [("aligned", plain)] if aligned.aligned_sizes(plain) else []
    return [*found, ("pointers", plain)]


def _version(
    name: str, form: Program, certificate: Certificate, program: Program, bound: Bound, sizes: Bound
) -> Version:
    """One form in Triton; `sizes`: the spec with all sizes that the form speaks of."""
    multiples = aligned.aligned_sizes(form) if name == "aligned" else []
    source = emit(certificate, form, sizes, multiples)
    when: list[Condition] = [["target", *TARGETS_OF[name]]] if name in TARGETS_OF else []
    when += aligned.when(multiples)
    when += (["descriptor", tensor] for tensor in boxed_tensors(form))
    if name == "specialised":  # what the compiler makes of it is new, and the interpreter does not show it
        when.append(["agrees", "pointers", shapes_to_compare(program, bound)])
    return Version(name, source, digest(source), aligned.launches(launches_of(form), multiples), when)


def _persistent(version: Version, program: Program, size: str) -> Version:
    """A version made of the program in turns, as one: what its launches stand for, and where their numbers fit."""
    return replace(
        version,
        name=f"{version.name} persistent",
        launches=launches(program, size, version.launches),
        when=[*few_tiles(program), *version.when],
    )


def narrow_versions(
    certificate: Certificate, program: Program, bound: Bound
) -> tuple[tuple[Version, ...], list[LeftOut]]:
    """Everything emitted for a certificate that is proved for some sizes only, to run in place of `program` there; and
    what cannot be.

    Raises NotNarrower, NotCertified, UnsupportedByTriton.
    """
    narrow = check(parse(certificate.candidate), bound)
    when, (versions, missing) = conditions(narrow, program, bound), emitted(certificate, narrow, bound)
    return under(when, certificate.id, summary(narrow), versions), missing


def lower(
    certificate: Certificate,
    program: Program,
    bound: Bound,
    targets: Sequence[str] = ("sm_90",),
    narrower: Sequence[Certificate] = (),
) -> Certificate:
    """The certificate with its section "lowered": what a launcher checks and allocates, and the versions it may run,
    each with its source, its launches and what it takes on each of `targets`. Those of `narrower` certificates, proved
    for some sizes only, come first, with these certificates; not where the compiler makes no less of them.

    A version with conditions runs on no target where the compiler refuses it or where it spills more than the version
    that runs everywhere, and one for some targets only on none that it was not compiled for: nobody knows what it takes
    there. What is not there, and why, is in "left_out". Raises NotCertified, NotNarrower, UnsupportedByTriton, and
    CompileError where the version that runs everywhere is refused.
    """
    (*first, last), missing = emitted(certificate, program, bound)
    narrows = [narrow_versions(narrow, program, bound) for narrow in narrower]
    plain, others = _compiled(last, [*first, *(v for made, _ in narrows for v in made)], targets)
    rest = iter(others)
    general = [*_fitting(islice(rest, len(first)), targets, plain, missing), replace(last, resources=plain)]
    versions = list(general)
    for made, without in narrows:
        found = _fitting(islice(rest, len(made)), targets, plain, without)
        if pays(found, general):
            versions = [*found, *versions]
            missing += (m for m in without if m not in missing)
        else:
            missing.append(LeftOut(made[-1].name, "the compiler makes no less of it than of the one for every size"))
    kept = {v.certificate for v in versions}
    section = {
        "plan": plan(program, bound),
        "contracts": contracts(bound),
        "gradients": gradients(bound),
        "statement": statement(bound),
        "versions": [v.to_json() for v in versions],
        "left_out": [m.to_json() for m in missing],
        "narrower": {narrow.id: narrow.body for narrow in narrower if narrow.id in kept},
    }
    return certificate.with_section("lowered", section)


def rows_of_each(versions: Sequence[Version], target: str) -> Generator[list[Row] | CompileError]:
    """What each kernel of each version takes on a target, as it comes, or why it is refused: also where a kernel that
    was to have specialised warps has none, for the version after it is the same without."""
    with closing(compile_modules([(v.source, v.launches) for v in versions], target)) as compiled:
        for version, rows in zip(versions, compiled, strict=True):
            yield rows if isinstance(rows, CompileError) else _specialised(version, rows, target)


def _specialised(version: Version, rows: Sequence[Resources], target: str) -> list[Row] | CompileError:
    asked = [launch["schedule"]["warp_specialize"] for launch in version.launches]
    if missing := [row.kernel for wish, row in zip(asked, rows, strict=True) if wish and not row.warp_specialized]:
        return CompileError(f"compiling for {target}: the warps of {', '.join(missing)} are not specialised")
    return [asdict(r) for r in rows]


def _compiled(
    last: Version, others: Sequence[Version], targets: Sequence[str]
) -> tuple[dict[str, list[Row]], list[tuple[Version, Taken]]]:
    """What the version that runs everywhere takes on each target, and every other with what it takes where it may run.
    Raises CompileError where the former is refused, before the others are compiled."""
    plain: dict[str, list[Row]] = {}
    found: list[tuple[Version, Taken]] = [(version, {}) for version in others]
    for target in targets:
        here = [(version, taken) for version, taken in found if target in version.targets(targets)]
        with closing(rows_of_each([last, *(version for version, _ in here)], target)) as answers:
            rows = next(answers)
            if isinstance(rows, CompileError):
                raise rows
            plain[target] = rows
            for (_, taken), answer in zip(here, answers, strict=True):
                taken[target] = answer
    return plain, found


def spills_more(rows: Sequence[Row], plain: Sequence[Row]) -> bool:
    """Whether a version keeps more registers in memory than the one that runs everywhere, on one target."""
    return _spills(rows) > _spills(plain)


def _spills(rows: Sequence[Row]) -> int:
    return sum(int(row["spills"]) for row in rows)


def _fitting(
    compiled: Iterable[tuple[Version, Taken]],
    targets: Sequence[str],
    plain: Mapping[str, Sequence[Row]],
    missing: list[LeftOut],
) -> list[Version]:
    """Versions with conditions, with what they take on each target they are kept for. `missing` grows by the others."""
    found = []
    for version, taken in compiled:
        resources = dict[str, list[Row]]()
        for target, rows in taken.items():
            if isinstance(rows, CompileError):
                missing.append(LeftOut(version.name, str(rows), target))
            elif spills_more(rows, plain[target]):
                why = f"{_spills(rows)} spills, more than the {_spills(plain[target])} of the one for every call"
                missing.append(LeftOut(version.name, why, target))
            else:
                resources[target] = rows
        wanted = version.targets(targets)
        tied = [condition for condition in version.when if condition[0] == "target"]
        if not wanted:
            missing += (LeftOut(version.name, "not compiled for it", t) for _, *named in tied for t in named)
        turns = any("persistent" in launch for launch in version.launches)  # by how many, follows from resources
        if tied or turns or len(resources) < len(wanted):
            when = [["target", *resources], *(condition for condition in version.when if condition not in tied)]
            version = replace(version, when=when)
        if resources or not (tied or wanted):
            found.append(replace(version, resources=resources))
    return found
