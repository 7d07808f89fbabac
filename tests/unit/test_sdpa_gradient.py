"""Training with certified attention: gradients against float64, and what torch does with them."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch
from shipped import ROOT, attention, gradient, shipped
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.utils.checkpoint import checkpoint

import synth
from lowering.assumptions import LaunchError
from lowering.operator import NoGradient
from lowering.sdpa import Attention

pytestmark = pytest.mark.usefixtures("one_thread")
MASKS = ("none", "top_left", "bottom_right")


@pytest.fixture(scope="module")
def f() -> Attention:
    loaded = synth.load(*map(attention, MASKS), backward=[gradient(mask) for mask in MASKS])
    assert isinstance(loaded, Attention)
    return loaded


def qkv(h: int = 4, g: int = 2, m: int = 21, n: int = 37) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(2, x, y, 64, requires_grad=True) for x, y in ((h, m), (g, n), (g, n)))


def double(given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(x.detach().double().requires_grad_() for x in given)


# ---- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["none", "is_causal", "lower_right"])
@pytest.mark.parametrize(("h", "g", "m", "n"), [(4, 2, 21, 37), (2, 2, 40, 40), (1, 1, 1, 1), (3, 1, 7, 70)])
def test_gradients_agree_with_torch_in_float64(f: Attention, mask: str, h: int, g: int, m: int, n: int) -> None:
    given = qkv(h, g, m, n)
    wide = double(given)
    bias = causal_lower_right(m, n) if mask == "lower_right" else None
    weight = torch.randn(2, h, m, 64)
    found = f(*given, attn_mask=bias, is_causal=mask == "is_causal", scale=0.2, enable_gqa=True)
    if bias is None:
        wanted = sdpa(*wide, is_causal=mask == "is_causal", scale=0.2, enable_gqa=True)
    else:
        dense = torch.ones(m, n, dtype=torch.bool).tril(n - m)
        wanted = sdpa(*wide, attn_mask=dense, scale=0.2, enable_gqa=True)
    ours = torch.autograd.grad((found * weight).sum(), given)
    theirs = torch.autograd.grad((wanted * weight).sum(), wide)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-5)


def test_along_a_line_the_gradient_is_the_slope(f: Attention) -> None:
    """Needs no other implementation: the change of a loss along random directions, in float64, is the
    integral of the gradient."""
    given = qkv()
    torch.manual_seed(1)
    weight, way = torch.randn(2, 4, 21, 64), [torch.randn_like(x) * 1e-2 for x in given]

    def slope(t: float) -> float:
        at = [(x.detach() + t * d).requires_grad_() for x, d in zip(given, way, strict=True)]
        grads = torch.autograd.grad((f(*at, is_causal=True, enable_gqa=True) * weight).sum(), at)
        return sum(float((g.double() * d).sum()) for g, d in zip(grads, way, strict=True))

    def loss(t: float) -> float:
        at = [x.detach().double() + t * d for x, d in zip(given, way, strict=True)]
        return float((sdpa(*at, is_causal=True, enable_gqa=True) * weight).sum())

    steps = [0.0, 0.5, 1.0]
    rises = [loss(b) - loss(a) for a, b in pairwise(steps)]
    simpson = [(slope(a) + 4 * slope((a + b) / 2) + slope(b)) * (b - a) / 6 for a, b in pairwise(steps)]
    torch.testing.assert_close(torch.tensor(simpson), torch.tensor(rises), rtol=1e-3, atol=1e-4)


def test_views_expanded_heads_and_a_broadcast_cotangent(f: Attention) -> None:
    fused = torch.randn(2, 19, 3, 2, 64, requires_grad=True)
    q, k, v = (fused[:, :, part].transpose(1, 2) for part in range(3))
    k = k[:, :1].expand(-1, 2, -1, -1)
    (ours,) = torch.autograd.grad(f(q, k, v).sum(), fused)  # d(sum) is an expanded scalar
    (theirs,) = torch.autograd.grad(sdpa(q, k, v).sum(), fused)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_only_what_is_asked_for(f: Attention) -> None:
    q, k, v = qkv(2, 2)
    f(q, k.detach(), v.detach()).sum().backward()
    assert q.grad is not None and k.grad is None


# ---- with the rest of torch ------------------------------------------------------------------


def test_opcheck(f: Attention) -> None:
    operator = f.kernels[1].operator
    torch.library.opcheck(operator.entry, (*qkv(), 0.125, False))
    assert operator.backward is not None
    q, k, v = (x.detach() for x in qkv())
    o, lse = operator.entry(q, k, v, 0.125, False)
    torch.library.opcheck(operator.backward.entry, (q, k, v, torch.randn_like(o), o, lse, 0.125, False))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_in_one_graph(f: Attention, dynamic: bool) -> None:
    def loss(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (f(q.sin(), k, v, is_causal=True, enable_gqa=True) ** 2).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for m in (21, 30):
        ours, theirs = qkv(m=m), qkv(m=m)
        compiled(*ours).backward()
        loss(*theirs).backward()
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(f: Attention, use_reentrant: bool) -> None:
    plain, kept = qkv(2, 2), qkv(2, 2)
    f(*plain).sin().sum().backward()
    checkpoint(lambda *x: f(*x).sin(), *kept, use_reentrant=use_reentrant).sum().backward()
    for x, y in zip(plain, kept, strict=True):
        assert x.grad is not None and y.grad is not None and torch.equal(x.grad, y.grad)


@pytest.fixture(scope="module")
def half() -> Attention:
    loaded = synth.load(attention("top_left", "fp16"), backward=gradient("top_left", "fp16"))
    assert isinstance(loaded, Attention)
    return loaded


def test_autocast_in_fp16_with_a_loss_scale(half: Attention) -> None:
    ours, theirs = qkv(2, 2, 20, 20), qkv(2, 2, 20, 20)
    with torch.autocast("cpu", torch.float16):
        (4 * half(*ours, is_causal=True).float().sin().sum()).backward()
    sdpa(*theirs, is_causal=True).sin().sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        assert x.grad is not None and y.grad is not None and x.grad.dtype is torch.float32
        torch.testing.assert_close(x.grad / 4, y.grad, rtol=1e-2, atol=5e-3)


def test_an_fp16_gradient_that_is_too_large_is_an_infinity_and_no_other_cell_suffers(half: Attention) -> None:
    q, k, v = (x.detach().half().requires_grad_() for x in qkv(1, 1, 9000, 1))
    (half(q, k, v, is_causal=True) * 8).sum().backward()  # one key: each of 9000 rows adds 8 to dV
    assert v.grad is not None and torch.isposinf(v.grad).all()
    assert q.grad is not None and k.grad is not None and not q.grad.any() and not k.grad.any()


def test_a_model_that_holds_it_can_be_copied_and_pickled(f: Attention) -> None:
    for again in (copy.deepcopy(f), pickle.loads(pickle.dumps(f))):
        ours, theirs = qkv(2, 2), qkv(2, 2)
        again(*ours, is_causal=True).sum().backward()
        f(*theirs, is_causal=True).sum().backward()
        for x, y in zip(ours, theirs, strict=True):
            assert x.grad is not None and y.grad is not None and torch.equal(x.grad, y.grad)


def test_exported(f: Attention) -> None:
    class Layer(torch.nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return f(q, k, v, is_causal=True)

    given = tuple(x.detach() for x in qkv(2, 2))
    assert torch.equal(torch.export.export(Layer(), given).module()(*given), Layer()(*given))


# ---- what goes together ----------------------------------------------------------------------


def test_each_backward_goes_to_its_forward(f: Attention) -> None:
    for kernel in f.kernels:
        assert kernel.operator.backward is not None
        assert kernel.operator.backward.launcher.subject["settings"]["causal"] == kernel.mask


def test_a_backward_of_another_mask_or_dtype_is_refused() -> None:
    with pytest.raises(LaunchError, match="causal = top_left, the forward one for none"):
        synth.load(attention("none"), backward=gradient("top_left"))
    with pytest.raises(LaunchError, match="dtype = fp32, the forward one for bf16"):
        synth.load(attention("none", "bf16"), backward=gradient("none"))
    with pytest.raises(LaunchError, match="is the backward of none"):
        synth.load(attention("none"), attention("bottom_right"), backward=gradient("top_left"))


def test_only_the_forward_with_a_backward_trains() -> None:
    f = synth.load(attention("none"), attention("top_left"), backward=gradient("top_left"))
    q, k, v = qkv(2, 2)
    f(q, k, v, is_causal=True).sum().backward()
    with pytest.raises(NoGradient, match="without a backward certificate"):
        f(q, k, v).sum().backward()


def test_the_log_sum_exp_is_not_differentiated_in_silence(f: Attention) -> None:
    q, k, v = qkv(2, 2)
    found = f.kernels[0].operator(Q=q, K=k, V=v)
    with pytest.raises(NoGradient, match="no dLSE"):
        (found["O"].sum() + found["LSE"].sum()).backward()


# ---- more than torch's arguments -------------------------------------------------------------


@pytest.fixture(scope="module")
def dropping() -> Attention:
    settings = (("causal", "bottom_right"), ("dtype", "fp32"), ("D", 64))
    forward = (ROOT / "specs/dropout/online_causal.tile").read_text()
    backward = (ROOT / "specs/dropout_bwd/three_kernels_causal.tile").read_text()
    loaded = synth.load(
        shipped(forward, "dropout", *settings),
        attention("top_left"),
        backward=[shipped(backward, "dropout_bwd", *settings, ("o_dtype", "fp32")), gradient("top_left")],
    )
    assert isinstance(loaded, Attention)
    return loaded


def test_dropout_and_its_gradient(dropping: Attention) -> None:
    q, k, v = qkv(2, 2, 40, 40)
    weight = torch.randn(2, 2, 40, 64)
    found = dropping(q, k, v, dropout_p=0.4, is_causal=True, seed=7)
    ours = torch.autograd.grad((found * weight).sum(), (q, k, v))

    wide = double((q, k, v))
    p = (wide[0] @ wide[1].mT / 8).masked_fill(~torch.ones(40, 40, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    unit = torch.eye(64)[:40].expand(2, 2, 40, 64)
    kept = dropping(q, k, unit, dropout_p=0.4, is_causal=True, seed=7).detach()[..., :40] > 0  # P times the mask
    assert 0.5 < kept.tril().float().mean() * 40 * 2 / 41 < 0.7
    wanted = (p * kept / 0.6) @ wide[2]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    theirs = torch.autograd.grad((wanted * weight).sum(), wide)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-4, atol=1e-5)


def test_the_seed_is_drawn_from_torchs_generator_and_drawn_again_by_checkpoints(dropping: Attention) -> None:
    def layer(*x: torch.Tensor) -> torch.Tensor:
        return dropping(*x, dropout_p=0.4, is_causal=True).sin()

    plain, kept = qkv(2, 2, 20, 20), qkv(2, 2, 20, 20)
    torch.manual_seed(3)
    first, second = layer(*plain), layer(*plain)
    assert not torch.equal(first, second)
    first.sum().backward()
    torch.manual_seed(3)
    checkpoint(layer, *kept, use_reentrant=False).sum().backward()
    for x, y in zip(plain, kept, strict=True):
        assert x.grad is not None and y.grad is not None and torch.equal(x.grad, y.grad)


def test_without_dropout_the_kernels_agree(dropping: Attention) -> None:
    given = qkv(2, 2, 20, 20)
    first, second = (k.operator for k in dropping.kernels)
    named = dict(zip("QKV", given, strict=True))
    torch.testing.assert_close(first(**named, p=0.0, seed=5)["O"], second(**named)["O"])
