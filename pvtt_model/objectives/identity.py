"""Does the clip show the reference's product? 1 - cosine of both in the image encoder's eyes, with gradients (the survey's L_identity, 10.5).

The clip is the model's own estimate of the data, x0 = x_sigma - sigma v. At much noise that estimate is a blur and no picture, so only samples
below a level count. Its first latent frames are decoded by the frozen VAE: the decoder is causal, so k latent frames are exactly the first
4 k - 3 frames of the whole clip, and none of the others is paid for. On each decoded latent frame the box of VACE's mask is cut out of one
frame, set into the encoder's square on mid-grey, and its mean patch token held against that of the reference pictures. PuLID
(arXiv:2404.16022) says why a noisy estimate will not do for an identity loss. The cosine can be won by texture: it stands beside the flow
loss, not in its place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pvtt_model.backbones.image import ImageEncoder
from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.evaluation.crops import NEUTRAL, letterbox, mask_box


class LossModels(NamedTuple):
    """The frozen models that the identity loss looks through."""

    vae: VideoAutoencoder
    image: ImageEncoder


def pooled_reference(reference_BPC: Tensor, keep_BP: Tensor) -> Tensor:
    """The mean of the real patch tokens of a clip's reference pictures (B, C), float32; zeros where there is none."""
    keep_BP1 = keep_BP.unsqueeze(2).float()
    return (reference_BPC.float() * keep_BP1).sum(1) / keep_BP1.sum(1).clamp(min=1)


def identity_loss(
    x0_BCFHW: Tensor, mask_BMFHW: Tensor, reference_BC: Tensor, counts_B: Tensor, models: LossModels, frames: int
) -> tuple[Tensor, Tensor]:
    """1 - cosine a sample (B), float32, in [0, 2], and the samples that have one (B); the others are 0. Lower is better.

    x0: the estimate, normalised latents. mask: VACE's 64 channels. reference: as `pooled_reference`. counts: the samples asked for. frames:
    latent frames to decode. A sample has none where its mask is empty in all of them, or its reference all zero. Where no sample has one,
    nothing is decoded.
    """
    frames = min(frames, x0_BCFHW.shape[2])
    mask_BTHW = pixel_mask(mask_BMFHW[:, :, :frames])
    has_B = counts_B.bool() & mask_BTHW.flatten(1).any(1) & (reference_BC != 0).any(1)
    losses = list(torch.zeros(len(x0_BCFHW), device=x0_BCFHW.device))
    index = has_B.nonzero().flatten().tolist()
    if not index:
        return torch.stack(losses), has_B
    video_NCTHW = (models.vae.decode_with_grad(x0_BCFHW[index, :, :frames]).float() + 1) / 2
    shown = shown_frames(x0_BCFHW.shape[2], frames, models.vae.time_stride)
    for video_CTHW, i in zip(video_NCTHW, index, strict=True):
        crops = [product_crop(video_CTHW[:, t], mask_HW, models.image.side) for t, mask_HW in zip(shown, mask_BTHW[i], strict=True) if mask_HW.any()]
        seen_NC = models.image.pooled_with_grad(torch.stack(crops)).float()
        losses[i] = 1 - cosine_similarity(seen_NC, reference_BC[i : i + 1].to(seen_NC), dim=1).mean()
    return torch.stack(losses), has_B


def pixel_mask(mask_BMFHW: Tensor) -> Tensor:
    """VACE's mask channels, the 8 x 8 pixels of each latent cell, as pixels: bool (B, F, 8 h, 8 w)."""
    side = int(mask_BMFHW.shape[1] ** 0.5)
    cells = mask_BMFHW.unflatten(1, (side, side)).permute(0, 3, 4, 1, 5, 2)  # B, F, h, y, w, x
    return cells.flatten(4, 5).flatten(2, 3) > 0.5


def shown_frames(latent_frames: int, decoded: int, stride: int = 4) -> list[int]:
    """Of each of the first `decoded` latent frames the frame that its mask was taken from (nearest, as VACE does), or the last decoded one."""
    total = stride * (latent_frames - 1) + 1
    last = stride * (decoded - 1)
    return [min(last, int((i + 0.5) * total / latent_frames)) for i in range(decoded)]


def product_crop(frame_CHW: Tensor, mask_HW: Tensor, side_px: int) -> Tensor:
    """The mask's box of a frame in [0, 1] in a square of `side_px` on mid-grey, aspect kept, (3, side, side); differentiable."""
    top, bottom, left, right = mask_box(mask_HW, 0.0)
    grey = torch.full((3,), NEUTRAL, device=frame_CHW.device)
    return letterbox(frame_CHW[:, top:bottom, left:right].clamp(0, 1), side_px, grey)
