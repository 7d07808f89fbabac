"""Runs a certified kernel, after checking everything its proof assumes of the caller.

`load("kernel.cert.json")` gives a `Launcher`; calling it with tensors by the spec's names returns the
outputs. A proof says "for every size within the limits, for inputs of this dtype, ...": each of those
is an assumption with an id, and a call that breaks one raises `AssumptionViolated` before anything
runs. The file is read once and its content hash checked; what runs is made from that text in memory,
so that nothing written to disk later, before the first launch or after, can take its place.

Self-contained on purpose: imports nothing but the standard library, torch, `lowering.facts` and (through the emitted
module) Triton, so that a certificate can be used where none of the proving code is installed.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from lowering.emitted import emitted_module
from lowering.facts import broken_fact

FORMAT = 1
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
    device can start), "gradient" for one that would be lost, or "arguments" for a call that names the
    wrong ones. `next_step` says what to change.
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


# ---- running a plan --------------------------------------------------------------------------


def run_plan(
    module: ModuleType,
    plan: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
) -> None:
    """Launch every kernel in order on tensors that already exist."""
    for launch in plan["launches"]:
        programs = grid(launch, sizes)
        if programs <= 0:
            continue
        arguments = [_argument(a, tensors, sizes, parameters) for a in launch["args"]]
        schedule = launch["schedule"]
        options = {"num_warps": schedule["num_warps"], "num_stages": schedule["num_stages"]}
        if schedule["maxnreg"] is not None and torch.version.hip is None:
            options["maxnreg"] = schedule["maxnreg"]
        getattr(module, launch["kernel"])[(programs,)](*arguments, **options)


def grid(launch: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    """How many programs a launch has. Raises AssumptionViolated (grid) beyond what a device can start."""
    programs = math.prod(max(int(evaluate(extent, sizes)), 0) for extent in launch["grid"])
    if programs > GRID_LIMIT:
        message = f"{launch['kernel']} needs {programs} programs, more than 2^31 - 1"
        raise AssumptionViolated("grid", message, "split the batch into several calls")
    return programs


def _argument(
    argument: list[Any],
    tensors: Mapping[str, torch.Tensor],
    sizes: Mapping[str, int],
    parameters: Mapping[str, float],
) -> Any:
    match argument:
        case ["tensor", name, *_]:
            return tensors[name]
        case ["stride", name, axis]:
            return tensors[name].stride(axis)
        case ["size", name]:
            return sizes[name]
        case ["integer", name]:
            return int(parameters[name])
        case ["parameter", name]:
            return float(parameters[name])
        case _:
            raise LaunchError(f"the certificate holds a kernel argument this version cannot read: {argument!r}")


def allocate(
    plan: Mapping[str, Any], sizes: Mapping[str, int], roles: tuple[str, ...], device: torch.device | str
) -> dict[str, torch.Tensor]:
    """New contiguous tensors, uninitialised, for every tensor of the given roles."""
    return {
        t["name"]: torch.empty([int(evaluate(e, sizes)) for e in t["shape"]], dtype=DTYPES[t["dtype"]], device=device)
        for t in plan["tensors"]
        if t["role"] in roles
    }


# ---- checking a call -------------------------------------------------------------------------


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
            size, more = (extent[1], extent[2]) if _shifted(extent) else (extent, 0)
            if isinstance(size, str) and x is not None:
                place, value = f"dimension {axis} of {t['name']}", x.shape[axis] - more
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


def _shifted(extent: Any) -> bool:
    """B + 1: an extent that gives the size B."""
    return isinstance(extent, list) and extent[0] == "add" and isinstance(extent[2], int)


def _check_shapes(plan: Mapping[str, Any], given: Mapping[str, torch.Tensor], sizes: Mapping[str, int]) -> None:
    for t in plan["tensors"]:
        if t["name"] in given:
            wanted = [int(evaluate(e, sizes)) for e in t["shape"]]
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


def _device(given: Mapping[str, torch.Tensor], plan: Mapping[str, Any]) -> torch.device:
    inputs = [t["name"] for t in plan["tensors"] if t["role"] == "input"]
    missing = [name for name in inputs if name not in given]
    if missing:
        raise AssumptionViolated("arguments", f"no value for {', '.join(missing)}", f"inputs are {', '.join(inputs)}")
    devices = {x.device for x in given.values()}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices)))
        raise AssumptionViolated("dtype", f"tensors are on {found}", "move them to one device")
    return devices.pop()


# ---- the launcher ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Launcher:
    """A certified kernel ready to run. Call it with the spec's inputs by name.

    `subject`: the candidate's and the spec's text and the settings they were proved under; `contracts`: what
    each name of the spec means, as text.
    """

    certificate: str
    subject: dict[str, Any] = field(repr=False)
    plan: dict[str, Any] = field(repr=False)
    contracts: dict[str, str] = field(repr=False)
    source: str = field(repr=False)

    def __call__(
        self, *, check_range: bool = False, check_facts: bool = True, **arguments: Any
    ) -> dict[str, torch.Tensor]:
        """Run; returns the outputs by name.

        `arguments`: every input; optionally outputs to write into, parameters (else the spec's default),
        and sizes no tensor shape gives. `check_range` also checks |x| <= abs_max, which reads the
        inputs once. `check_facts=False` leaves out what the spec states of integer inputs, which waits for the
        device: then the caller answers for it, and an index out of range is undefined behaviour. Raises
        AssumptionViolated, with nothing run.
        """
        return self.prepare(check_range=check_range, check_facts=check_facts, **arguments)()

    def prepare(
        self, *, check_range: bool = False, check_facts: bool = True, **arguments: Any
    ) -> Callable[[], dict[str, torch.Tensor]]:
        """Check and allocate once; the function returned only launches, into the same outputs each time, and
        relies on integer inputs staying as they were checked."""
        plan = self.plan
        given, sizes, parameters = self.check(arguments, check_range, check_facts)
        device = next(iter(given.values())).device
        if device.type != "cuda":
            raise AssumptionViolated("dtype", f"tensors are on {device}", "move them to a GPU")
        tensors = allocate(plan, sizes, ("output", "scratch"), device) | given
        outputs = {t["name"]: tensors[t["name"]] for t in plan["tensors"] if t["role"] == "output"}

        def run() -> dict[str, torch.Tensor]:
            with torch.cuda.device(device):
                run_plan(emitted_module(self.source), plan, tensors, sizes, parameters)
            return outputs

        return run

    def check(
        self, arguments: Mapping[str, Any], check_range: bool = False, check_facts: bool = True
    ) -> tuple[dict[str, torch.Tensor], dict[str, int], dict[str, float]]:
        """The tensors, sizes and parameters of a call, once every assumption on them holds."""
        plan = self.plan
        callers = [t["name"] for t in plan["tensors"] if t["role"] in ("input", "output")]
        unknown = [k for k in arguments if k not in {*callers, *plan["sizes"], *plan["parameters"]}]
        if unknown:
            known = ", ".join([*callers, *plan["parameters"]])
            raise AssumptionViolated("arguments", f"unknown argument {', '.join(unknown)}", f"known are {known}")
        given = {k: v for k, v in arguments.items() if k in callers}
        _check_tensors(plan, given)
        _device(given, plan)
        _check_gradients(given)
        sizes = _sizes(plan, given, _named_sizes(plan, arguments))
        _check_shapes(plan, given, sizes)
        parameters = _parameters(plan, {k: v for k, v in arguments.items() if k in plan["parameters"]}, sizes)
        _check_aliases(plan, given)
        for launch in plan["launches"]:
            grid(launch, sizes)
        if check_facts:
            _check_facts(plan, given, sizes)
        if check_range:
            _check_range(plan, given)
        return given, sizes, parameters


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LaunchError(f"{path}: cannot be read as a certificate: {error}") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise LaunchError(f"{path}: not a certificate of format {FORMAT}")
    claimed = body.pop("id", None)
    actual = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    if claimed != actual:
        raise LaunchError(f"{path}: content does not match its id; it was changed after it was issued")
    if "contracts" not in body.get("lowered", {}):
        raise LaunchError(f"{path}: holds no emitted kernel; lower it first (synth prove-and-run does)")
    lowered = body["lowered"]
    if hashlib.sha256(lowered["source"].encode()).hexdigest() != lowered["source_sha256"]:
        raise LaunchError(f"{path}: the emitted Triton does not match its hash")
    return {"id": claimed, **body}


def load(path: str | Path) -> Launcher:
    """Read a certificate and make its kernels callable. Raises LaunchError; checks the content hash.

    Hashes protect against damage, not against a forger: load certificates you trust, for their
    emitted module is executed (at the first launch).
    """
    body = _read(Path(path))
    lowered = body["lowered"]
    return Launcher(body["id"], body["subject"], lowered["plan"], lowered["contracts"], lowered["source"])
