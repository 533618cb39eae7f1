"""What each step sees: pure functions of (seed, step), so that a resumed run goes on exactly where it stopped."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import torch

from pvtt_model.specs import OptimSpec

#: Of the first rate, what a decayed one ends at.
LEAST = 0.1


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from its parts; the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


def samples_of(
    step: int,
    rank: int,
    accum: int,
    *,
    seed: int,
    num_samples: int,
    micro_batch: int,
    num_workers: int,
    grad_accum: int,
    buckets: tuple[int, ...] | None = None,
) -> list[tuple[int, int]]:
    """(draw, index) of the samples that `rank` sees in micro-batch `accum` of `step`; all of one bucket.

    Draws are numbered through the whole run; each epoch is a fresh permutation of all samples. buckets: of each sample the number of its
    bucket; None: all are of one. Going along the epochs one after the other, a micro-batch is whole as soon as micro_batch samples of one
    bucket have come by, and micro-batches are taken in that order. What is left of a bucket at an epoch's end, fewer than micro_batch
    samples, begins that bucket's first micro-batch of the next: nothing is dropped or repeated, and after E epochs every sample was used E
    times, but for those that wait. A bucket of fewer than micro_batch samples fills one from several epochs, so a sample may be in it twice.

    The ranks of a step may see different buckets. With one bucket, or micro_batch 1, draw d is the d-th sample of the epochs, and the global
    batch of a step is the same set of draws for any split into workers and micro-batches of the same global size; with several, for any
    split into workers and accumulation.
    """
    labels = buckets or (0,) * num_samples
    number = (step * grad_accum + accum) * num_workers + rank
    bucket, nth = _micro_batch(seed, number, micro_batch, labels)
    return [(number * micro_batch + i, _sample(seed, bucket, nth * micro_batch + i, labels)) for i in range(micro_batch)]


def weighted(selected: Sequence[bool], share: float | None) -> tuple[int, ...]:
    """The samples that make up an epoch, by index, some more than once: `share` of them are selected ones, to the nearest whole number.

    The group that is to be seen more than its number says is repeated: each of its samples as often as the others but for one, the first ones
    more often; the other group is seen once. So nothing is left out, and the order is samples_of's over the places of this list: a pure
    function of seed and step. None, or a group that is empty: every sample once. Survey 10.1, stage 3: more of the data of high quality.
    """
    every = tuple(range(len(selected)))
    groups = [i for i in every if selected[i]], [i for i in every if not selected[i]]
    if share is None or not all(groups):
        return every
    chosen, others = groups
    wanted = max(len(chosen), round(len(others) * share / (1 - share)))
    if wanted > len(chosen):
        return tuple(sorted(_repeated(chosen, wanted) + others))
    return tuple(sorted(chosen + _repeated(others, max(len(others), round(len(chosen) * (1 - share) / share)))))


def _repeated(indices: list[int], count: int) -> list[int]:
    return [indices[i % len(indices)] for i in range(count)]


def ends_epoch(step: int, epoch_samples: int, global_batch: int) -> bool:
    """Whether an epoch's last sample is seen in step `step` (from 0)."""
    return (step + 1) * global_batch // epoch_samples > step * global_batch // epoch_samples


def _micro_batch(seed: int, number: int, size: int, buckets: tuple[int, ...]) -> tuple[int, int]:
    """Of the run's micro-batch `number` its bucket, and how many of that bucket come before it."""

    def whole_before(epoch: int) -> int:
        return sum(epoch * count // size for count in _counts(buckets).values())

    epoch = number * size // len(buckets)  # before it, no more than `number` can be whole
    while whole_before(epoch + 1) <= number:
        epoch += 1
    return _whole_in(seed, epoch, size, buckets)[number - whole_before(epoch)]


def _sample(seed: int, bucket: int, place: int, buckets: tuple[int, ...]) -> int:
    """The index of a bucket's sample number `place`, counted through all epochs."""
    epoch, at = divmod(place, _counts(buckets)[bucket])
    return _order_by_bucket(seed, epoch, buckets)[bucket][at]


@lru_cache(maxsize=4)
def _counts(buckets: tuple[int, ...]) -> Counter[int]:
    return Counter(buckets)


@lru_cache(maxsize=4)
def _whole_in(seed: int, epoch: int, size: int, buckets: tuple[int, ...]) -> list[tuple[int, int]]:
    """The micro-batches that become whole in the epoch, in order: bucket, and how many of that bucket come before."""
    seen = {bucket: epoch * count for bucket, count in _counts(buckets).items()}
    whole = []
    for index in _order(seed, epoch, len(buckets)):
        bucket = buckets[index]
        seen[bucket] += 1
        if seen[bucket] % size == 0:
            whole.append((bucket, seen[bucket] // size - 1))
    return whole


@lru_cache(maxsize=4)
def _order_by_bucket(seed: int, epoch: int, buckets: tuple[int, ...]) -> dict[int, list[int]]:
    """The epoch's permutation, each bucket's samples by themselves."""
    order: dict[int, list[int]] = {bucket: [] for bucket in _counts(buckets)}
    for index in _order(seed, epoch, len(buckets)):
        order[buckets[index]].append(index)
    return order


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
