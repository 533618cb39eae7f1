"""What all pretrainings share: the rate of a step, the step, and what they tell of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

#: Called with the step and its figures by name.
Progress = Callable[[int, dict[str, float]], None]


def rate_at(step: int, steps: int, lr: float, warmup: int = 100, least: float = 0.02) -> float:
    """The rate of step `step` of `steps`: linear warm-up times the half wave of a cosine from lr to `least` of it."""
    return lr * min(1, (step + 1) / warmup) * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], rate: float) -> None:
    """One step at `rate` down the gradient, clipped to norm 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
