"""Micro-batches made ahead of their use: reading, decoding, collating and pinning in threads, while the step before computes.

Which come next is known for the whole run (schedule.samples_of), so any number can be in the making; they are handed out in order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor

from pvtt_model.specs import StageSpec
from pvtt_model.training.kept_samples import KeptSamples
from pvtt_model.training.samples import Place
from pvtt_model.training.schedule import samples_of, weighted
from pvtt_model.training.step_loss import MicroBatch, make_micro_batch

Key = TypeVar("Key")
Made = TypeVar("Made")


class Prefetch(Generic[Key, Made]):
    """make(key) of `keys`, in their order; `ahead` of them are in the making or ready, each in a thread of its own. 0: made when asked for.

    In memory are `ahead` and the one in use, whatever the speed of either side. An error of make is raised where its turn comes.
    """

    def __init__(self, make: Callable[[Key], Made], keys: Iterable[Key], ahead: int) -> None:
        self._make, self._keys, self._ahead = make, iter(keys), ahead
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="prefetch") if ahead else None
        self._making: deque[Future[Made]] = deque()
        self._fill()

    def next(self) -> tuple[Made, float]:
        """The next one, and the seconds that were waited for it. Raises StopIteration after the last."""
        started = time.perf_counter()
        if self._pool is None:
            made = self._make(next(self._keys))
        else:
            if not self._making:
                raise StopIteration
            made = self._making.popleft().result()
        waited_s = time.perf_counter() - started
        self._fill()
        return made, waited_s

    def close(self) -> None:
        """Begin nothing more; what is being read is waited for by nobody."""
        self._ahead = 0
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self) -> None:
        while self._pool is not None and len(self._making) < self._ahead:
            try:
                key = next(self._keys)
            except StopIteration:
                return
            self._making.append(self._pool.submit(self._make, key))


class Samples:
    """One rank's micro-batches from `first_step` on, made ahead."""

    def __init__(
        self, stage: StageSpec, places: Sequence[Place], empty_text_LD: Tensor, max_text_tokens: int, rank: int, world: int,
        device: torch.device, first_step: int,
    ) -> None:  # fmt: skip
        self._kept = KeptSamples(places, injection=stage.reference.injection)
        epoch = weighted([place.selected for place in places], stage.data.share_of_selected)
        buckets = tuple(self._kept.buckets[index] for index in epoch)
        parallel, self.epoch_samples = stage.parallel, len(epoch)

        def make(key: tuple[int, int]) -> MicroBatch:
            draws = samples_of(
                key[0], rank, key[1], seed=stage.train.seed, num_samples=len(epoch),
                micro_batch=parallel.micro_batch, num_workers=world, grad_accum=parallel.grad_accum, buckets=buckets,
            )  # fmt: skip
            made = make_micro_batch(stage, self._kept, empty_text_LD, max_text_tokens, [(draw, epoch[place]) for draw, place in draws])
            return made.pinned() if device.type == "cuda" else made

        keys = ((step, accum) for step in range(first_step, stage.train.steps) for accum in range(parallel.grad_accum))
        self._ahead: Prefetch[tuple[int, int], MicroBatch] = Prefetch(make, keys, stage.data.prefetch)

    def next(self) -> tuple[MicroBatch, float]:
        """The next one, and the seconds that were waited for it."""
        return self._ahead.next()

    def clip_key(self, index: int) -> str:
        return self._kept.places[index].clip_key

    def close(self) -> None:
        self._ahead.close()
