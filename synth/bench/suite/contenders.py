"""Who runs on a shape: the certificates of a group, and what PyTorch ships for the same computation.

A contender is a name and a way to make it ready; making may fail, and then the reason is the result: nothing is
dropped. What PyTorch's operations apply is found by `synth.bench.recognise`; each backend of attention is asked for
by itself (`sdpa_kernel`), and one that does not take a shape says so. Whether a contender is right is judged later,
by its outputs.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ir.evaluate import parameters_default
from ir.float_model import UNIT
from lowering.assumptions import DTYPES, evaluate
from lowering.launch import Launcher
from lowering.values import TORCH
from synth.bench.flex import Flex, derived, modifiers
from synth.bench.formula import evaluator, tensor
from synth.bench.recognise import ATTENTION, Meaning, differentiated, operation, recognised
from synth.bench.suite.subject import Group, Subject
from synth.rounding import Inputs, NoBound, bounds

Outputs = dict[str, torch.Tensor]
Run = Callable[[], Outputs]
STANDARD = "PyTorch formula"
NO_COMPILER = "compiled for a GPU only: on a CPU it would need a C++ compiler"


class Refused(Exception):
    """A contender does not take this shape, or is not installed; the message says which."""


class Wrong(Exception):
    """It is known to be wrong on this device, and is not run."""


Room = Callable[[Mapping[str, float]], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Contender:
    """`kind`: certified (as a call of the certificate runs), version (one of its versions, asked for by name: no answer
    of its own), peer or formula. `make` gives a function that runs once and returns outputs by name. `certificate`: the
    name of the one it is of; `bounds`: from the largest exact |x| of each output, the error that its rounding bound has
    room for on these inputs."""

    name: str
    kind: str
    make: Callable[[], Run]
    certificate: str = ""
    bounds: Room = lambda results: {}


@dataclass(frozen=True, slots=True)
class Call:
    """One shape of one group on one device; `versions`: those of every certificate, too; `refused`: by certificate,
    versions that must not run and why."""

    group: Group
    sizes: Mapping[str, int]
    inputs: Mapping[str, torch.Tensor]
    device: torch.device
    versions: bool = False
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, float]:
        return parameters_default(self.group.bound, self.sizes)


def contenders(call: Call) -> list[Contender]:
    """Certificates first, then PyTorch's own, then the formula."""
    found = []
    for s in call.group.subjects:
        room = _room(s, call)
        found.append(Contender(f"certified {s.name}", "certified", _certified(s, call), s.name, room))
        for v in s.launcher.versions if call.versions else ():
            found.append(Contender(f"version {s.name}: {v.name}", "version", _certified(s, call, v.name), s.name, room))
    meaning = recognised(call.group.bound)
    if meaning is not None:
        found += _attention(meaning, call) if meaning.operation == ATTENTION else _plain(meaning, call)
    if (meaning is None or meaning.operation != ATTENTION) and (
        flex := derived(call.group.bound, call.group.gradients)
    ):
        found.append(Contender("FlexAttention", "peer", _derived(flex, call)))
    return [*found, Contender(STANDARD, "formula", lambda: _formula(call))]


def _room(subject: Subject, call: Call) -> Room:
    """The certificate's rounding bounds on these inputs, whichever of its programs runs. A saved one was worked out in
    float64, so what is wrong with it is one rounding to its dtype."""
    floats = {n: x for n, x in call.inputs.items() if x.is_floating_point()}  # none yet where a plan is made
    if not floats:
        return lambda results: {}
    finite = {name: x[x.isfinite()].abs() for name, x in floats.items()}
    ranges = {name: float(x.max()) if x.numel() else 0.0 for name, x in finite.items()}
    saved = {t.name: ranges[t.name] * UNIT[dtype] for t, dtype in call.group.bound.inputs if t.saved}

    def room(results: Mapping[str, float]) -> dict[str, float]:
        at = Inputs(call.sizes, call.parameters, ranges, saved, results)
        try:
            found = [bounds(section, at) for section in subject.rounding]
        except NoBound:
            return {}
        return {name: max(b[name] for b in found) for name in found[0]} if found else {}

    return room


def _formula(call: Call) -> Run:
    bound = call.group.bound

    def run() -> Outputs:
        work = evaluator(bound, call.sizes, call.inputs, call.parameters)
        return {t.name: tensor(work, bound, t.name).to(TORCH[dtype]) for t, dtype in bound.outputs}

    return run


# ---- certificates ----------------------------------------------------------------------------------


def _certified(subject: Subject, call: Call, version: str | None = None) -> Callable[[], Run]:
    def make() -> Run:
        if call.device.type != "cuda":
            if version is not None:
                raise Refused("the CPU executor runs the certified program, not what was emitted of it")
            return _executed(subject, call)
        launcher = trusted(subject.launcher, call.refused.get(subject.launcher.certificate, {}), version)
        plan = launcher.plan
        arguments: dict[str, Any] = {k: v for k, v in call.sizes.items() if k in plan["sizes"]}
        for t in plan["tensors"]:
            if t["role"] == "output":
                shape = [int(evaluate(e, call.sizes)) for e in t["shape"]]
                arguments[t["name"]] = poisoned(shape, DTYPES[t["dtype"]], call.device)
        return launcher.prepare(version=version, **{**arguments, **call.inputs})

    return make


def trusted(launcher: Launcher, refused: Mapping[str, str], version: str | None) -> Launcher:
    """Without the versions that must not run. Raises Wrong where the one asked for, or the one that all others are
    compared with, is among them."""
    for name in (version or "", launcher.versions[-1].name):
        if name in refused:
            raise Wrong(f"version {name}: {refused[name]}")
    return replace(launcher, versions=tuple(v for v in launcher.versions if v.name not in refused))


def _executed(subject: Subject, call: Call) -> Run:
    """Without a GPU the program itself, by the CPU executor, where the proving code is installed to read it."""
    try:
        from ir.parser import parse
        from ir.typing import check
        from lowering.cpu import execute
    except ImportError as error:
        raise Refused(f"emitted Triton needs a GPU, and the CPU executor {error.name}, which is not here") from error
    bound = call.group.bound
    program = check(parse(subject.launcher.subject["candidate"]["text"]), bound)
    inputs = dict(call.inputs)
    return lambda: dict(execute(program, bound, call.sizes, call.parameters, inputs))


def poisoned(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """NaN everywhere (the largest integer): a cell that nobody writes shows."""
    found = torch.empty(list(shape), dtype=dtype, device=device)
    poison([found])
    return found


def poison(outputs: Iterable[torch.Tensor]) -> None:
    for x in outputs:
        x.fill_(torch.nan if x.is_floating_point() else True if x.dtype is torch.bool else torch.iinfo(x.dtype).max)


# ---- what PyTorch ships ----------------------------------------------------------------------------

Forward = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def _peer(name: str, meaning: Meaning, call: Call, forward: Callable[[], Forward]) -> Contender:
    def make() -> Run:
        run = differentiated(forward(), meaning, call.inputs)
        return lambda: dict(zip(meaning.results, run(), strict=True))

    return Contender(name, "peer", make)


def _plain(meaning: Meaning, call: Call) -> list[Contender]:
    number = call.parameters.get(meaning.number)
    eager = operation(meaning)

    def compiled() -> Forward:
        if call.device.type != "cuda":
            raise Refused(NO_COMPILER)
        fast = _compiled(lambda *tensors: eager(tensors, number))
        return lambda tensors: fast(*tensors)

    return [
        _peer(f"torch {meaning.operation}", meaning, call, lambda: lambda tensors: eager(tensors, number)),
        _peer(f"torch.compile of {meaning.operation}", meaning, call, compiled),
    ]


def _compiled(function: Callable[..., Any]) -> Any:
    """For exactly one shape; nothing left of shapes before, whose number would end in a fall back to eager. Buffers of
    the forward are not given away: a backward is run many times on one graph."""
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


BACKENDS = {
    "SDPA math": "MATH", "SDPA flash": "FLASH_ATTENTION", "SDPA cuDNN": "CUDNN_ATTENTION",
    "SDPA efficient": "EFFICIENT_ATTENTION",
}  # fmt: skip


def _attention(meaning: Meaning, call: Call) -> list[Contender]:
    found = [_peer(name, meaning, call, _sdpa(backend, meaning, call)) for name, backend in BACKENDS.items()]
    found.append(_peer("FlexAttention", meaning, call, _flex(meaning, call)))
    for name, module in (("flash-attn 2", "flash_attn"), ("flash-attn 3", "flash_attn_interface")):
        found.append(_peer(name, meaning, call, _flash(module, meaning, call)))
    return found


def _sdpa(backend: str, meaning: Meaning, call: Call) -> Callable[[], Forward]:
    """scaled_dot_product_attention by one backend alone. A backend that refuses warns why; that is the reason given."""

    def make() -> Forward:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        number = call.parameters.get(meaning.number)
        whole = _bottom_right(meaning, call) if meaning.variant == "bottom-right causal" else operation(meaning)

        def forward(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
            with warnings.catch_warnings(record=True) as said, sdpa_kernel([getattr(SDPBackend, backend)]):
                warnings.simplefilter("always")
                try:
                    return whole(tensors, number)
                except RuntimeError as error:
                    if isinstance(error, torch.OutOfMemoryError):
                        raise
                    reasons = [str(w.message).partition(" (Triggered")[0] for w in said]
                    raise Refused("; ".join(reasons[:3]) or str(error).splitlines()[0]) from error

        return _quiet(forward, sdpa_kernel, getattr(SDPBackend, backend), whole, number)

    return make


def _quiet(
    first: Forward,
    context: Callable[[Any], AbstractContextManager[Any]],
    backend: Any,
    whole: Callable[[Sequence[torch.Tensor], float | None], torch.Tensor],
    number: float | None,
) -> Forward:
    """`first` once, for its reasons; afterwards without the bookkeeping of warnings."""
    seen: list[bool] = []

    def forward(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        if not seen:
            result = first(tensors)
            seen.append(True)
            return result
        with context([backend]):
            return whole(tensors, number)

    return forward


def _bottom_right(meaning: Meaning, call: Call) -> Callable[[Sequence[torch.Tensor], float | None], torch.Tensor]:
    """With lengths that differ PyTorch's own bias for it, which fast backends know; a tensor as mask they refuse."""
    from torch.nn.attention.bias import causal_lower_right

    plain = operation(meaning)
    axis = 1 if meaning.heads_third else 2
    rows, keys = (call.inputs[name].shape[axis] for name in meaning.arguments[:2])
    if rows == keys or rows == 1 or meaning.upstream or meaning.heads_third:
        return plain
    bias = causal_lower_right(rows, keys)

    def biased(tensors: Sequence[torch.Tensor], number: float | None) -> torch.Tensor:
        q, k, v = tensors
        grouped = q.shape[1] != k.shape[1]
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, scale=number, enable_gqa=grouped
        )

    return biased


def _flex(meaning: Meaning, call: Call) -> Callable[[], Forward]:
    """FlexAttention compiled for exactly this shape, its block mask made beforehand."""

    def make() -> Forward:
        if call.device.type != "cuda":
            raise Refused(NO_COMPILER)
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        fast = _compiled(flex_attention)
        number = call.parameters.get(meaning.number)
        axis = 1 if meaning.heads_third else 2
        rows, keys = (call.inputs[name].shape[axis] for name in meaning.arguments[:2])
        shift = keys - rows if meaning.variant == "bottom-right causal" else 0
        mask = None
        if meaning.variant != "full":
            mask = create_block_mask(lambda b, h, i, j: j <= i + shift, None, None, rows, keys, device=str(call.device))

        def forward(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
            q, k, v = (x.transpose(1, 2) if meaning.heads_third else x for x in tensors)
            out: torch.Tensor = fast(q, k, v, block_mask=mask, scale=number, enable_gqa=q.shape[1] != k.shape[1])
            return out.transpose(1, 2) if meaning.heads_third else out

        return forward

    return make


def _derived(flex: Flex, call: Call) -> Callable[[], Run]:
    """FlexAttention with the score and the mask that the formula says."""

    def make() -> Run:
        if call.device.type != "cuda":
            raise Refused(NO_COMPILER)
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        score_mod, mask_mod = modifiers(flex, call.group.bound, call.sizes, call.inputs, call.parameters)
        q, k, v = (call.inputs[name] for name in (flex.query, flex.key, flex.value))
        batch, heads, rows, _ = q.shape
        mask = None
        if mask_mod is not None:
            mask = create_block_mask(mask_mod, batch, heads, rows, k.shape[2], device=str(call.device))
        fast = _compiled(flex_attention)
        how = {"score_mod": score_mod, "block_mask": mask, "scale": 1.0, "enable_gqa": heads != k.shape[1]}
        if not flex.upstream:
            return lambda: {flex.output: fast(q, k, v, **how)}
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        with torch.enable_grad():
            out = fast(*leaves, **how)
        upstream = call.inputs[flex.upstream]
        return lambda: dict(
            zip(flex.results, torch.autograd.grad(out, leaves, upstream, retain_graph=True), strict=True)
        )

    return make


def _flash(module: str, meaning: Meaning, call: Call) -> Callable[[], Forward]:
    """The flash-attn packages take [batch, length, heads, dim]; copies in that layout are made before timing."""

    def make() -> Forward:
        try:
            function = importlib.import_module(module).flash_attn_func
        except ImportError as error:
            raise Refused(f"{module} is not installed") from error
        axis = 1 if meaning.heads_third else 2
        rows, keys = (call.inputs[name].shape[axis] for name in meaning.arguments[:2])
        if meaning.variant == "top-left causal" and rows != keys:
            raise Refused("its causal mask is aligned bottom-right")
        number = call.parameters.get(meaning.number)
        laid_out: dict[int, torch.Tensor] = {}

        def turned(x: torch.Tensor) -> torch.Tensor:
            if meaning.heads_third:
                return x
            if x.requires_grad:
                return x.transpose(1, 2).contiguous()
            return laid_out.setdefault(id(x), x.transpose(1, 2).contiguous())

        def forward(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
            q, k, v = map(turned, tensors)
            found = function(q, k, v, softmax_scale=number, causal=meaning.variant != "full")
            out: torch.Tensor = found[0] if isinstance(found, tuple) else found
            return out if meaning.heads_third else out.transpose(1, 2)

        return forward

    return make
