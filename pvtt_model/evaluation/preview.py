"""Videos of one edit for the report's page: small enough to stand in it by the dozen, frame for frame, all of one size."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F

from pvtt_model.evaluation.frames import edit_frames
from pvtt_model.evaluation.pictures import fitted, to_image

WIDTH_PX = 640  # at most
CRF = 21  # of x264: no visible loss at this size
#: Column of the edits row -> what it is called on the page; in the page's order.
LABELS = {"source": "source", "raw": "edit, raw", "composited": "edit, composited", "truth": "right edit"}


def preview_videos(row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """uint8 T,3,H,W by label, even sides, at most WIDTH_PX wide; the right edit where it is known. Raises ValueError as edit_frames."""
    frames = edit_frames(row, ("truth",))
    return {label: _small(frames[column]) for column, label in LABELS.items() if column in frames}


def poster(video_TCHW: torch.Tensor) -> bytes:
    """JPEG of the first frame."""
    return _jpeg(to_image(video_TCHW[0]))


def reference_picture(row: Mapping[str, Any]) -> bytes:
    """JPEG of the reference, letterboxed to the videos' shape; white where it was transparent."""
    frames = edit_frames(row)
    height, width = _size(frames["source"])
    return _jpeg(fitted(frames["reference"], width, height))


def _size(video_TCHW: torch.Tensor) -> tuple[int, int]:
    """Height and width, both even, of the preview."""
    height, width = video_TCHW.shape[-2:]
    scale = min(1.0, WIDTH_PX / width)
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)


def _small(video_TCHW: torch.Tensor) -> torch.Tensor:
    size = _size(video_TCHW)
    if size == tuple(video_TCHW.shape[-2:]):
        return video_TCHW
    resized = [F.interpolate(frame[None].float(), size=size, mode="bilinear", antialias=True) for frame in video_TCHW]
    return torch.cat([frame.round_().clamp_(0, 255).to(torch.uint8) for frame in resized])


def _jpeg(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()
