"""A clip's frames and mask at the model's size, and the way into the VAE's space and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvtt_model.data.video_io import Picked, decode, fit, fit_mask, png_mask
from pvtt_model.specs import VideoSpec

#: What latents and conditions may be stored as, by the settings' names.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def frames_and_mask(clip: dict[str, Any], mask: dict[str, Any], video: VideoSpec, timeout_s: float = 120.0) -> tuple[Tensor, Tensor]:
    """(frames uint8 T,C,H,W, mask bool T,H,W) of a clip at its bucket's size, from its clips and masks rows. Raises VideoUnreadable."""
    frames = fit(decode(as_seen(clip)["video"], video.num_frames, timeout_s), video)
    return frames, fit_mask(torch.stack([png_mask(png) for png in mask["mask"]]), video)


def as_seen(clip: dict[str, Any]) -> dict[str, Any]:
    """The clip's row with video, mask and truth as the model sees them: the used frames alone, where ingest chose them (by their times).

    Frame i of a mask belongs to frame i of the video, so the frames used are the same in all. Shards of before have no such column.
    """
    if not clip.get("used_frames"):
        return clip
    used = tuple(clip["used_frames"])
    seen = clip | {"video": Picked(clip["video"], used), "used_frames": None}
    if clip["mask_format"] == "video":
        seen["mask"] = [Picked(clip["mask"][0], used)]
    elif clip["mask_format"] == "png":
        seen["mask"] = [clip["mask"][i] for i in used]
    if clip.get("truth_video"):
        seen |= {"truth_video": Picked(clip["truth_video"], used), "truth_mask": [clip["truth_mask"][i] for i in used]}
    return seen


def to_model(frames_TCHW: Tensor) -> Tensor:
    """uint8 frames (T, C, H, W) as the VAE takes them: float (C, T, H, W) in [-1, 1]."""
    return (frames_TCHW.float() / 127.5 - 1).transpose(0, 1)


def to_frames(video_CTHW: Tensor) -> Tensor:
    """The inverse of to_model, clamped and rounded to uint8."""
    return ((video_CTHW.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).transpose(0, 1)
