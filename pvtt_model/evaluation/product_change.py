"""Product change: by how much do two videos differ inside the mask? Mean |difference| / 255, 0 to 1; 0 where the product is untouched.

Ours, for the sanity checks: an edit that is its source, or is the same whichever reference it is given, made nothing. What the VAE alone
changes, the source's round trip against the source, is the floor below which a change is none.
"""

from __future__ import annotations

import torch

from pvtt_model.evaluation.frames import same_shape, to_unit


def product_change(video_TCHW: torch.Tensor, other_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> float:
    """Raises ValueError for unlike shapes or a mask without a pixel."""
    same_shape(video_TCHW, other_TCHW)
    if not bool(mask_THW.any()):
        raise ValueError("no frame has a mask: there is no product to look at.")
    difference_THW = (to_unit(video_TCHW) - to_unit(other_TCHW)).abs().mean(dim=1)
    return float(difference_THW[mask_THW].mean())
