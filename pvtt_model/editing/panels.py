"""One frame to watch an edit by: source | edited region | reference | result, of equal size with white between."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pvtt_model.backbones.image import opaque
from pvtt_model.data.video_io import read_picture
from pvtt_model.evaluation.pictures import fitted, tinted

WIDTH_PX, GAP_PX = 416, 4


def panels(source_CHW: Tensor, region_HW: Tensor, reference: bytes, result_CHW: Tensor) -> Tensor:
    """uint8 (3, h, w) with even sides; panels are at most WIDTH_PX wide. region: bool, where the model drew."""
    height, width = source_CHW.shape[-2:]
    scale = min(1.0, WIDTH_PX / width)
    size = max(2, round(height * scale) // 2 * 2), max(2, round(width * scale) // 2 * 2)
    shown = [source_CHW, tinted(source_CHW[None], region_HW[None])[0], None, result_CHW]
    parts = [_reference(reference, size) if picture is None else _scaled(picture, size) for picture in shown]
    gap = torch.full((3, size[0], GAP_PX), 255, dtype=torch.uint8)
    return torch.cat([part for panel in parts for part in (panel, gap)][:-1], dim=2)


def _scaled(picture_CHW: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(picture_CHW[None].float(), size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


@lru_cache(maxsize=4)
def _reference(data: bytes, size: tuple[int, int]) -> Tensor:
    flat, _ = opaque(read_picture(data))
    picture = torch.from_numpy(np.array(flat)).permute(2, 0, 1)
    return torch.from_numpy(np.array(fitted(picture, size[1], size[0]))).permute(2, 0, 1)
