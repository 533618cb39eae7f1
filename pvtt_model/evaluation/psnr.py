"""Peak signal-to-noise ratio of uint8 videos, the formula all PSNR metrics share. Higher is better; dB.

    10 log10(255^2 / MSE),  MSE over the three channels of the chosen pixels, pooled over all frames of the clip

Identical videos have an infinite PSNR; JSON cannot hold it and a mean would drown in it, so values are capped at CAP_DB = 100 dB.
"""

from __future__ import annotations

import math

import torch

from pvtt_model.evaluation.frames import same_shape

CAP_DB = 100.0


def psnr_db(one_TCHW: torch.Tensor, other_TCHW: torch.Tensor, where_THW: torch.Tensor | None = None) -> float:
    """PSNR in dB over the pixels where `where_THW` (bool) is True, all of them without it; at most CAP_DB. Raises ValueError for unlike shapes."""
    same_shape(one_TCHW, other_TCHW)
    error_THW = (one_TCHW.to(torch.float64) - other_TCHW.to(torch.float64)).square().mean(dim=1)
    mse = float((error_THW if where_THW is None else error_THW[where_THW]).mean())
    if mse == 0.0:
        return CAP_DB
    return min(CAP_DB, 10.0 * math.log10(255.0**2 / mse))
