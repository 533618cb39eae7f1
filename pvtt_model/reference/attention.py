"""Decoupled cross-attention on Wan: the text attention as it is, plus an attention to the reference tokens.

    out = to_out( softmax(q k_text / sqrt d) v_text + softmax(q k_ref / sqrt d) v_ref )          IP-Adapter, arXiv:2308.06721

Hooked on through diffusers' own extension point, the attention processor: nothing of the transformer is rewritten. `to_v_ref`
starts at zero, so an untrained adapter leaves the base model exactly as it was, and a dropped reference (tokens all zero) does too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReferenceTokens:
    """Where one forward pass lays its reference tokens (B, N, D) for every hooked layer to read; None: no reference."""

    def __init__(self) -> None:
        self.tokens_BND: Tensor | None = None


class ReferenceAttnProcessor(nn.Module):
    """Wraps a Wan cross-attention's own processor and adds the attention to the reference tokens before the output projection."""

    def __init__(self, inner: Any, reference_width: int, inner_dim: int, shared: ReferenceTokens) -> None:
        super().__init__()
        self.inner = inner
        self.shared = shared
        self.to_k_ref = nn.Linear(reference_width, inner_dim, bias=False)
        self.to_v_ref = nn.Linear(reference_width, inner_dim, bias=False)
        nn.init.zeros_(self.to_v_ref.weight)

    def forward(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        out = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        tokens = self.shared.tokens_BND
        if tokens is None:
            return out
        tokens = tokens.to(hidden_states.dtype)
        query = attn.norm_q(attn.to_q(hidden_states))
        key, value = self.to_k_ref(tokens), self.to_v_ref(tokens)
        query, key, value = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        reference = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        # to_out is affine: to_out(text + ref) = to_out(text) + (to_out(ref) - to_out(0)); its LoRA is linear. In this order the
        # bracket is exactly zero for a zero reference, and the base's bits stay as they are.
        return out + (attn.to_out[0](reference) - attn.to_out[0](torch.zeros_like(reference[:1, :1])))


def attach_reference(transformer: nn.Module, reference_width: int, every_nth_layer: int = 1) -> ReferenceTokens:
    """Hook every n-th block's cross-attention of a Wan or Wan-VACE transformer; returns where the tokens are to be laid.

    The new projections are then submodules, `blocks.N.attn2.processor.to_{k,v}_ref`. Raises ValueError where one is there already.
    """
    shared = ReferenceTokens()
    for i, block in enumerate(transformer.blocks):  # type: ignore[arg-type,union-attr]
        if i % every_nth_layer:
            continue
        attn = block.attn2
        if isinstance(attn.processor, ReferenceAttnProcessor):
            raise ValueError(f"block {i} has a reference adapter already. Load a fresh transformer before attaching another.")
        attn.set_processor(ReferenceAttnProcessor(attn.processor, reference_width, attn.inner_dim, shared))
    return shared
