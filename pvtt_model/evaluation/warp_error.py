"""Temporal warping error: how far a frame is from the next one brought back along the optical flow. Lower is better; 0 to 1.

    mean over visible pixels of |frame_{t+1}(x + flow(x)) - frame_t(x)|,  RGB, share of the full range, pooled over the pairs of the clip

Survey 9.3 (TWE), arXiv:1808.00449. A pixel is visible where the flow there and the flow back agree (Sundaram et al. 2010, the bound that
Ruder et al. arXiv:1604.08610 took over) and its target lies in the frame; without that mask every disocclusion would count as flicker. The flow
is the video's own. A frozen video scores 0, so the figure means nothing alone: read it beside the source video's and beside `motion_px`; below
MOTION_FLOOR_PX the video hardly moves and its error says nothing. Resampling blurs: a perfectly steady video that moves by fractions of a
pixel scores a little above 0; the source's own value holds as much of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from pvtt_model.backbones.flow import FlowModel
from pvtt_model.evaluation.frames import to_unit

MOTION_FLOOR_PX = 0.1  # a frame; ours
_PAIRS_AT_ONCE = 2  # 480p: 0.3 GB of correlations a pair


class WarpError(NamedTuple):
    value: float  # 0 to 1, lower is better
    visible: float  # share of the pixels that were compared
    motion_px: float  # mean length of the flow, px a frame
    pairs: int

    @property
    def is_near_static(self) -> bool:
        return self.motion_px < MOTION_FLOOR_PX


def warp_error(network: FlowModel, video_TCHW: torch.Tensor, where_THW: torch.Tensor | None = None) -> WarpError:
    """The error of a uint8 video, over the pixels where `where_THW` (bool, of the earlier frame) is True, all of them without it.

    Raises ValueError for fewer than two frames, or where no pixel is visible in both frames of any pair (cuts alone).
    """
    if video_TCHW.ndim != 4 or len(video_TCHW) < 2:
        raise ValueError(f"video is {tuple(video_TCHW.shape)}; a warping error wants T,C,H,W with T of 2 or more.")
    error, motion, seen, asked = 0.0, 0.0, 0, 0
    for start in range(0, len(video_TCHW) - 1, _PAIRS_AT_ONCE):
        frames = to_unit(video_TCHW[start : start + _PAIRS_AT_ONCE + 1])
        first, second = frames[:-1], frames[1:]
        forward = network.flow(first, second).to(frames)
        backward = network.flow(second, first).to(frames)
        where = torch.ones_like(first[:, 0], dtype=torch.bool) if where_THW is None else where_THW[start : start + len(first)]
        visible = visible_pixels(forward, backward) & where
        off = (warped(second, forward) - first).abs().mean(dim=1)
        error += float(off[visible].sum(dtype=torch.float64))
        motion += float(forward.norm(dim=1)[where].sum(dtype=torch.float64))
        seen, asked = seen + int(visible.sum()), asked + int(where.sum())
    if not seen:
        raise ValueError("no pixel of any frame is found again in the next: nothing to compare. The video is cuts, or the mask is empty.")
    return WarpError(error / seen, seen / asked, motion / asked, len(video_TCHW) - 1)


def warped(frames_BCHW: torch.Tensor, flow_BCHW: torch.Tensor) -> torch.Tensor:
    """What stands at x + flow(x) of each frame, bilinear: float B,C,H,W; flow B,2,H,W in px (x, y). Outside the frame its edge."""
    height, width = frames_BCHW.shape[-2:]
    x, y = _targets(flow_BCHW)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return F.grid_sample(frames_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=True)


def visible_pixels(forward_BCHW: torch.Tensor, backward_BCHW: torch.Tensor) -> torch.Tensor:
    """bool B,H,W: there and back again ends where it began, |f + b|^2 <= 0.01 (|f|^2 + |b|^2) + 0.5 px^2, and the target lies in the frame."""
    height, width = forward_BCHW.shape[-2:]
    back = warped(backward_BCHW, forward_BCHW)
    bound = 0.01 * (forward_BCHW.square().sum(1) + back.square().sum(1)) + 0.5
    x, y = _targets(forward_BCHW)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return ((forward_BCHW + back).square().sum(1) <= bound) & inside


def _targets(flow_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = flow_BCHW.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height).to(flow_BCHW), torch.arange(width).to(flow_BCHW), indexing="ij")
    return columns + flow_BCHW[:, 0], rows + flow_BCHW[:, 1]
