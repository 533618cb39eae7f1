"""The contexts of the backbones that start from a first frame; and of any kind, from what a latents row holds.

Image-to-video (arXiv:2503.20314): the first frame and grey after it, through the VAE together, behind 4 channels of mask, whose latent frame 0
is 1. The VAE is causal, but grey after a frame is not what grey alone is: these latents cannot be had from the clip's own, so a row keeps them
(LatentSpec.first_frame). TI2V-5B takes the first frame alone, which is the clip's own latent frame 0: nothing more is kept for it.
As diffusers' WanImageToVideoPipeline.prepare_latents has both: tests/pvtt_model/curation/test_i2v_context.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pvtt_model.backbones.architectures import Kind
from pvtt_model.backbones.vae import VideoAutoencoder

if TYPE_CHECKING:  # it takes seconds to load
    from pvtt_model.backbones.clip import ClipModel

FIRST = "first_CFHW"  # a row's tensor of first_latents
IMAGE = "image_NC"  # and of the first frame's CLIP tokens
MASK_CHANNELS = 4  # of the image-to-video context: one for each frame that a latent frame stands for


def first_latents(vae: VideoAutoencoder, first_frame_CHW: Tensor, num_frames: int) -> Tensor:
    """Normalised latents (z, F, h, w) of num_frames frames: the given one, RGB in [-1, 1], and grey, 0."""
    video = first_frame_CHW.new_zeros(1, len(first_frame_CHW), num_frames, *first_frame_CHW.shape[1:])
    video[0, :, 0] = first_frame_CHW
    return vae.encode(video)[0]


def first_tokens(clip_model: ClipModel, frame_CHW: Tensor) -> Tensor:
    """The CLIP tokens (1 + P, C) of a frame, uint8, cut to the square in its middle, as diffusers' CLIPImageProcessor cuts it."""
    side = min(frame_CHW.shape[1:])
    top, left = ((length - side) // 2 for length in frame_CHW.shape[1:])
    square = frame_CHW[:, top : top + side, left : left + side]
    return clip_model.reference_tokens(square[None].float() / 255)[0][0]


def i2v_context(vae: VideoAutoencoder, first_frame_CHW: Tensor, num_frames: int) -> Tensor:
    """The image-to-video context (4 + z, F, h, w) of a frame in [-1, 1]."""
    return masked_first(first_latents(vae, first_frame_CHW, num_frames))


def masked_first(first_CFHW: Tensor) -> Tensor:
    """The first frame's latents (.., z, F, h, w) behind their mask, (.., 4 + z, F, h, w): a channel for each frame that a latent frame stands for."""
    mask = torch.zeros_like(first_CFHW.narrow(-4, 0, 1)).repeat_interleave(MASK_CHANNELS, dim=-4)
    mask.select(-3, 0).fill_(1)
    return torch.cat([mask, first_CFHW], dim=-4)


def given_first(x0_CFHW: Tensor) -> Tensor:
    """TI2V-5B's context (.., z + 1, F, h, w) of a clip's own latents: those of the first frame, and its cells marked."""
    mark = torch.zeros_like(x0_CFHW.narrow(-4, 0, 1))
    mark.select(-3, 0).fill_(1)
    return torch.cat([x0_CFHW * mark, mark], dim=-4)


def context_for(kind: Kind, vace_MFHW: Tensor, x0_CFHW: Tensor, first_CFHW: Tensor) -> Tensor:
    """The context of a backbone's kind (backbones.conditioning), for one clip or a batch.

    vace: VACE's. x0: the clip's latents. first: first_latents; without elements where the row has none. Raises ValueError where they are wanted.
    """
    match kind:
        case "vace":
            return vace_MFHW
        case "t2v":
            return vace_MFHW.narrow(-4, 0, 0)
        case "ti2v":
            return given_first(x0_CFHW)
        case "i2v":
            if not first_CFHW.numel():
                raise ValueError("these latents hold no first frames, which image-to-video backbones read. Set latents.first_frame=true, and encode.")
            return masked_first(first_CFHW)
