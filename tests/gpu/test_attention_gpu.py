"""Certified attention on a real device: torch's meaning forward and backward, compile, a model's training."""

from __future__ import annotations

import pytest
import torch
from shipped import attention, gradient
from torch.nn.functional import scaled_dot_product_attention as sdpa

import synth
from lowering.assumptions import AssumptionViolated
from lowering.sdpa import Attention

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA or ROCm device here"),
]
MASKS = ("none", "top_left")


@pytest.fixture(scope="module")
def f() -> Attention:
    loaded = synth.load(
        *(attention(mask, dtype) for mask in MASKS for dtype in ("bf16", "fp32")),
        backward=[gradient(mask, dtype) for mask in MASKS for dtype in ("bf16", "fp32")],
    )
    assert isinstance(loaded, Attention)
    return loaded


def qkv(h: int, g: int, m: int, n: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((2, h, m, 64), (2, g, n, 64), (2, g, n, 64))
    return [torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 4e-2), (torch.float32, 1e-3)])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("h", "g", "m", "n"), [(4, 2, 1000, 1531), (8, 8, 300, 200), (1, 1, 1, 1)])
def test_outputs_and_gradients(
    f: Attention, dtype: torch.dtype, tolerance: float, is_causal: bool, h: int, g: int, m: int, n: int
) -> None:
    given = qkv(h, g, m, n, dtype)
    wide = [x.detach().double().requires_grad_() for x in given]
    ours, theirs = (a(*x, is_causal=is_causal, enable_gqa=True) for a, x in ((f, given), (sdpa, wide)))
    weight = torch.randn_like(ours)
    pairs = zip(
        (ours, *torch.autograd.grad((ours * weight).sum(), given)),
        (theirs, *torch.autograd.grad((theirs * weight.double()).sum(), wide)),
        strict=True,
    )
    for x, y in pairs:
        torch.testing.assert_close(x.double(), y, rtol=tolerance, atol=tolerance * float(y.abs().max()))


def test_opcheck(f: Attention) -> None:
    operator = f.kernels[1].operator
    torch.library.opcheck(operator.entry, (*qkv(4, 2, 100, 130, torch.float32), 0.125, False))


def test_compiled_by_inductor(f: Attention) -> None:
    given = qkv(4, 4, 200, 200, torch.bfloat16)
    compiled = torch.compile(lambda *x: f(*x, is_causal=True).float().sin().sum(), fullgraph=True)
    ours = torch.autograd.grad(compiled(*given), given)
    theirs = torch.autograd.grad(f(*given, is_causal=True).float().sin().sum(), given)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=2e-2, atol=2e-2)


def test_misaligned_and_strided_inputs(f: Attention) -> None:
    buffer = torch.randn(1 + 2 * 2 * 77 * 64, device="cuda", dtype=torch.bfloat16)
    q = buffer[1:].view(2, 2, 77, 64)  # an element off any wider alignment
    k, v = (torch.randn(2, 77, 2, 64, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for _ in range(2))
    with torch.no_grad():
        torch.testing.assert_close(f(q, k, v), sdpa(q, k, v), rtol=2e-2, atol=2e-2)


def test_tensors_on_two_devices_are_refused(f: Attention) -> None:
    q, k, v = (x.detach() for x in qkv(2, 2, 9, 9, torch.bfloat16))
    with pytest.raises(AssumptionViolated, match="tensors are on cpu, cuda:0"):
        f.kernels[0].operator.launcher(Q=q, K=k.cpu(), V=v)


def test_a_models_loss_curve_is_that_of_sdpa(f: Attention) -> None:
    pytest.importorskip("transformers", reason="the extra `hf` is not installed")
    from test_huggingface import losses

    from lowering.huggingface import register

    ours, theirs = losses(register(f), 50, "cuda"), losses("sdpa", 50, "cuda")
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
