"""SSIM with windows of 7 x 7 that all count alike: scikit-image's default, which the benchmark's figures are made with. -1 to 1, 1 = identical.

Wang et al. 2004; K1 0.01, K2 0.03, data range 255, unbiased variances (49 / 48), each channel by itself. The mean is over windows that lie in the
frame as a whole. Against torchmetrics' Gaussian window it differs in the second digit: the two must not be compared.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pvtt_model.evaluation.frames import same_shape

SIDE = 7
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def uniform_ssim(one_TCHW: torch.Tensor, other_TCHW: torch.Tensor, where_THW: torch.Tensor | None = None) -> torch.Tensor:
    """The mean of each frame (T,), float64, of uint8 videos. where: only windows that lie in it as a whole (bool T,H,W).

    Raises ValueError for unlike shapes, sides under 7 px, or a frame without such a window.
    """
    same_shape(one_TCHW, other_TCHW)
    if min(one_TCHW.shape[-2:]) < SIDE:
        raise ValueError(f"frames are {tuple(one_TCHW.shape[-2:])} px; this SSIM's window wants sides of {SIDE} or more.")
    return torch.cat([_part(one_TCHW[t : t + 4], other_TCHW[t : t + 4], where_THW, t) for t in range(0, len(one_TCHW), 4)])


def _part(one_TCHW: torch.Tensor, other_TCHW: torch.Tensor, where_THW: torch.Tensor | None, start: int) -> torch.Tensor:
    x, y = one_TCHW.to(torch.float64), other_TCHW.to(torch.float64)
    mean_x, mean_y, xx, yy, xy = (F.avg_pool2d(v, SIDE, stride=1) for v in (x, y, x * x, y * y, x * y))
    unbiased = SIDE**2 / (SIDE**2 - 1)
    var_x, var_y, cov = (unbiased * (v - m) for v, m in ((xx, mean_x * mean_x), (yy, mean_y * mean_y), (xy, mean_x * mean_y)))
    values = (2 * mean_x * mean_y + _C1) * (2 * cov + _C2) / ((mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2))
    if where_THW is None:
        return values.mean(dim=(1, 2, 3))
    whole = -F.max_pool2d(-where_THW[start : start + len(x), None].to(torch.float64), SIDE, stride=1) > 0.5
    counted = whole.sum(dim=(1, 2, 3))
    if not bool((counted > 0).all()):
        raise ValueError("a frame has no window of 7 x 7 px without the product: background SSIM cannot be measured.")
    return (values * whole).sum(dim=(1, 2, 3)) / (counted * x.shape[1])
