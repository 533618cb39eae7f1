"""Rectified flow. The one sign convention of this project:

    x_sigma = (1 - sigma) x0 + sigma eps,    sigma 0 is data and 1 is noise,    the model predicts v = dx/dsigma = eps - x0

as Wan and diffusers' flow schedulers have it. (The survey writes x1 - x0 for the opposite direction of time.) The transformer's
timestep is 1000 sigma. Liu et al., arXiv:2209.03003. How sigma is drawn: noise_levels.py.
"""

from __future__ import annotations

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


def data_estimate(noisy_BCFHW: Tensor, prediction_BCFHW: Tensor, sigma_B: Tensor) -> Tensor:
    """The data that a predicted velocity points to from x_sigma: x0 = x_sigma - sigma v; exact for the true velocity. float32."""
    sigma = sigma_B.view(-1, *[1] * (noisy_BCFHW.dim() - 1)).float()
    return noisy_BCFHW.float() - sigma * prediction_BCFHW.float()


def mask_weights(mask_BMFHW: Tensor, weight: float) -> Tensor:
    """The loss's weight of each latent cell (B, F, H, W): `weight` inside VACE's mask, 1 outside, then scaled to a mean of 1 a sample.

    mask: VACE's mask channels at latent resolution, 0 to 1, one a pixel of the cell; a cell that is half inside weighs half way between.
    """
    weights_BFHW = 1 + (weight - 1) * mask_BMFHW.float().mean(1)
    return weights_BFHW / weights_BFHW.mean((1, 2, 3), keepdim=True)


def flow_loss(prediction_BCFHW: Tensor, x0_BCFHW: Tensor, noise_BCFHW: Tensor, weights_BFHW: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity, one value a sample (B), in float32; of weighted cells where weights are given."""
    error = (prediction_BCFHW.float() - velocity(x0_BCFHW, noise_BCFHW).float()).square()
    if weights_BFHW is not None:
        error = error * weights_BFHW.unsqueeze(1)
    return error.flatten(1).mean(1)
