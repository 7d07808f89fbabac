"""Certified attention with the signature and meaning of torch's scaled_dot_product_attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shipped import attention, square
from torch.nn.attention.bias import causal_lower_right, causal_upper_left
from torch.nn.functional import scaled_dot_product_attention as sdpa

import synth
from lowering.assumptions import AssumptionViolated, LaunchError
from lowering.sdpa import Attention, serves

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def f() -> Attention:
    """One certificate per causal mode, and one for bf16."""
    loaded = synth.load(attention("none"), attention("top_left"), attention("bottom_right"), attention("none", "bf16"))
    assert isinstance(loaded, Attention)
    return loaded


@pytest.fixture(scope="module")
def top_left() -> Attention:
    loaded = synth.load(attention("top_left"))
    assert isinstance(loaded, Attention)
    return loaded


def qkv(h: int = 4, g: int = 2, m: int = 37, n: int = 51, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, heads, length, 64, dtype=dtype) for heads, length in ((h, m), (g, n), (g, n))]


# ---- the same numbers as torch ---------------------------------------------------------------


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("h", "g"), [(4, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize(("m", "n"), [(37, 51), (51, 37), (1, 1), (64, 64)])
def test_agrees_with_torch(f: Attention, is_causal: bool, h: int, g: int, m: int, n: int) -> None:
    q, k, v = qkv(h, g, m, n)
    wanted = sdpa(*(x.double() for x in (q, k, v)), is_causal=is_causal, enable_gqa=True)
    found = f(q, k, v, is_causal=is_causal, enable_gqa=True)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_scale(f: Attention) -> None:
    q, k, v = qkv(2, 2)
    torch.testing.assert_close(f(q, k, v, scale=0.3), sdpa(q, k, v, scale=0.3))


@pytest.mark.parametrize(("m", "n"), [(37, 51), (40, 40), (1, 9)])
def test_the_causal_biases_of_torch(f: Attention, m: int, n: int) -> None:
    q, k, v = qkv(2, 2, m, n)
    for bias in (causal_lower_right(m, n), causal_upper_left(m, n)):
        torch.testing.assert_close(f(q, k, v, attn_mask=bias), sdpa(q, k, v, attn_mask=bias))


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_any_number_of_batch_dimensions(f: Attention, lead: tuple[int, ...]) -> None:
    q, k, v = (torch.randn(*lead, 2, 20, 64) for _ in range(3))
    torch.testing.assert_close(f(q, k, v), sdpa(q, k, v))


def test_views_of_a_fused_projection_and_expanded_heads(f: Attention) -> None:
    fused = torch.randn(2, 33, 3, 4, 64)
    q, k, v = (fused[:, :, part].transpose(1, 2) for part in range(3))
    torch.testing.assert_close(f(q, k, v), sdpa(q, k, v))
    k = k[:, :1].expand(-1, 4, -1, -1)  # stride 0
    torch.testing.assert_close(f(q, k, v), sdpa(q, k, v))
    q = torch.randn(2, 4, 64, 33).transpose(2, 3)  # rows are not contiguous
    torch.testing.assert_close(f(q, k, v), sdpa(q, k, v))


def test_no_keys_give_zeros(f: Attention) -> None:
    q, k, v = qkv(2, 2, 5, 0)
    assert torch.equal(f(q, k, v), torch.zeros_like(q))


# ---- which certificate -----------------------------------------------------------------------


def test_a_call_goes_to_the_certificate_proved_for_it(f: Attention) -> None:
    q, k, v = qkv(2, 2)
    assert f(*(x.bfloat16() for x in (q, k, v))).dtype is torch.bfloat16
    masks = {mask: f.choose(q, k, v, mask).mask for mask in ("none", "top_left", "bottom_right")}
    assert masks == {"none": "none", "top_left": "top_left", "bottom_right": "bottom_right"}


def test_masks_that_coincide() -> None:
    """Against the masks themselves: `serves` holds exactly when two masks agree at every small size."""

    def sees(mask: str, m: int, n: int) -> list[list[bool]]:
        shift = {"none": n, "top_left": 0, "bottom_right": n - m}[mask]
        return [[j <= i + shift for j in range(n)] for i in range(m)]

    for m in range(1, 6):
        for n in range(6):
            for proved in ("none", "top_left", "bottom_right"):
                for wanted in ("none", "top_left", "bottom_right"):
                    if serves(proved, wanted, m, n):
                        assert sees(proved, m, n) == sees(wanted, m, n), (proved, wanted, m, n)
    assert serves("bottom_right", "top_left", 4, 4) and not serves("bottom_right", "top_left", 4, 5)
    assert serves("bottom_right", "none", 1, 5) and not serves("top_left", "none", 1, 5)


BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("mask", {}, "wants the mask none, proved for top_left"),
    ("mask", {"attn_mask": causal_lower_right(37, 51)}, "wants the mask bottom_right"),
    ("mask", {"attn_mask": torch.ones(37, 51, dtype=torch.bool)}, "attn_mask is a tensor"),
    ("arguments", {"attn_mask": causal_lower_right(37, 51), "is_causal": True}, "both"),
    ("sizes", {"attn_mask": causal_upper_left(37, 37)}, "other lengths"),
    ("dropout", {"is_causal": True, "dropout_p": 0.1}, "wants dropout"),
    ("sizes", {"is_causal": True, "enable_gqa": False}, "4 heads, key has 2"),
    ("parameters", {"is_causal": True, "scale": 0.0}, "scale = 0.0"),
    ("arguments", {"is_causal": True, "window": 5}, "unknown: window"),
    ("dtype", {"is_causal": True, "value": torch.zeros(2, 2, 51, 64).half()}, "value is torch.float16"),
    ("sizes", {"is_causal": True, "value": torch.zeros(2, 2, 51, 32)}, "head dim 32, proved for 64"),
    ("sizes", {"is_causal": True, "value": torch.zeros(2, 2, 50, 64)}, "N is 51"),
    ("sizes", {"is_causal": True, "value": torch.zeros(1, 2, 51, 64)}, "batch"),
    ("sizes", {"is_causal": True, "value": torch.zeros(51, 64)}, "2 dimensions"),
]


@pytest.mark.parametrize(("assumption", "arguments", "says"), BROKEN)
def test_a_call_no_proof_covers_is_refused(
    top_left: Attention, assumption: str, arguments: dict[str, Any], says: str
) -> None:
    q, k, v = qkv()
    with pytest.raises(AssumptionViolated, match=says) as caught:
        top_left(**{"query": q, "key": k, "value": v, "enable_gqa": True, **arguments})
    assert caught.value.assumption == assumption
    assert caught.value.next_step


def test_the_error_lists_what_is_there(f: Attention) -> None:
    q, k, v = (x.half() for x in qkv(2, 2))
    with pytest.raises(AssumptionViolated) as caught:
        f(q, k, v)
    assert str(caught.value).count("attention (D = 64") == 4
    q, k, v = (x.bfloat16() for x in qkv(2, 2))
    with pytest.raises(AssumptionViolated, match="proved for none"):
        f(q, k, v, is_causal=True)


def test_certificates_without_the_tensors_of_attention_are_not_mixed_in() -> None:
    with pytest.raises(LaunchError, match="has not the tensors of attention"):
        synth.load(attention("none"), square()[0])
    with pytest.raises(LaunchError, match="is the backward of none"):
        synth.load(attention("none"), attention("top_left"), backward=square()[1])


# ---- with the rest of torch ------------------------------------------------------------------


def test_opcheck(f: Attention) -> None:
    q, k, v = qkv()
    torch.library.opcheck(f.kernels[0].operator.entry, (q, k, v, 0.125, False))
    torch.library.opcheck(f.kernels[1].operator.entry, (q.transpose(2, 3).contiguous().mT, k, v, None, True))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_in_one_graph(f: Attention, dynamic: bool) -> None:
    def layer(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return f(q * 2, k, v, is_causal=True, enable_gqa=True).relu()

    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for m in (37, 20):
        given = qkv(m=m)
        torch.testing.assert_close(compiled(*given), layer(*given))
    with pytest.raises(Exception, match="proved for torch.float32"):
        compiled(*qkv(dtype=torch.float16))


def test_compiled_by_inductor(f: Attention) -> None:
    given = qkv(2, 2, 9, 9)
    compiled = torch.compile(lambda *x: f(*x).relu(), fullgraph=True)
    torch.testing.assert_close(compiled(*given), f(*given).relu())


def test_autocast_casts_as_torch_does(f: Attention) -> None:
    q, k, v = qkv(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = f(q, k, v), sdpa(q, k, v)
        compiled = torch.compile(f, fullgraph=True, backend="aot_eager")(q, k, v)
    assert found.dtype is wanted.dtype is compiled.dtype is torch.bfloat16
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    assert torch.equal(found, compiled)


def test_vmap(f: Attention) -> None:
    q, k, v = qkv(2, 2, 9, 9)
    batch = torch.stack([q, -q])
    torch.testing.assert_close(torch.func.vmap(lambda q: f(q, k, v))(batch), torch.stack([f(q, k, v), f(-q, k, v)]))
