"""The formulas of softmax, the norms and cross-entropy, forward and derived backward, are what PyTorch computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ir.evaluate import evaluate, parameters_default
from ir.inputs import generate
from ir.loader import bind, load_spec

SIZES = {"R": 5, "C": 19}
Named = dict[str, Tensor]


def softmax(x: Named, eps: float) -> Named:
    return {"Y": torch.softmax(x["X"], -1)}


def rmsnorm(x: Named, eps: float) -> Named:
    rstd = torch.rsqrt((x["X"] ** 2).mean(-1) + eps)
    return {"Y": functional.rms_norm(x["X"], (SIZES["C"],), x["W"], eps), "RSTD": rstd}


def layernorm(x: Named, eps: float) -> Named:
    rstd = torch.rsqrt(x["X"].var(-1, unbiased=False) + eps)
    normed = functional.layer_norm(x["X"], (SIZES["C"],), x["W"], x["BIAS"], eps)
    return {"Y": normed, "MEAN": x["X"].mean(-1), "RSTD": rstd}


def cross_entropy(x: Named, eps: float) -> Named:
    loss = functional.cross_entropy(x["X"], x["label"].long(), reduction="none")
    return {"LOSS": loss, "LSE": torch.logsumexp(x["X"], -1)}


FORWARD: dict[str, Callable[[Named, float], Named]] = {
    "softmax": softmax, "rmsnorm": rmsnorm, "layernorm": layernorm, "cross_entropy": cross_entropy,
}  # fmt: skip


def values(name: str) -> tuple[dict[str, np.ndarray], Named, float]:
    """What the spec says of random inputs, the inputs, and eps."""
    bound = bind(load_spec(name), {"dtype": "fp32"})
    parameters = parameters_default(bound, SIZES)
    inputs = generate("normal", 3, bound, SIZES, parameters)
    tensors = {n: torch.from_numpy(a.copy()) for n, a in inputs.items()}
    return evaluate(bound, SIZES, parameters, inputs), tensors, parameters.get("eps", 0.0)


@pytest.mark.parametrize("name", FORWARD)
def test_forward(name: str) -> None:
    found, inputs, eps = values(name)
    wanted = FORWARD[name](inputs, eps)
    assert found.keys() == wanted.keys()
    for tensor, value in wanted.items():
        np.testing.assert_allclose(found[tensor], value.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FORWARD)
def test_backward(name: str) -> None:
    found, inputs, eps = values(f"{name}_bwd")
    leaves = {n: inputs[n].requires_grad_() for n in (tensor[1:] for tensor in found)}
    loss, weight = ("LOSS", "dLOSS") if name == "cross_entropy" else ("Y", "dY")
    FORWARD[name](inputs, eps)[loss].backward(inputs[weight])
    for tensor, value in leaves.items():
        assert value.grad is not None
        np.testing.assert_allclose(found[f"d{tensor}"], value.grad.numpy(), rtol=1e-9, atol=1e-12)
