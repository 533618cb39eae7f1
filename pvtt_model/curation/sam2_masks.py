"""A clip's mask by SAM 2, in windows: memory is bounded by a window, not by the clip."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pvtt_model.curation.target import Target


class Segmenter(Protocol):
    """pvtt_model.backbones.sam2.VideoSegmenter, or what stands in for it."""

    name: str

    def segment(
        self, frames_TCHW: Tensor, points: tuple[tuple[float, float], ...] = (), box: tuple[float, float, float, float] | None = None,
        mask_HW: Tensor | None = None,
    ) -> Tensor: ...  # fmt: skip


def sam2_masks(frames_TCHW: Tensor, target: Target, segmenter: Segmenter, window_frames: int) -> Tensor:
    """bool T,H,W of the target in uint8 RGB frames. Frames in which it is not seen are empty, never filled in.

    Each window after the first begins with the newest frame in which the product was seen, and its mask; so it is found again after
    an occlusion. Where it was never seen the rest stays empty.
    """
    masks = torch.zeros(frames_TCHW[:, 0].shape, dtype=torch.bool)
    masks[:window_frames] = segmenter.segment(frames_TCHW[:window_frames], target.points, target.box)
    for start in range(window_frames, len(frames_TCHW), window_frames):
        seen = torch.nonzero(masks[:start].flatten(1).any(1))
        if not len(seen):
            break
        last = int(seen[-1])
        window = torch.cat([frames_TCHW[last : last + 1], frames_TCHW[start : start + window_frames]])
        masks[start : start + window_frames] = segmenter.segment(window, mask_HW=masks[last])[1:]
    return masks
