"""A clip and its mask as the latents that training reads: the clip itself, and VACE's context. arXiv:2503.07598.

VACE splits the frames by the mask M (1: to be made): inactive F (1 - M), kept; reactive F M, to be made. Here the frames inside
the widened mask are first replaced by the fill, in normalised space (neutral is 0), so the old product cannot leak.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from pvtt_model.backbones.vae import VideoAutoencoder
from pvtt_model.curation.frames import frames_and_mask, to_model
from pvtt_model.curation.mask_policy import fill_inside, widen
from pvtt_model.specs import LatentSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CELL = 8  # pixels of the frame a latent cell stands for, either way


def pack_mask(mask_THW: Tensor) -> Tensor:
    """The mask (T, H, W) as VACE's 64 channels (64, F, H/8, W/8), uint8: the 8 x 8 pixels of each latent cell, at F = (T + 3) // 4 frames."""
    frames, height, width = mask_THW.shape
    cells = mask_THW.float().view(frames, height // CELL, CELL, width // CELL, CELL).permute(2, 4, 0, 1, 3).flatten(0, 1)
    size = ((frames + 3) // 4, height // CELL, width // CELL)
    return F.interpolate(cells[None], size=size, mode="nearest-exact")[0].to(torch.uint8)


def vace_context(frames_TCHW: Tensor, mask_THW: Tensor, spec: LatentSpec, vae: VideoAutoencoder) -> dict[str, Tensor]:
    """inactive_CFHW, reactive_CFHW (normalised latents) and mask_MFHW of frames and an already widened mask."""
    video = fill_inside(to_model(frames_TCHW).transpose(0, 1), mask_THW, spec.fill).transpose(0, 1)
    inside = mask_THW.to(video.dtype)
    halves = torch.cat([vae.encode((video * keep)[None]) for keep in (1 - inside, inside)])
    return {"inactive_CFHW": halves[0], "reactive_CFHW": halves[1], "mask_MFHW": pack_mask(mask_THW)}


def encode_latents(clip: dict[str, Any], mask: dict[str, Any], spec: LatentSpec, vae: VideoAutoencoder) -> dict[str, Any]:
    """The latents row of one clip; a clip whose mask was refused stays in its row, unusable, with the mask's reason."""
    row: dict[str, Any] = {"clip_key": clip["clip_key"], "usable": mask["usable"], "reason": mask["reason"], "tensors": b""}
    if not mask["usable"]:
        return row
    frames, exact = frames_and_mask(clip, mask, spec.video)
    widened = widen(exact, spec.mask_policy)
    if not widened.any():
        return row | {"usable": False, "reason": "the mask is empty once cut to the model's frame; use video.fit='stretch' or another clip"}
    dtype = _DTYPES[spec.dtype]
    context = vace_context(frames, widened, spec, vae)
    tensors = {"latents_CFHW": vae.encode(to_model(frames)[None])[0], **context}
    stored = {name: (t if t.dtype == torch.uint8 else t.to(dtype)).cpu().contiguous() for name, t in tensors.items()}
    return row | {"tensors": save(stored)}
