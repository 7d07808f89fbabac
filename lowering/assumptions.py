"""What a proof assumes of its caller, checked at a call before anything runs.

A plan (lowering.plan) says what the tensors, sizes and parameters of a certificate are; `check` takes a call apart
and raises AssumptionViolated, naming the assumption, for the first thing the proof does not cover. Only the standard
library and torch, as `lowering.launch`.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lowering.facts import broken_fact

GRID_LIMIT = 2**31 - 1
DTYPES = {
    "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "i32": torch.int32, "i64": torch.int64, "bool": torch.bool,
}  # fmt: skip
Number = int | float | bool


class LaunchError(Exception):
    """The certificate file cannot be used: damaged, changed, of another format, or never lowered."""


class AssumptionViolated(Exception):
    """The call breaks something the proof assumes of the caller; nothing was run.

    `assumption` is its id in the certificate's ledger: sizes, dtype (and device), layout (strides,
    alignment and aliasing), parameters, input-range, facts-NAME (of an integer input); or "grid" (what a
    device can start), "determinism" (asked of torch), "gradient" for one that would be lost, or "arguments"
    for a call that names the wrong ones. `next_step` says what to change.
    """

    args: tuple[str, str, str]  # assumption, message, next step

    @property
    def assumption(self) -> str:
        return self.args[0]

    @property
    def message(self) -> str:
        return self.args[1]

    @property
    def next_step(self) -> str:
        return self.args[2]

    def __str__(self) -> str:
        return f"[{self.assumption}] {self.message}; {self.next_step}"


# ---- expressions of the plan -----------------------------------------------------------------

OPERATORS: dict[str, Callable[..., Number]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "floordiv": operator.floordiv, "mod": operator.mod, "cdiv": lambda a, b: -(-a // b),
    "min": min, "max": max, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "eq": operator.eq, "ne": operator.ne, "and": lambda a, b: bool(a and b), "or": lambda a, b: bool(a or b),
    "neg": operator.neg, "not": operator.not_, "abs": abs, "sqrt": math.sqrt, "exp": math.exp, "log": math.log,
    "if": lambda c, a, b: a if c else b,
}  # fmt: skip


def evaluate(expression: Any, values: Mapping[str, int]) -> Number:
    """The value of a plan expression: a number, a size's name, or [operator, operand, ...]."""
    match expression:
        case bool() | int() | float():
            return expression
        case str() if expression in values:
            return values[expression]
        case [str(name), *operands] if name in OPERATORS:
            return OPERATORS[name](*(evaluate(o, values) for o in operands))
        case _:
            raise LaunchError(f"the certificate holds an expression this version cannot read: {expression!r}")


def extents(tensor: Mapping[str, Any], sizes: Mapping[str, int]) -> list[int]:
    """The shape a plan gives a tensor at these sizes. One whose extent is below 0 there has no cells."""
    return [max(int(evaluate(e, sizes)), 0) for e in tensor["shape"]]


def show(expression: Any) -> str:
    """A plan expression for a person: H % G == 0."""
    symbols = {
        "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "lt": "<", "le": "<=",
        "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "and": "and", "or": "or",
    }  # fmt: skip
    match expression:
        case [op, a, b] if op in symbols:
            inner = [f"({show(x)})" if isinstance(x, list) and op not in ("eq", "ne") else show(x) for x in (a, b)]
            return f"{inner[0]} {symbols[op]} {inner[1]}"
        case [op, *operands]:
            return f"{op}({', '.join(map(show, operands))})"
        case _:
            return str(expression)


# ---- checking a call -------------------------------------------------------------------------


def check(
    plan: Mapping[str, Any], arguments: Mapping[str, Any], check_range: bool = False, check_facts: bool = True
) -> tuple[dict[str, torch.Tensor], dict[str, int], dict[str, float]]:
    """The tensors, sizes and parameters of a call, once every assumption on them holds. Raises AssumptionViolated."""
    callers = [t["name"] for t in plan["tensors"] if t["role"] in ("input", "output")]
    unknown = [k for k in arguments if k not in {*callers, *plan["sizes"], *plan["parameters"]}]
    if unknown:
        known = ", ".join([*callers, *plan["parameters"]])
        raise AssumptionViolated("arguments", f"unknown argument {', '.join(unknown)}", f"known are {known}")
    given = {k: v for k, v in arguments.items() if k in callers}
    _check_tensors(plan, given)
    _check_device(plan, given)
    _check_gradients(given)
    sizes = _sizes(plan, given, _named_sizes(plan, arguments))
    _check_shapes(plan, given, sizes)
    parameters = _parameters(plan, arguments, sizes)
    _check_aliases(plan, given)
    if check_facts:
        _check_facts(plan, given, sizes)
    if check_range:
        _check_range(plan, given)
    return given, sizes, parameters


def grid(launch: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    """How many programs a launch has. Raises AssumptionViolated (grid) beyond what a device can start."""
    programs = math.prod(max(int(evaluate(extent, sizes)), 0) for extent in launch["grid"])
    if programs > GRID_LIMIT:
        message = f"{launch['kernel']} needs {programs} programs, more than 2^31 - 1"
        raise AssumptionViolated("grid", message, "split the batch into several calls")
    return programs


def _check_tensors(plan: Mapping[str, Any], given: Mapping[str, torch.Tensor]) -> None:
    for t in plan["tensors"]:
        x = given.get(t["name"])
        if x is None:
            continue
        name = t["name"]
        if type(x) not in (torch.Tensor, torch.nn.Parameter):  # a subclass may keep its cells elsewhere
            raise AssumptionViolated("arguments", f"{name} is a {type(x).__name__}", "pass a plain torch.Tensor")
        if x.layout is not torch.strided or x.is_neg() or x.is_conj():
            raise AssumptionViolated(
                "layout", f"{name} is not stored as strided cells holding its values",
                f"pass a dense copy ({name}.to_dense(), {name}.resolve_neg())",
            )  # fmt: skip
        if x.dtype is not DTYPES[t["dtype"]]:
            wanted = str(DTYPES[t["dtype"]]).removeprefix("torch.")
            raise AssumptionViolated(
                "dtype", f"{name} is {str(x.dtype).removeprefix('torch.')}, the proof is for {wanted}",
                f"cast it ({name}.to(torch.{wanted})) or prove the kernel for this dtype",
            )  # fmt: skip
        if x.dim() != len(t["shape"]):
            raise AssumptionViolated(
                "sizes", f"{name} has {x.dim()} dimensions, the spec gives it {len(t['shape'])}",
                f"reshape it to [{', '.join(map(show, t['shape']))}]",
            )  # fmt: skip
        for axis, (extent, stride) in enumerate(zip(x.shape, x.stride(), strict=True)):
            if extent > 1 and not 0 <= stride <= plan["max_stride"]:
                raise AssumptionViolated(
                    "layout", f"stride {stride} of {name} in dimension {axis} is outside 0..{plan['max_stride']}",
                    f"pass {name}.contiguous()",
                )  # fmt: skip
        if x.device.type != "meta" and x.data_ptr() % x.element_size():
            raise AssumptionViolated(
                "layout", f"{name} starts at an address that is no multiple of its {x.element_size()}-byte element",
                f"pass {name}.clone()",
            )  # fmt: skip


def _sizes(plan: Mapping[str, Any], given: Mapping[str, torch.Tensor], named: Mapping[str, int]) -> dict[str, int]:
    """Every size, read off the tensors' shapes; they must agree with each other and with the limits."""
    sizes = dict(named)
    source = {name: f"the argument {name}" for name in named}
    for t in plan["tensors"]:
        x = given.get(t["name"])
        for axis, extent in enumerate(t["shape"] if x is not None else ()):
            found = size_in(extent)
            if found is not None and x is not None:
                size, place, value = found[0], f"dimension {axis} of {t['name']}", x.shape[axis] - found[1]
                if sizes.setdefault(size, value) != value:
                    message = f"{size} is {sizes[size]} in {source[size]} and {value} in {place}"
                    raise AssumptionViolated("sizes", message, "pass tensors of one size")
                source.setdefault(size, place)
    for name, (low, high) in plan["sizes"].items():
        if name not in sizes:
            raise AssumptionViolated("arguments", f"no tensor gives the size {name}", f"pass {name}=...")
        if not low <= sizes[name] <= high:
            message = f"{name} = {sizes[name]} is outside {low}..{high}"
            raise AssumptionViolated("sizes", message, "use sizes the proof covers, or widen the spec and prove again")
    return sizes


def _named_sizes(plan: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, int]:
    try:
        return {k: operator.index(v) for k, v in arguments.items() if k in plan["sizes"]}
    except TypeError as error:
        raise AssumptionViolated("arguments", "a size is not an integer", "pass an int") from error


def size_in(extent: Any) -> tuple[str, int] | None:
    """The size an extent gives, and what it adds to it: M gives M, B + 1 gives B."""
    match extent:
        case str():
            return extent, 0
        case ["add", str(name), int(more)]:
            return name, more
        case _:
            return None


def _check_shapes(plan: Mapping[str, Any], given: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> None:
    for t in plan["tensors"]:
        if t["name"] in given:
            wanted = extents(t, sizes)
            if list(given[t["name"]].shape) != wanted:
                message = f"{t['name']} has shape {list(given[t['name']].shape)}, expected {wanted}"
                raise AssumptionViolated("sizes", message, f"the spec says [{', '.join(map(show, t['shape']))}]")
    for requirement in plan["requires"]:
        if not evaluate(requirement, sizes):
            values = ", ".join(f"{k} = {v}" for k, v in sorted(sizes.items()))
            raise AssumptionViolated("sizes", f"{show(requirement)} does not hold", f"sizes are {values}")


def _parameters(plan: Mapping[str, Any], named: Mapping[str, float], sizes: Mapping[str, int]) -> dict[str, float]:
    result = {}
    for name, limits in plan["parameters"].items():
        value: Any = named[name] if named.get(name) is not None else evaluate(limits["default"], sizes)
        try:
            value = operator.index(value) if limits["integer"] else float(value)
        except (TypeError, ValueError) as error:
            kind = "an integer" if limits["integer"] else "a float"
            raise AssumptionViolated("arguments", f"{name} = {named[name]!r} is not {kind}", f"pass {kind}") from error
        if not limits["min"] <= value <= limits["max"]:  # also refuses NaN
            message = f"{name} = {value} is outside {limits['min']}..{limits['max']}"
            raise AssumptionViolated("parameters", message, "use a value the proof covers")
        result[name] = value
    return result


def _extent(x: torch.Tensor) -> tuple[int, int]:
    """First and one-past-last byte a tensor may touch."""
    if x.numel() == 0:
        return 0, 0
    reach = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (reach + 1) * x.element_size()


def _check_aliases(plan: Mapping[str, Any], given: Mapping[str, torch.Tensor]) -> None:
    written = [t["name"] for t in plan["tensors"] if t["role"] == "output" and t["name"] in given]
    for name in written:
        reach = 1
        for stride, extent in sorted((s, n) for n, s in zip(given[name].shape, given[name].stride(), strict=True)):
            if extent > 1 and stride < reach:
                raise AssumptionViolated("layout", f"cells of {name} overlap each other", "pass a tensor of its own")
            reach = max(reach, stride * (extent - 1) + reach)
        low, high = _extent(given[name])
        for other in given:
            first, last = _extent(given[other])
            if other != name and first < high and low < last:
                raise AssumptionViolated("layout", f"output {name} overlaps {other} in memory", "pass separate tensors")


def _check_gradients(given: Mapping[str, torch.Tensor]) -> None:
    recorded = [name for name, x in given.items() if x.requires_grad] if torch.is_grad_enabled() else []
    if recorded:
        message = f"{', '.join(recorded)} requires a gradient, which a launch does not record"
        raise AssumptionViolated("gradient", message, "call it through synth.load, or under torch.no_grad()")


def _check_range(plan: Mapping[str, Any], given: Mapping[str, torch.Tensor]) -> None:
    for t in plan["tensors"]:
        x = given.get(t["name"])
        if x is None or t["role"] != "input" or t["saved"] or not x.is_floating_point() or x.numel() == 0:
            continue
        largest = float(x.abs().amax())
        limit = torch.finfo(x.dtype).max if t["abs_max"] is None else t["abs_max"]
        if not largest <= limit:  # also refuses NaN
            message = f"|{t['name']}| reaches {largest:g}, the proof assumes at most {limit:g}"
            raise AssumptionViolated("input-range", message, "scale the input or prove with a larger abs_max")


def _check_facts(plan: Mapping[str, Any], given: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> None:
    for t in plan["tensors"]:
        x = given.get(t["name"])
        if x is not None and t["facts"] is not None and x.numel() > 0:
            says = broken_fact(t["name"], t["facts"], x, lambda e: int(evaluate(e, sizes)), show)
            if says:
                raise AssumptionViolated(f"facts-{t['name']}", says, "the kernel would read what it must not")


def check_determinism(launches: Sequence[Mapping[str, Any]]) -> None:
    """Atomic adds come in any order: as torch does, refuse (or warn) where deterministic algorithms are asked for."""
    atomic = ", ".join(launch["kernel"] for launch in launches if launch["atomic"])
    if atomic and torch.are_deterministic_algorithms_enabled():
        message = f"{atomic} adds atomically, so results differ from run to run in their last bits"
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise AssumptionViolated("determinism", message, "load a certificate without atomics")
        warnings.warn(message, stacklevel=3)


def _check_device(plan: Mapping[str, Any], given: Mapping[str, torch.Tensor]) -> None:
    inputs = [t["name"] for t in plan["tensors"] if t["role"] == "input"]
    missing = [name for name in inputs if name not in given]
    if missing:
        raise AssumptionViolated("arguments", f"no value for {', '.join(missing)}", f"inputs are {', '.join(inputs)}")
    devices = sorted({str(x.device) for x in given.values()})
    if len(devices) != 1:
        raise AssumptionViolated("dtype", f"tensors are on {', '.join(devices)}", "move them to one device")
