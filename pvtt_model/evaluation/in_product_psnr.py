"""In-product PSNR: how near the new product is to the right answer, pixel by pixel. Higher is better; dB, at most 100 (see psnr.py).

Only where the right edit of the clip is known (a rendered world). Taken inside the mask of the right edit's product. The figure means
something beside others on the same pixels: the source unchanged, the reference pasted, flat grey, the base without reference, and
as the ceiling the right edit through the VAE and back. gap_closed says where between base and ceiling the teacher stands.
"""

from __future__ import annotations

import torch

from pvtt_model.evaluation.psnr import psnr_db

GREY = 128  # of 255: VACE's neutral fill, about 0 in [-1, 1]


def in_product_psnr_db(edit_TCHW: torch.Tensor, truth_TCHW: torch.Tensor, truth_mask_THW: torch.Tensor) -> float:
    """PSNR in dB inside the truth's mask (True = product). Videos are uint8. Raises ValueError for unlike shapes or an empty mask."""
    if not bool(truth_mask_THW.any()):
        raise ValueError("the mask of the right edit is empty: there is no product to compare.")
    return psnr_db(edit_TCHW, truth_TCHW, truth_mask_THW)


def flat_grey(source_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> torch.Tensor:
    """The source with mid grey inside the mask: what whoever draws nothing scores. uint8 T,3,H,W."""
    return source_TCHW.masked_fill(mask_THW[:, None], GREY)


def gap_closed(edit_db: float, base_db: float, ceiling_db: float) -> float:
    """(edit - base) / (ceiling - base), of mean dB: 0 the untrained base, 1 the VAE's ceiling; higher is better, below 0 is worse than the base.

    Raises ValueError where the ceiling is not above the base: there is no gap.
    """
    if ceiling_db <= base_db:
        raise ValueError(f"the VAE's round trip ({ceiling_db:.4g} dB) is not above the base ({base_db:.4g} dB): there is no gap to close.")
    return (edit_db - base_db) / (ceiling_db - base_db)
