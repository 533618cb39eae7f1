"""How much the loss of each noise level counts: weights of the velocity's squared error, one a sample (B), by its level sigma in [0, 1].

    none        1
    min_snr     min((1 - sigma)^2, gamma sigma^2)      min-SNR-gamma, arXiv:2303.09556, carried over to the velocity
    sigma_sqrt  1 / sigma^2                            as SD3's training scripts have it (diffusers, compute_loss_weighting_for_sd3)
    cosmap      2 / (pi (1 - 2 sigma + 2 sigma^2))     arXiv:2403.03206, and the same function
    bell        exp(-2 (sigma - 1/2)^2) - exp(-1/2)    Wan's in DiffSynth-Studio (FlowMatchScheduler, linear_timesteps_weights)

min_snr: the paper weighs the squared error of x0 by min(SNR, gamma), with SNR = ((1 - sigma) / sigma)^2; on the straight path the error of x0
is sigma times that of the velocity, so the velocity's weight is sigma^2 min(SNR, gamma). sigma_sqrt has no bound at 0: levels below 1/1000, the
lowest of the scripts' tables, weigh as that one. bell is scaled to a mean of 1 over the table that DiffSynth trains on, 1000 levels evenly
spaced before the shift; with another sampling the mean is another.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from pvtt_model.objectives.noise_levels import shift_sigma

Weighting = Literal["none", "min_snr", "sigma_sqrt", "cosmap", "bell"]
LEVELS = 1000  # of the training scripts' tables


def level_weights(sigma_B: Tensor, weighting: Weighting, *, gamma: float = 5.0, shift: float = 1.0) -> Tensor:
    """The weights (B), float32. gamma: of min_snr. shift: of the levels' sampling, which the bell's scale depends on."""
    sigma = sigma_B.float()
    if weighting == "none":
        return torch.ones_like(sigma)
    if weighting == "min_snr":
        return torch.minimum((1 - sigma).square(), gamma * sigma.square())
    if weighting == "sigma_sqrt":
        return sigma.clamp(min=1 / LEVELS) ** -2
    if weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))
    return bell(sigma) / _bell_mean(shift)


def bell(sigma: Tensor) -> Tensor:
    """The bell before it is scaled: 0 at both ends, highest at 1/2."""
    return torch.exp(-2 * (sigma - 0.5).square()) - math.exp(-0.5)


@lru_cache(maxsize=64)
def _bell_mean(shift: float) -> float:
    return float(bell(shift_sigma(torch.linspace(1, 0, LEVELS + 1, dtype=torch.float64)[:-1], shift)).mean())
