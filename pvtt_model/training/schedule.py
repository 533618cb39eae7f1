"""What each step sees: pure functions of (seed, step), so that a resumed run goes on exactly where it stopped."""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import torch

from pvtt_model.specs import OptimSpec

#: Of the first rate, what a decayed one ends at.
LEAST = 0.1


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from its parts; the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def samples_of(
    step: int, rank: int, accum: int, *, seed: int, num_samples: int, micro_batch: int, num_workers: int, grad_accum: int
) -> list[tuple[int, int]]:
    """(draw, index) of the samples that `rank` sees in micro-batch `accum` of `step`.

    Draws are numbered through the whole run; each epoch is a fresh permutation of all samples. The global batch of a step is the
    same set of draws for any split into workers and micro-batches of the same global size.
    """
    first = step * micro_batch * num_workers * grad_accum + (accum * num_workers + rank) * micro_batch
    out = []
    for draw in range(first, first + micro_batch):
        epoch, place = divmod(draw, num_samples)
        out.append((draw, _order(seed, epoch, num_samples)[place]))
    return out


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, num_samples: int) -> list[int]:
    """The epoch's permutation, drawn once an epoch."""
    return torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed_of(seed, "epoch", epoch))).tolist()


def warmup(step: int, warmup_steps: int) -> float:
    """Factor on the learning rate in step `step` (from 0): (step + 1) / warmup_steps, then 1."""
    return 1.0 if warmup_steps == 0 else min(1.0, (step + 1) / warmup_steps)


def lr_at(step: int, optim: OptimSpec, steps: int) -> float:
    """The learning rate of step `step` (from 0) of `steps`: the warm-up, then constant or the half wave of a cosine from lr to lr/10.

    The last step of the warm-up has lr, the last step of all lr/10.
    """
    if optim.decay == "constant" or step < optim.warmup_steps:
        return optim.lr * warmup(step, optim.warmup_steps)
    done = min(1.0, (step + 1 - optim.warmup_steps) / max(1, steps - optim.warmup_steps))
    return optim.lr * (LEAST + (1 - LEAST) * 0.5 * (1 + math.cos(math.pi * done)))
