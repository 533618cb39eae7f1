"""Do the resampler's tokens still hold the reference? A small probe has to tell its features from them (the survey's L_reference_recon, 10.5).

The target is what the frozen image encoder saw: mean and standard deviation over the pictures' real patch tokens, each normalised over its
channels, as masked feature prediction has its targets (data2vec, arXiv:2202.03555; MVP, arXiv:2203.05175). Mean and deviation are the two
statistics that carry a picture's style in AdaIN (arXiv:1703.06868); where a patch lies is not asked, since the number of pictures is free.
The probe's parameters are trained with the stage and belong to no checkpoint file of the artifact: trained_tensors.split_trainable drops them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReferenceProbe(nn.Module):
    """Tokens (B, N, D) -> the target (B, 2, C): a learned mean over the tokens, a norm, one linear layer."""

    def __init__(self, num_tokens: int, width: int, image_width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(num_tokens, 2))
        self.norm = nn.LayerNorm(width)
        self.to_features = nn.Linear(width, image_width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        pooled = torch.einsum("bnd,nk->bkd", self.norm(tokens_BND), self.weights.softmax(0))
        return self.to_features(pooled)


def attach_probe(teacher: Any, seed: int) -> None:
    """Give `teacher` a ReferenceProbe on its resampler; after each forward teacher.reconstructed_B2C is what it told.

    It runs inside the teacher's forward, where ZeRO-3 gathers its parameters. Raises ValueError for a teacher without resampler.
    """
    resampler = getattr(teacher, "resampler", None)
    if resampler is None:
        raise ValueError("objective.reference_recon_weight wants a resampler's tokens, and this reference injection has none. Set it to 0.")
    out = resampler.to_out if isinstance(resampler.to_out, nn.Linear) else resampler.proj_out
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = ReferenceProbe(resampler.latents.shape[1], out.out_features, resampler.proj_in.in_features)
    teacher.reference_probe = probe.to(resampler.latents)

    def told(_: nn.Module, __: Any, tokens_BND: Tensor) -> None:
        teacher.reconstructed_B2C = teacher.reference_probe(tokens_BND)

    resampler.register_forward_hook(told)


def reference_features(reference_BPC: Tensor, keep_BP: Tensor) -> Tensor:
    """Mean and standard deviation over the real patch tokens, each of mean 0 and variance 1 over its channels: (B, 2, C), float32."""
    tokens, keep = reference_BPC.float(), keep_BP.unsqueeze(2).float()
    count = keep.sum(1).clamp(min=1)
    mean = (tokens * keep).sum(1) / count
    deviation = (((tokens - mean.unsqueeze(1)).square() * keep).sum(1) / count).sqrt()
    both = torch.stack([mean, deviation], 1)
    return F.layer_norm(both, both.shape[-1:])


def reconstruction_loss(told_B2C: Tensor, reference_BPC: Tensor, keep_BP: Tensor) -> Tensor:
    """Mean squared error of what the probe told, one value a sample (B), float32; 1 is as good as zeros. A sample without pictures has 0."""
    error_B = (told_B2C.float() - reference_features(reference_BPC, keep_BP)).square().flatten(1).mean(1)
    return error_B * keep_BP.any(1)
