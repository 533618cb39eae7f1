"""Rectified flow. The one sign convention of this project:

    x_sigma = (1 - sigma) x0 + sigma eps,    sigma 0 is data and 1 is noise,    the model predicts v = dx/dsigma = eps - x0

as Wan and diffusers' flow schedulers have it. (The survey writes x1 - x0 for the opposite direction of time.) The transformer's
timestep is 1000 sigma. Liu et al., arXiv:2209.03003; shift: SD3, arXiv:2403.03206.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TIMESTEPS = 1000.0


def interpolate(x0_BCFHW: Tensor, noise_BCFHW: Tensor, sigma_B: Tensor) -> Tensor:
    """The noisy latent on the straight path. sigma is unitless, in [0, 1], one a sample. Raises ValueError where the shapes differ."""
    if x0_BCFHW.shape != noise_BCFHW.shape or sigma_B.shape != x0_BCFHW.shape[:1]:
        raise ValueError(
            f"interpolate wants data and noise of one shape and one sigma a sample; got {tuple(x0_BCFHW.shape)}, "
            f"{tuple(noise_BCFHW.shape)}, {tuple(sigma_B.shape)}."
        )
    sigma = sigma_B.view(-1, *[1] * (x0_BCFHW.dim() - 1)).to(x0_BCFHW.dtype)
    return (1 - sigma) * x0_BCFHW + sigma * noise_BCFHW


def velocity(x0_BCFHW: Tensor, noise_BCFHW: Tensor) -> Tensor:
    """The target eps - x0."""
    return noise_BCFHW - x0_BCFHW


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Moves mass to the noisy end: shift sigma / (1 + (shift - 1) sigma); shift 1 changes nothing. In [0, 1], also after rounding."""
    return (shift * sigma / (1 + (shift - 1) * sigma)).clamp(max=1.0)


def sample_sigma(
    batch: int, sampling: Literal["uniform", "logit_normal"], shift: float, generator: torch.Generator, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """`batch` noise levels in (0, 1), shifted; those between low and high alone, where they are as likely to each other as without."""
    if (low, high) != (0.0, 1.0):
        least, most = (torch.tensor(level / (shift - (shift - 1) * level)) for level in (low, high))
        drawn = torch.rand(batch, generator=generator)
        if sampling == "uniform":
            sigma = torch.lerp(least, most, drawn)
        else:
            below, above = (torch.special.ndtr(torch.logit(level)) for level in (least, most))
            sigma = torch.sigmoid(torch.special.ndtri(torch.lerp(below, above, drawn)))
        return shift_sigma(sigma, shift).clamp(low, high)
    if sampling == "uniform":
        sigma = torch.rand(batch, generator=generator)
    else:
        sigma = torch.sigmoid(torch.randn(batch, generator=generator))
    return shift_sigma(sigma, shift)


def mask_weights(mask_BMFHW: Tensor, weight: float) -> Tensor:
    """The loss's weight of each latent cell (B, F, H, W): `weight` inside VACE's mask, 1 outside, then scaled to a mean of 1 a sample.

    mask: VACE's mask channels at latent resolution, 0 to 1, one a pixel of the cell; a cell that is half inside weighs half way between.
    """
    weights_BFHW = 1 + (weight - 1) * mask_BMFHW.float().mean(1)
    return weights_BFHW / weights_BFHW.mean((1, 2, 3), keepdim=True)


def answered_weights(weights_BFHW: Tensor | None, answered_BFHW: Tensor | None) -> Tensor | None:
    """The weights without the cells that the context gives (answered 0), again with a mean of 1 a sample; None: every cell alike."""
    if answered_BFHW is None:
        return weights_BFHW
    kept = answered_BFHW.float() if weights_BFHW is None else weights_BFHW * answered_BFHW.float()
    return kept / kept.mean((1, 2, 3), keepdim=True)


def flow_loss(prediction_BCFHW: Tensor, x0_BCFHW: Tensor, noise_BCFHW: Tensor, weights_BFHW: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity, one value a sample (B), in float32; of weighted cells where weights are given."""
    error = (prediction_BCFHW.float() - velocity(x0_BCFHW, noise_BCFHW).float()).square()
    if weights_BFHW is not None:
        error = error * weights_BFHW.unsqueeze(1)
    return error.flatten(1).mean(1)
