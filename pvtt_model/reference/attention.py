"""Decoupled cross-attention on Wan: the text attention as it is, plus an attention to the reference tokens.

    out = to_out( softmax(q k_text / sqrt d) v_text + s g softmax(q k_ref / sqrt d) v_ref )      IP-Adapter, arXiv:2308.06721

Hooked on through diffusers' own extension point, the attention processor: nothing of the transformer is rewritten. An untrained
adapter leaves the base model exactly as it was, because v_ref (space 'own') or the gate g (space 'words') starts at zero; a dropped
reference does too, because its sum is not added.
"""

from __future__ import annotations

from typing import Any, Self

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
    """Where one forward pass lays a set of reference tokens (B, N, D) for every hooked layer to read; None: no reference.

    present_B: 1 where a sample has a reference, 0 where not, whose tokens are then read by nobody. scale: of what the layers add; at 0 they
    add nothing, and the output has the base's bits.
    """

    def __init__(self) -> None:
        self.tokens_BND: Tensor | None = None
        self.present_B: Tensor | None = None
        self.scale = 1.0


class TokenReader(nn.Module):
    """K and V of a set of reference tokens in one layer, and the attention to them that is added to the text's."""

    def __init__(self, reference_width: int, inner_dim: int, shared: ReferenceTokens, *, bias: bool = False) -> None:
        super().__init__()
        self.shared = shared
        self.to_k_ref = nn.Linear(reference_width, inner_dim, bias=bias)
        self.to_v_ref = nn.Linear(reference_width, inner_dim, bias=bias)
        self.gate: nn.Parameter | None = None
        nn.init.zeros_(self.to_v_ref.weight)

    @classmethod
    def of_text(cls, attn: Any, shared: ReferenceTokens) -> Self:
        """For tokens that are words: K and V start as the text's own, behind a gate that starts closed."""
        own = cls(attn.to_k.in_features, attn.inner_dim, shared, bias=attn.to_k.bias is not None)
        own.to_k_ref.load_state_dict(attn.to_k.state_dict())
        own.to_v_ref.load_state_dict(attn.to_v.state_dict())
        own.gate = nn.Parameter(torch.zeros(1))
        return own

    @classmethod
    def on(cls, attn: Any, shared: ReferenceTokens, reference_width: int | None) -> Self:
        """Of tokens of that width, afresh; None: of words, as the text's."""
        return cls.of_text(attn, shared) if reference_width is None else cls(reference_width, attn.inner_dim, shared)

    def forward(self, attn: Any, query_BLHd: Tensor) -> Tensor | None:
        """What the layer `attn` adds (B, L, D) at these queries; None where no tokens are laid, or the scale is 0."""
        tokens = self.shared.tokens_BND
        if tokens is None or self.shared.scale == 0:
            return None
        tokens = tokens.to(query_BLHd.dtype)
        key = self.to_k_ref(tokens)
        if self.gate is not None:
            key = attn.norm_k(key)  # as the text's
        query, key, value = (x.transpose(1, 2) for x in (query_BLHd, _heads(attn, key), _heads(attn, self.to_v_ref(tokens))))
        seen = attend(query, key, value).transpose(1, 2).flatten(2)
        if self.gate is not None:
            seen = seen * (GATE_RATE * self.gate)
        if self.shared.present_B is not None:
            seen = seen * self.shared.present_B.view(-1, 1, 1).to(seen.dtype)
        return seen if self.shared.scale == 1 else seen * self.shared.scale


def _heads(attn: Any, x_BND: Tensor) -> Tensor:
    return x_BND.unflatten(2, (attn.heads, -1))


class ReferenceAttnProcessor(TokenReader):
    """Wan's cross-attention with a second attention, to the reference tokens, added before the output projection.

    Operation by operation diffusers' WanAttnProcessor for a cross-attention (no rotary embedding), Wan2.1's image-to-video one with the keys
    of its first frame included, so that a zero reference, which adds exact zeros, leaves the base's bits. Query and output projection are
    computed once for all. `semantic` reads a second set of tokens, of the injection 'dual_path'.
    """

    _attention_backend: Any = None  # set by diffusers' set_attention_backend, for the text's attention

    def __init__(self, reference_width: int, inner_dim: int, shared: ReferenceTokens, *, bias: bool = False) -> None:
        super().__init__(reference_width, inner_dim, shared, bias=bias)
        self.semantic: TokenReader | None = None

    def forward(  # type: ignore[override]  # called by diffusers as a processor
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        if rotary_emb is not None or attn.fused_projections:
            raise ValueError("the reference adapter hooks on text cross-attention with separate projections. Unfuse them, or hook on attn2 alone.")
        words = encoder_hidden_states if attn.add_k_proj is None else encoder_hidden_states[:, -TEXT_TOKENS:]
        query = _heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        out = self._attended(attn, query, attn.norm_k(attn.to_k(words)), attn.to_v(words), attention_mask)
        if attn.add_k_proj is not None:  # the first frame's tokens stand before the text's
            image = encoder_hidden_states[:, :-TEXT_TOKENS]
            out = out + self._attended(attn, query, attn.norm_added_k(attn.add_k_proj(image)), attn.add_v_proj(image), None)
        for seen in (super().forward(attn, query), None if self.semantic is None else self.semantic(attn, query)):
            out = out if seen is None else out + seen
        return attn.to_out[1](attn.to_out[0](out))

    def _attended(self, attn: Any, query_BLHd: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        out = dispatch_attention_fn(
            query_BLHd, _heads(attn, key), _heads(attn, value), attn_mask=mask, dropout_p=0.0, is_causal=False,
            backend=self._attention_backend, parallel_config=None,
        )  # fmt: skip
        return out.flatten(2, 3).type_as(query_BLHd)


def hooked_blocks(transformer: Any, every_nth_layer: int, vace_blocks: bool) -> list[tuple[int, Any]]:
    """The blocks that read the reference, each with its layer: every n-th main block, and all VACE blocks where asked.

    Raises ValueError where one reads a reference already, or is of a kind that no injection knows, or VACE blocks are asked of a transformer that
    has none.
    """
    hooked = [(f"block {i}", i, block) for i, block in enumerate(transformer.blocks) if i % every_nth_layer == 0]
    if vace_blocks:
        if not hasattr(transformer, "vace_blocks"):
            raise ValueError(f"reference.vace_blocks is true, but {type(transformer).__name__} has no VACE blocks. Set reference.vace_blocks=false.")
        of = zip(transformer.config.vace_layers, transformer.vace_blocks, strict=True)
        hooked += [(f"VACE block {i}", layer, block) for i, (layer, block) in enumerate(of)]
    for name, _, block in hooked:
        if any(isinstance(attn.processor, nn.Module) for attn in (block.attn1, block.attn2)):  # diffusers' own hold no parameters
            raise ValueError(f"{name} has a reference adapter already. Load a fresh transformer before attaching another.")
        if block.attn1.fused_projections or block.attn2.fused_projections:
            raise ValueError(f"{name} has fused projections. Call unfuse_qkv_projections() before attaching.")
    return [(layer, block) for _, layer, block in hooked]


def attach_reference(transformer: nn.Module, reference_width: int | None, every_nth_layer: int = 1, *, vace_blocks: bool = False) -> ReferenceTokens:
    """Hook every n-th main block's cross-attention of a Wan or Wan-VACE transformer, and all VACE blocks' where asked; returns where the
    tokens are to be laid.

    reference_width: of the tokens, whose K/V start afresh; None: the tokens are words after the base's own text projection, and K/V
    start as the text's. The new projections are then submodules, `blocks.N.attn2.processor.to_{k,v}_ref`. Raises ValueError as hooked_blocks().
    """
    shared = ReferenceTokens()
    for _, block in hooked_blocks(transformer, every_nth_layer, vace_blocks):
        block.attn2.set_processor(ReferenceAttnProcessor.on(block.attn2, shared, reference_width))
    return shared


def attach_semantic(transformer: nn.Module, reference_width: int | None) -> ReferenceTokens:
    """A second set of tokens for every layer that attach_reference() hooked: `blocks.N.attn2.processor.semantic.to_{k,v}_ref`. Returns where they
    are to be laid."""
    shared = ReferenceTokens()
    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        if isinstance(processor, ReferenceAttnProcessor):
            processor.semantic = TokenReader.on(module, shared, reference_width)
    return shared
