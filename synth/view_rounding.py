"""`synth rounding`: a certificate's rounding bounds as numbers, at sizes and ranges a person asks about."""

from __future__ import annotations

import json
import math
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from ir.evaluate import parameters_default
from ir.float_model import UNIT
from ir.loader import bind, parse_spec
from ir.program import DType
from ir.spec import Bound
from synth.rounding import Inputs, NoBound, bounds, wanted
from verifier.certificate import Certificate, CertificateError

USUAL = 4.0  # of normal numbers one in ten thousand is larger
NO_BOUND = 2
WORDS = {
    "size": "{0} = {1:g}", "parameter": "{0} = {1:.4g}", "range": "|{0}| <= {1:g}", "result": "|{0}| <= {1:g}",
    "saved": "err({0}) <= {1:.3g}",
}  # fmt: skip


def show_rounding(
    path: Path,
    sizes: dict[str, float],
    ranges: dict[str, float],
    parameters: dict[str, float],
    saved: dict[str, float],
    as_json: bool = False,
) -> int:
    """Print the bounds; the exit code."""
    try:
        certificate = Certificate.load(path)
    except CertificateError as error:
        raise typer.BadParameter(str(error)) from error
    section = certificate.body.get("rounding")
    bound = bind(parse_spec(certificate.body["subject"]["spec"]["text"]), certificate.settings)
    try:
        inputs = _inputs(bound, sizes, ranges, parameters, saved)
        found = bounds(section, inputs)
        used = set(wanted(section))
    except NoBound as reason:
        print(json.dumps({"bounds": None, "reason": str(reason)}) if as_json else f"no rounding bound: {reason}")
        return NO_BOUND
    used |= {("parameter", name) for kind, name in used if kind == "absolute"}
    at = {
        kind: {n: x for n, x in values.items() if (kind, n) in used}
        for kind, values in (
            ("size", inputs.sizes), ("parameter", inputs.parameters), ("range", inputs.ranges), ("saved", inputs.saved),
            ("result", inputs.results),
        )
    }  # fmt: skip
    if as_json:
        print(json.dumps({"bounds": {n: x if math.isfinite(x) else None for n, x in found.items()}, "at": at}))
        return 0
    console = Console(highlight=False)
    table = Table("output", "|computed - exact| <=", box=None)
    for name, x in found.items():
        table.add_row(name, f"{x:.3g}" if math.isfinite(x) else "nothing: the ranges are too large for a bound")
    console.print(table)
    console.print("at " + ", ".join(WORDS[k].format(n, x) for k, values in at.items() for n, x in values.items()))
    return 0


def _inputs(
    bound: Bound,
    sizes: dict[str, float],
    ranges: dict[str, float],
    parameters: dict[str, float],
    saved: dict[str, float],
) -> Inputs:
    shapes = (*bound.spec.search_shapes, *bound.spec.heldout_shapes)
    usual = dict(shapes[0].sizes) if shapes else {}
    at = {d.name: int(_taken(d.name, sizes, usual.get(d.name, d.minimum))) for d in bound.dims}
    floats = [(t, dtype) for t, dtype in bound.inputs if dtype.is_float]
    limits = {t.name: min(USUAL, math.inf if t.abs_max is None else t.abs_max) for t, _ in floats}
    known = parameters_default(bound, at)
    outputs = [t.name for t, dtype in bound.outputs if dtype.is_float]
    for option, given, names in (
        ("--size", sizes, at), ("--range", ranges, [*limits, *outputs]), ("--parameter", parameters, known),
        ("--saved", saved, [t.name for t, _ in floats if t.saved]),
    ):  # fmt: skip
        if unknown := ", ".join(sorted(given.keys() - set(names))):
            raise typer.BadParameter(f"{option}: there is no {unknown}; it takes {', '.join(names) or 'none'}")
    for d in bound.dims:
        if not d.minimum <= at[d.name] <= d.maximum:
            admitted = f"{d.name} from {d.minimum} to {d.maximum}"
            raise typer.BadParameter(f"--size: the spec admits {admitted}, not {at[d.name]}")
    for p in bound.spec.parameters:
        if p.name in parameters and not p.lower <= parameters[p.name] <= p.upper:
            raise typer.BadParameter(f"--parameter: the spec admits {p.name} from {p.lower:g} to {p.upper:g}")
    if negative := [name for name, x in {**ranges, **saved}.items() if x < 0.0]:
        raise typer.BadParameter(f"{negative[0]}: a range or an error is not negative")
    results = {name: ranges[name] for name in outputs if name in ranges}
    reach = {name: _taken(name, ranges, x) for name, x in limits.items()}
    kept = {dtype: UNIT[dtype] if dtype is not DType.F32 else 2.0**-16 for _, dtype in floats}
    exact = {t.name: reach[t.name] * kept[dtype] for t, dtype in floats if t.saved}
    return Inputs(at, {n: _taken(n, parameters, x) for n, x in known.items()}, reach, exact | saved, results)


def _taken(name: str, given: dict[str, float], usual: float) -> float:
    return given.get(name, usual)
