"""Decoupled cross-attention on Wan: the text attention as it is, plus an attention to the reference tokens.

    out = to_out( softmax(q k_text / sqrt d) v_text + g softmax(q k_ref / sqrt d) v_ref )        IP-Adapter, arXiv:2308.06721

Hooked on through diffusers' own extension point, the attention processor: nothing of the transformer is rewritten. An untrained
adapter leaves the base model exactly as it was, because v_ref (space 'own') or the gate g (space 'words') starts at zero; a dropped
reference does too, because its sum is not added.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from pvtt_model.backbones.conditioning import TEXT_TOKENS


def attend(query: Tensor, key: Tensor, value: Tensor, keep: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt d) v of (B, heads, N, d), where `keep` is true.

    On a CPU in float32: its kernel's backward in bfloat16 takes 3 to 9 times as long.
    """
    wide = torch.float32 if query.device.type == "cpu" and query.dtype == torch.bfloat16 else query.dtype
    return F.scaled_dot_product_attention(query.to(wide), key.to(wide), value.to(wide), attn_mask=keep).to(query.dtype)


#: The gate is this times its parameter: an optimiser that moves every parameter alike opens it within a hundred steps, not a thousand.
GATE_RATE = 10.0


class ReferenceTokens:
    """Where one forward pass lays its reference tokens (B, N, D) for every hooked layer to read; None: no reference.

    present_B: 1 where a sample has a reference, 0 where not, whose tokens are then read by nobody.
    """

    def __init__(self) -> None:
        self.tokens_BND: Tensor | None = None
        self.present_B: Tensor | None = None


class ReferenceAttnProcessor(nn.Module):
    """Wan's cross-attention with a second attention, to the reference tokens, added before the output projection.

    Operation by operation diffusers' WanAttnProcessor for a cross-attention (no rotary embedding), Wan2.1's image-to-video one with the keys
    of its first frame included, so that a zero reference, which adds exact zeros, leaves the base's bits.
    Query and output projection are computed once for all.
    """

    _attention_backend: Any = None  # set by diffusers' set_attention_backend, for the text's attention

    def __init__(self, reference_width: int, inner_dim: int, shared: ReferenceTokens, *, bias: bool = False) -> None:
        super().__init__()
        self.shared = shared
        self.to_k_ref = nn.Linear(reference_width, inner_dim, bias=bias)
        self.to_v_ref = nn.Linear(reference_width, inner_dim, bias=bias)
        self.gate: nn.Parameter | None = None
        nn.init.zeros_(self.to_v_ref.weight)

    @classmethod
    def of_text(cls, attn: Any, shared: ReferenceTokens) -> ReferenceAttnProcessor:
        """For tokens that are words: K and V start as the text's own, behind a gate that starts closed."""
        own = cls(attn.to_k.in_features, attn.inner_dim, shared, bias=attn.to_k.bias is not None)
        own.to_k_ref.load_state_dict(attn.to_k.state_dict())
        own.to_v_ref.load_state_dict(attn.to_v.state_dict())
        own.gate = nn.Parameter(torch.zeros(1))
        return own

    def forward(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        if rotary_emb is not None or attn.fused_projections:
            raise ValueError("the reference adapter hooks on text cross-attention with separate projections. Unfuse them, or hook on attn2 alone.")

        def heads(x_BND: Tensor) -> Tensor:
            return x_BND.unflatten(2, (attn.heads, -1))

        def attended(key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            out = dispatch_attention_fn(
                query, heads(key), heads(value), attn_mask=mask, dropout_p=0.0, is_causal=False, backend=self._attention_backend, parallel_config=None
            )
            return out.flatten(2, 3).type_as(query)

        words = encoder_hidden_states if attn.add_k_proj is None else encoder_hidden_states[:, -TEXT_TOKENS:]
        query = heads(attn.norm_q(attn.to_q(hidden_states)))
        out = attended(attn.norm_k(attn.to_k(words)), attn.to_v(words), attention_mask)
        if attn.add_k_proj is not None:  # the first frame's tokens stand before the text's
            image = encoder_hidden_states[:, :-TEXT_TOKENS]
            out = out + attended(attn.norm_added_k(attn.add_k_proj(image)), attn.add_v_proj(image), None)
        tokens = self.shared.tokens_BND
        if tokens is not None:
            tokens = tokens.to(hidden_states.dtype)
            key = self.to_k_ref(tokens)
            if self.gate is not None:
                key = attn.norm_k(key)  # as the text's
            query, key, value = (x.transpose(1, 2) for x in (query, heads(key), heads(self.to_v_ref(tokens))))
            seen = attend(query, key, value).transpose(1, 2).flatten(2)
            if self.gate is not None:
                seen = seen * (GATE_RATE * self.gate)
            if self.shared.present_B is not None:
                seen = seen * self.shared.present_B.view(-1, 1, 1).to(seen.dtype)
            out = out + seen
        return attn.to_out[1](attn.to_out[0](out))


def attach_reference(transformer: nn.Module, reference_width: int | None, every_nth_layer: int = 1, *, vace_blocks: bool = False) -> ReferenceTokens:
    """Hook every n-th main block's cross-attention of a Wan or Wan-VACE transformer, and all VACE blocks' where asked; returns where the
    tokens are to be laid.

    reference_width: of the tokens, whose K/V start afresh; None: the tokens are words after the base's own text projection, and K/V
    start as the text's. The new projections are then submodules, `blocks.N.attn2.processor.to_{k,v}_ref`. Raises ValueError where one
    is there already, or the block is of a kind the adapter does not know.
    """
    shared = ReferenceTokens()
    hooked: dict[str, Any] = {f"block {i}": block for i, block in enumerate(transformer.blocks) if i % every_nth_layer == 0}  # type: ignore[arg-type]
    if vace_blocks:
        hooked |= {f"VACE block {i}": block for i, block in enumerate(transformer.vace_blocks)}  # type: ignore[arg-type]
    for name, block in hooked.items():
        attn = block.attn2
        if isinstance(attn.processor, ReferenceAttnProcessor):
            raise ValueError(f"{name} has a reference adapter already. Load a fresh transformer before attaching another.")
        if attn.fused_projections:
            raise ValueError(f"{name} has fused projections. Call unfuse_qkv_projections() before attaching.")
        if reference_width is None:
            attn.set_processor(ReferenceAttnProcessor.of_text(attn, shared))
        else:
            attn.set_processor(ReferenceAttnProcessor(reference_width, attn.inner_dim, shared))
    return shared
