"""Background LPIPS: how unlike the pictures outside the product's mask look. Lower is better; 0 = the same, rarely above 1.

arXiv:1801.03924 (survey 9.4), LPIPS v0.1 with AlexNet. A network's cells look far into their neighbourhood, so cutting its maps is not
enough: inside the mask the edit is first given the source's pixels, so that nothing there can differ, and each layer's map is averaged
over the background alone, a cell by the share of background in it. With no mask it is the package's own LPIPS. Like PSNR it is bounded
by the VAE's round trip: read it beside that ceiling. Mean over all frames' background, pooled.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pvtt_model.backbones.perceptual import PerceptualModel
from pvtt_model.evaluation.frames import background_of, same_shape, to_unit

_FRAMES_AT_ONCE = 4


def background_lpips(network: PerceptualModel, edit_TCHW: torch.Tensor, source_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> float:
    """LPIPS outside the mask (True = product). Videos are uint8. Raises ValueError for unlike shapes, sides under 32 px, or no background."""
    same_shape(edit_TCHW, source_TCHW)
    ground_THW = background_of(mask_THW, source_TCHW)
    same_inside = torch.where(mask_THW[:, None], source_TCHW, edit_TCHW)
    totals: list[float] = []
    weights: list[float] = []
    for start in range(0, len(source_TCHW), _FRAMES_AT_ONCE):
        part = slice(start, start + _FRAMES_AT_ONCE)
        maps = network.layer_distances(to_unit(same_inside[part]), to_unit(source_TCHW[part]))
        shares = [F.adaptive_avg_pool2d(ground_THW[part, None].float().to(m), (m.shape[-2], m.shape[-1])) for m in maps]
        totals = totals or [0.0] * len(maps)
        weights = weights or [0.0] * len(maps)
        for layer, (distances, share) in enumerate(zip(maps, shares, strict=True)):
            totals[layer] += float((distances * share).sum(dtype=torch.float64))
            weights[layer] += float(share.sum(dtype=torch.float64))
    return sum(total / weight for total, weight in zip(totals, weights, strict=True))
