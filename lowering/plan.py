"""What a launch needs to know, as plain JSON: kernels in order, their arguments, grids and tensors.

This is the contract between the emitted Triton, ahead-of-time compilation, the interpreter cross-check
and `lowering.launch`, which reads it back from a certificate without any of our other code. Integer
expressions are nested lists, `["floordiv", ["add", "M", 127], 128]`: a number, a size's name, or an
operator with its operands; `lowering.assumptions.evaluate` is their only reader.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ir import ast
from ir.program import Binary, Expr, Kernel, Literal, Load, Param, Program, Size, Store, Tensor, Unary
from ir.requirements import narrowed
from ir.spec import NO_FACTS, Bound, Facts
from lowering.accesses import BoxLoad, BoxStore
from verifier.recipes import Recipes

# Names an emitted module needs for itself; a candidate's tensor or size of that name gets a suffix.
RESERVED = frozenset({"tl", "triton", "torch", "range", "float", "pid", "_floordiv", "_mod", "_tanh", "_scaled"})
SYMBOLS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "<": "lt", "<=": "le",
    ">": "gt", ">=": "ge", "==": "eq", "!=": "ne", "and": "and", "or": "or",
}  # fmt: skip
FUNCTIONS = ("cdiv", "min", "max", "sqrt", "exp", "log", "abs")
Json = Any


class CannotPlan(Exception):
    """A spec or program holds an expression that launch metadata cannot express."""


def walk(node: object) -> Iterator[object]:
    """Every node of a typed statement or expression, parents first."""
    yield node
    if isinstance(node, tuple):
        for item in node:
            yield from walk(item)
    elif is_dataclass(node):
        for f in fields(node):
            value = getattr(node, f.name)
            if isinstance(value, tuple) or is_dataclass(value):
                yield from walk(value)


def argument_name(name: str) -> str:
    """The Python name of a kernel, tensor, size or parameter in the emitted module."""
    return f"{name}_arg" if keyword.iskeyword(name) or name in RESERVED else name


def stride_name(tensor: str, axis: int) -> str:
    return f"{tensor}_s{axis}"


def used_nodes(kernel: Kernel) -> list[object]:
    """Every node a kernel's code needs; the first grid extent is the launcher's business alone."""
    return [*walk(kernel.body), *walk(tuple(axis.extent for axis in kernel.grid[1:]))]


def arguments(kernel: Kernel, program: Program) -> list[list[Any]]:
    """A kernel's arguments in order: ["descriptor", "K", "bf16", [1, 1, 64, 128]] (of boxes of that extent),
    ["tensor", "Q", "bf16"], ["stride", "Q", 0], ["box_stride", "Q", 0] (one that TMA may be given, the same where the
    extent is more than 1), ["size", "N"], ["parameter", "scale"] (a real), ["integer", "seed"].

    Only what the kernel uses, in the order the spec lists it.
    """
    nodes = used_nodes(kernel)
    moved = [n for n in nodes if isinstance(n, BoxLoad | BoxStore)]
    boxes = {(n.tensor, n.box) for n in moved if not n.made}
    made = {n.tensor for n in moved if n.made}
    tensors = made | {n.tensor for n in nodes if isinstance(n, Load | Store) and not isinstance(n, BoxLoad | BoxStore)}
    used = [t for t in program.tensors if t.name in tensors]
    sizes = sorted({n.name for n in nodes if isinstance(n, Size)})
    parameters = sorted({(n.type.dtype.is_int, n.name) for n in nodes if isinstance(n, Param)})
    result: list[list[Any]] = [
        ["descriptor", t.name, t.dtype.value, list(box)]
        for t in program.tensors
        for box in sorted(box for name, box in boxes if name == t.name)
    ]
    result += [["tensor", t.name, t.dtype.value] for t in used]
    result += [
        ["box_stride" if t.name in made else "stride", t.name, axis] for t in used for axis in range(len(t.shape))
    ]
    result += [["size", name] for name in sizes]
    return result + [["integer" if integer else "parameter", name] for integer, name in parameters]


def expression(e: Expr) -> Json:
    """An integer expression over sizes (a grid extent, a tensor's extent) as JSON."""
    match e:
        case Literal(value=value) if value.denominator == 1:
            return int(value)
        case Size(name=name):
            return name
        case Binary(op=op, left=left, right=right):
            return [op, expression(left), expression(right)]
        case Unary(op=op, operand=x):
            return [op, expression(x)]
        case _:
            raise CannotPlan(f"{type(e).__name__} in an extent; extents are integer expressions over sizes")


def formula(e: ast.Expr, bound: Bound) -> Json:
    """A spec expression (a requirement, a parameter's default) as JSON, options and static sizes filled in."""
    match e:
        case ast.Number(value=value):
            return float(value) if e.is_float or value.denominator != 1 else int(value)
        case ast.Name(id=name):
            return _named(name, bound)
        case ast.Unary(op=op, operand=x):
            return ["neg" if op == "-" else "not", formula(x, bound)]
        case ast.Binary(op=op, left=ast.Name(id=option), right=ast.Text(value=text)) if op in ("==", "!="):
            return (bound.setting(option) == text) is (op == "==")
        case ast.Binary(op=op, left=left, right=right):
            return [SYMBOLS[op], formula(left, bound), formula(right, bound)]
        case ast.Call(function=f, args=args, keywords=()) if f in FUNCTIONS:
            return [f, *(formula(a, bound) for a in args)]
        case ast.If(condition=c, then=x, otherwise=y):
            return ["if", formula(c, bound), formula(x, bound), formula(y, bound)]
        case _:
            raise CannotPlan(f"{type(e).__name__} in a requirement or default of spec {bound.spec.name}")


def _named(name: str, bound: Bound) -> Json:
    if name in ("true", "false"):
        return name == "true"
    setting = bound.setting(name)
    if isinstance(setting, int):
        return setting
    if any(d.name == name for d in bound.dims):
        return name
    raise CannotPlan(f"{name} is neither a size nor a static dimension of spec {bound.spec.name}")


def _tensor(t: Tensor, bound: Bound) -> Json:
    ranges = {spec.name: spec.abs_max for spec, _ in bound.inputs}
    saved = t.name in {spec.name for spec, _ in bound.inputs if spec.saved}
    facts = next((_facts(spec.facts, bound) for spec, _ in bound.inputs if spec.name == t.name), None)
    return {
        "name": t.name,
        "shape": [expression(e) for e in t.shape],
        "dtype": t.dtype.value,
        "role": t.role,
        "abs_max": ranges.get(t.name),
        "saved": saved,
        "facts": facts,
    }


def _facts(facts: Facts, bound: Bound) -> Json:
    """What a launcher checks of an integer input; None where the spec states nothing."""
    if facts == NO_FACTS:
        return None
    limits = {"min": facts.least, "max": facts.most, "splits": facts.splits, "longest": facts.longest}
    return {key: None if e is None else formula(e, bound) for key, e in limits.items()}


def launch_of(kernel: Kernel, program: Program) -> Json:
    """One kernel's entry: name, grid extents, arguments, whether Triton asks for memory of its own (for descriptors a
    kernel makes), whether it adds atomically, schedule."""
    s = kernel.schedule
    around = replace(program, kernels=tuple(kernel if k.name == kernel.name else k for k in program.kernels))
    return {
        "kernel": argument_name(kernel.name),
        "grid": [expression(axis.extent) for axis in kernel.grid],
        "args": arguments(kernel, program),
        "workspace": any(isinstance(n, BoxLoad | BoxStore) and bool(n.made) for n in used_nodes(kernel)),
        "atomic": any(isinstance(n, Store) and n.atomic for n in used_nodes(kernel)),
        "schedule": {
            "num_warps": s.num_warps,
            "num_stages": s.num_stages,
            "maxnreg": s.maxnreg,
            "warp_specialize": s.warp_specialize,
            # Triton contracts a product and a difference into one operation unless it is told not to.
            **({"fp_fusion": False} if Recipes(around).fusible(kernel.name) else {}),
        },
    }


def launches_of(program: Program) -> list[Json]:
    """What a launcher launches, in order."""
    return [launch_of(k, program) for k in program.kernels]


def plan(program: Program, bound: Bound) -> Json:
    """Everything a launcher checks and allocates, whichever version of the program runs."""
    return {
        "tensors": [_tensor(t, bound) for t in program.tensors],
        "sizes": {d.name: [d.minimum, d.maximum] for d in bound.dims},
        "parameters": {
            p.name: {"min": p.lower, "max": p.upper, "default": formula(p.default, bound), "integer": p.integer}
            for p in bound.spec.parameters
        },
        "requires": [formula(r, bound) for r in narrowed(bound, program).spec.requires],
        "max_stride": bound.spec.max_stride,
    }


