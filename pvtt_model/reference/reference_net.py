"""A copy of the base's first half that reads the reference pictures, whose K and V the base's own self-attention reads beside the video's.

AnimateAnyone's ReferenceNet (arXiv:2311.17117) on a DiT. The copy is trained, the base is frozen. It runs over the VAE latents of the pictures,
each picture alone, as a clean video of one frame (timestep 0) with the prompt that the video has; block i's K and V of all pictures are then
concatenated to those of the base's block i:

    out = own + s g (both - own)         own = attention(q, K, V),   both = attention(q, [K; K_ref], [V; V_ref])

(both - own) is the reference's share of the concatenated attention, S_ref / (S + S_ref) (attention(q, K_ref, V_ref) - own) with S the sums of the
exponentials, so s g = 1 is the plain concatenation. The gate g starts at zero: an untrained copy leaves the base's bits. The price
is a second attention over the video in every reading layer: kernels that give the sums with a gradient would spare it, and torch has none.

Positions: picture n stands at frame F + n of a video of F latent frames, behind its end, rows and columns its own. No position is taken twice.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from pvtt_model.reference.attention import GATE_RATE, attend, hooked_blocks

Rotary = tuple[Tensor, Tensor]


class Keys(NamedTuple):
    """K, with its positions, and V of the pictures' tokens, as one layer reads them."""

    key_BRHd: Tensor
    value_BRHd: Tensor


class ReferenceKeys:
    """Where one forward pass lays what the copy found, a pair a copied layer; None: no reference.

    keep_BR marks the tokens of real pictures; None: all are. present_B, scale: as of ReferenceTokens.
    """

    def __init__(self) -> None:
        self.layers: list[Keys] | None = None
        self.keep_BR: Tensor | None = None
        self.present_B: Tensor | None = None
        self.scale = 1.0


def rotated(x_BLHd: Tensor, rotary: Rotary) -> Tensor:
    """Rotary embedding as diffusers' WanAttnProcessor does it: neighbouring channels are a pair; cos and sin (., L, 1, d), each twice."""
    cos, sin = rotary
    even, odd = x_BLHd.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    out = torch.empty_like(x_BLHd)
    out[..., 0::2] = even * cos - odd * sin
    out[..., 1::2] = even * sin + odd * cos
    return out.type_as(x_BLHd)


def reference_rotary(rope: Any, frame: int, pictures: int, height: int, width: int) -> Rotary:
    """cos and sin (pictures, height * width, 1, d) of picture n at `frame` + n, rows and columns from 0. height, width: in patches."""
    last = frame + pictures
    if last > rope.max_seq_len:
        raise ValueError(f"{pictures} reference pictures behind {frame} latent frames pass the {rope.max_seq_len} positions of the base. Use fewer.")
    sizes = [rope.t_dim, rope.h_dim, rope.w_dim]

    def of(table: Tensor) -> Tensor:
        t, h, w = table.split(sizes, dim=1)
        size = (pictures, height, width, -1)
        parts = (t[frame:last, None, None].expand(size), h[None, :height, None].expand(size), w[None, None, :width].expand(size))
        return torch.cat(parts, dim=-1).reshape(pictures, height * width, 1, -1)

    return of(rope.freqs_cos), of(rope.freqs_sin)


class ReferenceSelfAttnProcessor(nn.Module):
    """Wan's self-attention that also reads layer `layer` of the copy. Operation by operation diffusers' WanAttnProcessor for what is the base's."""

    _attention_backend: Any = None
    _parallel_config: Any = None

    def __init__(self, shared: ReferenceKeys, layer: int) -> None:
        super().__init__()
        self.shared, self.layer = shared, layer
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: None = None, attention_mask: Tensor | None = None, rotary_emb: Any = None
    ) -> Tensor:
        if attn.fused_projections or self._parallel_config is not None or encoder_hidden_states is not None:
            raise ValueError(
                "the reference net hooks on self-attention with separate projections, on one device. Unfuse them, or hook on attn1 alone."
            )
        query, key, value = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, value))
        if rotary_emb is not None:
            query, key = rotated(query, rotary_emb), rotated(key, rotary_emb)
        out = dispatch_attention_fn(
            query, key, value, attn_mask=attention_mask, dropout_p=0.0, is_causal=False, backend=self._attention_backend, parallel_config=None
        )
        out = out.flatten(2, 3).type_as(query)
        shared = self.shared
        if shared.layers is not None and shared.scale != 0:
            share = (self._both(query, key, value) - out) * (GATE_RATE * self.gate * shared.scale).to(out.dtype)
            out = out + (share if shared.present_B is None else share * shared.present_B.view(-1, 1, 1).to(share.dtype))
        return attn.to_out[1](attn.to_out[0](out))

    def _both(self, query_BLHd: Tensor, key_BLHd: Tensor, value_BLHd: Tensor) -> Tensor:
        """The attention (B, L, D) to the video's tokens and the pictures'."""
        assert self.shared.layers is not None
        given, keep_BR = self.shared.layers[self.layer], self.shared.keep_BR
        key, value = torch.cat([key_BLHd, given.key_BRHd.to(key_BLHd)], 1), torch.cat([value_BLHd, given.value_BRHd.to(value_BLHd)], 1)
        mask = None
        if keep_BR is not None:
            mask = torch.nn.functional.pad(keep_BR, (key_BLHd.shape[1], 0), value=True)[:, None, None, :]
        query, key, value = (x.transpose(1, 2) for x in (query_BLHd, key, value))
        return attend(query, key, value, mask).transpose(1, 2).flatten(2)


class _KeepingProcessor:
    """Plain self-attention of a copied block that leaves its K and V behind in `kept`."""

    kept: Keys | None = None

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: None = None, attention_mask: None = None, rotary_emb: Any = None
    ) -> Tensor:
        query, key, value = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, value))
        query, key = rotated(query, rotary_emb), rotated(key, rotary_emb)
        self.kept = Keys(key, value)
        out = attend(*(x.transpose(1, 2) for x in (query, key, value))).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


class _LastKeys(nn.Module):
    """Of the last copied block what K and V need: the norm before its self-attention, and their projections. What is behind, nobody reads."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(block.scale_shift_table.detach().clone())
        self.norm1, self.heads = block.norm1, block.attn1.heads
        self.to_k, self.to_v, self.norm_k = block.attn1.to_k, block.attn1.to_v, block.attn1.norm_k

    def forward(self, hidden_BLD: Tensor, temb_B6D: Tensor, rotary: Rotary) -> Keys:
        shift, scale = (self.scale_shift_table + temb_B6D.float()).chunk(6, dim=1)[:2]
        normed = (self.norm1(hidden_BLD.float()) * (1 + scale) + shift).type_as(hidden_BLD)
        key, value = (x.unflatten(2, (self.heads, -1)) for x in (self.norm_k(self.to_k(normed)), self.to_v(normed)))
        return Keys(rotated(key, rotary), value)


def _run(block: Any, hidden: Tensor, text: Tensor, temb: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
    """A copied block's answer, and its K and V."""
    hidden = block(hidden, text, temb, rotary)
    kept, block.attn1.processor.kept = block.attn1.processor.kept, None
    return hidden, *kept


class ReferenceNet(nn.Module):
    """The copied blocks 0 to `layers` - 1. The patch and condition embedders are the base's own, which is given at each call and not kept here."""

    def __init__(self, transformer: Any, layers: int) -> None:
        super().__init__()
        copies = [copy.deepcopy(block) for block in transformer.blocks[:layers]]
        for block in copies:
            block.attn1.set_processor(_KeepingProcessor())
            block.attn2.add_k_proj = block.attn2.add_v_proj = None  # an image-to-video base's own image is not given here
        self.blocks = nn.ModuleList([*copies[:-1], _LastKeys(copies[-1])])
        self.requires_grad_(True)

    def forward(self, transformer: Any, latents_BNCHW: Tensor, text_BLD: Tensor, num_frames: int) -> list[Keys]:
        """K and V of N pictures' tokens a copied layer: (B, N * h * w, heads, d), h and w in patches. num_frames: latent frames of the video."""
        batch, pictures, channels, height, width = latents_BNCHW.shape
        _, rows, columns = transformer.config.patch_size
        missing = transformer.config.in_channels - channels  # an image-to-video base takes mask and first frame too: none here
        frame = torch.nn.functional.pad(latents_BNCHW.flatten(0, 1)[:, :, None], (0, 0, 0, 0, 0, 0, 0, missing))
        hidden = transformer.patch_embedding(frame).flatten(2).transpose(1, 2)
        _, temb, text, _ = transformer.condition_embedder(torch.zeros(batch, device=text_BLD.device), text_BLD)
        temb, text = (x.repeat_interleave(pictures, 0) for x in (temb.unflatten(1, (6, -1)), text))
        rotary = reference_rotary(transformer.rope, num_frames, pictures, height // rows, width // columns)
        rotary = (rotary[0].repeat(batch, 1, 1, 1), rotary[1].repeat(batch, 1, 1, 1))
        found: list[Keys] = []
        for block in self.blocks[:-1]:
            if torch.is_grad_enabled() and transformer.gradient_checkpointing:
                hidden, key, value = transformer._gradient_checkpointing_func(_run, block, hidden, text, temb, rotary)
            else:
                hidden, key, value = _run(block, hidden, text, temb, rotary)
            found.append(Keys(key, value))
        found.append(self.blocks[-1](hidden, temb, rotary))
        return [Keys(*(x.unflatten(0, (batch, pictures)).flatten(1, 2) for x in keys)) for keys in found]


def attach_reference_net(transformer: Any, every_nth_layer: int = 1, *, vace_blocks: bool = False) -> tuple[ReferenceNet, ReferenceKeys]:
    """Copy the first half of the main blocks, and let every n-th of that half read it; VACE blocks of that half too, where asked, the copy of their
    layer. Returns the copy and where its K and V are to be laid. A reading layer's gate is `blocks.N.attn1.processor.gate`.

    Raises ValueError as hooked_blocks().
    """
    half = max(1, len(transformer.blocks) // 2)
    reading = [(layer, block) for layer, block in hooked_blocks(transformer, every_nth_layer, vace_blocks) if layer < half]
    shared = ReferenceKeys()
    net = ReferenceNet(transformer, max(layer for layer, _ in reading) + 1)
    for layer, block in reading:
        block.attn1.set_processor(ReferenceSelfAttnProcessor(shared, layer))
    return net, shared
