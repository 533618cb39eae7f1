"""Neighbouring-frame SSIM and motion: does the video hold still between frames, and does it move at all?

frame_ssim: mean SSIM of frame t and t + 1 on whole frames (survey 9.3, goal > 0.90); -1 to 1. A frozen video scores 1, so the figure means nothing
alone: read it beside the source video's own value and beside frame_motion. The survey calls it better when higher; a gate may use it as a floor
for flicker, not as a prize for stillness.

frame_motion: mean |frame t+1 - frame t| / 255, 0 to 1; neither higher nor lower is better. The edit should be near its source.
"""

from __future__ import annotations

import torch

from pvtt_model.evaluation.background_ssim import ssim_map


def frame_ssim(video_TCHW: torch.Tensor) -> float:
    """Mean SSIM of neighbouring frames of a uint8 video. Raises ValueError for fewer than two frames."""
    _two_frames(video_TCHW)
    return sum(float(ssim_map(a[None], b[None]).mean()) for a, b in zip(video_TCHW[:-1], video_TCHW[1:], strict=True)) / (len(video_TCHW) - 1)


def frame_motion(video_TCHW: torch.Tensor) -> float:
    """Mean absolute difference of neighbouring frames, share of the full range. Raises ValueError for fewer than two frames."""
    _two_frames(video_TCHW)
    video = video_TCHW.to(torch.int16)
    return float((video[1:] - video[:-1]).abs().mean(dtype=torch.float64)) / 255.0


def _two_frames(video_TCHW: torch.Tensor) -> None:
    if video_TCHW.ndim != 4 or len(video_TCHW) < 2:
        raise ValueError(f"video is {tuple(video_TCHW.shape)}; neighbouring frames want T,C,H,W with T of 2 or more.")
