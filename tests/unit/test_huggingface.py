"""A Llama-type model with certified attention: the same training as with SDPA; what attention cannot do is refused.

The models are random and tiny; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from shipped import attention, gradient

import synth
from lowering.assumptions import AssumptionViolated
from lowering.sdpa import Attention

pytest.importorskip("transformers", reason="the extra `hf` is not installed")
from transformers import LlamaConfig, LlamaForCausalLM

from lowering.huggingface import register

pytestmark = pytest.mark.usefixtures("one_thread")
VOCABULARY = 32


@pytest.fixture(scope="module")
def name() -> str:
    loaded = synth.load(attention("top_left"), attention("none"), backward=gradient("top_left"))
    assert isinstance(loaded, Attention)
    return register(loaded)


def model(name: str, device: str = "cpu", **config: Any) -> Any:
    """Two layers, two query heads sharing one key/value head of 64 channels."""
    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=64, max_position_embeddings=64, **config,
    )  # fmt: skip
    made = LlamaForCausalLM(settings).to(device)
    made.set_attn_implementation(name)
    return made


def tokens(length: int = 21, device: str = "cpu") -> torch.Tensor:
    return torch.randint(VOCABULARY, (4, length), generator=torch.Generator().manual_seed(1)).to(device)


def losses(name: str, steps: int, device: str = "cpu") -> torch.Tensor:
    """Training to repeat one batch."""
    trained, batch = model(name, device), tokens(device=device)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=5e-3)
    found = []
    for _ in range(steps):
        loss = trained(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return torch.tensor(found)


def test_the_loss_curve_is_that_of_sdpa(name: str) -> None:
    ours, theirs = losses(name, 50), losses("sdpa", 50)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert ours[-1] < ours[0] / 4  # it did learn


def test_generation_with_a_cache(name: str) -> None:
    ours, theirs = (model(x).eval() for x in (name, "sdpa"))
    given = {"input_ids": tokens(), "attention_mask": torch.ones(4, 21), "max_new_tokens": 5, "do_sample": False}
    assert torch.equal(ours.generate(**given, pad_token_id=0), theirs.generate(**given, pad_token_id=0))


def test_one_bottom_right_certificate_is_enough_for_generation() -> None:
    loaded = synth.load(attention("bottom_right"))
    assert isinstance(loaded, Attention)
    ours, theirs = (model(x).eval() for x in (register(loaded, "bottom_right"), "sdpa"))
    given = {"input_ids": tokens(), "attention_mask": torch.ones(4, 21), "max_new_tokens": 3, "do_sample": False}
    assert torch.equal(ours.generate(**given, pad_token_id=0), theirs.generate(**given, pad_token_id=0))


def test_compiled_in_one_graph(name: str) -> None:
    plain = model(name)
    compiled = torch.compile(plain, fullgraph=True, backend="aot_eager")
    batch = tokens()
    compiled(input_ids=batch, labels=batch).loss.backward()
    theirs = model("sdpa")
    theirs(input_ids=batch, labels=batch).loss.backward()
    for x, y in zip(plain.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-5)


def test_activation_checkpointing(name: str) -> None:
    plain, kept = model(name), model(name)
    kept.gradient_checkpointing_enable()
    batch = tokens()
    for each in (plain, kept):
        each.train()(input_ids=batch, labels=batch).loss.backward()
    for x, y in zip(plain.parameters(), kept.parameters(), strict=True):
        assert torch.equal(x.grad, y.grad)


def test_a_mask_of_ones_is_no_mask(name: str) -> None:
    plain = model(name)
    assert torch.equal(
        plain(input_ids=tokens(), attention_mask=torch.ones(4, 21)).logits, plain(input_ids=tokens()).logits
    )


PADDED = (torch.arange(21) >= 3).long().expand(4, -1)
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("mask", {}, {"attention_mask": PADDED}, "padding"),
    ("mask", {}, {"attention_mask": torch.ones(4, 1, 21, 21, dtype=torch.bool)}, "outside the model"),
    ("mask", {}, {"position_ids": torch.arange(21)[None] % 7, "use_cache": False}, "not plainly causal"),
    ("dropout", {"attention_dropout": 0.1}, {}, "wants dropout"),
    ("arguments", {}, {"cu_seq_lens_q": torch.tensor([0, 21])}, "cu_seq_lens_q"),
    ("arguments", {}, {"softcap": 30.0}, "softcap"),
    ("mask", {}, {"sliding_window": 8}, "sliding window of 8"),
]


@pytest.mark.parametrize(("assumption", "config", "arguments", "says"), REFUSED)
def test_what_it_does_not_compute_is_refused(
    name: str, assumption: str, config: dict[str, Any], arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(AssumptionViolated, match=says) as caught:
        model(name, **config).train()(input_ids=tokens(), **arguments)
    assert caught.value.assumption == assumption
