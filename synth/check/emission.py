"""Section "lowered": every version is emitted again from the program that was proved again, and compared.

Source, launches, plan, contracts, gradients and statement have to be what the installed lowering makes. A version may
be absent (a compiler refused it, says `left_out`) and its targets may be fewer, for both only mean that it runs less
often; it may not run where it was not meant to. Registers, spills and times are what a compiler said of it: evidence.
They decide how many persistent programs are launched, and any number of these is right (`lowering.persistent`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from typing import Any

from lowering.compile import CompileError
from lowering.contracts import contracts, gradients
from lowering.lower import emitted, narrow_versions, rows_of_each
from lowering.narrow import NotNarrower
from lowering.plan import plan
from lowering.spelling import UnsupportedByTriton
from lowering.statement import statement
from lowering.versions import LeftOut, Version
from synth.check.derive import Derived, Row, Standing, shown
from synth.check.difference import Difference, differences, plain
from verifier.certificate import Certificate

PARTS = ("plan", "contracts", "gradients", "statement", "versions", "left_out", "narrower")
Narrower = tuple[str, Certificate]


def lowered_rows(
    claimed: object, derived: Derived, narrower: Sequence[Narrower], compiles: bool
) -> Generator[Row, None, Sequence[Version]]:
    """A row for what is launched, for the versions, and for what the compiler said of them; the versions, where they
    are the ones that are emitted here. `narrower`: what was derived again of each certificate for some sizes that it
    holds, by the id it has there."""
    if not isinstance(claimed, dict) or sorted(claimed) != sorted(PARTS):
        keys = tuple(claimed) if isinstance(claimed, dict) else ()
        wrong = sorted({*keys} ^ {*PARTS})
        yield Row("lowered", Standing.REFUSED, f"it holds {', '.join(PARTS)}, no less and no more", tuple(wrong))
        return ()
    try:
        expected, missing = _emitted(derived, narrower)
    except (UnsupportedByTriton, NotNarrower) as error:
        yield Row("lowered", Standing.REFUSED, "nothing of the kind can be emitted", (str(error),))
        return ()
    own = plain(
        {
            "plan": plan(derived.program, derived.bound),
            "contracts": contracts(derived.bound),
            "gradients": gradients(derived.bound),
            "statement": statement(derived.bound),
        }
    )
    for name, value in own.items():
        found = list(differences(claimed[name], value, f"lowered.{name}"))
        if found:
            yield Row(f"lowered.{name}", Standing.REFUSED, "it is not what follows from the subject", shown(found))
        else:
            yield Row(f"lowered.{name}", Standing.DERIVED, "")
    found, kept = _versions(claimed["versions"], expected)
    found += _left_out(claimed["left_out"], expected, missing, kept)
    found += _strays(claimed["narrower"], kept)
    if found:
        why = "its versions are not the ones that are emitted for this candidate"
        yield Row("lowered.versions", Standing.REFUSED, why, shown(found))
        return ()
    yield Row("lowered.versions", Standing.DERIVED, f"{len(kept)}: {', '.join(v.name for v in kept)}")
    yield _compiled_again(kept) if compiles else _resources(kept)
    return kept


def _emitted(derived: Derived, narrower: Sequence[Narrower]) -> tuple[list[Version], list[LeftOut]]:
    """All versions that are emitted here, in the order a certificate holds them, and what cannot be."""
    general, missing = emitted(derived.certificate, derived.program, derived.bound)
    versions = list(general)
    for name, certificate in narrower:
        found, without = narrow_versions(certificate, derived.program, derived.bound)
        versions = [*(replace(v, certificate=name) for v in found), *versions]
        missing = [*missing, *(m for m in without if m not in missing)]
    return versions, missing


def _versions(claimed: object, expected: Sequence[Version]) -> tuple[list[Difference], list[Version]]:
    """What differs between the versions of a certificate and those emitted here; the latter as the former has them,
    on fewer targets and with what the compiler said."""
    ours = {(v.name, v.certificate): v for v in expected}
    found: list[Difference] = []
    kept: list[Version] = []
    rows = claimed if isinstance(claimed, list) else []
    for k, row in enumerate(rows):
        key = (row.get("name"), row.get("certificate")) if isinstance(row, dict) else (None, None)
        own = ours.get(key) if all(isinstance(part, str) for part in key) else None  # type: ignore[arg-type]
        if own is None or own.name in [v.name for v in kept]:
            found.append(Difference(f"lowered.versions[{k}]", row, "no version, or one that is there already"))
            continue
        new, version = _one(row, own)
        found += new
        kept.append(version)
    order = [v.name for v in expected if v.name in {k.name for k in kept}]
    if not found and order != [v.name for v in kept]:
        found.append(Difference("lowered.versions, order", [v.name for v in kept], order))
    if not rows or not kept or kept[-1].name != expected[-1].name:
        last = "the last has to be the one that runs everywhere"
        found.append(Difference("lowered.versions", [v.name for v in kept], f"{last}, {expected[-1].name}"))
    return found, kept


def _one(row: dict[str, Any], own: Version) -> tuple[list[Difference], Version]:
    path = f"lowered.versions[{own.name}]"
    ours = plain(own.to_json())
    resources = row.get("resources")
    said = {**row, "launches": _untimed(row.get("launches"))}
    ours["launches"], ours["resources"] = _untimed(ours["launches"]), resources
    found = list(differences({**said, "when": ()}, {**ours, "when": ()}, path))
    targets, rest = _conditions(row.get("when"))
    meant, others = _conditions(ours["when"])
    found += differences(rest, others, f"{path}.when")
    compiled = set(resources) if isinstance(resources, dict) else None
    turns = any("persistent" in launch for launch in own.launches)  # by how many programs, follows from resources
    tied = meant is not None or turns
    if tied if targets is None else not set(targets) <= set(meant or targets):
        found.append(Difference(f"{path}.when", row.get("when"), ours["when"]))
    if compiled is None or targets is not None and set(targets) != compiled:
        found.append(Difference(f"{path}.resources", sorted(compiled or ()), f"of the targets {targets}, no others"))
    return found, own if found else replace(own, when=row["when"], resources=resources or {})


def _conditions(when: object) -> tuple[list[str] | None, object]:
    """The targets a version is tied to, None where to none; and its other conditions."""
    if not isinstance(when, list):
        return None, when
    tied = [c[1:] for c in when if isinstance(c, list) and c[:1] == ["target"]]
    rest = [c for c in when if not (isinstance(c, list) and c[:1] == ["target"])]
    if not tied:
        return None, rest
    return [t for t in tied[0] if isinstance(t, str) and all(t in other for other in tied)], rest


def _untimed(launches: object) -> object:
    """Launches without the seconds that checking an asynchronous protocol took."""
    if not isinstance(launches, list):
        return launches
    return [
        {**row, "verified": {k: v for k, v in row["verified"].items() if k != "seconds"}}
        if isinstance(row, dict) and isinstance(row.get("verified"), dict) else row
        for row in launches
    ]  # fmt: skip


def _left_out(
    claimed: object, expected: Sequence[Version], missing: Sequence[LeftOut], kept: Sequence[Version]
) -> list[Difference]:
    """What was left out has to be told of: what cannot be emitted, as here, and every version that is not there."""
    path = "lowered.left_out"
    rows = claimed if isinstance(claimed, list) else []
    keys = sorted(asdict(LeftOut("", "")))
    if not isinstance(claimed, list) or not all(isinstance(r, dict) and sorted(r) == keys for r in rows):
        return [Difference(path, claimed, f"rows of {', '.join(keys)}")]
    found = [Difference(path, "nothing of it", str(m)) for m in missing if m.to_json() not in rows]
    told = {row["version"] for row in rows}
    absent = [v.name for v in expected if v.name not in {k.name for k in kept} and v.name not in told]
    return [*found, *(Difference(path, "nothing of it", f"version {name}") for name in absent)]


def _strays(narrower: object, kept: Sequence[Version]) -> list[Difference]:
    path, used = "lowered.narrower", {v.certificate for v in kept}
    if not isinstance(narrower, dict):
        return [Difference(path, narrower, "certificates by id")]
    return [Difference(f"{path}.{i}", "a certificate", "used by no version") for i in narrower if i not in used]


def _resources(kept: Sequence[Version]) -> Row:
    targets = sorted({t for v in kept for t in v.resources})
    if not targets:
        return Row("resources", Standing.EVIDENCE, "compiled for no target")
    text = f"registers, spills and code on {', '.join(targets)}, as the compiler said; --compile asks it again"
    return Row("resources", Standing.EVIDENCE, text)


def _compiled_again(kept: Sequence[Version]) -> Row:
    """Compile what was emitted here for the targets the certificate names, and compare what the compiler says."""
    if not importlib.util.find_spec("triton"):
        return Row("resources", Standing.OPEN, "Triton is not installed here; it compiles ahead of time on Linux")
    from importlib.metadata import version

    found: list[str] = []
    targets = sorted({t for v in kept for t in v.resources})
    for target in targets:
        here = [v for v in kept if target in v.resources]
        for own, rows in zip(here, rows_of_each(here, target), strict=True):
            if isinstance(rows, CompileError):
                found.append(f"{own.name} on {target}: {rows}")
            else:
                said, here_now = ([_timeless(row) for row in side] for side in (own.resources[target], plain(rows)))
                found += map(str, differences(said, here_now, f"{own.name} on {target}"))
    text = f"compiled again for {', '.join(targets) or 'no target'} by Triton {version('triton')}"
    if found:
        return Row("resources", Standing.OPEN, f"{text}: it says otherwise", tuple(found))
    return Row("resources", Standing.CONFIRMED, text)


def _timeless(row: object) -> object:
    return {k: v for k, v in row.items() if k != "seconds"} if isinstance(row, dict) else row
