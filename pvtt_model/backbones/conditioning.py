"""A diffusers Wan transformer called by its kind. One function for training and sampling, so that the two cannot differ.

    vace  the context goes through VACE's own branch                                              arXiv:2503.07598
    t2v   no context
    i2v   the context stands behind the noisy latents on the channels: 4 of mask, then z of the first frame's latents. Wan2.1's also reads
          the first frame's CLIP tokens, Wan2.2's does not                                         arXiv:2503.20314
    ti2v  the context's latents stand in the place of the noisy ones in given cells, whose tokens have timestep 0 (Wan2.2-TI2V-5B)

Shape suffixes: B batch, C (or z) latent channels, M context channels, F latent frames, H and W latent cells, L text tokens, N image tokens.
The context of a kind at latent resolution, M channels: vace 2 z + the mask's pixels a cell; t2v 0; i2v 4 + z; ti2v z + 1, the latents of what
is given (zeros elsewhere) and the mark of given cells (1). Each is as diffusers' pipelines have it:
tests/pvtt_model/editing/test_pipeline_equality.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanVACETransformer3DModel
from torch import Tensor

from pvtt_model.backbones.architectures import Kind

#: Blocks with an image of their own take all but the last 512 tokens for the image's (diffusers' WanAttnProcessor): text is padded to that.
TEXT_TOKENS = 512


def kind_of(transformer: Any) -> Kind:
    """The kind that class and channels tell. TI2V-5B has a text-to-video model's layout: who means 'ti2v' has to say so."""
    if isinstance(transformer, WanVACETransformer3DModel):
        return "vace"
    return "t2v" if transformer.config.in_channels == latent_channels(transformer) else "i2v"


def latent_channels(transformer: Any) -> int:
    """z: the channels of the latents that the transformer makes."""
    return int(transformer.config.out_channels or transformer.config.in_channels)


def context_channels(transformer: Any, kind: Kind) -> int:
    """M, the channels of the context that a transformer of this kind takes."""
    match kind:
        case "vace":
            return int(transformer.config.vace_in_channels)
        case "t2v":
            return 0
        case "i2v":
            return int(transformer.config.in_channels) - latent_channels(transformer)
        case "ti2v":
            return latent_channels(transformer) + 1


def velocity(
    transformer: Any,
    kind: Kind,
    noisy_BCFHW: Tensor,
    timestep_B: Tensor,
    text_BLD: Tensor,
    control_BMFHW: Tensor,
    image_BNC: Tensor | None = None,
) -> Tensor:
    """The predicted velocity, shaped as the noisy latents. timestep: 1000 sigma. image: the first frame's CLIP tokens, where the transformer
    has an image_dim. Raises ValueError for a context of other channels, or an image that is missing or not read."""
    wanted = context_channels(transformer, kind)
    if control_BMFHW.shape[1] != wanted:
        raise ValueError(f"the context has {control_BMFHW.shape[1]} channels; this {kind} transformer takes {wanted}. Make it for that kind.")
    reads_image = transformer.config.image_dim is not None
    if reads_image != (image_BNC is not None):
        cure = "Give the first frame's CLIP tokens." if reads_image else "Leave them out: Wan2.1's image-to-video models alone read them."
        raise ValueError(f"this {kind} transformer {'reads' if reads_image else 'does not read'} image tokens. {cure}")
    given: dict[str, Any] = {"encoder_hidden_states": text_BLD, "return_dict": False}
    if image_BNC is not None:
        if text_BLD.shape[1] > TEXT_TOKENS:
            raise ValueError(f"{text_BLD.shape[1]} text tokens; a transformer that reads image tokens takes {TEXT_TOKENS}. Lower max_text_tokens.")
        given["encoder_hidden_states_image"] = image_BNC
        given["encoder_hidden_states"] = F.pad(text_BLD, (0, 0, 0, TEXT_TOKENS - text_BLD.shape[1]))
    timestep, noisy = timestep_B, noisy_BCFHW
    match kind:
        case "vace":
            given["control_hidden_states"] = control_BMFHW
        case "i2v":
            noisy = torch.cat([noisy_BCFHW, control_BMFHW], dim=1)
        case "ti2v":
            noisy = with_given(kind, noisy_BCFHW, control_BMFHW)
            down, across = transformer.config.patch_size[1:]
            free_BFHW = 1 - control_BMFHW[:, -1, :, ::down, ::across].to(timestep_B.dtype)
            timestep = (free_BFHW * timestep_B.view(-1, 1, 1, 1)).flatten(1)
    return transformer(hidden_states=noisy, timestep=timestep, **given)[0]


def with_given(kind: Kind, latents_BCFHW: Tensor, control_BMFHW: Tensor) -> Tensor:
    """The latents with what a ti2v context gives in its cells; those of another kind unchanged."""
    if kind != "ti2v":
        return latents_BCFHW
    first, mark = control_BMFHW[:, :-1].to(latents_BCFHW.dtype), control_BMFHW[:, -1:].to(latents_BCFHW.dtype)
    return mark * first + (1 - mark) * latents_BCFHW


def answered(kind: Kind, control_BMFHW: Tensor) -> Tensor | None:
    """1 in the cells (B, F, H, W) whose velocity the model is asked for, 0 in those that a ti2v context gives; None: in all."""
    return 1 - control_BMFHW[:, -1] if kind == "ti2v" else None
