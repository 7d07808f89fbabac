"""A certificate as a PyTorch operator, for any spec: `torch.ops.certified.NAME_ID`.

The operator takes the spec's inputs, parameters and sizes and returns its outputs. It is opaque to
`torch.compile` on purpose: what runs is the text that was certified, not what a compiler made of it. CUDA
tensors launch the emitted Triton (torch and triton are all that needs); CPU tensors run the certified
candidate itself in the CPU executor, which brings in the proving code.

Autograd pairs two certificates by the names of their tensors: the backward one takes the forward's inputs,
whatever the forward saved (its outputs), and `dY` for an output Y; it returns `dX` for inputs X. The forward
certificate is what discharges the backward's assumption "O is what the spec says", so `pair` refuses two
that do not mean the same by a name they share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.autograd import forward_ad

from lowering.assumptions import DTYPES, AssumptionViolated, LaunchError, extents, size_in
from lowering.launch import Launcher
from lowering.portfolio import Portfolio

NAMESPACE = "certified"
Certified = Launcher | Portfolio  # one certificate, or several of one thing
Result = torch.Tensor | tuple[torch.Tensor, ...]


class NoGradient(RuntimeError):
    """A gradient was asked for that no certificate covers."""


@dataclass(frozen=True)
class Signature:
    """What a certificate's operator takes, in order, and what it returns. `more`: sizes that only its backward
    asks for."""

    plan: Mapping[str, Any]
    more: tuple[str, ...] = ()

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return tuple(t["name"] for t in self.plan["tensors"] if t["role"] == "input")

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(t["name"] for t in self.plan["tensors"] if t["role"] == "output")

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.plan["parameters"])

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """The sizes no input's shape gives, and those of the backward."""
        inputs = [t for t in self.plan["tensors"] if t["role"] == "input"]
        given = {found[0] for t in inputs for extent in t["shape"] if (found := size_in(extent))}
        return (*(name for name in self.plan["sizes"] if name not in given), *self.more)

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        return (*self.inputs, *self.parameters, *self.sizes)

    @property
    def schema(self) -> str:
        """As torch.library reads it; a parameter left out takes the spec's default."""
        takes = [f"Tensor {name}" for name in self.inputs]
        takes += [f"{'SymInt' if p['integer'] else 'float'}? {name}" for name, p in self.plan["parameters"].items()]
        takes += [f"SymInt {name}" for name in self.sizes]
        gives = ", ".join("Tensor" for _ in self.outputs)
        return f"({', '.join([*takes, 'bool check_range'])}) -> {gives if len(self.outputs) == 1 else f'({gives})'}"


@dataclass(frozen=True, eq=False)
class Operator:
    """A certified kernel, and the one for its gradient if there is one. Call it with the spec's inputs by name."""

    launcher: Certified
    backward: Operator | None
    check_range: bool
    entry: Any  # torch.library.CustomOpDef

    @cached_property
    def signature(self) -> Signature:
        return _signature(self.launcher, self.backward)

    def __reduce__(self) -> tuple[Any, ...]:
        """A model that holds it can be copied and pickled: the torch operator is defined again, or found."""
        return operator, (self.launcher, self.backward.launcher if self.backward else None, self.check_range)

    def __call__(self, **arguments: Any) -> dict[str, torch.Tensor]:
        """The outputs by name. Takes every input, parameters (else the spec's default), and sizes no input's
        shape gives. Raises AssumptionViolated when the call breaks what the proof assumes."""
        found = self.run(arguments)
        anchor = next((x for x in arguments.values() if isinstance(x, torch.Tensor) and x.requires_grad), None)
        if self.backward is not None and anchor is not None:
            for y in found:
                if f"d{y}" not in self.backward.signature.inputs:
                    found[y] = undifferentiated(found[y], anchor, y)
        return found

    def run(self, arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """As a call, but an output that the backward certificate has no gradient of is merely detached."""
        s = self.signature
        unknown = [name for name in arguments if name not in s.arguments]
        if unknown:
            message = f"unknown argument {', '.join(unknown)}"
            raise AssumptionViolated("arguments", message, f"known are {', '.join(s.arguments)}")
        missing = [name for name in (*s.inputs, *s.sizes) if arguments.get(name) is None]
        if missing:
            message = f"no value for {', '.join(missing)}"
            raise AssumptionViolated("arguments", message, f"arguments are {', '.join(s.arguments)}")
        if not torch.compiler.is_compiling():
            for name in s.inputs:
                _check_transform(name, arguments[name])
        found = self.entry(*(arguments.get(name) for name in s.arguments), self.check_range)
        return dict(zip(s.outputs, _tuple(found), strict=True))


def _signature(launcher: Certified, backward: Operator | None) -> Signature:
    alone = Signature(launcher.plan)
    asked = () if backward is None else backward.signature.sizes
    return Signature(launcher.plan, tuple(x for x in asked if x not in (*alone.arguments, *launcher.plan["sizes"])))


# Operators are global in torch, so the same certificate loaded again is the same operator.
_DEFINED: dict[str, Any] = {}


def operator(launcher: Certified, backward: Certified | None = None, check_range: bool = False) -> Operator:
    """Define the torch operator of a certificate. Raises LaunchError when the two do not belong together."""
    if backward is not None:
        pair(launcher, backward)
    then = None if backward is None else operator(backward, None, check_range)
    ids = [launcher.certificate[:16]] + ([] if backward is None else [backward.certificate[:16]])
    name = re.sub(r"\W", "_", f"{launcher.subject['spec']['name']}_{'_'.join(ids)}")
    if name not in _DEFINED:
        _DEFINED[name] = _define(name, launcher, then)
    return Operator(launcher, then, check_range, _DEFINED[name])


def _define(name: str, launcher: Certified, backward: Operator | None) -> Any:
    s = _signature(launcher, backward)

    def run(*arguments: Any) -> Result:
        named = zip(s.arguments, arguments, strict=False)
        given = {k: v for k, v in named if v is not None and k not in s.more}
        found = execute(launcher, given, check_range=bool(arguments[-1]))
        outputs = tuple(found[output] for output in s.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def fake(*arguments: Any) -> Result:
        outputs = tuple(_fake(launcher.plan, dict(zip(s.arguments, arguments, strict=False))))
        return outputs[0] if len(outputs) == 1 else outputs

    def save(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
        outputs = _tuple(output)
        ctx.set_materialize_grads(False)
        ctx.like = [(y.shape, y.dtype, y.device) for y in outputs]
        if backward is not None:
            known = dict(zip((*s.arguments, "check_range", *s.outputs), (*inputs, *outputs), strict=True))
            taken = backward.signature
            ctx.save_for_backward(*(known[x] for x in taken.inputs if x in known))
            ctx.scalars = {x: known[x] for x in (*taken.parameters, *taken.sizes)}
            ctx.check_range = known["check_range"]
            plain = [y for name, y in zip(s.outputs, outputs, strict=True) if f"d{name}" not in taken.inputs]
            ctx.mark_non_differentiable(*plain)

    def gradient(ctx: Any, *given: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        wanted = [x for x, needed in zip(s.inputs, ctx.needs_input_grad, strict=False) if needed]
        if backward is None:
            raise NoGradient(f"{name} was loaded without a backward certificate; pass backward=... to synth.load")
        absent = [x for x in wanted if f"d{x}" not in backward.signature.outputs]
        if absent:
            raise NoGradient(f"{name}: the backward certificate stores no d{absent[0]}; detach the input {absent[0]}")
        names = [x for x in backward.signature.inputs if x in (*s.inputs, *s.outputs)]
        saved = dict(zip(names, ctx.saved_tensors, strict=True))
        for y, dy, (shape, dtype, device) in zip(s.outputs, given, ctx.like, strict=True):
            if f"d{y}" in backward.signature.inputs:
                saved[f"d{y}"] = torch.zeros(shape, dtype=dtype, device=device) if dy is None else dy
        arguments = saved | ctx.scalars
        found = backward.entry(*(arguments[x] for x in backward.signature.arguments), ctx.check_range)
        stored = dict(zip(backward.signature.outputs, _tuple(found), strict=True))
        gradients = [stored[f"d{x}"] if x in wanted else None for x in s.inputs]
        return (*gradients, *[None] * (len(s.arguments) - len(s.inputs) + 1))

    entry = torch.library.custom_op(f"{NAMESPACE}::{name}", run, mutates_args=(), schema=s.schema)
    entry.register_fake(fake)
    entry.register_autograd(gradient, setup_context=save)
    return entry


def _tuple(result: Result | list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)


def _check_transform(name: str, x: torch.Tensor) -> None:
    """Refuse forward-mode and torch.func gradients, which torch would take for zero or fail on unclearly."""
    inner = x
    while torch._C._functorch.is_functorch_wrapped_tensor(inner):
        if torch._C._functorch.is_gradtrackingtensor(inner):
            raise NoGradient(f"{name} is under torch.func.grad or jvp; use torch.autograd (backward, autograd.grad)")
        inner = torch._C._functorch.get_unwrapped(inner)
    if forward_ad.unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
        raise NoGradient(f"{name} carries a forward-mode tangent; certificates have reverse mode only")


def _fake(plan: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[torch.Tensor]:
    """Empty outputs of the right shapes, which may be symbolic; a call's assumptions are checked when it runs."""
    if forward_ad._current_level >= 0:  # while compiling, tangents cannot be seen on the tensors themselves
        raise NoGradient("forward-mode differentiation is active; certificates have reverse mode only")
    sizes = {name: arguments[name] for name in plan["sizes"] if name in arguments}
    inputs = [t for t in plan["tensors"] if t["role"] == "input"]
    for t in inputs:
        for extent, value in zip(t["shape"], arguments[t["name"]].shape, strict=False):
            found = size_in(extent)
            if found is not None:
                sizes.setdefault(found[0], value - found[1])
    like = arguments[inputs[0]["name"]]
    return [
        like.new_empty(extents(t, sizes), dtype=DTYPES[t["dtype"]])
        for t in plan["tensors"]
        if t["role"] == "output"
    ]


def execute(launcher: Certified, arguments: Mapping[str, Any], check_range: bool) -> dict[str, torch.Tensor]:
    """Run the certificate where its tensors are. Raises AssumptionViolated with nothing run."""
    device = next(x for x in arguments.values() if isinstance(x, torch.Tensor)).device
    match device.type:
        case "cuda":
            return launcher.prepare(check_range=check_range, **arguments)()
        case "cpu":
            from lowering.cpu import execute_subject

            given, sizes, parameters = launcher.check(arguments, check_range)
            return execute_subject(launcher.subject_at(sizes), sizes, parameters, given)
        case _:
            raise AssumptionViolated("dtype", f"tensors are on {device}", "move them to a GPU or to the CPU")


# ---- two certificates ------------------------------------------------------------------------


def pair(forward: Certified, backward: Certified) -> None:
    """Whether the backward certificate is about the forward one's outputs. Raises LaunchError, saying why not."""
    f, b = Signature(forward.plan), Signature(backward.plan)
    who = f"backward certificate {backward.certificate[:16]}"
    settings = backward.subject["settings"]
    for name, value in forward.subject["settings"].items():  # one that only one has is in no text both have
        if settings.get(name, value) != value:
            raise LaunchError(f"{who} was proved for {name} = {settings[name]}, the forward one for {value}")
    known = (*f.inputs, *f.outputs, *(f"d{y}" for y in f.outputs))
    strangers = [x for x in b.inputs if x not in known]
    strangers += [x for x in b.parameters if x not in f.parameters]
    strangers += [x for x in b.sizes if x in forward.plan["sizes"] and x not in f.sizes]
    if strangers:
        raise LaunchError(f"{who} takes {', '.join(strangers)}, which the forward one neither takes nor stores")
    if not set(b.outputs) & {f"d{x}" for x in f.inputs}:
        wanted = ", ".join(f"d{x}" for x in f.inputs)
        raise LaunchError(f"{who} stores {', '.join(b.outputs)}; expected one of {wanted}")
    given = [y for y in f.outputs if f"d{y}" in b.inputs]
    for x in (x for x in f.inputs if f"d{x}" in b.outputs):
        if sorted(backward.gradients.get(f"d{x}", [])) != sorted([y, x, f"d{y}"] for y in given):
            formula = " + ".join(f"grad({y}, {x}, d{y})" for y in given)
            raise LaunchError(f"{who}: its spec does not say that d{x} is {formula}")
    for name in (y for y in f.outputs if y in b.inputs or f"d{y}" in b.inputs):
        if backward.contracts.get(name) != forward.contracts[name]:
            raise LaunchError(
                f"{who} means another {name} than the forward one:\n{backward.contracts.get(name, 'nothing')}\n"
                f"is not\n{forward.contracts[name]}"
            )
    ours = {t["name"]: t for t in forward.plan["tensors"]}
    for t in backward.plan["tensors"]:
        mine = ours.get(t["name"])
        if t["role"] == "input" and mine is not None and (t["dtype"], t["shape"]) != (mine["dtype"], mine["shape"]):
            raise LaunchError(f"{who} reads {t['name']} as {t['dtype']}, the forward one has it as {mine['dtype']}")
    for name in b.parameters:
        if backward.plan["parameters"][name]["default"] != forward.plan["parameters"][name]["default"]:
            raise LaunchError(f"{who} has another default for {name} than the forward one")


# ---- outputs without a gradient --------------------------------------------------------------


def _copy(value: torch.Tensor, anchor: torch.Tensor, name: str) -> torch.Tensor:
    return value.clone()


def _refuse(ctx: Any, gradient: torch.Tensor) -> None:
    raise NoGradient(f"the backward certificate has no d{ctx.name}; detach the output {ctx.name} before use")


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.name = inputs[2]


# A copy of an output that depends on `anchor` for autograd, so that using it in a loss raises instead of
# dropping its part of the gradient in silence.
undifferentiated = torch.library.custom_op(
    f"{NAMESPACE}::undifferentiated", _copy, mutates_args=(), schema="(Tensor value, Tensor anchor, str name) -> Tensor"
)
undifferentiated.register_fake(lambda value, anchor, name: torch.empty_like(value))
undifferentiated.register_autograd(_refuse, setup_context=_remember)
