"""Wan's transformers and autoencoders as keyword arguments of diffusers' classes. Plain data: importing this loads no torch.

Each is the config.json of the published diffusers folder, as diffusers' own conversion script writes it (scripts/convert_wan_to_diffusers.py)
and the original repositories' wan/configs say: Wan2.1 arXiv:2503.20314, VACE arXiv:2503.07598, Wan2.2 github.com/Wan-Video/Wan2.2.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]


def wan(heads: int, head_dim: int, ffn_dim: int, layers: int, text_dim: int = 4096, *, channels: int = 16, **more: Any) -> Config:
    """A Wan transformer that takes and gives `channels` latent channels; the time axis is not folded, 2 x 2 cells are one token."""
    return {
        "patch_size": [1, 2, 2],
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "in_channels": channels,
        "out_channels": channels,
        "text_dim": text_dim,
        "freq_dim": 256,
        "ffn_dim": ffn_dim,
        "num_layers": layers,
        **more,
    }


#: heads, head width, feed-forward width, layers. The 1.3B has the same full spatio-temporal attention as the 14B.
SMALL, LARGE, MIDDLE = (12, 128, 8960, 30), (40, 128, 13824, 40), (24, 128, 14336, 30)


def with_vace(config: Config, every: int, space_stride: int = 8) -> Config:
    """The transformer with VACE's branch at every n-th block. It reads two latent halves and the mask's pixels of a cell."""
    channels = 2 * config["out_channels"] + space_stride**2
    return {**config, "vace_layers": list(range(0, config["num_layers"], every)), "vace_in_channels": channels}  # the layers must contain 0


def with_image(config: Config, image_dim: int | None) -> Config:
    """Image-to-video: 4 mask channels and the first frame's latents beside the noisy ones. image_dim: of CLIP's tokens, which Wan2.1's
    cross-attention reads beside the text (behind exactly 512 text tokens, or diffusers cuts them in the wrong place); None in Wan2.2."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    added = width if image_dim is not None else None
    return {**config, "in_channels": 2 * config["out_channels"] + 4, "image_dim": image_dim, "added_kv_proj_dim": added}


# fmt: off
_MEAN, _STD = [
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
], [
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
]
# fmt: on

#: 4 x 8 x 8, 16 channels; their statistics are the defaults of diffusers' class.
WAN21_VAE: Config = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
}

#: 4 x 16 x 16, 48 channels: 2 x 2 pixels are folded into channels before the encoder, whose stages have residual short cuts.
WAN22_VAE: Config = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
    "latents_mean": _MEAN,
    "latents_std": _STD,
}
