"""The real clips of the shared test data, with their given masks, and a picture of the product cut from another frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

from pvtt_model.curation.mask_policy import box_of
from pvtt_model.data.video_io import decode, png_bytes
from pvtt_model.specs import ModelSpec


class RealClip(NamedTuple):
    row: dict[str, Any]  # a clips row, its given mask with it
    frames_TCHW: torch.Tensor
    mask_THW: torch.Tensor


@pytest.fixture(scope="session")
def lite0(shared_data: Path) -> ModelSpec:
    """EfficientNet-Lite0, a small real image network in DINOv2's stead; it carries its own name."""
    return ModelSpec(architecture="tf-efficientnet-lite0", weights=str(shared_data / "weights" / "tf_efficientnet_lite0_timm.safetensors"))


@pytest.fixture(scope="session")
def real_clip(shared_data: Path) -> Callable[[str, int, int], RealClip]:
    """(name, frames, frame of the reference): the reference is the largest part of the given mask in that frame, with a tenth of margin."""

    def read(name: str, num_frames: int, reference_frame: int) -> RealClip:
        video, mask = ((shared_data / "videos" / f"{name}{end}.mp4").read_bytes() for end in ("", "_mask"))
        frames, masks = decode(video), decode(mask).float().mean(1).round() > 127
        _, labels, stats, _ = cv2.connectedComponentsWithStats(masks[reference_frame].numpy().astype(np.uint8))
        box = box_of(torch.from_numpy(labels == 1 + int(np.argmax(stats[1:, 4]))))
        assert box is not None
        top, left, bottom, right = box
        down, across = (bottom - top) // 10, (right - left) // 10
        cut = frames[reference_frame, :, max(0, top - down) : bottom + down, max(0, left - across) : right + across]
        row = {"clip_key": name, "video": video, "mask_format": "video", "mask": [mask], "references": [png_bytes(cut.contiguous())]}
        return RealClip(row, frames[:num_frames], masks[:num_frames])

    return read
