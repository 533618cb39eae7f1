"""Samples in memory: each is read from its shards once, not once an epoch, as far as memory goes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pvtt_model.training.samples import Place, Sample, read_sample

#: What one worker keeps at most. A nano clip takes about 0.1 MB, one of 480p and 81 frames 60 MB.
KEPT_BYTES = 1 << 30


class KeptSamples:
    """The samples of `places` by index. What does not fit into `most_bytes` any more is read each time.

    Nothing is evicted: an epoch is a permutation, where the longest unused sample is the one most likely to come next.
    """

    def __init__(self, places: Sequence[Place], most_bytes: int = KEPT_BYTES, injection: str = "ip_adapter_plus") -> None:
        self.places, self.injection = places, injection
        sizes = list(dict.fromkeys(place.bucket for place in places))
        self.buckets = tuple(sizes.index(place.bucket) for place in places)  # of each sample its bucket's number
        self.left_bytes = most_bytes
        self._kept: dict[int, Sample] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        """Its tensors are shared between calls: copy before writing to them."""
        kept = self._kept.get(index)
        if kept is None:
            kept = read_sample(self.places[index], self.injection)
            size = kept.num_bytes()
            with self._lock:  # threads read ahead; who reads a sample at the same time as another finds it kept
                if index not in self._kept and size <= self.left_bytes:
                    self._kept[index] = kept
                    self.left_bytes -= size
        return kept
