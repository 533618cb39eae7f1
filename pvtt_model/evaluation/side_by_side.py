"""One video to watch an edit by: source | mask tint | reference | edit, and | truth where it is known. Written as mp4 by pvtt_model.data.video_io."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from pvtt_model.evaluation.frames import edit_frames
from pvtt_model.evaluation.pictures import fitted, tinted

_PANEL_PX = 128  # narrower frames are enlarged by a whole number to at least this
_GAP_PX = 4


def side_by_side(row: Mapping[str, Any], edit: Literal["raw", "composited"] = "composited") -> torch.Tensor:
    """uint8 T,3,H,W with even H and W, of a usable edits row; four panels of one size with 4 px of white between, five with the right edit.

    Raises ValueError for a failed edit, or one whose pictures do not agree.
    """
    if not row["usable"]:
        raise ValueError(f"edit of clip {row['clip_key']} failed ({row.get('reason')}): there is nothing to show. Skip rows that are not usable.")
    frames = edit_frames(row, ("truth",))
    source = frames["source"]
    count, _, height, width = source.shape
    factor = max(1, -(-_PANEL_PX // width))
    reference = fitted(frames["reference"], width * factor, height * factor)
    reference_TCHW = torch.from_numpy(np.array(reference)).permute(2, 0, 1).expand(count, -1, -1, -1)
    videos = [_enlarged(v, factor) for v in (source, tinted(source, frames["mask"]))] + [reference_TCHW]
    videos += [_enlarged(frames[name], factor) for name in (edit, "truth") if name in frames]
    gap = torch.full((count, 3, height * factor, _GAP_PX), 255, dtype=torch.uint8)
    joined = torch.cat([part for video in videos for part in (video, gap)][:-1], dim=3)
    return _even(joined)


def _enlarged(video_TCHW: torch.Tensor, factor: int) -> torch.Tensor:
    return video_TCHW.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def _even(video_TCHW: torch.Tensor) -> torch.Tensor:
    """White on the right and below where a side is odd: H.264 in 4:2:0 wants even ones."""
    pad_h, pad_w = video_TCHW.shape[2] % 2, video_TCHW.shape[3] % 2
    return torch.nn.functional.pad(video_TCHW, (0, pad_w, 0, pad_h), value=255)
