"""Background SSIM: structure kept outside the product's mask. Higher is better; -1 to 1, 1 = identical.

Wang et al. 2004 (survey 9.4, goal > 0.90), torchmetrics' map: Gaussian window of 11 x 11, sigma 1.5, data range 1, RGB channels averaged. A window
centred next to the mask looks into the product, so the map is averaged over the background eroded by the window's radius (5 px): no averaged
value saw a product pixel. The mean is over those pixels of all frames, pooled. With no mask it is the plain SSIM.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchmetrics.functional.image import structural_similarity_index_measure

from pvtt_model.evaluation.frames import background_of, same_shape, to_unit

WINDOW_PX = 11  # int(3.5 sigma + 0.5) * 2 + 1 at sigma 1.5, what torchmetrics uses
_FRAMES_AT_ONCE = 16  # bounds the memory of long clips; does not change the result


def background_ssim(edit_TCHW: torch.Tensor, source_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> float:
    """SSIM outside the mask (True = product) grown by 5 px. Videos are uint8.

    Raises ValueError for unlike shapes, sides under 11 px, or a background that the erosion leaves empty.
    """
    same_shape(edit_TCHW, source_TCHW)
    background_of(mask_THW, source_TCHW)
    if min(source_TCHW.shape[-2:]) < WINDOW_PX:
        raise ValueError(f"frames are {tuple(source_TCHW.shape[-2:])} px; SSIM's window wants sides of {WINDOW_PX} or more.")
    total, count = 0.0, 0
    for start in range(0, len(source_TCHW), _FRAMES_AT_ONCE):
        part = slice(start, start + _FRAMES_AT_ONCE)
        kept_THW = ~grow(mask_THW[part], WINDOW_PX // 2)
        values_THW = ssim_map(edit_TCHW[part], source_TCHW[part])
        total += float(values_THW[kept_THW].sum(dtype=torch.float64))
        count += int(kept_THW.sum())
    if count == 0:
        raise ValueError(f"no background pixel is further than {WINDOW_PX // 2} px from the product: background SSIM cannot be measured.")
    return total / count


def ssim_map(one_TCHW: torch.Tensor, other_TCHW: torch.Tensor) -> torch.Tensor:
    """SSIM a pixel, channels averaged: uint8 T,C,H,W twice -> float32 T,H,W in [-1, 1]."""
    _, values_TCHW = structural_similarity_index_measure(to_unit(one_TCHW), to_unit(other_TCHW), data_range=1.0, return_full_image=True)
    return values_TCHW.mean(dim=1)


def grow(mask_THW: torch.Tensor, radius_px: int) -> torch.Tensor:
    """The mask and every pixel within `radius_px` of it by square distance. bool T,H,W."""
    side = 2 * radius_px + 1
    return F.max_pool2d(mask_THW[:, None].to(torch.float32), side, stride=1, padding=radius_px)[:, 0] > 0
