"""The variants of a clip's context: the mask by the policy as it is, and jittered ones for training; and what a row calls their tensors."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from pvtt_model.curation.mask_policy import jittered, widen
from pvtt_model.specs import MaskPolicy

CONTEXT = {"inactive_CFHW": "CFHW", "reactive_CFHW": "CFHW", "mask_MFHW": "MFHW"}  # in VACE's order; name -> its axes


def variant_names(i: int) -> dict[str, str]:
    """Tensor of a context -> its name in the latents row: inactive_CFHW in variant 0, inactive_1_CFHW in variant 1."""
    return {name: name if i == 0 else f"{name.removesuffix(axes)}{i}_{axes}" for name, axes in CONTEXT.items()}


def widened_masks(mask_THW: Tensor, policy: MaskPolicy, clip_key: str, count: int) -> list[Tensor]:
    """`count` widened masks: the policy's own, then jittered ones, each drawn from the clip's key and the variant's number alone."""
    seeds = [int(hashlib.sha256(f"{clip_key} variant {i}".encode()).hexdigest()[:15], 16) for i in range(1, count)]
    return [widen(mask_THW, policy), *(jittered(mask_THW, policy, torch.Generator().manual_seed(seed)) for seed in seeds)]
