"""Background PSNR: how well the pixels outside the product's mask are kept. Higher is better; dB, at most 100 here (see psnr.py).

Survey 9.4 (goal > 30 dB). The raw output is bounded by the VAE's round trip, so report that ceiling beside it.
"""

from __future__ import annotations

import torch

from pvtt_model.evaluation.frames import background_of, same_shape
from pvtt_model.evaluation.psnr import CAP_DB, psnr_db

__all__ = ["CAP_DB", "background_psnr_db"]


def background_psnr_db(edit_TCHW: torch.Tensor, source_TCHW: torch.Tensor, mask_THW: torch.Tensor) -> float:
    """PSNR in dB outside the mask (True = product), at most CAP_DB. Videos are uint8. Raises ValueError for unlike shapes or no background."""
    same_shape(edit_TCHW, source_TCHW)
    return psnr_db(edit_TCHW, source_TCHW, background_of(mask_THW, source_TCHW))
