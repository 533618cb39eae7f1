"""The variants of a clip's context: the mask by the policy as it is, and jittered ones for training; and how a latents row holds them.

Each variant of the video (video_variants.py) has its latents and as many contexts as the clip itself.

VACE's mask has 64 channels of 0 or 1, a latent cell's 8 x 8 pixels: a row keeps them as 8 bytes, one bit each, so that a clip's mask is a
twelfth of its latents instead of two thirds.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Container, Mapping

import numpy as np
import torch
from torch import Tensor

from pvtt_model.curation.mask_policy import jittered, widen
from pvtt_model.specs import MaskPolicy

CONTEXT = ("inactive_CFHW", "reactive_CFHW", "mask_MFHW")  # in VACE's order
MASK, BITS = "mask_MFHW", "maskbits_KFHW"  # as VACE has it, and as a row keeps it: K = M / 8


def variant_name(name: str, i: int, video: int = 0) -> str:
    """A tensor's name in the latents row: inactive_CFHW in mask variant 0, inactive_1_CFHW in 1, inactive_v2_1_CFHW in 1 of video variant 2.

    The mask's is that of its bits.
    """
    stem, _, axes = (BITS if name == MASK else name).rpartition("_")
    return "_".join([stem, *([f"v{video}"] if video else []), *([str(i)] if i else []), axes])


def stored_context(context: Mapping[str, Tensor], i: int, video: int = 0) -> dict[str, Tensor]:
    """The context of variant `i` (inactive_CFHW, reactive_CFHW, mask_MFHW of 0 and 1) as the row's tensors."""
    return {variant_name(name, i, video): _bits(context[name]) if name == MASK else context[name] for name in CONTEXT}


def control_of(row: Mapping[str, Tensor], i: int, video: int = 0) -> Tensor | None:
    """VACE's context (2C + M, F, H, W), float32, of variant `i` of a latents row's tensors; None where the row has no such variant."""
    if variant_name(MASK, i, video) not in row:
        return None
    parts = [row[variant_name(name, i, video)] for name in CONTEXT]
    return torch.cat([part.float() for part in (*parts[:-1], _unpacked(parts[-1]))])


def cell_of(row: Mapping[str, Tensor]) -> int:
    """Pixels, either way, that a latent cell of a row's tensors stands for: its mask has a bit for each."""
    return math.isqrt(8 * len(row[variant_name(MASK, 0)]))


def count_videos(names: Container[str]) -> int:
    """How many variants of the video a latents row's tensors are of."""
    return next(n for n in itertools.count() if variant_name("latents_CFHW", 0, n) not in names)


def _bits(mask_MFHW: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask_MFHW.numpy(), axis=0))


def _unpacked(bits_KFHW: Tensor) -> Tensor:
    return torch.from_numpy(np.unpackbits(bits_KFHW.numpy(), axis=0))


def widened_masks(mask_THW: Tensor, policy: MaskPolicy, clip_key: str, count: int) -> list[Tensor]:
    """`count` widened masks: the policy's own, then jittered ones, each drawn from the clip's key and the variant's number alone."""
    seeds = [int(hashlib.sha256(f"{clip_key} variant {i}".encode()).hexdigest()[:15], 16) for i in range(1, count)]
    return [widen(mask_THW, policy), *(jittered(mask_THW, policy, torch.Generator().manual_seed(seed)) for seed in seeds)]
