"""Certified attention as an attention implementation of Hugging Face transformers.

    register(synth.load("forward.cert.json", backward="backward.cert.json"))
    model.set_attn_implementation("certified")

Nothing a model asks for is passed over in silence: a mask that is not plainly causal (padding, packed
sequences, a window shorter than the keys), dropout, soft-capping or any further argument that would change the
numbers raises AssumptionViolated. Masks are made by transformers' own rules for SDPA, which says "no mask
needed" exactly when the causal flag is enough; only that answer is accepted.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from lowering.assumptions import AssumptionViolated
from lowering.sdpa import Attention

# Arguments of a model's attention call that do not change what attention computes. `output_attentions` gives no
# weights, as with SDPA; positions were applied to query and key before, and packing shows in the mask.
IMMATERIAL = frozenset(
    ("position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "return_dict",
     "output_router_logits", "num_items_in_batch", "past_key_values", "past_key_value", "layer_idx")
)  # fmt: skip


def register(attention: Attention, name: str = "certified") -> str:
    """Make `attention` selectable by name: `model.set_attn_implementation(name)`. Returns the name."""

    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        sliding_window: int | None = None,
        **others: Any,
    ) -> tuple[torch.Tensor, None]:
        """query [B, H, M, D], key and value [B, G, N, D] -> [B, M, H, D], no weights."""
        changing = [k for k, x in others.items() if k not in IMMATERIAL and x is not None and x is not False]
        if changing:
            message = f"the model passes {', '.join(changing)}, which {name} does not compute"
            raise AssumptionViolated("arguments", message, "use another attention implementation for this model")
        if attention_mask is not None:
            _refuse(name, "an attention mask was prepared outside the model")
        m, n = query.shape[2], key.shape[2]
        if sliding_window is not None and n > sliding_window:
            _refuse(name, f"{n} keys are more than the sliding window of {sliding_window}")
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal) and m > 1
        if causal and n > m:  # a static cache at prefill: top-left, so keys from m on are seen by no row
            key, value = key[:, :, :m], value[:, :, :m]
        found = attention(query, key, value, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=True)
        return found.transpose(1, 2).contiguous(), None

    def mask(*arguments: Any, **named: Any) -> None:
        if sdpa_mask(*arguments, **named) is not None:
            padding = named.get("attention_mask")
            _refuse(name, "the mask is not plainly causal" if padding is None else "padding, or a mask it must look at")

    AttentionInterface.register(name, forward)
    AttentionMaskInterface.register(name, mask)
    return name


def _refuse(name: str, why: str) -> None:
    step = "pass unpadded, unpacked sequences and attention_mask=None (use_cache=True under torch.compile), or use sdpa"
    raise AssumptionViolated("mask", f"{name}: {why}", step)
