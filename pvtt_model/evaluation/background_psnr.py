"""Background PSNR: how well the pixels outside the product's mask are kept. Higher is better; dB, 0 to 100 here.

    10 log10(255^2 / MSE),  MSE over the three channels of every pixel outside the mask, pooled over all frames of the clip

Survey 9.4 (goal > 30 dB). The raw output is bounded by the VAE's round trip, so report that ceiling beside it. Identical backgrounds have an
infinite PSNR; JSON cannot hold it and a mean would drown in it, so values are capped at CAP_DB = 100 dB.
"""

from __future__ import annotations

import math

import torch

from pvtt_model.evaluation.frames import background_of, same_shape

CAP_DB = 100.0


def background_psnr_db(edit_TCHW: torch.Tensor, source_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> float:
    """PSNR in dB outside the mask (True = product), at most CAP_DB. Videos are uint8. Raises ValueError for unlike shapes or no background."""
    same_shape(edit_TCHW, source_TCHW)
    background_THW = background_of(mask_THW, source_TCHW)
    error_THW = (edit_TCHW.to(torch.float64) - source_TCHW.to(torch.float64)).square().mean(dim=1)
    mse = float(error_THW[background_THW].mean())
    if mse == 0.0:
        return CAP_DB
    return min(CAP_DB, 10.0 * math.log10(255.0**2 / mse))
