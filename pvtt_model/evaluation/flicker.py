"""Flicker: does brightness jump between frames?

temporal_flicker: 1 - mean |frame t+1 - frame t| / 255, whole frames; 0 to 1, higher is called better (VBench's temporal flickering,
arXiv:2311.17982, without its selection of static clips). Motion lowers it and a frozen video scores 1, so it stands beside the source's.

added_flicker: what the edit adds: mean |change of the edit - change of the source| / 255 between frames, outside the mask; 0 to 1, lower
is better; 0 where the background changes just as the source's does. Ours. No motion confuses it, and freezing the background costs.
"""

from __future__ import annotations

import torch

from pvtt_model.evaluation.frame_ssim import frame_motion
from pvtt_model.evaluation.frames import background_of, same_shape


def temporal_flicker(video_TCHW: torch.Tensor) -> float:
    """Of a uint8 video. Raises ValueError for fewer than two frames."""
    return 1.0 - frame_motion(video_TCHW)


def added_flicker(edit_TCHW: torch.Tensor, source_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> float:
    """Over pixels that are background in both frames of a pair (mask True = product). Raises ValueError for unlike shapes or no such pixel."""
    same_shape(edit_TCHW, source_TCHW)
    if len(source_TCHW) < 2:
        raise ValueError(f"video is {tuple(source_TCHW.shape)}; neighbouring frames want T of 2 or more.")
    ground_THW = background_of(mask_THW, source_TCHW)
    both = ground_THW[1:] & ground_THW[:-1]
    if not bool(both.any()):
        raise ValueError("no pixel is background in two frames in a row: added flicker cannot be measured.")
    error_TCHW = edit_TCHW.to(torch.int16) - source_TCHW.to(torch.int16)  # the change of the error is the error of the change
    change_THW = (error_TCHW[1:] - error_TCHW[:-1]).abs().to(torch.float32).mean(dim=1)
    return float(change_THW[both].mean(dtype=torch.float64)) / 255.0
