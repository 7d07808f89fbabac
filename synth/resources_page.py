"""The page docs/resources.md: for every spec, case and target the default kernel, and what is not clean."""

from __future__ import annotations

from collections.abc import Sequence

from ir.spec import Spec
from synth.resources import (
    TARGETS,
    Row,
    case_name,
    cases,
    clean,
    defaults,
    exceptions,
    left_out,
    said,
    subjects,
    without_kernel,
    without_tensor_cores,
)

HEAD = """\
# What the kernels take, by ahead-of-time compilation

Made by `make resources` (`synth resources`) without a GPU: every kernel of docs/family.md goes through the gate, is
compiled for each target, and is read back from the machine code. Triton {triton}.

A target's default is the kernel predicted fastest (`synth/bench/cost.py`; the times are **predictions, not
measurements**) among those that compile for it without spilling a register to memory. Of a kernel's launches the table
shows the one with the most registers. A version that the compiler refuses, or that spills more than the one that runs
everywhere, is left out of certificates, and so of this. `tc` counts matrix instructions, `ex2` exponentials; occupancy
is resident warps over the most possible; tensor memory is in columns of 512. All rows:
benchmarks/results/resources.jsonl.
"""
TABLE = (
    "| settings | target | default kernel | launch | registers | shared | warps | tc | ex2 | occupancy | predicted |"
)
RULE = "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|"


def page_of(specs: Sequence[Spec], rows: Sequence[Row]) -> str:
    found = defaults(rows)
    versions = sorted({row["triton"] for row in rows if row.get("triton")})
    parts = [HEAD.format(triton=", ".join(versions)), *_missing(specs, rows)]
    for spec in specs:
        of_spec = {key[1:]: row for key, row in found.items() if key[0] == spec.name}
        if of_spec:
            ordered = sorted(
                of_spec.items(), key=lambda item: (_place(spec, item[1]), item[0][0], TARGETS.index(item[0][1]))
            )
            parts += [f"## {spec.name}", "", TABLE, RULE, *(_default(row) for _, row in ordered), ""]
    parts += _unclean(rows)
    return "\n".join(parts).rstrip() + "\n"


def _place(spec: Spec, row: Row) -> int:
    names = [case_name(spec, case) for case in cases(spec)]
    return names.index(row["case"]) if row["case"] in names else len(names)


def _missing(specs: Sequence[Spec], rows: Sequence[Row]) -> list[str]:
    missing = exceptions(specs, rows, TARGETS)
    parts = [
        f"- {spec}{case and ' ' + case}: nothing proved compiles for {target} without spills"
        for spec, case, target in missing
    ]
    parts += [
        f"- {spec}/{kernel}: `{launch}` multiplies 16-bit tiles without matrix instructions on {target}"
        for spec, kernel, launch, target in without_tensor_cores(rows)
    ]
    parts += [f"- {spec} {case}: no kernel ships, and none is composed" for spec, case in without_kernel(specs)]
    done = {(row["spec"], row["case"]) for row in rows}
    left = [spec.name for spec in specs if not {(spec.name, subject.case) for subject in subjects(spec)} <= done]
    parts += [f"- not compiled yet (`make resources` goes on where it was stopped): {', '.join(left)}"] if left else []
    return ["## Exceptions", "", *(parts or ["None."]), ""]


def _default(row: Row) -> str:
    k = max(row["kernels"], key=lambda k: k["registers"])
    memory = f"{k['shared'] / 1024:.0f} KiB" + (f" + {k['tensor_memory']} columns" if k["tensor_memory"] else "")
    predicted = f"{row['predicted'] * 1e3:.3g} ms" if "predicted" in row else ""
    cells = (
        said(row["settings"]), row["target"], f"`{row['kernel']}`, {row['version']}", f"`{k['name']}`", k["registers"],
        memory, k["warps"], k["tensor_core"], k["exponentials"], f"{k['occupancy']:.0%}", predicted,
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _unclean(rows: Sequence[Row]) -> list[str]:
    """Kernels that are nobody's default on a target and versions that are left out, and why."""
    dirty, without = [row for row in rows if not clean(row)], left_out(rows)
    parts = ["## Kernels that spill or do not fit", "", "| kernel | settings | target | what |", "|---|---|---|---|"]
    for row in dirty:
        spilled = ", ".join(f"`{k['name']}` spills {k['spills']} B" for k in row["kernels"] if k["spills"])
        what = row["problem"].splitlines()[0].replace("|", "\\|") if row["problem"] else spilled
        what += "; left out" if row in without else ""
        parts.append(
            f"| {row['spec']}/{row['kernel']} | {said(row['settings'])} | {row['target']}, {row['version']} | {what} |"
        )
    return [*parts, ""] if dirty else []
