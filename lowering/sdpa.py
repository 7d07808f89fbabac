"""Certificates behind the signature of `torch.nn.functional.scaled_dot_product_attention`.

`load("forward.cert.json", backward="backward.cert.json")` gives a callable with torch's arguments, layout
[B, H, M, D] and meaning. A certificate is proved for one mask, one dtype and one head dim; several may be
given, and a call goes to the first that was proved for it, or, of several proved for the same, to the one measured
fastest at sizes near the call's (`lowering.portfolio`). A call that none was proved for raises, naming the
assumption: no call falls back to another kernel.

Which tensor of a spec is the query, and so on, is said by `ROLES` and by nothing else. Whatever more a spec
takes (a window, sinks, a bias) the call must pass by the spec's own name. What is computed is what the spec's
page says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention.bias import CausalBias, CausalVariant

from lowering.assumptions import DTYPES, AssumptionViolated, LaunchError
from lowering.launch import load as load_launcher
from lowering.operator import Operator, operator, pair
from lowering.portfolio import portfolios, read_times

# torch's word -> the spec's. "causal" is the option whose value is one of MASKS; "dropout" (a probability) and
# "seed" are parameters a spec may do without.
ROLES = {
    "query": "Q", "key": "K", "value": "V", "output": "O", "scale": "scale", "causal": "causal",
    "dropout": "p", "seed": "seed",
}  # fmt: skip
MASKS = ("none", "top_left", "bottom_right")


@dataclass(frozen=True, eq=False)
class Kernel:
    """One certificate in the roles of attention. `mask`, `dtypes` and `head_dims` (of query, key, value) are
    what it was proved for; `others`: further arguments of its spec."""

    title: str
    operator: Operator = field(repr=False)
    roles: Mapping[str, str] = field(repr=False)
    mask: str
    dtypes: tuple[torch.dtype, ...]
    head_dims: tuple[int | None, ...]
    dropout: bool
    others: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Attention:
    """Certified attention. `kernels` in the order they are tried."""

    kernels: tuple[Kernel, ...]

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        **others: Any,
    ) -> torch.Tensor:
        """As torch.nn.functional.scaled_dot_product_attention.

        query [..., H, M, D], key and value [..., G, N, D]; `is_causal` aligns top-left, as torch does.
        `attn_mask` may only be torch.nn.attention.bias.causal_upper_left or causal_lower_right. Under
        autocast the inputs are cast as torch casts them. `others`: what the spec takes beyond attention's
        arguments, by its names; of these the seed of a spec with dropout may be left out, and is then drawn
        from torch's generator. Raises AssumptionViolated, with nothing run.
        """
        mask = _mask(attn_mask, is_causal, query, key)
        _check_shapes(query, key, value, enable_gqa)
        query, key, value = (_autocast(x) for x in (query, key, value))
        lead, scale = query.shape[:-1], 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        if query.dim() != 4:
            batch = math.prod(query.shape[:-3])
            query, key, value = (x.reshape(batch, *x.shape[-3:]) for x in (query, key, value))
        kernel = self.choose(query, key, value, mask, dropout_p > 0)
        roles = kernel.roles
        named = {roles["query"]: query, roles["key"]: key, roles["value"]: value, roles["scale"]: scale}
        if kernel.dropout:
            named[roles["dropout"]] = dropout_p
            if roles["seed"] not in others:
                others[roles["seed"]] = int(torch.randint(2**62, ())) if dropout_p > 0 else 0
        _check_others(kernel, others)
        found = kernel.operator.run({**named, **others})[roles["output"]]
        return found.reshape(*lead, found.shape[-1])

    def choose(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: str, dropout: bool = False
    ) -> Kernel:
        """The first kernel proved for this mask, dtype and head dim, with dropout if asked for. Raises
        AssumptionViolated."""
        reasons, nearest = "", 0
        for kernel in self.kernels:
            assumption, reason = _misfit(kernel, (query, key, value), mask, dropout)
            if not assumption:
                return kernel
            reasons += f"{'; ' if reasons else ''}{kernel.title}: {reason}"
            nearest = max(nearest, ORDER.index(assumption))
        assumption = ORDER[nearest]
        raise AssumptionViolated(assumption, f"no certificate given fits: {reasons}", NEXT[assumption])


ORDER = ("dtype", "sizes", "mask", "dropout")  # as checked: the last one a kernel came to is what to change
NEXT = {
    "dtype": "cast the inputs, or load a certificate for this dtype",
    "sizes": "load a certificate for this head dim",
    "mask": "call it with that mask, or load a certificate for this one",
    "dropout": "pass dropout_p=0.0 (model.eval()), or load a certificate whose spec has dropout",
}


def _mask(attn_mask: torch.Tensor | None, is_causal: bool, query: torch.Tensor, key: torch.Tensor) -> str:
    if attn_mask is None:
        return "top_left" if is_causal else "none"
    if is_causal:
        raise AssumptionViolated("arguments", "both attn_mask and is_causal are given", "pass one of them")
    if not isinstance(attn_mask, CausalBias):
        raise AssumptionViolated(
            "mask", "attn_mask is a tensor, which no certificate here covers",
            "pass is_causal=True or torch.nn.attention.bias.causal_lower_right(M, N), or use torch's own attention",
        )  # fmt: skip
    if (attn_mask.seq_len_q, attn_mask.seq_len_kv) != (query.shape[-2], key.shape[-2]):
        raise AssumptionViolated("sizes", "attn_mask was made for other lengths", "make it with query's and key's")
    return "top_left" if attn_mask.variant == CausalVariant.UPPER_LEFT else "bottom_right"


def serves(proved: str, wanted: str, m: int, n: int) -> bool:
    """Whether a kernel for the mask `proved` computes `wanted` at query length m and key length n: the two
    causal masks agree where m = n, and the last row of bottom-right sees every key."""
    if proved == wanted:
        return True
    if {proved, wanted} == {"top_left", "bottom_right"}:
        return m == n
    return {proved, wanted} == {"none", "bottom_right"} and m == 1


def _misfit(kernel: Kernel, given: tuple[torch.Tensor, ...], mask: str, dropout: bool) -> tuple[str, str]:
    """The assumption the call would break and how; empty when the kernel was proved for it."""
    m, n = given[0].shape[-2], given[1].shape[-2]
    for name, x, dtype, head_dim in zip(("query", "key", "value"), given, kernel.dtypes, kernel.head_dims, strict=True):
        if x.dtype != dtype:
            return "dtype", f"{name} is {x.dtype}, proved for {dtype}"
        if head_dim is not None and x.shape[-1] != head_dim:
            return "sizes", f"{name} has head dim {x.shape[-1]}, proved for {head_dim}"
    if not serves(kernel.mask, mask, m, n):
        return "mask", f"the call wants the mask {mask}, proved for {kernel.mask}"
    if dropout and not kernel.dropout:
        return "dropout", "the call wants dropout, proved without"
    return "", ""


def _check_shapes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, enable_gqa: bool) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dim() != query.dim() or x.dim() < 3:
            message = f"{name} has {x.dim()} dimensions, query has {query.dim()}"
            raise AssumptionViolated("sizes", message, "pass [..., heads, length, head dim] three times")
        if x.shape[:-3] != query.shape[:-3]:
            message = f"{name} has batch {list(x.shape[:-3])}, query has {list(query.shape[:-3])}"
            raise AssumptionViolated("sizes", message, f"expand {name} first")
    if not enable_gqa and query.shape[-3] != key.shape[-3]:
        message = f"query has {query.shape[-3]} heads, key has {key.shape[-3]}"
        raise AssumptionViolated("sizes", message, "pass enable_gqa=True")


def _autocast(x: torch.Tensor) -> torch.Tensor:
    """As autocast treats scaled_dot_product_attention: floating inputs but float64 to the region's dtype."""
    device = x.device.type
    if not torch.is_autocast_enabled(device) or not x.is_floating_point() or x.dtype == torch.float64:
        return x
    return x.to(torch.get_autocast_dtype(device))


def _check_others(kernel: Kernel, others: Mapping[str, Any]) -> None:
    missing = [name for name in kernel.others if name not in others]
    unknown = [name for name in others if name not in kernel.others]
    if missing or unknown:
        message = f"missing: {', '.join(missing) or 'nothing'}; unknown: {', '.join(unknown) or 'nothing'}"
        takes = ", ".join(kernel.others) or "nothing"
        raise AssumptionViolated("arguments", message, f"beyond attention's arguments {kernel.title} takes {takes}")


# ---- loading ---------------------------------------------------------------------------------

Paths = str | Path | Sequence[str | Path]


def load(
    *certificates: str | Path,
    backward: Paths = (),
    check_range: bool = False,
    roles: Mapping[str, str] = ROLES,
    times: str | Path | None = None,
) -> Attention | Operator:
    """Certificates as attention, or, when they are of one thing without the tensors of attention, as a plain operator.

    `backward`: certificates of gradients; each goes to the forward ones it was proved for. `check_range` also
    checks |x| <= abs_max at every call, which reads the inputs once. `times`: results of the benchmark, by which a
    call chooses among certificates of one thing, and among their versions. Raises LaunchError for a file that is
    damaged, was changed, or does not belong to the others.
    """
    if not certificates:
        raise LaunchError("no certificate was given")
    measured = () if times is None else read_times(times)
    forwards = portfolios([load_launcher(path) for path in certificates], measured)
    paths = [backward] if isinstance(backward, str | Path) else list(backward)
    backwards = portfolios([load_launcher(path) for path in paths], measured)
    chosen = {f: next((b for b in backwards if _belongs(f, b)), None) for f in forwards}
    for b in backwards:
        if not any(b is taken for taken in chosen.values()):
            if len(forwards) == 1:
                pair(forwards[0], b)  # says why not
            raise LaunchError(f"{_title(b)}: is the backward of none of the certificates given")
    operators = [operator(f, b, check_range) for f, b in chosen.items()]
    kernels = [kernel for o in operators if (kernel := attention(o, roles)) is not None]
    if len(kernels) == len(operators):
        return Attention(tuple(kernels))
    if len(operators) == 1:
        return operators[0]
    odd = next(o for o in operators if attention(o, roles) is None)
    tensors = ", ".join(roles.values())
    raise LaunchError(f"{_title(odd.launcher)}: has not the tensors of attention ({tensors}); load it on its own")


def _belongs(forward: Any, backward: Any) -> bool:
    try:
        pair(forward, backward)
    except LaunchError:
        return False
    return True


def attention(o: Operator, roles: Mapping[str, str] = ROLES) -> Kernel | None:
    """The operator in the roles of attention, or None when its spec lacks one of them."""
    plan, settings = o.launcher.plan, o.launcher.subject["settings"]
    tensors = {t["name"]: t for t in plan["tensors"]}
    names = [roles[role] for role in ("query", "key", "value", "output")]
    if any(name not in tensors or len(tensors[name]["shape"]) != 4 for name in names):
        return None
    if not set(names[:3]) <= set(o.signature.inputs) or names[3] not in o.signature.outputs:
        return None
    if roles["scale"] not in plan["parameters"] or settings.get(roles["causal"]) not in MASKS:
        return None
    last = [tensors[name]["shape"][3] for name in names[:3]]
    dropout = roles["dropout"] in plan["parameters"] and roles["seed"] in plan["parameters"]
    passed = {*names[:3], roles["scale"], *([roles["dropout"]] if dropout else [])}
    return Kernel(
        title=_title(o.launcher),
        operator=o,
        roles=dict(roles),
        mask=settings[roles["causal"]],
        dtypes=tuple(DTYPES[tensors[name]["dtype"]] for name in names[:3]),
        head_dims=tuple(extent if isinstance(extent, int) else None for extent in last),
        dropout=dropout,
        others=tuple(x for x in o.signature.arguments if x not in passed),
    )


def _title(certified: Any) -> str:
    proved_for = ", ".join(f"{k} = {v}" for k, v in certified.subject["settings"].items())
    return f"{certified.subject['spec']['name']} ({proved_for})"
