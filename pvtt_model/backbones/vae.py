"""Wan's causal video autoencoder: 4 x in time, 8 x 8 in space, 16 channels. arXiv:2503.20314.

Shape suffixes: B batch, C channels, T frames, F latent frames = (T - 1) / 4 + 1, H and W pixels (latents: an eighth).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from pvtt_model.backbones.source import (
    architecture_of,
    frozen,
    label,
    part_folder,
    refuse_mismatch,
    refuse_other_config,
    seeded,
    weight_files,
)
from pvtt_model.specs import ModelSpec

TIME_STRIDE, SPACE_STRIDE = 4, 8


class VideoAutoencoder:
    """Frames to normalised latents and back, without gradients but for decode_with_grad.

    The mean of the posterior is taken, never a sample: equal in, equal out.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        self.channels = int(model.config.z_dim)
        shape = (1, self.channels, 1, 1, 1)
        self._mean = torch.tensor(model.config.latents_mean).view(shape)
        self._std = torch.tensor(model.config.latents_std).view(shape)

    def to(self, device: torch.device | str) -> VideoAutoencoder:
        self.model.to(device)
        return self

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, F, H/8, W/8) of a clip. Raises ValueError for a size the VAE cannot take, with the nearest ones."""
        if num_frames % TIME_STRIDE != 1:
            low = num_frames // TIME_STRIDE * TIME_STRIDE + 1
            raise ValueError(f"clip of {num_frames} frames; the VAE takes 4k+1. Use {low} or {low + TIME_STRIDE}.")
        if height % SPACE_STRIDE or width % SPACE_STRIDE:
            raise ValueError(
                f"frames of {width} x {height} pixels; the VAE takes sides in eights. Resize to multiples of 16 (the DiT wants that too)."
            )
        return self.channels, (num_frames - 1) // TIME_STRIDE + 1, height // SPACE_STRIDE, width // SPACE_STRIDE

    @torch.no_grad()
    def encode(self, frames_BCTHW: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W), RGB in [-1, 1], as latents (B, 16, F, H/8, W/8), about zero mean and unit variance a channel.

        Normalised: (mode - latents_mean) / latents_std. Raises ValueError for another shape or range.
        """
        if frames_BCTHW.dim() != 5 or frames_BCTHW.shape[1] != 3:
            raise ValueError(f"frames have shape {tuple(frames_BCTHW.shape)}; encode takes (B, 3, T, H, W). Permute T,C,H,W frames and add a batch.")
        low, high = frames_BCTHW.aminmax()
        if low < -1.001 or high > 1.001:
            raise ValueError(f"frames lie in [{low:.3g}, {high:.3g}]; encode takes [-1, 1]. Scale uint8 by x / 127.5 - 1.")
        self.latent_shape(*frames_BCTHW.shape[2:])
        mode = self.model.encode(frames_BCTHW.to(self.model.device, self.model.dtype)).latent_dist.mode()
        return (mode - self._mean.to(mode)) / self._std.to(mode)

    @torch.no_grad()
    def decode(self, latents_BCFHW: Tensor) -> Tensor:
        """Normalised latents (B, 16, F, h, w) as frames (B, 3, 4 F - 3, 8 h, 8 w), RGB in [-1, 1]. Raises ValueError for another shape."""
        return self.decode_with_grad(latents_BCFHW)

    def decode_with_grad(self, latents_BCFHW: Tensor) -> Tensor:
        """`decode`, with gradients to the latents; pixels that the clamp to [-1, 1] cuts give none.

        The decoder is causal: the first k latent frames alone give the first 4 k - 3 frames of the whole, exactly.
        """
        if latents_BCFHW.dim() != 5 or latents_BCFHW.shape[1] != self.channels:
            raise ValueError(
                f"latents have shape {tuple(latents_BCFHW.shape)}; decode takes (B, {self.channels}, F, h, w). Add the batch, or use their own VAE."
            )
        latents = latents_BCFHW.to(self.model.device, self.model.dtype)
        raw = latents * self._std.to(latents) + self._mean.to(latents)
        return self.model.decode(raw, return_dict=False)[0].clamp(-1, 1)


def load_vae(spec: ModelSpec, folder: Path | None, dtype: torch.dtype = torch.float32) -> VideoAutoencoder:
    """The VAE of `spec`: random from its seed where `folder` is None, else from a diffusers folder (vae/ or the folder itself)."""
    arch, seed = architecture_of(spec, "vae", folder)
    model: Any  # diffusers' classes come without types
    if seed is not None:
        with seeded(seed):
            model = AutoencoderKLWan(**arch.config)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    else:
        assert folder is not None
        part = part_folder(folder, "vae")
        weight_files(part, spec.sha256)
        model, info = AutoencoderKLWan.from_pretrained(part, torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True)
        refuse_mismatch(info["missing_keys"], info["unexpected_keys"], part)
        measured = ("latents_mean", "latents_std") if arch.nano else ()  # of the weights, not of the architecture
        refuse_other_config(model.config, {k: v for k, v in arch.config.items() if k not in measured}, part, spec.architecture)
    return VideoAutoencoder(frozen(model), label(spec))
