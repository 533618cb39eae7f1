"""What each step sees: pure functions of (seed, step), so that a resumed run goes on exactly where it stopped."""

from __future__ import annotations

import hashlib

import torch


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
        order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed_of(seed, "epoch", epoch)))
        out.append((draw, int(order[place])))
    return out


def warmup(step: int, warmup_steps: int) -> float:
    """Factor on the learning rate in step `step` (from 0): (step + 1) / warmup_steps, then 1."""
    return 1.0 if warmup_steps == 0 else min(1.0, (step + 1) / warmup_steps)
