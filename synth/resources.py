"""What every shipped kernel takes of every target, by ahead-of-time compilation: registers, spills, shared memory.

A subject is one kernel under one choice of settings: each file of `specs/NAME/` at every head dim and at fp32, as far
as its header leaves them open, and the embedded proposer's first compositions where no file answers. Every subject goes
through the gate before it is compiled, so a row is about a proved kernel. What a target refuses is a row that says so.

A target's default is the kernel predicted fastest (`synth.bench.cost`) among those that compile for it without spills:
no kernel is written for a target by name. A row is kept as long as its emitted code and the compiler are the same: the
gate is asked again where the text of kernel or spec is another, the compiler only where what it would be given is.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from ir.loader import bind, load_spec, packaged_specs
from ir.parser import parse
from ir.program import Dot, DType, Program
from ir.spec import Bound, Spec
from ir.typing import check
from lowering.compile import CompileError
from lowering.lower import rows_of_each, spills_more, versions_of
from lowering.plan import walk
from lowering.versions import Version
from synth.bench.cost import predict
from synth.certify import certify
from synth.propose import NothingToPropose
from synth.propose.embedded import propose
from synth.propose.seeds import seeds, wanted_settings
from verifier.certificate import Certificate, digest

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
WIDE = "fp32"
COMPOSED = 2  # the tiles of the first are large, and spill on some targets
KEPT = ("registers", "spills", "shared", "warps", "tensor_core", "exponentials", "occupancy", "warp_specialized",
        "tensor_memory", "scalar_spills")  # fmt: skip
WIDTHS = ("widths", "index_widths")  # what of a certificate the emitted text depends on, besides its subject
Row = dict[str, Any]  # one subject, target and version, as it is kept


@dataclass(frozen=True, slots=True)
class Subject:
    """`settings` as `ir.loader.bind` takes them; `case` names what of them is not the spec's default: a static
    dimension or the dtype ("" where nothing is)."""

    spec: str
    kernel: str
    text: str
    settings: tuple[tuple[str, str], ...]
    case: str

    @property
    def place(self) -> tuple[str, str, str]:
        """What rows of it have as `spec`, `kernel` and `settings`."""
        return Path(self.spec).stem, self.kernel, said(dict(self.settings))

    @property
    def key(self) -> str:
        """The same wherever the package lies; another text of kernel or spec is another subject."""
        return digest(json.dumps([Path(self.spec).read_text(encoding="utf-8"), self.text, self.settings]))


def cases(spec: Spec) -> Iterator[dict[str, str]]:
    """Settings that every spec must have a kernel for: its defaults, each other choice of a static dimension, fp32."""
    fixed = {d.name: str(d.default) for d in spec.dims if d.choices}
    dtypes = {t.dtype for t in (*spec.inputs, *spec.outputs)}
    floats = {o.name: o.default for o in spec.options if o.name in dtypes}
    yield {**fixed, **floats}
    for dim in spec.dims:
        for choice in dim.choices:
            if choice != dim.default:
                yield {**fixed, **floats, dim.name: str(choice)}
    wide = {o.name: WIDE for o in spec.options if o.name in floats and WIDE in o.choices}
    if wide and wide != floats:
        yield {**fixed, **floats, **wide}


def case_name(spec: Spec, settings: Mapping[str, str]) -> str:
    first = next(cases(spec))
    return " ".join(f"{name}={settings[name]}" for name, value in first.items() if settings.get(name, value) != value)


def subjects(spec: Spec) -> Iterator[Subject]:
    """What is offered of the kernels that ship with a spec: under each case, with the other settings that some kernel
    is for. For a case without any, the first compositions that the embedded proposer makes of it, if it can."""
    found: dict[Subject, None] = {}
    for wanted in _headers(spec):
        fitting = [case for case in cases(spec) if all(wanted.get(k, v) == v for k, v in case.items())]
        for case in fitting or [{}]:
            settings = {**case, **wanted}
            for c in seeds(bind(spec, settings)):
                found[
                    Subject(spec.path, c.name, c.text, tuple(sorted(settings.items())), case_name(spec, settings))
                ] = None
    yield from found
    answered = {subject.case for subject in found}
    for case in cases(spec):
        name = case_name(spec, case)
        try:
            for c in islice(propose(bind(spec, case)), 0 if name in answered else COMPOSED):
                yield Subject(spec.path, c.name, c.text, tuple(sorted(case.items())), name)
        except NothingToPropose:
            continue


def _headers(spec: Spec) -> list[dict[str, str]]:
    """The settings that kernels of a spec are for, each once, the least particular first."""
    files = sorted(Path(spec.path).with_suffix("").glob("*.tile"))
    headers = {json.dumps(wanted_settings(path.read_text(encoding="utf-8"))) for path in files}
    return sorted(map(json.loads, headers), key=lambda wanted: (len(wanted), sorted(wanted.items())))


# ---- one subject -----------------------------------------------------------------------------


def rows_of(subject: Subject, targets: Sequence[str], known: Sequence[Row] = ()) -> list[Row]:
    """One row for each target and each version emitted for it. `known`: rows of this kernel at these settings from
    earlier; those whose emitted code and compiler have not changed are taken as they are. What the gate does not prove
    is not compiled."""
    bound = bind(load_spec(subject.spec), dict(subject.settings))
    program = check(parse(subject.text), bound)
    again = _reissued(subject, bound, [row for row in known if row["subject"] == subject.key])
    kept = _kept(known, again, program, bound) if again else {}
    wanted = [(t, v) for v in versions_of(again, program, bound) for t in v.targets(targets)] if again else []
    if wanted and all((t, v.name) in kept for t, v in wanted):
        return [kept[t, v.name] for t, v in wanted]
    certificate = certify(subject.text, bound).certificate
    about = {"spec": bound.spec.name, "kernel": subject.kernel, "settings": dict(subject.settings)}
    about |= {"case": subject.case, "subject": subject.key}
    if certificate is None:
        return [{**about, "target": t, "version": "", "problem": "not proved", "kernels": []} for t in targets]
    about["widths"] = {name: certificate.body[name] for name in WIDTHS if name in certificate.body}
    kept = _kept(known, certificate, program, bound)
    versions = versions_of(certificate, program, bound)
    for t in targets:
        new = [v for v in versions if t in v.targets(targets) and (t, v.name) not in kept]
        kept |= {(t, v.name): _row(v, r, program, bound, t) for v, r in zip(new, rows_of_each(new, t), strict=True)}
    return [{**kept[t, v.name], **about} for v in versions for t in v.targets(targets)]


def _reissued(subject: Subject, bound: Bound, known: Sequence[Row]) -> Certificate | None:
    """Enough of the certificate that rows were made from to emit its versions again; it claims nothing."""
    widths = next((row["widths"] for row in known if row.get("widths")), None)
    if widths is None:
        return None
    spec = {"text": bound.spec.source, "sha256": digest(bound.spec.source), "name": bound.spec.name}
    candidate = {"text": subject.text, "sha256": digest(subject.text)}
    return Certificate({"subject": {"candidate": candidate, "spec": spec, "settings": dict(bound.settings)}, **widths})


def _kept(known: Sequence[Row], certificate: Certificate, program: Program, bound: Bound) -> dict[tuple[str, str], Row]:
    """Rows that would come out the same again, by target and version."""
    sources = {v.name: _source(v) for v in versions_of(certificate, program, bound)}
    return {
        (row["target"], row["version"]): row
        for row in known
        if row.get("source") == sources.get(row["version"], "") and row["triton"] == version("triton")
    }


def _source(emitted: Version) -> str:
    """Of what is compiled: the module without the text that opens it, which names the spec's."""
    return digest(emitted.source.split('"""\n', 1)[-1] + json.dumps(emitted.launches))


def _row(
    emitted: Version, resources: list[dict[str, Any]] | CompileError, program: Program, bound: Bound, target: str
) -> Row:
    found: Row = {"target": target, "version": emitted.name, "source": _source(emitted), "triton": version("triton")}
    if isinstance(resources, CompileError):
        return {**found, "problem": str(resources), "kernels": []}
    found["problem"] = ""
    found["seconds"] = round(sum(r["seconds"] for r in resources), 2)
    found["kernels"] = [
        {"name": r["kernel"], **{key: r[key] for key in KEPT}, "dots": _dots(kernel)}
        for r, kernel in zip(resources, program.kernels, strict=True)
    ]
    if bound.spec.search_shapes:
        shape = bound.spec.search_shapes[0]
        predicted = predict(program, bound, dict(shape.sizes), target, resources)
        found |= {"shape": shape.name, "predicted": float(f"{predicted.seconds:.3g}")}
    return found


def _dots(kernel: object) -> str:
    """ "half" where a kernel multiplies 16-bit tiles, "single" where only f32 ones, else nothing."""
    types = {node.left.type.dtype for node in walk(kernel) if isinstance(node, Dot)}
    if not types:
        return ""
    return "single" if types == {DType.F32} else "half"


# ---- many ------------------------------------------------------------------------------------


def survey(
    wanted: Iterable[Subject], targets: Sequence[str], known: Iterable[Row] = (), workers: int = 2
) -> Iterator[tuple[Subject, list[Row]]]:
    """The rows of every subject, as they are done."""
    earlier: dict[tuple[str, str, str], list[Row]] = {}
    for row in known:
        earlier.setdefault((row["spec"], row["kernel"], said(row["settings"])), []).append(row)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        asked = {pool.submit(rows_of, s, targets, earlier.get(s.place, ())): s for s in wanted}
        try:
            for done in as_completed(asked):
                yield asked[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def all_specs(names: Sequence[str] = ()) -> list[Spec]:
    """The packaged specs, or the ones named (a name or a path)."""
    paths = sorted(packaged_specs().glob("*.toml"))
    return [load_spec(name) for name in names] if names else [load_spec(path) for path in paths]


def clean(row: Row) -> bool:
    """Proved, compiled, fits, nothing spilled."""
    return not row["problem"] and all(k["spills"] == 0 for k in row["kernels"])


def defaults(rows: Iterable[Row]) -> dict[tuple[str, str, str], Row]:
    """By spec, settings and target: the kernel predicted fastest among those all of whose versions that are kept are
    clean there, in its first version."""
    found: dict[tuple[str, str, str], Row] = {}
    for versions in map(kept, _by_target(rows).values()):
        row = versions[0]
        key = row["spec"], said(row["settings"]), row["target"]
        if all(map(clean, versions)) and (key not in found or _predicted(row) < _predicted(found[key])):
            found[key] = row
    return found


def kept(versions: Sequence[Row]) -> list[Row]:
    """What a certificate keeps of the versions of a kernel on one target, best first: `lowering.lower` says which."""
    *first, last = versions
    return [*(v for v in first if not v["problem"] and not spills_more(v["kernels"], last["kernels"])), last]


def left_out(rows: Iterable[Row]) -> list[Row]:
    """The others: no certificate has them."""
    return [row for versions in _by_target(rows).values() for row in versions if row not in kept(versions)]


def _by_target(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The versions of each subject on each target, best first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["subject"], row["target"]), []).append(row)
    return found


def _predicted(row: Row) -> float:
    return float(row.get("predicted", 0.0))


def said(settings: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def exceptions(specs: Iterable[Spec], rows: Sequence[Row], targets: Sequence[str]) -> list[tuple[str, str, str]]:
    """(spec, case, target) for which nothing proved compiles without spills, though something was asked."""
    answered = {(row["spec"], row["case"], row["target"]) for row in defaults(rows).values()}
    tried = {(row["spec"], row["case"], row["target"]) for row in rows}
    asked = ((s.name, case_name(s, c), t) for s in specs for c in cases(s) for t in targets)
    return [key for key in asked if key in tried - answered]


def without_kernel(specs: Iterable[Spec]) -> list[tuple[str, str]]:
    """(spec, case) for which nothing ships and nothing is composed."""
    found = []
    for spec in specs:
        answered = {subject.case for subject in subjects(spec)}
        found += [(spec.name, name) for c in cases(spec) if (name := case_name(spec, c)) not in answered]
    return found


def without_tensor_cores(rows: Iterable[Row]) -> list[tuple[str, str, str, str]]:
    """(spec, kernel, launch, target) where 16-bit tiles are multiplied without the target's matrix instructions."""
    return sorted(
        {
            (row["spec"], row["kernel"], k["name"], row["target"])
            for row in rows
            for k in row["kernels"]
            if k["dots"] == "half" and k["tensor_core"] == 0
        }
    )


def load(path: Path) -> list[Row]:
    """Rows kept from earlier; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def save(path: Path, rows: Iterable[Row]) -> None:
    """One row a line, in order; never half written."""
    ordered = sorted(rows, key=lambda r: (r["spec"], r["kernel"], said(r["settings"]), r["target"]))  # versions stay
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.part")
    beside.write_text("".join(json.dumps(row) + "\n" for row in ordered), encoding="utf-8")
    beside.replace(path)
