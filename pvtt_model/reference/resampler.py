"""Perceiver Resampler: any number of image patch tokens become a fixed few. Flamingo, arXiv:2204.14198; IP-Adapter-Plus, arXiv:2308.06721."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pvtt_model.reference.attention import attend


class _PerceiverAttention(nn.Module):
    """The latents attend to the image tokens and to themselves."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_tokens = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, tokens_BPD: Tensor, latents_BND: Tensor, keep_BP: Tensor | None) -> Tensor:
        tokens, latents = self.norm_tokens(tokens_BPD), self.norm_latents(latents_BND)
        query = self.to_q(latents)
        key, value = self.to_kv(torch.cat([tokens, latents], dim=1)).chunk(2, dim=-1)
        query, key, value = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        mask = None
        if keep_BP is not None:
            keep = F.pad(keep_BP, (0, latents_BND.shape[1]), value=True)
            mask = keep[:, None, None, :]
        out = attend(query, key, value, mask)
        return self.to_out(out.transpose(1, 2).flatten(2))


class PerceiverResampler(nn.Module):
    """Patch tokens (B, P, image_width) -> num_tokens tokens (B, num_tokens, width), or of out_width where that is given.

    `keep_BP` marks the real tokens where clips with fewer reference pictures were padded: padding cannot change the result.
    """

    def __init__(self, image_width: int, width: int, num_tokens: int, depth: int, num_heads: int, out_width: int | None = None) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"resampler width {width} is not a multiple of its {num_heads} heads. Change reference.width or reference.num_heads.")
        self.latents = nn.Parameter(torch.randn(1, num_tokens, width) / width**0.5)
        self.proj_in = nn.Linear(image_width, width)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention": _PerceiverAttention(width, num_heads),
                    "feed_forward": nn.Sequential(
                        nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
                    ),
                }
            )
            for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, width)
        self.norm_out = nn.LayerNorm(width)
        self.to_out = nn.Linear(width, out_width) if out_width else nn.Identity()

    def forward(self, tokens_BPC: Tensor, keep_BP: Tensor | None = None) -> Tensor:
        tokens = self.proj_in(tokens_BPC)
        latents = self.latents.expand(len(tokens), -1, -1)
        for layer in self.layers:
            attention, feed_forward = layer["attention"], layer["feed_forward"]  # type: ignore[index]
            latents = latents + attention(tokens, latents, keep_BP)
            latents = latents + feed_forward(latents)
        return self.to_out(self.norm_out(self.proj_out(latents)))
