"""Which noise levels training sees: drawn uniform, logit-normal or by mode sampling, shifted, and cut to a range where a model has only that.

A level sigma is unitless, 0 is data and 1 is noise. Shapes: B samples, one level each. SD3, arXiv:2403.03206, is the source of all three
samplings and of the shift; the levels are continuous here, where training scripts round them to a table of 1000.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from pvtt_model.specs import ObjectiveSpec

Sampling = Literal["uniform", "logit_normal", "mode"]
PATCH = (1, 2, 2)  # latent cells of a token of Wan's transformers, in frames, height, width


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Moves mass to the noisy end: shift sigma / (1 + (shift - 1) sigma); shift 1 changes nothing. In [0, 1], also after rounding."""
    return (shift * sigma / (1 + (shift - 1) * sigma)).clamp(max=1.0)


def shift_of(spec: ObjectiveSpec, latent_shape: tuple[int, ...]) -> float:
    """The shift for clips of latents (C, F, H, W): the spec's own, or that of their number of tokens n.

    'tokens': shift sqrt(n / base_tokens), SD3's eq. 23 (two shifts after one another multiply). 'tokens_linear': exp(mu), log(shift) at
    base_tokens and log(far_shift) at far_tokens with mu on the line through both: `calculate_shift` of diffusers' Flux pipeline.
    """
    if spec.shift_by == "fixed":
        return spec.shift
    tokens = math.prod(side // patch for side, patch in zip(latent_shape[-3:], PATCH, strict=True))
    if spec.shift_by == "tokens":
        return spec.shift * math.sqrt(tokens / spec.base_tokens)
    assert spec.far_shift is not None  # the spec has seen to it
    slope = (math.log(spec.far_shift) - math.log(spec.shift)) / (spec.far_tokens - spec.base_tokens)
    return math.exp(math.log(spec.shift) + slope * (tokens - spec.base_tokens))


def draw_sigma(spec: ObjectiveSpec, latent_shape: tuple[int, ...], generator: torch.Generator, levels: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """One level (1,) for a clip of latents (C, F, H, W), as the spec has it. levels: of an expert, what it alone is trained on."""
    low, high = max(spec.sigma_low, levels[0]), min(spec.sigma_high, levels[1])
    return sample_sigma(
        1, spec.timestep_sampling, shift_of(spec, latent_shape), generator,
        logit_mean=spec.logit_mean, logit_std=spec.logit_std, mode_scale=spec.mode_scale, low=low, high=high,
    )  # fmt: skip


def sample_sigma(
    batch: int,
    sampling: Sampling,
    shift: float,
    generator: torch.Generator,
    *,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    mode_scale: float = 1.29,
    low: float = 0.0,
    high: float = 1.0,
) -> Tensor:
    """`batch` noise levels in [low, high], shifted: the sampling's density, cut to the range and scaled up to one.

    Each is one draw from the inverse of the distribution between the range's ends, so nothing is heaped up on them and nothing is drawn
    twice. The range is of the levels that the model sees, after the shift. Raises ValueError for a range without room.
    """
    if not 0 <= low < high <= 1:
        raise ValueError(f"noise levels are asked for in [{low}, {high}]. Give 0 <= low < high <= 1.")
    whole = (low, high) == (0.0, 1.0)
    if sampling == "logit_normal" and whole:
        return shift_sigma(torch.sigmoid(logit_mean + logit_std * torch.randn(batch, generator=generator)), shift)
    u = torch.rand(batch, generator=generator)
    if whole and sampling == "uniform":
        return shift_sigma(u, shift)
    first, last = (end / (shift - (shift - 1) * end) for end in (low, high))  # before the shift
    draw = {"uniform": _uniform, "logit_normal": _logit_normal, "mode": _mode}[sampling]
    drawn = draw(u.double(), first, last, (logit_mean, logit_std), mode_scale)
    return shift_sigma(drawn, shift).clamp(low, high).float()  # the clamp is for the last bit


def mode_of(u: Tensor, scale: float) -> Tensor:
    """SD3's eq. 20: 1 - u - scale (cos^2(pi u / 2) - 1 + u), falling from 1 to 0. Positive scales prefer the middle, and keep the ends."""
    return 1 - u - scale * (torch.cos(torch.pi / 2 * u).square() - 1 + u)


def _uniform(u: Tensor, low: float, high: float, logits: tuple[float, float], mode_scale: float) -> Tensor:
    return low + u * (high - low)


def _logit_normal(u: Tensor, low: float, high: float, logits: tuple[float, float], mode_scale: float) -> Tensor:
    mean, std = logits
    z_low, z_high = (((torch.tensor(end, dtype=torch.float64).logit() - mean) / std) for end in (low, high))
    sign = -1.0 if float(z_low) > 0 else 1.0  # the upper tail is drawn mirrored, where the normal distribution keeps its digits
    at_low, at_high = torch.special.ndtr(sign * z_low), torch.special.ndtr(sign * z_high)
    return torch.sigmoid(mean + std * sign * torch.special.ndtri(at_low + u * (at_high - at_low)))


def _mode(u: Tensor, low: float, high: float, logits: tuple[float, float], mode_scale: float) -> Tensor:
    first, last = _mode_inverse(high, mode_scale), _mode_inverse(low, mode_scale)
    return mode_of(first + u * (last - first), mode_scale)


def _mode_inverse(sigma: float, scale: float) -> float:
    """The u whose mode_of is sigma, by bisection: mode_of has no closed inverse."""
    below, above = 0.0, 1.0
    for _ in range(60):
        middle = (below + above) / 2
        if float(mode_of(torch.tensor(middle, dtype=torch.float64), scale)) > sigma:
            below = middle
        else:
            above = middle
    return (below + above) / 2
