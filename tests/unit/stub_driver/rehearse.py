"""Every version of a certificate, launched up to the driver call, with what is wrong about each launch.

    PYTHONPATH=.:tests/unit python -m stub_driver.rehearse CERT... [--sizes '{"B": 2, "M": 256}'] [--version NAME]

One JSON object a line and version; `microseconds` is what a prepared call takes before the driver's part (null where
Triton asks for memory). Nothing of the proving code is imported. With another Triton first on the path it is rehearsed
with that one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lowering.agreement import random_inputs
from lowering.assumptions import DTYPES, evaluate, grid
from lowering.launch import Launcher, load
from lowering.trial import SHORT, admitted, within
from lowering.versions import Version
from stub_driver.device import STREAM, Stub, integer, real, stub_device

MAP_TYPES = {torch.bfloat16: 9, torch.float16: 6, torch.float32: 7}
TARGET, PROCESSORS, WARPS = "sm_90", 132, 64
NOTHING = torch.empty(0)  # of an argument that is no tensor


def rehearse(launcher: Launcher, version: Version, given: Mapping[str, Any], stub: Stub) -> dict[str, Any]:
    """Launch one version on these inputs and sizes; what was launched, and how that differs from what should be."""
    before = {kind: len(stub.events(kind)) for kind in ("launch", "load")}
    plain = replace(version, when=[c for c in version.when if c[0] != "agrees"])
    run = replace(launcher, versions=(plain, *launcher.versions)).prepare(version=version.name, **given)
    run()
    launches, maps = stub.events("launch")[before["launch"] :], stub.events("map")
    tensors, sizes, parameters = _meant(launcher, given, run.outputs)
    found: list[str] = []
    resources = version.resources.get(TARGET) or [None] * len(launches)
    for launch, event, row in zip(version.launches, launches, resources, strict=True):
        found += _differences(launch, event, maps, tensors, _with_programs(launch, row, sizes), parameters)
    loaded = stub.loaded()[before["load"] :]
    made = stub.made
    run()
    if len(stub.loaded()) != before["load"] + len(loaded):
        found.append("a second call loaded another binary")
    workspace = any(launch["workspace"] for launch in version.launches)
    if stub.made != made and not workspace:
        found.append("a second call made tensors, and might be recorded in a graph")
    kernels = [{k: e[k] for k in ("kernel", "grid", "block", "shared")} for e in launches]
    for row, event in zip(version.resources.get(TARGET, ()), launches, strict=False):
        if ([32 * row["warps"], 1, 1], row["shared"]) != (event["block"], event["shared"]):
            found.append(f"{row['kernel']}: compiled for {row['warps']} warps and {row['shared']} bytes")
    took = None if workspace else round(stub.microseconds(run.launch), 1)
    return {"version": run.version, "problems": found, "kernels": kernels, "loaded": loaded, "microseconds": took}


def _with_programs(
    launch: Mapping[str, Any], row: Mapping[str, Any] | None, sizes: Mapping[str, int]
) -> dict[str, int]:
    """With the number of persistent programs: those that the multiprocessors hold, and no more than there are tiles."""
    if "persistent" not in launch:
        return dict(sizes)
    tiles = math.prod(int(evaluate(extent, sizes)) for extent in launch["persistent"]["tiles"])
    fit = round(row["occupancy"] * WARPS / row["warps"]) if row else 1
    return {**sizes, launch["persistent"]["programs"]: min(tiles, PROCESSORS * fit)}


def _meant(
    launcher: Launcher, given: Mapping[str, Any], outputs: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, int], dict[str, float]]:
    """What the kernels must be given; a scratch tensor is the launcher's own and has a layout here, but no address."""
    tensors, sizes, parameters = launcher.check(given)
    scratch = {
        t["name"]: torch.empty([int(evaluate(e, sizes)) for e in t["shape"]], dtype=DTYPES[t["dtype"]]).to("meta")
        for t in launcher.plan["tensors"]
        if t["role"] == "scratch"
    }
    return {**scratch, **tensors, **outputs}, sizes, parameters


# ---- one launch --------------------------------------------------------------------------------------


def _differences(
    launch: Mapping[str, Any],
    event: Mapping[str, Any],
    maps: list[dict[str, Any]],
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
) -> Iterator[str]:
    where = launch["kernel"]
    programs = grid(launch, sizes)
    if event["kernel"] != where or event["grid"] != [programs, 1, 1]:
        yield f"{where}: {programs} programs were meant, {event['kernel']} has {event['grid']}"
    if event["problem"]:
        yield f"{where}: the driver refuses its {event['problem']}"
    if event["stream"] != STREAM:
        yield f"{where}: on stream {event['stream']}, not the current one"
    left = list(event["parameters"])
    for argument in launch["args"]:
        for told in _argument(argument, left, maps, tensors, sizes, parameters):
            yield f"{where}, {argument}: {told}"
    if [len(x) // 2 for x in left] != [8, 8]:  # Triton's own two scratch pointers
        yield f"{where}: {len(left)} parameters are left over"


def _argument(
    argument: list[Any],
    left: list[str],
    maps: list[dict[str, Any]],
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
) -> Iterator[str]:
    """Take an argument's parameters off the list and say how they differ from what is meant."""
    kind, name, *rest = argument
    x = tensors.get(name, NOTHING)
    match kind:
        case "descriptor" | "tiles":
            encoded = maps[integer(left.pop(0)[:16]) - 1]
            shape, strides = ([integer(left.pop(0)) for _ in rest[1]] for _ in range(2))
            yield from _map(encoded, x, rest[1], shape, strides)
        case "tensor":
            address = integer(left.pop(0), signed=False)
            if address != (x.data_ptr() or address):
                yield f"{address}, not {x.data_ptr()}"
        case "stride" | "box_stride":
            if x.stride(rest[0]) == 1:  # compiled in
                return
            given = integer(left.pop(0))
            if given != x.stride(rest[0]) and x.shape[rest[0]] > 1:
                yield f"{given}, not {x.stride(rest[0])}"
        case "size" | "integer":
            given = integer(left.pop(0))
            wanted = sizes[name] if kind == "size" else int(parameters[name])
            if given != wanted:
                yield f"{given}, not {wanted}"
        case "parameter":
            number = real(left.pop(0))
            if abs(number - parameters[name]) > 1e-6 * abs(parameters[name]):
                yield f"{number}, not {parameters[name]}"


def _map(
    encoded: Mapping[str, Any], x: torch.Tensor, box: list[int], shape: list[int], strides: list[int]
) -> Iterator[str]:
    """A tensor map lists the contiguous dimension first, strides in bytes without its own."""
    size = x.element_size()
    if encoded["problem"]:
        yield f"the driver refuses its {encoded['problem']}"
    if encoded["base"] != (x.data_ptr() or encoded["base"]) or encoded["type"] != MAP_TYPES[x.dtype]:
        yield f"base {encoded['base']} of type {encoded['type']}"
    if encoded["extents"] != list(x.shape)[::-1] or shape != list(x.shape):
        yield f"extents {encoded['extents']}, {shape}"
    wide = [i for i in range(x.dim() - 1) if x.shape[i] > 1]  # the others' strides move nothing
    backwards = [s // size for s in encoded["strides"]][::-1]
    if any(backwards[i] != x.stride(i) or strides[i] != x.stride(i) for i in wide) or strides[-1] != 1:
        yield f"strides {encoded['strides']}, {strides}"
    row = min(box[-1], (encoded["swizzle"] or box[-1] * size) // size)
    if encoded["box"] != [row, *box[-2::-1]]:
        yield f"box {encoded['box']} of {box}"
    if encoded["fill"] or encoded["interleave"] or set(encoded["steps"]) != {1}:
        yield f"other than plain boxes with zeros outside: {encoded}"


# ---- certificates ------------------------------------------------------------------------------------


def sizes_of(launcher: Launcher) -> dict[str, int]:
    """Small sizes that the certificate admits, tiles filled where they can be."""
    made = (within(launcher.plan, *lengths) for lengths in ((256, 2), *SHORT))
    return next(s for s in made if s is not None and admitted(launcher, s, torch.device("cpu")))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("certificates", nargs="+", type=Path)
    parser.add_argument("--sizes", type=json.loads, help="as JSON")
    parser.add_argument("--version")
    options = parser.parse_args(words)
    wrong = False
    with tempfile.TemporaryDirectory() as folder, stub_device(Path(folder)) as stub:
        for path in options.certificates:
            launcher = load(path)
            sizes = options.sizes or sizes_of(launcher)
            given = {**random_inputs(launcher.plan, sizes, torch.device("cpu"), 0), **sizes}
            for version in launcher.versions:
                if options.version not in (None, version.name):
                    continue
                try:
                    line = rehearse(launcher, version, given, stub)
                except Exception as error:  # what it raises is what a rehearsal is for
                    line = {"version": version.name, "problems": [f"{type(error).__name__}: {error}"]}
                wrong = wrong or bool(line["problems"])
                print(json.dumps({"certificate": path.name, "sizes": sizes, **line}), flush=True)
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
